//! Tests of create-snapshot with builders and snapshots in every state.

use std::time::Duration;

use aws_smithy_mocks::{Rule, mock};
use create_snapshot::{Settings, handle};
use jiff::Timestamp;
use prepull_aws::ec2::Client;
use prepull_aws::ec2::operation::create_snapshot::CreateSnapshotOutput;
use prepull_aws::ec2::operation::create_tags::CreateTagsOutput;
use prepull_aws::ec2::operation::describe_snapshots::DescribeSnapshotsOutput;
use prepull_aws::ec2::types::{
    Instance, InstanceStateName, Snapshot as Ec2Snapshot, SnapshotState, StateReason,
};
use prepull_aws::ssm::operation::list_command_invocations::ListCommandInvocationsOutput;
use prepull_aws::ssm::operation::send_command::SendCommandOutput;
use prepull_aws::ssm::types::{CommandInvocation, CommandInvocationStatus};
use prepull_aws::{DateTime, Deadline, tag};
use prepull_domain::build::payload::{BuilderInput, Snapshot, Target};
use prepull_domain::{GiB, StageError};
use prepull_testing::{Mocks, builder, described, ec2_instance, target};

const OLDER: &str = "snap-00000000000000001";
const YOUNGER: &str = "snap-00000000000000002";

fn snapshot(id: &str, state: SnapshotState) -> Ec2Snapshot {
    let second = if id == OLDER { 100 } else { 200 };
    Ec2Snapshot::builder()
        .snapshot_id(id)
        .state(state)
        .state_message("the volume could not be read")
        .start_time(DateTime::from_secs(second))
        .completion_time(DateTime::from_secs(900))
        .volume_size(50)
        .build()
}

fn listed(snapshots: impl IntoIterator<Item = Ec2Snapshot>) -> DescribeSnapshotsOutput {
    DescribeSnapshotsOutput::builder()
        .set_snapshots(Some(snapshots.into_iter().collect()))
        .build()
}

/// Returns a rule that lists `snapshots`.
fn exist(snapshots: Vec<Ec2Snapshot>) -> Rule {
    mock!(Client::describe_snapshots).then_output(move || listed(snapshots.clone()))
}

/// Returns a rule that lists no snapshot, then a pending one, then the same completed.
fn appears() -> Rule {
    mock!(Client::describe_snapshots)
        .sequence()
        .output(|| listed([]))
        .output(|| listed([snapshot(OLDER, SnapshotState::Pending)]))
        .output(|| listed([snapshot(OLDER, SnapshotState::Completed)]))
        .build()
}

fn is_made() -> Rule {
    mock!(Client::create_snapshot)
        .match_requests(|request| request.volume_id() == Some("vol-0123456789abcdef0"))
        .then_output(|| CreateSnapshotOutput::builder().build())
}

/// Returns a rule that accepts the tag `prepull:state` = `state` for the snapshot `id`.
fn marks(id: &'static str, state: &'static str) -> Rule {
    mock!(Client::create_tags)
        .match_requests(move |request| {
            request.resources() == [id] && request.tags() == [tag("prepull:state", state)]
        })
        .then_output(|| CreateTagsOutput::builder().build())
}

fn instance(state: InstanceStateName, reason: &str) -> Instance {
    let mut instance = ec2_instance(state);
    instance.state_reason = Some(StateReason::builder().code(reason).message(reason).build());
    instance
}

fn instance_is(state: InstanceStateName, reason: &'static str) -> Rule {
    mock!(Client::describe_instances)
        .then_output(move || described([instance(state.clone(), reason)]))
}

const POWERED_OFF: &str = "Client.InstanceInitiatedShutdown";

/// Returns a rule by which the builder runs, then stops, then is stopped.
fn instance_powers_off() -> Rule {
    mock!(Client::describe_instances)
        .sequence()
        .output(|| described([instance(InstanceStateName::Running, "")]))
        .output(|| described([instance(InstanceStateName::Running, "")]))
        .output(|| described([instance(InstanceStateName::Stopping, POWERED_OFF)]))
        .output(|| described([instance(InstanceStateName::Stopped, POWERED_OFF)]))
        .build()
}

fn sent(status: CommandInvocationStatus, at: Timestamp) -> ListCommandInvocationsOutput {
    ListCommandInvocationsOutput::builder()
        .command_invocations(
            CommandInvocation::builder()
                .document_name("prepull-power-off")
                .status(status)
                .requested_date_time(DateTime::from_secs(at.as_second()))
                .build(),
        )
        .build()
}

fn was_told(status: CommandInvocationStatus, at: Timestamp) -> Rule {
    use prepull_aws::ssm::Client;
    mock!(Client::list_command_invocations).then_output(move || sent(status.clone(), at))
}

fn was_never_told() -> Rule {
    use prepull_aws::ssm::Client;
    mock!(Client::list_command_invocations)
        .then_output(|| ListCommandInvocationsOutput::builder().build())
}

/// Returns rules by which Systems Manager lists no command at first, and one after it was sent.
fn is_told_once() -> (Rule, Rule) {
    use prepull_aws::ssm::Client;
    let list = mock!(Client::list_command_invocations)
        .sequence()
        .output(|| ListCommandInvocationsOutput::builder().build())
        .output(|| sent(CommandInvocationStatus::InProgress, Timestamp::now()))
        .output(|| sent(CommandInvocationStatus::Success, Timestamp::now()))
        .build();
    let send = mock!(Client::send_command)
        .match_requests(|request| request.document_name() == Some("prepull-power-off"))
        .then_output(|| SendCommandOutput::builder().build());
    (list, send)
}

async fn make(mocks: Mocks) -> Result<Snapshot, StageError> {
    make_of(target(), mocks).await
}

async fn make_of(target: Target, mocks: Mocks) -> Result<Snapshot, StageError> {
    let input = BuilderInput {
        target,
        builder: builder(),
    };
    let settings = Settings {
        name: "prepull".into(),
    };
    let deadline = Deadline::after(Duration::from_mins(1));
    handle(&mocks.clients(), &settings, input, deadline).await
}

fn good() -> Snapshot {
    Snapshot {
        snapshot_id: OLDER.parse().unwrap(),
        volume_size: GiB(50),
        started_at: Timestamp::from_second(100).unwrap(),
        completed_at: Timestamp::from_second(900).unwrap(),
    }
}

#[tokio::test(start_paused = true)]
async fn running_builder_powers_off_once_before_the_snapshot() {
    let (list, send) = is_told_once();
    let mocks = Mocks::new()
        .ec2([
            appears(),
            instance_powers_off(),
            is_made(),
            marks(OLDER, "verified"),
        ])
        .ssm([list, send.clone()]);
    assert_eq!(make(mocks).await, Ok(good()));
    assert_eq!(send.num_calls(), 1);
}

#[tokio::test]
async fn existing_snapshot_is_reused() {
    let mocks = Mocks::new().ec2([
        exist(vec![snapshot(OLDER, SnapshotState::Completed)]),
        marks(OLDER, "verified"),
    ]);
    assert_eq!(make(mocks).await, Ok(good()));
}

#[tokio::test]
async fn published_snapshot_keeps_its_state() {
    let mut published = snapshot(OLDER, SnapshotState::Completed);
    published.tags = Some(vec![tag("prepull:state", "published")]);
    let mocks = Mocks::new().ec2([exist(vec![published])]);
    assert_eq!(make(mocks).await, Ok(good()));
}

#[tokio::test]
async fn duplicate_snapshots_converge_on_the_oldest() {
    let rejects = marks(YOUNGER, "rejected");
    let mocks = Mocks::new().ec2([
        exist(vec![
            snapshot(YOUNGER, SnapshotState::Completed),
            snapshot(OLDER, SnapshotState::Completed),
        ]),
        rejects.clone(),
        marks(OLDER, "verified"),
    ]);
    assert_eq!(make(mocks).await, Ok(good()));
    assert_eq!(rejects.num_calls(), 1);
}

#[tokio::test]
async fn verified_snapshot_takes_precedence_over_an_older_one() {
    for state in ["verified", "published"] {
        let mut verified = snapshot(YOUNGER, SnapshotState::Completed);
        verified.tags = Some(vec![tag("prepull:state", state)]);
        let rejects = marks(OLDER, "rejected");
        let mocks = Mocks::new().ec2([
            exist(vec![snapshot(OLDER, SnapshotState::Completed), verified]),
            rejects.clone(),
        ]);
        let taken = make(mocks).await.unwrap();
        assert_eq!(taken.snapshot_id.as_str(), YOUNGER);
        assert_eq!(rejects.num_calls(), 1);
    }
}

#[tokio::test]
async fn failed_snapshot_is_rejected() {
    let rejects = marks(OLDER, "rejected");
    let mocks = Mocks::new().ec2([
        exist(vec![snapshot(OLDER, SnapshotState::Error)]),
        rejects.clone(),
    ]);
    let error = make(mocks).await.unwrap_err();
    assert_eq!(error.name(), "SnapshotFailed");
    assert!(error.to_string().contains("could not be read"), "{error}");
    assert_eq!(rejects.num_calls(), 1);
}

#[tokio::test]
async fn builder_without_clean_power_off_is_not_snapshotted() {
    // No rule for CreateSnapshot: a call would fail the test.
    let told = || was_told(CommandInvocationStatus::Success, Timestamp::now());
    for (reason, told) in [
        ("Client.UserInitiatedShutdown", told()),
        ("Server.InternalError", told()),
        ("", told()),
        (POWERED_OFF, was_never_told()),
    ] {
        let mocks = Mocks::new()
            .ec2([
                exist(vec![]),
                instance_is(InstanceStateName::Stopped, reason),
            ])
            .ssm([told]);
        let error = make(mocks).await.unwrap_err();
        assert_eq!(error.name(), "SnapshotFailed", "{reason}");
        assert!(error.to_string().contains("may hold secrets"), "{error}");
    }
}

#[tokio::test]
async fn running_builder_fails_after_the_power_off_timeout() {
    let long_ago = Timestamp::now() - jiff::SignedDuration::from_mins(4);
    let mocks = Mocks::new()
        .ec2([exist(vec![]), instance_is(InstanceStateName::Running, "")])
        .ssm([was_told(CommandInvocationStatus::Success, long_ago)]);
    let error = make(mocks).await.unwrap_err();
    assert_eq!(error.name(), "SnapshotFailed");
    assert!(
        error.to_string().contains("did not power itself off"),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn unreachable_builder_fails_at_the_build_deadline() {
    let no_agent = || {
        use prepull_aws::ssm::Client;
        use prepull_aws::ssm::error::ErrorMetadata;
        use prepull_aws::ssm::operation::send_command::SendCommandError;
        mock!(Client::send_command).then_error(|| {
            SendCommandError::generic(ErrorMetadata::builder().code("InvalidInstanceId").build())
        })
    };
    let world = || {
        Mocks::new()
            .ec2([exist(vec![]), instance_is(InstanceStateName::Running, "")])
            .ssm([was_never_told(), no_agent()])
    };
    assert_eq!(make(world()).await.unwrap_err().name(), "StillRunning");
    let mut late = target();
    late.give_up_at = late.planned_at;
    let error = make_of(late, world()).await.unwrap_err();
    assert_eq!(error.name(), "SnapshotFailed");
    assert!(error.to_string().contains("still running"), "{error}");
}

#[tokio::test]
async fn terminated_builder_is_lost() {
    let mocks = Mocks::new().ec2([
        exist(vec![]),
        instance_is(
            InstanceStateName::Terminated,
            "Client.UserInitiatedShutdown",
        ),
    ]);
    assert_eq!(make(mocks).await.unwrap_err().name(), "BuilderLost");
}
