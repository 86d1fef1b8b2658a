//! The ways in which a stage ends without doing what it is for.

use std::time::Duration;

use crate::ids::{InstanceId, SnapshotId};
use crate::image::ImageReference;
use crate::size::{Bytes, GiB};

/// Every failure of a stage. [`StageError::name`] is what the state machine matches; the message is for a person.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StageError {
    /// The stage did not reach its end before the function's deadline. The state machine calls it again.
    #[error("not done yet: {0}")]
    StillRunning(String),
    /// AWS throttled the call or answered 5xx after the SDK's own retries. The state machine calls the stage again.
    #[error("{call} was throttled or unavailable: {message}")]
    Throttled {
        /// Service and action: `ec2:RunInstances`.
        call: &'static str,
        /// AWS's message.
        message: String,
    },
    /// The function's role may not do what the stage needs.
    #[error(
        "{call} was denied: {message}. Grant it to this function's role, or undo what took it away (a boundary, an SCP, a key policy)"
    )]
    AccessDenied {
        /// Service and action.
        call: &'static str,
        /// AWS's message.
        message: String,
    },
    /// An AWS call failed in a way that no stage expects.
    #[error("{call} failed: {message}")]
    AwsFailed {
        /// Service and action.
        call: &'static str,
        /// AWS's error code and message.
        message: String,
    },
    /// An event or a call that the function does not take.
    #[error("this event is not taken: {0}")]
    InvalidEvent(String),
    /// A cache's configuration is missing or wrong.
    #[error("cache `{cache}`: {problem}")]
    InvalidConfig {
        /// The cache, as it was named.
        cache: String,
        /// What is wrong, where, and what to do.
        problem: String,
    },
    /// A registry does not have an image, or not for the wanted platform.
    #[error("image `{image}`: {problem}")]
    ImageNotFound {
        /// The image.
        image: ImageReference,
        /// What is missing.
        problem: String,
    },
    /// A registry refused the credentials, or wanted some where none are configured.
    #[error("image `{image}`: the registry denied access: {problem}")]
    RegistryDenied {
        /// The image.
        image: ImageReference,
        /// What the registry said and what to do.
        problem: String,
    },
    /// No instance type in no subnet had capacity.
    #[error(
        "no capacity for a builder: {tried}. Name more instance types or subnets in the cache's `builder`"
    )]
    CapacityUnavailable {
        /// Every attempt, with EC2's answer.
        tried: String,
    },
    /// The account's quota forbids another instance.
    #[error(
        "EC2 refused a builder for a quota: {0}. Ask for a larger one in Service Quotas, or name a smaller instance type"
    )]
    QuotaExceeded(String),
    /// The builder is gone, or going, while it is needed.
    #[error("builder {instance} was lost: {problem}")]
    BuilderLost {
        /// The instance.
        instance: InstanceId,
        /// Its state and EC2's reason.
        problem: String,
    },
    /// The builder runs but never became usable.
    #[error("builder {instance} was not ready after {} s: {problem}", waited.as_secs())]
    NeverReady {
        /// The instance.
        instance: InstanceId,
        /// How long was waited since its launch.
        waited: Duration,
        /// What did not come: the agent, the admin container, containerd.
        problem: String,
    },
    /// An image could not be pulled.
    #[error("image `{image}` could not be pulled: {problem}")]
    PullFailed {
        /// The image.
        image: ImageReference,
        /// What the puller said last.
        problem: String,
    },
    /// The volume is too small for the images.
    #[error(
        "the data volume is too full: {used} used of {size}. Set the cache's `volume.size_gib` to at least {wanted}"
    )]
    DiskFull {
        /// Bytes in use on the volume.
        used: Bytes,
        /// The volume's size.
        size: Bytes,
        /// The size that would do.
        wanted: GiB,
    },
    /// What lies on the builder is not what was planned.
    #[error("the builder does not hold what was planned: {0}")]
    VerifyFailed(String),
    /// The snapshot could not be made.
    #[error("snapshot of builder {instance} failed: {problem}")]
    SnapshotFailed {
        /// The instance.
        instance: InstanceId,
        /// Which step, and why.
        problem: String,
    },
    /// A verified snapshot could not be made the one that nodes use.
    #[error(
        "snapshot {snapshot} could not be published: {problem}. The one published before stays in use"
    )]
    PublishFailed {
        /// The snapshot, which stays `verified`.
        snapshot: SnapshotId,
        /// Which step, and why.
        problem: String,
    },
}

impl StageError {
    /// The name by which Step Functions matches the error in `Retry` and `Catch`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::StillRunning(_) => "StillRunning",
            Self::Throttled { .. } => "Throttled",
            Self::AccessDenied { .. } => "AccessDenied",
            Self::AwsFailed { .. } => "AwsFailed",
            Self::InvalidEvent(_) => "InvalidEvent",
            Self::InvalidConfig { .. } => "InvalidConfig",
            Self::ImageNotFound { .. } => "ImageNotFound",
            Self::RegistryDenied { .. } => "RegistryDenied",
            Self::CapacityUnavailable { .. } => "CapacityUnavailable",
            Self::QuotaExceeded(_) => "QuotaExceeded",
            Self::BuilderLost { .. } => "BuilderLost",
            Self::NeverReady { .. } => "NeverReady",
            Self::PullFailed { .. } => "PullFailed",
            Self::DiskFull { .. } => "DiskFull",
            Self::VerifyFailed(_) => "VerifyFailed",
            Self::SnapshotFailed { .. } => "SnapshotFailed",
            Self::PublishFailed { .. } => "PublishFailed",
        }
    }
}
