//! `prepull nodes`: how often pods found their image on the nodes of a cluster, and the time that this saved.
//!
//! [`prepull_kubernetes::nodes`] has the rules. This module reads the cluster, the data volumes and the snapshots.

use std::collections::BTreeMap;

use jiff::Timestamp;
use prepull_aws::ec2::types::{Filter, Volume, VolumeStatusItem};
use prepull_aws::{Clients, MAX_FILTER_VALUES, StageResult};
use prepull_domain::names::DATA_DEVICE;
use prepull_domain::{Architecture, CacheName, InstanceId, StageError};
use prepull_kubernetes::Client;
use prepull_kubernetes::nodes::{
    CacheSnapshot, ClusterState, DataVolume, HitRate, Initialization, SnapshotStage, instance_of,
};
use serde_json::Value;

use crate::{Error, store};

/// The arguments of `prepull nodes`.
#[derive(Debug, Clone, clap::Args)]
pub struct NodesArgs {
    /// Show the nodes that use snapshots of this cache.
    pub cache: CacheName,
    /// Use this context of the kubeconfig.
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
}

/// Returns the hit rate of a cache on the nodes of a cluster.
///
/// # Errors
/// If the cluster or AWS does not answer, or refuses a call.
pub async fn report(clients: &Clients, args: &NodesArgs, now: Timestamp) -> Result<HitRate, Error> {
    let kubernetes = connect(args.context.as_deref()).await?;
    hit_rate(clients, &kubernetes, &args.cache, now).await
}

/// Returns the objects of a cluster for `prepull check`, with the workloads of `namespaces`, and the hit rate of the cache.
///
/// # Errors
/// The same.
pub async fn live(
    clients: &Clients,
    cache: &CacheName,
    context: Option<&str>,
    namespaces: &[String],
    now: Timestamp,
) -> Result<(Value, HitRate), Error> {
    let kubernetes = connect(context).await?;
    let objects = prepull_kubernetes::objects(&kubernetes, namespaces).await?;
    let hit_rate = hit_rate(clients, &kubernetes, cache, now).await?;
    Ok((objects, hit_rate))
}

async fn connect(context: Option<&str>) -> Result<Client, Error> {
    Ok(prepull_kubernetes::connect(context).await?)
}

async fn hit_rate(
    clients: &Clients,
    kubernetes: &Client,
    cache: &CacheName,
    now: Timestamp,
) -> Result<HitRate, Error> {
    let mut snapshots = Vec::new();
    for architecture in Architecture::ALL {
        snapshots.extend(cache_snapshots(clients, cache, architecture).await?);
    }
    if snapshots.is_empty() {
        return Err(Error::Missing(format!(
            "cannot show the nodes of cache `{cache}`: it has published nothing in this Region. {}",
            store::publish_one(cache)
        )));
    }
    let observed = prepull_kubernetes::observe(kubernetes).await?;
    let instances: Vec<_> = observed.nodes.iter().filter_map(instance_of).collect();
    let state = ClusterState {
        cache: cache.clone(),
        as_of: now,
        snapshots,
        volumes: data_volumes(clients, &instances).await?,
        nodes: observed.nodes,
        pods: observed.pods,
        events: observed.events,
    };
    Ok(HitRate::new(&state))
}

/// Returns the snapshots with a manifest in this Region.
async fn cache_snapshots(
    clients: &Clients,
    cache: &CacheName,
    architecture: Architecture,
) -> Result<Vec<CacheSnapshot>, Error> {
    let pointer = store::shown_pointer(clients, cache, architecture).await?;
    let stable = store::published(clients, cache, architecture).await?;
    let manifests = store::manifests(clients, cache, architecture).await?;
    let of_manifest = manifests.iter().map(|manifest| {
        let id = Some(&manifest.snapshot_id);
        let candidate = pointer.as_ref().and_then(|it| it.candidate.as_ref());
        let stage = if id == stable.as_ref() {
            SnapshotStage::Stable
        } else if id == candidate.map(|candidate| &candidate.snapshot_id) {
            SnapshotStage::Candidate
        } else {
            SnapshotStage::Other
        };
        CacheSnapshot::new(manifest, [], stage)
    });
    Ok(of_manifest.collect())
}

/// Returns the data volume of each instance.
async fn data_volumes(
    clients: &Clients,
    instances: &[InstanceId],
) -> Result<BTreeMap<InstanceId, DataVolume>, StageError> {
    let filter = |name: &str, values: Vec<String>| {
        Filter::builder()
            .name(name)
            .set_values(Some(values))
            .build()
    };
    let mut volumes = BTreeMap::new();
    for instances in instances.chunks(MAX_FILTER_VALUES) {
        let ids = instances.iter().map(InstanceId::to_string).collect();
        let mut pages = clients
            .ec2
            .describe_volumes()
            .filters(filter("attachment.instance-id", ids))
            .filters(filter("attachment.device", vec![DATA_DEVICE.to_owned()]))
            .into_paginator()
            .send();
        while let Some(page) = pages.next().await {
            let page = page.or_stage_error("ec2:DescribeVolumes")?;
            let ids = page.volumes().iter().filter_map(Volume::volume_id);
            let initialized = initialization(clients, ids.map(str::to_owned).collect()).await;
            for volume in page.volumes() {
                let attached = volume.attachments().first();
                let instance = attached.and_then(|it| it.instance_id()?.parse().ok());
                let Some(instance) = instance else { continue };
                let id = volume.volume_id().unwrap_or_default();
                let volume = DataVolume {
                    snapshot: volume.snapshot_id().and_then(|id| id.parse().ok()),
                    initialization: initialized.get(id).copied(),
                };
                volumes.insert(instance, volume);
            }
        }
    }
    Ok(volumes)
}

/// Returns how far EBS has initialized volumes. It is only a remark, so a refused call leaves it out.
async fn initialization(clients: &Clients, ids: Vec<String>) -> BTreeMap<String, Initialization> {
    if ids.is_empty() {
        // Without IDs, EC2 would describe all volumes.
        return BTreeMap::new();
    }
    let request = clients.ec2.describe_volume_status();
    let Ok(answer) = request.set_volume_ids(Some(ids)).send().await else {
        return BTreeMap::new();
    };
    let of_volume = |status: &VolumeStatusItem| {
        let details = status.initialization_status_details()?;
        let seconds = details.estimated_time_to_complete_in_seconds();
        let initialization = Initialization::new(details.progress()?, seconds)?;
        Some((status.volume_id()?.to_owned(), initialization))
    };
    answer
        .volume_statuses()
        .iter()
        .filter_map(of_volume)
        .collect()
}
