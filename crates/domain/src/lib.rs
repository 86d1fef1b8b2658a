//! Caches, builds, snapshots and nodes, and the rules between them.
//!
//! This crate calls no AWS API, reads no clock and no environment. Input is parsed at the edge into types that cannot hold
//! an invalid value.

mod architecture;
pub mod build;
pub mod cache;
pub mod ids;
pub mod names;
pub mod node;
pub mod pages;
mod size;
pub mod snapshot;
mod text;

pub use architecture::Architecture;
pub use build::error::{ErrorName, Launched, StageError};
pub use build::execution::{ExecutionArn, ExecutionName};
pub use build::failure::Failure;
pub use build::pull_progress::PullProgress;
pub use build::stage::Stage;
pub use cache::builder_settings::{BuilderSettings, MirrorEndpoint};
pub use cache::config::{CacheConfig, CacheName, InvalidConfig, Promotion};
pub use cache::image::{Digest, ImageReference};
pub use cache::variant::{BottlerocketVersion, OldRelease, Variant};
pub use cache::verification::{VerificationConfig, VerificationLevel};
pub use ids::{
    AccountId, AmiId, InstanceId, LaunchTemplateId, RegionName, SecurityGroupId, SnapshotId,
    SubnetId, VolumeId,
};
pub use size::{Bytes, GiB};
pub use snapshot::content_key::ContentKey;
pub use snapshot::manifest::{Manifest, ManifestImage};
pub use snapshot::pointer::{Decision, Pointer, PublishedSnapshot, Reason, Refusal};
pub use text::excerpt;
