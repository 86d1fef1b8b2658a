//! Caches, builds, targets and snapshots, and the rules between them.
//!
//! This crate calls no AWS API, reads no clock and no environment variable. Callers parse external input into its types
//! once, at the edge. A value of such a type is always valid.

pub mod architecture;
pub mod clean_up;
pub mod config;
pub mod content_key;
pub mod error;
pub mod estimate;
pub mod execution;
pub mod failure;
pub mod ids;
pub mod image;
pub mod manifest;
pub mod names;
pub mod node;
pub mod prices;
pub mod pull_progress;
pub mod queue;
pub mod size;
pub mod stage;
pub mod stages;
pub mod trigger;
pub mod variant;

pub use architecture::Architecture;
pub use config::{CacheConfig, CacheName};
pub use content_key::ContentKey;
pub use error::{ErrorName, StageError};
pub use execution::{ExecutionArn, ExecutionName};
pub use failure::Failure;
pub use ids::{
    AccountId, AmiId, InstanceId, RegionName, SecurityGroupId, SnapshotId, SubnetId, VolumeId,
};
pub use image::{Digest, ImageReference};
pub use manifest::Manifest;
pub use pull_progress::PullProgress;
pub use size::{Bytes, GiB};
pub use stage::Stage;
pub use variant::{BottlerocketVersion, Variant};
