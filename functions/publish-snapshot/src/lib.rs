//! publish-snapshot makes a verified snapshot the one that nodes use.
//!
//! **Before:** the snapshot is complete and has the tag `prepull:state` = `verified`.
//!
//! **After:** the pointer refers to the snapshot. In every Region that the cache copies to, the pointer refers to the copy.
//! The manifests describe the content, and the accounts of the cache may use the snapshots. The tag is `published`, and
//! `verified` on the previous snapshot. The event `Snapshot Published` was emitted. If a snapshot of a later plan was
//! published in the meantime, everything stays unchanged.
//!
//! The pointer at home is the last write that nodes depend on, so a node that follows it finds everything else in place.
//! Later steps are notifications. If they fail, the failure is logged and the snapshot still counts as published.
//!
//! **Called again:** it finds the completed steps and does only the missing ones. The event repeats only if the function
//! ended between the event and the tag.
//!
//! **Errors:** `PublishFailed` with the step; `StillRunning` while copies are in progress.

mod announce;
mod copies;

use futures::future::try_join_all;
use jiff::Timestamp;
use prepull_aws::ec2::types::SnapshotState as EbsState;
use prepull_aws::{AwsError, Clients, Deadline, parameters, snapshots};
use prepull_domain::build::payload::{PublishInput, PublishOutcome, Published, SnapshotState};
use prepull_domain::build::queue;
use prepull_domain::{Manifest, RegionName, SnapshotId, StageError, names};

use crate::copies::RegionalSnapshot;

/// Publishes one snapshot. `home` is the Region of the snapshot.
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
    for regional in copies.iter().chain([&here]) {
        regional.share(&input).await?;
    }
    // A copy takes long enough for another build to publish.
    if superseded(clients, &input).await? {
        return Ok(published(&input, PublishOutcome::Superseded));
    }
    let before = pointer(clients, &input).await?;
    for regional in copies.iter().chain([&here]) {
        regional.point(&input).await?;
    }
    log(&input);
    if state == SnapshotState::Verified {
        announce::announce(&here, &copies, &input, before).await?;
    }
    Ok(published(&input, PublishOutcome::Published))
}

/// Logs the build's steps and the disk usage. The dashboard of the Terraform module reads these fields.
fn log(input: &PublishInput) {
    let manifest = Manifest::of(input, Timestamp::now());
    for step in manifest.timeline() {
        tracing::info!(
            stage = step.stage,
            waited_for = step.waited_for,
            seconds = step.ended_at.duration_since(step.started_at).as_secs_f64(),
            "step of the build"
        );
    }
    tracing::info!(
        snapshot = %manifest.snapshot_id,
        used_bytes = manifest.used.0,
        used_percent = manifest.used.0 * 100 / manifest.volume_size.bytes().0.max(1),
        "snapshot published"
    );
}

fn published(input: &PublishInput, outcome: PublishOutcome) -> Published {
    Published {
        snapshot_id: input.snapshot.snapshot_id.clone(),
        outcome,
    }
}

/// Returns an error if nodes must not use the snapshot.
async fn check(clients: &Clients, input: &PublishInput) -> Result<SnapshotState, StageError> {
    let id = &input.snapshot.snapshot_id;
    let failed = |problem: String| StageError::PublishFailed {
        snapshot: id.clone(),
        problem,
    };
    let Some(snapshot) = snapshots::get(clients, id).await? else {
        return Err(failed("it no longer exists".to_owned()));
    };
    if snapshot.ebs_state != Some(EbsState::Completed) {
        let state = snapshot
            .ebs_state
            .as_ref()
            .map_or("unknown", EbsState::as_str);
        return Err(failed(format!("it is in state `{state}`, not `completed`")));
    }
    match snapshot.state() {
        Some(state @ (SnapshotState::Verified | SnapshotState::Published)) => Ok(state),
        _ => Err(failed(format!(
            "its tag {} is `{}`, so its images are not verified",
            names::TAG_STATE,
            snapshot.tag(names::TAG_STATE).unwrap_or_default()
        ))),
    }
}

/// Returns the snapshot that the pointer refers to.
async fn pointer(
    clients: &Clients,
    input: &PublishInput,
) -> Result<Option<SnapshotId>, StageError> {
    let parameter = names::pointer_parameter(&input.target.cache, input.target.architecture);
    let value = parameters::get(clients, &parameter).await?;
    Ok(value.and_then(|id| id.parse().ok()))
}

/// Returns whether nodes use a snapshot whose plan is newer than this one.
///
/// Systems Manager has no compare-and-set, so two publications at the same moment could still overwrite each other. Builds
/// of a cache never overlap, so this needs an execution that plan-build did not see.
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
    if !later || snapshots::get(clients, &current).await?.is_none() {
        return Ok(false);
    }
    tracing::warn!(%current, "superseded by a snapshot of a newer plan");
    Ok(true)
}

/// Returns the error of a call that publication depends on.
fn refused<E: AwsError>(
    input: &PublishInput,
    call: &'static str,
    advice: &str,
    error: E,
) -> StageError {
    publish_failed(input, advice, error.into_stage_error(call))
}

/// Converts an error into `PublishFailed`. Retryable errors stay as they are.
fn publish_failed(input: &PublishInput, advice: &str, error: StageError) -> StageError {
    match error {
        StageError::AwsFailed { .. } => StageError::PublishFailed {
            snapshot: input.snapshot.snapshot_id.clone(),
            problem: format!("{error}. {advice}"),
        },
        other => other,
    }
}
