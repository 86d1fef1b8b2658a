//! The failures of a build, each with its stage and a remedy.
//!
//! A failed execution has an error name and a cause, which is text. The state machine writes one line of the cause for
//! each target. People read these lines, and [`Failure::all`] parses them.

use std::fmt;

use serde::Serialize;

use crate::architecture::Architecture;
use crate::build::error::ErrorName;
use crate::build::stage::Stage;
use crate::cache::image::ImageReference;

/// One failure of a build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// The architecture of the failed target. `None` if planning failed or the whole execution ended.
    pub architecture: Option<Architecture>,
    /// The stage that failed. `None` if the execution was stopped or timed out.
    pub stage: Option<Stage>,
    /// The error name: an [`ErrorName`], or a name that AWS defines.
    pub error: String,
    /// The error message.
    pub message: String,
    /// The image that the message is about, if it is about one image.
    pub image: Option<ImageReference>,
    /// The remedy, in one sentence.
    pub remedy: &'static str,
}

/// Prefixes of the error names that AWS or the state machine defines, each with a remedy. The first match applies.
///
/// Source: Step Functions developer guide, "Handling errors"; Lambda developer guide, "Runtime API" and "Invoke".
pub const FOREIGN_ERRORS: [(&str, &str); 6] = [
    (
        "InvalidPlan",
        "Deploy the functions and the state machine of one version with `terraform apply`",
    ),
    (
        "States.Timeout",
        "Find the state that did not end in the execution's history, and the reason in the log of its function",
    ),
    (
        "States.",
        "Find the failed state in the execution's history, and report it",
    ),
    (
        "Runtime.",
        "Read the last lines of the stage's log to see why the function ended",
    ),
    (
        "Sandbox.",
        "Read the last lines of the stage's log to see why the function did not return",
    ),
    (
        "Lambda.",
        "Start the build again; if it fails again, check the function's state and the Lambda concurrency of the account",
    ),
];

/// Error name of an execution that was stopped without an error name.
pub const ABORTED: &str = "Aborted";
/// Remedy for an execution that was stopped.
pub const ABORTED_REMEDY: &str = "Start the build again, unless it was stopped on purpose";

impl Failure {
    /// Returns the failures of an execution that ended with `status`, as `DescribeExecution` reports it. The result is
    /// never empty.
    #[must_use]
    pub fn all(status: &str, error: Option<&str>, cause: Option<&str>) -> Vec<Self> {
        let whole = |error: &str, message: &str, remedy| Self {
            architecture: None,
            stage: None,
            error: error.to_owned(),
            message: cause.unwrap_or(message).to_owned(),
            image: None,
            remedy,
        };
        match status {
            "ABORTED" => vec![whole(
                error.unwrap_or(ABORTED),
                "the execution was stopped without a reason",
                ABORTED_REMEDY,
            )],
            "TIMED_OUT" => {
                let error = error.unwrap_or("States.Timeout");
                let message = "the execution exceeded its timeout";
                vec![whole(error, message, remedy(error))]
            }
            _ => {
                let stages: Vec<_> = cause
                    .unwrap_or_default()
                    .split('\n')
                    .filter_map(Self::of_line)
                    .collect();
                if !stages.is_empty() {
                    return stages;
                }
                let error = error.unwrap_or("Unknown");
                vec![whole(error, "no cause was given", remedy(error))]
            }
        }
    }

    /// Parses one line of the cause: `arm64: pull-images failed with PullFailed: <message>`, or the same without an
    /// architecture. Returns `None` for other lines, which describe published targets.
    fn of_line(line: &str) -> Option<Self> {
        let (architecture, rest) = match line.split_once(": ") {
            Some((first, rest)) => match first.parse() {
                Ok(architecture) => (Some(architecture), rest),
                Err(_) => (None, line),
            },
            None => (None, line),
        };
        let (stage, rest) = rest.split_once(" failed with ")?;
        let (error, message) = rest.split_once(": ")?;
        Some(Self {
            architecture,
            stage: Some(stage.parse().ok()?),
            error: error.to_owned(),
            message: message.to_owned(),
            image: image(message),
            remedy: remedy(error),
        })
    }
}

/// Writes the line that the state machine writes for this failure.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(architecture) = self.architecture {
            write!(f, "{architecture}: ")?;
        }
        if let Some(stage) = &self.stage {
            write!(f, "{stage} failed with ")?;
        }
        write!(f, "{}: {}", self.error, self.message)
    }
}

/// Returns the remedy for an error name.
fn remedy(error: &str) -> &'static str {
    if let Ok(name) = error.parse::<ErrorName>() {
        return name.remedy();
    }
    FOREIGN_ERRORS
        .iter()
        .find(|(family, _)| error.starts_with(family))
        .map_or(
            "Find the failed state in the execution's history",
            |(_, remedy)| remedy,
        )
}

/// Returns the image at the start of a message. Every message of [`crate::StageError`] about one image starts with it.
fn image(message: &str) -> Option<ImageReference> {
    let (image, _) = message.strip_prefix("image `")?.split_once('`')?;
    image.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::build::error::StageError;

    #[test]
    fn cause_yields_every_failed_target_with_image_and_remedy() {
        let cause = "arm64: pull-images failed with PullFailed: image `docker.io/library/redis:8` could not be pulled: reset\n\
                     x86_64: published snap-0123456789abcdef1";
        let failures = Failure::all("FAILED", Some("PullFailed"), Some(cause));
        assert_eq!(
            failures,
            [Failure {
                architecture: Some(Architecture::Arm64),
                stage: Some(Stage::PullImages),
                error: "PullFailed".to_owned(),
                message: "image `docker.io/library/redis:8` could not be pulled: reset".to_owned(),
                image: Some("docker.io/library/redis:8".parse().unwrap()),
                remedy: ErrorName::PullFailed.remedy(),
            }]
        );
    }

    #[test]
    fn failed_plan_has_no_architecture() {
        let cause = "plan-build failed with InvalidConfig: cache `web` has no valid configuration: there is no parameter";
        let failures = Failure::all("FAILED", Some("InvalidConfig"), Some(cause));
        assert_eq!(failures.len(), 1);
        assert_eq!(failures[0].architecture, None);
        assert_eq!(failures[0].stage, Some(Stage::PlanBuild));
        assert_eq!(
            failures[0].message,
            "cache `web` has no valid configuration: there is no parameter"
        );
    }

    #[test]
    fn stopped_execution_has_one_failure_without_a_stage() {
        for (status, error, cause, expected) in [
            ("ABORTED", None, None, "Aborted"),
            ("ABORTED", Some("Stopped"), Some("by a person"), "Stopped"),
            ("TIMED_OUT", None, None, "States.Timeout"),
            (
                "FAILED",
                Some("States.Runtime"),
                Some("no such variable"),
                "States.Runtime",
            ),
            ("FAILED", None, None, "Unknown"),
        ] {
            let failures = Failure::all(status, error, cause);
            assert_eq!(failures.len(), 1, "{status}");
            assert_eq!(failures[0].error, expected);
            assert_eq!((failures[0].architecture, failures[0].stage), (None, None));
            assert!(!failures[0].message.is_empty() && !failures[0].remedy.is_empty());
        }
    }

    #[test]
    fn message_about_one_image_yields_the_image() {
        let reference: ImageReference = "registry.example.com:5443/a/b:v1".parse().unwrap();
        let problem = String::new;
        for error in [
            StageError::ImageNotFound {
                image: reference.clone(),
                problem: problem(),
            },
            StageError::RegistryDenied {
                image: reference.clone(),
                problem: problem(),
            },
            StageError::PullFailed {
                image: reference.clone(),
                problem: problem(),
            },
        ] {
            assert_eq!(
                image(&error.to_string()),
                Some(reference.clone()),
                "{error}"
            );
        }
    }

    #[test]
    fn prefix_of_an_aws_error_name_selects_the_remedy() {
        assert_ne!(remedy("States.Timeout"), remedy("States.Runtime"));
        assert_eq!(remedy("Runtime.ExitError"), remedy("Runtime.OutOfMemory"));
    }

    proptest! {
        #[test]
        fn failure_line_parses_back_to_the_failure(
            architecture in prop::option::of(prop::sample::select(Architecture::ALL.to_vec())),
            stage in prop::sample::select(Stage::ALL.to_vec()),
            name in prop::sample::select(ErrorName::ALL.to_vec()),
            message in "[^\n]{0,60}",
        ) {
            let error: &'static str = name.into();
            let written = Failure {
                architecture,
                stage: Some(stage),
                error: error.to_owned(),
                image: image(&message),
                message,
                remedy: name.remedy(),
            };
            let cause = format!("arm64: published snap-0123456789abcdef1\n{written}");
            prop_assert_eq!(Failure::all("FAILED", Some(error), Some(&cause)), [written]);
        }
    }
}
