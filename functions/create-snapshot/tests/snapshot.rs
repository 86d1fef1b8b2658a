//! Tests of create-snapshot with builders and snapshots in every state.

use std::time::Duration;

use aws_smithy_mocks::{Rule, mock};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use create_snapshot::{Settings, handle};
use jiff::Timestamp;
use prepull_aws::ec2::Client;
use prepull_aws::ec2::error::ErrorMetadata;
use prepull_aws::ec2::operation::create_snapshot::CreateSnapshotOutput;
use prepull_aws::ec2::operation::describe_snapshots::DescribeSnapshotsOutput;
use prepull_aws::ec2::operation::get_console_output::{
    GetConsoleOutputError, GetConsoleOutputOutput,
};
use prepull_aws::ec2::types::{
    Instance, InstanceStateName, Snapshot as Ec2Snapshot, SnapshotState, StateReason,
};
use prepull_aws::ssm::operation::list_command_invocations::ListCommandInvocationsOutput;
use prepull_aws::ssm::types::{
    CommandFilter, CommandInvocation, CommandInvocationStatus, CommandPlugin,
};
use prepull_aws::{DateTime, Deadline, tag, tag_value};
use prepull_domain::build::payload::{BuilderInput, Snapshot, Target};
use prepull_domain::node::Trees;
use prepull_domain::{GiB, StageError, VerificationLevel};
use prepull_testing::{
    FakeAws, builder, command_output, described, ec2_instance, target, target_tags,
};

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
        .set_tags(Some(target_tags()))
        .build()
}

/// Returns a completed snapshot with the tag `prepull:state` = `state`.
fn marked(id: &str, state: &str) -> Ec2Snapshot {
    let mut snapshot = snapshot(id, SnapshotState::Completed);
    let tags = snapshot.tags.get_or_insert_default();
    tags.push(tag("prepull:state", state));
    snapshot
}

fn listed(snapshots: impl IntoIterator<Item = Ec2Snapshot>) -> DescribeSnapshotsOutput {
    DescribeSnapshotsOutput::builder()
        .set_snapshots(Some(snapshots.into_iter().collect()))
        .build()
}

/// Returns a rule that lists no snapshot, and then a pending one.
fn appears() -> Rule {
    mock!(Client::describe_snapshots)
        .sequence()
        .output(|| listed([]))
        .output(|| listed([snapshot(OLDER, SnapshotState::Pending)]))
        .build()
}

fn creates_snapshot() -> Rule {
    mock!(Client::create_snapshot)
        .match_requests(|request| {
            let tags = request.tag_specifications()[0].tags();
            request.volume_id() == Some("vol-0123456789abcdef0")
                && tag_value(tags, "team") == Some("platform")
                && tag_value(tags, "prepull:cache") == Some("web")
        })
        .then_output(|| CreateSnapshotOutput::builder().build())
}

fn instance(state: InstanceStateName, reason: &str) -> Instance {
    let mut instance = ec2_instance(state);
    instance.state_reason = Some(StateReason::builder().code(reason).message(reason).build());
    instance
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

fn power_off_was_sent(status: CommandInvocationStatus, at: Timestamp) -> Rule {
    use prepull_aws::ssm::Client;
    mock!(Client::list_command_invocations)
        .match_requests(|request| {
            let filters = request.filters().iter();
            filters.map(CommandFilter::value).eq(["prepull-power-off"])
        })
        .then_output(move || sent(status.clone(), at))
}

fn power_off_was_never_sent() -> Rule {
    use prepull_aws::ssm::Client;
    mock!(Client::list_command_invocations)
        .then_output(|| ListCommandInvocationsOutput::builder().build())
}

/// Returns a rule that lists no power-off command at first.
fn power_off_is_sent_once() -> Rule {
    use prepull_aws::ssm::Client;
    mock!(Client::list_command_invocations)
        .sequence()
        .output(|| ListCommandInvocationsOutput::builder().build())
        .output(|| sent(CommandInvocationStatus::InProgress, Timestamp::now()))
        .output(|| sent(CommandInvocationStatus::Success, Timestamp::now()))
        .build()
}

async fn create(aws: &FakeAws) -> Result<Snapshot, StageError> {
    create_for(target(), aws).await
}

async fn create_for(target: Target, aws: &FakeAws) -> Result<Snapshot, StageError> {
    let input = BuilderInput {
        target,
        builder: builder(),
    };
    let settings = Settings {
        name: "prepull".into(),
    };
    let deadline = Deadline::after(Duration::from_mins(1));
    handle(&aws.clients(), &settings, input, deadline).await
}

fn created() -> Snapshot {
    Snapshot {
        snapshot_id: OLDER.parse().unwrap(),
        volume_size: GiB(50),
        started_at: Timestamp::from_second(100).unwrap(),
        completed_at: Timestamp::from_second(900).unwrap(),
        trees: None,
    }
}

/// Returns a target whose snapshots are verified.
fn verified_target() -> Target {
    let mut target = target();
    target.verification.level = VerificationLevel::Full;
    target
}

fn trees() -> Trees {
    Trees {
        trees: 7,
        files: 4321,
        digest: "ab".repeat(32).parse().unwrap(),
    }
}

/// Returns a command with the document `fingerprint`.
fn fingerprint(status: CommandInvocationStatus, output: &str) -> ListCommandInvocationsOutput {
    let plugin = CommandPlugin::builder().output(output).build();
    ListCommandInvocationsOutput::builder()
        .command_invocations(
            CommandInvocation::builder()
                .document_name("prepull-fingerprint")
                .status(status)
                .command_plugins(plugin)
                .requested_date_time(DateTime::from_secs(100))
                .build(),
        )
        .build()
}

fn taken() -> ListCommandInvocationsOutput {
    let trees = trees();
    let output = format!(
        "TREES {} {} {}\nEND\n",
        trees.trees, trees.files, trees.digest
    );
    fingerprint(CommandInvocationStatus::Success, &output)
}

/// Returns a rule that lists `answers` as the commands with `document`, one after another, and then the last one.
fn commands_of(document: &'static str, answers: Vec<ListCommandInvocationsOutput>) -> Rule {
    use prepull_aws::ssm::Client;
    let mut answers = answers.into_iter().peekable();
    let mut last = ListCommandInvocationsOutput::builder().build();
    let answers = std::sync::Mutex::new(move || {
        last = answers.next().unwrap_or_else(|| last.clone());
        last.clone()
    });
    mock!(Client::list_command_invocations)
        .match_requests(move |request| {
            let filters = request.filters().iter();
            filters.map(CommandFilter::value).eq([document])
        })
        .then_output(move || (answers.lock().unwrap())())
}

fn none() -> ListCommandInvocationsOutput {
    ListCommandInvocationsOutput::builder().build()
}

#[tokio::test(start_paused = true)]
async fn fingerprint_is_taken_once_before_the_power_off() {
    let running = "RUNNING 1 9\nEND\n";
    let fingerprints = vec![
        none(),
        fingerprint(CommandInvocationStatus::InProgress, ""),
        fingerprint(CommandInvocationStatus::Success, running),
        fingerprint(CommandInvocationStatus::InProgress, ""),
        taken(),
    ];
    let off = sent(CommandInvocationStatus::Success, Timestamp::now());
    let states = mock!(Client::describe_instances)
        .sequence()
        .output(|| described([instance(InstanceStateName::Running, "")]))
        .times(6)
        .output(|| described([instance(InstanceStateName::Stopped, POWERED_OFF)]))
        .build();
    let aws = FakeAws::new()
        .with_snapshots([snapshot(OLDER, SnapshotState::Completed)])
        .ec2([appears(), states, creates_snapshot()])
        .with_agent(|_| command_output(CommandInvocationStatus::Success, 0, ""))
        .ssm([
            commands_of("prepull-fingerprint", fingerprints),
            commands_of(
                "prepull-power-off",
                vec![none(), none(), none(), none(), none(), off],
            ),
        ]);
    let expected = Snapshot {
        trees: Some(trees()),
        ..created()
    };
    assert_eq!(create_for(verified_target(), &aws).await, Ok(expected));
    // verify-snapshot sets the state.
    assert_eq!(
        aws.writes(),
        [
            "ssm:SendCommand prepull-fingerprint",
            "ssm:SendCommand prepull-fingerprint",
            "ssm:SendCommand prepull-power-off",
        ]
    );
}

#[tokio::test]
async fn fingerprint_of_an_earlier_call_is_returned() {
    let aws = FakeAws::new()
        .with_snapshots([snapshot(OLDER, SnapshotState::Completed)])
        .ssm([commands_of("prepull-fingerprint", vec![taken()])]);
    let created = create_for(verified_target(), &aws).await.unwrap();
    assert_eq!(created.trees, Some(trees()));
    assert!(aws.writes().is_empty());
}

#[tokio::test(start_paused = true)]
async fn builder_without_a_fingerprint_is_not_powered_off() {
    let failed = fingerprint(CommandInvocationStatus::Failed, "find: Input/output error");
    let mut failed_thrice = failed.clone();
    let commands = failed_thrice.command_invocations.get_or_insert_default();
    commands.extend([commands[0].clone(), commands[0].clone()]);
    let aws = FakeAws::new()
        .with_snapshots([])
        .with_instances([ec2_instance(InstanceStateName::Running)])
        .ssm([
            commands_of("prepull-fingerprint", vec![failed_thrice]),
            commands_of("prepull-power-off", vec![none()]),
        ]);
    let error = create_for(verified_target(), &aws).await.unwrap_err();
    assert_eq!(error.name(), "SnapshotFailed");
    assert!(error.to_string().contains("Input/output error"), "{error}");
    assert!(aws.writes().is_empty());
}

#[tokio::test(start_paused = true)]
async fn running_builder_powers_off_once_before_the_snapshot() {
    let aws = FakeAws::new()
        .with_snapshots([snapshot(OLDER, SnapshotState::Completed)])
        .ec2([appears(), instance_powers_off(), creates_snapshot()])
        .with_agent(|_| command_output(CommandInvocationStatus::Success, 0, ""))
        .ssm([power_off_is_sent_once()]);
    assert_eq!(create(&aws).await, Ok(created()));
    assert_eq!(
        aws.writes(),
        [
            "ssm:SendCommand prepull-power-off".to_owned(),
            tags_as(OLDER, "verified")
        ]
    );
}

/// Returns the call that sets the tag `prepull:state` of a snapshot.
fn tags_as(id: &str, state: &str) -> String {
    format!("ec2:CreateTags {id} prepull:state={state}")
}

#[tokio::test]
async fn existing_snapshot_is_reused() {
    let aws = FakeAws::new().with_snapshots([snapshot(OLDER, SnapshotState::Completed)]);
    assert_eq!(create(&aws).await, Ok(created()));
    assert_eq!(aws.writes(), [tags_as(OLDER, "verified")]);
}

#[tokio::test]
async fn published_snapshot_keeps_its_state() {
    let aws = FakeAws::new().with_snapshots([marked(OLDER, "published")]);
    assert_eq!(create(&aws).await, Ok(created()));
    assert!(aws.writes().is_empty());
}

#[tokio::test]
async fn duplicate_snapshots_converge_on_the_oldest() {
    let aws = FakeAws::new().with_snapshots([
        snapshot(YOUNGER, SnapshotState::Completed),
        snapshot(OLDER, SnapshotState::Completed),
    ]);
    assert_eq!(create(&aws).await, Ok(created()));
    assert_eq!(
        aws.writes(),
        [tags_as(YOUNGER, "rejected"), tags_as(OLDER, "verified")]
    );
}

#[tokio::test]
async fn verified_snapshot_takes_precedence_over_an_older_one() {
    for state in ["verified", "published"] {
        let aws = FakeAws::new().with_snapshots([
            snapshot(OLDER, SnapshotState::Completed),
            marked(YOUNGER, state),
        ]);
        let taken = create(&aws).await.unwrap();
        assert_eq!(taken.snapshot_id.as_str(), YOUNGER);
        assert_eq!(aws.writes(), [tags_as(OLDER, "rejected")]);
    }
}

#[tokio::test]
async fn failed_snapshot_is_rejected() {
    let aws = FakeAws::new().with_snapshots([snapshot(OLDER, SnapshotState::Error)]);
    let error = create(&aws).await.unwrap_err();
    assert_eq!(error.name(), "SnapshotFailed");
    assert!(error.to_string().contains("could not be read"), "{error}");
    assert_eq!(aws.writes(), [tags_as(OLDER, "rejected")]);
}

#[tokio::test]
async fn builder_without_clean_power_off_is_not_snapshotted() {
    // No rule for CreateSnapshot: a call would fail the test.
    let sent = || power_off_was_sent(CommandInvocationStatus::Success, Timestamp::now());
    for (reason, commands) in [
        ("Client.UserInitiatedShutdown", sent()),
        ("Server.InternalError", sent()),
        ("", sent()),
        (POWERED_OFF, power_off_was_never_sent()),
    ] {
        let aws = with_builder(InstanceStateName::Stopped, reason).ssm([commands]);
        let error = create(&aws).await.unwrap_err();
        assert_eq!(error.name(), "SnapshotFailed", "{reason}");
        assert!(error.to_string().contains("may hold secrets"), "{error}");
    }
}

/// Returns AWS with a builder and without snapshots.
fn with_builder(state: InstanceStateName, reason: &str) -> FakeAws {
    FakeAws::new()
        .with_instances([instance(state, reason)])
        .with_snapshots([])
}

#[tokio::test]
async fn running_builder_fails_after_the_power_off_timeout() {
    let long_ago = Timestamp::now() - jiff::SignedDuration::from_mins(9);
    let aws = with_builder(InstanceStateName::Running, "")
        .ec2([console("")])
        .ssm([power_off_was_sent(
            CommandInvocationStatus::Success,
            long_ago,
        )]);
    let error = create(&aws).await.unwrap_err();
    assert_eq!(error.name(), "SnapshotFailed");
    assert!(
        error.to_string().contains("did not power itself off"),
        "{error}"
    );
}

/// Returns a rule that answers with the console output.
fn console(output: &str) -> Rule {
    let encoded = BASE64.encode(output);
    mock!(Client::get_console_output)
        .match_requests(|request| request.latest() == Some(true))
        .then_output(move || GetConsoleOutputOutput::builder().output(&encoded).build())
}

#[tokio::test]
async fn failed_scrub_reports_its_last_words() {
    let a_minute_ago = Timestamp::now() - jiff::SignedDuration::from_mins(1);
    let aws = with_builder(InstanceStateName::Running, "")
        .ec2([console(
            "prepull-power-off[7]: find: cannot delete '/var/lib/kubelet/a': Permission denied\n\
             prepull-power-off[8]: scrub ended: exit-code\n",
        )])
        .ssm([power_off_was_sent(
            CommandInvocationStatus::Success,
            a_minute_ago,
        )]);
    let error = create(&aws).await.unwrap_err();
    assert_eq!(error.name(), "SnapshotFailed");
    assert!(
        error
            .to_string()
            .contains("its scrub failed: find: cannot delete '/var/lib/kubelet/a'"),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn unreadable_console_does_not_fail_the_stage() {
    let a_minute_ago = Timestamp::now() - jiff::SignedDuration::from_mins(1);
    let refused = mock!(Client::get_console_output).then_error(|| {
        GetConsoleOutputError::generic(
            ErrorMetadata::builder()
                .code("UnsupportedOperation")
                .build(),
        )
    });
    let aws = with_builder(InstanceStateName::Running, "")
        .ec2([refused])
        .ssm([power_off_was_sent(
            CommandInvocationStatus::Success,
            a_minute_ago,
        )]);
    assert_eq!(create(&aws).await.unwrap_err().name(), "StillRunning");
}

#[tokio::test(start_paused = true)]
async fn unreachable_builder_fails_at_the_build_deadline() {
    let aws = with_builder(InstanceStateName::Running, "")
        .with_agent(|_| command_output(CommandInvocationStatus::Success, 0, ""))
        .failing("ssm:SendCommand", "InvalidInstanceId")
        .ssm([power_off_was_never_sent()]);
    assert_eq!(create(&aws).await.unwrap_err().name(), "StillRunning");
    let mut late = target();
    late.give_up_at = late.planned_at;
    let error = create_for(late, &aws).await.unwrap_err();
    assert_eq!(error.name(), "SnapshotFailed");
    assert!(error.to_string().contains("still running"), "{error}");
}

#[tokio::test]
async fn terminated_builder_is_lost() {
    let aws = with_builder(
        InstanceStateName::Terminated,
        "Client.UserInitiatedShutdown",
    );
    assert_eq!(create(&aws).await.unwrap_err().name(), "BuilderLost");
}
