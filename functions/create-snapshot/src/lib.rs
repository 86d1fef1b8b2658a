//! Makes a snapshot of a builder's data volume.
//!
//! **Before:** the builder runs, and its volume was verified to hold what the plan wants.
//! **After:** the builder is off, and one complete snapshot of its data volume bears this execution's tags and the state
//! `verified`. No secret and no identity of the builder is in it.
//! **Called again:** goes on with what is there: a snapshot of this execution, else a builder that is off, else one
//! that was told to power off. Of two snapshots, which two calls at the same time can make, all calls take the older one
//! and reject the other, unless one of them was vouched for already: nodes may use that.
//! **Errors:** `SnapshotFailed`, `BuilderLost`.
//!
//! The builder stays until the snapshot is complete. That costs nothing but its volumes, since it is off.
//!
//! # Why no volume is snapshotted that was not scrubbed
//! The document `power-off` starts a unit whose steps are: stop whatever writes, remove the secrets, sync, power off.
//! systemd takes each step only after the one before it succeeded. So the builder's operating system powers the machine
//! off only once the volume is clean, and EC2 tells that apart from every other end: the state's reason is then
//! `Client.InstanceInitiatedShutdown`, while a stop through the API, a failing host or a power cut bear others. This
//! stage snapshots only what bears that reason, after it has itself asked for the power-off, and never stops an instance
//! by the API: that would make a builder whose scrub failed look like one whose scrub is merely slow.

mod power_off;

use std::time::Duration;

use jiff::Timestamp;
use prepull_aws::ec2::types::{ResourceType, Snapshot as Ec2Snapshot, SnapshotState as Ec2State};
use prepull_aws::{
    Clients, Deadline, StageResult, tag, tag_filter, tag_specification, tag_value, timestamp,
};
use prepull_domain::stages::{BuilderInput, Snapshot, SnapshotState, Target};
use prepull_domain::{GiB, SnapshotId, StageError, VolumeId, names};

/// How often EC2 is asked whether the builder is off, and whether the snapshot is complete.
const POLL: Duration = Duration::from_secs(1);

/// What the function is deployed with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What the names of the documents begin with.
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

/// The snapshots of the target that this execution made and that are not rejected: those first that were vouched for, and
/// then the oldest first.
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
    tracing::info!(snapshot = made.snapshot_id(), %volume, "started a snapshot");
    Ok(())
}

/// Waits until the snapshot is complete and says so in its tags.
async fn completed(
    clients: &Clients,
    input: &BuilderInput,
    deadline: Deadline,
) -> Result<Snapshot, StageError> {
    deadline
        .poll(POLL, "the snapshot to be complete", async || {
            let found = find(clients, &input.target).await?;
            // A new snapshot is listed a moment later than it was made.
            let Some((ours, doubles)) = found.split_first() else {
                return Ok(None);
            };
            for double in doubles.iter().filter(|double| state_tag(double).is_none()) {
                mark(clients, double, SnapshotState::Rejected).await?;
            }
            match ours.state() {
                Some(Ec2State::Completed) => {
                    // A snapshot that is published already stays so.
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
                        "{} is at {} and the build's time is over",
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
            "EC2 describes it without ID or size".to_owned(),
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
