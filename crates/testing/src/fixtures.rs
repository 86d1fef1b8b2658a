//! The cache `web` with its target and builder, and answers of AWS.

use jiff::Timestamp;
use prepull_aws::DateTime;
use prepull_aws::ec2::operation::describe_instances::DescribeInstancesOutput;
use prepull_aws::ec2::types::{
    EbsInstanceBlockDevice, Instance, InstanceBlockDeviceMapping, InstanceState, InstanceStateName,
    Reservation, ResourceType, Tag,
};
use prepull_aws::sfn::operation::describe_execution::DescribeExecutionOutput;
use prepull_aws::sfn::types::ExecutionStatus;
use prepull_aws::ssm::operation::get_command_invocation::GetCommandInvocationOutput;
use prepull_aws::ssm::types::CommandInvocationStatus;
use prepull_domain::build::payload::{Builder, ReadyBuilder, Target};
use serde_json::{Value, json};

use crate::execution_arn;

/// The ARN of the state machine.
pub const STATE_MACHINE_ARN: &str =
    "arn:aws:states:eu-west-1:123456789012:stateMachine:prepull-build";

/// Returns the `x86_64` target of a cache `web` with two images, planned at [`planned_at`]. Its deadline is long after the
/// test.
///
/// # Panics
/// Never. The JSON below is a target.
#[must_use]
pub fn target() -> Target {
    let digest = |digit: &str| format!("sha256:{}", digit.repeat(64));
    serde_json::from_value(serde_json::json!({
        "cache": "web",
        "architecture": "x86_64",
        "execution": "web-10",
        "planned_at": planned_at(),
        "give_up_at": "2999-01-01T00:00:00Z",
        "content_key": "c".repeat(64),
        "images": [
            {"reference": "docker.io/library/nginx:1.27", "digest": digest("a"), "platform_digest": digest("b"), "size": 1000, "after": null},
            {
                "reference": "123456789012.dkr.ecr.eu-west-1.amazonaws.com/team/api:v1",
                "digest": digest("d"),
                "platform_digest": digest("d"),
                "size": 2000,
                "after": null
            }
        ],
        "packed": 3000,
        "pinning": "unpinned",
        "variant": "aws-k8s-1.33",
        "ami": {"id": "ami-0123456789abcdef0", "version": "1.57.0"},
        "base": {"kind": "empty", "reason": "no snapshot is published"},
        "volume": {"size_gib": 50, "iops": 3000, "throughput_mibps": 500, "kms_key_id": null},
        "instance_types": ["m7i.2xlarge", "m6i.2xlarge"],
        "subnet_ids": ["subnet-0123456789abcdef0", "subnet-0123456789abcdef1"],
        "security_group_ids": ["sg-0123456789abcdef0"],
        "tags": {"team": "platform"},
        "registry_credentials": {},
        "parallel_pulls": 4,
        "retain_snapshots": 3,
        "retain_days": 0,
        "publication": {"share_with_accounts": [], "copy_to_regions": []}
    }))
    .expect("this is a target")
}

/// Returns the configuration of [`target`]'s cache, as its parameter holds it.
#[must_use]
pub fn configuration() -> Value {
    json!({
        "images": ["123456789012.dkr.ecr.eu-west-1.amazonaws.com/team/api:v1"],
        "architectures": ["x86_64"],
        "variant": "aws-k8s-1.33",
        "bottlerocket_version": "latest",
        "volume": {"size_gib": 50, "iops": 3000, "throughput_mibps": 500, "kms_key_id": null},
        "builder": {
            "instance_types": {"x86_64": ["m7i.2xlarge"], "arm64": ["m7g.2xlarge"]},
            "subnet_ids": ["subnet-0123456789abcdef0"],
            "security_group_ids": ["sg-0123456789abcdef0"]
        },
        "registry_credentials": {},
        "pin_images": false,
        "parallel_pulls": 4,
        "retain_snapshots": 3,
        "retain_days": 0,
        "timeout_minutes": 60,
        "rebuild_on_push": true,
        "publication": {"share_with_accounts": [], "copy_to_regions": []}
    })
}

/// Returns the manifest of a snapshot of [`target`]'s cache without images, as its parameter holds it.
#[must_use]
pub fn manifest(snapshot: &str) -> Value {
    json!({
        "snapshot_id": snapshot,
        "cache": "web",
        "architecture": "x86_64",
        "execution": "web-29455384",
        "content_key": "c".repeat(64),
        "images": [],
        "variant": "aws-k8s-1.33",
        "node": {
            "bottlerocket_version": "1.57.0",
            "containerd_version": "2.1.9",
            "kernel_version": "6.12.40",
            "snapshotter": "overlayfs",
            "ready_at": "2026-01-02T03:05:00Z"
        },
        "base": {"kind": "empty", "reason": "no snapshot is published"},
        "volume_size": 50,
        "used": 412_000_000,
        "packed": 110_000_000,
        "fresh": {"packed": 105_000_000, "used": 390_000_000},
        "instance_type": "m7i.2xlarge",
        "planned_at": "2026-01-02T03:04:05Z",
        "launched_at": "2026-01-02T03:04:10Z",
        "verified_at": "2026-01-02T03:06:00Z",
        "snapshot_started_at": "2026-01-02T03:07:00Z",
        "completed_at": "2026-01-02T03:08:00Z",
        "published_at": "2026-01-02T03:08:10Z"
    })
}

/// Returns the time of [`target`]'s plan.
///
/// # Panics
/// Never: this is a timestamp.
#[must_use]
pub fn planned_at() -> Timestamp {
    "2026-01-02T03:04:05Z".parse().expect("this is a timestamp")
}

/// Returns the output of wait-for-ssm for [`builder`].
///
/// # Panics
/// Never: these are versions.
#[must_use]
pub fn ready_builder() -> ReadyBuilder {
    serde_json::from_value(json!({
        "bottlerocket_version": "1.57.0",
        "containerd_version": "2.1.9",
        "kernel_version": "6.12.40",
        "snapshotter": "overlayfs",
        "ready_at": "2026-01-02T03:05:00Z",
        "vcpus": 8
    }))
    .expect("this is a ready builder")
}

/// Returns the builder of [`target`].
///
/// # Panics
/// Never: the JSON below is a builder.
#[must_use]
pub fn builder() -> Builder {
    serde_json::from_value(serde_json::json!({
        "instance_id": "i-0123456789abcdef0",
        "instance_type": "m7i.2xlarge",
        "launched_at": "2026-01-02T03:04:10Z"
    }))
    .expect("this is a builder")
}

/// Returns the tags of every resource of [`target`].
#[must_use]
pub fn target_tags() -> Vec<Tag> {
    let specification = prepull_aws::tag_specification(ResourceType::Instance, &target());
    specification.tags().to_vec()
}

/// Returns the instance of [`builder`] in `state`, as EC2 describes it.
#[must_use]
pub fn ec2_instance(state: InstanceStateName) -> Instance {
    let builder = builder();
    let data_volume = EbsInstanceBlockDevice::builder()
        .volume_id("vol-0123456789abcdef0")
        .build();
    Instance::builder()
        .instance_id(builder.instance_id.as_str())
        .instance_type(builder.instance_type.as_str().into())
        .launch_time(DateTime::from_secs(builder.launched_at.as_second()))
        .state(InstanceState::builder().name(state).build())
        .set_tags(Some(target_tags()))
        .tags(prepull_aws::tag(
            prepull_domain::names::TAG_LAUNCH_KEY,
            &target().launch_key(),
        ))
        .block_device_mappings(
            InstanceBlockDeviceMapping::builder()
                .device_name(prepull_domain::names::DATA_DEVICE)
                .ebs(data_volume)
                .build(),
        )
        .build()
}

/// Returns EC2's answer with `instances`.
#[must_use]
pub fn described(instances: impl IntoIterator<Item = Instance>) -> DescribeInstancesOutput {
    let reservation = Reservation::builder()
        .set_instances(Some(instances.into_iter().collect()))
        .build();
    DescribeInstancesOutput::builder()
        .reservations(reservation)
        .build()
}

/// Returns an execution of the state machine for `cache`, started `started_at` seconds after the epoch.
///
/// # Panics
/// Never. All required fields are set.
#[must_use]
pub fn execution(
    name: &str,
    cache: &str,
    status: ExecutionStatus,
    started_at: i64,
) -> DescribeExecutionOutput {
    DescribeExecutionOutput::builder()
        .execution_arn(execution_arn(name))
        .state_machine_arn(STATE_MACHINE_ARN)
        .name(name)
        .status(status)
        .start_date(DateTime::from_secs(started_at))
        .input(json!({"cache": cache}).to_string())
        .build()
        .expect("all required fields are set")
}

/// Returns the result of a command.
#[must_use]
pub fn command_output(
    status: CommandInvocationStatus,
    exit_code: i32,
    stdout: &str,
) -> GetCommandInvocationOutput {
    GetCommandInvocationOutput::builder()
        .status_details(status.as_str())
        .status(status)
        .response_code(exit_code)
        .standard_output_content(stdout)
        .build()
}
