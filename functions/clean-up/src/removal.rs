//! Removes single resources. A resource that no longer exists is not an error and does not count.

use prepull_aws::{AwsError, Clients, instances, parameters};
use prepull_domain::{InstanceId, SnapshotId, StageError, VolumeId};

use crate::Removed;

/// Terminates an instance.
pub(crate) async fn terminate(
    clients: &Clients,
    id: InstanceId,
    removed: &mut Removed,
) -> Result<(), StageError> {
    if instances::terminate(clients, &id).await? {
        removed.terminated.push(id);
    }
    Ok(())
}

/// Deletes a volume, unless an instance has attached it in the meantime.
pub(crate) async fn delete_volume(
    clients: &Clients,
    id: VolumeId,
    removed: &mut Removed,
) -> Result<(), StageError> {
    let request = clients.ec2.delete_volume().volume_id(id.as_str());
    match request.send().await {
        Ok(_) => removed.deleted_volumes.push(id),
        Err(error)
            if matches!(
                error.aws_code(),
                Some("InvalidVolume.NotFound" | "VolumeInUse")
            ) => {}
        Err(error) => return Err(error.into_stage_error("ec2:DeleteVolume")),
    }
    Ok(())
}

/// Deletes a snapshot, unless a machine image uses it. Returns whether the snapshot no longer exists.
pub(crate) async fn delete_snapshot(
    clients: &Clients,
    id: SnapshotId,
    removed: &mut Removed,
) -> Result<bool, StageError> {
    let request = clients.ec2.delete_snapshot().snapshot_id(id.as_str());
    match request.send().await {
        Ok(_) => removed.deleted_snapshots.push(id),
        Err(error) if error.aws_code() == Some("InvalidSnapshot.NotFound") => {}
        Err(error) if error.aws_code() == Some("InvalidSnapshot.InUse") => {
            tracing::info!(snapshot = %id, "snapshot kept: an AMI uses it");
            return Ok(false);
        }
        Err(error) => return Err(error.into_stage_error("ec2:DeleteSnapshot")),
    }
    Ok(true)
}

/// Deletes a manifest with its further pages.
pub(crate) async fn delete_manifest(
    clients: &Clients,
    parameter: String,
    pages: impl IntoIterator<Item = String>,
    removed: &mut Removed,
) -> Result<(), StageError> {
    if parameters::delete_document(clients, &parameter, pages).await? {
        removed.deleted_manifests.push(parameter);
    }
    Ok(())
}
