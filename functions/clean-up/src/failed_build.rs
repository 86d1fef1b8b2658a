//! Telling that a build failed.

use jiff::Timestamp;
use prepull_aws::{Clients, emit_event};
use prepull_domain::{StageError, names};
use serde_json::json;

use crate::input::EndedExecution;

/// Emits `Build Failed`.
pub(crate) async fn announce(
    clients: &Clients,
    execution: &EndedExecution,
) -> Result<(), StageError> {
    let time = |milliseconds: Option<i64>| Timestamp::from_millisecond(milliseconds?).ok();
    let detail = json!({
        "cache": execution.cache(),
        "execution": execution.name(),
        "status": execution.status,
        "error": execution.error,
        "cause": execution.cause,
        "started_at": time(execution.start_date),
        "stopped_at": time(execution.stop_date),
    });
    tracing::error!(detail = detail.to_string(), "build failed");
    emit_event(clients, names::EVENT_FAILED, &detail).await
}
