//! Tests of launch-builder against mocked answers of EC2.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_smithy_mocks::{Rule, mock};
use launch_builder::{Settings, handle};
use prepull_aws::ec2::Client;
use prepull_aws::ec2::types::{
    HttpTokensState, Instance, InstanceMetadataOptionsRequest, InstanceStateName, InstanceType,
    ShutdownBehavior, StateReason,
};
use prepull_aws::{DateTime, Deadline, tag, tag_value};
use prepull_domain::StageError;
use prepull_domain::build::payload::{Base, Builder, DiskUsage, LaunchInput, Target};
use prepull_testing::{FakeAws, builder, described, ec2_instance, target};
use serde_json::json;

async fn launch(aws: &FakeAws, target: Target) -> Result<Builder, StageError> {
    let settings = Settings {
        instance_profile_arn: "arn:aws:iam::123456789012:instance-profile/prepull-builder".into(),
    };
    let deadline = Deadline::after(Duration::from_mins(1));
    handle(&aws.clients(), &settings, LaunchInput { target }, deadline).await
}

/// Returns a rule by which EC2 does not list the builder at first.
fn found_late() -> Rule {
    mock!(Client::describe_instances)
        .match_requests(|request| request.instance_ids().is_empty())
        .sequence()
        .output(|| described([]))
        .build()
}

/// Returns a rule that describes the instance as terminated for the reason `code` if the request contains its ID.
fn is_terminated(code: &'static str) -> Rule {
    mock!(Client::describe_instances)
        .match_requests(|request| !request.instance_ids().is_empty())
        .then_output(move || {
            let mut instance = ec2_instance(InstanceStateName::Terminated);
            instance.state_reason = Some(
                StateReason::builder()
                    .code(code)
                    .message(format!("{code}: error on launch"))
                    .build(),
            );
            described([instance])
        })
}

/// Returns an AWS in which an earlier call has launched an instance with other parameters.
fn earlier_launch(code: &str) -> FakeAws {
    FakeAws::new()
        .with_capacity()
        .with_instances([ec2_instance(InstanceStateName::Running)])
        .failing("ec2:RunInstances", code)
}

#[tokio::test]
async fn launch_returns_the_running_builder() {
    let aws = FakeAws::new().with_capacity();
    let launched = launch(&aws, target()).await.unwrap();
    assert_eq!(launched, builder());
    assert_eq!(
        aws.writes(),
        ["ec2:RunInstances m7i.2xlarge subnet-0123456789abcdef0"]
    );
}

#[tokio::test]
async fn existing_builder_is_reused() {
    // No answer for RunInstances: a call would fail the test.
    let aws = FakeAws::new().with_instances([ec2_instance(InstanceStateName::Running)]);
    assert_eq!(launch(&aws, target()).await, Ok(builder()));
}

#[tokio::test]
async fn builder_with_other_settings_is_replaced() {
    let mut outdated = older();
    for tag in outdated.tags.get_or_insert_default() {
        if tag.key() == Some("prepull:launch-key") {
            tag.value = Some("another".to_owned());
        }
    }
    let aws = FakeAws::new().with_capacity().with_instances([outdated]);
    assert_eq!(launch(&aws, target()).await, Ok(builder()));
    assert_eq!(
        aws.writes(),
        [
            "ec2:TerminateInstances i-00000000000000001",
            "ec2:RunInstances m7i.2xlarge subnet-0123456789abcdef0"
        ]
    );
}

#[tokio::test]
async fn verifier_is_never_taken_for_a_builder() {
    let mut verifier = older();
    let subject = "snap-0123456789abcdef0 on 1.57.0";
    let tags = verifier.tags.get_or_insert_default();
    tags.retain(|tag| tag.key() != Some("prepull:launch-key"));
    tags.push(tag("prepull:verifies", subject));
    let aws = FakeAws::new().with_capacity().with_instances([verifier]);
    assert_eq!(launch(&aws, target()).await, Ok(builder()));
    assert_eq!(aws.launches().len(), 1);
}

/// Returns an older instance, from a concurrent call of the stage.
fn older() -> Instance {
    let mut older = ec2_instance(InstanceStateName::Running);
    older.instance_id = Some("i-00000000000000001".to_owned());
    older.launch_time = Some(DateTime::from_secs(0));
    older
}

#[tokio::test]
async fn concurrent_launches_converge_on_the_oldest_builder() {
    let unlisted = mock!(Client::describe_instances)
        .sequence()
        .output(|| described([]))
        .build();
    let aws = FakeAws::new()
        .with_capacity()
        .with_instances([older()])
        .ec2([unlisted]);
    let taken = launch(&aws, target()).await.unwrap();
    assert_eq!(Some(taken.instance_id.as_str()), older().instance_id());
    assert_eq!(
        aws.calls("ec2:TerminateInstances"),
        [builder().instance_id.as_str()]
    );
}

#[tokio::test]
async fn full_capacity_pool_falls_through_to_the_next() {
    let full = "InsufficientInstanceCapacity";
    let aws = FakeAws::new()
        .with_capacity()
        .failing("ec2:RunInstances m7i.2xlarge", full)
        .failing(
            "ec2:RunInstances m6i.2xlarge subnet-0123456789abcdef0",
            full,
        );
    launch(&aws, target()).await.unwrap();

    let launches = aws.launches();
    assert_eq!(launches.len(), 1);
    assert_eq!(launches[0].subnet_id(), Some("subnet-0123456789abcdef1"));
    assert_eq!(
        launches[0].instance_type().map(InstanceType::as_str),
        Some("m6i.2xlarge")
    );
}

#[tokio::test]
async fn capacity_error_lists_every_capacity_pool() {
    let aws = FakeAws::new()
        .with_capacity()
        .failing("ec2:RunInstances", "Unsupported");
    let error = launch(&aws, target()).await.unwrap_err();
    let StageError::CapacityUnavailable { tried } = error else {
        panic!("{error}");
    };
    assert_eq!(tried.matches(": Unsupported: ").count(), 4, "{tried}");
    assert!(
        tried.contains("m6i.2xlarge in subnet-0123456789abcdef1"),
        "{tried}"
    );
}

#[tokio::test]
async fn type_over_its_quota_falls_through_to_the_next() {
    for (code, message) in [
        ("VcpuLimitExceeded", "limit of 5"),
        ("InstanceLimitExceeded", "limit of 0"),
        ("InvalidParameterCombination", "not eligible for Free Tier"),
    ] {
        let aws = FakeAws::new().with_capacity().failing_with(
            "ec2:RunInstances m7i.2xlarge",
            code,
            message,
        );
        let builder = launch(&aws, target()).await.unwrap();
        assert_eq!(builder.instance_type, "m6i.2xlarge");
        // The quota applies to every subnet.
        assert_eq!(aws.calls("ec2:RunInstances").len(), 2, "{code}");
    }
}

#[tokio::test]
async fn last_obstacle_decides_the_error_and_all_are_listed() {
    let capacity = ("InsufficientInstanceCapacity", "none left");
    let quota = ("VcpuLimitExceeded", "limit of 5");
    let plan = ("InvalidParameterCombination", "not eligible for Free Tier");
    for (first, last, name) in [
        (capacity, quota, "QuotaExceeded"),
        (quota, capacity, "CapacityUnavailable"),
        (quota, plan, "AccountRestricted"),
    ] {
        let aws = FakeAws::new()
            .with_capacity()
            .failing_with("ec2:RunInstances m7i.2xlarge", first.0, first.1)
            .failing_with("ec2:RunInstances m6i.2xlarge", last.0, last.1);
        let error = launch(&aws, target()).await.unwrap_err();
        assert_eq!(error.name(), name, "{error}");
        let text = error.to_string();
        for part in ["m7i.2xlarge in", first.1, "m6i.2xlarge in", last.1] {
            assert!(text.contains(part), "{text}");
        }
    }
}

#[tokio::test]
async fn zone_without_volume_capacity_falls_through_to_the_next() {
    let aws = FakeAws::new().with_capacity().failing(
        "ec2:RunInstances m7i.2xlarge subnet-0123456789abcdef0",
        "InsufficientVolumeCapacity",
    );
    launch(&aws, target()).await.unwrap();
    let subnet = aws.launches()[0].subnet_id().map(ToOwned::to_owned);
    assert_eq!(subnet.as_deref(), Some("subnet-0123456789abcdef1"));
}

#[tokio::test]
async fn error_for_every_capacity_pool_ends_the_search() {
    for (code, name) in [
        ("PendingVerification", "AccountRestricted"),
        ("OptInRequired", "AccountRestricted"),
        ("VolumeLimitExceeded", "QuotaExceeded"),
        ("MaxIOPSLimitExceeded", "QuotaExceeded"),
    ] {
        let aws = FakeAws::new().with_capacity().failing_with(
            "ec2:RunInstances",
            code,
            "see the console",
        );
        let error = launch(&aws, target()).await.unwrap_err();
        assert_eq!(error.name(), name, "{error}");
        assert!(error.to_string().contains("see the console"), "{error}");
        assert_eq!(aws.calls("ec2:RunInstances").len(), 1, "{code}");
    }
}

#[tokio::test]
async fn ec2_errors_map_to_stage_errors() {
    let mut smaller = target();
    smaller.base = Base::Snapshot {
        snapshot_id: "snap-0123456789abcdef0".parse().unwrap(),
        fresh: DiskUsage::default(),
    };
    for (target, code, message, name, words) in [
        (
            target(),
            "VcpuLimitExceeded",
            "limit of 8",
            "QuotaExceeded",
            "limit of 8",
        ),
        (
            target(),
            "InvalidSubnetID.NotFound",
            "no such subnet",
            "InvalidConfig",
            "no such subnet",
        ),
        (
            smaller,
            "InvalidBlockDeviceMapping",
            "Volume of size 50GB is smaller than snapshot 'snap-0123456789abcdef0', expect size >= 80GB",
            "InvalidConfig",
            "`volume.size_gib` is 50",
        ),
        (
            target(),
            "UnauthorizedOperation",
            "no",
            "AccessDenied",
            "ec2:RunInstances",
        ),
        (
            target(),
            "RequestLimitExceeded",
            "slow down",
            "Throttled",
            "slow down",
        ),
    ] {
        let aws = FakeAws::new()
            .with_capacity()
            .failing_with("ec2:RunInstances", code, message);
        let error = launch(&aws, target).await.unwrap_err();
        assert_eq!(error.name(), name, "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[tokio::test]
async fn earlier_launch_with_other_user_data_is_reused() {
    let aws = earlier_launch("IdempotentParameterMismatch").ec2([found_late()]);
    assert_eq!(launch(&aws, target()).await, Ok(builder()));
}

#[tokio::test]
async fn several_earlier_launches_yield_the_youngest() {
    // The instance of an attempt on a broken base, which is terminated.
    let mut ended = older();
    ended.state = ec2_instance(InstanceStateName::Terminated).state;
    let aws = earlier_launch("IdempotentParameterMismatch")
        .with_instances([ended])
        .ec2([found_late()]);
    assert_eq!(launch(&aws, target()).await, Ok(builder()));
}

#[tokio::test(start_paused = true)]
async fn unlisted_earlier_launch_fails_after_a_while() {
    let aws = FakeAws::new()
        .with_capacity()
        .failing("ec2:RunInstances", "IdempotentParameterMismatch");
    let error = launch(&aws, target()).await.unwrap_err();
    assert_eq!(error.name(), "AwsFailed", "{error}");
}

#[tokio::test]
async fn immediate_termination_fails_with_the_reason() {
    for (code, name) in [
        ("Client.InternalError", "KeyUnusable"),
        ("Server.InternalError", "BuilderLost"),
    ] {
        let aws = FakeAws::new().with_capacity().ec2([is_terminated(code)]);
        let error = launch(&aws, target()).await.unwrap_err();
        assert_eq!(error.name(), name, "{error}");
        let reason = format!("{code}: error on launch");
        assert!(error.to_string().contains(&reason), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn terminated_earlier_launch_is_lost() {
    let aws = earlier_launch("IdempotentInstanceTerminated")
        .ec2([found_late(), is_terminated("Client.UserInitiatedShutdown")]);
    let error = launch(&aws, target()).await.unwrap_err();
    assert_eq!(error.name(), "BuilderLost", "{error}");
}

#[tokio::test]
async fn client_token_depends_only_on_the_target() {
    let mut other = target();
    other.execution = "web-11".parse().unwrap();
    let mut tokens = Vec::new();
    for target in [target(), target(), other] {
        let aws = FakeAws::new().with_capacity();
        launch(&aws, target).await.unwrap();
        let token = aws.launches()[0].client_token.clone().unwrap();
        assert!(token.len() <= 64, "EC2 takes no longer one: {token}");
        tokens.push(token);
    }
    assert_eq!(tokens[0], tokens[1]);
    assert_ne!(tokens[0], tokens[2]);
}

#[tokio::test]
async fn configured_name_replaces_prepulls() {
    let aws = FakeAws::new().with_capacity();
    let mut target = target();
    let tags = BTreeMap::from([("Name".to_owned(), "node cache".to_owned())]);
    target.tags = tags.try_into().unwrap();
    launch(&aws, target).await.unwrap();
    for specification in aws.launches()[0].tag_specifications() {
        let tags = specification.tags().iter();
        let names: Vec<_> = tags.filter(|tag| tag.key() == Some("Name")).collect();
        assert_eq!(names.len(), 1, "{names:?}");
        assert_eq!(names[0].value(), Some("node cache"));
    }
}

#[tokio::test]
async fn user_data_above_16_kib_launches_nothing() {
    let aws = FakeAws::new().with_capacity();
    let mut target = target();
    let line = "a".repeat(64);
    let pem = format!(
        "-----BEGIN CERTIFICATE-----\n{}-----END CERTIFICATE-----\n",
        format!("{line}\n").repeat(200)
    );
    target.builder_settings = serde_json::from_value(json!({ "pki": { "company": pem } })).unwrap();
    let error = launch(&aws, target).await.unwrap_err();
    assert!(matches!(error, StageError::InvalidConfig(_)), "{error}");
    assert!(error.to_string().contains("16384"), "{error}");
    assert!(aws.launches().is_empty());
}

#[tokio::test]
async fn request_sets_tags_encryption_and_stop_on_power_off() {
    let aws = FakeAws::new().with_capacity();
    launch(&aws, target()).await.unwrap();

    let request = &aws.launches()[0];
    for volume in request.block_device_mappings() {
        let volume = volume.ebs().unwrap();
        assert_eq!(volume.encrypted(), Some(true));
        assert_eq!(volume.delete_on_termination(), Some(true));
    }
    let tagged: Vec<_> = request
        .tag_specifications()
        .iter()
        .map(|tags| tags.resource_type().unwrap().as_str())
        .collect();
    assert_eq!(tagged, ["instance", "volume", "network-interface"]);
    for tags in request.tag_specifications() {
        assert_eq!(tag_value(tags.tags(), "team"), Some("platform"));
        assert_eq!(tag_value(tags.tags(), "prepull:cache"), Some("web"));
    }
    assert_eq!(
        request
            .instance_initiated_shutdown_behavior()
            .map(ShutdownBehavior::as_str),
        Some("stop")
    );
    assert_eq!(
        request
            .metadata_options()
            .and_then(InstanceMetadataOptionsRequest::http_tokens)
            .map(HttpTokensState::as_str),
        Some("required")
    );
    assert_eq!(request.key_name(), None);
}

#[tokio::test]
async fn builder_of_an_early_plan_with_other_settings_is_not_used() {
    let aws = FakeAws::new().with_instances([older()]).with_capacity();
    let mut planned = target();
    planned.ami.id = "ami-00000000000000009".parse().unwrap();
    let launched = launch(&aws, planned.clone()).await.unwrap();
    assert_eq!(aws.launches().len(), 1);
    // A repeated call finds the new one.
    assert_eq!(launch(&aws, planned).await, Ok(launched));
    assert_eq!(aws.launches().len(), 1);
}
