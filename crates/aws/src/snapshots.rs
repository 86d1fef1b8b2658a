//! EBS snapshots.

use aws_sdk_ec2::types::{Filter, Snapshot, SnapshotState as EbsState, Tag};
use jiff::Timestamp;
use prepull_domain::build::payload::{SnapshotState, VerificationRecord};
use prepull_domain::{GiB, SnapshotId, StageError, names};

use crate::{AwsError, Clients, StageResult, tag, tag_value, timestamp};

/// EC2's error code for a snapshot that does not exist.
const NOT_FOUND: &str = "InvalidSnapshot.NotFound";

/// A snapshot as EC2 describes it.
#[derive(Debug, Clone, PartialEq)]
pub struct SnapshotRecord {
    /// Its ID.
    pub id: SnapshotId,
    /// Its status in EBS: pending, completed or error. `None` if EC2 returns none.
    pub ebs_state: Option<EbsState>,
    /// The cause of the status `error`.
    pub message: Option<String>,
    /// The progress, such as `42%`.
    pub progress: Option<String>,
    /// Its start time, if EC2 returns one.
    pub started_at: Option<Timestamp>,
    /// Its completion time, if EC2 returns one.
    pub completed_at: Option<Timestamp>,
    /// The size of its volume, if EC2 returns one.
    pub volume_size: Option<GiB>,
    /// Its tags.
    pub tags: Vec<Tag>,
}

/// Returns the account's own snapshots that match `filters`.
///
/// # Errors
/// If EC2 does not answer.
pub async fn find(
    clients: &Clients,
    filters: Vec<Filter>,
) -> Result<Vec<SnapshotRecord>, StageError> {
    let request = clients.ec2.describe_snapshots().owner_ids("self");
    let mut pages = request.set_filters(Some(filters)).into_paginator().send();
    let mut found = Vec::new();
    while let Some(page) = pages.next().await {
        let page = page.or_stage_error("ec2:DescribeSnapshots")?;
        let snapshots = page.snapshots.unwrap_or_default().into_iter();
        found.extend(snapshots.filter_map(SnapshotRecord::parse));
    }
    Ok(found)
}

/// Returns the snapshot `id`, or `None` if it does not exist.
///
/// # Errors
/// If EC2 does not answer.
pub async fn get(clients: &Clients, id: &SnapshotId) -> Result<Option<SnapshotRecord>, StageError> {
    let answer = clients
        .ec2
        .describe_snapshots()
        .snapshot_ids(id.as_str())
        .send()
        .await;
    match answer {
        Ok(answer) => {
            let snapshots = answer.snapshots.unwrap_or_default();
            Ok(snapshots.into_iter().find_map(SnapshotRecord::parse))
        }
        Err(error) if error.aws_code() == Some(NOT_FOUND) => Ok(None),
        Err(error) => Err(error.into_stage_error("ec2:DescribeSnapshots")),
    }
}

/// Sets the tag `prepull:state` of a snapshot. Returns whether the snapshot exists.
///
/// # Errors
/// If EC2 rejects the call.
pub async fn set_state(
    clients: &Clients,
    id: &SnapshotId,
    state: SnapshotState,
) -> Result<bool, StageError> {
    set_tag(clients, id, names::TAG_STATE, state.as_str()).await
}

/// Sets the tag `prepull:expires-at` of a snapshot, to the empty text if it does not expire. Returns whether the snapshot
/// exists.
///
/// # Errors
/// If EC2 rejects the call.
pub async fn set_expiry(
    clients: &Clients,
    id: &SnapshotId,
    expires_at: Option<Timestamp>,
) -> Result<bool, StageError> {
    let value = expires_at.map_or_else(String::new, |at| at.to_string());
    set_tag(clients, id, names::TAG_EXPIRES_AT, &value).await
}

/// Sets the state `verified` of a snapshot, together with `record`. Returns whether the snapshot exists.
///
/// # Errors
/// If EC2 rejects the call.
pub async fn set_verified(
    clients: &Clients,
    id: &SnapshotId,
    record: &VerificationRecord,
) -> Result<bool, StageError> {
    let tags = vec![
        tag(names::TAG_STATE, SnapshotState::Verified.as_str()),
        tag(names::TAG_VERIFICATION, &record.to_string()),
    ];
    set_tags(clients, id, tags).await
}

async fn set_tag(
    clients: &Clients,
    id: &SnapshotId,
    key: &str,
    value: &str,
) -> Result<bool, StageError> {
    set_tags(clients, id, vec![tag(key, value)]).await
}

async fn set_tags(clients: &Clients, id: &SnapshotId, tags: Vec<Tag>) -> Result<bool, StageError> {
    let answer = clients
        .ec2
        .create_tags()
        .resources(id.as_str())
        .set_tags(Some(tags))
        .send()
        .await;
    match answer {
        Ok(_) => Ok(true),
        Err(error) if error.aws_code() == Some(NOT_FOUND) => Ok(false),
        Err(error) => Err(error.into_stage_error("ec2:CreateTags")),
    }
}

impl SnapshotRecord {
    /// Parses `snapshot`. `None` if it has no ID, which EC2 always sets.
    fn parse(snapshot: Snapshot) -> Option<Self> {
        Some(Self {
            id: snapshot.snapshot_id()?.parse().ok()?,
            started_at: snapshot.start_time().map(timestamp),
            completed_at: snapshot.completion_time().map(timestamp),
            volume_size: snapshot
                .volume_size()
                .and_then(|size| size.try_into().ok())
                .map(GiB),
            ebs_state: snapshot.state,
            message: snapshot.state_message,
            progress: snapshot.progress,
            tags: snapshot.tags.unwrap_or_default(),
        })
    }

    /// Returns the value of the tag `key`.
    #[must_use]
    pub fn tag(&self, key: &str) -> Option<&str> {
        tag_value(&self.tags, key)
    }

    /// Returns the value of the tag `prepull:state`. `None` if the snapshot is unfinished.
    #[must_use]
    pub fn state(&self) -> Option<SnapshotState> {
        self.tag(names::TAG_STATE)?.parse().ok()
    }

    /// Returns the value of the tag `prepull:verification`. `None` if no verifier has verified the snapshot.
    #[must_use]
    pub fn verification(&self) -> Option<VerificationRecord> {
        self.tag(names::TAG_VERIFICATION)?.parse().ok()
    }

    /// Returns the value of the tag `prepull:expires-at`. `None` if retention has not announced its deletion.
    #[must_use]
    pub fn expires_at(&self) -> Option<Timestamp> {
        self.tag(names::TAG_EXPIRES_AT)?.parse().ok()
    }

    /// Returns the progress for a message. EC2 returns none for a snapshot that has just started.
    #[must_use]
    pub fn progress(&self) -> &str {
        self.progress.as_deref().unwrap_or("0%")
    }
}
