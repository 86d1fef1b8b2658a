//! The request for one instance.

use prepull_aws::ec2::config::retry::RetryConfig;
use prepull_aws::ec2::error::SdkError;
use prepull_aws::ec2::operation::run_instances::{RunInstancesError, RunInstancesOutput};
use prepull_aws::ec2::types::{
    BlockDeviceMapping, EbsBlockDevice, HttpTokensState, IamInstanceProfileSpecification,
    InstanceMetadataEndpointState, InstanceMetadataOptionsRequest, InstanceType, ResourceType,
    ShutdownBehavior, TagSpecification, VolumeType,
};
use prepull_aws::ec2::{Config, types::builders::EbsBlockDeviceBuilder};
use prepull_aws::{Clients, tag, tag_specification};
use prepull_domain::build::payload::{Base, Target};
use prepull_domain::names;
use sha2::{Digest, Sha256};

use crate::{CapacityPool, Settings};

/// Device of Bottlerocket's OS volume.
const SYSTEM_DEVICE: &str = "/dev/xvda";

/// Requests one instance of `target` in `pool`.
pub(crate) async fn send(
    clients: &Clients,
    settings: &Settings,
    target: &Target,
    pool: CapacityPool<'_>,
    user_data: &str,
) -> Result<RunInstancesOutput, SdkError<RunInstancesError>> {
    clients
        .ec2
        .run_instances()
        .min_count(1)
        .max_count(1)
        .client_token(client_token(target, pool))
        .image_id(target.ami.id.as_str())
        .instance_type(InstanceType::from(pool.instance_type))
        .subnet_id(pool.subnet.as_str())
        .set_security_group_ids(Some(
            target
                .security_group_ids
                .iter()
                .map(ToString::to_string)
                .collect(),
        ))
        .iam_instance_profile(
            IamInstanceProfileSpecification::builder()
                .arn(&settings.instance_profile_arn)
                .build(),
        )
        .user_data(user_data)
        .metadata_options(
            InstanceMetadataOptionsRequest::builder()
                .http_endpoint(InstanceMetadataEndpointState::Enabled)
                .http_tokens(HttpTokensState::Required)
                // Host containers share the host's network, so the agent is one hop away. No pod runs on a builder.
                .http_put_response_hop_limit(1)
                .build(),
        )
        // The builder powers itself off before the snapshot and must not terminate then.
        .instance_initiated_shutdown_behavior(ShutdownBehavior::Stop)
        // No size: the AMI has its own, which differs between releases.
        .block_device_mappings(mapping(SYSTEM_DEVICE, volume(target)))
        .block_device_mappings(mapping(names::DATA_DEVICE, data_volume(target)))
        .tag_specifications(instance_tags(target))
        .tag_specifications(tag_specification(ResourceType::Volume, target))
        .tag_specifications(tag_specification(ResourceType::NetworkInterface, target))
        .customize()
        // EC2 reports missing capacity with status 500, and the SDK would retry in the same capacity pool.
        .config_override(Config::builder().retry_config(RetryConfig::disabled()))
        .send()
        .await
}

/// Returns the tags of the instance. They show the settings with which it starts.
fn instance_tags(target: &Target) -> TagSpecification {
    let mut tags = tag_specification(ResourceType::Instance, target);
    tags.tags
        .get_or_insert_default()
        .push(tag(names::TAG_LAUNCH_KEY, &target.launch_key()));
    tags
}

fn mapping(device: &str, volume: EbsBlockDeviceBuilder) -> BlockDeviceMapping {
    BlockDeviceMapping::builder()
        .device_name(device)
        .ebs(volume.build())
        .build()
}

fn volume(target: &Target) -> EbsBlockDeviceBuilder {
    EbsBlockDevice::builder()
        .volume_type(VolumeType::Gp3)
        .encrypted(true)
        .set_kms_key_id(target.volume.kms_key_id.clone())
        .delete_on_termination(true)
}

fn data_volume(target: &Target) -> EbsBlockDeviceBuilder {
    let unsigned = |value: u32| i32::try_from(value).unwrap_or(i32::MAX);
    let volume = volume(target)
        .volume_size(unsigned(target.volume.size_gib.0))
        .iops(unsigned(target.volume.iops))
        .throughput(unsigned(target.volume.throughput_mibps));
    match &target.base {
        Base::Empty { .. } => volume,
        Base::Snapshot { snapshot_id, .. } => volume.snapshot_id(snapshot_id.as_str()),
    }
}

/// Returns the client token of an attempt. It is the same for every call for one instance, and differs for another capacity
/// pool or other settings, because EC2 rejects a token with changed parameters.
fn client_token(target: &Target, pool: CapacityPool<'_>) -> String {
    let launch_key = target.launch_key();
    let attempt = [
        target.execution.as_str(),
        target.architecture.as_str(),
        &launch_key,
        pool.instance_type,
        pool.subnet.as_str(),
    ];
    // 64 hexadecimal digits, the maximum length in EC2.
    format!("{:x}", Sha256::digest(attempt.join("/")))
}
