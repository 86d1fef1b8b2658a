//! The format of a document's output.
//!
//! The output passes through shells, `apiclient` and Systems Manager. Each of them can truncate it or add text to it.
//! Therefore every line starts with a keyword, the parser ignores lines without one, and the last line `END` marks the
//! output as complete.

use crate::excerpt;

/// The output of a document is truncated or has an unexpected form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MalformedOutput {
    /// The line `END` is missing.
    #[error("the output ends early, after `{0}`")]
    Incomplete(String),
    /// The rest of a line does not match its keyword.
    #[error("the output has the invalid line `{0}`")]
    Line(String),
    /// The line with this keyword is missing.
    #[error("the output has no line `{0}`")]
    Missing(&'static str),
}

/// Splits each line of a complete output into its keyword and the rest.
pub(super) fn lines(output: &str) -> Result<impl Iterator<Item = (&str, &str)>, MalformedOutput> {
    let body = output.trim_end().strip_suffix("\nEND").ok_or_else(|| {
        MalformedOutput::Incomplete(shorten(output.lines().last().unwrap_or_default()))
    })?;
    Ok(body
        .lines()
        .map(|line| line.split_once(' ').unwrap_or((line, ""))))
}

/// Shortens a line of an output for a message.
pub(super) fn shorten(line: &str) -> String {
    excerpt(line, 120)
}
