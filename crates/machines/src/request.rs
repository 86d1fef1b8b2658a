//! The request for one instance.

use prepull_aws::ec2::config::retry::RetryConfig;
use prepull_aws::ec2::error::SdkError;
use prepull_aws::ec2::operation::run_instances::{RunInstancesError, RunInstancesOutput};
use prepull_aws::ec2::types::{
    BlockDeviceMapping, EbsBlockDevice, HttpTokensState, IamInstanceProfileSpecification,
    InstanceMetadataEndpointState, InstanceMetadataOptionsRequest, InstanceType, ResourceType,
    ShutdownBehavior, VolumeType,
};
use prepull_aws::ec2::{Config, types::builders::EbsBlockDeviceBuilder};
use prepull_aws::{Clients, tag, tag_specification};
use prepull_domain::build::payload::{Base, Target};
use prepull_domain::names;
use sha2::{Digest, Sha256};

use crate::launch::{CapacityPool, InstanceProfile, Machine, Role};

/// Device of Bottlerocket's OS volume.
const SYSTEM_DEVICE: &str = "/dev/xvda";

/// Requests one instance for `machine` in `pool`.
pub(crate) async fn send(
    clients: &Clients,
    machine: &Machine<'_>,
    pool: CapacityPool<'_>,
    user_data: &str,
) -> Result<RunInstancesOutput, SdkError<RunInstancesError>> {
    let target = machine.target;
    let mut instance_tags = tag_specification(ResourceType::Instance, target);
    let purpose = machine.purpose();
    let tags = instance_tags.tags.get_or_insert_default();
    tags.push(tag(purpose.tag, &purpose.value));
    if let Role::Verifier {
        expires_at: Some(expires_at),
        ..
    } = machine.role
    {
        tags.push(tag(names::TAG_EXPIRES_AT, &expires_at.to_string()));
    }
    clients
        .ec2
        .run_instances()
        .min_count(1)
        .max_count(1)
        .client_token(client_token(machine, pool))
        .image_id(machine.ami.id.as_str())
        .instance_type(InstanceType::from(pool.instance_type))
        .subnet_id(pool.subnet.as_str())
        .set_security_group_ids(Some(
            target
                .security_group_ids
                .iter()
                .map(ToString::to_string)
                .collect(),
        ))
        .iam_instance_profile(match machine.profile {
            InstanceProfile::Arn(arn) => {
                IamInstanceProfileSpecification::builder().arn(arn).build()
            }
            InstanceProfile::Name(name) => IamInstanceProfileSpecification::builder()
                .name(name)
                .build(),
        })
        .user_data(user_data)
        .metadata_options(
            InstanceMetadataOptionsRequest::builder()
                .http_endpoint(InstanceMetadataEndpointState::Enabled)
                .http_tokens(HttpTokensState::Required)
                // Host containers share the host's network, so the agent is one hop away. No pod runs on the instance.
                .http_put_response_hop_limit(1)
                .build(),
        )
        .instance_initiated_shutdown_behavior(match machine.role {
            // The builder powers itself off before the snapshot and must not terminate then.
            Role::Builder => ShutdownBehavior::Stop,
            Role::Verifier { .. } => ShutdownBehavior::Terminate,
        })
        // No size: the AMI has its own, which differs between releases.
        .block_device_mappings(mapping(SYSTEM_DEVICE, volume(target)))
        .block_device_mappings(mapping(names::DATA_DEVICE, data_volume(machine)))
        .tag_specifications(instance_tags)
        .tag_specifications(tag_specification(ResourceType::Volume, target))
        .tag_specifications(tag_specification(ResourceType::NetworkInterface, target))
        .customize()
        // EC2 reports missing capacity with status 500, and the SDK would retry in the same capacity pool.
        .config_override(Config::builder().retry_config(RetryConfig::disabled()))
        .send()
        .await
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

fn data_volume(machine: &Machine<'_>) -> EbsBlockDeviceBuilder {
    let target = machine.target;
    let unsigned = |value: u32| i32::try_from(value).unwrap_or(i32::MAX);
    let volume = volume(target)
        .volume_size(unsigned(target.volume.size_gib.0))
        .iops(unsigned(target.volume.iops))
        .throughput(unsigned(target.volume.throughput_mibps));
    match (machine.role, &target.base) {
        (Role::Builder, Base::Empty { .. }) => volume,
        (Role::Builder, Base::Snapshot { snapshot_id, .. }) => {
            volume.snapshot_id(snapshot_id.as_str())
        }
        (
            Role::Verifier {
                snapshot,
                initialization_rate,
                ..
            },
            _,
        ) => volume
            .snapshot_id(snapshot.as_str())
            .set_volume_initialization_rate(initialization_rate.map(unsigned)),
    }
}

/// Returns the client token of an attempt. It is the same for every call for one instance, and differs for another capacity
/// pool, other settings or another purpose, because EC2 rejects a token with changed parameters.
fn client_token(machine: &Machine<'_>, pool: CapacityPool<'_>) -> String {
    let target = machine.target;
    let purpose = machine.purpose();
    let attempt = [
        target.execution.as_str(),
        target.architecture.as_str(),
        machine.ami.id.as_str(),
        &purpose.value,
        pool.instance_type,
        pool.subnet.as_str(),
    ];
    // 64 hexadecimal digits, the maximum length in EC2.
    format!("{:x}", Sha256::digest(attempt.join("/")))
}
