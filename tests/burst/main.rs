//! A burst of pushes: what a busy day of a whole company sends, within a minute.
//!
//! Every cache is built once. Then images are pushed to private ECR, far more often than anything could be built, and
//! when all that followed has ended, what became of it is read back from AWS's own records: histories of executions,
//! the history of each pointer, manifests ([`aftermath`]). The tests hold that to the promises of coalescing; the
//! [`report`] says what the burst would have cost, and how long the last pushes took to reach the nodes.
//!
//! Nodes are simulated, so that twenty builds run side by side: what is tried here is how many builds there are.

mod burst;
mod expectation;
mod report;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Result, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use prepull_aws::sfn::types::ExecutionStatus;
use prepull_tests::Environment;
use tokio::runtime::Runtime;

use crate::expectation::Expectation;

/// What shows that a test's name, which is a promise, is kept.
type Check = fn(&Expectation) -> Result<()>;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let environment = match Environment::read() {
        Ok(environment) => environment,
        // Plain `cargo test` comes by here too. `cargo xtask test` always sets what is missing.
        Err(error) => {
            eprintln!("the burst of pushes is skipped: {error}");
            return ExitCode::SUCCESS;
        }
    };
    let runtime = Runtime::new().expect("threads can be started");
    let aftermath = match runtime.block_on(burst::rage(environment)) {
        Ok(aftermath) => Arc::new(aftermath),
        Err(error) => {
            eprintln!("the burst: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let checks: [(&str, Check); 7] = [
        (
            "the_last_push_is_in_the_published_snapshot",
            the_last_push_is_in_the_published_snapshot,
        ),
        (
            "at_most_one_build_of_a_cache_runs",
            at_most_one_build_of_a_cache_runs,
        ),
        (
            "publication_never_goes_backwards",
            publication_never_goes_backwards,
        ),
        ("every_execution_succeeds", every_execution_succeeds),
        ("no_event_is_a_dead_letter", no_event_is_a_dead_letter),
        ("nothing_is_left", nothing_is_left),
        (
            "no_execution_launches_two_builders",
            no_execution_launches_two_builders,
        ),
    ];
    let trials = checks.map(|(name, check)| {
        let aftermath = Arc::clone(&aftermath);
        Trial::test(name, move || {
            check(&aftermath).map_err(|error| Failed::from(format!("{error:#}")))
        })
    });
    let conclusion = libtest_mimic::run(&arguments, trials.into());
    if let Err(error) = report::write(&aftermath) {
        eprintln!("{error:#}");
        return ExitCode::FAILURE;
    }
    conclusion.exit_code()
}

fn the_last_push_is_in_the_published_snapshot(aftermath: &Expectation) -> Result<()> {
    for cache in &aftermath.caches {
        ensure!(
            cache.held == cache.pushed,
            "{} published {:?}, but {:?} were pushed last",
            cache.name,
            cache.held,
            cache.pushed
        );
    }
    Ok(())
}

fn at_most_one_build_of_a_cache_runs(aftermath: &Expectation) -> Result<()> {
    for cache in &aftermath.caches {
        let mut builds: Vec<_> = aftermath
            .builds()
            .filter(|(execution, _)| execution.cache == cache.name)
            .map(|(execution, builder)| (builder.launched_at, execution))
            .collect();
        builds.sort_by_key(|(launched_at, _)| *launched_at);
        for pair in builds.windows(2) {
            let ((_, earlier), (launched_at, later)) = (pair[0], pair[1]);
            ensure!(
                earlier.ended_at <= launched_at,
                "{} launched its builder at {launched_at}, and {} ended at {} only",
                later.name,
                earlier.name,
                earlier.ended_at
            );
        }
    }
    Ok(())
}

fn publication_never_goes_backwards(aftermath: &Expectation) -> Result<()> {
    for cache in &aftermath.caches {
        for pair in cache.publications.windows(2) {
            ensure!(
                pair[0].planned_at < pair[1].planned_at,
                "{} went from the plan of {} to that of {}",
                cache.name,
                pair[0].planned_at,
                pair[1].planned_at
            );
        }
    }
    Ok(())
}

fn every_execution_succeeds(aftermath: &Expectation) -> Result<()> {
    for execution in &aftermath.executions {
        ensure!(
            execution.status == ExecutionStatus::Succeeded,
            "{} ended {}: {}",
            execution.name,
            execution.status,
            execution.cause
        );
    }
    Ok(())
}

fn no_event_is_a_dead_letter(aftermath: &Expectation) -> Result<()> {
    ensure!(
        aftermath.dead_letters.is_empty(),
        "these were not delivered: {:?}",
        aftermath.dead_letters
    );
    Ok(())
}

fn nothing_is_left(aftermath: &Expectation) -> Result<()> {
    ensure!(
        aftermath.left_behind.is_none(),
        "{}",
        aftermath.left_behind.as_deref().unwrap_or_default()
    );
    Ok(())
}

fn no_execution_launches_two_builders(aftermath: &Expectation) -> Result<()> {
    for (execution, builder) in aftermath.builds() {
        ensure!(
            builder.instances == 1,
            "{} launched {} builders",
            execution.name,
            builder.instances
        );
    }
    Ok(())
}
