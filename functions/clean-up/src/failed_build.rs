//! Announces a failed build.

use jiff::Timestamp;
use prepull_aws::{Clients, emit_event, parameters};
use prepull_domain::{Failure, StageError, names};
use serde_json::json;

use crate::input::EndedExecution;

/// Emits `Build Failed`, and logs the same content once at level error, unless the execution's marker exists. Both contain
/// every failure with its remedy. They can arrive twice, because the marker comes last. The name of the execution identifies
/// duplicates.
pub(crate) async fn announce(
    clients: &Clients,
    execution: &EndedExecution,
) -> Result<(), StageError> {
    let marker = names::announced_parameter(&execution.name());
    if parameters::get(clients, &marker).await?.is_some() {
        tracing::info!("failure already announced");
        return Ok(());
    }
    let time = |milliseconds: Option<i64>| Timestamp::from_millisecond(milliseconds?).ok();
    let (error, cause) = (execution.error.as_deref(), execution.cause.as_deref());
    let detail = json!({
        "cache": execution.cache(),
        "execution": execution.name(),
        "status": execution.status,
        "error": error,
        "cause": cause,
        "failures": Failure::all(&execution.status, error, cause),
        "started_at": time(execution.start_date),
        "stopped_at": time(execution.stop_date),
    });
    tracing::error!(detail = detail.to_string(), "build failed");
    emit_event(clients, names::EVENT_FAILED, &detail).await?;
    let ended = time(execution.stop_date).unwrap_or_else(Timestamp::now);
    let written = parameters::put(clients, &marker, &ended.to_string()).await;
    // With an error, Lambda would call again and announce twice for certain.
    if let Err(error) = written {
        tracing::warn!(error = error.name(), cause = %error, "marker not written");
    }
    Ok(())
}
