//! `cargo xtask demo`: from a push to the first pod that starts without pulling, on one machine.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use prepull_domain::{Architecture, GiB, SnapshotId};
use prepull_tests::localcloud::{ContainerRun, Nodes};
use prepull_tests::{Environment, Image, Layer, World};
use serde_json::{Value, json};

const CACHE: &str = "demo";
const VOLUME: GiB = GiB(10);
const X86: Architecture = Architecture::X86_64;

/// Triggers within so many seconds become one build.
const DEBOUNCE_SECONDS: u32 = 3;

fn main() -> ExitCode {
    let (interrupt, interrupted) = mpsc::channel();
    ctrlc::set_handler(move || {
        // Nobody listens any more when the demonstration is over anyway.
        let _ = interrupt.send(());
    })
    .expect("no other handler is set");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("threads can be started");
    let result = runtime.block_on(async {
        let state = tempfile::Builder::new().prefix("prepull-demo-").tempdir()?;
        let interruption = tokio::task::spawn_blocking(move || interrupted.recv());
        tokio::select! {
            result = demo(state.path()) => result,
            // Dropping the demonstration's future stops the local cloud and waits until it has.
            Ok(Ok(())) = interruption => bail!("interrupted"),
        }
    });
    // The thread that waits for Ctrl-C never ends by itself.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\ndemo failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A heading with the time since the start.
struct Clock(Instant);

impl Clock {
    fn say(&self, text: &str) {
        println!(
            "\n\x1b[1m[{:>4} s] {text}\x1b[0m",
            self.0.elapsed().as_secs()
        );
        let _ = std::io::stdout().flush();
    }
}

async fn demo(state: &std::path::Path) -> Result<()> {
    let clock = Clock(Instant::now());
    clock.say("Starting AWS on this machine");
    let world = World::start(Environment::read()?, state, DEBOUNCE_SECONDS, |cloud| {
        let registries = &cloud.ready.registries;
        json!({CACHE: {
            "images": [
                format!("{}/team/api:v1", registries.ecr.host),
                format!("{}/team/worker:v1", registries.ecr.host),
                format!("{}/team/web:v1", registries.ecr.host),
                format!("{}/tools/report:v1", registries.private.host),
            ],
            "variant": "aws-k8s-1.33",
            "volume": {"size_gib": VOLUME},
            "registry_credentials": {&registries.private.host: {"parameter_name": "/team/registry"}},
        }})
    })
    .await?;
    match world.cloud.ready.nodes {
        Nodes::Real => println!("Nodes are real: each runs its own containerd on an XFS volume."),
        Nodes::Simulated => println!(
            "Nodes are SIMULATED, no container really runs: {}",
            world.cloud.ready.why
        ),
    }

    clock.say("Pushing three images that share a base: two to private ECR, one to a registry with a password");
    let images = Images::make()?;
    for repository in ["team/api", "team/worker", "team/web"] {
        world.create_repository(repository).await?;
    }
    world.ecr.push("team/api", "v1", &images.api).await?;
    world.ecr.push_index("team/web", "v1", &images.web).await?;
    world
        .private
        .push("tools/report", "v1", &images.report)
        .await?;
    let password = &world.cloud.ready.registries.private.password;
    world.store_credentials("/team/registry", password).await?;

    clock.say("terraform apply");
    // Terraform is waited for on a thread of its own, so that Ctrl-C is heard meanwhile.
    tokio::task::block_in_place(|| world.deployment.apply())?;
    println!("Deployed. The cache `{CACHE}` names four images; team/worker:v1 is not pushed yet.");

    clock.say("Pushing team/worker:v1 to ECR: the push starts a build");
    world.ecr.push("team/worker", "v1", &images.worker).await?;
    let first = build_after_push(&world, 0).await?;

    clock.say("Starting the images on an empty node and on a node from the snapshot");
    let references = images_of_cache(&world).await?;
    let empty = world.start_node(None, X86, VOLUME).await?;
    let cached = world.start_node(Some(&first), X86, VOLUME).await?;
    let on_empty = world.run_containers(&empty, &references).await?;
    let on_cached = world.run_containers(&cached, &references).await?;
    print_table(&references, &on_empty, &on_cached);
    world.terminate_node(&empty).await?;
    world.terminate_node(&cached).await?;
    let pulled: u64 = on_cached.values().map(|run| run.pulled_bytes).sum();
    ensure!(
        pulled == 0,
        "the cached node pulled {pulled} bytes: the snapshot lacks something"
    );

    clock.say("Pushing a new team/api:v1, one layer of it changed");
    let before = world.executions(CACHE).await?.len();
    world
        .ecr
        .push("team/api", "v1", &images.api_changed)
        .await?;
    let second = build_after_push(&world, before).await?;
    ensure!(
        first != second,
        "the second build published the same snapshot again"
    );

    clock.say("Triggering a third build, with nothing changed: prepull build demo");
    world.cloud.forget_calls().await?;
    run_cli(&world, &["build", CACHE])?;
    let launched = world.count_calls("RunInstances").await?;
    ensure!(
        launched == 0,
        "an unchanged cache launched {launched} builders"
    );
    println!("No builder was launched, and {second} stays published.");

    clock.say("What an operator sees: prepull snapshots demo; prepull nodeclass demo");
    run_cli(&world, &["snapshots", CACHE])?;
    run_cli(&world, &["nodeclass", CACHE])?;

    clock.say("terraform destroy");
    world.nothing_is_left().await?;
    tokio::task::block_in_place(|| world.deployment.destroy())?;
    world.cloud.stop()?;
    clock.say("Done: every image started on the cached node with 0 bytes pulled, and nothing is left running");
    Ok(())
}

/// The demonstration's images.
struct Images {
    api: Image,
    api_changed: Image,
    worker: Image,
    web: [Image; 2],
    report: Image,
}

impl Images {
    fn make() -> Result<Self> {
        let base = [Layer::busybox()?, Layer::filler("base", 48)?];
        let with = |name: &str, megabytes| -> Result<Vec<Layer>> {
            Ok([base.as_slice(), &[Layer::filler(name, megabytes)?]].concat())
        };
        Ok(Self {
            api: Image::new(X86, &with("api", 32)?, "api v1")?,
            api_changed: Image::new(X86, &with("api, changed", 32)?, "api v1, changed")?,
            worker: Image::new(X86, &with("worker", 24)?, "worker v1")?,
            web: [
                Image::new(X86, &with("web", 16)?, "web v1")?,
                Image::new(Architecture::Arm64, &with("web on arm64", 16)?, "web v1")?,
            ],
            report: Image::new(X86, &with("report", 16)?, "report v1")?,
        })
    }
}

/// Follows the build that a push started, and returns the snapshot that it published.
async fn build_after_push(world: &World, before: usize) -> Result<SnapshotId> {
    let execution = world.await_start(CACHE, before).await?;
    println!(
        "Execution {} was started by the push. prepull follow {CACHE}:",
        execution.name()
    );
    run_cli(world, &["follow", CACHE])?;
    let outcome = world.await_end(&execution).await?;
    ensure!(
        outcome.error.is_empty(),
        "{}: {}",
        outcome.error,
        outcome.cause
    );
    world
        .published(CACHE, X86)
        .await?
        .context("the build published a snapshot")
}

fn run_cli(world: &World, arguments: &[&str]) -> Result<()> {
    let status = tokio::task::block_in_place(|| world.cli().args(arguments).status())?;
    ensure!(
        status.success(),
        "prepull {} ended with {status}",
        arguments.join(" ")
    );
    Ok(())
}

async fn images_of_cache(world: &World) -> Result<Vec<String>> {
    let config = world.stored_config(CACHE).await?;
    let images = config["images"].as_array().context("a cache has images")?;
    Ok(images
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect())
}

fn print_table(
    references: &[String],
    empty: &BTreeMap<String, ContainerRun>,
    cached: &BTreeMap<String, ContainerRun>,
) {
    println!(
        "{:<66} {:>15} {:>10}   {:>15} {:>10}",
        "", "empty node", "", "cached node", ""
    );
    println!(
        "{:<66} {:>15} {:>10}   {:>15} {:>10}",
        "image", "bytes pulled", "seconds", "bytes pulled", "seconds"
    );
    for reference in references {
        let (empty, cached) = (&empty[reference], &cached[reference]);
        println!(
            "{reference:<66} {:>15} {:>10.2}   {:>15} {:>10.2}",
            empty.pulled_bytes, empty.seconds, cached.pulled_bytes, cached.seconds
        );
    }
}
