//! Creates a snapshot of a builder's data volume.
//!
//! **Before:** the builder runs, and pull-images has verified its volume.
//! **After:** the builder is stopped. One complete snapshot of its data volume has this execution's tags. It contains no
//! secret and no identity of the builder. If verify-snapshot follows, the snapshot contains a fingerprint of its unpacked
//! images and has no state yet. Otherwise it has the state `verified`.
//! **Called again:** continues from the current state: a snapshot of this execution, a stopped builder, or a builder that
//! was told to power off. The history of commands holds the fingerprint. Two concurrent calls can create two snapshots. All calls then use the verified one, or the older
//! one if neither is verified, and reject the other.
//! **Errors:** `SnapshotFailed`, `BuilderLost`.
//!
//! The builder stays until the snapshot is complete. A stopped builder costs only its volumes.
//!
//! # Why every snapshot is scrubbed
//! The document `power-off` starts a unit with these steps: stop all writers, overwrite and remove the secrets, sync, power
//! off. systemd runs a step only if the previous one succeeded, so the operating system powers off only after the volume is clean. EC2
//! reports this case with its own state reason, `Client.InstanceInitiatedShutdown`. A stop through the API, a failed host
//! or a power cut has another reason. This stage snapshots only builders with that reason, and only after it has requested
//! the power-off itself. It never stops an instance through the API, because a builder with a failed scrub would then look
//! like one with a slow scrub.

mod fingerprint;
mod power_off;

use std::time::Duration;

use jiff::Timestamp;
use prepull_aws::ec2::types::{ResourceType, SnapshotState as EbsState};
use prepull_aws::snapshots::{self, SnapshotRecord};
use prepull_aws::{Clients, Deadline, Pace, StageResult, tag, tag_specification, target_filters};
use prepull_domain::build::payload::{BuilderInput, Snapshot, SnapshotState, Target};
use prepull_domain::node::Trees;
use prepull_domain::{StageError, VerificationLevel, VolumeId, names};

/// Poll interval for the power-off and for the snapshot.
const POLL: Pace = Pace::up_to(Duration::from_secs(1));

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
    completed(clients, settings, &input, deadline).await
}

/// Returns this execution's snapshots of the target that are not rejected: verified ones first, then oldest first.
async fn find(clients: &Clients, target: &Target) -> Result<Vec<SnapshotRecord>, StageError> {
    let mut found = snapshots::find(clients, target_filters(target)).await?;
    found.retain(|found| found.state() != Some(SnapshotState::Rejected));
    found.sort_by(|a, b| {
        let key = |found: &SnapshotRecord| {
            let is_new = found.state().is_none();
            (is_new, found.started_at, found.id.clone())
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
    settings: &Settings,
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
            for double in doubles.iter().filter(|double| double.state().is_none()) {
                snapshots::set_state(clients, &double.id, SnapshotState::Rejected).await?;
            }
            match ours.ebs_state {
                Some(EbsState::Completed) => {
                    // A snapshot that is already published stays published.
                    if ours.state().is_none()
                        && input.target.verification.level == VerificationLevel::Off
                        && !snapshots::set_state(clients, &ours.id, SnapshotState::Verified).await?
                    {
                        return Err(failed(input, format!("{} was deleted", ours.id)));
                    }
                    let trees = fingerprint::taken(clients, settings, input).await?;
                    done(input, ours, trees).map(Some)
                }
                Some(EbsState::Error) => {
                    snapshots::set_state(clients, &ours.id, SnapshotState::Rejected).await?;
                    Err(failed(
                        input,
                        format!(
                            "{} ended in an error: {}",
                            ours.id,
                            ours.message.as_deref().unwrap_or("EC2 gives no reason")
                        ),
                    ))
                }
                _ if Timestamp::now() > input.target.give_up_at => Err(failed(
                    input,
                    format!(
                        "{} is at {} at the build's timeout. Increase the cache's `timeout_minutes`",
                        ours.id,
                        ours.progress()
                    ),
                )),
                _ => Ok(None),
            }
        })
        .await
}

fn done(
    input: &BuilderInput,
    complete: &SnapshotRecord,
    trees: Option<Trees>,
) -> Result<Snapshot, StageError> {
    let (Some(volume_size), Some(started_at)) = (complete.volume_size, complete.started_at) else {
        let problem = format!("EC2 returned {} without size or start time", complete.id);
        return Err(failed(input, problem));
    };
    Ok(Snapshot {
        snapshot_id: complete.id.clone(),
        volume_size,
        started_at,
        completed_at: complete.completed_at.unwrap_or_else(Timestamp::now),
        trees,
    })
}

fn failed(input: &BuilderInput, problem: String) -> StageError {
    StageError::SnapshotFailed {
        instance: input.builder.instance_id.clone(),
        problem,
    }
}
