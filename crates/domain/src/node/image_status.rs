//! The output of the document `pull-images`.

use std::collections::BTreeMap;
use std::str::FromStr;

use crate::ids::identifier;
use crate::node::disk::Disk;
use crate::node::output::{MalformedOutput, lines, shorten};
use crate::size::Bytes;

identifier!(
    /// An image name in containerd's image store, limited to the characters that the documents' parameters accept.
    ImageName, "an image name", "letters, digits and `._:/@-`, starting with a letter or a digit", |s| {
        s.starts_with(|c: char| c.is_ascii_alphanumeric())
            && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:/@-".contains(&b))
    }
);

/// The output of the document `pull-images`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageStatus {
    /// Number of pulls that had succeeded when the command started.
    pub finished_before: usize,
    /// The first changes that failed, each with the last line of its output.
    pub failures: Vec<String>,
    /// Last attempt at each requested pull, by the image's position in the plan.
    pub pulls: BTreeMap<usize, PullAttempt>,
    /// Requested names that exist, by their position in the request.
    pub names: BTreeMap<usize, NameRecord>,
    /// Pinned further names of planned images: image IDs, and names of Bottlerocket's ECR resolver. The list may be cut.
    pub pinned_aliases: Vec<ImageName>,
    /// Number of images of which the command removed names. A repeated command does not count them again.
    pub removed: u32,
    /// Number of images that are still there, although neither the plan nor the node needs them.
    pub stale: u32,
    /// Data volume.
    pub disk: Disk,
}

/// An attempt to pull an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullAttempt {
    /// Number of the attempt, from 1.
    pub number: u32,
    /// State of the attempt.
    pub state: PullState,
    /// Last log lines, if the attempt failed. Empty if other failures filled the space for logs.
    pub log: Vec<String>,
}

/// The state of a pull.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullState {
    /// The pull waits for other pulls.
    Queued,
    /// The pull is running.
    Running,
    /// The pull succeeded.
    Succeeded,
    /// The pull failed.
    Failed,
}

/// An entry of containerd's image store with a requested name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NameRecord {
    /// Whether the entry has the requested digest, and the image is complete and unpacked.
    pub usable: Usable,
    /// Whether the kubelet must not remove it.
    pub pinned: bool,
}

/// Whether an image is complete and unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usable {
    /// All blobs exist, and all layers are unpacked.
    Yes,
    /// All blobs exist, but some layers are not unpacked.
    Packed,
    /// Blobs are missing.
    Incomplete,
    /// The name refers to another digest.
    Moved,
}

impl NameRecord {
    /// Parses the letters of requested names, by their position. `None` for unknown letters.
    pub(super) fn of_letters(letters: &str) -> Option<BTreeMap<usize, Self>> {
        let existing = letters
            .chars()
            .enumerate()
            .filter(|(_, letter)| *letter != '-');
        existing
            .map(|(position, letter)| Some((position, Self::of_letter(letter)?)))
            .collect()
    }

    /// Parses the letter of a name. Pinned names have upper-case letters. `None` for unknown letters.
    fn of_letter(letter: char) -> Option<Self> {
        let usable = match letter.to_ascii_lowercase() {
            'u' => Usable::Yes,
            'p' => Usable::Packed,
            'i' => Usable::Incomplete,
            'm' => Usable::Moved,
            _ => return None,
        };
        Some(Self {
            usable,
            pinned: letter.is_ascii_uppercase(),
        })
    }
}

impl ImageStatus {
    /// Returns the status before the first command. Nothing is known about the volume.
    #[must_use]
    pub fn unknown() -> Self {
        Self {
            finished_before: 0,
            failures: Vec::new(),
            pulls: BTreeMap::new(),
            names: BTreeMap::new(),
            pinned_aliases: Vec::new(),
            removed: 0,
            stale: 0,
            disk: Disk {
                size: Bytes(0),
                used: Bytes(0),
            },
        }
    }
}

impl FromStr for ImageStatus {
    type Err = MalformedOutput;

    fn from_str(output: &str) -> Result<Self, MalformedOutput> {
        let mut pulls: BTreeMap<usize, PullAttempt> = BTreeMap::new();
        let mut names = BTreeMap::new();
        let mut pinned_aliases = Vec::new();
        let mut removed = None;
        let mut stale = None;
        let mut finished_before = None;
        let mut failures = Vec::new();
        let mut disk = None;
        for (keyword, rest) in lines(output)? {
            let malformed = || MalformedOutput::Line(shorten(&format!("{keyword} {rest}")));
            let fields: Vec<_> = rest.split_whitespace().collect();
            match (keyword, fields.as_slice()) {
                ("FINISHED", [count]) => {
                    finished_before = Some(count.parse().map_err(|_| malformed())?);
                }
                ("FAILED", [_, ..]) => failures.push(rest.trim().to_owned()),
                ("UNIT", [position, number, active, sub_state]) => {
                    let position = position.parse().map_err(|_| malformed())?;
                    let attempt = PullAttempt {
                        number: number.parse().map_err(|_| malformed())?,
                        state: PullState::of_unit(active, sub_state),
                        log: Vec::new(),
                    };
                    let known = pulls.get(&position).map(|known| known.number);
                    if known < Some(attempt.number) {
                        pulls.insert(position, attempt);
                    }
                }
                ("LOG", [position, number, ..]) => {
                    let position: usize = position.parse().map_err(|_| malformed())?;
                    let number: u32 = number.parse().map_err(|_| malformed())?;
                    let message = rest.splitn(3, ' ').nth(2).unwrap_or_default();
                    let attempt = pulls.get_mut(&position).ok_or_else(malformed)?;
                    if attempt.number == number {
                        attempt.log.push(message.to_owned());
                    }
                }
                ("NAMES", [letters]) => {
                    names = NameRecord::of_letters(letters).ok_or_else(malformed)?;
                }
                ("PINNED", [name]) => {
                    pinned_aliases.push(name.parse().map_err(|_| malformed())?);
                }
                ("REMOVED", [count]) => removed = Some(count.parse().map_err(|_| malformed())?),
                ("STALE", [count]) => stale = Some(count.parse().map_err(|_| malformed())?),
                ("DISK", [size, used]) => {
                    disk = Some(Disk {
                        size: Bytes(size.parse().map_err(|_| malformed())?),
                        used: Bytes(used.parse().map_err(|_| malformed())?),
                    });
                }
                (
                    "FINISHED" | "FAILED" | "UNIT" | "LOG" | "NAMES" | "PINNED" | "REMOVED"
                    | "STALE" | "DISK",
                    _,
                ) => return Err(malformed()),
                _ => {}
            }
        }
        Ok(Self {
            finished_before: finished_before.ok_or(MalformedOutput::Missing("FINISHED"))?,
            failures,
            pulls,
            names,
            pinned_aliases,
            removed: removed.ok_or(MalformedOutput::Missing("REMOVED"))?,
            stale: stale.ok_or(MalformedOutput::Missing("STALE"))?,
            disk: disk.ok_or(MalformedOutput::Missing("DISK"))?,
        })
    }
}

impl PullState {
    /// Returns the state of a pull from its systemd unit. A unit stays `active (exited)` after success. The document prints
    /// `queued` for an inactive unit whose job waits.
    fn of_unit(active: &str, sub_state: &str) -> Self {
        match (active, sub_state) {
            ("queued", _) => Self::Queued,
            ("active", "exited") => Self::Succeeded,
            ("failed" | "inactive", _) => Self::Failed,
            _ => Self::Running,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_output_yields_pulls_images_and_disk() {
        let output = "FINISHED 1\nFAILED tag,4 ctr: no  lease\nUNIT 0 1 active exited\nUNIT 1 1 activating start\nUNIT 2 2 failed failed\n\
             UNIT 2 1 failed failed\nUNIT 3 1 queued dead\n\
             LOG 2 2 level=fatal msg=\"no  such image\"\nLOG 2 1 earlier\n\
             NAMES uP-im\n\
             PINNED ecr.aws/arn:aws:ecr:eu-west-1:123456789012:repository/team/api:v1\n\
             REMOVED 2\nSTALE 7\nsome warning\nDISK 1000 300\nEND\n";
        let status: ImageStatus = output.parse().unwrap();
        let pulls: Vec<_> = status.pulls.values().map(|pull| pull.state).collect();
        assert_eq!(
            pulls,
            [
                PullState::Succeeded,
                PullState::Running,
                PullState::Failed,
                PullState::Queued
            ]
        );
        let failed = &status.pulls[&2];
        assert_eq!(failed.number, 2);
        assert_eq!(failed.log, ["level=fatal msg=\"no  such image\""]);
        assert_eq!(
            status.names.values().map(|n| n.usable).collect::<Vec<_>>(),
            [
                Usable::Yes,
                Usable::Packed,
                Usable::Incomplete,
                Usable::Moved
            ]
        );
        assert!(!status.names.contains_key(&2));
        assert!(status.names[&1].pinned && !status.names[&0].pinned);
        assert_eq!(status.pinned_aliases.len(), 1);
        assert_eq!((status.removed, status.stale), (2, 7));
        assert_eq!(
            (status.disk.size, status.disk.used),
            (Bytes(1000), Bytes(300))
        );
        assert_eq!(status.finished_before, 1);
        assert_eq!(status.failures, ["tag,4 ctr: no  lease"]);
    }

    #[test]
    fn truncated_or_garbled_status_does_not_parse() {
        const REST: &str = "NAMES u\nREMOVED 0\nSTALE 0\nDISK 1000 300\nEND";
        assert!(format!("FINISHED 0\n{REST}").parse::<ImageStatus>().is_ok());
        for output in [
            String::new(),
            "END".to_owned(),
            REST.to_owned(),
            format!("FINISHED many\n{REST}"),
            format!("FINISHED 0\nUNIT 0 1 active\n{REST}"),
            format!("FINISHED 0\nUNIT 0 active exited\n{REST}"),
            format!("FINISHED 0\nLOG 0 1 no unit\n{REST}"),
            format!("FINISHED 0\nPINNED $(reboot)\n{REST}"),
            format!("FINISHED 0\nSTALE $(reboot)\n{REST}"),
            format!("FINISHED 0\n{}", REST.replace("NAMES u", "NAMES ux")),
            format!("FINISHED 0\n{}", REST.replace("REMOVED 0\n", "")),
            format!("FINISHED 0\n{}", REST.replace("STALE 0\n", "")),
            format!("FINISHED 0\n{}", REST.replace("DISK 1000 300\n", "")),
            format!("FINISHED 0\n{}", REST.replace("\nEND", "")),
        ] {
            assert!(output.parse::<ImageStatus>().is_err(), "{output:?}");
        }
    }
}
