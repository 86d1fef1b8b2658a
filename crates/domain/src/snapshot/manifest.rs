//! The manifest: what a snapshot holds and how it came to be.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::architecture::Architecture;
use crate::build::execution::ExecutionName;
use crate::build::payload::{Base, DiskUsage, NodeInfo, PlannedImage, PublishInput};
use crate::cache::config::CacheName;
use crate::cache::image::{Digest, ImageReference};
use crate::cache::variant::Variant;
use crate::ids::SnapshotId;
use crate::size::{Bytes, GiB};
use crate::snapshot::content_key::ContentKey;

/// The most bytes that the value of an SSM parameter holds.
///
/// Source: Parameter Store's quota for an advanced parameter, 8 KB.
pub const MAX_PARAMETER_BYTES: usize = 8_192;

/// What a snapshot holds and how it came to be. Stored as JSON in one SSM parameter for each snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The snapshot.
    pub snapshot_id: SnapshotId,
    /// The cache it was built for.
    pub cache: CacheName,
    /// Its architecture.
    pub architecture: Architecture,
    /// The execution that built it.
    pub execution: ExecutionName,
    /// What it holds, in one hash.
    pub content_key: ContentKey,
    /// What it holds.
    pub images: Vec<ManifestImage>,
    /// The variant that it was built on.
    pub variant: Variant,
    /// The software that it was built with.
    pub node: NodeInfo,
    /// What it was built from.
    pub base: Base,
    /// The size of its volume: the least size of a volume made from it.
    pub volume_size: GiB,
    /// Bytes in use on the volume.
    pub used: Bytes,
    /// The compressed size of the images' layers, each counted once.
    pub packed: Bytes,
    /// What the last volume of this cache and architecture took that was built from nothing.
    pub fresh: DiskUsage,
    /// The builder's instance type.
    pub instance_type: String,
    /// When it was planned.
    pub planned_at: Timestamp,
    /// When the builder was launched.
    pub launched_at: Timestamp,
    /// When every image was there and unpacked.
    pub verified_at: Timestamp,
    /// When EBS started the snapshot.
    pub snapshot_started_at: Timestamp,
    /// When the snapshot was complete.
    pub completed_at: Timestamp,
    /// When all copies of it were complete and it was about to be published.
    pub published_at: Timestamp,
}

/// A part of a build between two moments that its manifest tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Step {
    /// The stage that waited.
    pub stage: &'static str,
    /// What it waited for.
    pub waited_for: &'static str,
    /// When it began.
    pub started_at: Timestamp,
    /// When it was over.
    pub ended_at: Timestamp,
}

/// An image in a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestImage {
    /// The reference as the cache names it.
    pub reference: ImageReference,
    /// What it resolved to.
    pub digest: Digest,
    /// The compressed size of its layers.
    pub size: Bytes,
}

impl From<&PlannedImage> for ManifestImage {
    fn from(planned: &PlannedImage) -> Self {
        Self {
            reference: planned.reference.clone(),
            digest: planned.digest.clone(),
            size: planned.size,
        }
    }
}

impl Manifest {
    /// The manifest of what is about to be published at `published_at`.
    #[must_use]
    pub fn of(input: &PublishInput, published_at: Timestamp) -> Self {
        let PublishInput {
            target,
            builder,
            node,
            pulled,
            snapshot,
        } = input;
        let images = target.images.iter().map(ManifestImage::from).collect();
        let fill = DiskUsage {
            packed: target.packed,
            used: pulled.used,
        };
        Self {
            snapshot_id: snapshot.snapshot_id.clone(),
            cache: target.cache.clone(),
            architecture: target.architecture,
            execution: target.execution.clone(),
            content_key: target.content_key.clone(),
            images,
            variant: target.variant.clone(),
            node: node.clone(),
            base: target.base.clone(),
            volume_size: snapshot.volume_size,
            used: fill.used,
            packed: fill.packed,
            fresh: match target.base {
                Base::Empty { .. } => fill,
                Base::Snapshot { fresh, .. } => fresh,
            },
            instance_type: builder.instance_type.clone(),
            planned_at: target.planned_at,
            launched_at: builder.launched_at,
            verified_at: pulled.verified_at,
            snapshot_started_at: snapshot.started_at,
            completed_at: snapshot.completed_at,
            published_at,
        }
    }

    /// What it takes.
    #[must_use]
    pub fn fill(&self) -> DiskUsage {
        DiskUsage {
            packed: self.packed,
            used: self.used,
        }
    }

    /// Where the time of the build went, from the plan to the publication.
    #[must_use]
    pub fn timeline(&self) -> [Step; 6] {
        let steps = [
            ("launch-builder", "EC2 capacity", self.launched_at),
            (
                "wait-for-ssm",
                "the instance, its agent, its admin container and containerd",
                self.node.ready_at,
            ),
            (
                "pull-images",
                "pulling and unpacking the images",
                self.verified_at,
            ),
            (
                "create-snapshot",
                "the scrub and the power-off",
                self.snapshot_started_at,
            ),
            (
                "create-snapshot",
                "EBS to store the changed blocks",
                self.completed_at,
            ),
            (
                "publish-snapshot",
                "copies to other regions",
                self.published_at,
            ),
        ];
        let mut started_at = self.planned_at;
        steps.map(|(stage, waited_for, ended_at)| Step {
            stage,
            waited_for,
            started_at: std::mem::replace(&mut started_at, ended_at),
            ended_at,
        })
    }
}
