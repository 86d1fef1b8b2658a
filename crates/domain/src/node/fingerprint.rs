//! The output of the document `fingerprint`.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ids::identifier;
use crate::node::output::{MalformedOutput, lines, shorten};

identifier!(
    /// The SHA-256 of a builder's list of trees.
    TreesDigest, "a digest of trees", "64 lower-case hexadecimal digits", |s| {
        s.len() == 64 && s.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    }
);

/// The unpacked trees of a builder, before its power-off. A tree is the directory of one layer in containerd's overlayfs
/// snapshotter.
///
/// The volume contains a list with the fingerprint of each tree. This is the digest of that list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trees {
    /// Number of trees.
    pub trees: u32,
    /// Number of their files, directories and other entries.
    pub files: u64,
    /// Digest of the list.
    pub digest: TreesDigest,
}

/// A request to the document `fingerprint` has an answer, but the work is not finished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FingerprintOutput {
    /// The builder still reads the trees.
    Running(Progress),
    /// The list is on the volume.
    Finished(Trees),
}

/// Progress of detached work on a node. Its unit is unspecified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Finished part.
    pub done: u64,
    /// All of the work.
    pub total: u64,
}

impl FromStr for FingerprintOutput {
    type Err = MalformedOutput;

    fn from_str(output: &str) -> Result<Self, MalformedOutput> {
        let mut trees = None;
        for (keyword, rest) in lines(output)? {
            let malformed = || MalformedOutput::Line(shorten(&format!("{keyword} {rest}")));
            match keyword {
                "RUNNING" => {
                    return Progress::parse(rest)
                        .map(Self::Running)
                        .ok_or_else(malformed);
                }
                "TREES" => trees = Some(Trees::parse(rest).ok_or_else(malformed)?),
                _ => {}
            }
        }
        trees
            .map(Self::Finished)
            .ok_or(MalformedOutput::Missing("TREES"))
    }
}

impl Trees {
    /// Parses the rest of a line `TREES`.
    pub(super) fn parse(rest: &str) -> Option<Self> {
        let fields: Vec<_> = rest.split_whitespace().collect();
        let [trees, files, digest] = fields.as_slice() else {
            return None;
        };
        Some(Self {
            trees: trees.parse().ok()?,
            files: files.parse().ok()?,
            digest: digest.parse().ok()?,
        })
    }
}

impl Progress {
    /// Returns the finished part in percent, at most 100. `total` can be too low while the node still counts.
    #[must_use]
    pub fn percent(self) -> u64 {
        (self.done.saturating_mul(100) / self.total.max(1)).min(100)
    }

    /// Parses the rest of a line `RUNNING`.
    pub(super) fn parse(rest: &str) -> Option<Self> {
        let (done, total) = rest.trim().split_once(' ')?;
        Some(Self {
            done: done.parse().ok()?,
            total: total.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprint_output_yields_the_trees() {
        let digest = "0a".repeat(32);
        let output = format!("a warning\nTREES 12 34567 {digest}\nEND\n");
        assert_eq!(
            output.parse(),
            Ok(FingerprintOutput::Finished(Trees {
                trees: 12,
                files: 34567,
                digest: digest.parse().unwrap(),
            }))
        );
        assert_eq!(
            "RUNNING 3 9\nEND".parse(),
            Ok(FingerprintOutput::Running(Progress { done: 3, total: 9 }))
        );
    }

    #[test]
    fn progress_never_exceeds_100_percent() {
        for (done, total, percent) in [
            (0, 0, 0),
            (1, 3, 33),
            (3, 3, 100),
            (12, 3, 100),
            (5, 0, 100),
        ] {
            assert_eq!(
                Progress { done, total }.percent(),
                percent,
                "{done} of {total}"
            );
        }
    }

    #[test]
    fn truncated_or_garbled_fingerprint_does_not_parse() {
        let digest = "0a".repeat(32);
        for output in [
            String::new(),
            "END".into(),
            "apiclient failed\nEND".into(),
            format!("TREES 12 345 {digest}"),
            format!("TREES 12 {digest}\nEND"),
            format!("TREES -1 345 {digest}\nEND"),
            format!("TREES 12 345 {}\nEND", &digest[1..]),
            format!("TREES 12 345 {}\nEND", digest.to_uppercase()),
            "RUNNING 3\nEND".into(),
            "RUNNING 3 9".into(),
        ] {
            assert!(output.parse::<FingerprintOutput>().is_err(), "{output:?}");
        }
    }
}
