//! The errors and exit codes of commands.

use std::process::ExitCode;

use prepull_domain::StageError;

use crate::check::{CheckError, ManifestError};

/// The exit code of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Success.
    Done = 0,
    /// The build failed, or AWS refused a call.
    Failed = 1,
    /// The request is invalid.
    Usage = 2,
    /// `doctor` found a problem, or `check` an error.
    Unsound = 3,
    /// `doctor` found no problem, but could not make a check.
    Unchecked = 4,
    /// Ctrl-C. By the convention of shells, 128 plus the signal's number.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// The error of a command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The state machine, the cache or its configuration is missing or invalid.
    #[error("{0}")]
    Usage(String),
    /// The command needs the result of a build, and no build has succeeded yet.
    #[error("{0}")]
    Missing(String),
    /// The checks before the first build of a cache found a problem.
    #[error(
        "cache `{cache}` cannot be built yet:\n{problems}Fix this, or start the build with --no-doctor"
    )]
    Unsound {
        /// The cache.
        cache: String,
        /// Each problem and its remedy, a line each.
        problems: String,
    },
    /// AWS returned content that prepull does not write.
    #[error(
        "{place} is malformed: {problem}. Use the CLI version of the deployment, or start a build to write it \
         again"
    )]
    Malformed {
        /// The parameter or execution.
        place: String,
        /// The defect.
        problem: String,
    },
    /// The credentials do not allow a call.
    #[error("{call} was denied: {message}. Use credentials that allow it")]
    Denied {
        /// Service and action.
        call: &'static str,
        /// AWS's message.
        message: String,
    },
    /// The Kubernetes API does not answer, or refuses a request.
    #[error("{0}")]
    Cluster(String),
    /// An AWS call failed or timed out.
    #[error(
        "{call} failed: {message}. Check AWS_REGION, the credentials and the network, and try again"
    )]
    Aws {
        /// Service and action.
        call: &'static str,
        /// AWS's code and message, or the reason for the missing answer.
        message: String,
    },
}

impl Error {
    /// Returns the exit code of this error.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) => Exit::Usage,
            Self::Unsound { .. } => Exit::Unsound,
            _ => Exit::Failed,
        }
    }
}

impl From<CheckError> for Error {
    /// Every error of `check` is in its arguments or its input. An AWS call is the caller's.
    fn from(error: CheckError) -> Self {
        match error {
            CheckError::Manifest(ManifestError::Missing { .. }) => Self::Missing(error.to_string()),
            _ => Self::Usage(error.to_string()),
        }
    }
}

impl From<prepull_kubernetes::Error> for Error {
    fn from(error: prepull_kubernetes::Error) -> Self {
        Self::Cluster(error.to_string())
    }
}

impl From<StageError> for Error {
    /// The message of a stage error addresses the operator of the functions. Here the operator is the user.
    fn from(error: StageError) -> Self {
        match error {
            StageError::AccessDenied { call, message } => Self::Denied { call, message },
            StageError::Throttled { call, message } | StageError::AwsFailed { call, message } => {
                Self::Aws { call, message }
            }
            other => Self::Usage(other.to_string()),
        }
    }
}
