//! Text formats that several commands share.

use std::fmt::Write as _;

use jiff::{SignedDuration, Timestamp};
use prepull_domain::Digest;

/// Formats the cells of a table. Each column is as wide as its widest cell. Every line starts with `indent` and ends with
/// its last cell.
pub fn table(indent: &str, rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            let cells = rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for row in rows {
        let mut line = indent.to_owned();
        for (cell, width) in row.iter().zip(&widths) {
            // Writing to a string cannot fail.
            let _ = write!(line, "{cell:width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Formats a duration as on a clock: `0:07`, `12:34`, `1:02:03`.
pub fn clock(duration: SignedDuration) -> String {
    let seconds = duration.as_secs().max(0);
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 {
        format!("{hours}:{minutes:02}:{seconds:02}")
    } else {
        format!("{minutes}:{seconds:02}")
    }
}

/// Formats an age before `now` in its largest unit: `3 h ago`.
pub fn ago(then: Timestamp, now: Timestamp) -> String {
    let seconds = now.duration_since(then).as_secs().max(0);
    match seconds {
        0..60 => "just now".to_owned(),
        60..3_600 => format!("{} min ago", seconds / 60),
        3_600..172_800 => format!("{} h ago", seconds / 3_600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}

/// Formats a count: `1 image`, `2 images`.
pub fn count(number: usize, thing: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {thing}{plural}")
}

/// Shortens a digest: `sha256:0123456789ab`.
pub fn short(digest: &Digest) -> &str {
    const SHOWN: usize = "sha256:".len() + 12;
    let digest = digest.as_str();
    digest.get(..SHOWN).unwrap_or(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_aligns_columns_without_trailing_blanks() {
        let rows = [["a", "bb", "c"], ["aaa", "", ""]].map(|row| row.map(String::from).to_vec());
        assert_eq!(table("  ", &rows), "  a    bb  c\n  aaa\n");
    }

    #[test]
    fn durations_render_in_readable_units() {
        let shown = [7, 754, 3723].map(|s| clock(SignedDuration::from_secs(s)));
        assert_eq!(shown, ["0:07", "12:34", "1:02:03"]);
        let now = Timestamp::from_second(1_000_000).unwrap();
        let shown = [5, 60, 7_300, 180_000].map(|s| ago(now - SignedDuration::from_secs(s), now));
        assert_eq!(shown, ["just now", "1 min ago", "2 h ago", "2 days ago"]);
    }
}
