//! `prepull nodes`: how often pods found their image on the nodes of a cluster, and the time that this saved.
//!
//! [`prepull_kubernetes::nodes`] has the rules. This module reads the cluster, the data volumes and the snapshots.

use std::collections::BTreeMap;

use jiff::Timestamp;
use prepull_aws::ec2::types::Filter;
use prepull_aws::{Clients, StageResult, parameters};
use prepull_domain::names::DATA_DEVICE;
use prepull_domain::{Architecture, CacheName, InstanceId, Pointer, StageError, names};
use prepull_kubernetes::nodes::{
    CacheSnapshot, ClusterState, DataVolume, HitRate, SnapshotStage, instance_of,
};

use crate::{Error, store};

/// Maximum number of values in one filter of EC2.
///
/// Source: Amazon EC2 API reference, "Filter".
const MAX_FILTER_VALUES: usize = 200;

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
    let failed = |error: prepull_kubernetes::Error| Error::Cluster(error.to_string());
    let kubernetes = prepull_kubernetes::connect(args.context.as_deref())
        .await
        .map_err(failed)?;
    let mut snapshots = Vec::new();
    for architecture in Architecture::ALL {
        snapshots.extend(cache_snapshots(clients, &args.cache, architecture).await?);
    }
    if snapshots.is_empty() {
        return Err(Error::Missing(format!(
            "cannot show the nodes of cache `{}`: it has published nothing in this Region. {}",
            args.cache,
            store::publish_one(&args.cache)
        )));
    }
    let observed = prepull_kubernetes::observe(&kubernetes)
        .await
        .map_err(failed)?;
    let instances: Vec<_> = observed.nodes.iter().filter_map(instance_of).collect();
    let state = ClusterState {
        cache: args.cache.clone(),
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
    let place = names::state_parameter(cache, architecture);
    let json = parameters::get(clients, &place).await?;
    let pointer: Option<Pointer> = json
        .map(|json| serde_json::from_str(&json))
        .transpose()
        .map_err(|error| Error::Malformed {
            place: format!("parameter {place}"),
            problem: error.to_string(),
        })?;
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
            for volume in page.volumes() {
                let attached = volume.attachments().first();
                let instance = attached.and_then(|it| it.instance_id()?.parse().ok());
                let Some(instance) = instance else { continue };
                let volume = DataVolume {
                    snapshot: volume.snapshot_id().and_then(|id| id.parse().ok()),
                    // It needs one more permission, and says little after the first minutes of a node.
                    initialization: None,
                };
                volumes.insert(instance, volume);
            }
        }
    }
    Ok(volumes)
}
