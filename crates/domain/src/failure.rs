//! Why a build ended badly: its failures, each with where it happened and what to do about it.
//!
//! An execution that fails hands on a name and a text, its cause. The state machine writes the cause line by line, one
//! for each target, so that a person can read it and [`Failure::all`] can too.

use std::fmt;

use serde::Serialize;

use crate::architecture::Architecture;
use crate::error::ErrorName;
use crate::image::ImageReference;

/// One thing that kept a build from its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// The architecture; none where the build had not come to its targets, or ended as a whole.
    pub architecture: Option<Architecture>,
    /// The stage that failed; none where none did: the execution was stopped, or timed out.
    pub stage: Option<String>,
    /// The error's name: one of [`ErrorName`], or AWS's own.
    pub error: String,
    /// What happened, for a person.
    pub message: String,
    /// The image that it happened to, where it was one.
    pub image: Option<ImageReference>,
    /// What to do, in one sentence.
    pub remedy: &'static str,
}

/// The families of AWS's own names, by how they begin, and what to do about them. The first that fits counts.
///
/// Source: Step Functions developer guide, "Handling errors"; Lambda developer guide, "Runtime API" and "Invoke".
pub const FOREIGN_ERRORS: [(&str, &str); 5] = [
    (
        "States.Timeout",
        "Look in the execution's history for the state that did not end, and in its function's log for why",
    ),
    (
        "States.",
        "Look in the execution's history for the state that failed, and report it",
    ),
    (
        "Runtime.",
        "Look at the last lines of the stage's log for what ended the function",
    ),
    (
        "Sandbox.",
        "Look at the last lines of the stage's log for what the function waited for",
    ),
    (
        "Lambda.",
        "Start the build again; if it stays, look at the function's state and at the account's concurrency",
    ),
];

/// The name of the failure where somebody stopped the execution and gave none.
pub const ABORTED: &str = "Aborted";
/// What to do about an execution that somebody stopped.
pub const ABORTED_REMEDY: &str = "Start the build again, unless it was stopped for good";

impl Failure {
    /// The failures of an execution that ended with `status`, as Step Functions tells of it. There is always one.
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
                "somebody stopped the execution and gave no reason",
                ABORTED_REMEDY,
            )],
            "TIMED_OUT" => {
                let error = error.unwrap_or("States.Timeout");
                let message = "the execution took longer than it may";
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

    /// The failure that a line of the cause tells of: `arm64: pull-images failed with PullFailed: <message>`, or the
    /// same without an architecture. Other lines tell of targets that were published.
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
        let is_name = |name: &str| name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
        is_name(stage).then(|| Self {
            architecture,
            stage: Some(stage.to_owned()),
            error: error.to_owned(),
            message: message.to_owned(),
            image: image(message),
            remedy: remedy(error),
        })
    }
}

/// The line that the state machine writes of it.
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

/// What to do about an error, by its name.
fn remedy(error: &str) -> &'static str {
    if let Ok(name) = error.parse::<ErrorName>() {
        return name.remedy();
    }
    FOREIGN_ERRORS
        .iter()
        .find(|(family, _)| error.starts_with(family))
        .map_or("Look at the execution's history", |(_, remedy)| remedy)
}

/// The image that a message begins with. The messages of [`crate::StageError`] that are about one image all do.
fn image(message: &str) -> Option<ImageReference> {
    let (image, _) = message.strip_prefix("image `")?.split_once('`')?;
    image.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::error::StageError;

    #[test]
    fn every_failed_target_is_told_with_its_image_and_what_to_do() {
        let cause = "arm64: pull-images failed with PullFailed: image `docker.io/library/redis:8` could not be pulled: reset\n\
                     x86_64: published snap-0123456789abcdef1";
        let failures = Failure::all("FAILED", Some("PullFailed"), Some(cause));
        assert_eq!(
            failures,
            [Failure {
                architecture: Some(Architecture::Arm64),
                stage: Some("pull-images".to_owned()),
                error: "PullFailed".to_owned(),
                message: "image `docker.io/library/redis:8` could not be pulled: reset".to_owned(),
                image: Some("docker.io/library/redis:8".parse().unwrap()),
                remedy: ErrorName::PullFailed.remedy(),
            }]
        );
    }

    #[test]
    fn a_plan_fails_without_an_architecture() {
        let cause = "plan-build failed with InvalidConfig: cache `web`: there is none";
        let failures = Failure::all("FAILED", Some("InvalidConfig"), Some(cause));
        assert_eq!(failures.len(), 1);
        assert_eq!(failures[0].architecture, None);
        assert_eq!(failures[0].stage.as_deref(), Some("plan-build"));
        assert_eq!(failures[0].message, "cache `web`: there is none");
    }

    #[test]
    fn an_execution_that_ended_as_a_whole_has_one_failure_and_no_stage() {
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
            assert_eq!(
                (failures[0].architecture, &failures[0].stage),
                (None, &None)
            );
            assert!(!failures[0].message.is_empty() && !failures[0].remedy.is_empty());
        }
    }

    #[test]
    fn a_message_about_one_image_names_it_where_it_is_found_again() {
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
    fn of_aws_own_names_the_family_decides() {
        assert_ne!(remedy("States.Timeout"), remedy("States.Runtime"));
        assert_eq!(remedy("Runtime.ExitError"), remedy("Runtime.OutOfMemory"));
    }

    proptest! {
        #[test]
        fn whatever_a_message_says_its_line_is_read_as_it_was_written(
            architecture in prop::option::of(prop::sample::select(Architecture::ALL.to_vec())),
            name in prop::sample::select(ErrorName::ALL.to_vec()),
            message in "[^\n]{0,60}",
        ) {
            let error: &'static str = name.into();
            let written = Failure {
                architecture,
                stage: Some("create-snapshot".to_owned()),
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
