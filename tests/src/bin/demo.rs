//! `cargo xtask demo`: from an image push to containers that start without pulling, on one machine.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use jiff::Timestamp;
use prepull_domain::{Architecture, GiB, SnapshotId};
use prepull_tests::cluster::Cluster;
use prepull_tests::localcloud::{ContainerRun, Nodes};
use prepull_tests::{Environment, Image, Layer, World};
use serde_json::{Value, json};

const CACHE: &str = "demo";
const VOLUME: GiB = GiB(10);
const X86: Architecture = Architecture::X86_64;
const WORKER: &str = "team/worker:v1";

/// Debounce window, in seconds.
const DEBOUNCE_SECONDS: u32 = 3;

fn main() -> ExitCode {
    let (interrupt, interrupted) = mpsc::channel();
    ctrlc::set_handler(move || {
        // If the demo is already over, no receiver is left and the error does not matter.
        let _ = interrupt.send(());
    })
    .expect("no other handler is set");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("the runtime can start its threads");
    let result = runtime.block_on(async {
        let state = tempfile::Builder::new().prefix("prepull-demo-").tempdir()?;
        let interruption = tokio::task::spawn_blocking(move || interrupted.recv());
        tokio::select! {
            result = demo(state.path()) => result,
            // Dropping the demo's future stops the local cloud and waits until it has stopped.
            Ok(Ok(())) = interruption => bail!("interrupted"),
        }
    });
    // The thread that waits for Ctrl-C never ends, so the process exits explicitly.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\ndemo failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Prints headings with the time since the start.
struct Headings(Instant);

impl Headings {
    fn print_heading(&self, text: &str) {
        println!(
            "\n\x1b[1m[{:>4} s] {text}\x1b[0m",
            self.0.elapsed().as_secs()
        );
        let _ = std::io::stdout().flush();
    }
}

async fn demo(state: &std::path::Path) -> Result<()> {
    let headings = Headings(Instant::now());
    headings.print_heading("Start the local cloud");
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
        Nodes::Real => {
            // The keys are strings, so a containerd 2.10 would come before 2.9. Debian has neither.
            let newest = world.cloud.ready.containerd.values().next_back();
            let version = newest.context("real nodes have a version of containerd")?;
            println!("Real nodes: each runs its own containerd {version} on an XFS volume.");
        }
        Nodes::Simulated => println!(
            "SIMULATED nodes: no container runs. Reason: {}",
            world.cloud.ready.why
        ),
    }

    headings.print_heading(
        "Push three images: two to private ECR, one to a password-protected registry",
    );
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

    headings.print_heading("Deploy: terraform apply");
    // `block_in_place` lets another thread handle Ctrl-C while Terraform runs.
    tokio::task::block_in_place(|| world.deployment.apply())?;
    println!("Cache `{CACHE}` contains four images. team/worker:v1 is not pushed yet.");

    headings.print_heading("First build: push team/worker:v1 to ECR");
    world.ecr.push("team/worker", "v1", &images.worker).await?;
    let first = build_after_push(&world, 0).await?;

    headings.print_heading("Compare: start the images on an empty node and on a cached node");
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
        "the cached node pulled {pulled} bytes, so the snapshot is incomplete"
    );

    headings.print_heading("Refresh: push team/api:v1 with one changed layer");
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

    headings.print_heading("Unchanged cache: prepull build demo");
    world.cloud.forget_calls().await?;
    run_cli(&world, &["build", CACHE])?;
    let launched = world.count_calls("RunInstances").await?;
    ensure!(
        launched == 0,
        "an unchanged cache launched {launched} builders"
    );
    println!("No builder was launched. The pointer still holds {second}.");

    headings.print_heading("Second part: hand the snapshots to the nodes of a cluster");
    let cluster = HandOver::start(&world, &headings).await?;
    cluster.promote_after_a_soak(&images.api).await?;
    cluster.roll_back_a_bad_snapshot().await?;

    headings.print_heading("Inspect: prepull snapshots demo; prepull nodeclass demo");
    run_cli(&world, &["snapshots", CACHE])?;
    run_cli(&world, &["nodeclass", CACHE])?;

    headings.print_heading("Remove: terraform destroy");
    world.nothing_is_left().await?;
    tokio::task::block_in_place(|| world.deployment.destroy())?;
    world.cloud.stop()?;
    headings.print_heading("Done: the cached node pulled 0 bytes, and nothing is left running");
    Ok(())
}

/// A cluster whose node class follows the pointer.
struct HandOver<'a> {
    world: &'a World,
    headings: &'a Headings,
    cluster: Cluster,
    class: String,
}

impl<'a> HandOver<'a> {
    /// Starts a cluster with the node class that `prepull nodeclass` prints.
    async fn start(world: &'a World, headings: &'a Headings) -> Result<Self> {
        let cluster = Cluster::start().await?;
        let mut nodeclass = cluster.cli(world);
        nodeclass.args(["nodeclass", CACHE, "--output", "json"]);
        let output = tokio::task::block_in_place(|| nodeclass.output())?;
        ensure!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let class = cluster.create_class(serde_json::from_slice(&output.stdout)?, CACHE, X86)?;
        println!("Node class {class} opted in with annotations. The cluster's API is a stand-in.");
        Ok(Self {
            world,
            headings,
            cluster,
            class,
        })
    }

    fn sync(&self) -> Result<SnapshotId> {
        let mut command = self.cluster.cli(self.world);
        command.args(["sync", "--apply"]);
        let status = tokio::task::block_in_place(|| command.status())?;
        ensure!(status.success(), "prepull sync failed with {status}");
        Ok(self.cluster.data_volume(&self.class)?.0)
    }

    /// Pushes an image, and starts a node from the node class after the promotion.
    async fn promote_after_a_soak(&self, image: &Image) -> Result<()> {
        let (world, headings) = (self.world, self.headings);
        headings.print_heading("Push team/api:v1: the new snapshot soaks for a minute");
        let mut config = world.stored_config(CACHE).await?;
        config["publication"]["promotion"] = json!({"mode": "soak", "soak_minutes": 1});
        world.store_config(CACHE, &config).await?;
        let stable = self.sync()?;
        let before = world.executions(CACHE).await?.len();
        world.ecr.push("team/api", "v1", image).await?;
        let published = build_after_push(world, before).await?;
        ensure!(published == stable, "nodes must not use a candidate");
        ensure!(self.sync()? == stable);

        headings.print_heading("The soak ends: the sweep promotes, and prepull sync follows");
        let pointer = world.pointer(CACHE, X86).await?;
        let due = pointer.promote_at.context("the candidate does not soak")?;
        let rest = due.duration_since(Timestamp::now());
        tokio::time::sleep(rest.try_into().unwrap_or_default()).await;
        // The schedule calls it every hour.
        let answer = world
            .invoke("clean-up", &json!({"source": "sweep"}))
            .await?;
        ensure!(answer.get("errorType").is_none(), "{answer}");
        let promoted = self.sync()?;
        ensure!(promoted != stable, "the node class has its old snapshot");
        let pulled = self.pulled_on_a_new_node().await?;
        ensure!(pulled == 0, "a new node pulled {pulled} bytes");
        println!("A node from node class {} pulled 0 bytes.", self.class);
        Ok(())
    }

    /// Starts a node as Karpenter would, runs all images, and returns the bytes that it pulled.
    async fn pulled_on_a_new_node(&self) -> Result<u64> {
        let world = self.world;
        let references = self.references().await?;
        let (snapshot, size) = self.cluster.data_volume(&self.class)?;
        let node = world.start_node(Some(&snapshot), X86, size).await?;
        let runs = world.run_containers(&node, &references).await?;
        world.terminate_node(&node).await?;
        Ok(runs.values().map(|run| run.pulled_bytes).sum())
    }

    /// The images of the pods, also if the cache lacks one.
    async fn references(&self) -> Result<Vec<String>> {
        let host = &self.world.cloud.ready.registries.ecr.host;
        let mut references = images_of_cache(self.world).await?;
        let worker = format!("{host}/{WORKER}");
        if !references.contains(&worker) {
            references.push(worker);
        }
        Ok(references)
    }

    /// Publishes a snapshot without an image that the pods need, and rolls it back with one command.
    async fn roll_back_a_bad_snapshot(&self) -> Result<()> {
        let (world, headings) = (self.world, self.headings);
        headings.print_heading("A bad snapshot: someone removes team/worker from the cache");
        let good = self.sync()?;
        let mut config = world.stored_config(CACHE).await?;
        let images = config["images"].as_array_mut();
        let images = images.context("the configuration has no images")?;
        images.retain(|image| !image.as_str().is_some_and(|image| image.ends_with(WORKER)));
        config["publication"]["promotion"] = json!({"mode": "immediate"});
        world.store_config(CACHE, &config).await?;
        run_cli(world, &["build", CACHE])?;
        let bad = self.sync()?;
        ensure!(bad != good);
        let pulled = self.pulled_on_a_new_node().await?;
        ensure!(pulled > 0, "the snapshot should lack an image");
        println!("A new node pulled {pulled} bytes, because its snapshot lacks team/worker.");

        headings.print_heading("Roll it back: prepull rollback demo; prepull sync");
        run_cli(
            world,
            &["rollback", CACHE, "--reason", "team/worker is missing"],
        )?;
        ensure!(self.sync()? == good);
        run_cli(world, &["build", CACHE])?;
        run_cli(world, &["status", CACHE])?;
        ensure!(
            self.sync()? == good,
            "the next build brought the bad snapshot back"
        );
        println!("Nodes use {good} again. The next build is a candidate until `prepull unpin`.");
        Ok(())
    }
}

/// The images of the demo.
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

/// Follows the build that a push started, and returns its published snapshot.
async fn build_after_push(world: &World, before: usize) -> Result<SnapshotId> {
    let execution = world.await_start(CACHE, before).await?;
    println!(
        "The push started execution {}. Output of prepull follow {CACHE}:",
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
        .context("the build published no snapshot")
}

fn run_cli(world: &World, arguments: &[&str]) -> Result<()> {
    let status = tokio::task::block_in_place(|| world.cli().args(arguments).status())?;
    ensure!(
        status.success(),
        "prepull {} failed with {status}",
        arguments.join(" ")
    );
    Ok(())
}

async fn images_of_cache(world: &World) -> Result<Vec<String>> {
    let config = world.stored_config(CACHE).await?;
    let images = config["images"]
        .as_array()
        .context("the configuration has no images")?;
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
