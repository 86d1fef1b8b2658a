//! publish-snapshot makes a verified snapshot available to nodes.
//!
//! **Before:** the snapshot is complete and has the tag `prepull:state` = `verified`.
//!
//! **After:** the snapshot is the candidate, or stable if its cache promotes at once and has no pin. The pointer refers to
//! it, and in every Region that the cache copies to, the pointer refers to the copy. The manifests describe the content,
//! and the accounts of the cache may use the snapshots. The events `Snapshot Published` and `Snapshot Promoted` were
//! emitted. If a snapshot of a later plan was published in the meantime, everything stays unchanged.
//!
//! The pointer at home is the last write that nodes depend on, so a node that follows it finds everything else in place.
//! Later steps are notifications. If they fail, the failure is logged and the snapshot still counts as published.
//!
//! **Called again:** it finds the completed steps and does only the missing ones. The events repeat only if the function
//! ended between the events and the mark of the decision, or `EventBridge` refused one of them.
//!
//! **Errors:** `PublishFailed` with the step; `StillRunning` while copies are in progress.

mod copies;

use futures::future::try_join_all;
use jiff::Timestamp;
use prepull_aws::ec2::types::SnapshotState as EbsState;
use prepull_aws::pointers::TargetPointer;
use prepull_aws::{AwsError, Clients, Deadline, snapshots};
use prepull_domain::build::payload::{PublishInput, PublishOutcome, Published, SnapshotState};
use prepull_domain::snapshot::decisions::NotDecided;
use prepull_domain::{
    Decision, Manifest, PublishedSnapshot, Refusal, RegionName, StageError, names,
};

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
    check(clients, &input).await?;
    let pointer = TargetPointer {
        clients,
        cache: &input.target.cache,
        architecture: input.target.architecture,
        copy_to_regions: &input.target.publication.copy_to_regions,
    };
    // Does not copy a snapshot that cannot be published.
    let decision = decision(&input, &[]);
    if let Err(refusal) = pointer.current().await?.after(&decision, Timestamp::now()) {
        return refused_publication(&input, &refusal);
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
    // A reader of the pointer never finds a snapshot without a complete manifest.
    for regional in copies.iter().chain([&here]) {
        regional.describe(&input).await?;
    }
    let decision = self::decision(&input, &copies);
    let decided = match pointer.decide(&decision, Timestamp::now()).await {
        Ok(decided) => decided,
        Err(NotDecided::Refused(refusal)) => return refused_publication(&input, &refusal),
        Err(NotDecided::Failed(error)) => {
            let path = names::decisions_path(&input.target.cache, input.target.architecture);
            let advice = format!("Check the parameters beside {path} in all Regions of the cache");
            return Err(publish_failed(&input, &advice, error));
        }
    };
    log(&input);
    let id = &input.snapshot.snapshot_id;
    let is = |held: &Option<PublishedSnapshot>| {
        held.as_ref().is_some_and(|held| held.snapshot_id == *id)
    };
    let outcome = if is(&decided.pointer.stable) {
        PublishOutcome::Published
    } else if is(&decided.pointer.candidate) || is(&decided.pointer.queued) {
        PublishOutcome::Candidate
    } else {
        // A newer snapshot has replaced it.
        PublishOutcome::Superseded
    };
    Ok(published(&input, outcome))
}

/// Returns the decision to publish the snapshot with its copies.
fn decision(input: &PublishInput, copies: &[RegionalSnapshot<'_>]) -> Decision {
    let copies = copies
        .iter()
        .map(|copy| (copy.region.clone(), copy.snapshot.clone()))
        .collect();
    let manifest = Manifest::of(input, Timestamp::now());
    Decision::Publish {
        snapshot: Box::new(PublishedSnapshot::new(&manifest, copies)),
        promotion: input.target.publication.promotion,
    }
}

/// Returns the result for a snapshot that the pointer does not accept.
fn refused_publication(input: &PublishInput, refusal: &Refusal) -> Result<Published, StageError> {
    if *refusal == Refusal::Superseded {
        tracing::warn!("superseded by a snapshot of a newer plan");
        return Ok(published(input, PublishOutcome::Superseded));
    }
    Err(StageError::PublishFailed {
        snapshot: input.snapshot.snapshot_id.clone(),
        problem: refusal.to_string(),
    })
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
async fn check(clients: &Clients, input: &PublishInput) -> Result<(), StageError> {
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
        Some(SnapshotState::Verified | SnapshotState::Published) => Ok(()),
        _ => Err(failed(format!(
            "its tag {} is `{}`, so its images are not verified",
            names::TAG_STATE,
            snapshot.tag(names::TAG_STATE).unwrap_or_default()
        ))),
    }
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
