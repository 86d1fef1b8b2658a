//! `prepull build` and `prepull follow`: start a build or find the newest one, and follow it to its end.

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

/// Poll interval for the history. It feels immediate, and it is far below the API's rate limit.
const INTERVAL: Duration = Duration::from_secs(1);

/// Starts a build of `cache`. It checks the cache's configuration first, so an invalid one starts nothing.
///
/// # Errors
/// If the cache does not exist, its configuration is invalid, or AWS refuses a call.
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

/// Returns the newest build of `cache`.
///
/// # Errors
/// If the cache has no build, or AWS refuses a call.
pub async fn newest(
    clients: &Clients,
    machine: &StateMachine,
    cache: &CacheName,
) -> Result<ExecutionArn, Error> {
    let newest = machine.newest(clients, [cache.clone()].into()).await?;
    match newest.get(cache) {
        Some(execution) => executions::parse(&execution.execution_arn),
        None => Err(Error::Usage(format!(
            "cannot follow cache `{cache}`: it has no build. Start one with `prepull build {cache}`"
        ))),
    }
}

/// Follows an execution until it ends or `interrupted` resolves, and returns its known state.
///
/// # Errors
/// If AWS does not answer. The build continues in that case.
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

/// Returns the events of an execution after the event `seen`, oldest first. It reads backwards from the end, so it does not
/// read a long history repeatedly.
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

/// The final output of the command.
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

/// A build in its printed form.
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
                    "Build {name} is still running.\n  to follow it: prepull follow {}\n  to stop it:   aws stepfunctions stop-execution --execution-arn {}",
                    build.cache, build.execution
                );
            }
            Outcome::Published { .. } => writeln!(f, "Build {name} finished{took}")?,
            Outcome::UpToDate { snapshots } => {
                writeln!(f, "Build {name} found everything up to date{took}")?;
                let rows: Vec<_> = snapshots
                    .iter()
                    .map(|(architecture, id)| vec![architecture.to_string(), id.to_string()])
                    .collect();
                f.write_str(&table("  ", &rows))?;
            }
            Outcome::Superseded { superseded_by } => {
                writeln!(f, "Build {name} was superseded by {superseded_by}")?;
            }
            Outcome::Failed { error, cause } => {
                writeln!(f, "Build {name} failed{took} with {error}")?;
                // The targets below show the same for each architecture.
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
            // Two architectures often fail for the same reason.
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
            Self::Candidate { snapshot_id } => {
                write!(
                    f,
                    "{snapshot_id}, a candidate. `prepull promote` makes it stable"
                )
            }
            Self::Superseded { snapshot_id } => write!(
                f,
                "created {snapshot_id}, but a newer build published first"
            ),
            Self::Failed {
                stage,
                error,
                cause,
            } => write!(f, "failed in {stage} with {error}: {cause}"),
        }
    }
}
