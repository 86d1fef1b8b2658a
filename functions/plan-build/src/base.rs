//! Reads the published snapshot and decides whether a builder's volume can start from it.

use prepull_aws::ec2::types::SnapshotState as EbsState;
use prepull_aws::{AwsError, Clients, parameters, tag_value};
use prepull_domain::stages::SnapshotState;
use prepull_domain::{
    Architecture, BottlerocketVersion, CacheName, ContentKey, GiB, Manifest, SnapshotId,
    StageError, Variant, names,
};

/// Snapshotter of every builder. A node with another one deletes the unpacked images.
const SNAPSHOTTER: &str = "overlayfs";

/// The snapshot that the pointer refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PublishedSnapshot {
    pub(crate) id: SnapshotId,
    pub(crate) content_key: Option<ContentKey>,
    pub(crate) volume_size: GiB,
}

/// Returns the snapshot that nodes use, or the reason for its absence.
pub(crate) async fn published(
    clients: &Clients,
    cache: &CacheName,
    architecture: Architecture,
) -> Result<Result<PublishedSnapshot, String>, StageError> {
    let pointer = names::pointer_parameter(cache, architecture);
    let Some(id) = parameters::get(clients, &pointer).await? else {
        return Ok(Err("no snapshot is published".to_owned()));
    };
    let id: SnapshotId = match id.parse() {
        Ok(id) => id,
        Err(error) => return Ok(Err(format!("{pointer}: {error}"))),
    };
    let answer = clients
        .ec2
        .describe_snapshots()
        .snapshot_ids(id.as_str())
        .send()
        .await;
    let snapshots = match answer {
        Ok(answer) => answer.snapshots.unwrap_or_default(),
        Err(error) if error.aws_code() == Some("InvalidSnapshot.NotFound") => Vec::new(),
        Err(error) => return Err(error.into_stage_error("ec2:DescribeSnapshots")),
    };
    let Some(snapshot) = snapshots.into_iter().next() else {
        return Ok(Err(format!("the published snapshot {id} is gone")));
    };
    if snapshot.state() != Some(&EbsState::Completed) {
        return Ok(Err(format!("the published snapshot {id} is not complete")));
    }
    if tag_value(snapshot.tags(), names::TAG_STATE) == Some(SnapshotState::Rejected.as_str()) {
        return Ok(Err(format!("the published snapshot {id} was rejected")));
    }
    Ok(Ok(PublishedSnapshot {
        id,
        content_key: tag_value(snapshot.tags(), names::TAG_CONTENT_KEY)
            .and_then(|key| key.parse().ok()),
        volume_size: GiB(snapshot
            .volume_size()
            .and_then(|size| u32::try_from(size).ok())
            .unwrap_or_default()),
    }))
}

/// Returns the manifest of a snapshot, or the reason why it cannot be read.
pub(crate) async fn manifest(
    clients: &Clients,
    cache: &CacheName,
    architecture: Architecture,
    snapshot: &SnapshotId,
) -> Result<Result<Manifest, String>, StageError> {
    let parameter = names::manifest_parameter(cache, architecture, snapshot);
    let Some(json) = parameters::get(clients, &parameter).await? else {
        return Ok(Err(format!(
            "the published snapshot {snapshot} has no manifest"
        )));
    };
    Ok(serde_json::from_str(&json).map_err(|error| {
        format!("the manifest of the published snapshot {snapshot} cannot be parsed: {error}")
    }))
}

/// Returns whether a builder of `variant` and `version` can start from the snapshot of `manifest`, or the reason against it.
pub(crate) fn usable(
    manifest: &Manifest,
    variant: &Variant,
    version: &BottlerocketVersion,
) -> Result<(), String> {
    let snapshot = &manifest.snapshot_id;
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
    if let Some(garbage) = manifest.fill().garbage(manifest.fresh) {
        return Err(format!(
            "about {garbage} of the {} on snapshot {snapshot} are stale data",
            manifest.used
        ));
    }
    Ok(())
}
