//! `prepull build` and `prepull follow`: starts a build, or finds the newest, and follows it to its end.

use std::collections::BTreeSet;
use std::fmt;
use std::pin::pin;
use std::time::Duration;

use jiff::Timestamp;
use prepull_aws::sfn::types::HistoryEvent;
use prepull_aws::{Clients, StageResult, parameters};
use prepull_domain::{CacheName, ExecutionArn, ExecutionName, Failure};
use serde::Serialize;

use crate::executions;
use crate::history::{Build, Outcome, TargetOutcome};
use crate::progress::Progress;
use crate::render::{clock, table};
use crate::{Answer, Error, Exit, Output, StateMachine};

/// How often the history is asked for: what a person takes for at once, and far below the API's rate.
const INTERVAL: Duration = Duration::from_secs(1);

/// Starts a build of `cache`, after a look at its configuration: a mistake in it is told here, before anything is
/// started.
///
/// # Errors
/// Where there is no such cache, its configuration is wrong, or AWS refuses.
///
/// # Panics
/// Never: a cache's name and a number make the name of an execution.
pub async fn start(
    clients: &Clients,
    machine: &StateMachine,
    cache: &CacheName,
    now: Timestamp,
) -> Result<ExecutionArn, Error> {
    parameters::cache(clients, cache.as_str()).await?;
    let name = ExecutionName::manual(cache, now);
    machine.start(clients, cache, &name, now).await
}

/// The newest build of `cache`.
///
/// # Errors
/// Where there is none, or AWS refuses.
pub async fn newest(
    clients: &Clients,
    machine: &StateMachine,
    cache: &CacheName,
) -> Result<ExecutionArn, Error> {
    let newest = machine.newest(clients, [cache.clone()].into()).await?;
    match newest.get(cache) {
        Some(execution) => executions::parse(&execution.execution_arn),
        None => Err(Error::Usage(format!(
            "there is no build of cache `{cache}` to follow: start one with `prepull build {cache}`"
        ))),
    }
}

/// Follows an execution until it ends or `interrupted` does, and tells what is known of it then.
///
/// # Errors
/// Where AWS does not answer. The build goes on all the same.
pub async fn follow(
    clients: &Clients,
    cache: &CacheName,
    execution: ExecutionArn,
    mut progress: Progress,
    interrupted: impl Future<Output = ()>,
) -> Result<Build, Error> {
    let mut interrupted = pin!(interrupted);
    let mut build = Build::new(cache.clone(), execution);
    let mut seen = 0;
    loop {
        for event in events_after(clients, &build.execution, seen).await? {
            seen = event.id();
            if let Some(update) = build.apply(&event) {
                progress.show(&update);
            }
        }
        if build.outcome != Outcome::Running {
            break;
        }
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = &mut interrupted => break,
        }
    }
    Ok(build)
}

/// The events of an execution after the one numbered `seen`, the oldest first. Read from the end, so that a long
/// history is not read again and again.
async fn events_after(
    clients: &Clients,
    execution: &ExecutionArn,
    seen: i64,
) -> Result<Vec<HistoryEvent>, Error> {
    let mut pages = clients
        .sfn
        .get_execution_history()
        .execution_arn(execution.as_str())
        .reverse_order(true)
        .into_paginator()
        .send();
    let mut events = Vec::new();
    while let Some(page) = pages.next().await {
        let page = page.or_stage_error("states:GetExecutionHistory")?.events;
        let (on_page, before) = (page.len(), events.len());
        events.extend(page.into_iter().take_while(|event| event.id() > seen));
        if events.len() - before < on_page {
            break;
        }
    }
    events.reverse();
    Ok(events)
}

/// What is printed of a build at the end of the command.
#[must_use]
pub fn answer(build: Build, output: Output, no_follow: bool) -> Answer {
    let exit = match build.outcome {
        Outcome::Running if no_follow => Exit::Done,
        Outcome::Running => Exit::Interrupted,
        Outcome::Published { .. } | Outcome::UpToDate { .. } | Outcome::Superseded { .. } => {
            Exit::Done
        }
        Outcome::Failed { .. } | Outcome::Aborted { .. } | Outcome::TimedOut => Exit::Failed,
    };
    Answer::new(&Report(build), output, exit)
}

/// A build, as it is printed.
#[derive(Serialize)]
#[serde(transparent)]
struct Report(Build);

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(build) = self;
        let name = build.execution.name();
        let took = build
            .started_at
            .zip(build.ended_at)
            .map(|(start, end)| format!(" in {}", clock(end.duration_since(start))))
            .unwrap_or_default();
        match &build.outcome {
            Outcome::Running => {
                return write!(
                    f,
                    "Build {name} goes on.\n  \
                     to follow it: prepull follow {}\n  \
                     to stop it:   aws stepfunctions stop-execution --execution-arn {}",
                    build.cache, build.execution
                );
            }
            Outcome::Published { .. } => writeln!(f, "Build {name} ended{took}")?,
            Outcome::UpToDate { snapshots } => {
                writeln!(f, "Build {name} found everything up to date{took}")?;
                let rows: Vec<_> = snapshots
                    .iter()
                    .map(|(architecture, id)| vec![architecture.to_string(), id.to_string()])
                    .collect();
                f.write_str(&table("  ", &rows))?;
            }
            Outcome::Superseded { superseded_by } => {
                writeln!(f, "Build {name} left its work to the newer {superseded_by}")?;
            }
            Outcome::Failed { error, cause } => {
                writeln!(f, "Build {name} failed{took} with {error}")?;
                // The targets below say the same of each.
                if build.targets.is_empty() {
                    for failure in failures(error, cause) {
                        writeln!(f, "  {}", failure.message)?;
                    }
                }
            }
            Outcome::Aborted { cause } => {
                writeln!(f, "Build {name} was stopped{took}")?;
                if !cause.is_empty() {
                    writeln!(f, "  {cause}")?;
                }
            }
            Outcome::TimedOut => writeln!(f, "Build {name} timed out{took}")?,
        }
        let rows: Vec<_> = build
            .targets
            .iter()
            .map(|(architecture, outcome)| vec![architecture.to_string(), outcome.to_string()])
            .collect();
        f.write_str(&table("  ", &rows))?;
        if let Outcome::Failed { error, cause } = &build.outcome {
            // Two architectures often fail in the same.
            let remedies: BTreeSet<_> = failures(error, cause)
                .iter()
                .map(|failure| failure.remedy)
                .collect();
            for remedy in remedies {
                writeln!(f, "{remedy}.")?;
            }
        }
        Ok(())
    }
}

fn failures(error: &str, cause: &str) -> Vec<Failure> {
    Failure::all("FAILED", Some(error), Some(cause))
}

impl fmt::Display for TargetOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Published { snapshot_id } => write!(f, "published {snapshot_id}"),
            Self::Superseded { snapshot_id } => write!(
                f,
                "made {snapshot_id}, which is not in use: a newer build published before"
            ),
            Self::Failed {
                stage,
                error,
                cause,
            } => write!(f, "failed in {stage} with {error}: {cause}"),
        }
    }
}
