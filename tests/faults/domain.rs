//! Domain faults, which are not tied to one call: faults of machines, actions of people, and duplicate deliveries.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use prepull_aws::sfn::types::ExecutionStatus;
use prepull_domain::node::Document;
use prepull_domain::{ExecutionArn, Stage};
use prepull_tests::{Image, Layer};
use serde_json::{Value, json};

use crate::worker::{ARCHITECTURE, Expectation, Worker};

/// Time limit for an expected state or event.
const TIME_LIMIT: Duration = Duration::from_mins(4);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    AgentNeverRegisters,
    AdminContainerNeverStarts,
    VolumeStuckStopping,
    NoCapacityAtFirst,
    NoCapacityAnywhere,
    QuotaExceeded,
    LaunchFails,
    BuilderDiesWhilePulling,
    /// Document of a command that never runs, and its status in Systems Manager.
    CommandLost(Document, &'static str),
    RegistryFailsDuringPull,
    DiskFull,
    OneImageOfEightFails,
    SnapshotEndsInError,
    PointerWriteFails,
    /// A person stops the execution in this state of the state machine.
    Stopped(&'static str),
    ExecutionTimesOut,
    EventDeliveredTwice,
    ConcurrentBuilds,
    StagesRunTwiceInSequence,
    StagesRunTwiceConcurrently,
    OnlyTheStateMachineCleansUp,
    OnlyTheStatusEventCleansUp,
    OnlyTheSweepCleansUp,
    /// A command that moves the pointer, and the call at which it ends.
    CommandEndsEarly(Command, &'static str),
}

/// A command that moves the pointer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    Promote,
    Rollback,
}

/// Calls of a command that moves the pointer: parameters, and other actions.
const DECISION_CALLS: [&str; 6] = [
    "decisions",
    "pointer",
    "candidate-snapshot-id",
    "snapshot-id",
    "PutEvents",
    "CreateTags",
];

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CommandLost(document, status) => write!(f, "command {document} {status}"),
            Self::Stopped(state) => write!(f, "stopped in {state}"),
            Self::CommandEndsEarly(Command::Promote, call) => write!(f, "promote ends at {call}"),
            Self::CommandEndsEarly(Command::Rollback, call) => write!(f, "rollback ends at {call}"),
            fault => {
                for (at, letter) in format!("{fault:?}").char_indices() {
                    let blank = if at > 0 && letter.is_uppercase() {
                        " "
                    } else {
                        ""
                    };
                    write!(f, "{blank}{}", letter.to_ascii_lowercase())?;
                }
                Ok(())
            }
        }
    }
}

impl Fault {
    /// Returns all faults. The ones that take minutes come first.
    pub fn all() -> Vec<Self> {
        let mut cases = vec![
            Self::AgentNeverRegisters,
            Self::AdminContainerNeverStarts,
            Self::VolumeStuckStopping,
            Self::NoCapacityAtFirst,
            Self::NoCapacityAnywhere,
            Self::QuotaExceeded,
            Self::LaunchFails,
            Self::BuilderDiesWhilePulling,
            Self::RegistryFailsDuringPull,
            Self::DiskFull,
            Self::OneImageOfEightFails,
            Self::SnapshotEndsInError,
            Self::PointerWriteFails,
            Self::ExecutionTimesOut,
            Self::EventDeliveredTwice,
            Self::ConcurrentBuilds,
            Self::StagesRunTwiceInSequence,
            Self::StagesRunTwiceConcurrently,
            Self::OnlyTheStateMachineCleansUp,
            Self::OnlyTheStatusEventCleansUp,
            Self::OnlyTheSweepCleansUp,
        ];
        for document in Document::ALL {
            for status in ["TimedOut", "Cancelled", "Undeliverable"] {
                cases.push(Self::CommandLost(*document, status));
            }
        }
        let states = [
            "Debounce",
            "plan-build",
            "launch-builder",
            "wait-for-ssm",
            "pull-images",
            "create-snapshot",
            "verify-snapshot",
            "publish-snapshot",
            "clean-up",
        ];
        cases.extend(states.map(Self::Stopped));
        for command in [Command::Promote, Command::Rollback] {
            cases.extend(DECISION_CALLS.map(|call| Self::CommandEndsEarly(command, call)));
        }
        cases
    }

    /// Returns whether the case is about the verification or about all stages.
    pub fn needs_verification(self) -> bool {
        matches!(
            self,
            Self::StagesRunTwiceInSequence
                | Self::StagesRunTwiceConcurrently
                | Self::Stopped("verify-snapshot")
                | Self::CommandLost(Document::Fingerprint | Document::Verify, _)
        )
    }

    /// Returns whether the case takes the whole time limit of a builder: ten minutes.
    pub fn takes_minutes(self) -> bool {
        matches!(
            self,
            Self::AgentNeverRegisters | Self::AdminContainerNeverStarts | Self::VolumeStuckStopping
        )
    }

    pub async fn run(self, worker: &mut Worker) -> Result<Expectation> {
        worker.prepare().await?;
        worker.push().await?;
        match self {
            Self::AgentNeverRegisters => {
                worker.set(json!({"agent_seconds": 3600})).await?;
                fails(worker, "NeverReady").await
            }
            Self::AdminContainerNeverStarts => {
                worker.set(json!({"admin_seconds": 3600})).await?;
                fails(worker, "NeverReady").await
            }
            Self::VolumeStuckStopping => {
                worker.set(json!({"stopping_seconds": 3600})).await?;
                worker
                    .configure(|config| config["timeout_minutes"] = json!(10))
                    .await?;
                fails(worker, "SnapshotFailed").await
            }
            Self::NoCapacityAtFirst => survives(worker, no_capacity(Some(1))).await,
            Self::NoCapacityAnywhere => {
                worker.inject(no_capacity(None)).await?;
                fails(worker, "CapacityUnavailable").await
            }
            Self::QuotaExceeded => {
                worker.inject(
                    json!({"service": "ec2", "action": "RunInstances", "code": "VcpuLimitExceeded",
                    "status": 400, "times": null}),
                )
                .await?;
                fails(worker, "QuotaExceeded").await
            }
            Self::LaunchFails => {
                worker.set(json!({"launch_errors": 1})).await?;
                fails(worker, "KeyUnusable").await
            }
            Self::BuilderDiesWhilePulling => builder_dies(worker).await,
            Self::CommandLost(document, status) => {
                let fault = json!({"service": "ssm", "action": "SendCommand", "effect": "lose-command",
                    "status_name": status, "resource": document.name("prepull")});
                survives(worker, fault).await
            }
            Self::RegistryFailsDuringPull => registry_down(worker).await,
            Self::DiskFull => {
                worker.set(json!({"disk_full_after_bytes": 10})).await?;
                fails(worker, "DiskFull").await
            }
            Self::OneImageOfEightFails => one_of_eight(worker).await,
            Self::SnapshotEndsInError => {
                worker.set(json!({"snapshot_errors": 1})).await?;
                fails(worker, "SnapshotFailed").await
            }
            Self::PointerWriteFails => {
                let pointer = format!("/prepull/{}/*/snapshot-id", worker.cache);
                worker
                    .inject(
                        json!({"service": "ssm", "action": "PutParameter", "resource": pointer,
                    "code": "ParameterMaxVersionLimitExceeded", "status": 400, "times": null}),
                    )
                    .await?;
                fails(worker, "PublishFailed").await
            }
            Self::Stopped(state) => stopped(worker, state).await,
            Self::CommandEndsEarly(command, call) => {
                command_ends_early(worker, command, call).await
            }
            Self::ExecutionTimesOut => {
                worker.set(json!({"execution_timeout_seconds": 6})).await?;
                let execution = worker.trigger().await?;
                let outcome = worker.end(&execution).await?;
                ensure!(
                    outcome.status == ExecutionStatus::TimedOut,
                    "the execution ended with {:?}",
                    outcome.status
                );
                worker.emits_event(&execution).await?;
                Ok(Expectation::Clean)
            }
            Self::EventDeliveredTwice => {
                let (event, execution) = worker.event()?;
                let pushed = event["detail"]["image-digest"].as_str().unwrap_or_default();
                tokio::try_join!(
                    worker.world.send_event("start-build", &event),
                    worker.world.send_event("start-build", &event)
                )?;
                worker.publishes(&execution).await?;
                worker.is_invoked_twice("start-build", pushed).await?;
                Ok(Expectation::Clean)
            }
            Self::ConcurrentBuilds => {
                let first = worker.world.start_build(&worker.cache).await?;
                worker.builder(&first).await?;
                worker.push().await?;
                let second = worker.world.start_build(&worker.cache).await?;
                worker.succeeds(&first).await?;
                worker.publishes(&second).await?;
                Ok(Expectation::Clean)
            }
            Self::StagesRunTwiceInSequence => succeeds_twice(worker, "twice").await,
            Self::StagesRunTwiceConcurrently => succeeds_twice(worker, "twice-at-once").await,
            Self::OnlyTheStateMachineCleansUp => {
                leaves_nothing_without(worker, CleanUpBy::StatusEvent).await
            }
            Self::OnlyTheStatusEventCleansUp => {
                leaves_nothing_without(worker, CleanUpBy::StateMachine).await
            }
            Self::OnlyTheSweepCleansUp => {
                let by_event = break_clean_up(worker, CleanUpBy::StatusEvent).await?;
                let by_machine = break_clean_up(worker, CleanUpBy::StateMachine).await?;
                fails_to_pull(worker).await?;
                await_clean_up_failure(worker, &by_machine).await?;
                await_clean_up_failure(worker, &by_event).await?;
                ensure!(
                    !worker.remaining_resources().await?.is_empty(),
                    "nothing is left although both other clean-up paths are broken"
                );
                Ok(Expectation::Swept)
            }
        }
    }
}

/// Asserts that a command that ends at a call is completed by the sweep or by its repetition.
async fn command_ends_early(
    worker: &mut Worker,
    command: Command,
    call: &str,
) -> Result<Expectation> {
    if command == Command::Promote {
        worker
            .configure(|config| config["publication"]["promotion"] = json!({"mode": "manual"}))
            .await?;
    }
    let execution = worker.trigger().await?;
    worker.succeeds(&execution).await?;
    let before = worker.pointer().await?;
    let stable = before.stable.context("nothing is stable")?.snapshot_id;
    let (arguments, expected): (&[&str], _) = match command {
        Command::Promote => (&["promote", &worker.cache], before.candidate),
        Command::Rollback => (
            &["rollback", &worker.cache, "--reason", "an image is missing"],
            before.previous,
        ),
    };
    let arguments: Vec<_> = arguments.iter().map(ToString::to_string).collect();
    let expected = expected.context("there is no other snapshot")?.snapshot_id;
    let place = match call {
        "PutEvents" => json!({"service": "events", "action": "PutEvents", "caller": "localcloud"}),
        "CreateTags" => json!({"service": "ec2", "action": "CreateTags", "resource": stable}),
        "decisions" => json!({"service": "ssm", "action": "PutParameter",
            "resource": format!("/prepull/{}/*/decisions/*", worker.cache)}),
        parameter => json!({"service": "ssm", "action": "PutParameter",
            "resource": format!("/prepull/{}/*/{parameter}", worker.cache)}),
    };
    let mut fault =
        json!({"code": "AccessDeniedException", "status": 400, "times": 1, "invocation": null});
    fault
        .as_object_mut()
        .expect("the fault is an object")
        .extend(place.as_object().cloned().unwrap_or_default());
    let fault = worker.inject(fault).await?;
    let is_notification = ["PutEvents", "CreateTags"].contains(&call);
    let succeeded = worker.command(&arguments)?;
    ensure!(worker.hits(&fault).await? == 1, "the fault hit no call");
    ensure!(
        succeeded == is_notification,
        "the command succeeded: {succeeded}"
    );
    // The number of the decision was not taken, so only the caller knows it.
    if call == "decisions" {
        ensure!(worker.command(&arguments)?, "the repeated command failed");
    } else {
        worker
            .world
            .invoke("clean-up", &json!({"source": "sweep"}))
            .await?;
    }
    let after = worker.pointer().await?;
    let is_shown = worker.stable().await? == Some(expected.clone());
    ensure!(
        is_shown && after.stable.as_ref().map(|it| &it.snapshot_id) == Some(&expected),
        "nodes do not see the decision"
    );
    worker.tags_show_the_pointer().await?;
    if command == Command::Rollback {
        ensure!(after.is_rejected(&stable), "{stable} is not rejected");
        // The pin ends for the next case on this cache.
        let unpin = ["unpin".to_owned(), worker.cache.clone()];
        ensure!(worker.command(&unpin)?, "the pin stays");
    }
    Ok(Expectation::Clean)
}

/// Asserts that a build with `fault` succeeds.
async fn survives(worker: &mut Worker, fault: Value) -> Result<Expectation> {
    let fault = worker.inject(fault).await?;
    let execution = worker.trigger().await?;
    worker.publishes(&execution).await?;
    ensure!(worker.hits(&fault).await? > 0, "the fault hit no call");
    Ok(Expectation::Clean)
}

/// Asserts that a build succeeds if every stage is invoked twice.
async fn succeeds_twice(worker: &mut Worker, deliveries: &str) -> Result<Expectation> {
    worker.set(json!({"deliveries": deliveries})).await?;
    let execution = worker.trigger().await?;
    worker.publishes(&execution).await?;
    let name = format!("\"{}\"", execution.name());
    for stage in [
        "launch-builder",
        "wait-for-ssm",
        "pull-images",
        "create-snapshot",
        "verify-snapshot",
        "publish-snapshot",
        "clean-up",
    ] {
        worker.is_invoked_twice(stage, &name).await?;
    }
    Ok(Expectation::Clean)
}

async fn fails(worker: &Worker, error: &str) -> Result<Expectation> {
    let execution = worker.trigger().await?;
    worker.fails(&execution, &[error]).await?;
    Ok(Expectation::Clean)
}

fn no_capacity(times: Option<u32>) -> Value {
    json!({"service": "ec2", "action": "RunInstances", "code": "InsufficientInstanceCapacity", "status": 500,
        "times": times})
}

async fn builder_dies(worker: &mut Worker) -> Result<Expectation> {
    let execution = worker.trigger().await?;
    let builder = worker.builder(&execution).await?;
    await_state(worker, &execution, Stage::PullImages.as_str()).await?;
    worker.world.cloud.cut_power(&builder).await?;
    worker.fails(&execution, &["BuilderLost"]).await?;
    Ok(Expectation::Clean)
}

async fn registry_down(worker: &mut Worker) -> Result<Expectation> {
    let image = Image::new(ARCHITECTURE, &[Layer::filler(&worker.cache, 1)?], "large")?;
    let repository = format!("tools/{}", worker.cache);
    let large = worker.world.private.push(&repository, "v1", &image).await?;
    worker
        .configure(|config| {
            if let Some(images) = config["images"].as_array_mut() {
                images.push(json!(large));
            }
        })
        .await?;
    let cloud = &worker.world.cloud;
    cloud.break_registry(&repository, Some(100_000)).await?;
    let result = fails(worker, "PullFailed").await;
    worker.world.cloud.break_registry(&repository, None).await?;
    result
}

async fn one_of_eight(worker: &mut Worker) -> Result<Expectation> {
    let mut images = Vec::new();
    for number in 0..6 {
        let name = format!("{} {number}", worker.cache);
        let image = Image::new(ARCHITECTURE, &[Layer::filler(&name, 0)?], &name)?;
        let repository = format!("tools/{}-{number}", worker.cache);
        images.push(worker.world.private.push(&repository, "v1", &image).await?);
    }
    let broken = Image::new(ARCHITECTURE, &[Layer::corrupt()], "broken")?;
    let repository = format!("tools/{}-broken", worker.cache);
    images.push(
        worker
            .world
            .private
            .push(&repository, "v1", &broken)
            .await?,
    );
    let broken = images
        .last()
        .context("the list of images is empty")?
        .clone();
    worker
        .configure(|config| {
            if let Some(all) = config["images"].as_array_mut() {
                all.truncate(1);
                all.extend(images.iter().map(|image| json!(image)));
            }
        })
        .await?;
    let execution = worker.trigger().await?;
    let outcome = worker.fails(&execution, &["PullFailed"]).await?;
    ensure!(
        outcome.cause.contains(&broken),
        "the cause does not contain {broken}: {}",
        outcome.cause
    );
    Ok(Expectation::Clean)
}

/// Waits until the execution enters `state`.
async fn await_state(worker: &Worker, execution: &ExecutionArn, state: &str) -> Result<()> {
    let start = Instant::now();
    loop {
        if worker.is_started(execution).await? {
            let history = worker
                .world
                .clients
                .sfn
                .get_execution_history()
                .execution_arn(execution.as_str())
                .send()
                .await?;
            let is_there = history.events().iter().any(|event| {
                let entered = event.state_entered_event_details();
                entered.is_some_and(|entered| entered.name() == state)
            });
            if is_there {
                return Ok(());
            }
        }
        ensure!(
            start.elapsed() < TIME_LIMIT,
            "the build did not enter {state}"
        );
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

async fn stopped(worker: &mut Worker, state: &str) -> Result<Expectation> {
    let execution = worker.trigger().await?;
    await_state(worker, &execution, state).await?;
    worker.world.stop_build(&execution).await?;
    let outcome = worker.end(&execution).await?;
    ensure!(
        outcome.status == ExecutionStatus::Aborted,
        "the execution ended with {:?}",
        outcome.status
    );
    worker.emits_event(&execution).await?;
    Ok(Expectation::Clean)
}

/// Caller of clean-up.
enum CleanUpBy {
    StateMachine,
    StatusEvent,
}

/// Asserts that a failed build leaves nothing behind if `by` cannot call clean-up.
async fn leaves_nothing_without(worker: &mut Worker, by: CleanUpBy) -> Result<Expectation> {
    let broken = break_clean_up(worker, by).await?;
    fails_to_pull(worker).await?;
    worker.nothing_is_left().await?;
    await_clean_up_failure(worker, &broken).await?;
    Ok(Expectation::Clean)
}

/// Makes clean-up fail if `by` calls it. Returns the ID of the fault.
async fn break_clean_up(worker: &mut Worker, by: CleanUpBy) -> Result<String> {
    let mut fault = json!({"service": "ec2", "action": "DescribeInstances", "caller": "clean-up",
        "code": "UnauthorizedOperation", "status": 403, "times": null});
    // The event contains the ARN of the execution, the state machine passes its name.
    fault["invocation"] = json!(match by {
        CleanUpBy::StateMachine => format!("\"execution\": \"{}-", worker.cache),
        CleanUpBy::StatusEvent => format!("execution:prepull-build:{}-", worker.cache),
    });
    worker.inject(fault).await
}

/// Waits until `fault` has made clean-up fail, which proves that this caller did not clean up.
async fn await_clean_up_failure(worker: &Worker, fault: &str) -> Result<()> {
    let start = Instant::now();
    while worker.hits(fault).await? == 0 {
        ensure!(
            start.elapsed() < TIME_LIMIT,
            "this caller did not call clean-up"
        );
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    Ok(())
}

/// Runs a build that fails while its builder runs.
async fn fails_to_pull(worker: &mut Worker) -> Result<()> {
    worker
        .inject(
            json!({"service": "ssm", "action": "SendCommand", "caller": "pull-images",
        "code": "AccessDeniedException", "status": 400, "times": null}),
        )
        .await?;
    let execution = worker.trigger().await?;
    worker.fails(&execution, &["AccessDenied"]).await?;
    Ok(())
}
