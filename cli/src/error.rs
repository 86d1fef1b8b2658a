//! The ways in which a command ends.

use std::process::ExitCode;

use prepull_domain::StageError;

/// How a command ends: its exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It did what it was asked.
    Done = 0,
    /// The build failed, or AWS did not do what was asked.
    Failed = 1,
    /// What was asked makes no sense here.
    Usage = 2,
    /// Ctrl-C, by the convention of shells: 128 and the signal's number.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The state machine, the cache or its configuration is not as it must be.
    #[error("{0}")]
    Usage(String),
    /// The command needs something that no build has made yet.
    #[error("{0}")]
    Missing(String),
    /// What AWS answered is not what prepull writes there.
    #[error("{place} is malformed: {problem}")]
    Malformed {
        /// A parameter, an execution.
        place: String,
        /// What is wrong.
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
    /// An AWS call failed, or no answer came.
    #[error("{call} failed: {message}")]
    Aws {
        /// Service and action.
        call: &'static str,
        /// AWS's code and message, or why there was none.
        message: String,
    },
}

impl Error {
    /// How a command ends with this error.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) => Exit::Usage,
            _ => Exit::Failed,
        }
    }
}

impl From<StageError> for Error {
    /// A stage's words are for whoever runs the functions; here the same failure is the operator's.
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
