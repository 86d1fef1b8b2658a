//! Retention: selects old snapshots and keeps those that are still in use.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use prepull_aws::ec2::types::{Filter, Image, LaunchTemplateVersion, ResponseLaunchTemplateData};
use prepull_aws::pointers::TargetPointer;
use prepull_aws::{Clients, StageResult, parameters, tag_filter};
use prepull_domain::build::payload::SnapshotState;
use prepull_domain::snapshot::retention::beyond_retention;
use prepull_domain::{Architecture, CacheName, Pointer, RegionName, SnapshotId, StageError, names};

use crate::{Removed, removal, resources};

/// Time for which retention keeps a snapshot after its rejection. Node classes and launch templates need a new ID until then.
const REJECTED_KEPT: SignedDuration = SignedDuration::from_hours(7 * 24);

/// Removes the snapshots of one cache and architecture beyond the newest `retain`, with their manifests, in this Region and
/// in the Regions of their copies. A failed deletion does not stop the others. The first error is returned at the end.
pub(crate) async fn apply(
    clients: &Clients,
    cache: &CacheName,
    architecture: Architecture,
    retain: u8,
    copy_to_regions: &BTreeSet<RegionName>,
    removed: &mut Removed,
) -> Result<(), StageError> {
    let pointer = TargetPointer {
        clients,
        cache,
        architecture,
        copy_to_regions,
    };
    let (pointer, now) = (pointer.current().await?, Timestamp::now());
    let target = (cache, architecture);
    let mut result = apply_here(clients, target, retain, &held(&pointer, now), removed).await;
    for region in copy_to_regions {
        let there = clients.in_region(region);
        let held = held(&pointer.in_region(region), now);
        result = result.and(apply_here(&there, target, retain, &held, removed).await);
    }
    result
}

/// Returns the snapshots that the pointer refers to, because a roll-back returns to the previous one. Also returns those
/// that were rejected lately, because nodes may still start from them.
fn held(pointer: &Pointer, now: Timestamp) -> BTreeSet<SnapshotId> {
    let rejected = pointer
        .rejected
        .iter()
        .filter(|rejection| now.duration_since(rejection.at) < REJECTED_KEPT)
        .map(|rejection| rejection.snapshot_id.clone());
    let held = pointer.held().map(|held| held.snapshot_id.clone());
    held.chain(rejected).collect()
}

async fn apply_here(
    clients: &Clients,
    (cache, architecture): (&CacheName, Architecture),
    retain: u8,
    held: &BTreeSet<SnapshotId>,
    removed: &mut Removed,
) -> Result<(), StageError> {
    let filters = vec![
        tag_filter(names::TAG_CACHE, cache.as_str()),
        tag_filter(names::TAG_ARCHITECTURE, architecture.as_str()),
    ];
    let snapshots: Vec<_> = resources::snapshots(clients, filters)
        .await?
        .into_iter()
        .map(|snapshot| snapshot.found)
        .collect();
    let rejected = snapshots
        .iter()
        .filter(|found| found.state == Some(SnapshotState::Rejected))
        .map(|found| found.id.clone());
    let mut candidates = beyond_retention(&snapshots, retain, held);
    candidates.extend(rejected.clone());
    // Looks up references only if there is something to delete.
    if candidates.is_empty() {
        return Ok(());
    }
    let mut in_use = in_use(clients, cache, architecture, &candidates).await?;
    in_use.extend(held.iter().cloned());
    let mut to_delete = beyond_retention(&snapshots, retain, &in_use);
    to_delete.extend(rejected.filter(|id| !in_use.contains(id)));
    // A snapshot that cannot be deleted, for example a locked one, does not stop the others.
    let mut result = Ok(());
    for id in to_delete {
        result = result.and(remove(clients, cache, architecture, id, removed).await);
    }
    result
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

/// Returns those of `snapshots` that are still referenced.
async fn in_use(
    clients: &Clients,
    cache: &CacheName,
    architecture: Architecture,
    snapshots: &[SnapshotId],
) -> Result<BTreeSet<SnapshotId>, StageError> {
    let pointer = names::pointer_parameter(cache, architecture);
    let pointer = parameters::get(clients, &pointer).await?;
    let mut used: BTreeSet<String> = pointer.into_iter().collect();
    used.extend(used_by_images(clients, snapshots).await?);
    used.extend(used_by_launch_templates(clients).await?);
    Ok(used.iter().filter_map(|id| id.parse().ok()).collect())
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
