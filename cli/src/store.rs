//! Reads prepull's parameters.

use std::collections::BTreeMap;

use prepull_aws::parameters::{self, DocumentError};
use prepull_aws::{Clients, pointers};
use prepull_domain::snapshot::decisions;
use prepull_domain::{
    Architecture, CacheConfig, CacheName, InvalidConfig, Manifest, Pointer, SnapshotId, names,
    pages,
};

use crate::Error;
use crate::check::{Cache, Key, OtherSnapshot, Target};

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

/// Returns the pointer after the last decision. `None` if a version without decisions published the snapshot, or none is
/// published.
pub async fn pointer(
    clients: &Clients,
    cache: &CacheName,
    architecture: Architecture,
) -> Result<Option<Pointer>, Error> {
    let path = names::decisions_path(cache, architecture);
    let entries = pointers::entries(parameters::below(clients, &path).await?)?;
    Ok(decisions::newest(entries).map(|entry| entry.pointer))
}

/// Returns the pointer that consumers in this Region read. Decisions exist only in the Region of the installation.
pub async fn shown_pointer(
    clients: &Clients,
    cache: &CacheName,
    architecture: Architecture,
) -> Result<Option<Pointer>, Error> {
    let place = names::state_parameter(cache, architecture);
    let json = parameters::get(clients, &place).await?;
    json.map(|json| serde_json::from_str(&json))
        .transpose()
        .map_err(|error| Error::Malformed {
            place: format!("parameter {place}"),
            problem: error.to_string(),
        })
}

/// Returns the remedy for a cache without a stable snapshot. A build that finds its candidate up to date publishes nothing.
pub fn publish_one(cache: &CacheName) -> String {
    format!(
        "Build one with `prepull build {cache}`, or promote a candidate with `prepull promote {cache}`"
    )
}

/// Returns the manifest of a snapshot, if it exists.
pub async fn manifest(
    clients: &Clients,
    cache: &CacheName,
    architecture: Architecture,
    snapshot: &SnapshotId,
) -> Result<Option<Manifest>, Error> {
    let place = names::manifest_parameter(cache, architecture, snapshot);
    match parameters::document(clients, &place).await {
        Ok(json) => json.map(|json| parse_manifest(&place, &json)).transpose(),
        Err(DocumentError::Call(error)) => Err(error.into()),
        Err(DocumentError::Pages(error)) => Err(malformed(&place, &error)),
    }
}

/// Returns the manifests of all snapshots of `cache` and `architecture`.
pub async fn manifests(
    clients: &Clients,
    cache: &CacheName,
    architecture: Architecture,
) -> Result<Vec<Manifest>, Error> {
    let path = names::manifests_path(cache, architecture);
    let parameters = parameters::below(clients, &path).await?;
    let page = |name: &str| parameters.get(name).cloned();
    let is_first = |place: &str| {
        let name = place.strip_prefix(&path).unwrap_or_default();
        !name.trim_start_matches('/').contains('/')
    };
    parameters
        .iter()
        .filter(|(place, _)| is_first(place))
        .map(|(place, json)| {
            let json =
                pages::join(place, json.clone(), page).map_err(|error| malformed(place, &error))?;
            parse_manifest(place, &json)
        })
        .collect()
}

/// Returns the published snapshots of `cache` for `check`, with the manifests of the others.
///
/// A snapshot without a manifest was never published, so no pointer ever had its ID.
pub async fn known(
    clients: &Clients,
    cache: &CacheName,
    only: Option<Architecture>,
) -> Result<Cache, Error> {
    let (_, config) = parameters::cache(clients, cache.as_str()).await?;
    let key = match &config.volume.kms_key_id {
        Some(key) => Key::Id(key.clone()),
        None => Key::Default,
    };
    let mut targets = Vec::new();
    for architecture in architectures(cache, &config, only)? {
        let Some(snapshot) = published(clients, cache, architecture).await? else {
            continue;
        };
        let pointer = pointer(clients, cache, architecture).await?;
        let manifests = manifests(clients, cache, architecture).await?;
        let (current, others): (Vec<_>, Vec<_>) = manifests
            .into_iter()
            .partition(|manifest| manifest.snapshot_id == snapshot);
        let Some(manifest) = current.into_iter().next() else {
            continue;
        };
        let others = others.into_iter().map(|manifest| OtherSnapshot {
            id: manifest.snapshot_id.clone(),
            unusable: pointer
                .as_ref()
                .filter(|pointer| pointer.is_rejected(&manifest.snapshot_id))
                .map(|_| "it was rejected".to_owned()),
            manifest: Some(manifest),
        });
        targets.push(Target {
            manifest,
            published: true,
            others: Some(others.collect()),
            key: key.clone(),
        });
    }
    if targets.is_empty() {
        return Err(Error::Missing(format!(
            "cannot check the nodes of cache `{cache}`: it has no stable snapshot. {}",
            publish_one(cache)
        )));
    }
    Ok(Cache {
        name: cache.clone(),
        targets,
    })
}

fn parse_manifest(place: &str, json: &str) -> Result<Manifest, Error> {
    serde_json::from_str(json).map_err(|error| malformed(place, &error))
}

fn malformed(place: &str, problem: &impl ToString) -> Error {
    Error::Malformed {
        place: format!("parameter {place}"),
        problem: problem.to_string(),
    }
}
