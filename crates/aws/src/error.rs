//! Converts the SDK's errors into stage errors.

use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::display::DisplayErrorContext;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use prepull_domain::StageError;

/// A failed AWS call.
pub trait AwsError {
    /// The error code, such as `ParameterNotFound` or `InvalidInstanceID.NotFound`. `None` without an answer.
    fn aws_code(&self) -> Option<&str>;

    /// Converts the error, if the stage has no better one. `call` is `service:Action`.
    fn into_stage_error(self, call: &'static str) -> StageError;
}

impl<E> AwsError for SdkError<E, HttpResponse>
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    fn aws_code(&self) -> Option<&str> {
        self.as_service_error().and_then(ProvideErrorMetadata::code)
    }

    fn into_stage_error(self, call: &'static str) -> StageError {
        let message = match self.as_service_error() {
            Some(error) => {
                format!(
                    "{}: {}",
                    error.code().unwrap_or("no code"),
                    error.message().unwrap_or("no message")
                )
            }
            None => DisplayErrorContext(&self).to_string(),
        };
        let status = self
            .raw_response()
            .map_or(0, |response| response.status().as_u16());
        match self.aws_code() {
            Some(code) if is_throttling(code) => StageError::Throttled { call, message },
            Some(code) if is_denial(code) => StageError::AccessDenied { call, message },
            // A request that cannot be built fails every time.
            None if matches!(self, SdkError::ConstructionFailure(_)) => {
                StageError::AwsFailed { call, message }
            }
            // A missing answer is as temporary as a 5xx.
            None if status == 0 => StageError::Throttled { call, message },
            _ if status >= 500 => StageError::Throttled { call, message },
            _ => StageError::AwsFailed { call, message },
        }
    }
}

/// Error codes of throttling.
///
/// Source: the SDK's own list (`aws-runtime`, `THROTTLING_ERRORS`), and EC2's and SSM's lists of error codes.
fn is_throttling(code: &str) -> bool {
    matches!(
        code,
        "Throttling"
            | "ThrottlingException"
            | "ThrottledException"
            | "RequestThrottledException"
            | "TooManyRequestsException"
            | "ProvisionedThroughputExceededException"
            | "TransactionInProgressException"
            | "RequestLimitExceeded"
            | "BandwidthLimitExceeded"
            | "LimitExceededException"
            | "RequestThrottled"
            | "SlowDown"
            | "PriorRequestNotComplete"
            | "EC2ThrottledException"
            | "TooManyUpdates"
            | "SnapshotCreationPerVolumeRateExceeded"
    )
}

/// Error codes of calls that IAM denies.
fn is_denial(code: &str) -> bool {
    matches!(
        code,
        "UnauthorizedOperation" | "AccessDenied" | "AccessDeniedException" | "AuthFailure"
    )
}

/// Converts the result of an AWS call into a stage's result.
pub trait StageResult<T> {
    /// Returns the answer, or the error from [`AwsError::into_stage_error`]. `call` is `service:Action`.
    fn or_stage_error(self, call: &'static str) -> Result<T, StageError>;
}

impl<T, E: AwsError> StageResult<T> for Result<T, E> {
    fn or_stage_error(self, call: &'static str) -> Result<T, StageError> {
        self.map_err(|error| error.into_stage_error(call))
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_ssm::operation::get_parameter::GetParameterError;
    use aws_smithy_runtime_api::client::result::ConnectorError;

    use super::*;

    fn name(error: SdkError<GetParameterError, HttpResponse>) -> &'static str {
        error.into_stage_error("ssm:GetParameter").name()
    }

    #[test]
    fn missing_answer_is_retryable_and_invalid_request_is_not() {
        let lost = ConnectorError::io("connection reset".into());
        assert_eq!(name(SdkError::dispatch_failure(lost)), "Throttled");
        assert_eq!(name(SdkError::timeout_error("too slow")), "Throttled");
        assert_eq!(name(SdkError::construction_failure("no name")), "AwsFailed");
    }
}
