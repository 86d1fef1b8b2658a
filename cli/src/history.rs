//! A build, read from the history of its execution.
//!
//! The history is one list of events, although the architectures of a build run in parallel. Every event refers to the event
//! that caused it. This chain leads back to the start of a Map iteration, which determines the architecture.

use std::collections::{BTreeMap, HashMap};

use jiff::{SignedDuration, Timestamp};
use prepull_aws::sfn::types::{HistoryEvent, HistoryEventType as Type, MapIterationEventDetails};
use prepull_domain::build::payload::{
    Builder, NodeInfo, Plan, PublishOutcome, Published, Pulled, Snapshot, VerificationRecord,
};
use prepull_domain::{
    Architecture, CacheName, ExecutionArn, ExecutionName, SnapshotId, Stage, StageError,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The known state of a build.
#[derive(Debug, Clone, Serialize)]
pub struct Build {
    /// Its cache.
    pub cache: CacheName,
    /// Its execution.
    pub execution: ExecutionArn,
    /// The outcome.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// The outcome of each architecture.
    pub targets: BTreeMap<Architecture, TargetOutcome>,
    /// The stages, in the order of their start.
    pub stages: Vec<StageRun>,
    /// The start time.
    pub started_at: Option<Timestamp>,
    /// The end time.
    pub ended_at: Option<Timestamp>,
    #[serde(skip)]
    iterations: MapIterations,
}

/// The outcome of a build. The output of the state machine has the same form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "kebab-case")]
pub enum Outcome {
    /// The build has not ended.
    Running,
    /// The new snapshots are available to nodes.
    Published {
        /// The snapshot of each architecture whose nodes use the new one.
        snapshots: BTreeMap<Architecture, SnapshotId>,
        /// The snapshot of each architecture that waits for its promotion.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        candidates: BTreeMap<Architecture, SnapshotId>,
    },
    /// The published snapshots already held every image of the cache.
    UpToDate {
        /// The published snapshot of each architecture.
        snapshots: BTreeMap<Architecture, SnapshotId>,
    },
    /// A newer build of the cache does the work of this one.
    Superseded {
        /// Its execution.
        superseded_by: ExecutionName,
    },
    /// At least one architecture has no new snapshot, or planning failed.
    Failed {
        /// The name of the first error.
        error: String,
        /// The error message.
        cause: String,
    },
    /// The execution was stopped.
    Aborted {
        /// The reason, if one was given.
        cause: String,
    },
    /// The execution exceeded its timeout.
    TimedOut,
}

/// The outcome of one architecture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "kebab-case")]
pub enum TargetOutcome {
    /// Nodes use the new snapshot.
    Published {
        /// The snapshot.
        snapshot_id: SnapshotId,
    },
    /// The new snapshot waits for its promotion.
    Candidate {
        /// The snapshot.
        snapshot_id: SnapshotId,
    },
    /// A snapshot of a later plan was published first.
    Superseded {
        /// This build's snapshot, which nodes do not use.
        snapshot_id: SnapshotId,
    },
    /// The architecture has no new snapshot.
    Failed {
        /// The stage that failed.
        stage: String,
        /// The error's name.
        error: String,
        /// The error message.
        cause: String,
    },
}

/// One run of a stage, for one architecture if the stage belongs to a target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StageRun {
    /// The stage.
    pub stage: Stage,
    /// The architecture. `None` for plan-build.
    pub architecture: Option<Architecture>,
    /// The start time.
    pub started_at: Timestamp,
    /// The end time, after success or failure.
    pub ended_at: Option<Timestamp>,
    /// The name of the error that ended the stage, or of the last failed call so far.
    pub error: Option<String>,
    /// The result, as text.
    pub did: Option<String>,
}

impl StageRun {
    /// Returns the duration, or `None` if the stage still runs.
    #[must_use]
    pub fn took(&self) -> Option<SignedDuration> {
        Some(self.ended_at?.duration_since(self.started_at))
    }
}

/// Returns the result of a stage as text, from the output of its function.
fn did(stage: Stage, output: Value) -> Option<String> {
    match stage {
        Stage::StartBuild | Stage::PlanBuild | Stage::CleanUp => None,
        Stage::LaunchBuilder => {
            let builder: Builder = parse(output)?;
            Some(format!(
                "{} ({})",
                builder.instance_id, builder.instance_type
            ))
        }
        Stage::WaitForSsm => {
            let node: NodeInfo = parse(output)?;
            Some(format!(
                "Bottlerocket {}, containerd {}",
                node.bottlerocket_version, node.containerd_version
            ))
        }
        Stage::PullImages => {
            let pulled: Pulled = parse(output)?;
            Some(format!(
                "{} pulled, {} removed, {} used",
                pulled.pulled_images, pulled.removed_images, pulled.used
            ))
        }
        Stage::CreateSnapshot => {
            let snapshot: Snapshot = parse(output)?;
            Some(snapshot.snapshot_id.to_string())
        }
        Stage::VerifySnapshot => {
            let record: VerificationRecord = parse(output)?;
            let releases: Vec<_> = record.releases.iter().map(ToString::to_string).collect();
            Some(format!(
                "level {} on Bottlerocket {}, {} in layers",
                record.level,
                releases.join(" and "),
                record.bytes
            ))
        }
        Stage::PublishSnapshot => {
            let published: Published = parse(output)?;
            Some(match published.outcome {
                PublishOutcome::Published => "nodes use it now".to_owned(),
                PublishOutcome::Candidate => "a candidate now".to_owned(),
                PublishOutcome::Superseded => "a newer build published first".to_owned(),
            })
        }
    }
}

/// An event of a build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    /// Time since the start of the build.
    pub after: SignedDuration,
    /// The architecture, or `None` for an event of the whole build.
    pub architecture: Option<Architecture>,
    /// The event.
    pub event: BuildEvent,
}

/// The kinds of events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BuildEvent {
    /// The build waits for further triggers.
    Debouncing,
    /// A stage has started.
    Began(Stage),
    /// plan-build has decided what to build.
    Planned(Plan),
    /// A call of a stage ended before the stage did, and reported its progress.
    Progress(Stage, StageProgress),
    /// A call of a stage has failed. Either the state machine retries it or the target ends.
    CallFailed {
        /// The stage.
        stage: Stage,
        /// The error's name.
        error: String,
        /// The error message.
        cause: String,
    },
    /// A stage has succeeded.
    Finished {
        /// The stage.
        stage: Stage,
        /// The duration.
        took: SignedDuration,
        /// The result, as text.
        did: Option<String>,
    },
    /// The build has ended, with success or failure.
    Ended,
}

/// Progress of a running stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StageProgress {
    /// Counts of images, from pull-images.
    Images(prepull_domain::PullProgress),
    /// Any other text, shown as it is.
    Text(String),
}

impl StageProgress {
    /// Parses the message of a `StillRunning`. An unknown wording stays text: the functions may be of another version.
    fn new(message: &str) -> Self {
        let text = StageError::progress_in(message);
        text.parse()
            .map_or_else(|_| Self::Text(text.to_owned()), Self::Images)
    }
}

impl std::fmt::Display for StageProgress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Images(progress) => progress.fmt(f),
            Self::Text(text) => f.write_str(text),
        }
    }
}

impl Build {
    /// Returns a build of which only the execution is known.
    #[must_use]
    pub fn new(cache: CacheName, execution: ExecutionArn) -> Self {
        Self {
            cache,
            execution,
            outcome: Outcome::Running,
            targets: BTreeMap::new(),
            stages: Vec::new(),
            started_at: None,
            ended_at: None,
            iterations: MapIterations::default(),
        }
    }

    /// Processes the next event of the history. Returns an update if the event matters to a person.
    pub fn apply(&mut self, event: &HistoryEvent) -> Option<Update> {
        let at = prepull_aws::timestamp(event.timestamp());
        let started_at = *self.started_at.get_or_insert(at);
        let iteration = self.iterations.of(event);
        let architecture = self.iterations.architecture(iteration);
        let build_event = self.build_event(event, at, architecture)?;
        if let BuildEvent::Planned(Plan::Build { targets }) = &build_event {
            self.iterations.planned = targets.iter().map(|target| target.architecture).collect();
        }
        Some(Update {
            after: at.duration_since(started_at),
            architecture,
            event: build_event,
        })
    }

    /// Returns the event of the build that an event of the history shows, if it matters to a person.
    fn build_event(
        &mut self,
        event: &HistoryEvent,
        at: Timestamp,
        architecture: Option<Architecture>,
    ) -> Option<BuildEvent> {
        /// The input of an execution that start-build started.
        #[derive(Deserialize)]
        struct Wait {
            debounce_seconds: u64,
        }
        match event.r#type() {
            Type::WaitStateEntered => {
                let input = event.state_entered_event_details()?.input()?;
                let Wait { debounce_seconds } = serde_json::from_str(input).ok()?;
                (debounce_seconds > 0).then_some(BuildEvent::Debouncing)
            }
            Type::TaskStateEntered => {
                let stage: Stage = event.state_entered_event_details()?.name().parse().ok()?;
                self.stages.push(StageRun {
                    stage,
                    architecture,
                    started_at: at,
                    ended_at: None,
                    error: None,
                    did: None,
                });
                Some(BuildEvent::Began(stage))
            }
            // A new call of the same stage. The error of the previous call no longer counts.
            Type::TaskScheduled => {
                self.running(architecture)?.error = None;
                None
            }
            Type::TaskFailed => {
                let details = event.task_failed_event_details()?;
                self.failure(architecture, details.error(), details.cause())
            }
            Type::TaskTimedOut => {
                let details = event.task_timed_out_event_details()?;
                self.failure(architecture, details.error(), details.cause())
            }
            Type::TaskStartFailed => {
                let details = event.task_start_failed_event_details()?;
                self.failure(architecture, details.error(), details.cause())
            }
            Type::TaskSucceeded => {
                let output = event.task_succeeded_event_details()?.output()?;
                let mut output: Value = serde_json::from_str(output).ok()?;
                // Lambda's Invoke wraps the output of the function.
                let payload = output.get_mut("Payload")?.take();
                let run = self.running(architecture)?;
                run.did = did(run.stage, payload.clone());
                if run.stage == Stage::PlanBuild {
                    return Some(BuildEvent::Planned(parse(payload)?));
                }
                None
            }
            Type::TaskStateExited => self.finish(architecture, at),
            Type::PassStateExited => {
                self.take_outcome(event);
                self.finish(architecture, at)
            }
            Type::SucceedStateExited => {
                self.take_outcome(event);
                None
            }
            Type::ExecutionSucceeded
            | Type::ExecutionFailed
            | Type::ExecutionAborted
            | Type::ExecutionTimedOut => {
                self.outcome = outcome(event);
                self.ended_at = Some(at);
                for run in self.stages.iter_mut().filter(|run| run.ended_at.is_none()) {
                    run.ended_at = Some(at);
                }
                Some(BuildEvent::Ended)
            }
            _ => None,
        }
    }

    /// Returns the running stage of `architecture`.
    fn running(&mut self, architecture: Option<Architecture>) -> Option<&mut StageRun> {
        self.stages
            .iter_mut()
            .rfind(|run| run.architecture == architecture && run.ended_at.is_none())
    }

    fn failure(
        &mut self,
        architecture: Option<Architecture>,
        error: Option<&str>,
        cause: Option<&str>,
    ) -> Option<BuildEvent> {
        let run = self.running(architecture)?;
        let (error, cause) = (
            error.unwrap_or("Unknown"),
            message(cause.unwrap_or_default()),
        );
        run.error = Some(error.to_owned());
        Some(if error == "StillRunning" {
            BuildEvent::Progress(run.stage, StageProgress::new(&cause))
        } else {
            BuildEvent::CallFailed {
                stage: run.stage,
                error: error.to_owned(),
                cause,
            }
        })
    }

    fn finish(&mut self, architecture: Option<Architecture>, at: Timestamp) -> Option<BuildEvent> {
        let run = self.running(architecture)?;
        run.ended_at = Some(at);
        // The error was reported when it happened.
        run.error.is_none().then(|| BuildEvent::Finished {
            stage: run.stage,
            took: at.duration_since(run.started_at),
            did: run.did.clone(),
        })
    }

    /// Reads the outcome of a target from the output of the target's last state.
    fn take_outcome(&mut self, event: &HistoryEvent) {
        #[derive(Deserialize)]
        struct Target {
            architecture: Architecture,
            #[serde(flatten)]
            outcome: TargetOutcome,
        }
        let output = event
            .state_exited_event_details()
            .and_then(|details| details.output());
        if let Some(target) = output.and_then(|json| serde_json::from_str::<Target>(json).ok()) {
            self.targets.insert(target.architecture, target.outcome);
        }
    }
}

impl Outcome {
    /// Parses the output of a successful execution.
    #[must_use]
    pub fn of_success(output: &str) -> Self {
        serde_json::from_str(output).unwrap_or_else(|error| Self::Failed {
            error: "UnknownOutput".to_owned(),
            cause: format!("this version of prepull cannot read the execution's output: {error}. Upgrade prepull"),
        })
    }
}

fn outcome(event: &HistoryEvent) -> Outcome {
    if let Some(details) = event.execution_succeeded_event_details() {
        Outcome::of_success(details.output().unwrap_or_default())
    } else if let Some(details) = event.execution_failed_event_details() {
        Outcome::Failed {
            error: details.error().unwrap_or("Unknown").to_owned(),
            cause: details.cause().unwrap_or_default().to_owned(),
        }
    } else if let Some(details) = event.execution_aborted_event_details() {
        Outcome::Aborted {
            cause: details.cause().unwrap_or_default().to_owned(),
        }
    } else {
        Outcome::TimedOut
    }
}

/// Returns the message inside the JSON that Step Functions gives as the cause of a failed function. Other causes are text.
fn message(cause: &str) -> String {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct LambdaError {
        error_message: String,
    }
    serde_json::from_str(cause).map_or_else(
        |_| cause.to_owned(),
        |LambdaError { error_message }| error_message,
    )
}

fn parse<T: DeserializeOwned>(output: Value) -> Option<T> {
    serde_json::from_value(output).ok()
}

/// The Map iteration of each event.
#[derive(Debug, Clone, Default)]
struct MapIterations {
    of_event: HashMap<i64, Option<i32>>,
    /// The architectures in the order of the Map's iterations.
    planned: Vec<Architecture>,
}

impl MapIterations {
    fn of(&mut self, event: &HistoryEvent) -> Option<i32> {
        let iteration = match event.r#type() {
            Type::MapIterationStarted => event
                .map_iteration_started_event_details()
                .map(MapIterationEventDetails::index),
            // This event follows the iteration that ended last, and belongs to none.
            Type::MapStateSucceeded | Type::MapStateFailed | Type::MapStateAborted => None,
            _ => self
                .of_event
                .get(&event.previous_event_id())
                .copied()
                .flatten(),
        };
        self.of_event.insert(event.id(), iteration);
        iteration
    }

    fn architecture(&self, iteration: Option<i32>) -> Option<Architecture> {
        self.planned.get(usize::try_from(iteration?).ok()?).copied()
    }
}
