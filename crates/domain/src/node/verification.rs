//! The output of the document `verify`, and the checks on it.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::cache::image::Digest;
use crate::node::fingerprint::{Progress, Trees, TreesDigest};
use crate::node::image_status::{ImageName, NameRecord, Usable};
use crate::node::output::{MalformedOutput, lines, shorten};
use crate::node::ready_node::active_snapshotter;
use crate::size::Bytes;

/// Snapshotter that unpacked the images. With another one, Bottlerocket deletes them at boot.
const SNAPSHOTTER: &str = "overlayfs";

/// The output of the document `verify`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VerificationOutput {
    /// The verifier still reads the volume.
    Running(Progress),
    /// The verifier has read the volume.
    Finished(Verification),
}

/// Facts about the volume of a verifier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verification {
    /// Snapshotter that the node uses.
    pub snapshotter: String,
    /// Result of the data volume's mount.
    pub mount: Mount,
    /// Requested names that exist, by their position in the request.
    pub names: BTreeMap<usize, NameRecord>,
    /// Number of the planned images' blobs: layers, configurations and manifests.
    pub blobs: u32,
    /// Bytes of these blobs.
    pub blob_bytes: Bytes,
    /// Damaged blobs. The list may be cut.
    pub bad_blobs: Vec<(Digest, BlobProblem)>,
    /// The builder's list of trees on the volume, or `None` if there is no list.
    pub trees: Option<Trees>,
    /// Damaged trees. The list may be cut.
    pub bad_trees: Vec<(u64, TreeProblem)>,
    /// Number of defects that did not fit into the output.
    pub omitted: u32,
    /// Result of a container's start.
    pub start: Start,
}

/// The result of the data volume's mount, from the kernel's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mount {
    /// The file system was unmounted before the snapshot.
    Clean,
    /// The kernel replayed the file system's log, so the snapshot is of a mounted file system.
    Recovered,
    /// The log has neither message.
    Unknown,
}

/// A problem of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlobProblem {
    /// containerd has a record of it, but the file is missing.
    Missing,
    /// The file has another size than in the image's manifest.
    Size,
    /// The bytes have another digest.
    Digest,
    /// The file cannot be read.
    Unreadable,
}

/// A problem of an unpacked tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TreeProblem {
    /// The directory is missing.
    Missing,
    /// The builder's list does not contain the tree.
    Unlisted,
    /// Names, types, modes, owners or sizes differ. The text has the counts of both sides.
    Metadata(String),
    /// Only the content of files differs.
    Content,
}

/// The result of a container's start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// A container started on this image.
    Started(ImageName),
    /// No container started.
    Failed {
        /// Image, or `-` without a usable image.
        image: String,
        /// Error text.
        reason: String,
    },
}

/// The checked part of a healthy volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// Number of checked images' blobs.
    pub blobs: u32,
    /// Bytes of these blobs.
    pub blob_bytes: Bytes,
    /// Compared trees. `None` if the builder took no fingerprint.
    pub trees: Option<Trees>,
}

/// A reason to reject a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Defect {
    /// The node uses another snapshotter.
    #[error(
        "the node uses the snapshotter `{0}` and not `overlayfs`, so Bottlerocket deletes the images at boot"
    )]
    Snapshotter(String),
    /// The file system needed recovery.
    #[error("the file system was not unmounted before the snapshot: the kernel replayed its log")]
    Recovered,
    /// A planned image cannot be used.
    #[error("image {name} is {problem}")]
    Image {
        /// Planned name.
        name: ImageName,
        /// Difference to a usable image.
        problem: &'static str,
    },
    /// A blob is damaged.
    #[error("{}", blob_text(.0, *.1))]
    Blob(Digest, BlobProblem),
    /// The images have fewer bytes than their plan. A check that looked at too little must not pass.
    #[error("the images have {found}, but their layers alone have {packed}")]
    FewBytes {
        /// Bytes of the blobs that were found.
        found: Bytes,
        /// Compressed size of the planned layers.
        packed: Bytes,
    },
    /// An unpacked tree is damaged.
    #[error("{}", tree_text(*.0, .1))]
    Tree(u64, TreeProblem),
    /// The volume has no list of trees.
    #[error("the volume has no fingerprint of its unpacked trees, although the builder took one")]
    NoTrees,
    /// The list of trees is not that of the builder.
    #[error(
        "the fingerprint on the volume is not the builder's: its SHA-256 is {found} and not {expected}"
    )]
    OtherTrees {
        /// Digest on the volume.
        found: TreesDigest,
        /// The builder's digest.
        expected: TreesDigest,
    },
    /// No container started.
    #[error("no container starts from image {image}: {reason}")]
    NotStarted {
        /// Image, or `-` without a usable image.
        image: String,
        /// Error text.
        reason: String,
    },
    /// There are further defects.
    #[error("{0} more blobs or trees are damaged")]
    More(u32),
}

fn blob_text(digest: &Digest, problem: BlobProblem) -> String {
    match problem {
        BlobProblem::Missing => format!("layer {digest} is missing"),
        BlobProblem::Size => format!("layer {digest} has another size than in its image"),
        BlobProblem::Digest => format!("layer {digest} has other bytes than its digest"),
        BlobProblem::Unreadable => format!("layer {digest} cannot be read"),
    }
}

fn tree_text(number: u64, problem: &TreeProblem) -> String {
    match problem {
        TreeProblem::Missing => format!("the unpacked tree {number} is missing"),
        TreeProblem::Unlisted => {
            format!("the unpacked tree {number} is not in the builder's fingerprint")
        }
        TreeProblem::Metadata(counts) => {
            format!("the unpacked tree {number} has other files than on the builder: {counts}")
        }
        TreeProblem::Content => {
            format!("a file in the unpacked tree {number} has other bytes than on the builder")
        }
    }
}

impl Verification {
    /// Checks the facts against the planned names, in the order of the request, against the compressed size of their
    /// layers, and against the builder's fingerprint. Returns all defects, the cause before its consequences.
    ///
    /// A builder of an older version took no fingerprint. Its trees are only checked for existence.
    pub fn check(
        &self,
        names: &[ImageName],
        packed: Bytes,
        expected: Option<&TreesDigest>,
    ) -> Result<Verified, Vec<Defect>> {
        let mut defects = Vec::new();
        if self.snapshotter != SNAPSHOTTER {
            defects.push(Defect::Snapshotter(self.snapshotter.clone()));
        }
        if self.mount == Mount::Recovered {
            defects.push(Defect::Recovered);
        }
        defects.extend(names.iter().enumerate().filter_map(|(position, name)| {
            let problem = match self.names.get(&position).map(|record| record.usable) {
                Some(Usable::Yes) => return None,
                Some(Usable::Packed) => "not unpacked",
                Some(Usable::Incomplete) => "incomplete",
                Some(Usable::Moved) => "the name of another digest",
                None => "missing",
            };
            let name = name.clone();
            Some(Defect::Image { name, problem })
        }));
        let blobs = self.bad_blobs.iter().cloned();
        defects.extend(blobs.map(|(digest, problem)| Defect::Blob(digest, problem)));
        // Missing images and layers explain the difference.
        if defects.is_empty() && self.blob_bytes < packed {
            defects.push(Defect::FewBytes {
                found: self.blob_bytes,
                packed,
            });
        }
        match (&self.trees, expected) {
            (None, Some(_)) => defects.push(Defect::NoTrees),
            (Some(found), Some(expected)) if found.digest != *expected => {
                defects.push(Defect::OtherTrees {
                    found: found.digest.clone(),
                    expected: expected.clone(),
                });
            }
            (_, None) | (Some(_), Some(_)) => {}
        }
        let trees = self.bad_trees.iter().cloned();
        defects.extend(trees.map(|(number, problem)| Defect::Tree(number, problem)));
        if self.omitted > 0 {
            defects.push(Defect::More(self.omitted));
        }
        if let Start::Failed { image, reason } = &self.start {
            defects.push(Defect::NotStarted {
                image: image.clone(),
                reason: reason.clone(),
            });
        }
        if !defects.is_empty() {
            return Err(defects);
        }
        Ok(Verified {
            blobs: self.blobs,
            blob_bytes: self.blob_bytes,
            trees: expected.and(self.trees.clone()),
        })
    }
}

impl FromStr for VerificationOutput {
    type Err = MalformedOutput;

    fn from_str(output: &str) -> Result<Self, MalformedOutput> {
        let mut snapshotter = None;
        let mut mount = None;
        let mut names = None;
        let mut blobs = None;
        let mut bad_blobs = Vec::new();
        let mut trees = None;
        let mut bad_trees = Vec::new();
        let mut omitted = 0;
        let mut start = None;
        for (keyword, rest) in lines(output)? {
            let malformed = || MalformedOutput::Line(shorten(&format!("{keyword} {rest}")));
            let fields: Vec<_> = rest.split_whitespace().collect();
            match (keyword, fields.as_slice()) {
                ("RUNNING", _) => {
                    return Progress::parse(rest)
                        .map(Self::Running)
                        .ok_or_else(malformed);
                }
                ("SNAPSHOTTER", _) => {
                    let name = active_snapshotter(rest.trim()).ok_or_else(malformed)?;
                    snapshotter = Some(name.to_owned());
                }
                ("MOUNT", [word]) => {
                    mount = Some(match *word {
                        "clean" => Mount::Clean,
                        "recovered" => Mount::Recovered,
                        _ => Mount::Unknown,
                    });
                }
                ("NAMES", [letters]) => {
                    names = Some(NameRecord::of_letters(letters).ok_or_else(malformed)?);
                }
                ("BLOBS", [number, bytes]) => {
                    let number: u32 = number.parse().map_err(|_| malformed())?;
                    blobs = Some((number, Bytes(bytes.parse().map_err(|_| malformed())?)));
                }
                ("BAD-BLOB", [digest, problem]) => {
                    let problem = match *problem {
                        "missing" => BlobProblem::Missing,
                        "size" => BlobProblem::Size,
                        "digest" => BlobProblem::Digest,
                        "unreadable" => BlobProblem::Unreadable,
                        _ => return Err(malformed()),
                    };
                    bad_blobs.push((digest.parse().map_err(|_| malformed())?, problem));
                }
                ("TREES", ["none"]) => trees = Some(None),
                ("TREES", _) => trees = Some(Some(Trees::parse(rest).ok_or_else(malformed)?)),
                ("BAD-TREE", [number, problem, counts @ ..]) => {
                    let problem = match *problem {
                        "missing" => TreeProblem::Missing,
                        "unlisted" => TreeProblem::Unlisted,
                        "different" => TreeProblem::Metadata(counts.join(" ")),
                        "content" => TreeProblem::Content,
                        _ => return Err(malformed()),
                    };
                    bad_trees.push((number.parse().map_err(|_| malformed())?, problem));
                }
                ("MORE", [count]) => omitted = count.parse().map_err(|_| malformed())?,
                ("STARTED", [image]) => {
                    start = Some(Start::Started(image.parse().map_err(|_| malformed())?));
                }
                ("NOT-STARTED", [image, reason @ ..]) => {
                    start = Some(Start::Failed {
                        image: (*image).to_owned(),
                        reason: reason.join(" "),
                    });
                }
                (
                    "MOUNT" | "NAMES" | "BLOBS" | "BAD-BLOB" | "BAD-TREE" | "MORE" | "STARTED"
                    | "NOT-STARTED",
                    _,
                ) => return Err(malformed()),
                _ => {}
            }
        }
        let (blobs, blob_bytes) = blobs.ok_or(MalformedOutput::Missing("BLOBS"))?;
        Ok(Self::Finished(Verification {
            snapshotter: snapshotter.ok_or(MalformedOutput::Missing("SNAPSHOTTER"))?,
            mount: mount.ok_or(MalformedOutput::Missing("MOUNT"))?,
            names: names.ok_or(MalformedOutput::Missing("NAMES"))?,
            blobs,
            blob_bytes,
            bad_blobs,
            trees: trees.ok_or(MalformedOutput::Missing("TREES"))?,
            bad_trees,
            omitted,
            start: start.ok_or(MalformedOutput::Missing("STARTED"))?,
        }))
    }
}

impl fmt::Display for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} blobs ({})", self.blobs, self.blob_bytes)?;
        match &self.trees {
            Some(trees) => write!(f, " and {} trees ({} files)", trees.trees, trees.files),
            None => write!(f, ", without unpacked trees"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(digit: char) -> Digest {
        format!("sha256:{}", digit.to_string().repeat(64))
            .parse()
            .unwrap()
    }

    fn names() -> Vec<ImageName> {
        ["docker.io/library/nginx:1", "docker.io/team/api:2"]
            .map(|name| name.parse().unwrap())
            .to_vec()
    }

    /// Compressed size of the layers. The blobs of the healthy output have a little more.
    const PACKED: Bytes = Bytes(1_234_000);

    fn trees_digest() -> TreesDigest {
        "ab".repeat(32).parse().unwrap()
    }

    /// Returns the output of a healthy verifier, with the lines that start with one of `replaced`'s keywords replaced.
    fn output(replaced: &[&str]) -> String {
        let healthy = [
            "SNAPSHOTTER ACTIVE_SNAPSHOTTER=\"overlayfs\"".to_owned(),
            "MOUNT clean".to_owned(),
            "NAMES uU".to_owned(),
            "BLOBS 9 1234567".to_owned(),
            format!("TREES 4 321 {}", trees_digest()),
            format!("STARTED docker.io/library/nginx@{}", digest('a')),
        ];
        let keyword = |line: &str| line.split(' ').next().unwrap_or_default().to_owned();
        let mut lines: Vec<_> = healthy
            .into_iter()
            .filter(|line| !replaced.iter().any(|new| keyword(new) == keyword(line)))
            .collect();
        lines.extend(replaced.iter().map(|line| (*line).to_owned()));
        lines.join("\n") + "\nEND\n"
    }

    fn finished(output: &str) -> Verification {
        match output.parse() {
            Ok(VerificationOutput::Finished(verification)) => verification,
            other => panic!("{other:?}"),
        }
    }

    fn defects(replaced: &[&str]) -> Vec<String> {
        let found = finished(&output(replaced)).check(&names(), PACKED, Some(&trees_digest()));
        let defects = found.err().unwrap_or_default();
        defects.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn healthy_volume_is_verified() {
        let verification = finished(&output(&[]));
        let verified = verification.check(&names(), PACKED, Some(&trees_digest()));
        assert_eq!(
            verified.unwrap().to_string(),
            "9 blobs (1.2 MB) and 4 trees (321 files)"
        );
    }

    #[test]
    fn older_snapshot_is_verified_without_trees() {
        let verification = finished(&output(&["TREES none"]));
        let verified = verification.check(&names(), PACKED, None).unwrap();
        assert_eq!(verified.trees, None);
        assert_eq!(
            verification.check(&names(), PACKED, Some(&trees_digest())),
            Err(vec![Defect::NoTrees])
        );
    }

    #[test]
    fn unknown_mount_result_is_no_defect() {
        assert_eq!(defects(&["MOUNT unknown"]), [""; 0]);
    }

    #[test]
    fn each_fact_yields_its_defect() {
        let blob = |problem: &str| format!("BAD-BLOB {} {problem}", digest('b'));
        let other = "cd".repeat(32);
        let layer = format!("layer {}", digest('b'));
        for (line, defect) in [
            (
                "SNAPSHOTTER ACTIVE_SNAPSHOTTER=\"soci\"".to_owned(),
                "the node uses the snapshotter `soci` and not `overlayfs`, so Bottlerocket deletes the images at boot"
                    .to_owned(),
            ),
            (
                "MOUNT recovered".to_owned(),
                "the file system was not unmounted before the snapshot: the kernel replayed its log".to_owned(),
            ),
            ("NAMES u-".to_owned(), "image docker.io/team/api:2 is missing".to_owned()),
            ("NAMES uP".to_owned(), "image docker.io/team/api:2 is not unpacked".to_owned()),
            ("NAMES ui".to_owned(), "image docker.io/team/api:2 is incomplete".to_owned()),
            (
                "NAMES um".to_owned(),
                "image docker.io/team/api:2 is the name of another digest".to_owned(),
            ),
            (blob("missing"), format!("{layer} is missing")),
            (blob("size"), format!("{layer} has another size than in its image")),
            (blob("digest"), format!("{layer} has other bytes than its digest")),
            (blob("unreadable"), format!("{layer} cannot be read")),
            (
                format!("TREES 4 321 {other}"),
                format!(
                    "the fingerprint on the volume is not the builder's: its SHA-256 is {other} and not {}",
                    trees_digest()
                ),
            ),
            ("BAD-TREE 7 missing".to_owned(), "the unpacked tree 7 is missing".to_owned()),
            (
                "BAD-TREE 7 unlisted".to_owned(),
                "the unpacked tree 7 is not in the builder's fingerprint".to_owned(),
            ),
            (
                "BAD-TREE 7 different 5 of 6 files".to_owned(),
                "the unpacked tree 7 has other files than on the builder: 5 of 6 files".to_owned(),
            ),
            (
                "BAD-TREE 7 content".to_owned(),
                "a file in the unpacked tree 7 has other bytes than on the builder".to_owned(),
            ),
            (
                "BLOBS 0 0".to_owned(),
                "the images have 0 B, but their layers alone have 1.2 MB".to_owned(),
            ),
            ("MORE 3".to_owned(), "3 more blobs or trees are damaged".to_owned()),
        ] {
            assert_eq!(defects(&[&line]), [defect], "{line}");
        }
        let failed = "NOT-STARTED docker.io/a/b:1 no such  file";
        let output = output(&[failed]).replace("STARTED docker.io/library", "IGNORED docker.io");
        let found = finished(&output).check(&names(), PACKED, Some(&trees_digest()));
        assert_eq!(
            found.unwrap_err()[0].to_string(),
            "no container starts from image docker.io/a/b:1: no such file"
        );
    }

    #[test]
    fn all_defects_are_returned() {
        let found = defects(&[
            "NAMES --",
            "BAD-TREE 1 missing",
            "BAD-TREE 2 content",
            "MOUNT recovered",
        ]);
        assert_eq!(found.len(), 5, "{found:?}");
    }

    #[test]
    fn running_verification_reports_its_progress() {
        assert_eq!(
            "RUNNING 12 40\nEND".parse(),
            Ok(VerificationOutput::Running(Progress {
                done: 12,
                total: 40
            }))
        );
    }

    #[test]
    fn every_truncation_of_the_output_fails_to_parse() {
        let complete = output(&[]);
        let complete = complete.trim_end();
        for end in 0..complete.len() {
            let cut = &complete[..end];
            assert!(cut.parse::<VerificationOutput>().is_err(), "{cut:?}");
        }
        let lines: Vec<_> = complete.lines().collect();
        for missing in 0..lines.len() {
            let mut rest = lines.clone();
            rest.remove(missing);
            let rest = rest.join("\n");
            assert!(rest.parse::<VerificationOutput>().is_err(), "{rest:?}");
        }
    }

    #[test]
    fn garbled_verification_does_not_parse() {
        for line in [
            "SNAPSHOTTER overlayfs",
            "MOUNT",
            "NAMES ux",
            "BLOBS 9",
            "BLOBS nine 12",
            "BAD-BLOB sha256:12 missing",
            "BAD-BLOB missing",
            "BAD-TREE seven missing",
            "BAD-TREE 7 gone",
            "TREES 4 321 0123",
            "MORE some",
            "RUNNING 12",
            "STARTED two words",
            "STARTED $(reboot)",
        ] {
            let output = output(&[line]);
            assert!(output.parse::<VerificationOutput>().is_err(), "{line}");
        }
    }
}
