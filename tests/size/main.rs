//! The size test: a cache of 200 images whose names have 125 characters, for both architectures.
//!
//! The suite declares the cache with Terraform, builds it, builds it again without changes, and refreshes it after the push
//! of one image. Then it reads the cache with the command, removes an image from the declaration, and builds once more. It
//! writes a table with the duration, the calls, the state transitions and the largest payload of each build.
//!
//! Nodes are simulated, because the suite tests sizes and not content. The end-to-end tests build a sample on real nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use libtest_mimic::{Arguments, Failed, Trial};
use prepull_aws::parameters;
use prepull_aws::sfn::types::{
    ExecutionStatus, HistoryEvent, HistoryEventType, TaskScheduledEventDetails,
};
use prepull_domain::build::payload::Base;
use prepull_domain::cache::config::MAX_IMAGES;
use prepull_domain::pages::MAX_PAGE_BYTES;
use prepull_domain::{Architecture, CacheName, Digest, Manifest, SnapshotId, names};
use prepull_tests::localcloud::Call;
use prepull_tests::suite::report_as_ignored;
use prepull_tests::{Environment, Image, Layer, World, invariants};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

const CACHE: &str = "large";

const NAME_LENGTH: usize = 125;

/// Number of images that are pushed concurrently.
const PUSHES_AT_ONCE: usize = 16;

/// Maximum size of a state's input or output.
///
/// Source: Step Functions developer guide, "Quotas".
const MAX_PAYLOAD_BYTES: usize = 262_144;

const BUILD_TIME_LIMIT: Duration = Duration::from_secs(600);

const POLL_INTERVAL: Duration = Duration::from_millis(200);

const TEST: &str = "cache_of_200_images_stays_within_all_limits";

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let environment = match Environment::read() {
        Ok(environment) => environment,
        // Plain `cargo test` also starts this suite. `cargo xtask test` sets the missing variables.
        Err(error) => {
            eprintln!("the size test is skipped: {error}");
            return report_as_ignored(&arguments, [TEST]).exit_code();
        }
    };
    let trial = Trial::test(TEST, move || {
        let runtime = Runtime::new()?;
        runtime
            .block_on(run(environment))
            .map_err(|error| Failed::from(format!("{error:#}")))
    });
    libtest_mimic::run(&arguments, vec![trial]).exit_code()
}

async fn run(environment: Environment) -> Result<()> {
    let state = tempfile::Builder::new().prefix("prepull-size-").tempdir()?;
    let world = World::start(environment, state.path(), 1, |cloud| {
        declared(&cloud.ready.registries.private.host, MAX_IMAGES)
    })
    .await?;
    let host = world.cloud.ready.registries.private.host.clone();
    let password = world.cloud.ready.registries.private.password.clone();
    world.store_credentials("/team/registry", &password).await?;
    let start = Instant::now();
    stream::iter(0..MAX_IMAGES)
        .map(|position| push(&world, position, 1))
        .buffer_unordered(PUSHES_AT_ONCE)
        .try_collect::<Vec<_>>()
        .await?;
    eprintln!(
        "{MAX_IMAGES} images pushed in {:.0} s",
        start.elapsed().as_secs_f64()
    );
    tokio::task::block_in_place(|| world.deployment.apply())?;

    let mut builds = vec![build(&world, "cold build").await?];
    let first = published(&world).await?;
    for (_, manifest) in first.values() {
        ensure!(manifest.images.len() == MAX_IMAGES, "{manifest:?}");
    }
    check_listings(&world, &first)?;

    builds.push(build(&world, "nothing changed").await?);
    ensure!(
        published(&world).await? == first,
        "the unchanged cache has a new snapshot"
    );

    let digest = push(&world, 7, 2).await?;
    builds.push(build(&world, "refresh: one image changed").await?);
    let second = published(&world).await?;
    for (_, manifest) in second.values() {
        ensure!(
            matches!(manifest.base, Base::Snapshot { .. }),
            "the refresh has no base: {:?}",
            manifest.base
        );
        ensure!(
            manifest.images[7].digest == digest,
            "image 7 has its old digest"
        );
    }
    check_listings(&world, &second)?;

    world.cloud.forget_calls().await?;
    world.deployment.declare(&declared(&host, MAX_IMAGES - 1))?;
    tokio::task::block_in_place(|| world.deployment.apply())?;
    check_order_of_pages(&world.cloud.calls().await?)?;
    builds.push(build(&world, "one image removed").await?);
    let third = published(&world).await?;
    for (_, manifest) in third.values() {
        ensure!(
            manifest.images.len() == MAX_IMAGES - 1,
            "the removed image is in the manifest"
        );
    }
    world.nothing_is_left().await?;
    write(&builds, pages(&world).await?)?;
    tokio::task::block_in_place(|| world.deployment.destroy())?;
    world.cloud.stop()
}

/// Returns the repository of an image. With the host and the tag, its name has [`NAME_LENGTH`] characters.
fn repository(host: &str, position: usize) -> String {
    let rest = format!("{host}/size//{position:03}:v1").len();
    format!("size/{}/{position:03}", "p".repeat(NAME_LENGTH - rest))
}

fn declared(host: &str, images: usize) -> Value {
    let images: Vec<_> = (0..images)
        .map(|position| format!("{host}/{}:v1", repository(host, position)))
        .collect();
    json!({CACHE: {
        "images": images,
        "architectures": ["x86_64", "arm64"],
        "variant": "aws-k8s-1.33",
        "verification": {"level": "off"},
        "volume": {"size_gib": 4},
        // As on a builder with 8 vCPUs, the size of the module's default instance types.
        "parallel_pulls": 9,
        "registry_credentials": {host: {"parameter_name": "/team/registry"}},
        "retain_snapshots": 1,
        "retain_days": 0,
        "schedule": {"enabled": false},
    }})
}

/// Pushes an image for both architectures. All images have the same layer, and each has its own configuration.
async fn push(world: &World, position: usize, version: u32) -> Result<Digest> {
    let host = &world.cloud.ready.registries.private.host;
    let repository = repository(host, position);
    let layers = [Layer::filler("size", 0)?];
    let images = Architecture::ALL.map(|architecture| {
        let message = format!("{position} {version} {architecture}");
        Image::new(architecture, &layers, &message)
    });
    let images = images.into_iter().collect::<Result<Vec<_>>>()?;
    let (reference, digest) = world.private.push_index(&repository, "v1", &images).await?;
    ensure!(
        reference.len() == NAME_LENGTH,
        "{reference} has {} characters",
        reference.len()
    );
    Ok(digest)
}

/// The figures of a build.
struct Build {
    label: &'static str,
    seconds: f64,
    transitions: usize,
    largest_payload: usize,
    /// AWS calls by stage.
    calls: BTreeMap<String, usize>,
    /// `PutParameter` and `DeleteParameter` calls.
    parameter_changes: usize,
}

async fn build(world: &World, label: &'static str) -> Result<Build> {
    world.cloud.forget_calls().await?;
    let start = Instant::now();
    let execution = world.start_build(CACHE).await?;
    let outcome = world
        .await_end_within(&execution, BUILD_TIME_LIMIT, POLL_INTERVAL)
        .await?;
    let seconds = start.elapsed().as_secs_f64();
    ensure!(
        outcome.status == ExecutionStatus::Succeeded,
        "{label}: {}: {}",
        outcome.error,
        outcome.cause
    );
    let history = world.history(&execution).await?;
    let calls = world.cloud.calls().await?;
    let mut by_stage = BTreeMap::new();
    for stage in calls.iter().filter_map(Call::stage) {
        *by_stage.entry(stage.to_owned()).or_default() += 1;
    }
    let changes = ["PutParameter", "DeleteParameter"];
    let build = Build {
        label,
        seconds,
        transitions: transitions(&history),
        largest_payload: history.iter().map(payload).max().unwrap_or_default(),
        calls: by_stage,
        parameter_changes: calls
            .iter()
            .filter(|call| call.stage().is_some() && changes.contains(&call.action.as_str()))
            .count(),
    };
    eprintln!("{label}: {seconds:.0} s");
    ensure!(
        build.largest_payload <= MAX_PAYLOAD_BYTES,
        "{label}: a payload has {} bytes",
        build.largest_payload
    );
    Ok(build)
}

/// Returns the number of entered states and of retries.
fn transitions(history: &[HistoryEvent]) -> usize {
    let retries = history
        .iter()
        .filter(|event| {
            matches!(
                event.r#type(),
                HistoryEventType::TaskFailed | HistoryEventType::TaskTimedOut
            )
        })
        .count();
    let entered = history
        .iter()
        .filter(|event| event.state_entered_event_details().is_some())
        .count();
    entered + retries
}

/// Returns the size of the largest payload in an event.
fn payload(event: &HistoryEvent) -> usize {
    [
        event.state_entered_event_details().and_then(|d| d.input()),
        event.state_exited_event_details().and_then(|d| d.output()),
        event
            .task_scheduled_event_details()
            .map(TaskScheduledEventDetails::parameters),
        event
            .task_succeeded_event_details()
            .and_then(|d| d.output()),
    ]
    .into_iter()
    .flatten()
    .map(str::len)
    .max()
    .unwrap_or_default()
}

type Published = BTreeMap<Architecture, (SnapshotId, Manifest)>;

/// Returns the published snapshots, after a check of the pages of their manifests: no others exist, and all of them are
/// standard parameters.
async fn published(world: &World) -> Result<Published> {
    let cache: CacheName = CACHE.parse()?;
    let mut published = Published::new();
    for architecture in Architecture::ALL {
        let found = invariants::pointer_is_valid(&world.clients, &cache, architecture).await?;
        let first = names::manifest_parameter(&cache, architecture, &found.0);
        let path = names::manifests_path(&cache, architecture);
        let parameters = parameters::below(&world.clients, &path).await?;
        for (name, value) in &parameters {
            ensure!(name.starts_with(&first), "{name} is of no snapshot");
            ensure!(
                value.len() <= MAX_PAGE_BYTES,
                "{name} has {} bytes",
                value.len()
            );
        }
        published.insert(architecture, found);
    }
    Ok(published)
}

/// Checks that the command lists every image.
fn check_listings(world: &World, published: &Published) -> Result<()> {
    let mut images = BTreeSet::new();
    for (id, manifest) in published.values() {
        images.insert(id.to_string());
        images.extend(manifest.images.iter().map(|i| i.reference.to_string()));
    }
    let list = |arguments: &[&str]| -> Result<String> {
        let output = tokio::task::block_in_place(|| world.cli().args(arguments).output())?;
        ensure!(
            output.status.success(),
            "prepull {} failed: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?)
    };
    let snapshots = list(&["snapshots", CACHE, "--output", "json"])?;
    for image in &images {
        ensure!(snapshots.contains(image), "`snapshots` omits {image}");
    }
    let status = list(&["status", CACHE])?;
    for (id, _) in published.values() {
        ensure!(
            status.contains(id.as_str()),
            "`status` omits {id}: {status}"
        );
    }
    Ok(())
}

/// Checks that Terraform wrote the new pages before the first page, and deleted the old pages after it.
fn check_order_of_pages(calls: &[Call]) -> Result<()> {
    let first = format!("{}/{CACHE}", names::CONFIG_PATH);
    let changes: Vec<_> = calls
        .iter()
        .filter(|call| ["PutParameter", "DeleteParameter"].contains(&call.action.as_str()))
        .filter_map(|call| Some((call.action.as_str(), call.resource.as_deref()?)))
        .filter(|(_, name)| name.starts_with(&first))
        .collect();
    let at = changes
        .iter()
        .position(|(_, name)| *name == first)
        .context("Terraform did not change the first page")?;
    let (before, after) = (&changes[..at], &changes[at + 1..]);
    ensure!(
        !before.is_empty() && before.iter().all(|(action, _)| *action == "PutParameter"),
        "before the first page: {before:?}"
    );
    ensure!(
        after.len() == before.len() && after.iter().all(|(action, _)| *action == "DeleteParameter"),
        "after the first page: {after:?}"
    );
    Ok(())
}

/// Returns the numbers of parameters of the configuration and of a manifest.
async fn pages(world: &World) -> Result<(usize, usize)> {
    let below = async |path: &str| parameters::below(&world.clients, path).await;
    let path = names::manifests_path(&CACHE.parse()?, Architecture::X86_64);
    Ok((
        below(names::CONFIG_PATH).await?.len(),
        below(&path).await?.len(),
    ))
}

/// Prints the table, writes it to a file, and prints the path of the file.
fn write(builds: &[Build], (configuration, manifest): (usize, usize)) -> Result<()> {
    let mut table = "| build | seconds | transitions | largest payload in bytes | written or deleted parameters | AWS \
                     calls by stage |\n|---|---:|---:|---:|---:|---|\n"
        .to_owned();
    for build in builds {
        let calls: Vec<_> = build
            .calls
            .iter()
            .map(|(stage, count)| format!("{stage} {count}"))
            .collect();
        writeln!(
            table,
            "| {} | {:.0} | {} | {} | {} | {} |",
            build.label,
            build.seconds,
            build.transitions,
            build.largest_payload,
            build.parameter_changes,
            calls.join(", ")
        )?;
    }
    writeln!(
        table,
        "\nThe configuration has {configuration} pages, and the manifest of each architecture has {manifest}."
    )?;
    println!("{table}");
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("size.md");
    std::fs::write(
        &path,
        format!("# A cache of {MAX_IMAGES} images\n\n{table}"),
    )?;
    println!("report: {}", path.display());
    Ok(())
}
