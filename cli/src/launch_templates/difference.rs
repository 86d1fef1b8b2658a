//! Compares the parameters of two versions of a launch template.

use std::collections::BTreeMap;
use std::fmt::Debug;

use prepull_aws::ec2::types::{
    LaunchTemplateBlockDeviceMapping, LaunchTemplateEbsBlockDevice, ResponseLaunchTemplateData,
};
use prepull_kubernetes::FieldChange;

/// Describes the first difference. `None` if all parameters are equal.
pub(super) fn first(
    expected: &ResponseLaunchTemplateData,
    found: &ResponseLaunchTemplateData,
) -> Option<String> {
    let (expected, found) = (normal(expected), normal(found));
    if expected == found {
        return None;
    }
    let (expected, found) = (by_device(&expected), by_device(&found));
    let mut devices = expected.keys().chain(found.keys());
    let Some(device) = devices.find(|device| expected.get(*device) != found.get(*device)) else {
        // The value can be user data, which can contain credentials.
        return Some("a parameter outside `BlockDeviceMappings` differs".to_owned());
    };
    let volume = |mappings: &Mappings| mappings.get(device).and_then(|mapping| mapping.ebs.clone());
    let changes = of_volumes(volume(&expected).as_ref(), volume(&found).as_ref());
    Some(match changes.first() {
        Some(FieldChange { field, from, to }) => {
            let from = from.as_deref().unwrap_or("none");
            format!("{field} of {device} is {to} instead of {from}")
        }
        None => format!("the mapping of {device} differs"),
    })
}

/// Returns equal parameters in one form. The order of block devices has no meaning, and a list without elements is the same as
/// no list.
fn normal(data: &ResponseLaunchTemplateData) -> ResponseLaunchTemplateData {
    fn drop_empty<T>(list: &mut Option<Vec<T>>) {
        list.take_if(|list| list.is_empty());
    }
    let mut data = data.clone();
    if let Some(mappings) = &mut data.block_device_mappings {
        mappings.sort_by(|one, other| one.device_name.cmp(&other.device_name));
    }
    drop_empty(&mut data.block_device_mappings);
    drop_empty(&mut data.network_interfaces);
    drop_empty(&mut data.tag_specifications);
    drop_empty(&mut data.elastic_gpu_specifications);
    drop_empty(&mut data.elastic_inference_accelerators);
    drop_empty(&mut data.security_group_ids);
    drop_empty(&mut data.security_groups);
    drop_empty(&mut data.license_specifications);
    drop_empty(&mut data.secondary_interfaces);
    data
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

/// Returns the [`FieldChange`]s between two structures.
macro_rules! changes {
    ($from:expr, $to:expr, $($field:ident $name:literal),* $(,)?) => {{
        let mut changes = Vec::new();
        $(
            if $from.$field != $to.$field {
                changes.push(FieldChange {
                    field: $name,
                    from: text($from.$field.as_ref()),
                    to: text($to.$field.as_ref()).unwrap_or_else(|| "none".to_owned()),
                });
            }
        )*
        changes
    }};
}

/// Returns the changes between two volumes. Without a volume, all its fields are absent.
pub(super) fn of_volumes(
    from: Option<&LaunchTemplateEbsBlockDevice>,
    to: Option<&LaunchTemplateEbsBlockDevice>,
) -> Vec<FieldChange> {
    let none = LaunchTemplateEbsBlockDevice::builder().build();
    let (from, to) = (from.unwrap_or(&none), to.unwrap_or(&none));
    changes!(from, to,
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
        let shown = |found: &ResponseLaunchTemplateData| first(&expected, found);
        assert_eq!(
            shown(&data(20, InstanceType::M7iXlarge)).as_deref(),
            Some("VolumeSize of /dev/xvda is 20 instead of 50")
        );
        assert_eq!(
            shown(&data(50, InstanceType::M7iLarge)).as_deref(),
            Some("a parameter outside `BlockDeviceMappings` differs")
        );
        let mut missing = expected.clone();
        let mappings = missing.block_device_mappings.as_mut().expect("it has two");
        mappings.remove(0);
        assert_eq!(
            shown(&missing).as_deref(),
            Some("VolumeSize of /dev/xvda is none instead of 50")
        );
        let mut renamed = expected.clone();
        let mappings = renamed.block_device_mappings.as_mut().expect("it has two");
        mappings[0].virtual_name = Some("ephemeral0".to_owned());
        assert_eq!(
            shown(&renamed).as_deref(),
            Some("the mapping of /dev/xvda differs")
        );
    }

    #[test]
    fn order_of_devices_and_empty_lists_are_no_difference() {
        let expected = data(50, InstanceType::M7iXlarge);
        let mut found = expected.clone();
        let mappings = found.block_device_mappings.as_mut().expect("it has two");
        mappings.reverse();
        found.security_group_ids = Some(Vec::new());
        assert_eq!(first(&expected, &found), None);
    }

    #[test]
    fn difference_does_not_show_user_data() {
        let mut expected = data(50, InstanceType::M7iXlarge);
        expected.user_data = Some("c2VjcmV0".to_owned());
        let found = data(50, InstanceType::M7iXlarge);
        let shown = first(&expected, &found).expect("the user data is missing");
        assert!(!shown.contains("c2VjcmV0"), "{shown}");
    }
}
