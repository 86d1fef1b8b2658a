//! Builds with the `prepull` command, and their records.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use prepull::history::{Build, BuildEvent};
use prepull_aws::sfn::types::HistoryEvent;
use prepull_aws::{Clients, Deadline};
use prepull_domain::build::payload::Base;
use prepull_domain::{CacheName, ExecutionArn, Manifest, Stage};
use prepull_tests::invariants;
use serde_json::Value;

use crate::{CACHE, NAME, Suite};

/// Time limit for the removal of a builder, and the poll interval. EC2 terminates an instance within minutes.
const REMOVAL: (Duration, Duration) = (Duration::from_secs(300), Duration::from_secs(5));

/// A build that has ended.
pub struct BuildRecord {
    /// Name of the build in reports.
    pub label: &'static str,
    /// The build as the `prepull` command understands it.
    pub build: Build,
    /// Every event of its execution.
    pub events: Vec<HistoryEvent>,
    /// Failed calls of stages, which Step Functions retried or which ended the build.
    pub failures: Vec<(Stage, String, String)>,
    /// Manifest of the published snapshot, if the build published one.
    pub manifest: Option<Manifest>,
}

/// Builds the cache for the first time.
///
/// # Errors
/// Fails if the build fails, or leaves something behind.
pub async fn cold(suite: &mut Suite) -> Result<()> {
    let manifest = publish(suite, "cold build").await?;
    ensure!(
        matches!(manifest.base, Base::Empty { .. }),
        "the first build has the base {:?}",
        manifest.base
    );
    Ok(())
}

/// Builds the cache, and checks that the pointer and its snapshot are valid and that nothing is left behind.
///
/// # Errors
/// Fails if the build fails, or leaves something behind.
pub async fn publish(suite: &mut Suite, label: &'static str) -> Result<Manifest> {
    let code = run(suite, &["build", CACHE], Stdio::inherit()).await?.0;
    ensure!(
        code == Some(0),
        "the {label} failed with exit code {code:?}"
    );
    let cache = Suite::cache();
    let architecture = suite.options.architecture;
    let (snapshot, manifest) =
        invariants::pointer_is_valid(&suite.clients, &cache, architecture).await?;
    let mut record = record(suite, label, &cache).await?;
    record.manifest = Some(manifest.clone());
    suite.builds.push(record);
    suite.published = Some((snapshot, manifest.clone()));
    leaves_nothing_behind(&suite.clients, CACHE).await?;
    Ok(manifest)
}

/// Runs the `prepull` command and returns its exit code and its captured output.
///
/// # Errors
/// Fails if the command does not start.
pub async fn run(
    suite: &Suite,
    arguments: &[&str],
    output: Stdio,
) -> Result<(Option<i32>, Vec<u8>)> {
    let mut command = Command::new(&suite.environment.cli);
    command
        .args(["--name", NAME])
        .args(arguments)
        .env("AWS_REGION", suite.options.region.as_str())
        .stdout(output);
    // A thread, so that the suite reacts to Ctrl-C meanwhile.
    let output = tokio::task::spawn_blocking(move || {
        command
            .spawn()
            .and_then(std::process::Child::wait_with_output)
    });
    let output = output.await?.context("starting prepull failed")?;
    Ok((output.status.code(), output.stdout))
}

/// Returns the record of the newest build of a cache. The command finds the build, and the history has its details.
///
/// # Errors
/// Fails if Step Functions does not answer.
pub async fn record(suite: &Suite, label: &'static str, cache: &CacheName) -> Result<BuildRecord> {
    let arguments = ["follow", cache.as_str(), "--output", "json"];
    let (_, json) = run(suite, &arguments, Stdio::piped()).await?;
    let followed: Value = serde_json::from_slice(&json).context("prepull printed no JSON")?;
    let execution = followed["execution"].as_str();
    let execution: ExecutionArn = execution.context("prepull printed no execution")?.parse()?;
    let events = history(&suite.clients, &execution).await?;
    let mut build = Build::new(cache.clone(), execution);
    let updates: Vec<_> = events
        .iter()
        .filter_map(|event| build.apply(event))
        .collect();
    let failures = updates.into_iter().filter_map(|update| match update.event {
        BuildEvent::CallFailed {
            stage,
            error,
            cause,
        } => Some((stage, error, cause)),
        _ => None,
    });
    Ok(BuildRecord {
        label,
        failures: failures.collect(),
        build,
        events,
        manifest: None,
    })
}

async fn history(clients: &Clients, execution: &ExecutionArn) -> Result<Vec<HistoryEvent>> {
    let history = clients.sfn.get_execution_history();
    let history = history.execution_arn(execution.as_str());
    let mut pages = history.into_paginator().items().send();
    let mut events = Vec::new();
    while let Some(event) = pages.next().await {
        events.push(event?);
    }
    Ok(events)
}

/// Waits until a cache has no instance, no volume and no unusable snapshot.
///
/// # Errors
/// Fails with a list of the remaining resources.
pub async fn leaves_nothing_behind(clients: &Clients, cache: &str) -> Result<()> {
    let regions = [clients.clone()];
    let (limit, interval) = REMOVAL;
    let deadline = Deadline::after(limit);
    let mut left = BTreeSet::new();
    loop {
        // A call can fail once, for example while EC2 throttles.
        if let Ok(found) = invariants::remaining_resources(&regions, cache).await {
            left = found;
            if left.is_empty() {
                return Ok(());
            }
        }
        let waited = deadline.pause(interval, "the builder to be removed").await;
        waited.with_context(|| format!("the build left resources behind: {left:?}"))?;
    }
}

impl BuildRecord {
    /// Returns the start and the end of the build.
    pub fn span(&self) -> Option<(Timestamp, Timestamp)> {
        self.build.started_at.zip(self.build.ended_at)
    }
}
