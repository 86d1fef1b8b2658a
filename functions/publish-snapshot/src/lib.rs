//! publish-snapshot: makes a verified snapshot the one that nodes use.
//!
//! **Before:** the snapshot is complete and bears the tag `prepull:state` = `verified`.
//!
//! **After:** the pointer names the snapshot, here and in every region that the cache copies to, whose pointers name the
//! copies; the manifests tell what they hold; the accounts that the cache shares with may use them; the tag says
//! `published`, and `verified` on the one before; the event `Snapshot Published` was emitted. Or a snapshot of a later
//! plan was published meanwhile: then everything stays as it is.
//!
//! The pointer at home is written last of all that nodes depend on, so that whoever follows it finds everything else in
//! place. What comes after it only tells of it: where that fails for good the snapshot is published all the same, which
//! is logged and not reported as a failure.
//!
//! **Called again:** what was done is found and not done again. The event comes a second time only where the function
//! ended between emitting it and setting the tag.
//!
//! **Errors:** `PublishFailed` with the step; `StillRunning` while copies are made.

mod announce;
mod copies;

use futures::future::try_join_all;
use prepull_aws::ec2::types::SnapshotState as EbsState;
use prepull_aws::{AwsError, Clients, Deadline, parameters, tag_value};
use prepull_domain::stages::{PublishInput, PublishOutcome, Published, SnapshotState};
use prepull_domain::{Manifest, RegionName, SnapshotId, StageError, names, queue};

use crate::copies::RegionalSnapshot;

/// Publishes one snapshot. `home` is the region that it lies in.
///
/// # Errors
/// See the module's documentation.
pub async fn handle(
    clients: &Clients,
    home: &RegionName,
    input: PublishInput,
    deadline: Deadline,
) -> Result<Published, StageError> {
    let state = check(clients, &input).await?;
    if superseded(clients, &input).await? {
        return Ok(published(&input, PublishOutcome::Superseded));
    }
    let here = RegionalSnapshot {
        clients: clients.clone(),
        region: home,
        snapshot: input.snapshot.snapshot_id.clone(),
    };
    let regions = &input.target.publication.copy_to_regions;
    let copies = try_join_all(
        regions
            .iter()
            .map(|region| copies::copy(&here, region, &input, deadline)),
    )
    .await?;
    for place in copies.iter().chain([&here]) {
        place.share(&input).await?;
    }
    // Copies take long enough for another build to have published.
    if superseded(clients, &input).await? {
        return Ok(published(&input, PublishOutcome::Superseded));
    }
    let before = pointer(clients, &input).await?;
    for place in copies.iter().chain([&here]) {
        place.point(&input).await?;
    }
    tracing::info!(snapshot = %here.snapshot, "published");
    if state == SnapshotState::Verified {
        announce::announce(&here, &copies, &input, before).await?;
    }
    Ok(published(&input, PublishOutcome::Published))
}

fn published(input: &PublishInput, outcome: PublishOutcome) -> Published {
    Published {
        snapshot_id: input.snapshot.snapshot_id.clone(),
        outcome,
    }
}

/// Ends with an error where nodes must not use the snapshot.
async fn check(clients: &Clients, input: &PublishInput) -> Result<SnapshotState, StageError> {
    let id = &input.snapshot.snapshot_id;
    let failed = |problem: String| StageError::PublishFailed {
        snapshot: id.clone(),
        problem,
    };
    let Some(snapshot) = copies::find(clients, id).await? else {
        return Err(failed("it is gone: somebody deleted it".to_owned()));
    };
    if snapshot.state() != Some(&EbsState::Completed) {
        let state = snapshot.state().map_or("unknown", EbsState::as_str);
        return Err(failed(format!("it is in state `{state}`, not `completed`")));
    }
    match tag_value(snapshot.tags(), names::TAG_STATE) {
        Some(tag) if tag == SnapshotState::Verified.as_str() => Ok(SnapshotState::Verified),
        Some(tag) if tag == SnapshotState::Published.as_str() => Ok(SnapshotState::Published),
        other => Err(failed(format!(
            "its tag {} is `{}`, so nobody vouches for its images",
            names::TAG_STATE,
            other.unwrap_or_default()
        ))),
    }
}

/// The snapshot that the pointer names.
async fn pointer(
    clients: &Clients,
    input: &PublishInput,
) -> Result<Option<SnapshotId>, StageError> {
    let parameter = names::pointer_parameter(&input.target.cache, input.target.architecture);
    let value = parameters::get(clients, &parameter).await?;
    Ok(value.and_then(|id| id.parse().ok()))
}

/// Whether nodes use a snapshot whose plan is younger than this one's.
///
/// Systems Manager cannot compare and set, so two publications in the same instant could still pass each other. One
/// build of a cache at a time makes that need an execution that plan-build did not see.
async fn superseded(clients: &Clients, input: &PublishInput) -> Result<bool, StageError> {
    let target = &input.target;
    let current = match pointer(clients, input).await? {
        Some(current) if current != input.snapshot.snapshot_id => current,
        _ => return Ok(false),
    };
    let parameter = names::manifest_parameter(&target.cache, target.architecture, &current);
    let manifest = parameters::get(clients, &parameter).await?;
    let later = manifest
        .and_then(|json| serde_json::from_str::<Manifest>(&json).ok())
        .is_some_and(|manifest| queue::is_superseded(target.planned_at, manifest.planned_at));
    if !later || copies::find(clients, &current).await?.is_none() {
        return Ok(false);
    }
    tracing::warn!(%current, "a snapshot of a later plan is published already");
    Ok(true)
}

/// The error of a call that this snapshot's publication needs.
fn refused<E: AwsError>(
    input: &PublishInput,
    call: &'static str,
    advice: &str,
    error: E,
) -> StageError {
    publish_failed(input, advice, error.into_stage_error(call))
}

/// An error as this snapshot's publication puts it: what will pass by itself stays what it is.
fn publish_failed(input: &PublishInput, advice: &str, error: StageError) -> StageError {
    match error {
        StageError::AwsFailed { .. } => StageError::PublishFailed {
            snapshot: input.snapshot.snapshot_id.clone(),
            problem: format!("{error}. {advice}"),
        },
        other => other,
    }
}
