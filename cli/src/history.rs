//! A build, as the history of its execution tells it.
//!
//! The history of an execution is one list of events, though the architectures of a build are built side by side. Every
//! event names the one that led to it; along that chain back lies the start of the Map's iteration, and with it the
//! architecture.

use std::collections::{BTreeMap, HashMap};

use jiff::{SignedDuration, Timestamp};
use prepull_aws::sfn::types::{HistoryEvent, HistoryEventType as Type, MapIterationEventDetails};
use prepull_domain::stages::{
    Builder, NodeInfo, Plan, PublishOutcome, Published, Pulled, Snapshot,
};
use prepull_domain::{Architecture, CacheName, ExecutionArn, ExecutionName, SnapshotId, Stage};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What is known of a build so far.
#[derive(Debug, Clone, Serialize)]
pub struct Build {
    /// Its cache.
    pub cache: CacheName,
    /// Its execution.
    pub execution: ExecutionArn,
    /// What it ended in.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// What became of each architecture that was built.
    pub targets: BTreeMap<Architecture, TargetOutcome>,
    /// The stages in the order in which they began.
    pub stages: Vec<StageRun>,
    /// When it was started.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    #[serde(skip)]
    iterations: MapIterations,
}

/// What a build ended in. What the state machine puts out reads the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "kebab-case")]
pub enum Outcome {
    /// Nothing yet.
    Running,
    /// Nodes use the new snapshots.
    Published {
        /// The snapshot of each architecture that was built.
        snapshots: BTreeMap<Architecture, SnapshotId>,
    },
    /// The published snapshots held already what the cache wants.
    UpToDate {
        /// The published snapshot of each architecture.
        snapshots: BTreeMap<Architecture, SnapshotId>,
    },
    /// A newer build of the cache does what this one would have.
    Superseded {
        /// Its execution.
        superseded_by: ExecutionName,
    },
    /// At least one architecture has no new snapshot, or nothing could be planned.
    Failed {
        /// The name of the first error.
        error: String,
        /// What happened, for a person.
        cause: String,
    },
    /// Somebody stopped the execution.
    Aborted {
        /// Why, where a reason was given.
        cause: String,
    },
    /// The execution took longer than it may.
    TimedOut,
}

/// What became of one architecture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "kebab-case")]
pub enum TargetOutcome {
    /// Nodes use the new snapshot.
    Published {
        /// The snapshot.
        snapshot_id: SnapshotId,
    },
    /// A snapshot of a later plan was published meanwhile.
    Superseded {
        /// This build's snapshot, which nodes do not use.
        snapshot_id: SnapshotId,
    },
    /// There is no new snapshot.
    Failed {
        /// The stage that failed.
        stage: String,
        /// The error's name.
        error: String,
        /// What happened, for a person.
        cause: String,
    },
}

/// One stage of a build, for one architecture where it has one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StageRun {
    /// The stage.
    pub stage: Stage,
    /// The architecture; none while the build is planned.
    pub architecture: Option<Architecture>,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended, well or not.
    pub ended_at: Option<Timestamp>,
    /// The name of the error that it ended in, or that its last call met so far.
    pub error: Option<String>,
    /// What it did, for a person.
    pub did: Option<String>,
}

impl StageRun {
    /// How long it took, where it has ended.
    #[must_use]
    pub fn took(&self) -> Option<SignedDuration> {
        Some(self.ended_at?.duration_since(self.started_at))
    }
}

/// What the stage did, from the output of its function.
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
        Stage::PublishSnapshot => {
            let published: Published = parse(output)?;
            Some(match published.outcome {
                PublishOutcome::Published => "nodes use it from now on".to_owned(),
                PublishOutcome::Superseded => "a newer one is published already".to_owned(),
            })
        }
    }
}

/// Something that happened in a build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    /// How long after the build was started.
    pub after: SignedDuration,
    /// The architecture it happened to; none where it happened to the whole build.
    pub architecture: Option<Architecture>,
    /// What happened.
    pub news: BuildEvent,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BuildEvent {
    /// The build waits for other triggers that it answers too.
    Gathering,
    /// A stage began.
    Began(Stage),
    /// It was decided what to build.
    Planned(Plan),
    /// A call of a stage ended before the stage did, and reported its progress.
    Progress(Stage, StageProgress),
    /// A call of a stage failed: what comes next is another call, or the end of the target.
    CallFailed {
        /// The stage.
        stage: Stage,
        /// The error's name.
        error: String,
        /// What happened, for a person.
        cause: String,
    },
    /// A stage ended well.
    Finished {
        /// The stage.
        stage: Stage,
        /// How long it took.
        took: SignedDuration,
        /// What it did, for a person.
        did: Option<String>,
    },
    /// The build ended, well or not.
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
        let text = message.strip_prefix("not done yet: ").unwrap_or(message);
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
    /// A build of which only the execution is known.
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

    /// Takes in the next event of the history, and tells what happened, if it is of interest.
    pub fn apply(&mut self, event: &HistoryEvent) -> Option<Update> {
        let at = prepull_aws::timestamp(Some(event.timestamp()));
        let started_at = *self.started_at.get_or_insert(at);
        let iteration = self.iterations.of(event);
        let architecture = self.iterations.architecture(iteration);
        let news = self.news(event, at, architecture)?;
        if let BuildEvent::Planned(Plan::Build { targets }) = &news {
            self.iterations.planned = targets.iter().map(|target| target.architecture).collect();
        }
        Some(Update {
            after: at.duration_since(started_at),
            architecture,
            news,
        })
    }

    fn news(
        &mut self,
        event: &HistoryEvent,
        at: Timestamp,
        architecture: Option<Architecture>,
    ) -> Option<BuildEvent> {
        /// The input of an execution that answers a trigger which others may follow.
        #[derive(Deserialize)]
        struct Wait {
            debounce_seconds: u64,
        }
        match event.r#type() {
            Type::WaitStateEntered => {
                let input = event.state_entered_event_details()?.input()?;
                let Wait { debounce_seconds } = serde_json::from_str(input).ok()?;
                (debounce_seconds > 0).then_some(BuildEvent::Gathering)
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
            // Another call of the same stage: what the one before met is over.
            Type::TaskScheduled => {
                self.running(architecture)?.error = None;
                None
            }
            Type::TaskFailed => {
                let details = event.task_failed_event_details()?;
                self.trouble(architecture, details.error(), details.cause())
            }
            Type::TaskTimedOut => {
                let details = event.task_timed_out_event_details()?;
                self.trouble(architecture, details.error(), details.cause())
            }
            Type::TaskStartFailed => {
                let details = event.task_start_failed_event_details()?;
                self.trouble(architecture, details.error(), details.cause())
            }
            Type::TaskSucceeded => {
                let output = event.task_succeeded_event_details()?.output()?;
                let mut output: Value = serde_json::from_str(output).ok()?;
                // The answer of Lambda's Invoke around the answer of the function.
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

    /// The stage that `architecture` is in.
    fn running(&mut self, architecture: Option<Architecture>) -> Option<&mut StageRun> {
        self.stages
            .iter_mut()
            .rfind(|run| run.architecture == architecture && run.ended_at.is_none())
    }

    fn trouble(
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
        // What it failed in was told when it did.
        run.error.is_none().then(|| BuildEvent::Finished {
            stage: run.stage,
            took: at.duration_since(run.started_at),
            did: run.did.clone(),
        })
    }

    /// Every target's last state puts out what became of it.
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
    /// What an execution that succeeded put out.
    #[must_use]
    pub fn of_success(output: &str) -> Self {
        serde_json::from_str(output).unwrap_or_else(|error| Self::Failed {
            error: "UnknownOutput".to_owned(),
            cause: format!("the execution put out what this version does not know: {error}"),
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

/// A function's own message within the JSON that Step Functions gives as a cause; other causes are text already.
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

/// Which iteration of the Map each event belongs to.
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
            // It follows upon the iteration that ended last, and ends them all.
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
