//! The snapshot in one Region: the original at home, or a copy.

use std::time::Duration;

use jiff::Timestamp;
use prepull_aws::ec2::types::{
    CreateVolumePermission, CreateVolumePermissionModifications, ResourceType,
    SnapshotAttributeName, SnapshotState as EbsState,
};
use prepull_aws::snapshots::{self, SnapshotRecord};
use prepull_aws::{
    AwsError, Clients, Deadline, parameters, tag, tag_specification, target_filters,
};
use prepull_domain::build::payload::{PublishInput, SnapshotState};
use prepull_domain::{Manifest, RegionName, SnapshotId, StageError, names};

use crate::{publish_failed, refused};

/// Poll interval for unfinished copies. Copies between Regions take minutes.
const INTERVAL: Duration = Duration::from_secs(3);

/// Retry interval for a copy that EBS refuses because too many are in progress to its Region.
const QUOTA_INTERVAL: Duration = Duration::from_secs(15);

/// EC2's error code for too many snapshot copies in progress to one Region. The quota is 20 per account.
///
/// Source: EC2 API reference, "Error codes"; AWS General Reference, "Amazon EBS endpoints and quotas".
const TOO_MANY_COPIES: &str = "ResourceLimitExceeded";

/// A snapshot in one Region.
pub(crate) struct RegionalSnapshot<'a> {
    pub(crate) clients: Clients,
    pub(crate) region: &'a RegionName,
    pub(crate) snapshot: SnapshotId,
}

impl RegionalSnapshot<'_> {
    /// Allows the accounts of the cache to create volumes from the snapshot.
    pub(crate) async fn share(&self, input: &PublishInput) -> Result<(), StageError> {
        let accounts = &input.target.publication.share_with_accounts;
        if accounts.is_empty() {
            return Ok(());
        }
        let permissions = accounts.iter().fold(
            CreateVolumePermissionModifications::builder(),
            |permissions, account| {
                permissions.add(
                    CreateVolumePermission::builder()
                        .user_id(account.as_str())
                        .build(),
                )
            },
        );
        self.clients
            .ec2
            .modify_snapshot_attribute()
            .snapshot_id(self.snapshot.as_str())
            .attribute(SnapshotAttributeName::CreateVolumePermission)
            .create_volume_permission(permissions.build())
            .send()
            .await
            .map_err(|error| {
                refused(
                    input,
                    "ec2:ModifySnapshotAttribute",
                    "A snapshot with the default EBS key cannot be shared: set `volume.kms_key_id` to a KMS key that \
                     those accounts may use, or empty `publication.share_with_accounts`",
                    error,
                )
            })?;
        Ok(())
    }

    /// Writes the manifest.
    pub(crate) async fn describe(&self, input: &PublishInput) -> Result<(), StageError> {
        let (cache, architecture) = (&input.target.cache, input.target.architecture);
        let manifest = Manifest {
            snapshot_id: self.snapshot.clone(),
            ..Manifest::of(input, Timestamp::now())
        };
        let parameter = names::manifest_parameter(cache, architecture, &self.snapshot);
        parameters::put_document(&self.clients, &parameter, &manifest.to_pages())
            .await
            .map_err(|error| {
                let advice = format!("Check parameter {parameter} in {}", self.region);
                publish_failed(input, &advice, error)
            })
    }
}

/// Returns a completed copy of the snapshot in `region`. It reuses an existing copy.
pub(crate) async fn copy<'a>(
    home: &RegionalSnapshot<'_>,
    region: &'a RegionName,
    input: &PublishInput,
    deadline: Deadline,
) -> Result<RegionalSnapshot<'a>, StageError> {
    let clients = home.clients.in_region(region);
    if existing_copy(&clients, input).await?.is_none() {
        deadline
            .poll(
                QUOTA_INTERVAL,
                &format!("waiting for other copies to {region} to end"),
                async || start_copy(&clients, home, region, input).await,
            )
            .await?;
    }
    let waiting_for = format!("waiting for the copy in {region}");
    let snapshot = deadline
        .poll(INTERVAL, &waiting_for, async || {
            let copy = existing_copy(&clients, input).await?;
            match copy.as_ref().and_then(|copy| copy.ebs_state.as_ref()) {
                Some(EbsState::Completed) => Ok(copy.map(|copy| copy.id)),
                Some(EbsState::Error) => Err(StageError::PublishFailed {
                    snapshot: input.snapshot.snapshot_id.clone(),
                    problem: format!(
                        "its copy in {region} failed: {}. Start the build again to make a new copy",
                        copy.as_ref()
                            .and_then(|copy| copy.message.as_deref())
                            .unwrap_or("EBS gives no reason")
                    ),
                }),
                _ if Timestamp::now() > input.target.give_up_at => Err(StageError::PublishFailed {
                    snapshot: input.snapshot.snapshot_id.clone(),
                    problem: format!(
                        "its copy in {region} is at {} at the build's timeout. Increase the cache's `timeout_minutes`",
                        copy.as_ref().map_or("0%", SnapshotRecord::progress)
                    ),
                }),
                _ => Ok(None),
            }
        })
        .await?;
    Ok(RegionalSnapshot {
        clients,
        region,
        snapshot,
    })
}

/// Returns the copy that this execution made, found by its tags because `CopySnapshot` has no client token. If there are
/// two copies, returns the older.
async fn existing_copy(
    clients: &Clients,
    input: &PublishInput,
) -> Result<Option<SnapshotRecord>, StageError> {
    let copies = snapshots::find(clients, target_filters(&input.target)).await?;
    Ok(copies
        .into_iter()
        .min_by_key(|copy| (copy.started_at, copy.id.clone())))
}

/// Starts a copy, unless too many are in progress.
async fn start_copy(
    clients: &Clients,
    home: &RegionalSnapshot<'_>,
    region: &RegionName,
    input: &PublishInput,
) -> Result<Option<()>, StageError> {
    let target = &input.target;
    let mut tags = tag_specification(ResourceType::Snapshot, target);
    tags.tags.get_or_insert_default().extend([
        tag(names::TAG_CONTENT_KEY, target.content_key.as_str()),
        tag(names::TAG_STATE, SnapshotState::Verified.as_str()),
    ]);
    let answer = clients
        .ec2
        .copy_snapshot()
        .source_region(home.region.as_str())
        .source_snapshot_id(home.snapshot.as_str())
        .description(format!(
            "prepull {} {} of {} in {}",
            target.cache, target.architecture, home.snapshot, home.region
        ))
        .encrypted(true)
        .set_kms_key_id(
            target
                .volume
                .kms_key_id
                .as_deref()
                .and_then(|key| replica(key, region)),
        )
        .tag_specifications(tags)
        .send()
        .await;
    match answer {
        Ok(_) => Ok(Some(())),
        Err(error)
            if error.aws_code() == Some(TOO_MANY_COPIES)
                && Timestamp::now() <= input.target.give_up_at =>
        {
            tracing::info!(%region, "copy delayed: too many copies in progress");
            Ok(None)
        }
        Err(error) => Err(refused(
            input,
            "ec2:CopySnapshot",
            "Check `publication.copy_to_regions`, and that the snapshot's key allows copies",
            error,
        )),
    }
}

/// Returns the replica in `region` of a multi-Region key, which has the same ID everywhere. Other keys exist only in their
/// own Region. A copy is then encrypted with the default EBS key of its Region.
fn replica(key_arn: &str, region: &RegionName) -> Option<String> {
    let mut parts: Vec<_> = key_arn.split(':').collect();
    if parts.len() != 6 || !parts[5].starts_with("key/mrk-") {
        return None;
    }
    parts[3] = region.as_str();
    Some(parts.join(":"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copy_uses_only_replicas_of_multi_region_keys() {
        let region = "eu-central-1".parse().unwrap();
        assert_eq!(
            replica(
                "arn:aws:kms:eu-west-1:123456789012:key/mrk-0123456789abcdef",
                &region
            )
            .as_deref(),
            Some("arn:aws:kms:eu-central-1:123456789012:key/mrk-0123456789abcdef")
        );
        for other in [
            "arn:aws:kms:eu-west-1:123456789012:key/01234567-89ab-cdef-0123-456789abcdef",
            "alias/prepull",
        ] {
            assert_eq!(replica(other, &region), None, "{other}");
        }
    }
}
