//! The burst test: the pushes of a whole company's busy day within one minute.
//!
//! The suite builds every cache once. Then it pushes images to private ECR far faster than builds can run. When all
//! executions have ended, it reads the records of AWS: execution histories, pointer histories and manifests
//! ([`observations`]). The tests check the guarantees of debounce and queue. The [`report`] shows the cost of the burst on
//! AWS, and the delay from the last pushes to the nodes.
//!
//! Nodes are simulated so that twenty builds can run concurrently. The suite tests the number of builds, not their content.

mod burst;
mod observations;
mod report;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Result, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use prepull_aws::sfn::types::ExecutionStatus;
use prepull_tests::Environment;
use prepull_tests::suite::report_as_ignored;
use tokio::runtime::Runtime;

use crate::observations::Observations;

/// The body of a test.
type Check = fn(&Observations) -> Result<()>;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let checks: [(&str, Check); 7] = [
        (
            "last_push_is_in_the_published_snapshot",
            last_push_is_in_the_published_snapshot,
        ),
        (
            "builds_of_a_cache_never_overlap",
            builds_of_a_cache_never_overlap,
        ),
        (
            "publication_never_goes_backwards",
            publication_never_goes_backwards,
        ),
        ("executions_all_succeed", executions_all_succeed),
        (
            "dead_letter_queue_stays_empty",
            dead_letter_queue_stays_empty,
        ),
        ("burst_leaves_nothing_behind", burst_leaves_nothing_behind),
        (
            "executions_launch_at_most_one_builder",
            executions_launch_at_most_one_builder,
        ),
    ];
    let environment = match Environment::read() {
        Ok(environment) => environment,
        // Plain `cargo test` also starts this suite. `cargo xtask test` sets the missing variables.
        Err(error) => {
            eprintln!("the burst test is skipped: {error}");
            let names = checks.iter().map(|(name, _)| *name);
            return report_as_ignored(&arguments, names).exit_code();
        }
    };
    let runtime = Runtime::new().expect("the runtime can start its threads");
    let observed = match runtime.block_on(burst::run(environment)) {
        Ok(observed) => Arc::new(observed),
        Err(error) => {
            eprintln!("the burst failed: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let trials = checks.map(|(name, check)| {
        let observed = Arc::clone(&observed);
        Trial::test(name, move || {
            check(&observed).map_err(|error| Failed::from(format!("{error:#}")))
        })
    });
    let conclusion = libtest_mimic::run(&arguments, trials.into());
    if let Err(error) = report::write(&observed) {
        eprintln!("{error:#}");
        return ExitCode::FAILURE;
    }
    conclusion.exit_code()
}

fn last_push_is_in_the_published_snapshot(observed: &Observations) -> Result<()> {
    for cache in &observed.caches {
        ensure!(
            cache.published == cache.pushed,
            "{} published {:?}, but the last pushes are {:?}",
            cache.name,
            cache.published,
            cache.pushed
        );
    }
    Ok(())
}

fn builds_of_a_cache_never_overlap(observed: &Observations) -> Result<()> {
    for cache in &observed.caches {
        let mut builds: Vec<_> = observed
            .builds()
            .filter(|(execution, _)| execution.cache == cache.name)
            .map(|(execution, builder)| (builder.launched_at, execution))
            .collect();
        builds.sort_by_key(|(launched_at, _)| *launched_at);
        for pair in builds.windows(2) {
            let ((_, earlier), (launched_at, later)) = (pair[0], pair[1]);
            ensure!(
                earlier.ended_at <= launched_at,
                "{} launched its builder at {launched_at}, before {} ended at {}",
                later.name,
                earlier.name,
                earlier.ended_at
            );
        }
    }
    Ok(())
}

fn publication_never_goes_backwards(observed: &Observations) -> Result<()> {
    for cache in &observed.caches {
        for pair in cache.publications.windows(2) {
            ensure!(
                pair[0].planned_at < pair[1].planned_at,
                "the pointer of {} went from the plan of {} to the plan of {}",
                cache.name,
                pair[0].planned_at,
                pair[1].planned_at
            );
        }
    }
    Ok(())
}

fn executions_all_succeed(observed: &Observations) -> Result<()> {
    for execution in &observed.executions {
        ensure!(
            execution.status == ExecutionStatus::Succeeded,
            "{} ended with {}: {}",
            execution.name,
            execution.status,
            execution.cause
        );
    }
    Ok(())
}

fn dead_letter_queue_stays_empty(observed: &Observations) -> Result<()> {
    ensure!(
        observed.dead_letters.is_empty(),
        "the dead-letter queue contains {:?}",
        observed.dead_letters
    );
    Ok(())
}

fn burst_leaves_nothing_behind(observed: &Observations) -> Result<()> {
    ensure!(
        observed.left_behind.is_none(),
        "{}",
        observed.left_behind.as_deref().unwrap_or_default()
    );
    Ok(())
}

fn executions_launch_at_most_one_builder(observed: &Observations) -> Result<()> {
    for (execution, builder) in observed.builds() {
        ensure!(
            builder.instances == 1,
            "{} launched {} builders",
            execution.name,
            builder.instances
        );
    }
    Ok(())
}
