//! The decision about one launch template. It makes no calls.
//!
//! A template has one version of prepull with the snapshot of its channel. It is the default version, and newer than all other
//! versions of prepull. Its other parameters are those of the earlier default version.

use std::collections::BTreeSet;

use prepull_aws::ec2::types::{
    LaunchTemplateBlockDeviceMapping, LaunchTemplateEbsBlockDevice, ResponseLaunchTemplateData,
    VolumeType,
};
use prepull_domain::names::DATA_DEVICE;
use prepull_domain::{
    Architecture, BottlerocketVersion, LaunchTemplateId, OldRelease, Pointer, PublishedSnapshot,
    SnapshotId,
};
use prepull_kubernetes::{FieldChange, OptIn, Unpublished};

use super::difference;

/// First word of the descriptions of prepull's own versions. The ID of the snapshot follows.
const OWN: &str = "prepull ";

/// A launch template with its versions.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Template {
    pub(super) id: LaunchTemplateId,
    pub(super) default: i64,
    pub(super) versions: Vec<Version>,
}

/// A version of a launch template.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Version {
    pub(super) number: i64,
    /// Snapshot in the description. `None` if prepull did not create the version.
    pub(super) own: Option<SnapshotId>,
    pub(super) data: ResponseLaunchTemplateData,
}

/// The image of a launch template, as far as it is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Image {
    pub(super) architecture: Option<Architecture>,
    pub(super) release: Option<BottlerocketVersion>,
}

/// Settings of a new data volume, if the template has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NewVolume {
    pub(super) iops: u32,
    pub(super) throughput_mibps: u32,
    pub(super) rate: u32,
}

/// The decision about one template.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plan {
    /// Snapshot of the channel.
    pub(super) snapshot: PublishedSnapshot,
    pub(super) step: Step,
}

/// The next step for one template.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Step {
    /// The default version has the snapshot.
    Keep {
        /// Own versions of snapshots that the pointer no longer refers to.
        old: Vec<i64>,
    },
    /// Another version becomes the default version. Old versions stay until the next run, because groups still move away from
    /// them.
    Move(Target),
}

/// The next default version.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Target {
    /// The template has it, because an earlier run was interrupted.
    Existing(i64),
    /// It is missing.
    New(Box<NewVersion>),
}

/// A new version.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct NewVersion {
    /// Version that it inherits all parameters but the block devices from.
    pub(super) source: i64,
    /// All its parameters, for the comparison after the write.
    pub(super) data: ResponseLaunchTemplateData,
    /// Changes of the data volume, compared with the default version.
    pub(super) fields: Vec<FieldChange>,
}

/// The reason why a template is left alone, with a remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error(transparent)]
    Unpublished(#[from] Unpublished),
    #[error(
        "the default version {0} is missing in the answer of EC2. Run the command again, or choose another default version"
    )]
    NoDefault(i64),
    #[error(
        "the template has no volume at {DATA_DEVICE}, and the settings of a new one are unknown: {0}. Add the volume to the \
         default version"
    )]
    NoDataVolume(String),
    #[error(
        "the template has several block device mappings for {DATA_DEVICE}. Remove all but one in a new default version"
    )]
    SeveralDataVolumes,
    #[error(
        "the template maps {DATA_DEVICE} to `{0}` instead of a volume. Correct the mapping in a new default version"
    )]
    NotEbs(&'static str),
    #[error(
        "the tag `prepull/architecture` is {tag}, and the image of the template is for {image}. Correct the tag or the image"
    )]
    Architecture {
        tag: Architecture,
        image: Architecture,
    },
    #[error("the image of the template {0}. Change the image in a new default version")]
    OldBottlerocket(#[from] OldRelease),
}

/// Returns the description of an own version.
pub(super) fn description(snapshot: &SnapshotId) -> String {
    format!("{OWN}{snapshot}")
}

impl Version {
    /// Parses a version. It is an own one only if its data volume has the snapshot of its description, because a person can
    /// copy the description into a version of their own.
    pub(super) fn new(
        number: i64,
        description: Option<&str>,
        data: ResponseLaunchTemplateData,
    ) -> Self {
        let described = description
            .and_then(|text| text.strip_prefix(OWN))
            .and_then(|id| id.parse().ok());
        let own = described.filter(|id| snapshot_of(&data).as_ref() == Some(id));
        Self { number, own, data }
    }
}

/// Returns the snapshot of the data volume.
pub(super) fn snapshot_of(data: &ResponseLaunchTemplateData) -> Option<SnapshotId> {
    data_volume(data)?.snapshot_id()?.parse().ok()
}

fn data_volume(data: &ResponseLaunchTemplateData) -> Option<&LaunchTemplateEbsBlockDevice> {
    let mut mappings = data.block_device_mappings().iter();
    mappings.find(|mapping| is_data(mapping))?.ebs()
}

fn is_data(mapping: &LaunchTemplateBlockDeviceMapping) -> bool {
    mapping.device_name() == Some(DATA_DEVICE)
}

impl Template {
    pub(super) fn default_version(&self) -> Result<&Version, Refusal> {
        let mut versions = self.versions.iter();
        versions
            .find(|version| version.number == self.default)
            .ok_or(Refusal::NoDefault(self.default))
    }

    pub(super) fn has_data_volume(&self) -> bool {
        let default = self.default_version();
        default.is_ok_and(|version| version.data.block_device_mappings().iter().any(is_data))
    }

    /// Decides about the template. `pointer` is the pointer of its cache and architecture in this Region. `new_volume` has the
    /// settings of a missing data volume, or the reason why they are unknown.
    pub(super) fn plan(
        &self,
        opt_in: &OptIn,
        pointer: Option<&Pointer>,
        image: &Image,
        new_volume: &Result<NewVolume, String>,
    ) -> Result<Plan, Refusal> {
        let snapshot = opt_in.snapshot(pointer)?;
        check_image(image, opt_in.architecture, snapshot)?;
        let default = self.default_version()?;
        let wanted = with_snapshot(&default.data, snapshot, new_volume)?;
        let fields = changes(&default.data, &wanted);
        // A person may have created the default version. The encryption of the snapshot changes nothing.
        let has_snapshot = fields
            .iter()
            .all(|change| change.field == "Encrypted" && change.from.as_deref() == Some("true"));
        let step = if has_snapshot && !self.latest_differs(&snapshot.snapshot_id) {
            Step::Keep {
                old: self.old_versions(pointer),
            }
        } else {
            Step::Move(match self.interrupted(&wanted, &snapshot.snapshot_id) {
                Some(number) => Target::Existing(number),
                None => Target::New(Box::new(NewVersion {
                    source: default.number,
                    data: wanted,
                    fields,
                })),
            })
        };
        Ok(Plan {
            snapshot: snapshot.clone(),
            step,
        })
    }

    /// Returns whether an own version above the default version has another snapshot, for example after an interrupted run or if
    /// a person set another default version. A group with `$Latest` and Terraform's provider use the newest version.
    fn latest_differs(&self, snapshot: &SnapshotId) -> bool {
        self.versions.iter().any(|version| {
            let own = version.own.as_ref();
            version.number > self.default && own.is_some_and(|own| own != snapshot)
        })
    }

    /// Returns the newest version if it is the one that this run would create.
    fn interrupted(&self, data: &ResponseLaunchTemplateData, snapshot: &SnapshotId) -> Option<i64> {
        let newest = self.versions.iter().max_by_key(|version| version.number)?;
        let is_equal = newest.own.as_ref() == Some(snapshot)
            && difference::first(data, &newest.data).is_none();
        is_equal.then_some(newest.number)
    }

    /// Returns the own versions of snapshots that the pointer no longer refers to. The version of the previous snapshot stays for
    /// groups that have its number.
    fn old_versions(&self, pointer: Option<&Pointer>) -> Vec<i64> {
        let held = pointer.into_iter().flat_map(Pointer::held);
        let held: BTreeSet<_> = held.map(|held| &held.snapshot_id).collect();
        let old = self.versions.iter().filter(|version| {
            let own = version.own.as_ref();
            version.number != self.default && own.is_some_and(|own| !held.contains(own))
        });
        old.map(|version| version.number).collect()
    }
}

fn check_image(
    image: &Image,
    tag: Architecture,
    snapshot: &PublishedSnapshot,
) -> Result<(), Refusal> {
    if let Some(image) = image.architecture
        && image != tag
    {
        return Err(Refusal::Architecture { tag, image });
    }
    if let Some(release) = &image.release {
        release.check_snapshot(&snapshot.bottlerocket_version)?;
    }
    Ok(())
}

/// Returns `data` with the snapshot at the data volume. All other parameters stay.
fn with_snapshot(
    data: &ResponseLaunchTemplateData,
    snapshot: &PublishedSnapshot,
    new_volume: &Result<NewVolume, String>,
) -> Result<ResponseLaunchTemplateData, Refusal> {
    let mut mappings = data.block_device_mappings().to_vec();
    if mappings.iter().filter(|mapping| is_data(mapping)).count() > 1 {
        return Err(Refusal::SeveralDataVolumes);
    }
    match mappings.iter_mut().find(|mapping| is_data(mapping)) {
        Some(mapping) if mapping.virtual_name().is_some() => {
            return Err(Refusal::NotEbs("VirtualName"));
        }
        Some(mapping) if mapping.no_device().is_some() => {
            return Err(Refusal::NotEbs("NoDevice"));
        }
        Some(mapping) => {
            let volume = mapping.ebs.clone();
            let volume = volume.unwrap_or_else(|| LaunchTemplateEbsBlockDevice::builder().build());
            mapping.ebs = Some(from_snapshot(volume, snapshot));
        }
        None => {
            let settings = new_volume.clone().map_err(Refusal::NoDataVolume)?;
            mappings.push(
                LaunchTemplateBlockDeviceMapping::builder()
                    .device_name(DATA_DEVICE)
                    .ebs(from_snapshot(settings.volume(), snapshot))
                    .build(),
            );
        }
    }
    let mut data = data.clone();
    data.block_device_mappings = Some(mappings);
    Ok(data)
}

/// Gives a volume its snapshot, and at least the size of the snapshot. EC2 refuses to launch with a smaller one.
fn from_snapshot(
    mut volume: LaunchTemplateEbsBlockDevice,
    snapshot: &PublishedSnapshot,
) -> LaunchTemplateEbsBlockDevice {
    volume.snapshot_id = Some(snapshot.snapshot_id.to_string());
    let needed = number(snapshot.volume_size.0);
    volume.volume_size = Some(volume.volume_size.unwrap_or_default().max(needed));
    // Beside a snapshot, EC2 takes the encryption from the snapshot, which is always encrypted. A key of the user needs the
    // field, because EC2 refuses a key without it.
    // Source: EC2 API reference, "LaunchTemplateEbsBlockDeviceRequest": "If you are creating a volume from a snapshot, you
    // can't specify an encryption value". Karpenter launches with a snapshot, the field and a key.
    volume.encrypted = volume.kms_key_id.as_ref().map(|_| true);
    volume
}

impl NewVolume {
    /// Returns the volume that `prepull nodeclass` prints, without the fields of the snapshot.
    fn volume(self) -> LaunchTemplateEbsBlockDevice {
        LaunchTemplateEbsBlockDevice::builder()
            .volume_type(VolumeType::Gp3)
            .iops(number(self.iops))
            .throughput(number(self.throughput_mibps))
            .volume_initialization_rate(number(self.rate))
            .delete_on_termination(true)
            .build()
    }
}

/// Converts a setting for EC2. Its limits are far below those of the type.
fn number(setting: u32) -> i32 {
    i32::try_from(setting).unwrap_or(i32::MAX)
}

/// Returns the changes of the data volume.
fn changes(from: &ResponseLaunchTemplateData, to: &ResponseLaunchTemplateData) -> Vec<FieldChange> {
    difference::of_volumes(data_volume(from), data_volume(to))
}

/// Whether EBS loads the volume of the default version block by block at its first reads.
pub(super) fn loads_lazily(data: &ResponseLaunchTemplateData) -> bool {
    let volume = data_volume(data);
    volume.is_some_and(|volume| volume.volume_initialization_rate().is_none())
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
