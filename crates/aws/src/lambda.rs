//! The wiring that every function's `main.rs` has in common.

use lambda_runtime::{Diagnostic, LambdaEvent, service_fn};
use prepull_domain::StageError;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tracing::Instrument;
use tracing_subscriber::EnvFilter;

use crate::Deadline;

/// Serves invocations with `handler` until Lambda ends the process. Every line that is logged meanwhile is JSON and
/// bears the execution, the cache and the architecture that the input names.
///
/// # Errors
/// Where the Runtime API cannot be reached: the process is of no use then.
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
        // In a box for the same reason as in [`Deadline::poll`].
        Ok(input) => Box::pin(handler(input, deadline)).await,
        Err(error) => Err(StageError::InvalidEvent(format!(
            "its input has another shape: {error}"
        ))),
    };
    result.map_err(|error| {
        if matches!(error, StageError::StillRunning(_)) {
            tracing::info!(error = error.name(), "{error}");
        } else {
            tracing::error!(error = error.name(), "{error}");
        }
        // Step Functions takes `errorType` as the name of the error that Retry and Catch match.
        Diagnostic {
            error_type: error.name().to_owned(),
            error_message: cut(error.to_string()),
        }
    })
}

/// The message, no longer than the state machine can read: Step Functions cuts a cause at 32 KiB, and a cut cause is no
/// JSON any more.
fn cut(mut message: String) -> String {
    const LONGEST: usize = 8 * 1024;
    if message.len() > LONGEST {
        message.truncate(message.floor_char_boundary(LONGEST));
        message.push('…');
    }
    message
}

/// What the input says of the build that it belongs to. Stages' inputs hold it in their target, plan-build's at the top.
fn span(input: &Value) -> tracing::Span {
    let field = |name: &str| {
        let within = input.get("target").and_then(|target| target.get(name));
        within
            .or_else(|| input.get(name))
            .and_then(Value::as_str)
            .map(str::to_owned)
    };
    // plan-build is called with the execution's ARN, the others with its name.
    let execution = field("execution");
    let execution = execution.as_deref().and_then(|arn| arn.rsplit(':').next());
    tracing::info_span!(
        "stage",
        execution,
        cache = field("cache"),
        architecture = field("architecture")
    )
}

/// An environment variable that the function cannot do without.
///
/// # Panics
/// Where it is not set: the function was deployed without it, and no invocation could end well.
#[must_use]
pub fn required_variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("environment variable {name} is not set"))
}
