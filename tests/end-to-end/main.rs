//! Everything that a user does, against a local cloud that the module is deployed to.
//!
//! All tests share one deployment and run one after the other, each with caches of its own. After each one, whether it
//! passed or not, the world is asked whether anything is left.

mod bad_input;
mod builds;
mod clean_up;
mod command_line;
mod fixture;
mod permissions;
mod refreshes;
mod terraform;
mod triggers;

use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::future::BoxFuture;
use libtest_mimic::{Arguments, Trial};
use prepull_tests::Environment;
use tokio::runtime::Runtime;

use crate::fixture::Fixture;

/// How long one test may take before it counts as hung.
const TIME_OUT: Duration = Duration::from_secs(600);

/// What shows that a test's name, which is a promise, is kept.
type Run = fn(Arc<Fixture>) -> BoxFuture<'static, Result<()>>;

/// Collects tests under their own names.
macro_rules! tests {
    ($($module:ident::$name:ident),* $(,)?) => {
        [$({
            let run: Run = |fixture| Box::pin($module::$name(fixture));
            (concat!(stringify!($module), "::", stringify!($name)), run)
        }),*]
    };
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    if let Err(error) = Environment::read() {
        // Plain `cargo test` comes by here too. `cargo xtask test` always sets what is missing.
        println!("end-to-end tests are not run: {error}");
        return ExitCode::SUCCESS;
    }
    arguments.test_threads = Some(1);
    let tests = tests![
        terraform::a_second_plan_has_no_changes,
        terraform::what_terraform_stores_is_what_the_functions_read,
        triggers::a_push_to_ecr_starts_a_build,
        triggers::a_burst_of_pushes_becomes_one_build,
        triggers::a_schedule_that_fires_starts_a_build,
        triggers::a_plain_execution_with_a_cache_builds_it,
        triggers::an_event_that_is_none_is_refused_with_its_reason,
        triggers::a_push_that_no_cache_names_starts_nothing,
        builds::containers_start_from_the_snapshot_without_pulling,
        builds::the_snapshot_holds_no_secret_and_keeps_the_images,
        builds::an_unchanged_cache_launches_no_builder,
        builds::a_refresh_starts_from_the_last_snapshot_and_pulls_what_changed,
        builds::an_image_that_left_the_cache_leaves_the_snapshot,
        builds::two_architectures_give_two_snapshots_with_their_platforms_digests,
        builds::one_architecture_that_fails_does_not_stop_the_other,
        builds::a_builder_without_capacity_is_tried_elsewhere,
        builds::of_builds_that_wait_only_the_newest_goes_on,
        builds::old_snapshots_beyond_retention_are_deleted,
        refreshes::a_chain_of_refreshes_holds_what_a_build_from_nothing_would,
        refreshes::a_base_that_is_damaged_is_left_for_an_empty_volume,
        bad_input::a_wrong_configuration_is_refused_before_anything_is_launched,
        bad_input::an_image_that_cannot_be_had_is_refused_before_anything_is_launched,
        bad_input::a_volume_smaller_than_the_published_snapshot_is_refused,
        bad_input::a_failed_pull_publishes_nothing,
        clean_up::an_aborted_build_leaves_nothing_and_is_announced,
        clean_up::the_sweep_removes_orphans_and_nothing_else,
        command_line::build_tells_the_snapshot_and_the_failure_by_exit_code,
        permissions::a_cache_with_every_option_is_built_and_published_everywhere,
        permissions::what_no_function_can_use_ends_in_the_dead_letter_queue,
        permissions::no_call_was_refused,
        permissions::no_role_may_touch_what_is_foreign,
        permissions::every_grant_is_used_or_justified,
        terraform::destroy_leaves_nothing,
    ];
    let runtime = Arc::new(Runtime::new().expect("threads can be started"));
    let world: Arc<OnceLock<Result<Arc<Fixture>, String>>> = Arc::default();
    let trials = tests.into_iter().map(|(name, test)| {
        let (runtime, world) = (Arc::clone(&runtime), Arc::clone(&world));
        Trial::test(name, move || {
            let fixture = world.get_or_init(|| {
                runtime
                    .block_on(Fixture::set_up())
                    .map(Arc::new)
                    .map_err(|error| format!("set-up: {error:#}"))
            });
            let fixture = fixture.clone()?;
            runtime
                .block_on(run(test, fixture))
                .map_err(|error| format!("{error:#}").into())
        })
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    if let Some(Ok(fixture)) = world.get()
        && let Err(error) = fixture.world.cloud.stop()
    {
        eprintln!("{error:#}");
        return ExitCode::FAILURE;
    }
    conclusion.exit_code()
}

/// Runs one test and then, however it ended, holds the world to it that nothing is left.
async fn run(test: Run, fixture: Arc<Fixture>) -> Result<()> {
    let result = tokio::time::timeout(TIME_OUT, test(Arc::clone(&fixture)))
        .await
        .unwrap_or_else(|_| Err(anyhow::anyhow!("it still runs after {TIME_OUT:?}")));
    fixture.world.cloud.reset().await?;
    let left = fixture.world.nothing_is_left().await;
    result
        .and(left)
        .with_context(|| format!("see {}", fixture.world.log().display()))
}
