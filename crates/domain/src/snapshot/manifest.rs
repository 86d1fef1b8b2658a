//! The manifest: the content and the history of a snapshot.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::architecture::Architecture;
use crate::build::execution::ExecutionName;
use crate::build::payload::{
    Base, DiskUsage, NodeInfo, PlannedImage, PublishInput, VerificationRecord,
};
use crate::cache::config::CacheName;
use crate::cache::image::{Digest, ImageReference};
use crate::cache::variant::Variant;
use crate::ids::SnapshotId;
use crate::node::TreesDigest;
use crate::pages::{self, MAX_PAGE_BYTES, MoreImages};
use crate::size::{Bytes, GiB};
use crate::snapshot::content_key::ContentKey;

/// Maximum bytes of a manifest without its images.
const WITHOUT_IMAGES_BYTES: usize = 2_200;

/// The content and the history of a snapshot, stored as JSON in SSM parameters: see [`Manifest::to_pages`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// ID of the snapshot.
    pub snapshot_id: SnapshotId,
    /// Cache of the snapshot.
    pub cache: CacheName,
    /// Architecture of the snapshot.
    pub architecture: Architecture,
    /// Execution that built it.
    pub execution: ExecutionName,
    /// Content key of the snapshot.
    pub content_key: ContentKey,
    /// Images in the snapshot.
    pub images: Vec<ManifestImage>,
    /// Variant of the builder.
    pub variant: Variant,
    /// Software on the builder.
    pub node: NodeInfo,
    /// Base of the builder's data volume.
    pub base: Base,
    /// Size of the snapshot's volume, which is the minimum size of a volume from this snapshot.
    pub volume_size: GiB,
    /// Bytes used on the volume.
    pub used: Bytes,
    /// Compressed size of the images' layers. Shared layers count once.
    pub packed: Bytes,
    /// Disk usage after the last cold build of this cache and architecture.
    pub fresh: DiskUsage,
    /// Instance type of the builder.
    pub instance_type: String,
    /// Time of the plan.
    pub planned_at: Timestamp,
    /// Time of the builder's launch. It is before the plan if the builder booted during the debounce.
    pub launched_at: Timestamp,
    /// Time at which pull-images verified every image.
    pub verified_at: Timestamp,
    /// Time at which EBS started the snapshot.
    pub snapshot_started_at: Timestamp,
    /// Time at which EBS completed the snapshot.
    pub completed_at: Timestamp,
    /// Verification on a second machine. `None` for earlier versions, and if the cache's level is `off`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verification: Option<VerificationRecord>,
    /// SHA-256 of the fingerprint of the unpacked images. `None` for snapshots without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trees: Option<TreesDigest>,
    /// Time just before publication, after the copies to other regions were complete.
    pub published_at: Timestamp,
}

/// A part of a build, between two times in its manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Stage that waited.
    pub stage: &'static str,
    /// Condition that the stage waited for.
    pub waited_for: &'static str,
    /// Start of the step.
    pub started_at: Timestamp,
    /// End of the step.
    pub ended_at: Timestamp,
}

/// An image in a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestImage {
    /// Reference, as in the cache's configuration.
    pub reference: ImageReference,
    /// Digest of the reference at the time of the plan.
    pub digest: Digest,
    /// Compressed size of its layers.
    pub size: Bytes,
}

impl ManifestImage {
    /// Returns the name of the image by its digest.
    #[must_use]
    pub fn by_digest(&self) -> String {
        self.reference.by_digest(&self.digest)
    }
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
    /// Returns the manifest of a snapshot that is about to be published at `published_at`.
    #[must_use]
    pub fn of(input: &PublishInput, published_at: Timestamp) -> Self {
        let PublishInput {
            target,
            builder,
            node,
            pulled,
            snapshot,
            verification,
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
            verification: verification.clone(),
            trees: snapshot.trees.as_ref().map(|trees| trees.digest.clone()),
            published_at,
        }
    }

    /// Returns the values of the manifest's parameters, the first page first. It has as many images as fit.
    ///
    /// # Panics
    /// Never, because strings and numbers always serialize.
    #[must_use]
    pub fn to_pages(&self) -> Vec<String> {
        let parts = pages::split(&self.images, MAX_PAGE_BYTES - WITHOUT_IMAGES_BYTES);
        let first = Self {
            images: parts[0].to_vec(),
            ..self.clone()
        };
        let mut first = json!(first);
        if parts.len() > 1 {
            first[pages::FIELD] = json!(MoreImages {
                pages: parts.len() - 1,
                folder: None,
            });
        }
        let more = parts[1..].iter().map(|part| json!(part).to_string());
        std::iter::once(first.to_string()).chain(more).collect()
    }

    /// Returns the disk usage of the snapshot.
    #[must_use]
    pub fn disk_usage(&self) -> DiskUsage {
        DiskUsage {
            packed: self.packed,
            used: self.used,
        }
    }

    /// Returns the steps of the build, from the plan to the publication.
    #[must_use]
    pub fn timeline(&self) -> Vec<Step> {
        let verified = self.verification.as_ref().map(|verification| {
            (
                "verify-snapshot",
                "a node that boots from the snapshot and checks it",
                verification.verified_at,
            )
        });
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
        ];
        let published = (
            "publish-snapshot",
            "copies to other regions",
            self.published_at,
        );
        let mut started_at = self.planned_at;
        let steps = steps.into_iter().chain(verified).chain([published]);
        let step = |(stage, waited_for, ended_at): (_, _, Timestamp)| {
            // A builder that was launched early booted during the debounce. The steps begin with the plan.
            let ended_at = ended_at.max(started_at);
            Step {
                stage,
                waited_for,
                started_at: std::mem::replace(&mut started_at, ended_at),
                ended_at,
            }
        };
        steps.map(step).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a manifest whose fields have their maximum length, with `count` images of 125 characters.
    fn manifest(count: usize) -> Manifest {
        let digest = format!("sha256:{}", "c".repeat(64));
        let images: Vec<_> = (0..count)
            .map(|n| {
                let host = "123456789012.dkr.ecr.eu-west-1.amazonaws.com";
                let reference = format!("{host}/{}/{n:03}:v1", "p".repeat(73));
                assert_eq!(reference.len(), 125);
                json!({"reference": reference, "digest": digest, "size": 1_000_000_000_u64})
            })
            .collect();
        let time = "2026-01-02T03:04:05.123456789Z";
        serde_json::from_value(json!({
            "snapshot_id": "snap-0123456789abcdef0",
            "cache": "a".repeat(32),
            "architecture": "x86_64",
            "execution": "e".repeat(80),
            "content_key": "c".repeat(64),
            "images": images,
            "variant": "aws-k8s-1.33-fips",
            "node": {
                "bottlerocket_version": "100.100.100",
                "containerd_version": "v".repeat(64),
                "kernel_version": "k".repeat(64),
                "snapshotter": "overlayfs",
                "ready_at": time
            },
            "base": {"kind": "empty", "reason": "r".repeat(300)},
            "volume_size": 16384,
            "used": u64::MAX,
            "packed": u64::MAX,
            "fresh": {"packed": u64::MAX, "used": u64::MAX},
            "instance_type": "i".repeat(32),
            "planned_at": time,
            "launched_at": time,
            "verified_at": time,
            "snapshot_started_at": time,
            "completed_at": time,
            "verification": {
                "level": "records",
                "releases": ["100.100.100", "100.100.101", "100.100.102", "100.100.103"],
                "seconds": u32::MAX,
                "bytes": u64::MAX,
                "trees": u32::MAX,
                "verified_at": time
            },
            "trees": "c".repeat(64),
            "published_at": time
        }))
        .unwrap()
    }

    fn joined(pages: &[String]) -> Manifest {
        let page = |name: &str| {
            let (folder, number) = name.rsplit_once('/').unwrap();
            assert_eq!(folder, "/first");
            pages.get(number.parse::<usize>().unwrap() - 1).cloned()
        };
        let json = pages::join("/first", pages[0].clone(), page).unwrap();
        serde_json::from_str(&json).unwrap()
    }

    #[test]
    fn manifest_of_200_images_has_14_standard_pages() {
        let manifest = manifest(200);
        let pages = manifest.to_pages();
        assert_eq!(pages.len(), 14);
        assert!(pages.iter().all(|page| page.len() <= MAX_PAGE_BYTES));
        assert_eq!(joined(&pages), manifest);
    }

    #[test]
    fn small_manifest_has_one_page_of_the_old_form() {
        let manifest = manifest(7);
        let pages = manifest.to_pages();
        assert_eq!(pages.len(), 1);
        let read: serde_json::Value = serde_json::from_str(&pages[0]).unwrap();
        assert_eq!(read, json!(manifest));
    }

    #[test]
    fn manifest_of_an_earlier_version_has_no_verification() {
        let mut json = json!(manifest(1));
        for field in ["verification", "trees"] {
            json.as_object_mut().unwrap().remove(field);
        }
        let read: Manifest = serde_json::from_value(json.clone()).unwrap();
        assert_eq!((&read.verification, &read.trees), (&None, &None));
        assert_eq!(json!(read), json);
        assert_eq!(read.timeline().len(), 6);
        assert_eq!(manifest(1).timeline()[5].stage, "verify-snapshot");
    }

    #[test]
    fn further_pages_do_not_depend_on_times() {
        let earlier = manifest(50);
        let later = Manifest {
            published_at: "2026-01-02T03:04:05Z".parse().unwrap(),
            ..earlier.clone()
        };
        assert_eq!(earlier.to_pages()[1..], later.to_pages()[1..]);
    }

    #[test]
    fn timeline_of_an_early_builder_begins_with_the_plan() {
        let mut early = manifest(1);
        let second = |second| Timestamp::from_second(second).unwrap();
        early.planned_at = second(60);
        early.launched_at = second(5);
        early.node.ready_at = second(62);
        let timeline = early.timeline().into_iter().take(2);
        let times: Vec<_> = timeline
            .map(|step| (step.started_at, step.ended_at))
            .collect();
        assert_eq!(times, [(second(60), second(60)), (second(60), second(62))]);
    }
}
