//! What the SSM documents print about a builder, and how it is read.
//!
//! A document's output passes through shells, `apiclient` and Systems Manager, each of which may cut it or mix other
//! words into it. So every line begins with a keyword, lines without one are passed over, and a last line `END` tells
//! that nothing is missing.

mod document;

use std::collections::BTreeMap;
use std::str::FromStr;

pub use document::Document;

use crate::cache::image::Digest;
use crate::cache::variant::BottlerocketVersion;
use crate::excerpt;
use crate::ids::identifier;
use crate::size::{Bytes, GiB};

/// The fill below which a data volume must stay, in percent.
///
/// The kubelet removes images that no container ever used as soon as 85 % are in use (its default
/// `imageGCHighThresholdPercent`), and a node needs room for more than its images.
pub const FILL_LIMIT: u64 = 80;

/// The fill that a volume of the size that prepull asks for would have, in percent.
const FILL_WANTED: u64 = 65;

/// The longest version that is taken, in bytes: the manifest has room for such.
const MAX_WORD: usize = 64;

/// What an unpacked image takes on disk, in multiples of its compressed size: the compressed layers, which containerd
/// keeps, and about two and a half times as much for their content.
const EXPANSION: f64 = 3.5;

identifier!(
    /// A name in containerd's image store, of whatever origin, in the characters that the documents' parameters take.
    ImageName, "an image name", "letters, digits and `._:/@-`, starting with a letter or a digit", |s| {
        s.starts_with(|c: char| c.is_ascii_alphanumeric())
            && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:/@-".contains(&b))
    }
);

impl ImageName {
    /// Whether it is the name of a sandbox image: the one that the node itself needs for every pod. Older releases pull
    /// it from EKS' own repositories, newer ones bring it along as `localhost/kubernetes/pause`.
    #[must_use]
    pub fn is_sandbox(&self) -> bool {
        let last = self.as_str().rsplit('/').next().unwrap_or_default();
        last.split([':', '@']).next() == Some("pause")
    }

    /// Whether it is an image ID, under which containerd's CRI plugin records every image a second time.
    #[must_use]
    pub fn is_image_id(&self) -> bool {
        self.as_str().parse::<Digest>().is_ok()
    }
}

/// A document's output that is cut short or is not what the document prints.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MalformedOutput {
    /// The line `END` is missing.
    #[error("the output ends early, after `{0}`")]
    Incomplete(String),
    /// A line that begins with a keyword does not go on as it should.
    #[error("the output has the invalid line `{0}`")]
    Line(String),
    /// There is no line with this keyword.
    #[error("the output has no line `{0}`")]
    Missing(&'static str),
}

/// The lines of a complete output, each split into its keyword and the rest.
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

/// What the document `await-ready` prints once the builder is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadyNode {
    /// Bottlerocket's release.
    pub bottlerocket_version: BottlerocketVersion,
    /// containerd's version.
    pub containerd_version: String,
    /// The kernel's release.
    pub kernel_version: String,
    /// The snapshotter that unpacks images.
    pub snapshotter: String,
}

impl ReadyNode {
    /// What the builder still lacks, as the document says it when it gives up waiting for now.
    #[must_use]
    pub fn waiting_for(output: &str) -> Option<&str> {
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
        let word = |keyword: &'static str| match line(keyword)? {
            value if value.len() <= MAX_WORD && !value.contains(char::is_control) => {
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
            containerd_version: word("CONTAINERD")?,
            kernel_version: word("KERNEL")?,
            snapshotter: word("SNAPSHOTTER")?,
        })
    }
}

/// The release in the answer of `apiclient get os`.
fn version_id(json: &str) -> Option<String> {
    let os: serde_json::Value = serde_json::from_str(json).ok()?;
    Some(os.pointer("/os/version_id")?.as_str()?.to_owned())
}

/// What the document `image-status` prints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageStatus {
    /// How the pulls stand that were started on this builder, by the image's position in the plan.
    pub pulls: BTreeMap<usize, PullState>,
    /// What pulls that failed said last, by the image's position in the plan.
    pub words: BTreeMap<usize, Vec<String>>,
    /// The names that were asked for and are there, by their position in the question.
    pub names: BTreeMap<usize, NameRecord>,
    /// Names that were not asked for.
    pub others: Vec<OtherName>,
    /// How many more of these there are than the output had room for.
    pub more_others: u32,
    /// The data volume.
    pub disk: Disk,
    /// How many vCPUs the builder has.
    pub cpus: usize,
}

/// How a pull stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullState {
    /// It runs.
    Running,
    /// It ended well.
    Succeeded,
    /// It ended badly.
    Failed,
}

/// What a name in containerd's image store stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameRecord {
    /// The index or manifest.
    pub digest: Digest,
    /// Whether it can be used.
    pub usable: Usable,
    /// Whether the kubelet is kept from removing it.
    pub pinned: bool,
}

/// Whether all that an image consists of is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usable {
    /// Every blob is there, and every layer is unpacked.
    Yes,
    /// Every blob is there, but not every layer is unpacked.
    Packed,
    /// Blobs are missing.
    Incomplete,
}

/// A name in containerd's image store that nobody asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherName {
    /// The name.
    pub name: ImageName,
    /// What it stands for.
    pub digest: Digest,
}

/// A file system's size and fill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    /// Its size.
    pub size: Bytes,
    /// What is in use of it.
    pub used: Bytes,
}

impl Disk {
    /// Whether so much is in use that nodes would soon remove images.
    #[must_use]
    pub fn is_too_full(self) -> bool {
        u128::from(self.used.0) * 100 >= u128::from(self.size.0) * u128::from(FILL_LIMIT)
    }

    /// The size of a volume that holds what this one does, and `missing` compressed bytes of images, with room to spare.
    #[must_use]
    pub fn wanted_size(self, missing: Bytes) -> GiB {
        // An estimate that is rounded up to whole GiB anyway.
        #[allow(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss
        )]
        let unpacked = (missing.0 as f64 * EXPANSION) as u64;
        let wanted =
            (u128::from(self.used.0) + u128::from(unpacked)) * 100 / u128::from(FILL_WANTED);
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
        let mut more_others = 0;
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
                    let said = rest.split_once(' ').map_or("", |(_, said)| said);
                    let position = position.parse().map_err(|_| malformed())?;
                    words.entry(position).or_default().push(said.to_owned());
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
                ("MORE", [count]) => more_others = count.parse().map_err(|_| malformed())?,
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
            more_others,
            disk: disk.ok_or(MalformedOutput::Missing("DISK"))?,
            cpus: cpus.ok_or(MalformedOutput::Missing("CPUS"))?,
        })
    }
}

impl PullState {
    /// A pull is a service that stays `active (exited)` when it ended well.
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
    fn a_ready_node_tells_its_versions() {
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
    fn a_node_that_is_not_ready_says_what_it_waits_for() {
        assert_eq!(
            ReadyNode::waiting_for("WAITING the admin container\n"),
            Some("the admin container")
        );
    }

    #[test]
    fn a_ready_node_that_lacks_a_version_is_not_taken() {
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
    fn a_status_tells_pulls_images_and_disk() {
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
        assert_eq!(status.more_others, 7);
        assert_eq!(
            (status.disk.size, status.disk.used),
            (Bytes(1000), Bytes(300))
        );
        assert_eq!(status.cpus, 8);
    }

    #[test]
    fn a_status_that_was_cut_or_garbled_is_not_taken() {
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
    fn the_node_s_own_sandbox_image_is_known_by_its_name() {
        assert!(name("localhost/kubernetes/pause:0.1.0").is_sandbox());
        assert!(name("602401143452.dkr.ecr.eu-west-1.amazonaws.com/eks/pause:3.10").is_sandbox());
        assert!(!name("docker.io/team/pause-button:1").is_sandbox());
    }

    #[test]
    fn a_volume_is_too_full_from_eighty_percent_and_a_wanted_one_is_filled_to_sixty_five() {
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
