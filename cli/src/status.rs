//! `prepull status`: the published snapshot of each cache, its differences from the declaration, and the last build.

use std::collections::BTreeSet;
use std::fmt;

use jiff::Timestamp;
use prepull_aws::ec2::types::Filter;
use prepull_aws::instances::{self, InstanceRecord};
use prepull_aws::sfn::operation::describe_execution::DescribeExecutionOutput;
use prepull_aws::sfn::types::ExecutionStatus;
use prepull_aws::{Clients, snapshots, tag_key_filter, timestamp};
use prepull_domain::snapshot::pointer::Change;
use prepull_domain::{
    Architecture, Bytes, CacheConfig, CacheName, ExecutionName, Failure, GiB, Manifest, Pointer,
    SnapshotId, names,
};
use serde::Serialize;

use crate::history::Outcome;
use crate::render::{ago, count, table};
use crate::{Error, StateMachine, decide, executions, store};

/// States of an instance that has not terminated.
const ALIVE: [&str; 5] = ["pending", "running", "stopping", "stopped", "shutting-down"];

/// The state at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StatusReport {
    /// The moment.
    pub as_of: Timestamp,
    /// The caches, by name.
    pub caches: Vec<CacheStatus>,
}

/// The state of one cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CacheStatus {
    /// The cache.
    pub cache: CacheName,
    /// The errors in its configuration.
    pub problem: Option<String>,
    /// Each architecture that it declares.
    pub targets: Vec<TargetStatus>,
    /// The newest build.
    pub last_build: Option<LastBuild>,
    /// The instances of its builds, orphans included.
    pub builders: Vec<BuilderStatus>,
}

/// The state of one architecture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TargetStatus {
    /// The architecture.
    pub architecture: Architecture,
    /// The snapshot that nodes use.
    pub published: Option<PublishedStatus>,
    /// The pointer: the candidate, the pin, and the last decision. `None` before the first decision.
    pub pointer: Option<Pointer>,
}

/// A snapshot that nodes use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PublishedStatus {
    /// The snapshot.
    pub snapshot_id: SnapshotId,
    /// Its state in EC2. `None` if EC2 has no such snapshot, so nodes cannot start from it.
    pub state: Option<String>,
    /// Its content. `None` if its manifest is missing.
    pub content: Option<Content>,
}

/// The content of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Content {
    /// The time of its completion.
    pub completed_at: Timestamp,
    /// The number of its images.
    pub images: usize,
    /// Bytes in use on its volume.
    pub used: Bytes,
    /// The size of its volume.
    pub volume_size: GiB,
    /// Its differences from the cache's declaration. Only a build detects that a tag has moved.
    pub differences: Vec<String>,
}

/// The newest build of a cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LastBuild {
    /// Its execution.
    pub execution: ExecutionName,
    /// The start time.
    pub started_at: Timestamp,
    /// The end time.
    pub ended_at: Option<Timestamp>,
    /// The outcome.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// An instance of a build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BuilderStatus {
    /// The instance.
    pub instance_id: String,
    /// Its state.
    pub state: String,
    /// Its architecture.
    pub architecture: Option<String>,
    /// Its build.
    pub execution: Option<String>,
}

/// Returns the status of `cache`, or of all caches if it is `None`.
///
/// # Errors
/// If the cache does not exist, or AWS refuses a call.
pub async fn report(
    clients: &Clients,
    machine: &StateMachine,
    cache: Option<&CacheName>,
    now: Timestamp,
) -> Result<StatusReport, Error> {
    let configs = store::declared(clients, cache).await?;
    let newest = machine
        .newest(clients, configs.keys().cloned().collect())
        .await?;
    let instances = builders(clients).await?;

    let mut caches = Vec::new();
    for (cache, config) in configs {
        let (problem, targets) = match config {
            Ok(config) => (None, targets(clients, &cache, &config).await?),
            Err(error) => (Some(error.to_string()), Vec::new()),
        };
        let of_cache =
            |instance: &&InstanceRecord| instance.tag(names::TAG_CACHE) == Some(cache.as_str());
        caches.push(CacheStatus {
            problem,
            targets,
            last_build: newest.get(&cache).map(last_build).transpose()?,
            builders: instances.iter().filter(of_cache).map(builder).collect(),
            cache,
        });
    }
    Ok(StatusReport { as_of: now, caches })
}

async fn targets(
    clients: &Clients,
    cache: &CacheName,
    config: &CacheConfig,
) -> Result<Vec<TargetStatus>, Error> {
    let mut targets = Vec::new();
    for &architecture in &config.architectures {
        targets.push(TargetStatus {
            architecture,
            published: published(clients, cache, config, architecture).await?,
            pointer: store::pointer(clients, cache, architecture).await?,
        });
    }
    Ok(targets)
}

async fn published(
    clients: &Clients,
    cache: &CacheName,
    config: &CacheConfig,
    architecture: Architecture,
) -> Result<Option<PublishedStatus>, Error> {
    let Some(snapshot_id) = store::published(clients, cache, architecture).await? else {
        return Ok(None);
    };
    let manifest = store::manifest(clients, cache, architecture, &snapshot_id).await?;
    Ok(Some(PublishedStatus {
        state: snapshot_state(clients, &snapshot_id).await?,
        content: manifest.map(|manifest| content(&manifest, config)),
        snapshot_id,
    }))
}

async fn snapshot_state(clients: &Clients, id: &SnapshotId) -> Result<Option<String>, Error> {
    let state = snapshots::get(clients, id)
        .await?
        .and_then(|snapshot| snapshot.ebs_state);
    Ok(state.map(|state| state.as_str().to_owned()))
}

fn content(manifest: &Manifest, config: &CacheConfig) -> Content {
    let held: BTreeSet<_> = manifest
        .images
        .iter()
        .map(|image| &image.reference)
        .collect();
    let declared: BTreeSet<_> = config.images.iter().collect();
    let mut differences: Vec<String> = declared
        .difference(&held)
        .map(|image| format!("lacks {image}"))
        .collect();
    differences.extend(
        held.difference(&declared)
            .map(|image| format!("still contains {image}")),
    );
    if manifest.variant != config.variant {
        differences.push(format!(
            "was built for {}, not for {}",
            manifest.variant, config.variant
        ));
    }
    Content {
        completed_at: manifest.completed_at,
        images: manifest.images.len(),
        used: manifest.used,
        volume_size: manifest.volume_size,
        differences,
    }
}

async fn builders(clients: &Clients) -> Result<Vec<InstanceRecord>, Error> {
    let ours = tag_key_filter(names::TAG_CACHE);
    let alive = Filter::builder()
        .name("instance-state-name")
        .set_values(Some(ALIVE.map(String::from).to_vec()))
        .build();
    Ok(instances::find(clients, vec![ours, alive]).await?)
}

fn builder(instance: &InstanceRecord) -> BuilderStatus {
    let tag = |key| instance.tag(key).map(str::to_owned);
    BuilderStatus {
        instance_id: instance.id.to_string(),
        state: instance.state.as_str().to_owned(),
        architecture: tag(names::TAG_ARCHITECTURE),
        execution: tag(names::TAG_EXECUTION),
    }
}

fn last_build(execution: &DescribeExecutionOutput) -> Result<LastBuild, Error> {
    let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
    let outcome = match execution.status() {
        ExecutionStatus::Succeeded => Outcome::of_success(execution.output().unwrap_or_default()),
        ExecutionStatus::Failed => Outcome::Failed {
            error: text(execution.error()),
            cause: text(execution.cause()),
        },
        ExecutionStatus::Aborted => Outcome::Aborted {
            cause: text(execution.cause()),
        },
        ExecutionStatus::TimedOut => Outcome::TimedOut,
        _ => Outcome::Running,
    };
    Ok(LastBuild {
        execution: executions::parse(execution.execution_arn())?.name(),
        started_at: timestamp(execution.start_date()),
        ended_at: execution.stop_date().map(timestamp),
        outcome,
    })
}

impl fmt::Display for StatusReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.caches.is_empty() {
            f.write_str("No cache is declared. Declare one in Terraform's `caches` and apply.")?;
        }
        for (index, cache) in self.caches.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            writeln!(f, "{}", cache.cache)?;
            if let Some(problem) = &cache.problem {
                writeln!(f, "  {problem}")?;
            }
            let mut rows = Vec::new();
            for target in &cache.targets {
                rows.push(vec![
                    target.architecture.to_string(),
                    self.published(target),
                ]);
                let lines = target
                    .pointer
                    .iter()
                    .flat_map(|pointer| self.pointer(pointer));
                rows.extend(lines.map(|line| vec![String::new(), line]));
            }
            if cache.problem.is_none() {
                let build = cache.last_build.as_ref();
                rows.push(vec![
                    "last build".to_owned(),
                    build.map_or_else(|| "none".to_owned(), |build| self.build(build)),
                ]);
            }
            rows.extend(cache.builders.iter().map(|builder| {
                let of = builder.execution.as_deref().unwrap_or("no build");
                let architecture = builder.architecture.as_deref().unwrap_or("unknown");
                let BuilderStatus {
                    instance_id, state, ..
                } = builder;
                vec![
                    "builder".to_owned(),
                    format!("{instance_id} ({architecture}, {state}) of {of}"),
                ]
            }));
            f.write_str(&table("  ", &rows))?;
        }
        Ok(())
    }
}

impl StatusReport {
    fn published(&self, target: &TargetStatus) -> String {
        let Some(published) = &target.published else {
            return "nothing published".to_owned();
        };
        let id = &published.snapshot_id;
        let problem = match published.state.as_deref() {
            Some("completed") => String::new(),
            Some(state) => format!(" ({state})"),
            None => " (GONE: new nodes cannot start)".to_owned(),
        };
        let Some(content) = &published.content else {
            return format!("{id}{problem}, its manifest is missing");
        };
        let is = if content.differences.is_empty() {
            "as declared".to_owned()
        } else {
            content.differences.join(", ")
        };
        format!(
            "{id}{problem}, {}, {}, {} of {} used; {is}",
            ago(content.completed_at, self.as_of),
            count(content.images, "image"),
            content.used,
            content.volume_size,
        )
    }

    /// Describes the candidates, the pin, and the last decision by a person.
    fn pointer(&self, pointer: &Pointer) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(candidate) = &pointer.candidate {
            let next = match pointer.promote_at {
                Some(due) if pointer.pin.is_none() => format!("stable after {due}"),
                _ => "waits for its promotion".to_owned(),
            };
            lines.push(format!("candidate {}: {next}", candidate.snapshot_id));
        }
        if let Some(queued) = &pointer.queued {
            lines.push(format!("queued {}: the next candidate", queued.snapshot_id));
        }
        if let Some(pin) = &pointer.pin {
            let from = pin.rolled_back_from.as_ref();
            let from = from.map_or_else(String::new, |from| format!(", rolled back from {from}"));
            lines.push(format!(
                "pinned {}{from}: {}",
                ago(pin.since, self.as_of),
                pin.reason
            ));
        }
        if let Some(Change::Rejected { .. }) = &pointer.change {
            lines.extend(pointer.change.as_ref().map(decide::change));
        }
        lines
    }

    fn build(&self, build: &LastBuild) -> String {
        let when = ago(build.ended_at.unwrap_or(build.started_at), self.as_of);
        let outcome = match &build.outcome {
            Outcome::Running => format!("running, started {when}"),
            Outcome::Published {
                snapshots,
                candidates,
            } if snapshots.is_empty() && !candidates.is_empty() => {
                format!("published a candidate {when}")
            }
            Outcome::Published { .. } => format!("published {when}"),
            Outcome::UpToDate { .. } => format!("found everything up to date {when}"),
            Outcome::Superseded { superseded_by } => {
                format!("superseded by {superseded_by} {when}")
            }
            Outcome::Failed { error, cause } => {
                let failures: Vec<_> = Failure::all("FAILED", Some(error), Some(cause))
                    .iter()
                    .map(Failure::to_string)
                    .collect();
                format!("failed {when}: {}", failures.join("; "))
            }
            Outcome::Aborted { .. } => format!("was stopped {when}"),
            Outcome::TimedOut => format!("timed out {when}"),
        };
        format!("{} {outcome}", build.execution)
    }
}
