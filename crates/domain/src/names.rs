//! Names of prepull's tags, parameters and events in AWS.

use crate::architecture::Architecture;
use crate::build::execution::ExecutionName;
use crate::cache::config::CacheName;
use crate::ids::SnapshotId;

/// Tag with the cache of a resource. prepull deletes only resources with this tag.
pub const TAG_CACHE: &str = "prepull:cache";
/// Tag with the architecture of a resource.
pub const TAG_ARCHITECTURE: &str = "prepull:architecture";
/// Tag with the name of the execution that created a resource.
pub const TAG_EXECUTION: &str = "prepull:execution";
/// Tag with a hash of the settings with which a builder started.
pub const TAG_LAUNCH_KEY: &str = "prepull:launch-key";
/// Tag with the content key of a snapshot.
pub const TAG_CONTENT_KEY: &str = "prepull:content-key";
/// Tag with the state of a snapshot, see [`crate::build::payload::SnapshotState`]. A snapshot without this tag is unfinished.
pub const TAG_STATE: &str = "prepull:state";
/// Tag with the result of a snapshot's verification, see [`crate::build::payload::VerificationRecord`].
pub const TAG_VERIFICATION: &str = "prepull:verification";
/// Tag of a verifier with the snapshot and the release that it verifies. A builder has no such tag.
pub const TAG_VERIFIES: &str = "prepull:verifies";
/// Tag of a snapshot with the time at which retention deletes it. It is empty if the snapshot came into use again.
///
/// Tag of a verifier of `prepull verify` with the time up to which the sweep keeps it, because no execution owns it.
pub const TAG_EXPIRES_AT: &str = "prepull:expires-at";

/// Parameter path of the configurations of all caches.
pub const CONFIG_PATH: &str = "/prepull/config";

/// Parameter path of the markers of announced failures.
pub const ANNOUNCED_PATH: &str = "/prepull/announced";

/// Source of prepull's events on EventBridge.
pub const EVENT_SOURCE: &str = "prepull";
/// Detail type of the event that a verified snapshot is available as candidate.
pub const EVENT_PUBLISHED: &str = "Snapshot Published";
/// Detail type of the event that a snapshot has become stable: new nodes use it.
pub const EVENT_PROMOTED: &str = "Snapshot Promoted";
/// Detail type of the event that nodes use the previous snapshot again.
pub const EVENT_ROLLED_BACK: &str = "Snapshot Rolled Back";
/// Detail type of the event that retention will delete a snapshot.
pub const EVENT_EXPIRING: &str = "Snapshot Expiring";
/// Detail type of the event that a build has ended without publishing every architecture of its cache.
pub const EVENT_FAILED: &str = "Build Failed";

/// Device of Bottlerocket's data volume.
pub const DATA_DEVICE: &str = "/dev/xvdb";

/// Returns the parameter with the configuration of a cache.
#[must_use]
pub fn config_parameter(cache: &CacheName) -> String {
    format!("{CONFIG_PATH}/{cache}")
}

/// Returns the marker of an execution whose failure was announced. Its value is the time of its end.
#[must_use]
pub fn announced_parameter(execution: &ExecutionName) -> String {
    format!("{ANNOUNCED_PATH}/{execution}")
}

/// Returns the parameter with the ID of the stable snapshot, which nodes use. Its name never changes.
#[must_use]
pub fn pointer_parameter(cache: &CacheName, architecture: Architecture) -> String {
    format!("/prepull/{cache}/{architecture}/snapshot-id")
}

/// Returns the parameter with the ID of the candidate, or of the stable snapshot without a candidate.
#[must_use]
pub fn candidate_parameter(cache: &CacheName, architecture: Architecture) -> String {
    format!("/prepull/{cache}/{architecture}/candidate-snapshot-id")
}

/// Returns the parameter with the [`crate::snapshot::pointer::Pointer`] of a target.
#[must_use]
pub fn state_parameter(cache: &CacheName, architecture: Architecture) -> String {
    format!("/prepull/{cache}/{architecture}/pointer")
}

/// Returns the parameter path of the last decisions about a target's pointer.
#[must_use]
pub fn decisions_path(cache: &CacheName, architecture: Architecture) -> String {
    format!("/prepull/{cache}/{architecture}/decisions")
}

/// Returns the parameter of one decision.
#[must_use]
pub fn decision_parameter(cache: &CacheName, architecture: Architecture, sequence: u64) -> String {
    format!("{}/{sequence}", decisions_path(cache, architecture))
}

/// Returns the parameter path of the consumers that registered themselves with [`crate::snapshot::retention::Consumer`].
#[must_use]
pub fn consumers_path(cache: &CacheName, architecture: Architecture) -> String {
    format!("/prepull/{cache}/{architecture}/consumers")
}

/// Returns the parameter path of the manifests of a target's snapshots.
#[must_use]
pub fn manifests_path(cache: &CacheName, architecture: Architecture) -> String {
    format!("/prepull/{cache}/{architecture}/snapshots")
}

/// Returns the parameter with the manifest of one snapshot.
#[must_use]
pub fn manifest_parameter(
    cache: &CacheName,
    architecture: Architecture,
    snapshot: &SnapshotId,
) -> String {
    format!("{}/{snapshot}", manifests_path(cache, architecture))
}

/// Returns the parameter with page `number`, from 2, in `folder`. See [`crate::pages`].
#[must_use]
pub fn page_parameter(folder: &str, number: usize) -> String {
    format!("{folder}/{number}")
}
