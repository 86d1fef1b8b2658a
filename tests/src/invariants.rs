//! Invariants that hold after every build, successful or failed: nothing is left behind and the pointer is valid.
//!
//! The end-to-end tests, the fault matrix and the burst test share these checks.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use prepull_aws::ec2::types::{InstanceStateName, Reservation, Snapshot, SnapshotState};
use prepull_aws::{Clients, parameters, tag_filter, tag_value};
use prepull_domain::{Architecture, CacheName, Manifest, Pointer, SnapshotId, names};

use crate::World;

/// Time limit for the end of resources that are being removed from an idle local cloud.
const IDLE_TIME_LIMIT: Duration = Duration::from_secs(20);

/// Time limit for the same on a local cloud where other builds run.
const BUSY_TIME_LIMIT: Duration = Duration::from_secs(25);

impl World {
    /// Waits a moment for resources that are about to end, then asserts that no instance, volume, unfinished snapshot,
    /// node process, mount or loop device is left. Every snapshot of prepull must be usable.
    ///
    /// # Errors
    /// Fails with a list of the remaining resources.
    pub async fn nothing_is_left(&self) -> Result<()> {
        let start = Instant::now();
        loop {
            let left = self.cloud.leftovers().await?;
            let all = left
                .as_object()
                .context("the remaining resources are not listed by kind")?;
            if all
                .values()
                .all(|kind| kind.as_array().is_some_and(Vec::is_empty))
            {
                break;
            }
            if start.elapsed() > IDLE_TIME_LIMIT {
                bail!("resources are left behind: {left}");
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let snapshots = self.clients.ec2.describe_snapshots().owner_ids("self");
        for snapshot in snapshots.send().await?.snapshots() {
            let is_ours = tag_value(snapshot.tags(), names::TAG_CACHE).is_some();
            ensure!(
                !is_ours || is_verified(snapshot) || is_rejected(&self.clients, snapshot).await?,
                "snapshot {} still exists with state {:?}",
                snapshot.snapshot_id().unwrap_or_default(),
                tag_value(snapshot.tags(), names::TAG_STATE)
            );
        }
        Ok(())
    }

    /// Asserts that every request and response since the last call matches the model of its service.
    ///
    /// # Errors
    /// Fails with a list of the violations.
    pub async fn models_are_respected(&self) -> Result<()> {
        let violations = self.cloud.take_violations().await?;
        ensure!(
            violations.is_empty(),
            "calls violate botocore's models: {violations:#?}"
        );
        Ok(())
    }
}

/// Waits until `cache` has no instance, no volume and no unusable snapshot in the regions of `regions`. Other caches may
/// be in use.
///
/// # Errors
/// Fails with a list of the remaining resources.
pub async fn cache_leaves_nothing_behind(regions: &[Clients], cache: &str) -> Result<()> {
    let start = Instant::now();
    loop {
        let left = remaining_resources(regions, cache).await?;
        if left.is_empty() {
            return Ok(());
        }
        if start.elapsed() > BUSY_TIME_LIMIT {
            bail!("resources are left behind: {left:?}");
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Returns the instances, volumes and unusable snapshots of a cache.
///
/// # Errors
/// Fails if EC2 does not answer.
pub async fn remaining_resources(regions: &[Clients], cache: &str) -> Result<BTreeSet<String>> {
    let mut left = BTreeSet::new();
    for clients in regions {
        let ec2 = &clients.ec2;
        let of_cache = tag_filter(names::TAG_CACHE, cache);
        let described = ec2.describe_instances().filters(of_cache.clone());
        let described = described.send().await?;
        left.extend(
            described
                .reservations()
                .iter()
                .flat_map(Reservation::instances)
                .filter(|instance| {
                    instance.state().and_then(|state| state.name())
                        != Some(&InstanceStateName::Terminated)
                })
                .filter_map(|instance| instance.instance_id().map(str::to_owned)),
        );
        let volumes = ec2.describe_volumes().filters(of_cache.clone());
        left.extend(
            volumes
                .send()
                .await?
                .volumes()
                .iter()
                .filter_map(|volume| volume.volume_id().map(str::to_owned)),
        );
        let snapshots = ec2.describe_snapshots().owner_ids("self").filters(of_cache);
        for snapshot in snapshots.send().await?.snapshots() {
            if !is_usable(snapshot) && !is_rejected(clients, snapshot).await? {
                let id = snapshot.snapshot_id().unwrap_or_default();
                let state = tag_value(snapshot.tags(), names::TAG_STATE);
                left.insert(format!("{id} ({state:?})"));
            }
        }
    }
    Ok(left)
}

/// Asserts that the pointer of a cache holds a complete and verified snapshot that has a manifest. Returns both.
///
/// # Errors
/// Fails if the pointer or the manifest does not exist, or the snapshot is not usable.
pub async fn pointer_is_valid(
    clients: &Clients,
    cache: &CacheName,
    architecture: Architecture,
) -> Result<(SnapshotId, Manifest)> {
    let (id, manifest) = published(clients, cache, architecture).await?;
    let described = clients.ec2.describe_snapshots().snapshot_ids(id.as_str());
    let described = described
        .send()
        .await
        .with_context(|| format!("the pointer of {cache} holds {id}"))?;
    let snapshot = described
        .snapshots()
        .first()
        .context("EC2 did not describe the snapshot")?;
    ensure!(
        is_usable(snapshot),
        "the pointer of {cache} holds {id}, but its state is {:?}, {:?}",
        tag_value(snapshot.tags(), names::TAG_STATE),
        snapshot.state()
    );
    Ok((id, manifest))
}

/// Returns the snapshot that the pointer of a cache holds, and its manifest.
///
/// # Errors
/// Fails if the pointer or the manifest does not exist.
pub async fn published(
    clients: &Clients,
    cache: &CacheName,
    architecture: Architecture,
) -> Result<(SnapshotId, Manifest)> {
    let pointer = names::pointer_parameter(cache, architecture);
    let id: SnapshotId = parameters::get(clients, &pointer)
        .await?
        .with_context(|| format!("the pointer of {cache} does not exist"))?
        .parse()?;
    let manifest = names::manifest_parameter(cache, architecture, &id);
    let manifest = parameters::document(clients, &manifest)
        .await?
        .with_context(|| format!("{id} is published but has no manifest"))?;
    Ok((id, serde_json::from_str(&manifest)?))
}

/// Returns whether a snapshot is complete and verified.
fn is_usable(snapshot: &Snapshot) -> bool {
    is_verified(snapshot) && snapshot.state() == Some(&SnapshotState::Completed)
}

/// Returns whether a person rejected the snapshot. Retention keeps it for some days.
async fn is_rejected(clients: &Clients, snapshot: &Snapshot) -> Result<bool> {
    let tag = |key| tag_value(snapshot.tags(), key).unwrap_or_default();
    let parameter = names::state_parameter(
        &tag(names::TAG_CACHE).parse()?,
        tag(names::TAG_ARCHITECTURE).parse()?,
    );
    let Some(json) = parameters::get(clients, &parameter).await? else {
        return Ok(false);
    };
    let pointer: Pointer = serde_json::from_str(&json)?;
    let id = snapshot.snapshot_id().unwrap_or_default().parse()?;
    Ok(pointer.is_rejected(&id))
}

fn is_verified(snapshot: &Snapshot) -> bool {
    let state = tag_value(snapshot.tags(), names::TAG_STATE);
    matches!(state, Some("verified" | "published"))
}
