//! The ways in which a stage ends without doing what it is for.

use std::time::Duration;

use strum::{EnumDiscriminants, EnumString, IntoStaticStr, VariantArray};

use crate::cache::config::InvalidConfig;
use crate::cache::image::ImageReference;
use crate::ids::{InstanceId, SnapshotId};
use crate::size::{Bytes, GiB};

/// Every failure of a stage. [`StageError::name`] is what the state machine matches; the message is for a person.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, EnumDiscriminants)]
#[strum_discriminants(
    name(ErrorName),
    derive(EnumString, IntoStaticStr, VariantArray),
    doc = "Error name of a [`StageError`]. Executions show it, and it is the heading of the error in \
        docs/operations.md."
)]
pub enum StageError {
    /// The stage did not reach its end before the function's deadline. The state machine calls it again.
    #[error("{NOT_DONE_YET}{0}")]
    StillRunning(String),
    /// AWS throttled the call or answered 5xx after the SDK's own retries. The state machine calls the stage again.
    #[error("{call} was throttled or got no answer: {message}")]
    Throttled {
        /// Service and action: `ec2:RunInstances`.
        call: &'static str,
        /// AWS's message.
        message: String,
    },
    /// The function's role may not do what the stage needs.
    #[error(
        "{call} was denied: {message}. Allow it in the function's role, or change the boundary, SCP or key policy \
         that denies it"
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
    #[error("cannot handle the event: {0}")]
    InvalidEvent(String),
    /// A cache's configuration is missing or wrong.
    #[error(transparent)]
    InvalidConfig(#[from] InvalidConfig),
    /// A registry does not have an image, or not for the wanted platform.
    #[error("image `{image}` is not available: {problem}")]
    ImageNotFound {
        /// The image.
        image: ImageReference,
        /// What is missing.
        problem: String,
    },
    /// A registry refused the credentials, or wanted some where none are configured.
    #[error("image `{image}` was denied by its registry: {problem}")]
    RegistryDenied {
        /// The image.
        image: ImageReference,
        /// What the registry said and what to do.
        problem: String,
    },
    /// No instance type in no subnet had capacity.
    #[error(
        "no capacity for a builder: {tried}. Add instance types or subnets to the cache's `builder`"
    )]
    CapacityUnavailable {
        /// Every attempt, with EC2's answer.
        tried: String,
    },
    /// The account's quota forbids another instance.
    #[error(
        "launching a builder exceeds a quota: {0}. Request a higher quota in Service Quotas, or use smaller instance \
         types"
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
    #[error("verification of the builder's images failed: {0}")]
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
        "snapshot {snapshot} could not be published: {problem}. Nodes keep using the previous snapshot"
    )]
    PublishFailed {
        /// The snapshot, which stays `verified`.
        snapshot: SnapshotId,
        /// Which step, and why.
        problem: String,
    },
}

/// Start of the message of [`StageError::StillRunning`].
const NOT_DONE_YET: &str = "not done yet: ";

impl StageError {
    /// The name by which Step Functions matches the error in `Retry` and `Catch`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        ErrorName::from(self).into()
    }

    /// Returns the progress in the message of a [`StageError::StillRunning`]. Returns `message` if it has another wording,
    /// because the functions can be of another version than the reader.
    #[must_use]
    pub fn progress_in(message: &str) -> &str {
        message.strip_prefix(NOT_DONE_YET).unwrap_or(message)
    }
}

impl ErrorName {
    /// All of them, in the order of [`StageError`].
    pub const ALL: &[Self] = Self::VARIANTS;

    /// What an operator does when a build has ended with it, in one sentence. The message says more where more is known.
    #[must_use]
    pub fn remedy(self) -> &'static str {
        match self {
            Self::StillRunning => {
                "Check the resource that the message is waiting for, and start the build again"
            }
            Self::Throttled => {
                "Start the build again; if it fails again, check the AWS Health Dashboard and the account's other \
                 API traffic"
            }
            Self::AccessDenied => {
                "Find the permissions boundary, service control policy or key policy that denies the call to the \
                 function's role, and allow the call"
            }
            Self::AwsFailed => "Fix the cause in the service's message, and start the build again",
            Self::InvalidEvent => {
                "Find the caller of the function or the state machine, and correct its input"
            }
            Self::InvalidConfig => {
                "Correct the setting from the message in the cache's declaration, and run `terraform apply`"
            }
            Self::ImageNotFound => {
                "Push the image for every architecture of the cache, correct the reference, or remove it from the \
                 cache"
            }
            Self::RegistryDenied => {
                "Correct the cache's `registry_credentials`, or allow prepull's roles to pull from the repository"
            }
            Self::CapacityUnavailable => {
                "Add instance types, or subnets in other zones, to the cache's `builder`"
            }
            Self::QuotaExceeded => {
                "Request a higher quota in Service Quotas, or use smaller instance types"
            }
            Self::BuilderLost => {
                "Start the build again; if it happens often, find the caller of `TerminateInstances` or \
                 `StopInstances` in CloudTrail"
            }
            Self::NeverReady => {
                "Check that the builders' subnets reach Systems Manager, ECR and S3"
            }
            Self::PullFailed => {
                "Check that the builders reach the registry and that it serves the image, and start the build again"
            }
            Self::DiskFull => "Raise the cache's `volume.size_gib` to the size in the message",
            Self::VerifyFailed => "Start the build again; if it fails again, report it",
            Self::SnapshotFailed => {
                "Start the build again; if it fails again, check the step in the message and the policy of the KMS \
                 key"
            }
            Self::PublishFailed => {
                "Fix the parameter, region, account or key in the message, and start the build again"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_s_name_is_its_variant_s() {
        let error = StageError::Throttled {
            call: "ec2:RunInstances",
            message: String::new(),
        };
        assert_eq!(error.name(), "Throttled");
        assert_eq!("Throttled".parse(), Ok(ErrorName::Throttled));
    }

    #[test]
    fn still_running_message_yields_its_progress() {
        let message = StageError::StillRunning("3 of 8 images pulled".to_owned()).to_string();
        assert_eq!(message, "not done yet: 3 of 8 images pulled");
        assert_eq!(StageError::progress_in(&message), "3 of 8 images pulled");
        assert_eq!(StageError::progress_in("other wording"), "other wording");
    }

    #[test]
    fn a_remedy_is_one_sentence_without_its_full_stop() {
        for name in ErrorName::ALL {
            let remedy = name.remedy();
            assert!(remedy.starts_with(char::is_uppercase), "{remedy}");
            assert!(!remedy.ends_with('.') && !remedy.contains(". "), "{remedy}");
        }
    }
}
