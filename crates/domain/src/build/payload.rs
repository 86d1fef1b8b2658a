//! What the stages hand to each other, and what the state machine carries between them.
//!
//! A [`Target`] holds everything that the stages of one architecture need, so that a build follows the configuration
//! it was planned with, however the cache is changed meanwhile.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use strum::{EnumString, IntoStaticStr};

use crate::architecture::Architecture;
use crate::build::execution::{ExecutionArn, ExecutionName};
use crate::cache::config::{CacheName, CredentialSource, Publication, VolumeConfig};
use crate::cache::image::{Digest, ImageReference};
use crate::cache::variant::{BottlerocketVersion, Variant};
use crate::ids::{AmiId, InstanceId, SecurityGroupId, SnapshotId, SubnetId};
use crate::size::{Bytes, GiB};
use crate::snapshot::content_key::ContentKey;

/// One architecture of a cache within a build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The cache.
    pub cache: CacheName,
    /// The architecture.
    pub architecture: Architecture,
    /// The execution that builds it.
    pub execution: ExecutionName,
    /// When it was planned. Publication never goes from a later plan back to an earlier one.
    pub planned_at: Timestamp,
    /// When the build gives up.
    pub give_up_at: Timestamp,
    /// What the snapshot will hold, in one hash.
    pub content_key: ContentKey,
    /// What the snapshot will hold.
    pub images: Vec<PlannedImage>,
    /// The compressed size of all their layers, each counted once.
    pub packed: Bytes,
    /// Whether the kubelet may remove the images.
    pub pinning: Pinning,
    /// The variant to build on.
    pub variant: Variant,
    /// The image to boot the builder from.
    pub ami: Ami,
    /// What the data volume starts from.
    pub base: Base,
    /// The data volume.
    pub volume: VolumeConfig,
    /// The instance types to try, the most wanted first.
    pub instance_types: Vec<String>,
    /// The subnets to try, in order.
    pub subnet_ids: Vec<SubnetId>,
    /// The security groups of the builder.
    pub security_group_ids: Vec<SecurityGroupId>,
    /// Where the credentials of registries lie, by the registry's host.
    pub registry_credentials: BTreeMap<String, CredentialSource>,
    /// How many images are pulled at once; one more than the builder has vCPUs where it is not said.
    pub parallel_pulls: Option<u8>,
    /// How many snapshots are kept.
    pub retain_snapshots: u8,
    /// Who else may use the snapshot.
    pub publication: Publication,
}

/// An image with the digests that its reference resolved to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedImage {
    /// The reference as the cache names it.
    pub reference: ImageReference,
    /// What the reference points at: an index, or a manifest where there is no index.
    pub digest: Digest,
    /// The manifest for the target's architecture: the same as `digest` where there is no index.
    pub platform_digest: Digest,
    /// The compressed size of the manifest's layers together.
    pub size: Bytes,
    /// The position of the image that is pulled before this one: it brings layers that both begin with. Pulled side by
    /// side, each would unpack them.
    pub after: Option<usize>,
}

/// Whether the kubelet may remove an image to make room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pinning {
    /// Never, not even under disk pressure.
    Pinned,
    /// As it sees fit.
    Unpinned,
}

/// A Bottlerocket machine image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ami {
    /// Its ID.
    pub id: AmiId,
    /// The release that it boots.
    pub version: BottlerocketVersion,
}

/// What a builder's data volume starts from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Base {
    /// Nothing: every image is pulled.
    Empty {
        /// Why not from the last snapshot, for a person.
        reason: String,
    },
    /// A snapshot: what it lacks is pulled, what it has too much is removed.
    Snapshot {
        /// The snapshot.
        snapshot_id: SnapshotId,
        /// What the volume took when it was last built from nothing.
        fresh: DiskUsage,
    },
}

/// What images take, packed and on a volume.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskUsage {
    /// The compressed size of their layers, each counted once.
    pub packed: Bytes,
    /// Bytes in use on the volume that holds them.
    pub used: Bytes,
}

/// How much more a volume may hold than its images took when they were last pulled onto an empty one, in percent, before
/// the next build starts from nothing again.
///
/// Blocks that are left over are loaded by every node, so this bounds what a node pays for them. In chains of refreshes
/// on the local cloud containerd collected what was removed, so the limit is there for what it might miss.
const GARBAGE_LIMIT: u64 = 50;

impl DiskUsage {
    /// The bytes on this volume beyond what its images would take on an empty one, by what a volume took that was `fresh`;
    /// none where they are few.
    #[must_use]
    pub fn garbage(self, fresh: Self) -> Option<Bytes> {
        let expected = u128::from(self.packed.0) * u128::from(fresh.used.0)
            / u128::from(fresh.packed.0.max(1));
        let garbage = u128::from(self.used.0).saturating_sub(expected);
        (garbage * 100 > expected * u128::from(GARBAGE_LIMIT))
            .then(|| Bytes(u64::try_from(garbage).unwrap_or(u64::MAX)))
    }
}

/// What plan-build is called with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PlanInput {
    /// The cache, as whoever started the execution named it: parsed by plan-build, so that a wrong name gets its error.
    pub cache: String,
    /// The execution.
    pub execution: ExecutionArn,
}

/// What plan-build decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "decision", rename_all = "kebab-case")]
pub enum Plan {
    /// These targets are to be built; others of the cache may be up to date.
    Build {
        /// The targets.
        targets: Vec<Target>,
    },
    /// The published snapshots hold what the cache wants.
    UpToDate {
        /// The published snapshot of each architecture.
        snapshots: BTreeMap<Architecture, SnapshotId>,
    },
    /// A newer execution of the same cache waits too and will plan what this one would have.
    Superseded {
        /// The newer execution.
        by: ExecutionName,
    },
}

/// A running builder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Builder {
    /// The instance.
    pub instance_id: InstanceId,
    /// Its type.
    pub instance_type: String,
    /// When EC2 launched it.
    pub launched_at: Timestamp,
}

/// Input of launch-builder. Its output is a [`Builder`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchInput {
    /// The target to launch a builder for.
    pub target: Target,
}

/// Input of wait-for-ssm, whose output is a [`NodeInfo`], of pull-images ([`Pulled`]) and create-snapshot ([`Snapshot`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuilderInput {
    /// The target.
    pub target: Target,
    /// Its builder.
    pub builder: Builder,
}

/// What runs on the builder: what decides on which nodes its snapshot can be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Bottlerocket's release.
    pub bottlerocket_version: BottlerocketVersion,
    /// containerd's version.
    pub containerd_version: String,
    /// The kernel's release, whose XFS features the volume has.
    pub kernel_version: String,
    /// The snapshotter that unpacked the images. A node with another one deletes them.
    pub snapshotter: String,
    /// When the builder was ready.
    pub ready_at: Timestamp,
}

/// What pull-images verified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pulled {
    /// Bytes in use on the data volume.
    pub used: Bytes,
    /// How many images were missing and had to be pulled.
    pub pulled_images: u32,
    /// How many images were removed because the cache does not name them any more.
    pub removed_images: u32,
    /// When everything was verified.
    pub verified_at: Timestamp,
}

/// A completed snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Its ID.
    pub snapshot_id: SnapshotId,
    /// The size of its volume: the least size of a volume made from it.
    pub volume_size: GiB,
    /// When EBS started it.
    pub started_at: Timestamp,
    /// When it was seen completed.
    pub completed_at: Timestamp,
}

/// What a snapshot may be used for: the tag `prepull:state`. A snapshot that bears none is unfinished.
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
    /// Complete, and its images were verified.
    Verified,
    /// The one that nodes use.
    Published,
    /// Not to be used, and to be deleted.
    Rejected,
}

impl SnapshotState {
    /// Returns the value of the tag.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// Input of publish-snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishInput {
    /// The target.
    pub target: Target,
    /// Its builder.
    pub builder: Builder,
    /// What runs on the builder.
    pub node: NodeInfo,
    /// What was verified on it.
    pub pulled: Pulled,
    /// The snapshot of its data volume.
    pub snapshot: Snapshot,
}

/// Output of publish-snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// The snapshot.
    pub snapshot_id: SnapshotId,
    /// Whether nodes use it now.
    pub outcome: PublishOutcome,
}

/// Whether a snapshot became the one that nodes use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PublishOutcome {
    /// Nodes use it.
    Published,
    /// A snapshot of a later plan was published before; this one stays `verified`.
    Superseded,
}
