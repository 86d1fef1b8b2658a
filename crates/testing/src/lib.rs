//! Helpers that the tests of the stages share: SDK clients that answer by rule, and a target.

mod parameters;

use aws_smithy_mocks::{MockResponseInterceptor, Rule, RuleMode, create_mock_http_client};
use jiff::Timestamp;
use prepull_aws::{Clients, ec2, ecr, eventbridge, secretsmanager, sfn, ssm};
use prepull_domain::build::payload::{Builder, Target};
use serde_json::{Value, json};

pub use parameters::ParameterStore;

/// Rules for the answers of mocked clients. A call without a matching rule fails the test.
#[derive(Debug, Default)]
pub struct Mocks {
    ec2: Vec<Rule>,
    ecr: Vec<Rule>,
    events: Vec<Rule>,
    secrets: Vec<Rule>,
    sfn: Vec<Rule>,
    ssm: Vec<Rule>,
}

/// A client of one service. Any matching rule answers, in any order.
macro_rules! client {
    ($service:ident, $rules:expr) => {{
        let mut interceptor = MockResponseInterceptor::new().rule_mode(RuleMode::MatchAny);
        for rule in &$rules {
            interceptor = interceptor.with_rule(rule);
        }
        $service::Client::from_conf(
            $service::Config::builder()
                .behavior_version($service::config::BehaviorVersion::latest())
                .region($service::config::Region::new("eu-west-1"))
                .credentials_provider($service::config::Credentials::new(
                    "test", "test", None, None, "test",
                ))
                .retry_config($service::config::retry::RetryConfig::disabled())
                .http_client(create_mock_http_client())
                .interceptor(interceptor)
                .build(),
        )
    }};
}

/// Declares the methods that add a service's rules.
macro_rules! services {
    ($($name:ident),*) => {
        impl Mocks {
            $(
                #[doc = concat!("Adds rules for `", stringify!($name), "`; the first that matches answers.")]
                #[must_use]
                pub fn $name(mut self, rules: impl IntoIterator<Item = Rule>) -> Self {
                    self.$name.extend(rules);
                    self
                }
            )*
        }
    };
}
services!(ec2, ecr, events, secrets, sfn, ssm);

impl Mocks {
    /// Creates mocks without rules, so every call fails the test.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The clients.
    #[must_use]
    pub fn clients(self) -> Clients {
        Clients::for_tests(
            client!(ec2, self.ec2),
            client!(ecr, self.ecr),
            client!(eventbridge, self.events),
            client!(secretsmanager, self.secrets),
            client!(sfn, self.sfn),
            client!(ssm, self.ssm),
        )
    }
}

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
        "registry_credentials": {},
        "parallel_pulls": 4,
        "retain_snapshots": 3,
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
        "timeout_minutes": 60,
        "rebuild_on_push": true,
        "publication": {"share_with_accounts": [], "copy_to_regions": []}
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

/// Returns the instance of [`builder`] in `state`, as EC2 describes it.
#[must_use]
pub fn ec2_instance(state: ec2::types::InstanceStateName) -> ec2::types::Instance {
    use ec2::types::{EbsInstanceBlockDevice, Instance, InstanceBlockDeviceMapping, InstanceState};

    let builder = builder();
    let data_volume = EbsInstanceBlockDevice::builder()
        .volume_id("vol-0123456789abcdef0")
        .build();
    Instance::builder()
        .instance_id(builder.instance_id.as_str())
        .instance_type(builder.instance_type.as_str().into())
        .launch_time(prepull_aws::DateTime::from_secs(
            builder.launched_at.as_second(),
        ))
        .state(InstanceState::builder().name(state).build())
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
pub fn described(
    instances: impl IntoIterator<Item = ec2::types::Instance>,
) -> ec2::operation::describe_instances::DescribeInstancesOutput {
    let reservation = ec2::types::Reservation::builder()
        .set_instances(Some(instances.into_iter().collect()))
        .build();
    ec2::operation::describe_instances::DescribeInstancesOutput::builder()
        .reservations(reservation)
        .build()
}
