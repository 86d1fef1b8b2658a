//! Parsers for the output of the SSM documents on a builder.
//!
//! The output passes through shells, `apiclient` and Systems Manager. Each of them can truncate it or add text to it.
//! Therefore every line starts with a keyword, the parser ignores lines without one, and the last line `END` marks the
//! output as complete.

mod document;

use std::collections::BTreeMap;
use std::str::FromStr;

pub use document::Document;

use crate::cache::image::Digest;
use crate::cache::variant::BottlerocketVersion;
use crate::excerpt;
use crate::ids::identifier;
use crate::size::{Bytes, GiB};

/// Maximum disk usage of a data volume, in percent. Usage must stay below it.
///
/// The kubelet removes unused images from 85 % on (its default `imageGCHighThresholdPercent`), and a node needs space
/// for other data too.
pub const FILL_LIMIT: u64 = 80;

/// Disk usage of a volume with the recommended size, in percent.
const FILL_TARGET: u64 = 65;

/// Maximum length of a version in bytes, for the space in the manifest.
const MAX_VERSION_LENGTH: usize = 64;

/// Ratio of an unpacked image's disk usage to its compressed size. containerd keeps the compressed layers, and their
/// content takes about two and a half times as much.
const EXPANSION: f64 = 3.5;

identifier!(
    /// An image name in containerd's image store, limited to the characters that the documents' parameters accept.
    ImageName, "an image name", "letters, digits and `._:/@-`, starting with a letter or a digit", |s| {
        s.starts_with(|c: char| c.is_ascii_alphanumeric())
            && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:/@-".contains(&b))
    }
);

impl ImageName {
    /// Whether the name is that of a sandbox image, which a node needs for every pod. Older releases pull it from EKS's
    /// own repositories. Newer releases include it as `localhost/kubernetes/pause`.
    #[must_use]
    pub fn is_sandbox(&self) -> bool {
        let last = self.as_str().rsplit('/').next().unwrap_or_default();
        last.split([':', '@']).next() == Some("pause")
    }

    /// Whether the name is an image ID. containerd's CRI plugin adds an entry under the image ID for every image.
    #[must_use]
    pub fn is_image_id(&self) -> bool {
        self.as_str().parse::<Digest>().is_ok()
    }
}

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
fn lines(output: &str) -> Result<impl Iterator<Item = (&str, &str)>, MalformedOutput> {
    let body = output.trim_end().strip_suffix("\nEND").ok_or_else(|| {
        MalformedOutput::Incomplete(shorten(output.lines().last().unwrap_or_default()))
    })?;
    Ok(body
        .lines()
        .map(|line| line.split_once(' ').unwrap_or((line, ""))))
}

/// Shortens a line of an output for a message.
fn shorten(line: &str) -> String {
    excerpt(line, 120)
}

/// The output of the document `await-ready` from a ready builder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadyNode {
    /// Bottlerocket release.
    pub bottlerocket_version: BottlerocketVersion,
    /// containerd version.
    pub containerd_version: String,
    /// Kernel release.
    pub kernel_version: String,
    /// Snapshotter that unpacks images.
    pub snapshotter: String,
}

impl ReadyNode {
    /// Returns the part that the builder still lacks, as the document prints it when it stops waiting.
    #[must_use]
    pub fn missing_part(output: &str) -> Option<&str> {
        output
            .lines()
            .find_map(|line| line.strip_prefix("WAITING "))
    }
}

impl FromStr for ReadyNode {
    type Err = MalformedOutput;

    fn from_str(output: &str) -> Result<Self, MalformedOutput> {
        let found: BTreeMap<_, _> = lines(output)?.collect();
        let line = |keyword: &'static str| {
            found
                .get(keyword)
                .map(|value| value.trim())
                .filter(|value| !value.is_empty())
                .ok_or(MalformedOutput::Missing(keyword))
        };
        let version = |keyword: &'static str| match line(keyword)? {
            value if value.len() <= MAX_VERSION_LENGTH && !value.contains(char::is_control) => {
                Ok(value.to_owned())
            }
            value => Err(MalformedOutput::Line(shorten(value))),
        };
        let os = line("OS")?;
        let bottlerocket_version = version_id(os)
            .and_then(|version| version.parse().ok())
            .ok_or_else(|| MalformedOutput::Line(shorten(os)))?;
        Ok(Self {
            bottlerocket_version,
            containerd_version: version("CONTAINERD")?,
            kernel_version: version("KERNEL")?,
            snapshotter: version("SNAPSHOTTER")?,
        })
    }
}

/// Returns the release from the answer of `apiclient get os`.
fn version_id(json: &str) -> Option<String> {
    let os: serde_json::Value = serde_json::from_str(json).ok()?;
    Some(os.pointer("/os/version_id")?.as_str()?.to_owned())
}

/// The output of the document `image-status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageStatus {
    /// State of each started pull, by the image's position in the plan.
    pub pulls: BTreeMap<usize, PullState>,
    /// Last log lines of each failed pull, by the image's position in the plan.
    pub words: BTreeMap<usize, Vec<String>>,
    /// Requested names that exist, by their position in the request.
    pub names: BTreeMap<usize, NameRecord>,
    /// Names that exist but were not requested.
    pub others: Vec<OtherName>,
    /// Number of further such names that did not fit into the output.
    pub omitted_others: u32,
    /// Data volume.
    pub disk: Disk,
    /// Number of the builder's vCPUs.
    pub cpus: usize,
}

/// The state of a pull.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullState {
    /// The pull is running.
    Running,
    /// The pull succeeded.
    Succeeded,
    /// The pull failed.
    Failed,
}

/// An entry of containerd's image store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameRecord {
    /// Digest of the index or manifest.
    pub digest: Digest,
    /// Whether the image is complete and unpacked.
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
}

/// An entry of containerd's image store that was not requested.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherName {
    /// Name of the entry.
    pub name: ImageName,
    /// Digest of the entry.
    pub digest: Digest,
}

/// Size and usage of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    /// Size of the file system.
    pub size: Bytes,
    /// Used bytes.
    pub used: Bytes,
}

impl Disk {
    /// Whether the usage has reached [`FILL_LIMIT`], so that nodes would soon remove images.
    #[must_use]
    pub fn is_too_full(self) -> bool {
        u128::from(self.used.0) * 100 >= u128::from(self.size.0) * u128::from(FILL_LIMIT)
    }

    /// Returns the recommended size for a volume with this content plus `missing` compressed bytes of images.
    #[must_use]
    pub fn wanted_size(self, missing: Bytes) -> GiB {
        // The estimate is rounded up to whole GiB.
        #[allow(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss
        )]
        let unpacked = (missing.0 as f64 * EXPANSION) as u64;
        let wanted =
            (u128::from(self.used.0) + u128::from(unpacked)) * 100 / u128::from(FILL_TARGET);
        GiB(u32::try_from(wanted.div_ceil(1 << 30)).unwrap_or(u32::MAX))
    }
}

impl FromStr for ImageStatus {
    type Err = MalformedOutput;

    fn from_str(output: &str) -> Result<Self, MalformedOutput> {
        let mut pulls = BTreeMap::new();
        let mut words: BTreeMap<usize, Vec<String>> = BTreeMap::new();
        let mut names = BTreeMap::new();
        let mut others = Vec::new();
        let mut omitted_others = 0;
        let mut disk = None;
        let mut cpus = None;
        for (keyword, rest) in lines(output)? {
            let malformed = || MalformedOutput::Line(shorten(&format!("{keyword} {rest}")));
            let fields: Vec<_> = rest.split_whitespace().collect();
            match (keyword, fields.as_slice()) {
                ("UNIT", [position, active, sub_state]) => {
                    let position = position.parse().map_err(|_| malformed())?;
                    pulls.insert(position, PullState::of_unit(active, sub_state));
                }
                ("LOG", [position, ..]) => {
                    let message = rest.split_once(' ').map_or("", |(_, message)| message);
                    let position = position.parse().map_err(|_| malformed())?;
                    words.entry(position).or_default().push(message.to_owned());
                }
                ("NAME", [position, digest, status, unpacked, pinned]) => {
                    let record = NameRecord {
                        digest: digest.parse().map_err(|_| malformed())?,
                        usable: match (*status, *unpacked) {
                            ("complete", "unpacked") => Usable::Yes,
                            ("complete", _) => Usable::Packed,
                            _ => Usable::Incomplete,
                        },
                        pinned: *pinned == "pinned",
                    };
                    names.insert(position.parse().map_err(|_| malformed())?, record);
                }
                ("OTHER", [name, digest]) => others.push(OtherName {
                    name: name.parse().map_err(|_| malformed())?,
                    digest: digest.parse().map_err(|_| malformed())?,
                }),
                ("MORE", [count]) => omitted_others = count.parse().map_err(|_| malformed())?,
                ("DISK", [size, used]) => {
                    disk = Some(Disk {
                        size: Bytes(size.parse().map_err(|_| malformed())?),
                        used: Bytes(used.parse().map_err(|_| malformed())?),
                    });
                }
                ("CPUS", [count]) => cpus = Some(count.parse().map_err(|_| malformed())?),
                ("UNIT" | "LOG" | "NAME" | "OTHER" | "MORE" | "DISK" | "CPUS", _) => {
                    return Err(malformed());
                }
                _ => {}
            }
        }
        Ok(Self {
            pulls,
            words,
            names,
            others,
            omitted_others,
            disk: disk.ok_or(MalformedOutput::Missing("DISK"))?,
            cpus: cpus.ok_or(MalformedOutput::Missing("CPUS"))?,
        })
    }
}

impl PullState {
    /// Returns the state of a pull from its systemd unit. A unit stays `active (exited)` after success.
    fn of_unit(active: &str, sub_state: &str) -> Self {
        match (active, sub_state) {
            ("active", "exited") => Self::Succeeded,
            ("failed" | "inactive", _) => Self::Failed,
            _ => Self::Running,
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

    fn name(given: &str) -> ImageName {
        given.parse().unwrap()
    }

    #[test]
    fn ready_output_yields_all_versions() {
        let output = "OS {\"os\": {\"version_id\": \"1.57.0\", \"arch\": \"x86_64\"}}\n\
                      CONTAINERD 2.1.4+bottlerocket\nKERNEL 6.12.40\nSNAPSHOTTER overlayfs\nEND\n";
        let node: ReadyNode = output.parse().unwrap();
        assert_eq!(
            node,
            ReadyNode {
                bottlerocket_version: "1.57.0".parse().unwrap(),
                containerd_version: "2.1.4+bottlerocket".into(),
                kernel_version: "6.12.40".into(),
                snapshotter: "overlayfs".into(),
            }
        );
    }

    #[test]
    fn waiting_output_yields_the_missing_part() {
        assert_eq!(
            ReadyNode::missing_part("WAITING the admin container\n"),
            Some("the admin container")
        );
    }

    #[test]
    fn ready_output_without_a_version_does_not_parse() {
        for (output, error) in [
            (
                "OS {\"os\": {}}\nCONTAINERD 2\nKERNEL 6\nSNAPSHOTTER overlayfs\nEND",
                MalformedOutput::Line("{\"os\": {}}".into()),
            ),
            (
                "OS {\"os\": {\"version_id\": \"1.57.0\"}}\nCONTAINERD \nKERNEL 6\nEND",
                MalformedOutput::Missing("CONTAINERD"),
            ),
            ("KERNEL 6", MalformedOutput::Incomplete("KERNEL 6".into())),
        ] {
            assert_eq!(output.parse::<ReadyNode>(), Err(error));
        }
    }

    #[test]
    fn status_output_yields_pulls_images_and_disk() {
        let output = format!(
            "UNIT 0 active exited\nUNIT 1 active running\nUNIT 2 failed failed\n\
             LOG 2 level=fatal msg=\"no  such image\"\n\
             NAME 0 {a} complete unpacked unpinned\nNAME 1 {a} complete packed pinned\n\
             NAME 2 {b} incomplete packed unpinned\n\
             OTHER ecr.aws/arn:aws:ecr:eu-west-1:123456789012:repository/team/api:v1 {b}\n\
             MORE 7\nsome warning\nDISK 1000 300\nCPUS 8\nEND\n",
            a = digest('a'),
            b = digest('b'),
        );
        let status: ImageStatus = output.parse().unwrap();
        assert_eq!(
            status.pulls,
            [
                (0, PullState::Succeeded),
                (1, PullState::Running),
                (2, PullState::Failed)
            ]
            .into()
        );
        assert_eq!(status.words[&2], ["level=fatal msg=\"no  such image\""]);
        assert_eq!(
            status.names.values().map(|n| n.usable).collect::<Vec<_>>(),
            [Usable::Yes, Usable::Packed, Usable::Incomplete]
        );
        assert!(status.names[&1].pinned && !status.names[&0].pinned);
        assert_eq!(status.others.len(), 1);
        assert_eq!(status.omitted_others, 7);
        assert_eq!(
            (status.disk.size, status.disk.used),
            (Bytes(1000), Bytes(300))
        );
        assert_eq!(status.cpus, 8);
    }

    #[test]
    fn truncated_or_garbled_status_does_not_parse() {
        for output in [
            "",
            "DISK 1000 300",
            "END",
            "UNIT 0 active\nDISK 1000 300\nCPUS 8\nEND",
            "NAME x sha256:12 complete unpacked unpinned\nDISK 1000 300\nCPUS 8\nEND",
            "OTHER $(reboot) sha256:12\nDISK 1000 300\nCPUS 8\nEND",
            "UNIT 0 active exited\nCPUS 8\nEND",
            "UNIT 0 active exited\nDISK 1000 300\nEND",
        ] {
            assert!(output.parse::<ImageStatus>().is_err(), "{output:?}");
        }
    }

    #[test]
    fn image_name_identifies_the_sandbox_image() {
        assert!(name("localhost/kubernetes/pause:0.1.0").is_sandbox());
        assert!(name("602401143452.dkr.ecr.eu-west-1.amazonaws.com/eks/pause:3.10").is_sandbox());
        assert!(!name("docker.io/team/pause-button:1").is_sandbox());
    }

    #[test]
    fn disk_is_too_full_at_80_percent_and_grows_to_65() {
        let disk = |used| Disk {
            size: GiB(10).bytes(),
            used,
        };
        assert!(!disk(Bytes((10 << 30) * 79 / 100)).is_too_full());
        assert!(disk(Bytes((10 << 30) * 80 / 100)).is_too_full());
        assert_eq!(disk(GiB(13).bytes()).wanted_size(Bytes(0)), GiB(20));
        assert_eq!(disk(GiB(6).bytes()).wanted_size(GiB(2).bytes()), GiB(20));
    }
}
