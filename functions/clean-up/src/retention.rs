//! Retention: selects old snapshots, keeps those that are still in use, and announces a deletion before it happens.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use prepull_aws::ec2::types::{Filter, Image, LaunchTemplateVersion, ResponseLaunchTemplateData};
use prepull_aws::pointers::TargetPointer;
use prepull_aws::{
    Clients, MAX_FILTER_VALUES, StageResult, emit_event, parameters, snapshots, tag_filter,
};
use prepull_domain::build::payload::SnapshotState;
use prepull_domain::snapshot::retention::{Consumer, FoundSnapshot, Step, beyond_retention};
use prepull_domain::{Architecture, CacheName, Pointer, RegionName, SnapshotId, StageError, names};
use serde_json::json;

use crate::{Removed, removal, resources};

/// Retention of one cache and architecture.
pub(crate) struct Retention<'a> {
    /// Clients in the Region of the installation.
    pub(crate) clients: &'a Clients,
    pub(crate) cache: &'a CacheName,
    pub(crate) architecture: Architecture,
    /// Number of snapshots to keep.
    pub(crate) snapshots: u8,
    /// Days for which a snapshot stays after its replacement.
    pub(crate) days: u16,
    pub(crate) copy_to_regions: &'a BTreeSet<RegionName>,
}

impl Retention<'_> {
    /// Removes the old snapshots with their manifests, in this Region and in the Regions of their copies. A failure does not
    /// stop the others. The first error is returned at the end.
    pub(crate) async fn apply(&self, removed: &mut Removed) -> Result<(), StageError> {
        let pointer = TargetPointer {
            clients: self.clients,
            cache: self.cache,
            architecture: self.architecture,
            copy_to_regions: self.copy_to_regions,
        };
        let pointer = pointer.current().await?;
        let here = self.clients.region();
        let mut result = self
            .apply_in_region(self.clients, here.as_ref(), &pointer, removed)
            .await;
        for region in self.copy_to_regions {
            let there = self.clients.in_region(region);
            let pointer = pointer.in_region(region);
            let applied = self
                .apply_in_region(&there, Some(region), &pointer, removed)
                .await;
            result = result.and(applied);
        }
        result
    }

    async fn apply_in_region(
        &self,
        clients: &Clients,
        region: Option<&RegionName>,
        pointer: &Pointer,
        removed: &mut Removed,
    ) -> Result<(), StageError> {
        let filters = vec![
            tag_filter(names::TAG_CACHE, self.cache.as_str()),
            tag_filter(names::TAG_ARCHITECTURE, self.architecture.as_str()),
        ];
        let found: Vec<_> = resources::snapshots(clients, filters)
            .await?
            .into_iter()
            .map(|snapshot| snapshot.found)
            .collect();
        // A roll-back returns to the previous snapshot.
        let held = pointer.held().map(|held| held.snapshot_id.clone());
        let held: BTreeSet<_> = held.collect();
        let surplus = surplus(&found, self.snapshots, &held);
        let now = Timestamp::now();
        // Looks up references only if there is something to do. Most snapshots only wait for their time.
        let due: Vec<_> = surplus
            .iter()
            .filter(|snapshot| snapshot.expires_at.is_none_or(|at| at <= now))
            .map(|snapshot| snapshot.id.clone())
            .collect();
        let in_use = if due.is_empty() {
            BTreeSet::new()
        } else {
            self.in_use(clients, &due, now).await?
        };
        // A snapshot that cannot be deleted, for example a locked one, does not stop the others.
        let mut result = Ok(());
        for snapshot in &found {
            let is_used = in_use.contains(&snapshot.id);
            let done = if surplus.contains(&snapshot) {
                self.step(clients, region, snapshot, is_used, now, removed)
                    .await
            } else if snapshot.expires_at.is_some() {
                withdraw(clients, &snapshot.id).await
            } else {
                Ok(())
            };
            result = result.and(done);
        }
        result
    }

    /// Makes the next step for a surplus snapshot.
    async fn step(
        &self,
        clients: &Clients,
        region: Option<&RegionName>,
        snapshot: &FoundSnapshot,
        is_used: bool,
        now: Timestamp,
        removed: &mut Removed,
    ) -> Result<(), StageError> {
        let keep = match snapshot.expires_at {
            Some(_) => SignedDuration::ZERO,
            None => self.grace_period(clients, snapshot).await?,
        };
        let id = &snapshot.id;
        match snapshot.next_step(is_used, keep, now) {
            Step::Wait => Ok(()),
            Step::Announce(at) => self.announce(clients, region, id, at).await,
            Step::Withdraw => withdraw(clients, id).await,
            Step::Delete => {
                remove(clients, self.cache, self.architecture, id.clone(), removed).await
            }
        }
    }

    /// Returns for how long a snapshot stays after its announcement. No node uses one that was never published.
    async fn grace_period(
        &self,
        clients: &Clients,
        snapshot: &FoundSnapshot,
    ) -> Result<SignedDuration, StageError> {
        let days = if snapshot.is_verified()
            || resources::was_rejected_after_publication(
                clients,
                self.cache,
                self.architecture,
                snapshot,
            )
            .await?
        {
            self.days
        } else {
            0
        };
        Ok(SignedDuration::from_hours(24 * i64::from(days)))
    }

    /// Emits the event, and then sets the tag. If the tag cannot be set, the next call repeats the event.
    async fn announce(
        &self,
        clients: &Clients,
        region: Option<&RegionName>,
        snapshot: &SnapshotId,
        expires_at: Timestamp,
    ) -> Result<(), StageError> {
        let detail = json!({
            "cache": self.cache,
            "architecture": self.architecture,
            "snapshot_id": snapshot,
            "region": region,
            "expires_at": expires_at,
        });
        emit_event(self.clients, names::EVENT_EXPIRING, &detail).await?;
        snapshots::set_expiry(clients, snapshot, Some(expires_at)).await?;
        Ok(())
    }

    /// Returns those of `snapshots` that are still referenced. Launch templates need the most calls, so they come last.
    async fn in_use(
        &self,
        clients: &Clients,
        snapshots: &[SnapshotId],
        now: Timestamp,
    ) -> Result<BTreeSet<SnapshotId>, StageError> {
        let pointer = names::pointer_parameter(self.cache, self.architecture);
        let pointer = parameters::get(clients, &pointer).await?;
        let mut used: Vec<String> = pointer.into_iter().collect();
        for snapshots in snapshots.chunks(MAX_FILTER_VALUES) {
            used.extend(used_by_images(clients, snapshots).await?);
            used.extend(used_by_volumes(clients, snapshots).await?);
        }
        let parse = |used: Vec<String>| used.into_iter().filter_map(|id| id.parse().ok());
        let mut used: BTreeSet<SnapshotId> = parse(used).collect();
        used.extend(self.used_by_consumers(clients, now).await?);
        if !snapshots.iter().all(|id| used.contains(id)) {
            used.extend(parse(used_by_launch_templates(clients).await?));
        }
        Ok(used)
    }

    /// Returns the snapshots of registered consumers, and deletes old registrations.
    async fn used_by_consumers(
        &self,
        clients: &Clients,
        now: Timestamp,
    ) -> Result<Vec<SnapshotId>, StageError> {
        let path = names::consumers_path(self.cache, self.architecture);
        let mut used = Vec::new();
        for (name, json) in parameters::below(clients, &path).await? {
            let consumer: Consumer =
                serde_json::from_str(&json).map_err(|error| StageError::AwsFailed {
                    call: "ssm:GetParametersByPath",
                    message: format!(
                        "the registration in parameter {name} cannot be parsed, and its snapshot is unknown: {error}. Delete the \
                         parameter, or use the version of prepull that wrote it"
                    ),
                })?;
            if consumer.counts(now) {
                used.push(consumer.snapshot_id);
            } else {
                parameters::delete(clients, &name).await?;
            }
        }
        Ok(used)
    }
}

async fn withdraw(clients: &Clients, snapshot: &SnapshotId) -> Result<(), StageError> {
    snapshots::set_expiry(clients, snapshot, None).await?;
    Ok(())
}

/// Returns the snapshots that the cache does not need: good ones beyond the newest `retain`, and rejected ones.
fn surplus<'a>(
    found: &'a [FoundSnapshot],
    retain: u8,
    held: &BTreeSet<SnapshotId>,
) -> Vec<&'a FoundSnapshot> {
    let old = beyond_retention(found, retain, held);
    let is_surplus = |snapshot: &&FoundSnapshot| {
        let is_rejected = snapshot.state == Some(SnapshotState::Rejected);
        old.contains(&snapshot.id) || (is_rejected && !held.contains(&snapshot.id))
    };
    found.iter().filter(is_surplus).collect()
}

/// Removes a snapshot, and then its manifest.
async fn remove(
    clients: &Clients,
    cache: &CacheName,
    architecture: Architecture,
    id: SnapshotId,
    removed: &mut Removed,
) -> Result<(), StageError> {
    let manifest = names::manifest_parameter(cache, architecture, &id);
    if removal::delete_snapshot(clients, id, removed).await? {
        let pages = parameters::below(clients, &manifest).await?;
        removal::delete_manifest(clients, manifest, pages.into_keys(), removed).await?;
    }
    Ok(())
}

/// Returns those of `snapshots` that the account's own machine images use.
async fn used_by_images(
    clients: &Clients,
    snapshots: &[SnapshotId],
) -> Result<Vec<String>, StageError> {
    let filter = Filter::builder()
        .name("block-device-mapping.snapshot-id")
        .set_values(Some(snapshots.iter().map(SnapshotId::to_string).collect()))
        .build();
    let request = clients.ec2.describe_images().owners("self").filters(filter);
    let mut pages = request.into_paginator().send();
    let mut used = Vec::new();
    while let Some(page) = pages.next().await {
        let page = page.or_stage_error("ec2:DescribeImages")?;
        let disks = page
            .images()
            .iter()
            .flat_map(Image::block_device_mappings)
            .filter_map(|mapping| mapping.ebs()?.snapshot_id().map(str::to_owned));
        used.extend(disks);
    }
    Ok(used)
}

/// Returns those of `snapshots` with a volume, because the source of that volume may start more nodes. A snapshot in another
/// account's use stays unseen.
async fn used_by_volumes(
    clients: &Clients,
    snapshots: &[SnapshotId],
) -> Result<Vec<String>, StageError> {
    let filter = Filter::builder()
        .name("snapshot-id")
        .set_values(Some(snapshots.iter().map(SnapshotId::to_string).collect()))
        .build();
    let request = clients.ec2.describe_volumes().filters(filter);
    let mut pages = request.into_paginator().send();
    let mut used = Vec::new();
    while let Some(page) = pages.next().await {
        let page = page.or_stage_error("ec2:DescribeVolumes")?;
        let ids = page
            .volumes()
            .iter()
            .filter_map(|volume| volume.snapshot_id());
        used.extend(ids.map(str::to_owned));
    }
    Ok(used)
}

/// Returns every snapshot that a version of a launch template uses.
async fn used_by_launch_templates(clients: &Clients) -> Result<Vec<String>, StageError> {
    let latest = versions(clients, None).await?;
    let mut used: Vec<_> = latest.iter().flat_map(used_by).collect();
    // Other versions need one request per template. A node group may use any of them.
    let templates: BTreeSet<_> = latest
        .iter()
        .filter(|version| version.version_number() > Some(1))
        .filter_map(LaunchTemplateVersion::launch_template_id)
        .collect();
    for template in templates {
        let all = versions(clients, Some(template)).await?;
        used.extend(all.iter().flat_map(used_by));
    }
    Ok(used)
}

/// Returns all versions of one launch template, or the latest and default versions of all templates.
async fn versions(
    clients: &Clients,
    template: Option<&str>,
) -> Result<Vec<LaunchTemplateVersion>, StageError> {
    let request = clients.ec2.describe_launch_template_versions();
    let request = match template {
        Some(template) => request.launch_template_id(template),
        None => request.versions("$Latest").versions("$Default"),
    };
    let mut pages = request.into_paginator().send();
    let mut versions = Vec::new();
    while let Some(page) = pages.next().await {
        let page = page.or_stage_error("ec2:DescribeLaunchTemplateVersions")?;
        versions.extend(page.launch_template_versions.unwrap_or_default());
    }
    Ok(versions)
}

fn used_by(version: &LaunchTemplateVersion) -> Vec<String> {
    version
        .launch_template_data()
        .into_iter()
        .flat_map(ResponseLaunchTemplateData::block_device_mappings)
        .filter_map(|mapping| mapping.ebs()?.snapshot_id().map(str::to_owned))
        .collect()
}
