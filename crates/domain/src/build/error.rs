//! The errors of the stages.

use std::time::Duration;

use strum::{EnumDiscriminants, EnumString, IntoStaticStr, VariantArray};

use crate::cache::config::InvalidConfig;
use crate::cache::image::ImageReference;
use crate::ids::{InstanceId, SnapshotId};
use crate::size::{Bytes, GiB};

/// An error of a stage. The state machine matches [`StageError::name`]. The message is for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, EnumDiscriminants)]
#[strum_discriminants(
    name(ErrorName),
    derive(EnumString, IntoStaticStr, VariantArray),
    doc = "The name of a [`StageError`]: what is left of it in an execution, and the heading of its entry in the runbook."
)]
pub enum StageError {
    /// The stage did not finish before the function's deadline. The state machine calls it again.
    #[error("not done yet: {0}")]
    StillRunning(String),
    /// AWS throttled the call or answered 5xx, even after the SDK's retries. The state machine calls the stage again.
    #[error("{call} was throttled or unavailable: {message}")]
    Throttled {
        /// Service and action, for example `ec2:RunInstances`.
        call: &'static str,
        /// AWS's message.
        message: String,
    },
    /// The function's role lacks a permission.
    #[error(
        "{call} was denied: {message}. Grant it to this function's role, or undo what took it away (a boundary, an SCP, a key policy)"
    )]
    AccessDenied {
        /// Service and action.
        call: &'static str,
        /// AWS's message.
        message: String,
    },
    /// An AWS call failed for a reason that no stage handles.
    #[error("{call} failed: {message}")]
    AwsFailed {
        /// Service and action.
        call: &'static str,
        /// AWS's error code and message.
        message: String,
    },
    /// The function does not accept this event or call.
    #[error("this event is not taken: {0}")]
    InvalidEvent(String),
    /// A cache's configuration is missing or invalid.
    #[error(transparent)]
    InvalidConfig(#[from] InvalidConfig),
    /// A registry does not have an image, or not for the wanted platform.
    #[error("image `{image}`: {problem}")]
    ImageNotFound {
        /// The image.
        image: ImageReference,
        /// The missing part.
        problem: String,
    },
    /// A registry refused the credentials, or requires credentials and none are configured.
    #[error("image `{image}`: the registry denied access: {problem}")]
    RegistryDenied {
        /// The image.
        image: ImageReference,
        /// The registry's answer, and a remedy.
        problem: String,
    },
    /// No instance type had capacity in any subnet.
    #[error(
        "no capacity for a builder: {tried}. Name more instance types or subnets in the cache's `builder`"
    )]
    CapacityUnavailable {
        /// Every attempt, with EC2's answer.
        tried: String,
    },
    /// The account's quota does not allow another instance.
    #[error(
        "EC2 refused a builder for a quota: {0}. Ask for a larger one in Service Quotas, or name a smaller instance type"
    )]
    QuotaExceeded(String),
    /// The builder stopped or terminated during the build.
    #[error("builder {instance} was lost: {problem}")]
    BuilderLost {
        /// The instance.
        instance: InstanceId,
        /// Its state and EC2's reason.
        problem: String,
    },
    /// The builder runs but never became ready.
    #[error("builder {instance} was not ready after {} s: {problem}", waited.as_secs())]
    NeverReady {
        /// The instance.
        instance: InstanceId,
        /// Time since its launch.
        waited: Duration,
        /// The missing part: the agent, the admin container or containerd.
        problem: String,
    },
    /// An image could not be pulled.
    #[error("image `{image}` could not be pulled: {problem}")]
    PullFailed {
        /// The image.
        image: ImageReference,
        /// Last message of the pull.
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
        /// Sufficient size.
        wanted: GiB,
    },
    /// The builder's content differs from the plan.
    #[error("the builder does not hold what was planned: {0}")]
    VerifyFailed(String),
    /// create-snapshot could not create the snapshot.
    #[error("snapshot of builder {instance} failed: {problem}")]
    SnapshotFailed {
        /// The instance.
        instance: InstanceId,
        /// The failed step, and the reason.
        problem: String,
    },
    /// A verified snapshot could not be published.
    #[error(
        "snapshot {snapshot} could not be published: {problem}. The one published before stays in use"
    )]
    PublishFailed {
        /// The snapshot. It stays `verified`.
        snapshot: SnapshotId,
        /// The failed step, and the reason.
        problem: String,
    },
}

impl StageError {
    /// Returns the error name, which Step Functions matches in `Retry` and `Catch`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        ErrorName::from(self).into()
    }
}

impl ErrorName {
    /// All names, in the order of [`StageError`].
    pub const ALL: &[Self] = Self::VARIANTS;

    /// Returns the remedy for an operator, in one sentence. The error message can be more specific.
    #[must_use]
    pub fn remedy(self) -> &'static str {
        match self {
            Self::StillRunning => {
                "Look at what the message says it waited for, and start the build again"
            }
            Self::Throttled => {
                "Start the build again; if it stays, look at the service's health and at what else uses up the account's API rate"
            }
            Self::AccessDenied => {
                "Find the permissions boundary, service control policy or key policy that denies the call to the function's role, and let it through"
            }
            Self::AwsFailed => "Put right what the service's message complains of",
            Self::InvalidEvent => {
                "Find out what else calls prepull's functions or starts its state machine, and with what input"
            }
            Self::InvalidConfig => {
                "Change the value that the message names in the cache's declaration, and apply"
            }
            Self::ImageNotFound => {
                "Push the image for every architecture of the cache, correct its name, or remove it from the cache"
            }
            Self::RegistryDenied => {
                "Correct the cache's `registry_credentials`, or let prepull's roles read the repository"
            }
            Self::CapacityUnavailable => {
                "Name more instance types, or subnets in more zones, in the cache's `builder`"
            }
            Self::QuotaExceeded => {
                "Ask for a larger quota in Service Quotas, or name smaller instance types"
            }
            Self::BuilderLost => {
                "Start the build again; if it happens often, find out in CloudTrail who terminates or stops builders"
            }
            Self::NeverReady => "See that the builders' subnets reach Systems Manager, ECR and S3",
            Self::PullFailed => {
                "See that the builders reach the registry and that it serves the image, and start the build again"
            }
            Self::DiskFull => "Raise the cache's `volume.size_gib` to what the message says",
            Self::VerifyFailed => "Start the build again; if it stays, report it",
            Self::SnapshotFailed => {
                "Start the build again; if it stays, look at the step that the message names, and at the KMS key's policy"
            }
            Self::PublishFailed => {
                "Put right what the message names: the right to a parameter, a region to copy to, an account to share with, a key"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_has_the_name_of_its_variant() {
        let error = StageError::Throttled {
            call: "ec2:RunInstances",
            message: String::new(),
        };
        assert_eq!(error.name(), "Throttled");
        assert_eq!("Throttled".parse(), Ok(ErrorName::Throttled));
    }

    #[test]
    fn remedy_is_one_sentence_without_a_full_stop() {
        for name in ErrorName::ALL {
            let remedy = name.remedy();
            assert!(remedy.starts_with(char::is_uppercase), "{remedy}");
            assert!(!remedy.ends_with('.') && !remedy.contains(". "), "{remedy}");
        }
    }
}
