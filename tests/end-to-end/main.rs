//! End-to-end tests: every user action, against a local cloud with the module deployed to it.
//!
//! All tests share one deployment and run one after the other. Each uses its own caches. After each test, even a failed
//! one, the suite checks that the test left nothing behind.

mod bad_input;
mod builds;
mod clean_up;
mod command_line;
mod dashboard;
mod doctor;
mod fixture;
mod hand_over;
mod launch_templates;
mod permissions;
mod refreshes;
mod sync;
mod terraform;
mod triggers;
mod verification;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::future::BoxFuture;
use libtest_mimic::{Arguments, Completion, Trial};
use prepull_tests::Environment;
use prepull_tests::localcloud::{LocalCloud, Nodes, Ready};
use prepull_tests::suite::report_as_ignored;
use serde_json::json;
use tokio::runtime::Runtime;

use crate::fixture::Fixture;

/// Time limit of one test.
const TIME_OUT: Duration = Duration::from_secs(600);

/// Version of containerd on nodes by default, if it could be downloaded.
pub const NEWEST_CONTAINERD: &str = "2.1";
/// The oldest version that Bottlerocket still has, up to Kubernetes 1.32.
pub const OLDER_CONTAINERD: &str = "1.7";

/// The body of a test.
type Run = fn(Arc<Fixture>) -> BoxFuture<'static, Result<()>>;

/// Lists tests with their names.
macro_rules! tests {
    ($($module:ident::$name:ident),* $(,)?) => {
        [$({
            let run: Run = |fixture| Box::pin($module::$name(fixture));
            (concat!(stringify!($module), "::", stringify!($name)), run)
        }),*]
    };
}

/// The world that all tests share, or the error of its set-up.
type SharedFixture = Arc<OnceLock<Result<Arc<Fixture>, String>>>;

/// Returns all tests that do not look back at the whole run.
fn tests() -> Vec<(&'static str, Run)> {
    Vec::from(tests![
        terraform::second_plan_finds_no_changes,
        terraform::functions_read_every_field_terraform_stores,
        triggers::push_to_ecr_starts_a_build,
        triggers::burst_of_pushes_starts_one_build,
        triggers::builder_boots_during_the_debounce_of_a_push,
        triggers::early_builder_with_old_settings_is_replaced,
        triggers::early_builder_without_a_build_is_removed,
        triggers::schedule_starts_a_build,
        triggers::image_of_a_pull_through_cache_is_imported_and_rebuilt,
        triggers::dual_stack_host_of_ecr_builds_like_the_other,
        triggers::plain_execution_builds_its_cache,
        triggers::invalid_event_is_refused_with_its_reason,
        triggers::push_of_unused_image_starts_nothing,
        builds::containers_start_from_the_snapshot_without_pulling,
        builds::images_come_from_a_mirror,
        builds::snapshot_contains_the_images_and_no_secret,
        builds::every_resource_of_a_build_has_the_users_tags,
        builds::failed_scrub_reports_its_reason,
        builds::references_to_one_image_are_all_present,
        builds::images_with_long_names_fill_several_pages,
        builds::unchanged_cache_launches_no_builder,
        builds::refresh_starts_from_last_snapshot_and_pulls_changes,
        builds::removed_image_leaves_the_snapshot,
        builds::smaller_volume_is_built_from_empty,
        builds::two_architectures_publish_their_own_digests,
        builds::failed_architecture_does_not_stop_the_other,
        builds::builder_without_capacity_uses_another_pool,
        builds::newest_queued_build_supersedes_the_others,
        builds::snapshots_beyond_retention_are_announced_and_deleted,
        refreshes::chain_of_refreshes_matches_a_cold_build,
        refreshes::unpinned_images_lose_their_pins,
        refreshes::damaged_base_is_replaced_by_an_empty_volume,
        verification::small_cache_is_fully_verified_by_default,
        verification::records_are_verified_on_two_releases,
        verification::damaged_snapshots_are_never_published,
        verification::damaged_refresh_is_rebuilt_from_an_empty_volume,
        verification::command_verifies_and_rejects_snapshots,
        bad_input::invalid_configuration_is_refused_before_launch,
        bad_input::unavailable_image_is_refused_before_launch,
        bad_input::failed_pull_publishes_nothing,
        hand_over::candidate_becomes_stable_after_its_soak,
        hand_over::promote_and_reject_decide_about_a_candidate,
        hand_over::rolled_back_snapshot_does_not_return,
        hand_over::pin_holds_and_the_sweep_completes_decisions,
        sync::node_class_follows_promotions_and_roll_backs,
        launch_templates::default_version_follows_promotions_and_roll_backs,
        clean_up::aborted_build_leaves_nothing_and_emits_an_event,
        clean_up::sweep_removes_only_orphans,
        doctor::sound_account_has_no_finding,
        doctor::each_broken_account_has_its_finding_and_remedy,
        doctor::operator_without_permissions_gets_no_result,
        doctor::first_build_of_an_unsound_cache_does_not_start,
        command_line::build_command_reports_snapshot_and_exit_code,
        dashboard::queries_find_their_fields_in_real_logs,
        permissions::cache_with_every_option_is_published_everywhere,
        permissions::unusable_events_end_in_the_dead_letter_queue,
    ])
}

/// Returns the tests that depend on the version of containerd. They also run on the older one.
fn of_containerd() -> Vec<(&'static str, Run)> {
    Vec::from(tests![
        builds::containers_start_from_the_snapshot_without_pulling,
        builds::images_come_from_a_mirror,
        builds::snapshot_contains_the_images_and_no_secret,
        builds::references_to_one_image_are_all_present,
        builds::refresh_starts_from_last_snapshot_and_pulls_changes,
        refreshes::unpinned_images_lose_their_pins,
        verification::small_cache_is_fully_verified_by_default,
    ])
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let crossing = tests![refreshes::chain_crosses_containerd_versions];
    let tests = tests();
    // These checks are about the whole run, so they follow all other tests. A filter does not select them.
    let checks = tests![
        permissions::functions_make_no_refused_call,
        permissions::roles_cannot_touch_foreign_resources,
        permissions::grants_are_used_or_justified,
        permissions::statements_match_the_authorization_reference,
        permissions::second_evaluator_makes_the_same_decisions,
        terraform::destroy_leaves_nothing,
    ];
    if let Err(error) = Environment::read() {
        // Plain `cargo test` also starts this suite. `cargo xtask test` sets the missing variables.
        eprintln!("end-to-end tests are skipped: {error}");
        let names = tests.iter().chain(&crossing).chain(&checks);
        let names = names.map(|(name, _)| *name);
        return report_as_ignored(&arguments, names).exit_code();
    }
    let runtime = Arc::new(Runtime::new().expect("the runtime can start its threads"));
    let world = SharedFixture::default();
    let mut trials = Vec::new();
    for (name, test) in tests {
        trials.push(trial(name, test, &[], &runtime, &world));
    }
    for (name, test) in of_containerd() {
        let name = format!("{name} on containerd {OLDER_CONTAINERD}");
        trials.push(trial(&name, test, &[OLDER_CONTAINERD], &runtime, &world));
    }
    for (name, test) in crossing {
        let versions = &[OLDER_CONTAINERD, NEWEST_CONTAINERD];
        trials.push(trial(name, test, versions, &runtime, &world));
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    let is_filtered = arguments.filter.is_some() || !arguments.skip.is_empty();
    let mut has_failed = conclusion.has_failed();
    let is_selected = |name: &str| {
        let filter = arguments.filter.as_deref();
        filter.is_some_and(|filter| name.contains(filter))
    };
    if world.get().is_some() || arguments.list || checks.iter().any(|(name, _)| is_selected(name)) {
        let trials = checks.map(|(name, test)| {
            // Only a complete run uses every grant.
            let is_ignored = is_filtered && name == "permissions::grants_are_used_or_justified";
            trial(name, test, &[], &runtime, &world).with_ignored_flag(is_ignored)
        });
        let unfiltered = Arguments {
            filter: None,
            skip: Vec::new(),
            exact: false,
            ..arguments
        };
        has_failed |= libtest_mimic::run(&unfiltered, trials.into()).has_failed();
    }
    if let Some(Ok(fixture)) = world.get() {
        has_failed |= !runtime.block_on(stop(&fixture.world.cloud));
    }
    if has_failed {
        return ExitCode::from(101);
    }
    ExitCode::SUCCESS
}

/// Stops the local cloud. Returns whether it found no violation and stopped in order.
async fn stop(cloud: &LocalCloud) -> bool {
    let end = report_checks(cloud).await.and(cloud.stop());
    if let Err(error) = &end {
        eprintln!("{error:#}");
    }
    end.is_ok()
}

/// Prints the numbers of calls that the local cloud checked.
async fn report_checks(cloud: &LocalCloud) -> Result<()> {
    let checks = cloud.checks().await?;
    let total = |counts: &BTreeMap<String, u64>| counts.values().sum::<u64>();
    eprintln!(
        "botocore's models of {} services checked {} requests and {} responses in {:.1} s",
        checks.requests.len(),
        total(&checks.requests),
        total(&checks.responses),
        checks.seconds.values().sum::<f64>(),
    );
    ensure!(
        checks.unchecked.is_empty(),
        "botocore does not have these actions: {:?}",
        checks.unchecked
    );
    Ok(())
}

/// Returns a trial of one test on nodes with the first of these versions of containerd, or with the newest. Without one of
/// them the trial is ignored. The first trial that runs sets up the shared world.
fn trial(
    name: &str,
    test: Run,
    containerd: &'static [&'static str],
    runtime: &Arc<Runtime>,
    world: &SharedFixture,
) -> Trial {
    let (runtime, world) = (Arc::clone(runtime), Arc::clone(world));
    Trial::ignorable_test(name, move || {
        let fixture = world.get_or_init(|| {
            runtime
                .block_on(Fixture::set_up())
                .map(Arc::new)
                .map_err(|error| format!("set-up: {error:#}"))
        });
        let fixture = fixture.clone()?;
        if let Some(obstacle) = obstacle(containerd, &fixture.world.cloud.ready) {
            return Ok(Completion::ignored_with(obstacle));
        }
        runtime
            .block_on(run(test, containerd.first().copied(), fixture))
            .map(|()| Completion::Completed)
            .map_err(|error| format!("{error:#}").into())
    })
}

/// Returns the reason if this machine cannot run a test for these versions of containerd. Simulated nodes have none.
fn obstacle(containerd: &[&str], ready: &Ready) -> Option<String> {
    let has = |version: &&&str| ready.containerd.contains_key(**version);
    let missing = containerd.iter().find(|version| !has(version))?;
    Some(match ready.nodes {
        Nodes::Simulated => format!("nodes are simulated: {}", ready.why),
        Nodes::Real => {
            let here: Vec<_> = ready.containerd.values().map(String::as_str).collect();
            format!(
                "containerd {missing} is not here, only {}. A note of `cargo xtask` contains the reason",
                here.join(", ")
            )
        }
    })
}

/// Runs one test, then checks that it left nothing behind and made no invalid call, even if the test failed.
async fn run(test: Run, containerd: Option<&str>, fixture: Arc<Fixture>) -> Result<()> {
    fixture.world.cloud.shorten_delays().await?;
    fixture
        .world
        .cloud
        .set(json!({"containerd": containerd}))
        .await?;
    let result = tokio::time::timeout(TIME_OUT, test(Arc::clone(&fixture)))
        .await
        .unwrap_or_else(|_| Err(anyhow::anyhow!("test timed out after {TIME_OUT:?}")));
    fixture.world.cloud.reset().await?;
    let left = fixture.world.nothing_is_left().await;
    let respected = fixture.world.models_are_respected().await;
    result
        .and(left)
        .and(respected)
        .with_context(|| format!("see {}", fixture.world.log().display()))
}
