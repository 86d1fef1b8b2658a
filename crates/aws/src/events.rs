//! Emits prepull's events.

use aws_sdk_eventbridge::types::PutEventsRequestEntry;
use prepull_domain::{StageError, names};
use serde_json::Value;

use crate::{Clients, StageResult};

/// Emits one event on the default bus.
///
/// # Errors
/// Those of [`emit_all`].
pub async fn emit(clients: &Clients, detail_type: &str, detail: &Value) -> Result<(), StageError> {
    emit_all(clients, [(detail_type, detail)]).await
}

/// Emits events on the default bus with one call, each with its detail type and its detail. `EventBridge` accepts ten.
///
/// # Errors
/// If `EventBridge` rejects the call or an event. It rejects events when it is overloaded.
pub async fn emit_all(
    clients: &Clients,
    events: impl IntoIterator<Item = (&str, &Value)>,
) -> Result<(), StageError> {
    let entries = events.into_iter().map(|(detail_type, detail)| {
        PutEventsRequestEntry::builder()
            .source(names::EVENT_SOURCE)
            .detail_type(detail_type)
            .detail(detail.to_string())
            .build()
    });
    let answer = clients
        .events
        .put_events()
        .set_entries(Some(entries.collect()))
        .send()
        .await
        .or_stage_error("events:PutEvents")?;
    match answer.entries().iter().find_map(|entry| entry.error_code()) {
        Some(code) => Err(StageError::Throttled {
            call: "events:PutEvents",
            message: code.to_owned(),
        }),
        None => Ok(()),
    }
}
