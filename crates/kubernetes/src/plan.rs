//! The decision about one class.

use jiff::{SignedDuration, Timestamp};
use prepull_domain::names::DATA_DEVICE;
use prepull_domain::{BottlerocketVersion, GiB, OldRelease, Pointer, SnapshotId};
use serde_json::Value;

use crate::annotations::{REVERTED_SNAPSHOT, Unpublished};
use crate::change::{Change, ChangeKind};
use crate::class::{NodeClass, Readiness};
use crate::quantity;

/// The times that decide whether a change is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Current time.
    pub now: Timestamp,
    /// Minimum time between a promotion and the change of a class.
    pub delay: SignedDuration,
    /// Time since which the pointer has had the snapshot. `None` if the pointer records no decision. Then the snapshot
    /// is older than all decisions, and its change is due.
    ///
    /// [`Pointer::updated_at`] is a safe choice: no later decision changed the snapshot. It also moves with decisions
    /// that do not change the snapshot, for example a pin, so a change can come later than necessary.
    pub since: Option<Timestamp>,
}

/// The decision about one class.
#[derive(Debug, Clone, PartialEq)]
pub enum Plan {
    /// The class has the snapshot, and its volume is large enough.
    UpToDate {
        /// The snapshot.
        snapshot: SnapshotId,
        /// Karpenter's verdict. After an interrupted sync it can be another than ready.
        readiness: Readiness,
    },
    /// The class needs a change.
    Patch(Box<Change>),
    /// The class needs a change, but the delay has not passed.
    NotDue {
        /// The snapshot.
        snapshot: SnapshotId,
        /// End of the delay.
        at: Timestamp,
    },
    /// The class is being deleted. Karpenter's finalizer keeps it until its nodes are gone, and no new node uses it.
    Deleting,
    /// The class cannot use a snapshot.
    Refused(Refusal),
}

/// The reason why a class is left alone, with a remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The channel has no snapshot in this Region.
    #[error(transparent)]
    Unpublished(#[from] Unpublished),
    /// The class has no data volume.
    #[error(
        "the node class has no volume at {DATA_DEVICE}. Add it to `blockDeviceMappings`, as `prepull nodeclass` prints it"
    )]
    NoDataVolume,
    /// The class has several data volumes.
    #[error(
        "the node class has several volumes at {DATA_DEVICE}. Remove all but one from `blockDeviceMappings`"
    )]
    SeveralDataVolumes,
    /// Nodes put containerd's directory on another disk.
    #[error(
        "the node class has `instanceStorePolicy: RAID0`, so containerd does not use the volume with the images. Remove the \
         policy"
    )]
    InstanceStore,
    /// Nodes do not run Bottlerocket.
    #[error(
        "the node class has the AMI family {family}, and only Bottlerocket uses the snapshot. Use an alias like \
         `bottlerocket@v1.57.0`"
    )]
    AmiFamily {
        /// The family.
        family: String,
    },
    /// Nodes run an older release than the builder of the snapshot.
    #[error("the node class {0}. Change it in `amiSelectorTerms`")]
    OldBottlerocket(#[from] OldRelease),
    /// The volume must not be encrypted.
    #[error(
        "the node class has `encrypted: false` at {DATA_DEVICE}, but the snapshot is encrypted, so no node would start. Remove \
         the field"
    )]
    Unencrypted,
    /// The size of the volume cannot be read.
    #[error(
        "the node class has the size `{given}` at {DATA_DEVICE}, which is not a quantity. Write a size like `{needed}Gi`"
    )]
    VolumeSize {
        /// The size.
        given: String,
        /// Minimum size in GiB.
        needed: u32,
    },
    /// Karpenter does not accept the class as it is.
    #[error("the node class was not ready before the sync: {message}. Correct the cause first")]
    NotReady {
        /// Karpenter's message.
        message: String,
    },
    /// An earlier sync to the snapshot was reverted.
    #[error(
        "Karpenter did not accept {snapshot} before. Correct the cause, and remove the annotation `{REVERTED_SNAPSHOT}`"
    )]
    RevertedBefore {
        /// The snapshot.
        snapshot: SnapshotId,
    },
}

/// Decides about one class. `pointer` is the pointer of the class' cache and architecture, as the Region of the cluster
/// sees it, or `None` if there is none.
#[must_use]
pub fn plan(class: &NodeClass, pointer: Option<&Pointer>, timing: Timing) -> Plan {
    match decide(class, pointer, timing) {
        Ok(plan) => plan,
        Err(refusal) => Plan::Refused(refusal),
    }
}

fn decide(class: &NodeClass, pointer: Option<&Pointer>, timing: Timing) -> Result<Plan, Refusal> {
    if class.deleting {
        return Ok(Plan::Deleting);
    }
    let wanted = class.opt_in.snapshot(pointer)?;
    check_nodes_use_the_snapshot(class, &wanted.bottlerocket_version)?;
    let (index, mapping) = data_volume(class)?;
    if mapping["ebs"]["encrypted"] == false {
        return Err(Refusal::Unencrypted);
    }
    let size = new_size(mapping, wanted.volume_size)?;
    let current = class.snapshot();
    let snapshot = wanted.snapshot_id.clone();
    if current.as_ref() == Some(&snapshot) && size.is_none() {
        return Ok(Plan::UpToDate {
            snapshot,
            readiness: class.readiness.clone(),
        });
    }
    let is_rejected = |current| pointer.is_some_and(|pointer| pointer.is_rejected(&current));
    let kind = if current.is_some_and(is_rejected) {
        ChangeKind::RollBack
    } else {
        ChangeKind::Update
    };
    if kind == ChangeKind::Update {
        if let Readiness::NotReady { message } = &class.readiness {
            return Err(Refusal::NotReady {
                message: message.trim_end_matches('.').to_owned(),
            });
        }
        let reverted = class.annotations.get(REVERTED_SNAPSHOT);
        if reverted.is_some_and(|reverted| reverted == snapshot.as_str()) {
            return Err(Refusal::RevertedBefore { snapshot });
        }
        if let Some(at) = due(timing)
            && timing.now < at
        {
            return Ok(Plan::NotDue { snapshot, at });
        }
    }
    let change = Change::new(class, index, &snapshot, size, kind);
    Ok(Plan::Patch(Box::new(change)))
}

/// Returns the end of the delay. A delay beyond the range of timestamps never ends.
fn due(timing: Timing) -> Option<Timestamp> {
    let since = timing.since?;
    Some(since.checked_add(timing.delay).unwrap_or(Timestamp::MAX))
}

fn check_nodes_use_the_snapshot(
    class: &NodeClass,
    needed: &BottlerocketVersion,
) -> Result<(), Refusal> {
    if class.spec["instanceStorePolicy"] == "RAID0" {
        return Err(Refusal::InstanceStore);
    }
    let family = class.ami_family();
    if family != "Bottlerocket" {
        return Err(Refusal::AmiFamily {
            family: family.to_owned(),
        });
    }
    if let Some(release) = class.oldest_release() {
        release.check_snapshot(needed)?;
    }
    Ok(())
}

/// Returns the index and the mapping of the data volume.
fn data_volume(class: &NodeClass) -> Result<(usize, &Value), Refusal> {
    let mut found = class.data_volumes();
    let volume = found.next().ok_or(Refusal::NoDataVolume)?;
    match found.next() {
        Some(_) => Err(Refusal::SeveralDataVolumes),
        None => Ok(volume),
    }
}

/// Returns the new size if the volume is smaller than the snapshot, which EC2 refuses. A volume without a size would
/// get the size of the snapshot from EC2, but Karpenter then counts 20 GiB of ephemeral storage.
fn new_size(mapping: &Value, needed: GiB) -> Result<Option<GiB>, Refusal> {
    let Some(given) = mapping["ebs"].get("volumeSize") else {
        return Ok(Some(needed));
    };
    let size = given.as_str().and_then(quantity::gib);
    let size = size.ok_or_else(|| Refusal::VolumeSize {
        given: given
            .as_str()
            .map_or_else(|| given.to_string(), str::to_owned),
        needed: needed.0,
    })?;
    Ok((size < needed).then_some(needed))
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
