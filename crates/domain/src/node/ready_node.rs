//! The output of the document `await-ready`.

use std::collections::BTreeMap;
use std::str::FromStr;

use crate::cache::variant::BottlerocketVersion;
use crate::node::output::{MalformedOutput, lines, shorten};

/// Maximum length of a version in bytes, for the space in the manifest.
const MAX_VERSION_LENGTH: usize = 64;

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
    /// Number of vCPUs.
    pub vcpus: u16,
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
            snapshotter: line("SNAPSHOTTER").and_then(|line| {
                active_snapshotter(line)
                    .map(ToOwned::to_owned)
                    .ok_or_else(|| MalformedOutput::Line(shorten(line)))
            })?,
            vcpus: line("CPUS").and_then(|line| {
                line.parse()
                    .map_err(|_| MalformedOutput::Line(shorten(line)))
            })?,
        })
    }
}

/// Returns the release from the answer of `apiclient get os`.
fn version_id(json: &str) -> Option<String> {
    let os: serde_json::Value = serde_json::from_str(json).ok()?;
    Some(os.pointer("/os/version_id")?.as_str()?.to_owned())
}

/// Returns the snapshotter from the line of Bottlerocket's environment file, `ACTIVE_SNAPSHOTTER="overlayfs"`.
pub(super) fn active_snapshotter(line: &str) -> Option<&str> {
    let value = line.strip_prefix("ACTIVE_SNAPSHOTTER=")?;
    let name = value
        .strip_prefix('"')
        .map_or(Some(value), |quoted| quoted.strip_suffix('"'))?;
    let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase());
    (is_name && name.len() <= MAX_VERSION_LENGTH).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_output_yields_all_versions() {
        let output = "OS {\"os\": {\"version_id\": \"1.57.0\", \"arch\": \"x86_64\"}}\n\
                      CONTAINERD 2.1.4+bottlerocket\nKERNEL 6.12.40\nSNAPSHOTTER ACTIVE_SNAPSHOTTER=\"overlayfs\"\nCPUS 8\nEND\n";
        let node: ReadyNode = output.parse().unwrap();
        assert_eq!(
            node,
            ReadyNode {
                bottlerocket_version: "1.57.0".parse().unwrap(),
                containerd_version: "2.1.4+bottlerocket".into(),
                kernel_version: "6.12.40".into(),
                snapshotter: "overlayfs".into(),
                vcpus: 8,
            }
        );
    }

    #[test]
    fn snapshotter_is_an_assignment_of_a_name() {
        assert_eq!(
            active_snapshotter("ACTIVE_SNAPSHOTTER=\"soci\""),
            Some("soci")
        );
        assert_eq!(active_snapshotter("ACTIVE_SNAPSHOTTER=soci"), Some("soci"));
        for wrong in [
            "soci",
            "ACTIVE_SNAPSHOTTER=",
            "ACTIVE_SNAPSHOTTER=\"soci",
            "ACTIVE_SNAPSHOTTER=\"a b\"",
            "SNAPSHOTTER=\"soci\"",
        ] {
            assert_eq!(active_snapshotter(wrong), None, "{wrong}");
        }
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
                "OS {\"os\": {}}\nCONTAINERD 2\nKERNEL 6\nSNAPSHOTTER ACTIVE_SNAPSHOTTER=\"overlayfs\"\nEND",
                MalformedOutput::Line("{\"os\": {}}".into()),
            ),
            (
                "OS {\"os\": {\"version_id\": \"1.57.0\"}}\nCONTAINERD \nKERNEL 6\nEND",
                MalformedOutput::Missing("CONTAINERD"),
            ),
            (
                "OS {\"os\": {\"version_id\": \"1.57.0\"}}\nCONTAINERD 2\nKERNEL 6\nSNAPSHOTTER overlayfs\nEND",
                MalformedOutput::Line("overlayfs".into()),
            ),
            (
                "OS {\"os\": {\"version_id\": \"1.57.0\"}}\nCONTAINERD 2\nKERNEL 6\n\
                 SNAPSHOTTER ACTIVE_SNAPSHOTTER=\"overlayfs\"\nCPUS -1\nEND",
                MalformedOutput::Line("-1".into()),
            ),
            ("KERNEL 6", MalformedOutput::Incomplete("KERNEL 6".into())),
        ] {
            assert_eq!(output.parse::<ReadyNode>(), Err(error));
        }
    }
}
