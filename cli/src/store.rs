//! Reads prepull's parameters.

use std::collections::BTreeMap;

use prepull_aws::{Clients, parameters};
use prepull_domain::{
    Architecture, CacheConfig, CacheName, InvalidConfig, Manifest, SnapshotId, names,
};

use crate::Error;

/// Returns all declared caches with their configurations, or only `cache` if it is not `None`.
pub async fn declared(
    clients: &Clients,
    cache: Option<&CacheName>,
) -> Result<BTreeMap<CacheName, Result<CacheConfig, InvalidConfig>>, Error> {
    let mut configs = parameters::caches(clients).await?;
    if let Some(cache) = cache {
        let known: Vec<_> = configs.keys().map(|name| format!("`{name}`")).collect();
        configs.retain(|name, _| name == cache);
        if configs.is_empty() {
            return Err(Error::Usage(match &known[..] {
                [] => format!(
                    "unknown cache `{cache}`: no cache is declared. Declare it in Terraform's `caches` and \
                     apply"
                ),
                known => format!(
                    "unknown cache `{cache}`: the declared caches are {}. Use one of them, or declare it in \
                     Terraform's `caches` and apply",
                    known.join(", ")
                ),
            }));
        }
    }
    Ok(configs)
}

/// Returns the requested architectures: `only`, or all that the cache declares.
pub fn architectures(
    cache: &CacheName,
    config: &CacheConfig,
    only: Option<Architecture>,
) -> Result<Vec<Architecture>, Error> {
    match only {
        None => Ok(config.architectures.iter().copied().collect()),
        Some(architecture) if config.architectures.contains(&architecture) => {
            Ok(vec![architecture])
        }
        Some(architecture) => Err(Error::Usage(format!(
            "cache `{cache}` is not built for {architecture}: it is not in the cache's `architectures`. Add it in \
             Terraform and apply"
        ))),
    }
}

/// Returns the snapshot that nodes of `cache` and `architecture` use, if one was ever published.
pub async fn published(
    clients: &Clients,
    cache: &CacheName,
    architecture: Architecture,
) -> Result<Option<SnapshotId>, Error> {
    let place = names::pointer_parameter(cache, architecture);
    let id = parameters::get(clients, &place).await?;
    id.map(|id| id.parse())
        .transpose()
        .map_err(|error: prepull_domain::ids::InvalidId| Error::Malformed {
            place: format!("parameter {place}"),
            problem: error.to_string(),
        })
}

/// Returns the manifest of a snapshot, if it exists.
pub async fn manifest(
    clients: &Clients,
    cache: &CacheName,
    architecture: Architecture,
    snapshot: &SnapshotId,
) -> Result<Option<Manifest>, Error> {
    let place = names::manifest_parameter(cache, architecture, snapshot);
    let json = parameters::get(clients, &place).await?;
    json.map(|json| parse_manifest(&place, &json)).transpose()
}

/// Returns the manifests of all snapshots of `cache` and `architecture`.
pub async fn manifests(
    clients: &Clients,
    cache: &CacheName,
    architecture: Architecture,
) -> Result<Vec<Manifest>, Error> {
    let path = names::manifests_path(cache, architecture);
    let parameters = parameters::below(clients, &path).await?;
    parameters
        .iter()
        .map(|(place, json)| parse_manifest(place, json))
        .collect()
}

fn parse_manifest(place: &str, json: &str) -> Result<Manifest, Error> {
    serde_json::from_str(json).map_err(|error| Error::Malformed {
        place: format!("parameter {place}"),
        problem: error.to_string(),
    })
}
