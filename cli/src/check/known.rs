//! The facts about a cache that the conditions compare with: its snapshots and their manifests.

use std::fmt;

use prepull_domain::{Architecture, CacheName, Manifest, SnapshotId, pages};
use serde::Deserialize;

/// A cache with its snapshots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    /// Name.
    pub name: CacheName,
    /// The architectures.
    pub targets: Vec<Target>,
}

/// The snapshots of an architecture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Manifest of the snapshot that the pointer names, or the only known manifest.
    pub manifest: Manifest,
    /// Whether the pointer names the snapshot of `manifest`. It is unknown if only a manifest was given.
    pub published: bool,
    /// Other snapshots of the cache. `None` if they are unknown.
    pub others: Option<Vec<OtherSnapshot>>,
    /// KMS key in the configuration of the cache.
    pub key: Key,
}

/// A snapshot that is not the pointer's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherSnapshot {
    /// ID.
    pub id: SnapshotId,
    /// Manifest, if the snapshot was ever published.
    pub manifest: Option<Manifest>,
    /// Reason why no node must use it, if there is one.
    pub unusable: Option<String>,
}

/// The KMS key of the volumes of a cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    /// The configuration is unknown.
    Unknown,
    /// The account's default key for EBS.
    Default,
    /// This key.
    Id(String),
}

impl Target {
    /// Returns the architecture.
    #[must_use]
    pub fn architecture(&self) -> Architecture {
        self.manifest.architecture
    }

    /// Returns the manifest of the snapshot `id`, if it belongs to this target and has one.
    #[must_use]
    pub fn manifest_of(&self, id: &SnapshotId) -> Option<&Manifest> {
        let others = self
            .others
            .iter()
            .flatten()
            .filter_map(|other| other.manifest.as_ref());
        std::iter::once(&self.manifest)
            .chain(others)
            .find(|manifest| manifest.snapshot_id == *id)
    }
}

/// A file with manifests cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// It is neither a manifest nor the output of `prepull snapshots`.
    #[error(
        "cannot read the manifest in `{file}`: {problem}. Write the file with `prepull snapshots {cache} --output json`"
    )]
    Malformed {
        /// File.
        file: String,
        /// Cache.
        cache: CacheName,
        /// Defect.
        problem: String,
    },
    /// It belongs to another cache.
    #[error(
        "cannot check cache `{cache}`: `{file}` is of cache `{other}`. Give a file of `{cache}`, or check `{other}`"
    )]
    OtherCache {
        /// File.
        file: String,
        /// Cache.
        cache: CacheName,
        /// Cache of the file.
        other: CacheName,
    },
    /// It has no published snapshot for the architecture.
    #[error(
        "cannot check cache `{cache}`: `{file}` has no published snapshot for {architecture}. Build one with `prepull build {cache}`"
    )]
    Missing {
        /// File.
        file: String,
        /// Cache.
        cache: CacheName,
        /// Architecture, or a text for all.
        architecture: String,
    },
}

/// The output of `prepull snapshots`. The command adds fields, so unknown ones are fine.
#[derive(Deserialize)]
struct SnapshotsFile {
    cache: CacheName,
    snapshots: Vec<SnapshotEntry>,
}

#[derive(Deserialize)]
struct SnapshotEntry {
    snapshot_id: SnapshotId,
    architecture: String,
    published: bool,
    state: Option<String>,
    ebs_state: String,
    manifest: Option<Manifest>,
}

impl SnapshotEntry {
    /// Returns the reason why no node must use the snapshot.
    fn unusable(&self) -> Option<String> {
        if self.ebs_state != "completed" {
            return Some(format!("EBS reports `{}`", self.ebs_state));
        }
        match self.state.as_deref() {
            Some("rejected") => Some("it was rejected".to_owned()),
            None => Some("its build did not finish".to_owned()),
            _ => None,
        }
    }
}

impl Cache {
    /// Reads a cache from a file with the output of `prepull snapshots --output json`, or with one manifest.
    ///
    /// # Errors
    /// If the file is neither, belongs to another cache, or has no published snapshot for `only`.
    pub fn parse(
        name: &CacheName,
        file: &str,
        text: &str,
        only: Option<Architecture>,
    ) -> Result<Self, ManifestError> {
        let malformed = |problem: &dyn fmt::Display| ManifestError::Malformed {
            file: file.to_owned(),
            cache: name.clone(),
            problem: problem.to_string(),
        };
        let json: serde_json::Value =
            serde_json::from_str(text).map_err(|error| malformed(&error))?;
        let (cache, targets) = if json.get("snapshots").is_some() {
            let snapshots: SnapshotsFile =
                serde_json::from_value(json).map_err(|error| malformed(&error))?;
            let targets = Architecture::ALL
                .into_iter()
                .filter_map(|a| target(&snapshots, a));
            (snapshots.cache.clone(), targets.collect())
        } else {
            // The first page has only some of the images, so the others would seem to be missing.
            if json.get(pages::FIELD).is_some() {
                return Err(malformed(&"it is only the first page of a manifest"));
            }
            let manifest: Manifest =
                serde_json::from_value(json).map_err(|error| malformed(&error))?;
            let target = Target {
                manifest,
                published: false,
                others: None,
                key: Key::Unknown,
            };
            (target.manifest.cache.clone(), vec![target])
        };
        if cache != *name {
            return Err(ManifestError::OtherCache {
                file: file.to_owned(),
                cache: name.clone(),
                other: cache,
            });
        }
        let targets: Vec<Target> = targets
            .into_iter()
            .filter(|target| only.is_none_or(|only| target.architecture() == only))
            .collect();
        if targets.is_empty() {
            return Err(ManifestError::Missing {
                file: file.to_owned(),
                cache,
                architecture: only
                    .map_or_else(|| "any architecture".to_owned(), |only| only.to_string()),
            });
        }
        Ok(Self {
            name: cache,
            targets,
        })
    }
}

fn target(file: &SnapshotsFile, architecture: Architecture) -> Option<Target> {
    let (mut manifest, mut others) = (None, Vec::new());
    for entry in &file.snapshots {
        if entry.architecture != architecture.as_str() {
            continue;
        }
        if entry.published && entry.manifest.is_some() {
            manifest.clone_from(&entry.manifest);
        } else {
            others.push(OtherSnapshot {
                id: entry.snapshot_id.clone(),
                manifest: entry.manifest.clone(),
                unusable: entry.unusable(),
            });
        }
    }
    Some(Target {
        manifest: manifest?,
        published: true,
        others: Some(others),
        key: Key::Unknown,
    })
}
