//! Inputs and outputs of the stages, which the state machine passes on.
//!
//! A [`Target`] holds everything that the stages of one architecture need. A change of the cache's configuration
//! therefore does not affect a planned build.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use strum::{EnumString, IntoStaticStr};

use crate::architecture::Architecture;
use crate::build::execution::{ExecutionArn, ExecutionName};
use crate::cache::builder_settings::BuilderSettings;
use crate::cache::config::{
    CacheName, CredentialSource, Publication, ResourceTags, VolumeConfig, default_retain_days,
};
use crate::cache::image::{Digest, ImageReference};
use crate::cache::variant::{BottlerocketVersion, Variant};
use crate::cache::verification::VerificationLevel;
use crate::ids::{AmiId, InstanceId, SecurityGroupId, SnapshotId, SubnetId};
use crate::node::Trees;
use crate::size::{Bytes, GiB};
use crate::snapshot::content_key::ContentKey;

/// One architecture of a cache within a build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Cache of the target.
    pub cache: CacheName,
    /// Architecture of the target.
    pub architecture: Architecture,
    /// Execution that builds the target.
    pub execution: ExecutionName,
    /// Time of the plan. Publication never goes back to an older plan.
    pub planned_at: Timestamp,
    /// Deadline of the build.
    pub give_up_at: Timestamp,
    /// Content key of the snapshot.
    pub content_key: ContentKey,
    /// Images of the snapshot.
    pub images: Vec<PlannedImage>,
    /// Compressed size of all their layers. Shared layers count once.
    pub packed: Bytes,
    /// Whether the kubelet may remove the images.
    pub pinning: Pinning,
    /// Variant of the builder.
    pub variant: Variant,
    /// Machine image of the builder.
    pub ami: Ami,
    /// Base of the data volume.
    pub base: Base,
    /// Data volume.
    pub volume: VolumeConfig,
    /// Instance types to try, in order of preference.
    pub instance_types: Vec<String>,
    /// Subnets to try, in order of preference.
    pub subnet_ids: Vec<SubnetId>,
    /// Security groups of the builder.
    pub security_group_ids: Vec<SecurityGroupId>,
    /// Bottlerocket settings that are merged into the user data.
    #[serde(default)]
    pub builder_settings: BuilderSettings,
    /// Tags of everything that the build creates, besides prepull's own.
    #[serde(default)]
    pub tags: ResourceTags,
    /// Sources of credentials by registry host.
    pub registry_credentials: BTreeMap<String, CredentialSource>,
    /// Number of parallel pulls. The default is the builder's vCPUs plus one.
    pub parallel_pulls: Option<u8>,
    /// Verification of the snapshot. Targets of earlier versions have none.
    #[serde(default)]
    pub verification: VerificationPlan,
    /// Number of snapshots to keep.
    pub retain_snapshots: u8,
    /// Days for which retention keeps a snapshot after its replacement.
    #[serde(default = "default_retain_days")]
    pub retain_days: u16,
    /// Other accounts and regions that get the snapshot.
    pub publication: Publication,
}

/// The planned verification of a snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerificationPlan {
    /// How thorough it is.
    pub level: VerificationLevel,
    /// Machine images that boot from the snapshot. If there is none, the builder's.
    #[serde(default)]
    pub amis: Vec<Ami>,
}

/// An image with the digests of its reference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedImage {
    /// Reference, as in the cache's configuration.
    pub reference: ImageReference,
    /// Digest of the index, or of the manifest if there is no index.
    pub digest: Digest,
    /// Digest of the manifest for the target's architecture. It equals `digest` if there is no index.
    pub platform_digest: Digest,
    /// Compressed size of the manifest's layers.
    pub size: Bytes,
    /// Position of the image to pull before this one. Both start with the same layers. Parallel pulls would unpack
    /// these layers twice.
    pub after: Option<usize>,
    /// Whether the planned base has the image, by its manifest. An empty volume has none.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub on_base: bool,
}

impl PlannedImage {
    /// Returns an image of an early plan, which reads no manifests. Docker Hub counts each read as a pull.
    #[must_use]
    pub fn unread(reference: ImageReference, digest: Digest) -> Self {
        Self {
            reference,
            platform_digest: digest.clone(),
            digest,
            size: Bytes(0),
            after: None,
            on_base: false,
        }
    }
}

impl Target {
    /// Returns a hash of the settings with which the builder of this target starts. A builder that an early plan launched
    /// fits the final plan if both have the same hash.
    ///
    /// # Panics
    /// Never. Settings are strings and numbers.
    #[must_use]
    pub fn launch_key(&self) -> String {
        let base = match &self.base {
            Base::Empty { .. } => None,
            Base::Snapshot { snapshot_id, .. } => Some(snapshot_id),
        };
        let hosts = self.images.iter().map(|image| image.reference.registry());
        let credentials: BTreeMap<_, _> = hosts
            .filter_map(|host| self.registry_credentials.get_key_value(host))
            .collect();
        let settings = (
            &self.ami.id,
            base,
            &self.volume,
            &self.security_group_ids,
            &self.builder_settings,
            &self.tags,
            credentials,
        );
        let json = serde_json::to_vec(&settings).expect("strings and numbers always serialize");
        format!("{:x}", Sha256::digest(json))
    }
}

/// Whether the kubelet may remove an image to free space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pinning {
    /// The kubelet never removes it, not even under disk pressure.
    Pinned,
    /// The kubelet may remove it.
    Unpinned,
}

/// A Bottlerocket machine image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ami {
    /// ID of the image.
    pub id: AmiId,
    /// Bottlerocket release of the image.
    pub version: BottlerocketVersion,
}

/// The start content of a builder's data volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Base {
    /// An empty volume, onto which the builder pulls every image.
    Empty {
        /// Reason not to use the last snapshot, for people.
        reason: String,
    },
    /// A snapshot. The builder pulls missing images and removes stale ones.
    Snapshot {
        /// ID of the snapshot.
        snapshot_id: SnapshotId,
        /// Disk usage after the last cold build.
        fresh: DiskUsage,
    },
}

/// The size of images, compressed and on a volume.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskUsage {
    /// Compressed size of their layers. Shared layers count once.
    pub packed: Bytes,
    /// Used bytes on the volume.
    pub used: Bytes,
}

/// Maximum stale data on a base, in percent of its images' disk usage on an empty volume. Above it, the next build is
/// cold.
///
/// Every node loads the blocks of stale data, so this limits the cost for nodes. In chains of refreshes on the local
/// cloud, containerd collected all removed images. The limit covers data that it might miss.
const STALE_DATA_LIMIT: u64 = 50;

impl DiskUsage {
    /// Returns the bytes of stale data on this volume, or `None` if they are within the limit.
    ///
    /// `fresh` is the disk usage after a cold build. It determines the expected usage of this volume's images.
    #[must_use]
    pub fn stale_data(self, fresh: Self) -> Option<Bytes> {
        let expected = u128::from(self.packed.0) * u128::from(fresh.used.0)
            / u128::from(fresh.packed.0.max(1));
        let stale = u128::from(self.used.0).saturating_sub(expected);
        (stale * 100 > expected * u128::from(STALE_DATA_LIMIT))
            .then(|| Bytes(u64::try_from(stale).unwrap_or(u64::MAX)))
    }
}

/// Input of plan-build.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PlanInput {
    /// Cache name, unparsed. plan-build parses it, so an invalid name yields plan-build's own error.
    pub cache: String,
    /// ARN of the execution.
    pub execution: ExecutionArn,
    /// Time of the plan.
    #[serde(default)]
    pub time: PlanTime,
}

/// The time of a plan within its execution.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PlanTime {
    /// After the debounce, when all triggers of the execution have happened.
    #[default]
    AfterDebounce,
    /// Before the debounce. The plan only shows which builders the execution will most likely need.
    Early,
}

/// Output of plan-build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "decision", rename_all = "kebab-case")]
pub enum Plan {
    /// Build these targets. Other targets of the cache can be up to date.
    Build {
        /// Targets to build.
        targets: Vec<Target>,
    },
    /// The published snapshots match the configuration.
    UpToDate {
        /// Published snapshot of each architecture.
        snapshots: BTreeMap<Architecture, SnapshotId>,
    },
    /// A newer execution of the cache is also waiting and will plan later.
    Superseded {
        /// Name of the newer execution.
        by: ExecutionName,
    },
    /// An older execution of the cache builds. Only an early plan returns it, because it does not wait.
    Queued {
        /// Name of the older execution.
        behind: ExecutionName,
    },
}

/// A running builder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Builder {
    /// ID of the instance.
    pub instance_id: InstanceId,
    /// Type of the instance.
    pub instance_type: String,
    /// Time at which EC2 launched it.
    pub launched_at: Timestamp,
}

/// Input of launch-builder. Its output is a [`Builder`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchInput {
    /// Target of the builder.
    pub target: Target,
}

/// Input of wait-for-ssm and create-snapshot. Their outputs are [`ReadyBuilder`] and [`Snapshot`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuilderInput {
    /// Target of the builder.
    pub target: Target,
    /// Builder of the target.
    pub builder: Builder,
}

/// The software on a builder. It determines which nodes can use the snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Bottlerocket release.
    pub bottlerocket_version: BottlerocketVersion,
    /// containerd version.
    pub containerd_version: String,
    /// Kernel release. It determines the XFS features of the volume.
    pub kernel_version: String,
    /// Snapshotter that unpacked the images. A node with a different snapshotter deletes them.
    pub snapshotter: String,
    /// Time at which the builder was ready.
    pub ready_at: Timestamp,
}

/// Output of wait-for-ssm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadyBuilder {
    /// Software on the builder.
    #[serde(flatten)]
    pub node: NodeInfo,
    /// Number of vCPUs. It determines the number of parallel pulls.
    pub vcpus: u16,
}

/// Input of pull-images. Its output is [`Pulled`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullInput {
    /// Target of the builder.
    pub target: Target,
    /// Builder of the target.
    pub builder: Builder,
    /// Output of wait-for-ssm.
    pub node: ReadyBuilder,
}

/// Output of pull-images.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pulled {
    /// Used bytes on the data volume.
    pub used: Bytes,
    /// Number of missing images that were pulled.
    pub pulled_images: u32,
    /// Number of images that were removed because the cache no longer includes them.
    pub removed_images: u32,
    /// Time at which all images were verified.
    pub verified_at: Timestamp,
}

/// A completed snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// ID of the snapshot.
    pub snapshot_id: SnapshotId,
    /// Size of the snapshot's volume, which is the minimum size of a volume from this snapshot.
    pub volume_size: GiB,
    /// Time at which EBS started it.
    pub started_at: Timestamp,
    /// Time at which create-snapshot found it complete.
    pub completed_at: Timestamp,
    /// Fingerprint of the unpacked images before the power-off. `None` if the snapshot is not verified.
    #[serde(default)]
    pub trees: Option<Trees>,
}

/// The state of a snapshot, stored in the tag `prepull:state`. A snapshot without this tag is unfinished.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    EnumString,
    IntoStaticStr,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum SnapshotState {
    /// Complete and verified: on a second machine, or only on its builder if the cache's level is `off`.
    Verified,
    /// Available to nodes, as stable snapshot or as candidate.
    Published,
    /// Unusable, to be deleted. Never a base, never promoted.
    Rejected,
}

impl SnapshotState {
    /// Returns the value of the tag.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// Input of verify-snapshot. Its output is a [`VerificationRecord`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyInput {
    /// Target of the snapshot.
    pub target: Target,
    /// Builder of the target.
    pub builder: Builder,
    /// Snapshot of the data volume.
    pub snapshot: Snapshot,
}

/// A passed verification of a snapshot, also stored in its tag `prepull:verification`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerificationRecord {
    /// How thorough it was.
    pub level: VerificationLevel,
    /// Bottlerocket releases that booted from the snapshot.
    pub releases: Vec<BottlerocketVersion>,
    /// Seconds from the first verifier's launch to the last result.
    pub seconds: u32,
    /// Bytes of the planned images' blobs on one verifier: layers, configurations and manifests. At the level `records`,
    /// only their sizes were checked.
    pub bytes: Bytes,
    /// Number of unpacked trees in the builder's fingerprint. Those of the planned images were compared with it. Zero if
    /// there is no fingerprint.
    pub trees: u32,
    /// Time of the last result.
    pub verified_at: Timestamp,
}

impl fmt::Display for VerificationRecord {
    /// Formats the record for a tag, with the characters that every AWS service allows in tags.
    ///
    /// Source: EC2 user guide, "Tag your Amazon EC2 resources": at most 256 characters.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let releases: Vec<_> = self.releases.iter().map(ToString::to_string).collect();
        write!(
            f,
            "level={} releases={} seconds={} bytes={} trees={} at={}",
            self.level,
            releases.join("/"),
            self.seconds,
            self.bytes.0,
            self.trees,
            self.verified_at
        )
    }
}

/// A tag holds no verification record of a known form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a verification record")]
pub struct InvalidRecord(String);

impl FromStr for VerificationRecord {
    type Err = InvalidRecord;

    fn from_str(tag: &str) -> Result<Self, InvalidRecord> {
        let parse = || {
            let fields: BTreeMap<_, _> = tag
                .split(' ')
                .filter_map(|field| field.split_once('='))
                .collect();
            let releases = fields.get("releases")?.split('/').map(str::parse);
            Some(Self {
                level: fields.get("level")?.parse().ok()?,
                releases: releases.collect::<Result<_, _>>().ok()?,
                seconds: fields.get("seconds")?.parse().ok()?,
                bytes: Bytes(fields.get("bytes")?.parse().ok()?),
                trees: fields.get("trees")?.parse().ok()?,
                verified_at: fields.get("at")?.parse().ok()?,
            })
        };
        parse().ok_or_else(|| InvalidRecord(tag.to_owned()))
    }
}

/// Input of publish-snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishInput {
    /// Target of the snapshot.
    pub target: Target,
    /// Builder of the target.
    pub builder: Builder,
    /// Software on the builder.
    pub node: NodeInfo,
    /// Output of pull-images.
    pub pulled: Pulled,
    /// Snapshot of the data volume.
    pub snapshot: Snapshot,
    /// Output of verify-snapshot. `None` if the cache's snapshots are not verified.
    #[serde(default)]
    pub verification: Option<VerificationRecord>,
}

/// Output of publish-snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// ID of the snapshot.
    pub snapshot_id: SnapshotId,
    /// Whether the snapshot was published.
    pub outcome: PublishOutcome,
}

/// Whether a snapshot was published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PublishOutcome {
    /// Nodes now use it.
    Published,
    /// It waits for its promotion.
    Candidate,
    /// A snapshot from a later plan is already published. This one stays `verified`.
    Superseded,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verification_record_survives_its_tag() {
        let release = |name: &str| name.parse().unwrap();
        let record = VerificationRecord {
            level: VerificationLevel::Records,
            releases: (0..4).map(|n| release(&format!("1.5{n}.0"))).collect(),
            seconds: u32::MAX,
            bytes: Bytes(u64::MAX),
            trees: u32::MAX,
            verified_at: "2026-01-02T03:04:05.123456789Z".parse().unwrap(),
        };
        let tag = record.to_string();
        assert!(tag.len() <= 256, "EC2 takes no longer one: {tag}");
        assert_eq!(tag.parse(), Ok(record));
        assert!("level=full".parse::<VerificationRecord>().is_err());
    }
}
