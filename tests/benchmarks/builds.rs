//! Measures a build of prepull from the records of AWS.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use prepull_aws::sfn::types::{ExecutionStatus, HistoryEvent, HistoryEventType};
use prepull_aws::timestamp;
use prepull_domain::build::payload::Base;
use prepull_domain::{Bytes, Manifest, SnapshotId};
use prepull_tests::World;
use prepull_tests::benchmark::{Measurement, Stage};
use prepull_tests::localcloud::Call;
use serde_json::{Value, json};

use crate::{ARCHITECTURE, Cache};

const TIME_OUT: Duration = Duration::from_secs(1_200);
const PAUSE: Duration = Duration::from_millis(250);

/// Delay until the registries' counters include a request.
pub const COUNTED: Duration = Duration::from_millis(300);

/// A measured build.
pub struct Build {
    pub measurement: Measurement,
    /// The snapshot and its base. `None` without a snapshot.
    pub published: Option<(SnapshotId, Base)>,
}

/// Builds `cache` and waits until clean-up has ended.
pub async fn measure(world: &World, cache: &Cache) -> Result<Build> {
    measure_input(world, cache, &json!({"cache": cache.name})).await
}

/// Builds `cache` by an execution with `input`, and waits until clean-up has ended.
pub async fn measure_input(world: &World, cache: &Cache, input: &Value) -> Result<Build> {
    let before = world.published(&cache.name, ARCHITECTURE).await?;
    world.cloud.forget_calls().await?;
    let traffic = world.cloud.traffic().await?;
    let execution = world.start_execution(input).await?;
    let outcome = world.await_end_within(&execution, TIME_OUT, PAUSE).await?;
    ensure!(
        outcome.status == ExecutionStatus::Succeeded,
        "{execution} ended {}: {} {}",
        outcome.status,
        outcome.error,
        outcome.cause
    );
    tokio::time::sleep(COUNTED).await;
    let traffic = world.cloud.traffic().await?.since(traffic);
    let calls = count(world.cloud.calls().await?, |call| call.invocation.is_some());
    let history = History::new(&world.history(&execution).await?)?;

    let published = world.published(&cache.name, ARCHITECTURE).await?;
    let manifest = match published {
        Some(published) if before.as_ref() != Some(&published) => Some(
            world
                .manifest(&cache.name, ARCHITECTURE, &published)
                .await?,
        ),
        _ => None,
    };
    let blocks = match &manifest {
        Some(manifest) => {
            let base = match &manifest.base {
                Base::Snapshot { snapshot_id, .. } => Some(snapshot_id),
                Base::Empty { .. } => None,
            };
            world
                .cloud
                .changed_blocks(&manifest.snapshot_id, base)
                .await?
        }
        None => None,
    };
    let measurement = Measurement {
        seconds: seconds(history.started_at, history.done_at()),
        stages: history.stages(manifest.as_ref()),
        pulled: Bytes(traffic.bytes),
        registry_requests: traffic.requests,
        blocks,
        instances: calls.get("ec2:RunInstances").copied().unwrap_or_default(),
        calls,
        transitions: history.transitions,
        invocations: history.invocations.len() as u64,
        lambda_gb_seconds: history.gb_seconds(&world.deployment.function_memory()?)?,
        instance_seconds: history.instance_seconds(manifest.as_ref()),
        volume: cache.volume.clone(),
    };
    Ok(Build {
        measurement,
        published: manifest.map(|manifest| (manifest.snapshot_id, manifest.base)),
    })
}

/// Returns the number of calls of each action.
pub fn count(calls: Vec<Call>, counts: impl Fn(&Call) -> bool) -> BTreeMap<String, u64> {
    let mut actions = BTreeMap::new();
    for call in calls.into_iter().filter(counts) {
        *actions
            .entry(format!("{}:{}", call.service, call.action))
            .or_default() += 1;
    }
    actions
}

/// The times in an execution's history. It supports only caches with one architecture, whose states run in sequence.
struct History {
    started_at: Timestamp,
    ended_at: Timestamp,
    /// Entry and exit time of each state, by name.
    states: BTreeMap<String, (Timestamp, Timestamp)>,
    /// The state and the seconds of each function invocation.
    invocations: Vec<(String, f64)>,
    transitions: u64,
}

impl History {
    fn new(events: &[HistoryEvent]) -> Result<Self> {
        let at = |event: &HistoryEvent| timestamp(event.timestamp());
        let first = events.first().context("every execution has events")?;
        let last = events.last().context("every execution has events")?;
        let mut history = Self {
            started_at: at(first),
            ended_at: at(last),
            states: BTreeMap::new(),
            invocations: Vec::new(),
            transitions: 0,
        };
        let (mut state, mut invoked_at) = (String::new(), None);
        let mut is_retry = false;
        for event in events {
            if let Some(entered) = event.state_entered_event_details() {
                entered.name().clone_into(&mut state);
                history.states.insert(state.clone(), (at(event), at(event)));
                history.transitions += 1;
                is_retry = false;
            }
            if let Some(exited) = event.state_exited_event_details()
                && let Some((_, left_at)) = history.states.get_mut(exited.name())
            {
                *left_at = at(event);
            }
            match event.r#type() {
                HistoryEventType::TaskScheduled => {
                    history.transitions += u64::from(is_retry);
                    is_retry = true;
                    invoked_at = Some(at(event));
                }
                HistoryEventType::TaskStarted => invoked_at = Some(at(event)),
                HistoryEventType::TaskSucceeded
                | HistoryEventType::TaskFailed
                | HistoryEventType::TaskTimedOut => {
                    if let Some(invoked_at) = invoked_at.take() {
                        let took = seconds(invoked_at, at(event));
                        history.invocations.push((state.clone(), took));
                    }
                }
                _ => {}
            }
        }
        Ok(history)
    }

    /// Returns the time at which the work was done. Nothing waits for the clean-up after it.
    fn done_at(&self) -> Timestamp {
        let cleaned_up = self.states.get("clean-up");
        cleaned_up.map_or(self.ended_at, |(entered_at, _)| *entered_at)
    }

    fn stages(&self, manifest: Option<&Manifest>) -> BTreeMap<Stage, f64> {
        let mut stages = BTreeMap::new();
        for (name, (entered_at, left_at)) in &self.states {
            let stage = match name.as_str() {
                "Debounce" => Stage::Debounce,
                "plan-build" => Stage::Plan,
                "launch-builder" => Stage::Launch,
                "wait-for-ssm" => Stage::Ready,
                "pull-images" => Stage::Pull,
                "create-snapshot" => Stage::Snapshot,
                "verify-snapshot" => Stage::Verify,
                "publish-snapshot" => Stage::Publish,
                "clean-up" => Stage::CleanUp,
                _ => continue,
            };
            let mut begins_at = *entered_at;
            if let (Stage::Snapshot, Some(manifest)) = (stage, manifest) {
                // EBS may report whole seconds only.
                begins_at = manifest.snapshot_started_at.clamp(*entered_at, *left_at);
                stages.insert(Stage::Stop, seconds(*entered_at, begins_at));
            }
            stages.insert(stage, seconds(begins_at, *left_at));
        }
        stages
    }

    fn gb_seconds(&self, memory: &BTreeMap<String, u32>) -> Result<f64> {
        let invocations = self.invocations.iter();
        invocations
            .map(|(state, seconds)| {
                // A state has the name of its function. States before the debounce add a suffix.
                let function = state.strip_suffix(" (early)").unwrap_or(state);
                let megabytes = memory
                    .get(function)
                    .with_context(|| format!("Terraform did not deploy {function}"))?;
                Ok(seconds * f64::from(*megabytes) / 1_024.0)
            })
            .sum()
    }

    fn instance_seconds(&self, manifest: Option<&Manifest>) -> f64 {
        let gone_at = self.states.get("clean-up").map(|(_, left_at)| *left_at);
        manifest.map_or(0.0, |manifest| {
            seconds(manifest.launched_at, gone_at.unwrap_or(self.ended_at))
        })
    }
}

fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64()
}
