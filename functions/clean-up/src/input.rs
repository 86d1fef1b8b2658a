//! The input of clean-up.

use aws_lambda_events::eventbridge::EventBridgeEvent;
use jiff::SignedDuration;
use prepull_aws::sfn::operation::describe_execution::DescribeExecutionOutput;
use prepull_domain::build::payload::Target;
use prepull_domain::build::trigger::ExecutionInput;
use prepull_domain::{ExecutionArn, ExecutionName, StageError};
use serde::{Deserialize, Serialize};
use serde_json::Value;

const DETAIL_TYPE: &str = "Step Functions Execution Status Change";

/// One of the three kinds of calls.
#[derive(Debug)]
pub(crate) enum Input {
    /// A target of a running execution has ended.
    Target(Box<Target>),
    /// An execution failed, timed out or was aborted.
    Ended(Box<EndedExecution>),
    /// The sweep: remove orphans of at least this age.
    Sweep(SignedDuration),
}

/// The detail of the status change event.
///
/// Source: Step Functions developer guide, "Event payload".
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EndedExecution {
    execution_arn: ExecutionArn,
    pub(crate) status: String,
    /// Milliseconds since the epoch, as for all times of the event.
    pub(crate) start_date: Option<i64>,
    pub(crate) stop_date: Option<i64>,
    /// Missing if it is too large for an event.
    input: Option<String>,
    pub(crate) error: Option<String>,
    pub(crate) cause: Option<String>,
}

/// Default minimum age of an orphan. Step Functions and EC2 list new executions and resources with a delay.
const MINIMUM_AGE: SignedDuration = SignedDuration::from_mins(5);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SweepInput {
    #[serde(rename = "source")]
    _source: String,
    minimum_age_seconds: Option<u32>,
}

impl EndedExecution {
    /// Returns the execution that Step Functions describes. `None` if its ARN is not valid.
    pub(crate) fn described(execution: &DescribeExecutionOutput) -> Option<Self> {
        Some(Self {
            execution_arn: execution.execution_arn().parse().ok()?,
            status: execution.status().as_str().to_owned(),
            start_date: execution.start_date().to_millis().ok(),
            stop_date: execution.stop_date().and_then(|time| time.to_millis().ok()),
            input: execution.input().map(ToOwned::to_owned),
            error: execution.error().map(ToOwned::to_owned),
            cause: execution.cause().map(ToOwned::to_owned),
        })
    }

    pub(crate) fn name(&self) -> ExecutionName {
        self.execution_arn.name()
    }

    /// The cache of the execution, as its input gives it.
    pub(crate) fn cache(&self) -> Option<String> {
        ExecutionInput::cache_in(self.input.as_deref()?)
    }
}

impl Input {
    pub(crate) fn parse(mut input: Value) -> Result<Self, StageError> {
        let invalid = |problem: String| StageError::InvalidEvent(problem);
        if let Some(target) = input.get_mut("target") {
            return serde_json::from_value(target.take())
                .map(|target| Self::Target(Box::new(target)))
                .map_err(|error| invalid(format!("its `target` is not valid: {error}")));
        }
        if input.get("detail-type") == Some(&DETAIL_TYPE.into()) {
            let event: EventBridgeEvent<EndedExecution> =
                serde_json::from_value(input).map_err(|error| {
                    invalid(format!(
                        "it is not a valid `{DETAIL_TYPE}` event of Step Functions: {error}"
                    ))
                })?;
            let execution = event.detail;
            // The builders of a running execution stay, even if a rule delivers such an event.
            return match execution.status.as_str() {
                "FAILED" | "TIMED_OUT" | "ABORTED" => Ok(Self::Ended(Box::new(execution))),
                status => Err(invalid(format!(
                    "execution {} has status `{status}`. Send only executions that failed, timed out or were aborted",
                    execution.execution_arn
                ))),
            };
        }
        if input.get("source") == Some(&"sweep".into()) {
            let sweep: SweepInput = serde_json::from_value(input)
                .map_err(|error| invalid(format!("it is not a valid sweep: {error}")))?;
            return Ok(Self::Sweep(
                sweep.minimum_age_seconds.map_or(MINIMUM_AGE, |seconds| {
                    SignedDuration::from_secs(seconds.into())
                }),
            ));
        }
        Err(invalid(format!(
            "it has an unknown shape. Send `{{\"target\": …}}`, an event `{DETAIL_TYPE}` or `{{\"source\": \
             \"sweep\"}}`"
        )))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ended(status: &str) -> Value {
        json!({
            "version": "0",
            "detail-type": DETAIL_TYPE,
            "source": "aws.states",
            "account": "123456789012",
            "region": "eu-west-1",
            "detail": {
                "executionArn": "arn:aws:states:eu-west-1:123456789012:execution:prepull-build:web-10",
                "stateMachineArn": "arn:aws:states:eu-west-1:123456789012:stateMachine:prepull-build",
                "name": "web-10",
                "status": status,
                "startDate": 1_767_323_045_000_i64,
                "stopDate": 1_767_323_645_000_i64,
                "input": "{\"cache\": \"web\"}",
                "inputDetails": {"included": true},
                "output": null
            }
        })
    }

    #[test]
    fn failed_execution_event_yields_name_and_cache() {
        for status in ["FAILED", "TIMED_OUT", "ABORTED"] {
            let Ok(Input::Ended(execution)) = Input::parse(ended(status)) else {
                panic!("{status}");
            };
            assert_eq!(execution.name().as_str(), "web-10");
            assert_eq!(execution.cache().as_deref(), Some("web"));
        }
    }

    #[test]
    fn running_or_successful_execution_event_is_rejected() {
        for status in ["RUNNING", "SUCCEEDED", "PENDING_REDRIVE"] {
            let error = Input::parse(ended(status)).unwrap_err();
            assert_eq!(error.name(), "InvalidEvent", "{status}");
        }
    }

    #[test]
    fn sweep_uses_the_default_or_the_given_minimum_age() {
        let minimum_age = |input| match Input::parse(input) {
            Ok(Input::Sweep(minimum_age)) => minimum_age,
            other => panic!("{other:?}"),
        };
        assert_eq!(minimum_age(json!({"source": "sweep"})), MINIMUM_AGE);
        let at_once = json!({"source": "sweep", "minimum_age_seconds": 0});
        assert_eq!(minimum_age(at_once), SignedDuration::ZERO);
    }

    #[test]
    fn unknown_input_is_rejected() {
        for input in [
            json!(null),
            json!({}),
            json!({"target": {}}),
            json!({"source": "schedule"}),
            json!({"source": "sweep", "minimum_age_seconds": -1}),
            json!({"source": "sweep", "colour": "blue"}),
            json!({"detail-type": DETAIL_TYPE, "source": "aws.states", "detail": {}}),
        ] {
            assert_eq!(Input::parse(input).unwrap_err().name(), "InvalidEvent");
        }
    }
}
