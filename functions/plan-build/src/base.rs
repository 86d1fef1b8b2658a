//! Reads the newest published snapshot and decides whether a builder's volume can start from it.

use std::collections::BTreeSet;

use prepull_aws::ec2::types::SnapshotState as EbsState;
use prepull_aws::pointers::TargetPointer;
use prepull_aws::{Clients, parameters, snapshots};
use prepull_domain::build::payload::SnapshotState;
use prepull_domain::{
    Architecture, BottlerocketVersion, CacheName, ContentKey, GiB, Manifest, SnapshotId,
    StageError, Variant, names,
};

/// Snapshotter of every builder. A node that uses another snapshotter deletes the unpacked images.
const SNAPSHOTTER: &str = "overlayfs";

/// The newest published snapshot of a target that was not rejected.
pub(crate) enum Newest {
    /// It exists.
    Snapshot(NewestSnapshot),
    /// There is none.
    Nothing { reason: String },
}

/// A snapshot that the pointer refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NewestSnapshot {
    pub(crate) id: SnapshotId,
    /// `None` if the snapshot has none, or if nodes do not see the pointer's stable snapshot.
    pub(crate) content_key: Option<ContentKey>,
    pub(crate) volume_size: GiB,
}

/// Returns the newest published snapshot. It can still wait for its promotion.
pub(crate) async fn newest(
    clients: &Clients,
    cache: &CacheName,
    architecture: Architecture,
) -> Result<Newest, StageError> {
    let nothing = |reason: String| Ok(Newest::Nothing { reason });
    let pointer = TargetPointer {
        clients,
        cache,
        architecture,
        // A plan does not need the copies.
        copy_to_regions: &BTreeSet::new(),
    };
    let pointer = pointer.current().await?;
    // A publication that failed on its last writes needs another one, although the decision is made.
    let shown = parameters::get(clients, &names::pointer_parameter(cache, architecture)).await?;
    let stable = pointer.stable.as_ref().map(|it| it.snapshot_id.as_str());
    let is_shown = stable.is_none() || shown.as_deref() == stable;
    let Some(id) = pointer.newest().map(|newest| newest.snapshot_id.clone()) else {
        return nothing("no snapshot is published".to_owned());
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
    Ok(Newest::Snapshot(NewestSnapshot {
        id,
        content_key: snapshot
            .tag(names::TAG_CONTENT_KEY)
            .and_then(|key| key.parse().ok())
            .filter(|_| is_shown),
        volume_size: snapshot.volume_size.unwrap_or(GiB(0)),
    }))
}

/// Returns the manifest of `snapshot` if a builder of `variant` and `version` can start from it. Otherwise, the error is the
/// reason. `manifest` is the first page of the manifest, which has everything but some of the images.
pub(crate) fn usable(
    snapshot: &SnapshotId,
    manifest: Option<&str>,
    variant: &Variant,
    version: &BottlerocketVersion,
) -> Result<Manifest, String> {
    let manifest = manifest.ok_or_else(|| format!("snapshot {snapshot} has no manifest"))?;
    let manifest: Manifest = serde_json::from_str(manifest).map_err(|error| {
        format!("the manifest of snapshot {snapshot} cannot be parsed: {error}")
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
    Ok(manifest)
}
