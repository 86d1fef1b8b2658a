//! The decision about one launch template. It makes no calls.
//!
//! A template has a version with the stable snapshot, which is the default version, and one with the candidate. All their
//! other parameters are those of the default version.

use std::collections::BTreeSet;

use prepull_aws::ec2::types::{
    LaunchTemplateBlockDeviceMapping, LaunchTemplateEbsBlockDevice, ResponseLaunchTemplateData,
    VolumeType,
};
use prepull_domain::names::DATA_DEVICE;
use prepull_domain::{
    Architecture, BottlerocketVersion, CacheName, LaunchTemplateId, Pointer, PublishedSnapshot,
    SnapshotId,
};
use prepull_kubernetes::{FieldChange, OptIn};

use super::difference::{self, Difference};

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
    pub(super) stable: Target,
    /// `None` if there is no candidate.
    pub(super) candidate: Option<Target>,
    /// Own versions whose snapshots nobody needs.
    pub(super) prune: Vec<i64>,
}

/// A version that the template needs.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Target {
    pub(super) snapshot: SnapshotId,
    pub(super) version: TargetVersion,
}

/// The version of a target.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum TargetVersion {
    /// The template has it.
    Existing(i64),
    /// It is missing.
    Missing(Box<NewVersion>),
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
    #[error(
        "cache `{cache}` has published nothing for {architecture} in this Region. Correct the tags, or build the cache with \
         `prepull build {cache}`"
    )]
    NoPointer {
        cache: CacheName,
        architecture: Architecture,
    },
    #[error(
        "cache `{cache}` has no stable snapshot for {architecture} in this Region. Promote one with `prepull promote {cache}`, \
         or add the Region to `copy_to_regions` of the cache"
    )]
    NoSnapshot {
        cache: CacheName,
        architecture: Architecture,
    },
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
    #[error(
        "the image of the template has Bottlerocket {release}, and the snapshot needs {needed} or newer. Change the image in a \
         new default version"
    )]
    OldBottlerocket {
        release: BottlerocketVersion,
        needed: BottlerocketVersion,
    },
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
        let (cache, architecture) = (&opt_in.cache, opt_in.architecture);
        let pointer = pointer.ok_or_else(|| Refusal::NoPointer {
            cache: cache.clone(),
            architecture,
        })?;
        let stable = pointer.stable.as_ref().ok_or_else(|| Refusal::NoSnapshot {
            cache: cache.clone(),
            architecture,
        })?;
        check_image(image, architecture, stable)?;
        let default = self.default_version()?;
        let wanted = with_snapshot(&default.data, stable, new_volume)?;
        let has_stable = snapshot_of(&default.data).as_ref() == Some(&stable.snapshot_id)
            && changes(&default.data, &wanted).iter().all(|change| {
                change.field == "Encrypted" && change.from.as_deref() == Some("true")
            });
        let number = if has_stable {
            // A person may have created the default version.
            Some(default.number)
        } else {
            self.own_version(&wanted, &stable.snapshot_id, 0)
        };
        let base = if has_stable { &default.data } else { &wanted };
        let candidate = pointer
            .candidate
            .as_ref()
            .filter(|candidate| candidate.snapshot_id != stable.snapshot_id)
            .filter(|candidate| check_image(image, architecture, candidate).is_ok())
            .map(|candidate| {
                let wanted = with_snapshot(base, candidate, new_volume)?;
                // `$Latest` is the candidate, so its version follows the one with the stable snapshot.
                let existing = number
                    .and_then(|number| self.own_version(&wanted, &candidate.snapshot_id, number));
                Ok(self.target(candidate, wanted, existing, default))
            })
            .transpose()?;
        let stable = self.target(stable, wanted, number, default);
        let prune = self.prune(pointer, &stable, candidate.as_ref());
        Ok(Plan {
            stable,
            candidate,
            prune,
        })
    }

    fn target(
        &self,
        snapshot: &PublishedSnapshot,
        data: ResponseLaunchTemplateData,
        existing: Option<i64>,
        default: &Version,
    ) -> Target {
        let version = match existing {
            Some(number) => TargetVersion::Existing(number),
            None => TargetVersion::Missing(Box::new(NewVersion {
                source: self.default,
                fields: changes(&default.data, &data),
                data,
            })),
        };
        Target {
            snapshot: snapshot.snapshot_id.clone(),
            version,
        }
    }

    /// Returns the newest own version above `after` with exactly these parameters.
    fn own_version(
        &self,
        data: &ResponseLaunchTemplateData,
        snapshot: &SnapshotId,
        after: i64,
    ) -> Option<i64> {
        let own = self.versions.iter().filter(|version| {
            version.number > after
                && version.own.as_ref() == Some(snapshot)
                && difference::first(data, &version.data).is_none()
        });
        own.map(|version| version.number).max()
    }

    /// Returns the own versions that nobody needs: those of snapshots that the pointer no longer refers to, and older ones of
    /// the candidate. A roll-back uses the version of the previous snapshot again.
    fn prune(&self, pointer: &Pointer, stable: &Target, candidate: Option<&Target>) -> Vec<i64> {
        let held: BTreeSet<_> = pointer.held().map(|held| &held.snapshot_id).collect();
        let is_target = |target: &Target, version: &Version| matches!(target.version, TargetVersion::Existing(number) if number == version.number);
        let is_needed = |version: &Version, own: &SnapshotId| {
            let is_old_candidate = candidate
                .is_some_and(|target| target.snapshot == *own && !is_target(target, version));
            is_target(stable, version) || (held.contains(own) && !is_old_candidate)
        };
        let pruned = self.versions.iter().filter(|version| {
            let own = version.own.as_ref();
            own.is_some_and(|own| !is_needed(version, own))
        });
        pruned.map(|version| version.number).collect()
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
    match &image.release {
        Some(release) if *release < snapshot.bottlerocket_version => {
            Err(Refusal::OldBottlerocket {
                release: release.clone(),
                needed: snapshot.bottlerocket_version.clone(),
            })
        }
        _ => Ok(()),
    }
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
    let (from, to) = (data_volume(from), data_volume(to));
    let differences = difference::of_volumes(from, to).into_iter();
    let change = |difference: Difference| FieldChange {
        field: difference.field,
        from: difference.expected,
        to: difference.found.unwrap_or_else(|| "none".to_owned()),
    };
    differences.map(change).collect()
}

/// Whether EBS loads the volume of the default version block by block at its first reads.
pub(super) fn loads_lazily(data: &ResponseLaunchTemplateData) -> bool {
    let volume = data_volume(data);
    volume.is_some_and(|volume| volume.volume_initialization_rate().is_none())
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
