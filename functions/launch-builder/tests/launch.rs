//! Tests of launch-builder against mocked answers of EC2.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_smithy_mocks::{Rule, mock};
use launch_builder::{Settings, handle};
use prepull_aws::ec2::Client;
use prepull_aws::ec2::error::ErrorMetadata;
use prepull_aws::ec2::operation::run_instances::{
    RunInstancesError, RunInstancesInput, RunInstancesOutput,
};
use prepull_aws::ec2::operation::terminate_instances::TerminateInstancesOutput;
use prepull_aws::ec2::types::{
    HttpTokensState, Instance, InstanceMetadataOptionsRequest, InstanceStateName, InstanceType,
    ShutdownBehavior, StateReason,
};
use prepull_aws::{Clients, DateTime, Deadline};
use prepull_domain::StageError;
use prepull_domain::build::payload::{Base, Builder, DiskUsage, LaunchInput, Target};
use prepull_testing::{Mocks, builder, described, ec2_instance, target};

async fn launch(clients: &Clients, target: Target) -> Result<Builder, StageError> {
    let settings = Settings {
        instance_profile_arn: "arn:aws:iam::123456789012:instance-profile/prepull-builder".into(),
    };
    let deadline = Deadline::after(Duration::from_mins(1));
    handle(clients, &settings, LaunchInput { target }, deadline).await
}

/// Returns a rule that finds no instance by tag.
fn none_found() -> Rule {
    mock!(Client::describe_instances)
        .match_requests(|request| request.instance_ids().is_empty())
        .then_output(|| described([]))
}

/// Returns a rule that finds the builder by tag.
fn one_found() -> Rule {
    mock!(Client::describe_instances)
        .match_requests(|request| request.instance_ids().is_empty())
        .then_output(|| described([ec2_instance(InstanceStateName::Pending)]))
}

/// Returns a rule that finds the builder by tag from the second request on.
fn found_late() -> Rule {
    mock!(Client::describe_instances)
        .match_requests(|request| request.instance_ids().is_empty())
        .sequence()
        .output(|| described([]))
        .output(|| described([ec2_instance(InstanceStateName::Pending)]))
        .repeatedly()
        .build()
}

/// Returns a rule that describes the instance in `state` if the request contains its ID.
fn is(state: InstanceStateName) -> Rule {
    mock!(Client::describe_instances)
        .match_requests(|request| !request.instance_ids().is_empty())
        .then_output(move || {
            let mut instance = ec2_instance(state.clone());
            instance.state_reason = Some(
                StateReason::builder()
                    .code("Client.InternalError")
                    .message("Client.InternalError: Client error on launch")
                    .build(),
            );
            described([instance])
        })
}

fn launches() -> Rule {
    mock!(Client::run_instances).then_output(|| {
        RunInstancesOutput::builder()
            .instances(ec2_instance(InstanceStateName::Pending))
            .build()
    })
}

fn refuses(code: &'static str, message: &'static str) -> Rule {
    mock!(Client::run_instances).then_error(move || error(code, message))
}

fn error(code: &str, message: &str) -> RunInstancesError {
    RunInstancesError::generic(ErrorMetadata::builder().code(code).message(message).build())
}

/// Returns a rule that records each request and succeeds, and the recorded requests.
fn recorder() -> (Rule, Arc<Mutex<Vec<RunInstancesInput>>>) {
    let requests = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&requests);
    let rule = mock!(Client::run_instances)
        .match_requests(move |request| {
            kept.lock().unwrap().push(request.clone());
            true
        })
        .then_output(|| {
            RunInstancesOutput::builder()
                .instances(ec2_instance(InstanceStateName::Pending))
                .build()
        });
    (rule, requests)
}

#[tokio::test]
async fn launch_returns_the_running_builder() {
    let clients = Mocks::new()
        .ec2([none_found(), is(InstanceStateName::Running), launches()])
        .clients();
    assert_eq!(launch(&clients, target()).await, Ok(builder()));
}

#[tokio::test]
async fn existing_builder_is_reused() {
    // No rule for RunInstances: a call would fail the test.
    let clients = Mocks::new()
        .ec2([one_found(), is(InstanceStateName::Running)])
        .clients();
    assert_eq!(launch(&clients, target()).await, Ok(builder()));
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
    let both = mock!(Client::describe_instances)
        .match_requests(|request| request.instance_ids().is_empty())
        .sequence()
        .output(|| described([]))
        .output(|| described([ec2_instance(InstanceStateName::Running), older()]))
        .output(|| described([older()]))
        .build();
    let look = mock!(Client::describe_instances)
        .match_requests(|request| !request.instance_ids().is_empty())
        .then_compute_output(|request| {
            let ours = ec2_instance(InstanceStateName::Running);
            let asked = request.instance_ids().first().cloned();
            described(
                [ours, older()]
                    .into_iter()
                    .filter(|one| one.instance_id == asked),
            )
        });
    let ended = mock!(Client::terminate_instances)
        .match_requests(|request| request.instance_ids() == [builder().instance_id.as_str()])
        .then_output(|| TerminateInstancesOutput::builder().build());
    let clients = Mocks::new()
        .ec2([both, look, launches(), ended.clone()])
        .clients();
    let taken = launch(&clients, target()).await.unwrap();
    assert_eq!(Some(taken.instance_id.as_str()), older().instance_id());
    assert_eq!(ended.num_calls(), 1);
}

#[tokio::test]
async fn full_capacity_pool_falls_through_to_the_next() {
    let full = mock!(Client::run_instances)
        .match_requests(|request| {
            request.subnet_id() == Some("subnet-0123456789abcdef0")
                || request.instance_type().map(InstanceType::as_str) == Some("m7i.2xlarge")
        })
        .then_error(|| error("InsufficientInstanceCapacity", "none left"));
    let (rule, requests) = recorder();
    let clients = Mocks::new()
        .ec2([none_found(), is(InstanceStateName::Running), full, rule])
        .clients();
    launch(&clients, target()).await.unwrap();

    let requests = requests.lock().unwrap();
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].subnet_id(), Some("subnet-0123456789abcdef1"));
    assert_eq!(
        requests[0].instance_type().map(InstanceType::as_str),
        Some("m6i.2xlarge")
    );
}

#[tokio::test]
async fn capacity_error_lists_every_capacity_pool() {
    let clients = Mocks::new()
        .ec2([none_found(), refuses("Unsupported", "not in this zone")])
        .clients();
    let error = launch(&clients, target()).await.unwrap_err();
    let StageError::CapacityUnavailable { tried } = error else {
        panic!("{error}");
    };
    assert_eq!(tried.matches("Unsupported").count(), 4, "{tried}");
    assert!(
        tried.contains("m6i.2xlarge in subnet-0123456789abcdef1"),
        "{tried}"
    );
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
        let clients = Mocks::new()
            .ec2([none_found(), refuses(code, message)])
            .clients();
        let error = launch(&clients, target).await.unwrap_err();
        assert_eq!(error.name(), name, "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[tokio::test]
async fn earlier_launch_with_other_user_data_is_reused() {
    let clients = Mocks::new()
        .ec2([
            found_late(),
            is(InstanceStateName::Running),
            refuses("IdempotentParameterMismatch", "other parameters"),
        ])
        .clients();
    assert_eq!(launch(&clients, target()).await, Ok(builder()));
}

#[tokio::test]
async fn several_earlier_launches_yield_the_youngest() {
    // The instance of an attempt on a broken base, which is terminated.
    let mut ended = older();
    ended.state = ec2_instance(InstanceStateName::Terminated).state;
    let found = mock!(Client::describe_instances)
        .match_requests(|request| request.instance_ids().is_empty())
        .sequence()
        .output(|| described([]))
        .output(move || described([ec2_instance(InstanceStateName::Pending), ended.clone()]))
        .output(|| described([ec2_instance(InstanceStateName::Running)]))
        .repeatedly()
        .build();
    let clients = Mocks::new()
        .ec2([
            found,
            is(InstanceStateName::Running),
            refuses("IdempotentParameterMismatch", "other parameters"),
        ])
        .clients();
    assert_eq!(launch(&clients, target()).await, Ok(builder()));
}

#[tokio::test(start_paused = true)]
async fn unlisted_earlier_launch_fails_after_a_while() {
    let clients = Mocks::new()
        .ec2([
            none_found(),
            refuses("IdempotentParameterMismatch", "other parameters"),
        ])
        .clients();
    let error = launch(&clients, target()).await.unwrap_err();
    assert_eq!(error.name(), "AwsFailed", "{error}");
}

#[tokio::test]
async fn immediate_termination_fails_with_the_reason() {
    let clients = Mocks::new()
        .ec2([none_found(), is(InstanceStateName::Terminated), launches()])
        .clients();
    let error = launch(&clients, target()).await.unwrap_err();
    assert_eq!(error.name(), "BuilderLost");
    assert!(
        error.to_string().contains("Client error on launch"),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn terminated_earlier_launch_is_lost() {
    let clients = Mocks::new()
        .ec2([
            found_late(),
            is(InstanceStateName::Terminated),
            refuses("IdempotentInstanceTerminated", "it has ended"),
        ])
        .clients();
    let error = launch(&clients, target()).await.unwrap_err();
    assert_eq!(error.name(), "BuilderLost", "{error}");
}

#[tokio::test]
async fn client_token_depends_only_on_the_target() {
    let mut other = target();
    other.execution = "web-11".parse().unwrap();
    let mut tokens = Vec::new();
    for target in [target(), target(), other] {
        let (rule, requests) = recorder();
        let clients = Mocks::new()
            .ec2([none_found(), is(InstanceStateName::Running), rule])
            .clients();
        launch(&clients, target).await.unwrap();
        let token = requests.lock().unwrap()[0].client_token.clone().unwrap();
        assert!(token.len() <= 64, "EC2 takes no longer one: {token}");
        tokens.push(token);
    }
    assert_eq!(tokens[0], tokens[1]);
    assert_ne!(tokens[0], tokens[2]);
}

#[tokio::test]
async fn request_sets_tags_encryption_and_stop_on_power_off() {
    let (rule, requests) = recorder();
    let clients = Mocks::new()
        .ec2([none_found(), is(InstanceStateName::Running), rule])
        .clients();
    launch(&clients, target()).await.unwrap();

    let request = &requests.lock().unwrap()[0];
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
