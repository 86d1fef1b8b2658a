//! Announces a published snapshot: the event, and the tags that the console shows.

use prepull_aws::{emit_event, snapshots, tag_filter};
use prepull_domain::build::payload::{PublishInput, SnapshotState};
use prepull_domain::{SnapshotId, StageError, names};
use serde_json::json;

use crate::copies::RegionalSnapshot;

/// Emits the event and sets the tags, at home and in the Regions of the copies. `before` is the previous value of the
/// pointer.
///
/// The tag at home comes last, because it shows a repeated call that the event was sent.
///
/// # Errors
/// [`StageError::Throttled`], so that the state machine retries. Other errors are only logged: nodes already use the
/// snapshot, and a failed build would say the opposite.
pub(crate) async fn announce(
    home: &RegionalSnapshot<'_>,
    copies: &[RegionalSnapshot<'_>],
    input: &PublishInput,
    before: Option<SnapshotId>,
) -> Result<(), StageError> {
    match notify(home, copies, input, before).await {
        Err(error @ StageError::Throttled { .. }) => Err(error),
        Err(error) => {
            tracing::error!(
                error = error.name(),
                cause = %error,
                "snapshot published, but its notification failed"
            );
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

async fn notify(
    home: &RegionalSnapshot<'_>,
    copies: &[RegionalSnapshot<'_>],
    input: &PublishInput,
    before: Option<SnapshotId>,
) -> Result<(), StageError> {
    let replaced = replaced(home, input).await?;
    // A repeated call finds its own snapshot in the pointer. The tags still show the previous one.
    let previous = before
        .filter(|before| *before != home.snapshot)
        .or_else(|| replaced.first().cloned());
    emit(home, input, previous.as_ref()).await?;
    for regional in copies.iter().chain([home]) {
        for old in self::replaced(regional, input).await? {
            // Retention may have deleted it.
            snapshots::set_state(&regional.clients, &old, SnapshotState::Verified).await?;
        }
        snapshots::set_state(
            &regional.clients,
            &regional.snapshot,
            SnapshotState::Published,
        )
        .await?;
    }
    Ok(())
}

/// Returns the other snapshots of the target with the tag `published`.
async fn replaced(
    regional: &RegionalSnapshot<'_>,
    input: &PublishInput,
) -> Result<Vec<SnapshotId>, StageError> {
    let target = &input.target;
    let filters = vec![
        tag_filter(names::TAG_CACHE, target.cache.as_str()),
        tag_filter(names::TAG_ARCHITECTURE, target.architecture.as_str()),
        tag_filter(names::TAG_STATE, SnapshotState::Published.as_str()),
    ];
    let published = snapshots::find(&regional.clients, filters).await?;
    Ok(published
        .into_iter()
        .map(|snapshot| snapshot.id)
        .filter(|id| *id != regional.snapshot)
        .collect())
}

async fn emit(
    home: &RegionalSnapshot<'_>,
    input: &PublishInput,
    previous: Option<&SnapshotId>,
) -> Result<(), StageError> {
    let target = &input.target;
    let detail = json!({
        "cache": target.cache,
        "architecture": target.architecture,
        "snapshot_id": home.snapshot,
        "previous_snapshot_id": previous,
        "content_key": target.content_key,
        "execution": target.execution,
        "images": target.images.len(),
        "volume_size_gib": input.snapshot.volume_size,
    });
    emit_event(&home.clients, names::EVENT_PUBLISHED, &detail).await
}
