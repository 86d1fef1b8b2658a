//! Emits prepull's events.

use aws_sdk_eventbridge::types::PutEventsRequestEntry;
use prepull_domain::{StageError, names};
use serde_json::Value;

use crate::{Clients, StageResult};

/// Emits one event on the default bus.
///
/// # Errors
/// If `EventBridge` rejects the call or the event. It rejects events when it is overloaded.
pub async fn emit(clients: &Clients, detail_type: &str, detail: &Value) -> Result<(), StageError> {
    let answer = clients
        .events
        .put_events()
        .entries(
            PutEventsRequestEntry::builder()
                .source(names::EVENT_SOURCE)
                .detail_type(detail_type)
                .detail(detail.to_string())
                .build(),
        )
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
