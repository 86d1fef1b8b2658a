//! The resources of an execution: its builders, their volumes, and unverified snapshots.

use std::time::Duration;

use jiff::Timestamp;
use prepull_aws::ec2::types::{
    Filter, InstanceStateName, SnapshotState as EbsState, Tag, VolumeState,
};
use prepull_aws::instances::{self, InstanceRecord};
use prepull_aws::snapshots::{self, SnapshotRecord};
use prepull_aws::{
    Clients, Deadline, StageResult, parameters, tag_filter, tag_key_filter, tag_value, timestamp,
};
use prepull_domain::build::payload::SnapshotState;
use prepull_domain::snapshot::retention::FoundSnapshot;
use prepull_domain::{Architecture, CacheName, ExecutionName, StageError, VolumeId, names};

use crate::{Removed, removal};

/// Poll interval for instances that terminate.
const INTERVAL: Duration = Duration::from_secs(1);

/// Time during which a launched instance may be missing from the list. It applies only if EC2 lists no instance of the
/// execution, because EC2 lists a terminated instance for an hour. The response of `RunInstances` may have been lost, and
/// a function can run for a moment after its execution was stopped.
const LISTED_WITHIN: Duration = Duration::from_secs(10);

/// The owner of the resources.
pub(crate) struct Owner {
    pub(crate) execution: ExecutionName,
    /// The target, or `None` for the whole execution.
    pub(crate) architecture: Option<Architecture>,
}

impl Owner {
    fn filters(&self) -> Vec<Filter> {
        let architecture = self
            .architecture
            .map(|architecture| tag_filter(names::TAG_ARCHITECTURE, architecture.as_str()));
        [
            ours(),
            tag_filter(names::TAG_EXECUTION, self.execution.as_str()),
        ]
        .into_iter()
        .chain(architecture)
        .collect()
    }
}

/// Returns the filter for all resources of prepull.
pub(crate) fn ours() -> Filter {
    tag_key_filter(names::TAG_CACHE)
}

/// Removes the resources of `owner` and waits until its instances have terminated. Until then, the instances cost money
/// and hold volumes.
pub(crate) async fn remove(
    clients: &Clients,
    owner: &Owner,
    removed: &mut Removed,
    deadline: Deadline,
) -> Result<(), StageError> {
    let listed = deadline.at_most(LISTED_WITHIN);
    let mut was_listed = false;
    deadline
        .poll(
            INTERVAL,
            "waiting for the builders to terminate",
            async || {
                let instances = instances::find(clients, owner.filters()).await?;
                was_listed |= !instances.is_empty();
                if !was_listed && listed.check("waiting for a builder to be listed").is_ok() {
                    return Ok(None);
                }
                let living: Vec<_> = instances.into_iter().filter(is_living).collect();
                let done = living.is_empty();
                for instance in living {
                    if instance.state != InstanceStateName::ShuttingDown {
                        removal::terminate(clients, instance.id, removed).await?;
                    }
                }
                Ok(done.then_some(()))
            },
        )
        .await?;
    // A builder's volumes go with it. These volumes belong to launches that never attached them.
    for volume in free_volumes(clients, owner.filters()).await? {
        removal::delete_volume(clients, volume.id, removed).await?;
    }
    for snapshot in snapshots(clients, owner.filters()).await? {
        if !snapshot.found.is_verified() && !snapshot.was_published(clients).await? {
            removal::delete_snapshot(clients, snapshot.found.id, removed).await?;
        }
    }
    Ok(())
}

/// Returns the instances that have not terminated.
pub(crate) async fn living_instances(
    clients: &Clients,
    filters: Vec<Filter>,
) -> Result<Vec<InstanceRecord>, StageError> {
    let mut instances = instances::find(clients, filters).await?;
    instances.retain(is_living);
    Ok(instances)
}

fn is_living(instance: &InstanceRecord) -> bool {
    instance.state != InstanceStateName::Terminated
}

/// A volume that is not attached to an instance.
pub(crate) struct FreeVolume {
    pub(crate) id: VolumeId,
    /// `None` if EC2 returns none.
    pub(crate) created_at: Option<Timestamp>,
    pub(crate) tags: Vec<Tag>,
}

pub(crate) async fn free_volumes(
    clients: &Clients,
    filters: Vec<Filter>,
) -> Result<Vec<FreeVolume>, StageError> {
    let request = clients.ec2.describe_volumes().set_filters(Some(filters));
    let mut pages = request.into_paginator().send();
    let mut volumes = Vec::new();
    while let Some(page) = pages.next().await {
        let page = page.or_stage_error("ec2:DescribeVolumes")?;
        volumes.extend(
            page.volumes
                .unwrap_or_default()
                .into_iter()
                .filter(|volume| {
                    matches!(
                        volume.state(),
                        Some(VolumeState::Available | VolumeState::Error)
                    )
                })
                .filter_map(|volume| {
                    Some(FreeVolume {
                        id: volume.volume_id()?.parse().ok()?,
                        created_at: volume.create_time().map(timestamp),
                        tags: volume.tags.unwrap_or_default(),
                    })
                }),
        );
    }
    Ok(volumes)
}

/// A snapshot with its tags.
pub(crate) struct TaggedSnapshot {
    pub(crate) found: FoundSnapshot,
    pub(crate) tags: Vec<Tag>,
}

impl TaggedSnapshot {
    /// The cache and the architecture of the snapshot.
    pub(crate) fn target(&self) -> Option<(CacheName, Architecture)> {
        let cache = tag_value(&self.tags, names::TAG_CACHE)?.parse().ok()?;
        let architecture = tag_value(&self.tags, names::TAG_ARCHITECTURE)?
            .parse()
            .ok()?;
        Some((cache, architecture))
    }

    /// Returns whether nodes may start from the snapshot: the pointer refers to it, or it was published and then rejected by a
    /// person. Retention decides about it. Its tag `prepull:state` does not matter.
    pub(crate) async fn was_published(&self, clients: &Clients) -> Result<bool, StageError> {
        let Some((cache, architecture)) = self.target() else {
            return Ok(false);
        };
        let pointer = names::pointer_parameter(&cache, architecture);
        let published = parameters::get(clients, &pointer).await?;
        Ok(published.as_deref() == Some(self.found.id.as_str())
            || was_rejected_after_publication(clients, &cache, architecture, &self.found).await?)
    }

    fn of(snapshot: SnapshotRecord) -> Self {
        // A copy has tags before it is complete, and it may fail.
        let state = match snapshot.ebs_state {
            Some(EbsState::Error) => Some(SnapshotState::Rejected),
            _ => snapshot.state(),
        };
        Self {
            found: FoundSnapshot {
                expires_at: snapshot.expires_at(),
                id: snapshot.id,
                started_at: snapshot.started_at,
                state,
            },
            tags: snapshot.tags,
        }
    }
}

/// Returns whether a person rejected a snapshot that nodes may use. Only publication writes a manifest. A snapshot that a
/// build or EBS rejected has none.
pub(crate) async fn was_rejected_after_publication(
    clients: &Clients,
    cache: &CacheName,
    architecture: Architecture,
    snapshot: &FoundSnapshot,
) -> Result<bool, StageError> {
    if snapshot.state != Some(SnapshotState::Rejected) {
        return Ok(false);
    }
    let manifest = names::manifest_parameter(cache, architecture, &snapshot.id);
    Ok(parameters::get(clients, &manifest).await?.is_some())
}

/// Returns the account's own snapshots that match.
pub(crate) async fn snapshots(
    clients: &Clients,
    filters: Vec<Filter>,
) -> Result<Vec<TaggedSnapshot>, StageError> {
    let found = snapshots::find(clients, filters).await?;
    Ok(found.into_iter().map(TaggedSnapshot::of).collect())
}
