//! Creates a snapshot of a builder's data volume.
//!
//! **Before:** the builder runs, and pull-images has verified its volume.
//! **After:** the builder is stopped. One complete snapshot of its data volume has this execution's tags and the state
//! `verified`. It contains no secret and no identity of the builder.
//! **Called again:** continues from the current state: a snapshot of this execution, a stopped builder, or a builder that
//! was told to power off. Two concurrent calls can create two snapshots. All calls then use the verified one, or the older
//! one if neither is verified, and reject the other.
//! **Errors:** `SnapshotFailed`, `BuilderLost`.
//!
//! The builder stays until the snapshot is complete. A stopped builder costs only its volumes.
//!
//! # Why every snapshot is scrubbed
//! The document `power-off` starts a unit with these steps: stop all writers, remove the secrets, sync, power off. systemd
//! runs a step only if the previous one succeeded, so the operating system powers off only after the volume is clean. EC2
//! reports this case with its own state reason, `Client.InstanceInitiatedShutdown`. A stop through the API, a failed host
//! or a power cut has another reason. This stage snapshots only builders with that reason, and only after it has requested
//! the power-off itself. It never stops an instance through the API, because a builder with a failed scrub would then look
//! like one with a slow scrub.

mod power_off;

use std::time::Duration;

use jiff::Timestamp;
use prepull_aws::ec2::types::{ResourceType, Snapshot as Ec2Snapshot, SnapshotState as Ec2State};
use prepull_aws::{
    Clients, Deadline, StageResult, tag, tag_filter, tag_specification, tag_value, timestamp,
};
use prepull_domain::stages::{BuilderInput, Snapshot, SnapshotState, Target};
use prepull_domain::{GiB, SnapshotId, StageError, VolumeId, names};

/// Poll interval for the power-off and for the snapshot.
const POLL: Duration = Duration::from_secs(1);

/// The settings of the function.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Prefix of the names of the SSM documents.
    pub name: String,
}

/// Scrubs and powers off the builder of `input` and snapshots its data volume.
///
/// # Errors
/// See the crate's documentation.
pub async fn handle(
    clients: &Clients,
    settings: &Settings,
    input: BuilderInput,
    deadline: Deadline,
) -> Result<Snapshot, StageError> {
    if find(clients, &input.target).await?.is_empty() {
        let volume = power_off::scrubbed_volume(clients, settings, &input, deadline).await?;
        create(clients, &input.target, &volume).await?;
    }
    completed(clients, &input, deadline).await
}

/// Returns this execution's snapshots of the target that are not rejected: verified ones first, then oldest first.
async fn find(clients: &Clients, target: &Target) -> Result<Vec<Ec2Snapshot>, StageError> {
    let answer = clients
        .ec2
        .describe_snapshots()
        .owner_ids("self")
        .filters(tag_filter(names::TAG_EXECUTION, target.execution.as_str()))
        .filters(tag_filter(
            names::TAG_ARCHITECTURE,
            target.architecture.as_str(),
        ))
        .filters(tag_filter(names::TAG_CACHE, target.cache.as_str()))
        .send()
        .await
        .or_stage_error("ec2:DescribeSnapshots")?;
    let mut found = answer.snapshots.unwrap_or_default();
    found.retain(|found| state_tag(found) != Some(SnapshotState::Rejected.as_str()));
    found.sort_by(|a, b| {
        let key = |found: &Ec2Snapshot| {
            let started_at = timestamp(found.start_time());
            (
                state_tag(found).is_none(),
                started_at,
                found.snapshot_id.clone(),
            )
        };
        key(a).cmp(&key(b))
    });
    Ok(found)
}

async fn create(clients: &Clients, target: &Target, volume: &VolumeId) -> Result<(), StageError> {
    let mut tags = tag_specification(ResourceType::Snapshot, target);
    tags.tags
        .get_or_insert_default()
        .push(tag(names::TAG_CONTENT_KEY, target.content_key.as_str()));
    let made = clients
        .ec2
        .create_snapshot()
        .volume_id(volume.as_str())
        .description(format!(
            "prepull: {} images of cache {} for {}, {}",
            target.images.len(),
            target.cache,
            target.architecture,
            target.variant
        ))
        .tag_specifications(tags)
        .send()
        .await
        .or_stage_error("ec2:CreateSnapshot")?;
    tracing::info!(snapshot = made.snapshot_id(), %volume, "snapshot started");
    Ok(())
}

/// Waits until the snapshot is complete and sets its tags.
async fn completed(
    clients: &Clients,
    input: &BuilderInput,
    deadline: Deadline,
) -> Result<Snapshot, StageError> {
    deadline
        .poll(POLL, "waiting for the snapshot to complete", async || {
            let found = find(clients, &input.target).await?;
            // EC2 lists a new snapshot with a short delay.
            let Some((ours, doubles)) = found.split_first() else {
                return Ok(None);
            };
            for double in doubles.iter().filter(|double| state_tag(double).is_none()) {
                mark(clients, double, SnapshotState::Rejected).await?;
            }
            match ours.state() {
                Some(Ec2State::Completed) => {
                    // A snapshot that is already published stays published.
                    if state_tag(ours).is_none() {
                        mark(clients, ours, SnapshotState::Verified).await?;
                    }
                    done(input, ours).map(Some)
                }
                Some(Ec2State::Error) => {
                    mark(clients, ours, SnapshotState::Rejected).await?;
                    Err(failed(
                        input,
                        format!(
                            "{} ended in an error: {}",
                            ours.snapshot_id().unwrap_or_default(),
                            ours.state_message().unwrap_or("EC2 gives no reason")
                        ),
                    ))
                }
                _ if Timestamp::now() > input.target.give_up_at => Err(failed(
                    input,
                    format!(
                        "{} is at {} at the build's timeout. Increase the cache's `timeout_minutes`",
                        ours.snapshot_id().unwrap_or_default(),
                        ours.progress().unwrap_or("0%")
                    ),
                )),
                _ => Ok(None),
            }
        })
        .await
}

fn done(input: &BuilderInput, complete: &Ec2Snapshot) -> Result<Snapshot, StageError> {
    let id: Option<SnapshotId> = complete.snapshot_id().and_then(|id| id.parse().ok());
    let size = complete.volume_size().and_then(|size| size.try_into().ok());
    match (id, size) {
        (Some(snapshot_id), Some(size)) => Ok(Snapshot {
            snapshot_id,
            volume_size: GiB(size),
            started_at: timestamp(complete.start_time()),
            completed_at: complete
                .completion_time()
                .map_or_else(Timestamp::now, |time| timestamp(Some(time))),
        }),
        _ => Err(failed(
            input,
            "EC2 returned it without ID or size".to_owned(),
        )),
    }
}

async fn mark(
    clients: &Clients,
    snapshot: &Ec2Snapshot,
    state: SnapshotState,
) -> Result<(), StageError> {
    clients
        .ec2
        .create_tags()
        .set_resources(snapshot.snapshot_id().map(|id| vec![id.to_owned()]))
        .tags(tag(names::TAG_STATE, state.as_str()))
        .send()
        .await
        .or_stage_error("ec2:CreateTags")?;
    Ok(())
}

fn state_tag(snapshot: &Ec2Snapshot) -> Option<&str> {
    tag_value(snapshot.tags(), names::TAG_STATE)
}

fn failed(input: &BuilderInput, problem: String) -> StageError {
    StageError::SnapshotFailed {
        instance: input.builder.instance_id.clone(),
        problem,
    }
}
