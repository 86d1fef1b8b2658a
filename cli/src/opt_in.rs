//! The common parts of `prepull sync` and `prepull templates`: objects opt in, and a table shows their results.

use std::time::Duration;

use jiff::SignedDuration;
use prepull_kubernetes::annotations::{ARCHITECTURE, CACHE, RING};
use prepull_kubernetes::{FieldChange, OptIn, Ring};

use crate::{Exit, render};

/// Footer of a dry run with changes.
pub const NOTHING_CHANGED: &str = "\nNothing was changed. Use `--apply` to make these changes.\n";

/// Parses a maximum wait.
pub fn wait(given: &str) -> Result<Duration, String> {
    let wait: SignedDuration = given.parse().map_err(|error| format!("{error}"))?;
    Duration::try_from(wait).map_err(|_| "expected a time such as `1h`".to_owned())
}

/// Returns the exit code. `fails` has one element for each object: whether its result is a failure. A ring without objects
/// is an error, because its name may be misspelled.
pub fn exit(ring: Option<&Ring>, fails: impl IntoIterator<Item = bool>) -> Exit {
    let mut fails = fails.into_iter().peekable();
    let is_empty_ring = ring.is_some() && fails.peek().is_none();
    if is_empty_ring || fails.any(|fails| fails) {
        Exit::Failed
    } else {
        Exit::Done
    }
}

/// Formats the report of a run without objects. `mark` is the field that opts in: an annotation or a tag.
pub fn none(kind: &str, mark: &str, ring: Option<&Ring>) -> String {
    match ring {
        Some(ring) => format!("No {kind} has the {mark} `{RING}: {ring}`.\n"),
        None => format!("No {kind} has the {mark}s `{CACHE}` and `{ARCHITECTURE}`.\n"),
    }
}

/// Formats results as a table. `kind` is the heading of the names.
pub fn table<'a>(
    kind: &str,
    results: impl IntoIterator<Item = (&'a str, Option<&'a OptIn>, String)>,
) -> String {
    let mut rows = vec![
        [kind, "CACHE", "ARCH", "CHANNEL", "RESULT"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for (name, opt_in, result) in results {
        let cell = |text: fn(&OptIn) -> String| opt_in.map_or_else(|| "-".to_owned(), text);
        rows.push(vec![
            name.to_owned(),
            cell(|opt_in| opt_in.cache.to_string()),
            cell(|opt_in| opt_in.architecture.to_string()),
            cell(|opt_in| opt_in.channel.to_string()),
            result,
        ]);
    }
    render::table("", &rows)
}

/// Formats changes of a volume.
pub fn fields(changes: &[FieldChange]) -> String {
    let changes: Vec<_> = changes.iter().map(FieldChange::to_string).collect();
    changes.join(", ")
}
