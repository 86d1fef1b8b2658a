//! Test inputs that resemble external input: valid ones from a corpus, with up to three mutations.
//!
//! Random bytes rarely pass a parser's first check. Nearly valid inputs do, and so they test the later checks. A
//! mutation is a value, so proptest can shrink a failure to the necessary mutations.

use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Value, json};

/// Image references, one per line.
pub const IMAGE_REFERENCES: &str = include_str!("../corpus/image-references.txt");
/// Output of the SSM documents on a builder, separated by blank lines.
pub const NODE_OUTPUTS: &str = include_str!("../corpus/node-outputs.txt");
/// Names, IDs, ARNs and versions, one per line.
pub const IDENTIFIERS: &str = include_str!("../corpus/identifiers.txt");
/// Cache configurations, in one array.
pub const CONFIGURATIONS: &str = include_str!("../corpus/configurations.json");
/// Events and calls for functions, in one array.
pub const EVENTS: &str = include_str!("../corpus/events.json");

/// Texts with a meaning to a shell, to a path, to a parser of lines, numbers or JSON, or in Unicode.
const SPECIAL_TEXTS: [&str; 44] = [
    "$(reboot)",
    "`id`",
    ";",
    "|",
    "&",
    ">",
    "'",
    "\"",
    "\\",
    "*",
    "~",
    "#",
    "%",
    "!",
    "{{ Names }}",
    "${x}",
    " ",
    "\t",
    "\n",
    "\r",
    "\0",
    ",",
    ":",
    "@",
    "/",
    "../",
    "-",
    "--",
    ".",
    "+",
    "_",
    "=",
    "A",
    "0",
    "-1",
    "18446744073709551615",
    "340282366920938463463374607431768211456",
    "1e309",
    "é",
    "\u{202e}",
    "🦀",
    "\nEND",
    "latest",
    "sha256:",
];

/// One change of a text. An [`Index`] is a relative position in it.
#[derive(Debug, Clone)]
enum Edit {
    Insert {
        at: Index,
        text: String,
    },
    Remove {
        at: Index,
        length: usize,
    },
    Repeat {
        at: Index,
        length: usize,
        times: usize,
    },
    /// Replaces the end by the end of another text from the corpus.
    Splice {
        at: Index,
        from: Index,
        other: &'static str,
    },
}

impl Edit {
    fn apply(&self, text: &mut Vec<char>) {
        let position = |at: &Index| at.index(text.len() + 1);
        match self {
            Self::Insert { at, text: new } => {
                let at = position(at);
                text.splice(at..at, new.chars());
            }
            Self::Remove { at, length } => {
                let at = position(at);
                let end = text.len().min(at + length);
                text.drain(at..end);
            }
            Self::Repeat { at, length, times } => {
                let at = position(at);
                let end = text.len().min(at + length);
                let repeated = text[at..end].repeat(*times);
                text.splice(at..at, repeated);
            }
            Self::Splice { at, from, other } => {
                let other: Vec<_> = other.chars().collect();
                text.truncate(position(at));
                text.extend(&other[from.index(other.len() + 1)..]);
            }
        }
    }
}

fn any_edit(corpus: Vec<&'static str>) -> impl Strategy<Value = Edit> {
    let text = prop_oneof![
        4 => select(SPECIAL_TEXTS.to_vec()).prop_map(str::to_owned),
        1 => any::<char>().prop_map(String::from),
    ];
    prop_oneof![
        3 => (any::<Index>(), text).prop_map(|(at, text)| Edit::Insert { at, text }),
        2 => (any::<Index>(), 1..20usize).prop_map(|(at, length)| Edit::Remove { at, length }),
        1 => (any::<Index>(), 1..20usize, 1..30usize)
            .prop_map(|(at, length, times)| Edit::Repeat { at, length, times }),
        1 => (any::<Index>(), any::<Index>(), select(corpus))
            .prop_map(|(at, from, other)| Edit::Splice { at, from, other }),
    ]
}

/// Generates a text of `corpus` with up to three mutations.
///
/// # Panics
/// Panics if the corpus is empty.
pub fn mutated(corpus: impl IntoIterator<Item = &'static str>) -> impl Strategy<Value = String> {
    let corpus: Vec<_> = corpus.into_iter().collect();
    let edits = prop::collection::vec(any_edit(corpus.clone()), 0..=3);
    (select(corpus), edits).prop_map(|(text, edits)| {
        let mut text: Vec<_> = text.chars().collect();
        for edit in edits {
            edit.apply(&mut text);
        }
        text.into_iter().collect()
    })
}

/// One change of a value within a JSON document.
#[derive(Debug, Clone)]
enum JsonEdit {
    Replace(Value),
    /// Removes a field of an object or an item of an array.
    RemoveField(Index),
    AddField(Value),
    /// Inserts a text into a string at a relative position.
    Insert(Index, &'static str),
}

impl JsonEdit {
    fn apply(&self, value: &mut Value) {
        match (self, value) {
            (Self::Replace(new), value) => *value = new.clone(),
            (Self::RemoveField(at), Value::Object(fields)) if !fields.is_empty() => {
                let field = at.index(fields.len());
                let field = fields.keys().nth(field).cloned().unwrap_or_default();
                fields.remove(&field);
            }
            (Self::RemoveField(at), Value::Array(items)) if !items.is_empty() => {
                items.remove(at.index(items.len()));
            }
            (Self::AddField(new), Value::Object(fields)) => {
                fields.insert("one more".to_owned(), new.clone());
            }
            (Self::AddField(new), Value::Array(items)) => items.push(new.clone()),
            (Self::Insert(at, new), Value::String(text)) => {
                let mut characters: Vec<_> = text.chars().collect();
                let at = at.index(characters.len() + 1);
                characters.splice(at..at, new.chars());
                *text = characters.into_iter().collect();
            }
            _ => {}
        }
    }
}

/// Returns the value with the given number. `value` has the number 0, and the values in it follow in order.
fn value_at<'a>(value: &'a mut Value, number: &mut usize) -> Option<&'a mut Value> {
    if *number == 0 {
        return Some(value);
    }
    *number -= 1;
    match value {
        Value::Array(items) => items.iter_mut().find_map(|item| value_at(item, number)),
        Value::Object(fields) => fields
            .values_mut()
            .find_map(|field| value_at(field, number)),
        _ => None,
    }
}

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(count).sum(),
        Value::Object(fields) => fields.values().map(count).sum(),
        _ => 0,
    }
}

fn any_json_edit() -> impl Strategy<Value = JsonEdit> {
    let values = [
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(1.5),
        json!(1e308),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(""),
        json!("x".repeat(10_000)),
        json!([]),
        json!([[[[]]]]),
        json!({}),
        json!({"a": {"b": null}}),
        json!("9999-12-31T23:59:59Z"),
        json!("-999999-01-01T00:00:00Z"),
    ];
    let text = select(SPECIAL_TEXTS.to_vec());
    let value = prop_oneof![
        3 => select(values.to_vec()),
        1 => text.clone().prop_map(Value::from),
    ];
    prop_oneof![
        2 => value.clone().prop_map(JsonEdit::Replace),
        1 => any::<Index>().prop_map(JsonEdit::RemoveField),
        1 => value.prop_map(JsonEdit::AddField),
        3 => (any::<Index>(), text).prop_map(|(at, text)| JsonEdit::Insert(at, text)),
    ]
}

/// Generates a document of `corpus`, a JSON array, with up to three mutations.
///
/// # Panics
/// Panics if the corpus is not an array or is empty.
pub fn mutated_json(corpus: &str) -> impl Strategy<Value = Value> {
    let corpus: Vec<Value> = serde_json::from_str(corpus).expect("the corpus is a JSON array");
    let edits = prop::collection::vec((any::<Index>(), any_json_edit()), 0..=3);
    (select(corpus), edits).prop_map(|(mut value, edits)| {
        for (at, edit) in edits {
            let mut number = at.index(count(&value));
            if let Some(target) = value_at(&mut value, &mut number) {
                edit.apply(target);
            }
        }
        value
    })
}
