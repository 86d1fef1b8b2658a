//! The faults that no single call shows: of machines, of people, and of everything that happens twice.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use prepull_aws::sfn::types::ExecutionStatus;
use prepull_domain::ExecutionArn;
use prepull_tests::{Image, Layer};
use serde_json::{Value, json};

use crate::lane::{ARCHITECTURE, Aftermath, Lane};

/// How long what must come may take.
const WITHIN: Duration = Duration::from_mins(4);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    AgentNeverRegisters,
    AdminContainerNeverComes,
    VolumeStuckStopping,
    NoCapacityAtFirst,
    NoCapacityAnywhere,
    QuotaExceeded,
    LaunchFails,
    BuilderDiesWhilePulling,
    /// A command that never runs, and how Systems Manager says so.
    CommandLost(&'static str, &'static str),
    RegistryDownHalfWay,
    DiskFull,
    OneImageOfEightFails,
    SnapshotEndsInError,
    PointerRefused,
    /// A person stops the execution in this state.
    Stopped(&'static str),
    ExecutionTimesOut,
    EventDeliveredTwice,
    TwoBuildsAtOnce,
    StagesTwiceInARow,
    StagesTwiceAtOnce,
    OnlyTheStateMachineCleansUp,
    OnlyTheStatusEventCleansUp,
    OnlyTheSweepCleansUp,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CommandLost(document, status) => write!(f, "command {document} {status}"),
            Self::Stopped(state) => write!(f, "stopped in {state}"),
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
    /// All of them, those first that take minutes.
    pub fn all() -> Vec<Self> {
        let mut cases = vec![
            Self::AgentNeverRegisters,
            Self::AdminContainerNeverComes,
            Self::VolumeStuckStopping,
            Self::NoCapacityAtFirst,
            Self::NoCapacityAnywhere,
            Self::QuotaExceeded,
            Self::LaunchFails,
            Self::BuilderDiesWhilePulling,
            Self::RegistryDownHalfWay,
            Self::DiskFull,
            Self::OneImageOfEightFails,
            Self::SnapshotEndsInError,
            Self::PointerRefused,
            Self::ExecutionTimesOut,
            Self::EventDeliveredTwice,
            Self::TwoBuildsAtOnce,
            Self::StagesTwiceInARow,
            Self::StagesTwiceAtOnce,
            Self::OnlyTheStateMachineCleansUp,
            Self::OnlyTheStatusEventCleansUp,
            Self::OnlyTheSweepCleansUp,
        ];
        for document in ["await-ready", "pull-images", "image-status", "power-off"] {
            for status in ["TimedOut", "Cancelled", "Undeliverable"] {
                cases.push(Self::CommandLost(document, status));
            }
        }
        let states = [
            "Settle",
            "PlanBuild",
            "LaunchBuilder",
            "WaitForSsm",
            "PullImages",
            "CreateSnapshot",
            "PublishSnapshot",
            "CleanUp",
        ];
        cases.extend(states.map(Self::Stopped));
        cases
    }

    /// Whether it is waited for as long as a builder has: ten minutes.
    pub fn takes_minutes(self) -> bool {
        matches!(
            self,
            Self::AgentNeverRegisters | Self::AdminContainerNeverComes | Self::VolumeStuckStopping
        )
    }

    pub async fn run(self, lane: &mut Lane) -> Result<Aftermath> {
        lane.prepare().await?;
        lane.push().await?;
        match self {
            Self::AgentNeverRegisters => {
                lane.set(json!({"agent_seconds": 3600})).await?;
                fails(lane, "NeverReady").await
            }
            Self::AdminContainerNeverComes => {
                lane.set(json!({"admin_seconds": 3600})).await?;
                fails(lane, "NeverReady").await
            }
            Self::VolumeStuckStopping => {
                lane.set(json!({"stopping_seconds": 3600})).await?;
                lane.configure(|config| config["timeout_minutes"] = json!(10))
                    .await?;
                fails(lane, "SnapshotFailed").await
            }
            Self::NoCapacityAtFirst => survives(lane, no_capacity(Some(1))).await,
            Self::NoCapacityAnywhere => {
                lane.inject(no_capacity(None)).await?;
                fails(lane, "CapacityUnavailable").await
            }
            Self::QuotaExceeded => {
                lane.inject(
                    json!({"service": "ec2", "action": "RunInstances", "code": "VcpuLimitExceeded",
                    "status": 400, "times": null}),
                )
                .await?;
                fails(lane, "QuotaExceeded").await
            }
            Self::LaunchFails => {
                lane.set(json!({"launch_errors": 1})).await?;
                fails(lane, "BuilderLost").await
            }
            Self::BuilderDiesWhilePulling => builder_dies(lane).await,
            Self::CommandLost(document, status) => {
                let fault = json!({"service": "ssm", "action": "SendCommand", "effect": "lose-command",
                    "status_name": status, "resource": format!("prepull-{document}")});
                survives(lane, fault).await
            }
            Self::RegistryDownHalfWay => registry_down(lane).await,
            Self::DiskFull => {
                lane.set(json!({"disk_full_after_bytes": 10})).await?;
                fails(lane, "DiskFull").await
            }
            Self::OneImageOfEightFails => one_of_eight(lane).await,
            Self::SnapshotEndsInError => {
                lane.set(json!({"snapshot_errors": 1})).await?;
                fails(lane, "SnapshotFailed").await
            }
            Self::PointerRefused => {
                let pointer = format!("/prepull/{}/*/snapshot-id", lane.cache);
                lane.inject(
                    json!({"service": "ssm", "action": "PutParameter", "resource": pointer,
                    "code": "ParameterMaxVersionLimitExceeded", "status": 400, "times": null}),
                )
                .await?;
                fails(lane, "PublishFailed").await
            }
            Self::Stopped(state) => stopped(lane, state).await,
            Self::ExecutionTimesOut => {
                lane.set(json!({"execution_timeout_seconds": 6})).await?;
                let execution = lane.trigger().await?;
                let outcome = lane.end(&execution).await?;
                ensure!(
                    outcome.status == ExecutionStatus::TimedOut,
                    "it ended {:?}",
                    outcome.status
                );
                lane.is_announced(&execution).await?;
                Ok(Aftermath::Clean)
            }
            Self::EventDeliveredTwice => {
                let (event, execution) = lane.event()?;
                let pushed = event["detail"]["image-digest"].as_str().unwrap_or_default();
                tokio::try_join!(
                    lane.world.send_event("start-build", &event),
                    lane.world.send_event("start-build", &event)
                )?;
                lane.publishes(&execution).await?;
                lane.is_invoked_twice("start-build", pushed).await?;
                Ok(Aftermath::Clean)
            }
            Self::TwoBuildsAtOnce => {
                let first = lane.world.start_build(&lane.cache).await?;
                lane.builder(&first).await?;
                lane.push().await?;
                let second = lane.world.start_build(&lane.cache).await?;
                lane.succeeds(&first).await?;
                lane.publishes(&second).await?;
                Ok(Aftermath::Clean)
            }
            Self::StagesTwiceInARow => succeeds_twice(lane, "twice").await,
            Self::StagesTwiceAtOnce => succeeds_twice(lane, "twice-at-once").await,
            Self::OnlyTheStateMachineCleansUp => {
                cleans_up_without(lane, CleanUpBy::StatusEvent).await
            }
            Self::OnlyTheStatusEventCleansUp => {
                cleans_up_without(lane, CleanUpBy::StateMachine).await
            }
            Self::OnlyTheSweepCleansUp => {
                let by_event = break_clean_up(lane, CleanUpBy::StatusEvent).await?;
                let by_machine = break_clean_up(lane, CleanUpBy::StateMachine).await?;
                fails_to_pull(lane).await?;
                is_broken(lane, &by_machine).await?;
                is_broken(lane, &by_event).await?;
                ensure!(
                    !lane.leftovers().await?.is_empty(),
                    "something else than the sweep cleaned up"
                );
                Ok(Aftermath::Swept)
            }
        }
    }
}

/// The build succeeds with `fault` in it.
async fn survives(lane: &mut Lane, fault: Value) -> Result<Aftermath> {
    let fault = lane.inject(fault).await?;
    let execution = lane.trigger().await?;
    lane.publishes(&execution).await?;
    ensure!(lane.hits(&fault).await? > 0, "the fault did not come up");
    Ok(Aftermath::Clean)
}

/// The build succeeds while every invocation of a stage is carried out twice.
async fn succeeds_twice(lane: &mut Lane, deliveries: &str) -> Result<Aftermath> {
    lane.set(json!({"deliveries": deliveries})).await?;
    let execution = lane.trigger().await?;
    lane.publishes(&execution).await?;
    let name = format!("\"{}\"", execution.name());
    for stage in [
        "launch-builder",
        "wait-for-ssm",
        "pull-images",
        "create-snapshot",
        "publish-snapshot",
        "clean-up",
    ] {
        lane.is_invoked_twice(stage, &name).await?;
    }
    Ok(Aftermath::Clean)
}

async fn fails(lane: &Lane, error: &str) -> Result<Aftermath> {
    let execution = lane.trigger().await?;
    lane.fails(&execution, &[error]).await?;
    Ok(Aftermath::Clean)
}

fn no_capacity(times: Option<u32>) -> Value {
    json!({"service": "ec2", "action": "RunInstances", "code": "InsufficientInstanceCapacity", "status": 500,
        "times": times})
}

async fn builder_dies(lane: &mut Lane) -> Result<Aftermath> {
    let execution = lane.trigger().await?;
    let builder = lane.builder(&execution).await?;
    comes_to(lane, &execution, "PullImages").await?;
    lane.world.cloud.cut_power(&builder).await?;
    lane.fails(&execution, &["BuilderLost"]).await?;
    Ok(Aftermath::Clean)
}

async fn registry_down(lane: &mut Lane) -> Result<Aftermath> {
    let image = Image::new(ARCHITECTURE, &[Layer::filler(&lane.cache, 1)?], "large")?;
    let repository = format!("tools/{}", lane.cache);
    let large = lane.world.private.push(&repository, "v1", &image).await?;
    lane.configure(|config| {
        if let Some(images) = config["images"].as_array_mut() {
            images.push(json!(large));
        }
    })
    .await?;
    let cloud = &lane.world.cloud;
    cloud.break_registry(&repository, Some(100_000)).await?;
    let result = fails(lane, "PullFailed").await;
    lane.world.cloud.break_registry(&repository, None).await?;
    result
}

async fn one_of_eight(lane: &mut Lane) -> Result<Aftermath> {
    let mut images = Vec::new();
    for number in 0..6 {
        let name = format!("{} {number}", lane.cache);
        let image = Image::new(ARCHITECTURE, &[Layer::filler(&name, 0)?], &name)?;
        let repository = format!("tools/{}-{number}", lane.cache);
        images.push(lane.world.private.push(&repository, "v1", &image).await?);
    }
    let broken = Image::new(ARCHITECTURE, &[Layer::corrupt()], "broken")?;
    let repository = format!("tools/{}-broken", lane.cache);
    images.push(lane.world.private.push(&repository, "v1", &broken).await?);
    let broken = images.last().context("one is broken")?.clone();
    lane.configure(|config| {
        if let Some(all) = config["images"].as_array_mut() {
            all.truncate(1);
            all.extend(images.iter().map(|image| json!(image)));
        }
    })
    .await?;
    let execution = lane.trigger().await?;
    let outcome = lane.fails(&execution, &["PullFailed"]).await?;
    ensure!(
        outcome.cause.contains(&broken),
        "the cause does not name {broken}: {}",
        outcome.cause
    );
    Ok(Aftermath::Clean)
}

/// Waits until the execution is in `state`.
async fn comes_to(lane: &Lane, execution: &ExecutionArn, state: &str) -> Result<()> {
    let start = Instant::now();
    loop {
        if lane.is_started(execution).await? {
            let history = lane
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
            start.elapsed() < WITHIN,
            "the build does not come to {state}"
        );
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

async fn stopped(lane: &mut Lane, state: &str) -> Result<Aftermath> {
    let execution = lane.trigger().await?;
    comes_to(lane, &execution, state).await?;
    lane.world.stop_build(&execution).await?;
    let outcome = lane.end(&execution).await?;
    ensure!(
        outcome.status == ExecutionStatus::Aborted,
        "it ended {:?}",
        outcome.status
    );
    lane.is_announced(&execution).await?;
    Ok(Aftermath::Clean)
}

/// Who calls clean-up.
enum CleanUpBy {
    StateMachine,
    StatusEvent,
}

/// One of the two is enough for a failed build to leave nothing.
async fn cleans_up_without(lane: &mut Lane, by: CleanUpBy) -> Result<Aftermath> {
    let broken = break_clean_up(lane, by).await?;
    fails_to_pull(lane).await?;
    lane.nothing_is_left().await?;
    is_broken(lane, &broken).await?;
    Ok(Aftermath::Clean)
}

/// Keeps clean-up from doing anything where it is called so.
async fn break_clean_up(lane: &mut Lane, by: CleanUpBy) -> Result<String> {
    let mut fault = json!({"service": "ec2", "action": "DescribeInstances", "caller": "clean-up",
        "code": "UnauthorizedOperation", "status": 403, "times": null});
    // The event names the execution by its ARN, the state machine by its name.
    fault["invocation"] = json!(match by {
        CleanUpBy::StateMachine => format!("\"execution\": \"{}-", lane.cache),
        CleanUpBy::StatusEvent => format!("execution:prepull-build:{}-", lane.cache),
    });
    lane.inject(fault).await
}

/// Waits until clean-up has failed of a fault, so that it was not this way that cleaned up.
async fn is_broken(lane: &Lane, fault: &str) -> Result<()> {
    let start = Instant::now();
    while lane.hits(fault).await? == 0 {
        ensure!(start.elapsed() < WITHIN, "clean-up was not called this way");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    Ok(())
}

/// A build that fails with its builder running.
async fn fails_to_pull(lane: &mut Lane) -> Result<()> {
    lane.inject(
        json!({"service": "ssm", "action": "SendCommand", "caller": "pull-images",
        "code": "AccessDeniedException", "status": 400, "times": null}),
    )
    .await?;
    let execution = lane.trigger().await?;
    lane.fails(&execution, &["AccessDenied"]).await?;
    Ok(())
}
