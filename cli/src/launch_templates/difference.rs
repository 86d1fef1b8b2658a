//! Compares the parameters of two versions of a launch template.

use std::collections::BTreeMap;
use std::fmt::{self, Debug};

use prepull_aws::ec2::types::{
    LaunchTemplateBlockDeviceMapping, LaunchTemplateEbsBlockDevice, ResponseLaunchTemplateData,
};

/// A parameter with two values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Difference {
    /// Name of the parameter in EC2's API.
    pub(super) field: &'static str,
    /// Device, if the parameter belongs to a block device.
    pub(super) device: Option<String>,
    /// The expected value.
    pub(super) expected: Option<String>,
    /// The actual value.
    pub(super) found: Option<String>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".to_owned());
        write!(f, "{}", self.field)?;
        // User data can contain credentials.
        if self.field == "UserData" {
            return f.write_str(" differs");
        }
        if let Some(device) = &self.device {
            write!(f, " of {device}")?;
        }
        write!(
            f,
            " is {} instead of {}",
            text(&self.found),
            text(&self.expected)
        )
    }
}

/// Returns the first parameter that differs. The order of block devices has no meaning.
pub(super) fn first(
    expected: &ResponseLaunchTemplateData,
    found: &ResponseLaunchTemplateData,
) -> Option<Difference> {
    of_mappings(expected, found).or_else(|| of_others(expected, found))
}

fn of_mappings(
    expected: &ResponseLaunchTemplateData,
    found: &ResponseLaunchTemplateData,
) -> Option<Difference> {
    let (expected, found) = (by_device(expected), by_device(found));
    let devices = expected.keys().chain(found.keys());
    for device in devices {
        let mapping = |mappings: &Mappings| mappings.get(device).copied().cloned();
        let (expected, found) = (mapping(&expected), mapping(&found));
        if expected == found {
            continue;
        }
        let ebs = |mapping: &Option<LaunchTemplateBlockDeviceMapping>| {
            mapping.as_ref().and_then(|mapping| mapping.ebs.clone())
        };
        let of_volume = of_volumes(ebs(&expected).as_ref(), ebs(&found).as_ref());
        let first = of_volume.into_iter().next();
        let difference = first.unwrap_or_else(|| Difference {
            field: "BlockDeviceMappings",
            device: None,
            expected: text(expected.as_ref()),
            found: text(found.as_ref()),
        });
        return Some(Difference {
            device: Some((*device).to_owned()),
            ..difference
        });
    }
    None
}

type Mappings<'a> = BTreeMap<&'a str, &'a LaunchTemplateBlockDeviceMapping>;

fn by_device(data: &ResponseLaunchTemplateData) -> Mappings<'_> {
    let mappings = data.block_device_mappings().iter();
    mappings
        .map(|mapping| (mapping.device_name().unwrap_or_default(), mapping))
        .collect()
}

/// Formats a value for a message.
fn text<T: Debug>(value: Option<&T>) -> Option<String> {
    value.map(|value| format!("{value:?}").trim_matches('"').to_owned())
}

/// Returns the [`Difference`]s of fields of two structures.
macro_rules! differences {
    ($expected:expr, $found:expr, $($field:ident $name:literal),* $(,)?) => {{
        let mut differences = Vec::new();
        $(
            if $expected.$field != $found.$field {
                differences.push(Difference {
                    field: $name,
                    device: None,
                    expected: text($expected.$field.as_ref()),
                    found: text($found.$field.as_ref()),
                });
            }
        )*
        differences
    }};
}

/// Returns the differences of two volumes. Without a volume, all its fields are absent.
pub(super) fn of_volumes(
    expected: Option<&LaunchTemplateEbsBlockDevice>,
    found: Option<&LaunchTemplateEbsBlockDevice>,
) -> Vec<Difference> {
    let none = LaunchTemplateEbsBlockDevice::builder().build();
    let (expected, found) = (expected.unwrap_or(&none), found.unwrap_or(&none));
    differences!(expected, found,
        snapshot_id "SnapshotId",
        volume_size "VolumeSize",
        volume_type "VolumeType",
        iops "Iops",
        throughput "Throughput",
        volume_initialization_rate "VolumeInitializationRate",
        encrypted "Encrypted",
        kms_key_id "KmsKeyId",
        delete_on_termination "DeleteOnTermination",
        ebs_card_index "EbsCardIndex",
    )
}

/// Returns the first difference outside the block devices.
fn of_others(
    expected: &ResponseLaunchTemplateData,
    found: &ResponseLaunchTemplateData,
) -> Option<Difference> {
    let differences = differences!(expected, found,
        image_id "ImageId",
        instance_type "InstanceType",
        instance_requirements "InstanceRequirements",
        user_data "UserData",
        iam_instance_profile "IamInstanceProfile",
        network_interfaces "NetworkInterfaces",
        security_group_ids "SecurityGroupIds",
        security_groups "SecurityGroups",
        metadata_options "MetadataOptions",
        tag_specifications "TagSpecifications",
        key_name "KeyName",
        kernel_id "KernelId",
        ram_disk_id "RamDiskId",
        ebs_optimized "EbsOptimized",
        monitoring "Monitoring",
        placement "Placement",
        disable_api_termination "DisableApiTermination",
        disable_api_stop "DisableApiStop",
        instance_initiated_shutdown_behavior "InstanceInitiatedShutdownBehavior",
        instance_market_options "InstanceMarketOptions",
        credit_specification "CreditSpecification",
        cpu_options "CpuOptions",
        capacity_reservation_specification "CapacityReservationSpecification",
        license_specifications "LicenseSpecifications",
        hibernation_options "HibernationOptions",
        enclave_options "EnclaveOptions",
        private_dns_name_options "PrivateDnsNameOptions",
        maintenance_options "MaintenanceOptions",
        network_performance_options "NetworkPerformanceOptions",
        secondary_interfaces "SecondaryInterfaces",
    );
    // A list without elements is the same as no list.
    let is_real = |difference: &Difference| {
        let value = |value: &Option<String>| value.clone().filter(|text| text != "[]");
        value(&difference.expected) != value(&difference.found)
    };
    differences.into_iter().find(is_real)
}

#[cfg(test)]
mod tests {
    use prepull_aws::ec2::types::InstanceType;

    use super::*;

    fn data(size: i32, instance: InstanceType) -> ResponseLaunchTemplateData {
        let volume = LaunchTemplateEbsBlockDevice::builder()
            .volume_size(size)
            .build();
        let mapping = |name: &str| {
            LaunchTemplateBlockDeviceMapping::builder()
                .device_name(name)
                .ebs(volume.clone())
                .build()
        };
        ResponseLaunchTemplateData::builder()
            .block_device_mappings(mapping("/dev/xvda"))
            .block_device_mappings(mapping("/dev/xvdb"))
            .instance_type(instance)
            .build()
    }

    #[test]
    fn difference_names_field_and_device() {
        let expected = data(50, InstanceType::M7iXlarge);
        let shown = |found: &ResponseLaunchTemplateData| {
            first(&expected, found).map(|difference| difference.to_string())
        };
        assert_eq!(shown(&expected), None);
        assert_eq!(
            shown(&data(20, InstanceType::M7iXlarge)).as_deref(),
            Some("VolumeSize of /dev/xvda is 20 instead of 50")
        );
        assert_eq!(
            shown(&data(50, InstanceType::M7iLarge)).as_deref(),
            Some("InstanceType is M7iLarge instead of M7iXlarge")
        );
        let mut reversed = expected.clone();
        let mappings = reversed.block_device_mappings.as_mut().expect("it has two");
        mappings.reverse();
        assert_eq!(shown(&reversed), None);
        mappings_without_root(&mut reversed);
        let missing = shown(&reversed).expect("a device is missing");
        assert!(
            missing.starts_with("VolumeSize of /dev/xvda is none"),
            "{missing}"
        );
    }

    fn mappings_without_root(data: &mut ResponseLaunchTemplateData) {
        let mappings = data.block_device_mappings.as_mut().expect("it has two");
        mappings.retain(|mapping| mapping.device_name() != Some("/dev/xvda"));
    }
}
