//! What prepull calls its things in AWS: tags, parameters, events, documents.

use crate::architecture::Architecture;
use crate::config::CacheName;
use crate::ids::SnapshotId;

/// Tag: the cache that a resource was made for. Everything that prepull may delete bears it.
pub const TAG_CACHE: &str = "prepull:cache";
/// Tag: the architecture that a resource was made for.
pub const TAG_ARCHITECTURE: &str = "prepull:architecture";
/// Tag: the name of the execution that made a resource.
pub const TAG_EXECUTION: &str = "prepull:execution";
/// Tag of a snapshot: its content key.
pub const TAG_CONTENT_KEY: &str = "prepull:content-key";
/// Tag of a snapshot: what it may be used for, see [`crate::stages::SnapshotState`]. A snapshot without it is unfinished.
pub const TAG_STATE: &str = "prepull:state";

/// The path under which the configurations of all caches lie.
pub const CONFIG_PATH: &str = "/prepull/config";

/// The source of prepull's own events.
pub const EVENT_SOURCE: &str = "prepull";
/// Detail-type: nodes use another snapshot from now on.
pub const EVENT_PUBLISHED: &str = "Snapshot Published";
/// Detail-type: a build ended without publishing every architecture of its cache.
pub const EVENT_FAILED: &str = "Build Failed";

/// The device that Bottlerocket keeps its data volume on.
pub const DATA_DEVICE: &str = "/dev/xvdb";

/// The parameter that holds a cache's configuration.
#[must_use]
pub fn config_parameter(cache: &CacheName) -> String {
    format!("{CONFIG_PATH}/{cache}")
}

/// The parameter that holds the ID of the snapshot that nodes use: the pointer.
#[must_use]
pub fn pointer_parameter(cache: &CacheName, architecture: Architecture) -> String {
    format!("/prepull/{cache}/{architecture}/snapshot-id")
}

/// The path under which the manifests of a target's snapshots lie.
#[must_use]
pub fn manifests_path(cache: &CacheName, architecture: Architecture) -> String {
    format!("/prepull/{cache}/{architecture}/snapshots")
}

/// The parameter that holds the manifest of one snapshot.
#[must_use]
pub fn manifest_parameter(
    cache: &CacheName,
    architecture: Architecture,
    snapshot: &SnapshotId,
) -> String {
    format!("{}/{snapshot}", manifests_path(cache, architecture))
}
