//! Reads the published snapshot and decides whether a builder's volume can start from it.

use prepull_aws::ec2::types::SnapshotState as EbsState;
use prepull_aws::{Clients, parameters, snapshots};
use prepull_domain::build::payload::{DiskUsage, SnapshotState};
use prepull_domain::{
    Architecture, BottlerocketVersion, CacheName, ContentKey, GiB, Manifest, SnapshotId,
    StageError, Variant, names,
};

/// Snapshotter of every builder. A node that uses another snapshotter deletes the unpacked images.
const SNAPSHOTTER: &str = "overlayfs";

/// The published snapshot of a target.
pub(crate) enum Published {
    /// Nodes can use it.
    Snapshot(PublishedSnapshot),
    /// Nodes have none.
    Nothing { reason: String },
}

/// The snapshot that the pointer refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PublishedSnapshot {
    pub(crate) id: SnapshotId,
    pub(crate) content_key: Option<ContentKey>,
    pub(crate) volume_size: GiB,
}

/// Returns the snapshot that nodes use.
pub(crate) async fn published(
    clients: &Clients,
    cache: &CacheName,
    architecture: Architecture,
) -> Result<Published, StageError> {
    let nothing = |reason: String| Ok(Published::Nothing { reason });
    let pointer = names::pointer_parameter(cache, architecture);
    let Some(id) = parameters::get(clients, &pointer).await? else {
        return nothing("no snapshot is published".to_owned());
    };
    let id: SnapshotId = match id.parse() {
        Ok(id) => id,
        Err(error) => return nothing(format!("{pointer}: {error}")),
    };
    let Some(snapshot) = snapshots::get(clients, &id).await? else {
        return nothing(format!("the published snapshot {id} is gone"));
    };
    if snapshot.ebs_state != Some(EbsState::Completed) {
        return nothing(format!("the published snapshot {id} is not complete"));
    }
    if snapshot.state() == Some(SnapshotState::Rejected) {
        return nothing(format!("the published snapshot {id} was rejected"));
    }
    Ok(Published::Snapshot(PublishedSnapshot {
        id,
        content_key: snapshot
            .tag(names::TAG_CONTENT_KEY)
            .and_then(|key| key.parse().ok()),
        volume_size: snapshot.volume_size.unwrap_or(GiB(0)),
    }))
}

/// Returns the disk usage of the last build from an empty volume if a builder of `variant` and `version` can start from
/// `snapshot`. Otherwise, the error is the reason. `manifest` is the value of the manifest's parameter.
pub(crate) fn usable(
    snapshot: &SnapshotId,
    manifest: Option<&str>,
    variant: &Variant,
    version: &BottlerocketVersion,
) -> Result<DiskUsage, String> {
    let manifest =
        manifest.ok_or_else(|| format!("the published snapshot {snapshot} has no manifest"))?;
    let manifest: Manifest = serde_json::from_str(manifest).map_err(|error| {
        format!("the manifest of the published snapshot {snapshot} cannot be parsed: {error}")
    })?;
    if manifest.variant != *variant {
        return Err(format!(
            "snapshot {snapshot} was built for variant {}",
            manifest.variant
        ));
    }
    if manifest.node.snapshotter != SNAPSHOTTER {
        return Err(format!(
            "snapshot {snapshot} uses the snapshotter {}",
            manifest.node.snapshotter
        ));
    }
    // An older kernel may not mount the XFS of a newer one. An older containerd may not read the newer metadata.
    if manifest.node.bottlerocket_version > *version {
        return Err(format!(
            "snapshot {snapshot} was built on Bottlerocket {}, newer than {version}",
            manifest.node.bottlerocket_version
        ));
    }
    if let Some(stale) = manifest.disk_usage().stale_data(manifest.fresh) {
        return Err(format!(
            "about {stale} of the {} on snapshot {snapshot} are stale data",
            manifest.used
        ));
    }
    Ok(manifest.fresh)
}
