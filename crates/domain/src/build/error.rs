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
    doc = "Error name of a [`StageError`]. Executions show it, and it is the heading of the error in \
        docs/operations.md."
)]
pub enum StageError {
    /// The stage did not finish before the function's deadline. The state machine calls it again.
    #[error("{NOT_DONE_YET}{0}")]
    StillRunning(String),
    /// AWS throttled the call or answered 5xx, even after the SDK's retries. The state machine calls the stage again.
    #[error("{call} was throttled or got no answer: {message}")]
    Throttled {
        /// Service and action, for example `ec2:RunInstances`.
        call: &'static str,
        /// AWS's message.
        message: String,
    },
    /// The function's role lacks a permission.
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
    /// An AWS call failed for a reason that no stage handles.
    #[error("{call} failed: {message}")]
    AwsFailed {
        /// Service and action.
        call: &'static str,
        /// AWS's error code and message.
        message: String,
    },
    /// The function does not accept this event or call.
    #[error("cannot handle the event: {0}")]
    InvalidEvent(String),
    /// A cache's configuration is missing or invalid.
    #[error(transparent)]
    InvalidConfig(#[from] InvalidConfig),
    /// A registry does not have an image, or not for the wanted platform.
    #[error("image `{image}` is not available: {problem}")]
    ImageNotFound {
        /// The image.
        image: ImageReference,
        /// The missing part.
        problem: String,
    },
    /// A registry refused the credentials, or requires credentials and none are configured.
    #[error("image `{image}` was denied by its registry: {problem}")]
    RegistryDenied {
        /// The image.
        image: ImageReference,
        /// The registry's answer, and a remedy.
        problem: String,
    },
    /// A registry did not answer, or limits requests, even after retries. The state machine calls the stage again.
    #[error("image `{image}` got no usable answer from its registry: {problem}")]
    RegistryUnavailable {
        /// The image.
        image: ImageReference,
        /// The registry's answer, and a remedy.
        problem: String,
    },
    /// No instance type had capacity in any subnet.
    #[error(
        "no capacity for an instance: {tried}. Add instance types or subnets to the cache's `builder`"
    )]
    CapacityUnavailable {
        /// Every attempt, with EC2's answer.
        tried: String,
    },
    /// The account's quota does not allow another instance.
    #[error(
        "launching an instance exceeds a quota: {0}. Request a higher quota in Service Quotas, or use smaller instance \
         types"
    )]
    QuotaExceeded(String),
    /// AWS restricts the account: it is not verified or subscribed, or its plan excludes every instance type.
    #[error(
        "AWS does not let this account launch an instance: {0}. Complete the account's registration, or upgrade it from \
         the Free plan"
    )]
    AccountRestricted(String),
    /// An instance ended at its launch, because EC2 could not use the KMS key of its volumes.
    #[error(
        "{} ended at its launch: {problem}. EC2 usually reports this if it cannot use the KMS key of the volumes: {}",
        launched.subject(instance),
        launched.keys()
    )]
    KeyUnusable {
        /// The purpose of the instance.
        launched: Launched,
        /// The instance.
        instance: InstanceId,
        /// Its state and EC2's reason.
        problem: String,
    },
    /// The builder stopped or terminated during the build.
    #[error("builder {instance} was lost: {problem}")]
    BuilderLost {
        /// The instance.
        instance: InstanceId,
        /// Its state and EC2's reason.
        problem: String,
    },
    /// A verifier stopped or terminated during the verification.
    #[error("verifier {instance} was lost: {problem}. The snapshot stays unverified")]
    VerifierLost {
        /// The instance.
        instance: InstanceId,
        /// Its state and EC2's reason.
        problem: String,
    },
    /// A builder or a verifier runs but never became ready.
    #[error("instance {instance} was not ready after {} s: {problem}", waited.as_secs())]
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
    /// The content of the builder or of its snapshot differs from the plan.
    #[error("verification failed: {0}")]
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
        "snapshot {snapshot} could not be published: {problem}. Nodes keep using the previous snapshot"
    )]
    PublishFailed {
        /// The snapshot. It stays `verified`.
        snapshot: SnapshotId,
        /// The failed step, and the reason.
        problem: String,
    },
}

/// The purpose of an instance, in the message of a [`StageError::KeyUnusable`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Launched {
    /// It pulls images.
    Builder,
    /// It verifies this snapshot.
    Verifier(SnapshotId),
}

impl Launched {
    fn subject(&self, instance: &InstanceId) -> String {
        match self {
            Self::Builder => format!("builder {instance}"),
            Self::Verifier(snapshot) => format!("verifier {instance} of {snapshot}"),
        }
    }

    /// Returns the keys of the instance's volumes, and a remedy.
    fn keys(&self) -> String {
        match self {
            Self::Builder => "the cache's `volume.kms_key_id`, or else the account's default key for EBS. Enable the key, \
                and allow launch-builder's role to use it in the key policy"
                .to_owned(),
            Self::Verifier(snapshot) => format!(
                "that of {snapshot}, the cache's `volume.kms_key_id`, or else the account's default key for EBS. Enable the \
                 key, and allow the role of verify-snapshot, or the caller of `prepull verify`, to use it in the key policy"
            ),
        }
    }
}

/// Start of the message of [`StageError::StillRunning`].
const NOT_DONE_YET: &str = "not done yet: ";

impl StageError {
    /// Returns the error name, which Step Functions matches in `Retry` and `Catch`.
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
    /// All names, in the order of [`StageError`].
    pub const ALL: &[Self] = Self::VARIANTS;

    /// Returns the remedy for an operator, in one sentence. The error message can be more specific.
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
            Self::RegistryUnavailable => {
                "Check the registry's status, and that prepull's functions reach it; if it limits requests, add \
                 credentials to `registry_credentials` or use a pull-through cache in ECR; then start the build again"
            }
            Self::CapacityUnavailable => {
                "Add instance types, or subnets in other zones, to the cache's `builder`"
            }
            Self::QuotaExceeded => {
                "Request a higher quota in Service Quotas, or use smaller instance types"
            }
            Self::AccountRestricted => {
                "Complete the account's registration with AWS, or upgrade it from the Free plan"
            }
            Self::KeyUnusable => {
                "Enable the KMS key of the volumes, and allow the role that launches the instance to use it in the key \
                 policy"
            }
            Self::BuilderLost | Self::VerifierLost => {
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
            Self::VerifyFailed => {
                "Start the build again; if it fails again, report it with the defects in the message"
            }
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
    fn error_has_the_name_of_its_variant() {
        let error = StageError::Throttled {
            call: "ec2:RunInstances",
            message: String::new(),
        };
        assert_eq!(error.name(), "Throttled");
        assert_eq!("Throttled".parse(), Ok(ErrorName::Throttled));
    }

    #[test]
    fn unusable_key_of_a_verifier_is_that_of_its_snapshot() {
        let error = |launched| StageError::KeyUnusable {
            launched,
            instance: "i-0123456789abcdef0".parse().unwrap(),
            problem: "it is terminated".to_owned(),
        };
        let builder = error(Launched::Builder).to_string();
        assert!(
            builder.starts_with("builder i-0123456789abcdef0 ended at its launch: "),
            "{builder}"
        );
        assert!(builder.contains("launch-builder's role"), "{builder}");
        let snapshot = "snap-0123456789abcdef0".parse().unwrap();
        let verifier = error(Launched::Verifier(snapshot)).to_string();
        for words in [
            "verifier i-0123456789abcdef0 of snap-0123456789abcdef0 ended",
            "verify-snapshot",
        ] {
            assert!(verifier.contains(words), "{verifier}");
        }
        assert!(!verifier.contains("builder"), "{verifier}");
    }

    #[test]
    fn still_running_message_yields_its_progress() {
        let message = StageError::StillRunning("3 of 8 images pulled".to_owned()).to_string();
        assert_eq!(message, "not done yet: 3 of 8 images pulled");
        assert_eq!(StageError::progress_in(&message), "3 of 8 images pulled");
        assert_eq!(StageError::progress_in("other wording"), "other wording");
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
