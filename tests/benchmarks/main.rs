//! Measures snapshots by a script, by hand, and by builds of prepull beside their floor, and the gain of nodes.
//!
//! One local cloud with one deployment serves all measurements. Every run measures all ways in sequence, so that noise
//! affects all of them. `cargo xtask bench` starts it.

mod builds;
mod by_hand;
mod floor;
mod images;
mod lambda;
mod nodes;
mod operator;
mod options;
mod push;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use prepull_domain::build::payload::Base;
use prepull_domain::cache::config::{CacheConfig, VolumeConfig};
use prepull_domain::{Architecture, SnapshotId};
use prepull_tests::benchmark::{self, Measurement, Report, Way};
use prepull_tests::localcloud::Nodes;
use prepull_tests::{Environment, World};
use serde_json::{Value, json};

use crate::floor::Puller;
use crate::images::Images;
use crate::options::Options;

const ARCHITECTURE: Architecture = Architecture::X86_64;

/// The cache that Terraform declares. It provides the policies and a template; every run has its own cache.
const PATTERN: &str = "bench";

/// Debounce of the benchmark. The module's default is a minute, which every build would wait.
const DEBOUNCE_SECONDS: u32 = 2;

fn main() -> ExitCode {
    let environment = match Environment::read() {
        Ok(environment) => environment,
        // `cargo test --all-targets` runs this program too.
        Err(error) => {
            eprintln!("the benchmarks are skipped: {error}");
            return ExitCode::SUCCESS;
        }
    };
    let result = Options::parse(std::env::args().skip(1)).and_then(|options| {
        let runtime = tokio::runtime::Runtime::new()?;
        let report = runtime.block_on(measure(environment, &options))?;
        write(&report)
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the benchmarks failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn measure(environment: Environment, options: &Options) -> Result<Report> {
    let state = tempfile::Builder::new()
        .prefix("prepull-bench-")
        .tempdir()?;
    options.check_space(free_bytes(state.path())?)?;
    let images = Images::new(options);
    let world = deploy(environment, state.path(), &images, options).await?;
    let mut runs = Vec::new();
    for number in 1..=options.runs {
        runs.push(run(&world, &images, number, options).await?);
    }
    let pushes = push::section(&world, &images, options).await?;
    let starts = nodes::measure(&world, &images, options).await?;
    world.nothing_is_left().await?;
    let setting = setting(&world, &images).await?;
    // Functions are measured when no build and no node runs.
    let functions = lambda::section(&world, options).await?;
    world.cloud.stop()?;
    Ok(Report {
        command: options.command(),
        date: Timestamp::now().strftime("%F").to_string(),
        setting,
        runs,
        starts,
        sections: vec![pushes, functions],
    })
}

async fn deploy(
    environment: Environment,
    state: &Path,
    images: &Images,
    options: &Options,
) -> Result<World> {
    let world = World::start(environment, state, DEBOUNCE_SECONDS, |cloud| {
        let host = &cloud.ready.registries.ecr.host;
        let names: Vec<_> = images.repositories().collect();
        let references: Vec<_> = names
            .iter()
            .map(|name| images::reference(host, name))
            .collect();
        json!({PATTERN: {
            "images": references,
            "variant": "aws-k8s-1.33",
            // The scripts that the builds are compared with verify nothing.
            "verification": {"level": "off"},
            "volume": {"size_gib": options.volume},
            "schedule": {"enabled": false},
            // Only the measured builds run.
            "rebuild_on_push": false,
        }})
    })
    .await?;
    match world.cloud.ready.nodes {
        Nodes::Real => {}
        Nodes::Simulated => ensure!(
            options.quick,
            "nodes are simulated, so they unpack nothing and run no container: {}. Run the benchmark as root on Linux with loop \
             devices, containerd, runc and XFS, or only check it with --quick",
            world.cloud.ready.why
        ),
    }
    for repository in images.repositories() {
        world.create_repository(&repository).await?;
    }
    eprintln!("generating and pushing {}", images.description());
    tokio::task::block_in_place(|| world.deployment.apply())?;
    images.push(&world).await?;
    Ok(world)
}

/// Measures all ways once.
async fn run(
    world: &World,
    images: &Images,
    number: u32,
    options: &Options,
) -> Result<BTreeMap<Way, Measurement>> {
    let references = Images::for_builds(world);
    let name = format!("{PATTERN}-{number}");
    let cache = declare(world, &name, &references, "off").await?;
    let mut measured = BTreeMap::new();
    let mut note = |way: Way, measurement: Measurement| {
        eprintln!(
            "run {number} of {}, {}: {measurement}",
            options.runs,
            way.title()
        );
        measured.insert(way, measurement);
    };

    let (script, made) = by_hand::script(world, &references, &cache.volume).await?;
    note(Way::Script, script);
    discard(world, &made).await?;

    let (by_hand, made) = by_hand::without_waits(world, &references, &cache.volume).await?;
    note(Way::ByHand, by_hand);
    discard(world, &made).await?;

    let lists = Images::by_base(world);
    for (way, puller) in [
        (Way::ColdFloor, Puller::Ctr),
        (Way::PullerFloor, Puller::HostCtr),
    ] {
        let (floor, made) = floor::measure(world, None, puller, &lists, &cache.volume).await?;
        note(way, floor);
        discard(world, &made).await?;
    }

    let cold = builds::measure(world, &cache).await?;
    let (first, base) = cold
        .published
        .context("the first build published nothing")?;
    ensure!(
        matches!(base, Base::Empty { .. }),
        "the first build had a base: {base:?}"
    );
    note(Way::Cold, cold.measurement);

    images.push_change(world, number).await?;
    let changed = [vec![Images::changing(world)]];
    let (refresh_floor, made) =
        floor::measure(world, Some(&first), Puller::Ctr, &changed, &cache.volume).await?;
    note(Way::RefreshFloor, refresh_floor);
    discard(world, &made).await?;

    let refresh = builds::measure(world, &cache).await?;
    let (second, base) = refresh.published.context("the refresh published nothing")?;
    ensure!(
        matches!(&base, Base::Snapshot { snapshot_id, .. } if *snapshot_id == first),
        "the refresh was built on {base:?}, not on {first}"
    );
    note(Way::Refresh, refresh.measurement);

    let unchanged = builds::measure(world, &cache).await?;
    ensure!(
        unchanged.published.is_none(),
        "an unchanged cache was built"
    );
    note(Way::Unchanged, unchanged.measurement);

    discard(world, &first).await?;
    discard(world, &second).await?;

    let cache = declare(world, &format!("{name}-verified"), &references, "full").await?;
    let cold = builds::measure(world, &cache).await?;
    note(Way::VerifiedCold, cold.measurement);
    images.push_change(world, options.runs + number).await?;
    let refresh = builds::measure(world, &cache).await?;
    note(Way::VerifiedRefresh, refresh.measurement);
    for build in [cold.published, refresh.published] {
        let (snapshot, _) = build.context("a verified build published nothing")?;
        discard(world, &snapshot).await?;
    }
    Ok(measured)
}

/// A cache of the benchmark.
pub struct Cache {
    name: String,
    volume: VolumeConfig,
}

/// Declares a cache without builds, with the level of its verification.
async fn declare(
    world: &World,
    name: &str,
    references: &[String],
    verification: &str,
) -> Result<Cache> {
    let mut config = world.stored_config(PATTERN).await?;
    config["images"] = json!(references);
    config["verification"] = json!({"level": verification});
    world.store_config(name, &config).await?;
    let parsed = CacheConfig::parse(&name.parse()?, &config.to_string())?;
    Ok(Cache {
        name: name.to_owned(),
        volume: parsed.volume,
    })
}

/// Deletes a snapshot. It is a full copy in the local cloud, and the snapshots of many runs would fill the disk.
async fn discard(world: &World, snapshot: &SnapshotId) -> Result<()> {
    let delete = world.clients.ec2.delete_snapshot();
    delete.snapshot_id(snapshot.as_str()).send().await?;
    Ok(())
}

/// Returns the sentences about the machine, the images and the cloud.
async fn setting(world: &World, images: &Images) -> Result<Vec<String>> {
    let settings = world.cloud.settings().await?;
    let seconds = |name: &str| settings[name].as_f64().unwrap_or_default();
    let processors = std::thread::available_parallelism()?;
    let nodes = match world.cloud.ready.nodes {
        Nodes::Real => "each node runs its own containerd on XFS",
        Nodes::Simulated => "**nodes are simulated, so these numbers mean nothing**",
    };
    Ok(vec![
        format!(
            "Everything runs on one machine with {processors} processors, in the local cloud: {nodes}. The cache has {}.",
            images.description()
        ),
        format!(
            "Instances run {} s after their launch, their agents answer {} s later, and snapshots take {} s. On AWS each takes \
             up to minutes, in every column.",
            seconds("pending_seconds"),
            seconds("agent_seconds"),
            seconds("snapshot_seconds")
        ),
        "The script does what aws-samples' snapshot.sh does: it pulls each image for two platforms, one after the other, \
         looks at the agent and at each command every 5 s, and at the instance and the snapshot every 15 s. The 3 min 10 s \
         of its CloudFormation stack are not counted. By hand, one host-ctr command pulls each image, and the person \
         notices every end at once."
            .to_owned(),
        "The floor launches the same instance, pulls with plain ctr in as many lanes as prepull, powers off and snapshots. It \
         plans, checks and scrubs nothing, and polls every 50 ms. prepull pulls with Bottlerocket's host-ctr, which also gets \
         the credentials of ECR, so a second floor pulls with it."
            .to_owned(),
        "The time ends when the snapshot is complete and, with prepull, published. The removal of the instance comes after it."
            .to_owned(),
        "A node's clock starts when EC2 accepts its launch. The local cloud copies the whole volume before that. EBS loads \
         the blocks of a snapshot in the background instead, and only [the model](costs.md#nodes) includes this."
            .to_owned(),
        "Costs are list prices for these durations, with one instance type for every machine. On AWS the durations are longer."
            .to_owned(),
    ])
}

fn write(report: &Report) -> Result<()> {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let markdown = report.markdown();
    println!("{markdown}\n{}", report.calls());
    let json: Value = report.json();
    for (name, content) in [
        ("benchmarks.md", markdown),
        ("benchmarks.json", serde_json::to_string_pretty(&json)?),
        ("benchmarks.svg", benchmark::svg(report)),
    ] {
        let path = directory.join(name);
        std::fs::write(&path, content)?;
        println!("{}", path.display());
    }
    Ok(())
}

/// Returns the free bytes on the disk of `directory`.
fn free_bytes(directory: &Path) -> Result<u64> {
    let df = Command::new("df")
        .args(["--output=avail", "--block-size=1"])
        .arg(directory)
        .output()
        .context("running df")?;
    let text = String::from_utf8(df.stdout)?;
    let free = text.lines().nth(1).unwrap_or_default().trim();
    free.parse().with_context(|| format!("df printed {text:?}"))
}
