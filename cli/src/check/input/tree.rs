//! A document as a tree of values, each with its line.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

/// The place of a value: its path within the object, and its line in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Path from the object, for example `spec.blockDeviceMappings[1].ebs`.
    pub path: String,
    /// Line, from 1. The line of the parent if the value is missing.
    pub line: u64,
}

impl Place {
    /// Returns the place of the field `key` below this place.
    pub fn join(&self, key: &str) -> Self {
        let path = match self.path.as_str() {
            "" => key.to_owned(),
            path => format!("{path}.{key}"),
        };
        Self {
            path,
            line: self.line,
        }
    }
}

/// A value with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct At<T> {
    /// The value.
    pub value: T,
    /// Its place.
    pub place: Place,
}

/// A value of a document with its line.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    line: u64,
    value: Value,
}

/// A YAML value. Numbers keep their text, because quantities and versions are numbers with units or dots.
#[derive(Debug, Clone, PartialEq)]
enum Value {
    Null,
    /// Terraform knows the value only after the apply.
    Unknown,
    Bool(bool),
    Number(String),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

impl Node {
    /// Converts parsed JSON whose lines are unknown.
    pub fn from_json(json: &serde_json::Value, line: u64) -> Self {
        use serde_json::Value as Json;
        let value = match json {
            Json::Null => Value::Null,
            Json::Bool(value) => Value::Bool(*value),
            Json::Number(number) => Value::Number(number.to_string()),
            Json::String(text) => Value::Text(text.clone()),
            Json::Array(items) => Value::List(
                items
                    .iter()
                    .map(|item| Self::from_json(item, line))
                    .collect(),
            ),
            Json::Object(fields) => Value::Map(
                fields
                    .iter()
                    .map(|(key, field)| (key.clone(), Self::from_json(field, line)))
                    .collect(),
            ),
        };
        Self { line, value }
    }

    /// Marks the values that Terraform knows only after the apply: those with `true` in `after_unknown`.
    ///
    /// Terraform leaves out unknown values, so they would seem to be missing.
    fn mark_unknown(&mut self, after_unknown: &Self) {
        let line = self.line;
        let null = || Self {
            line,
            value: Value::Null,
        };
        match (&mut self.value, &after_unknown.value) {
            (value, Value::Bool(true)) => *value = Value::Unknown,
            (Value::Map(fields), Value::Map(marks)) => {
                for (key, mark) in marks {
                    if !fields.iter().any(|(name, _)| name == key) {
                        fields.push((key.clone(), null()));
                    }
                    if let Some((_, field)) = fields.iter_mut().find(|(name, _)| name == key) {
                        field.mark_unknown(mark);
                    }
                }
            }
            (Value::List(items), Value::List(marks)) => {
                let pairs = items.iter_mut().zip(marks);
                pairs.for_each(|(item, mark)| item.mark_unknown(mark));
            }
            _ => {}
        }
    }

    /// Sets the line of every value. A document inside a string has lines that the file does not have.
    pub fn set_line(&mut self, line: u64) {
        self.line = line;
        match &mut self.value {
            Value::List(items) => items.iter_mut().for_each(|item| item.set_line(line)),
            Value::Map(fields) => fields
                .iter_mut()
                .for_each(|(_, field)| field.set_line(line)),
            _ => {}
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        Ok(Self {
            line: spanned.referenced.line(),
            value: spanned.value,
        })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Number(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::Text(value))
    }

    fn visit_bytes<E: serde::de::Error>(self, value: &[u8]) -> Result<Value, E> {
        String::from_utf8(value.to_vec())
            .map(Value::Text)
            .map_err(E::custom)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut map = Vec::new();
        while let Some(key) = fields.next_key::<String>()? {
            map.push((key, fields.next_value()?));
        }
        Ok(Value::Map(map))
    }
}

/// A node with its path, for reading typed values.
#[derive(Debug, Clone)]
pub struct Cursor<'a> {
    node: &'a Node,
    path: String,
}

impl<'a> Cursor<'a> {
    /// Returns the cursor at the root of an object.
    pub fn root(node: &'a Node) -> Self {
        Self {
            node,
            path: String::new(),
        }
    }

    /// Returns the same node as the root of an object, so that its paths start there.
    pub fn as_root(&self) -> Self {
        Self::root(self.node)
    }

    /// Returns the place of the node.
    pub fn place(&self) -> Place {
        Place {
            path: self.path.clone(),
            line: self.node.line,
        }
    }

    /// Returns a copy of the node in which the values of `after_unknown` are unknown.
    pub fn with_unknown(&self, after_unknown: Option<&Cursor>) -> Node {
        let mut node = self.node.clone();
        if let Some(after_unknown) = after_unknown {
            node.mark_unknown(after_unknown.node);
        }
        node
    }

    /// Whether Terraform knows the value only after the apply.
    pub fn is_unknown(&self) -> bool {
        self.node.value == Value::Unknown
    }

    /// Returns the field `key`, unless it is missing or null.
    pub fn get(&self, key: &str) -> Option<Self> {
        let Value::Map(fields) = &self.node.value else {
            return None;
        };
        let (_, node) = fields.iter().find(|(name, _)| name == key)?;
        (node.value != Value::Null).then(|| Self {
            node,
            path: self.place().join(key).path,
        })
    }

    /// Returns the field at `keys`, one level each.
    pub fn at(&self, keys: &[&str]) -> Option<Self> {
        keys.iter()
            .try_fold(self.clone(), |cursor, key| cursor.get(key))
    }

    /// Returns the field `key`. Terraform writes a block as a list with one element, so it also looks into such a list.
    pub fn block(&self, key: &str) -> Option<Self> {
        let field = self.get(key)?;
        match &field.node.value {
            Value::List(_) => field.items().into_iter().next(),
            _ => Some(field),
        }
    }

    /// Returns the elements of a list, or nothing for other values.
    pub fn items(&self) -> Vec<Self> {
        let Value::List(items) = &self.node.value else {
            return Vec::new();
        };
        items
            .iter()
            .enumerate()
            .map(|(index, node)| Self {
                node,
                path: format!("{}[{index}]", self.path),
            })
            .collect()
    }

    /// Returns the elements of the list in field `key`.
    pub fn list(&self, key: &str) -> Vec<Self> {
        self.get(key).map(|list| list.items()).unwrap_or_default()
    }

    /// Returns the names of the fields.
    pub fn keys(&self) -> Vec<&'a str> {
        match &self.node.value {
            Value::Map(fields) => fields.iter().map(|(key, _)| key.as_str()).collect(),
            _ => Vec::new(),
        }
    }

    /// Returns the text of a string, number or boolean.
    pub fn text(&self) -> Option<String> {
        match &self.node.value {
            Value::Text(text) | Value::Number(text) => Some(text.clone()),
            Value::Bool(value) => Some(value.to_string()),
            _ => None,
        }
    }

    /// Returns the text of field `key` with its place. An empty text counts as missing, as in Terraform's state.
    pub fn text_at(&self, key: &str) -> Option<At<String>> {
        let field = self.get(key)?;
        let value = field.text().filter(|text| !text.is_empty())?;
        Some(At {
            value,
            place: field.place(),
        })
    }

    /// Returns the text of field `key`.
    pub fn text_of(&self, key: &str) -> Option<String> {
        self.text_at(key).map(|at| at.value)
    }

    /// Returns the number in field `key`, also if it is written as a string.
    pub fn number_at(&self, key: &str) -> Option<At<u64>> {
        let At { value, place } = self.text_at(key)?;
        let value = value.parse().ok()?;
        Some(At { value, place })
    }

    /// Returns the boolean in field `key`, also if it is written as a string.
    pub fn bool_at(&self, key: &str) -> Option<At<bool>> {
        let At { value, place } = self.text_at(key)?;
        let value = value.parse().ok()?;
        Some(At { value, place })
    }
}
