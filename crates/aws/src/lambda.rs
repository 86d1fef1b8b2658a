//! The wiring that all functions share.

use lambda_runtime::{Diagnostic, LambdaEvent, service_fn};
use prepull_domain::{StageError, excerpt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tracing::Instrument;
use tracing_subscriber::EnvFilter;

use crate::Deadline;

/// Maximum size of an error message in bytes. Step Functions truncates a cause at 32 KiB, and a truncated cause is invalid
/// JSON.
const MAX_MESSAGE: usize = 8 * 1024;

/// Serves invocations with `handler` until Lambda ends the process. Every log line is JSON with the execution, the cache and
/// the architecture of the input.
///
/// # Errors
/// If the Runtime API cannot be reached. The process is useless then.
pub async fn run<I, O, H>(handler: H) -> Result<(), lambda_runtime::Error>
where
    I: DeserializeOwned,
    O: Serialize,
    H: AsyncFn(I, Deadline) -> Result<O, StageError>,
{
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_current_span(true)
        .with_span_list(false)
        .with_env_filter(EnvFilter::from_default_env())
        .init();
    let handler = &handler;
    lambda_runtime::run(service_fn(async move |event: LambdaEvent<Value>| {
        let deadline = Deadline::before(event.context.deadline());
        let span = span(&event.payload);
        answer(handler, event.payload, deadline)
            .instrument(span)
            .await
    }))
    .await
}

async fn answer<I, O, H>(handler: &H, input: Value, deadline: Deadline) -> Result<O, Diagnostic>
where
    I: DeserializeOwned,
    H: AsyncFn(I, Deadline) -> Result<O, StageError>,
{
    let result = match serde_json::from_value(input) {
        // Boxed for the same reason as in [`Deadline::poll`].
        Ok(input) => Box::pin(handler(input, deadline)).await,
        Err(error) => Err(StageError::InvalidEvent(format!(
            "its input has an unknown shape: {error}"
        ))),
    };
    result.map_err(|error| {
        if matches!(error, StageError::StillRunning(_)) {
            tracing::info!(error = error.name(), cause = %error, "stage not done yet");
        } else {
            tracing::error!(error = error.name(), cause = %error, "stage failed");
        }
        // Step Functions uses `errorType` as the error name for Retry and Catch.
        Diagnostic {
            error_type: error.name().to_owned(),
            error_message: excerpt(&error.to_string(), MAX_MESSAGE),
        }
    })
}

/// The build that an input belongs to. Stages have it in their target, plan-build at the top level.
fn span(input: &Value) -> tracing::Span {
    let field = |name: &str| {
        let within = input.get("target").and_then(|target| target.get(name));
        within
            .or_else(|| input.get(name))
            .and_then(Value::as_str)
            .map(str::to_owned)
    };
    // plan-build receives the ARN of the execution, the other stages its name.
    let execution = field("execution");
    let execution = execution.as_deref().and_then(|arn| arn.rsplit(':').next());
    tracing::info_span!(
        "stage",
        execution,
        cache = field("cache"),
        architecture = field("architecture")
    )
}

/// Returns a required environment variable.
///
/// # Panics
/// If the variable is not set. Every invocation of such a deployment would fail.
#[must_use]
pub fn required_variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("environment variable {name} is not set"))
}
