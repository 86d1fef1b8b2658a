//! The burst: its caches and its pushes.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::future::try_join_all;
use jiff::Timestamp;
use prepull_aws::sfn::types::ExecutionStatus;
use prepull_domain::{Architecture, Digest};
use prepull_tests::{Environment, Image, Layer, World};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::observations::Observations;

pub const ARCHITECTURE: Architecture = Architecture::X86_64;

/// Default of the module's `debounce_seconds`.
pub const DEBOUNCE_SECONDS: u32 = 60;

pub const CACHES: usize = 20;

pub const PUSHES: usize = 1_000;

/// The images of each cache.
pub const IMAGES: [&str; 2] = ["api", "worker"];

const TAG: &str = "v1";

/// Period in which the pushes start. The registry may store the last one some seconds later.
const PUSH_PERIOD: Duration = Duration::from_secs(55);

/// Seed of the burst. The same seed gives the same pushes.
const SEED: &str = "a burst of pushes";

/// Time limit until all executions have ended.
const IDLE_TIME_LIMIT: Duration = Duration::from_secs(900);

const POLL_INTERVAL: Duration = Duration::from_secs(3);

/// One push.
struct Push {
    /// Time since the start of the burst.
    after: Duration,
    image: &'static str,
    /// Text that makes the content unique.
    number: usize,
}

/// Record of the burst.
pub struct Burst {
    /// Last pushed digests of each cache's images.
    pub pushed: BTreeMap<String, BTreeMap<&'static str, Digest>>,
    pub began_at: Timestamp,
    /// Time from the first push until the registry accepted the last one.
    pub duration: Duration,
}

fn name(cache: usize) -> String {
    format!("burst-{cache:02}")
}

pub fn repository(cache: &str, image: &str) -> String {
    format!("{cache}/{image}")
}

/// Builds every cache, runs the burst, and returns the observations after it.
pub async fn run(environment: Environment) -> Result<Observations> {
    let state = tempfile::Builder::new()
        .prefix("prepull-burst-")
        .tempdir()?;
    let world = deploy(environment, state.path()).await?;
    try_join_all((0..CACHES).map(|cache| build_first(&world, cache))).await?;
    world.cloud.forget_calls().await?;
    let burst = push_all(&world).await?;
    eprintln!("{PUSHES} pushes in {:.0} s", burst.duration.as_secs_f64());
    await_idle(&world).await?;
    let observed = Observations::read(&world, burst).await?;
    world.cloud.stop()?;
    Ok(observed)
}

async fn deploy(environment: Environment, state: &Path) -> Result<World> {
    let world = World::start(environment, state, DEBOUNCE_SECONDS, |cloud| {
        let host = &cloud.ready.registries.ecr.host;
        let cache = |name: &str| {
            let images = IMAGES.map(|image| format!("{host}/{}:{TAG}", repository(name, image)));
            json!({
                "images": images,
                "variant": "aws-k8s-1.33",
                "verification": {"level": "off"},
                "volume": {"size_gib": 4},
                "schedule": {"enabled": false},
                // Keeps every manifest of the burst until the suite has read it.
                "retain_snapshots": 20,
            })
        };
        let caches = (0..CACHES).map(name);
        caches
            .map(|name| (name.clone(), cache(&name)))
            .collect::<serde_json::Map<String, Value>>()
            .into()
    })
    .await?;
    // These pushes come before the push rule exists, so they start no build.
    for cache in (0..CACHES).map(name) {
        for image in IMAGES {
            world.create_repository(&repository(&cache, image)).await?;
            push(&world, &cache, image, "before the burst").await?;
        }
    }
    tokio::task::block_in_place(|| world.deployment.apply())?;
    Ok(world)
}

/// Builds a cache once, so that the builds of the burst have a base.
async fn build_first(world: &World, cache: usize) -> Result<()> {
    let cache = name(cache);
    let execution = world.start_build(&cache).await?;
    let outcome = world
        .await_end_within(&execution, IDLE_TIME_LIMIT, POLL_INTERVAL)
        .await?;
    ensure!(
        outcome.status == ExecutionStatus::Succeeded,
        "the first build of {cache} ended with {}: {}",
        outcome.status,
        outcome.cause
    );
    Ok(())
}

/// Returns the pushes to each cache, in order.
fn planned_pushes() -> Vec<Vec<Push>> {
    let mut caches: Vec<_> = (0..CACHES).map(|_| Vec::new()).collect();
    for number in 0..PUSHES {
        let random = Sha256::digest(format!("{SEED} {number}"));
        let cache = usize::from(random[0]) * 256 + usize::from(random[1]);
        let part = f64::from(u16::from_be_bytes([random[2], random[3]])) / f64::from(u16::MAX);
        caches[cache % CACHES].push(Push {
            after: PUSH_PERIOD.mul_f64(part),
            image: IMAGES[usize::from(random[4]) % IMAGES.len()],
            number,
        });
    }
    for pushes in &mut caches {
        pushes.sort_by_key(|push| push.after);
    }
    caches
}

async fn push_all(world: &World) -> Result<Burst> {
    let (start, began_at) = (Instant::now(), Timestamp::now());
    let caches = planned_pushes()
        .into_iter()
        .enumerate()
        .map(async |(cache, pushes)| {
            let cache = name(cache);
            let mut digests = BTreeMap::new();
            for Push {
                after,
                image,
                number,
            } in pushes
            {
                tokio::time::sleep(after.saturating_sub(start.elapsed())).await;
                let digest = push(world, &cache, image, &format!("push {number}")).await?;
                digests.insert(image, digest);
            }
            anyhow::Ok((cache, digests))
        });
    let pushed = try_join_all(caches).await?.into_iter().collect();
    Ok(Burst {
        pushed,
        began_at,
        duration: start.elapsed(),
    })
}

/// Pushes new content to the same tag, as a CI pipeline does.
async fn push(world: &World, cache: &str, image: &str, content: &str) -> Result<Digest> {
    let repository = repository(cache, image);
    let layers = [Layer::filler("burst", 0)?];
    let image = Image::new(ARCHITECTURE, &layers, &format!("{repository} {content}"))?;
    world
        .ecr
        .push(&repository, TAG, &image)
        .await
        .with_context(|| format!("pushing {repository}"))?;
    Ok(image.digest())
}

/// Waits until start-build has handled the event of every push and every execution has ended.
async fn await_idle(world: &World) -> Result<()> {
    let start = Instant::now();
    loop {
        let handled = handled_pushes(world).await?;
        let running = is_any_running(world).await?;
        if handled >= PUSHES && !running {
            return Ok(());
        }
        ensure!(
            start.elapsed() < IDLE_TIME_LIMIT,
            "after {IDLE_TIME_LIMIT:?} start-build has handled {handled} of {PUSHES} pushes{}",
            if running {
                ", and builds are still running"
            } else {
                ""
            }
        );
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Counts the `StartExecution` calls of start-build. There is one call for each event, and more if an invocation was
/// retried.
pub async fn handled_pushes(world: &World) -> Result<usize> {
    let calls = world.cloud.calls_for("aws.ecr").await?;
    Ok(calls
        .iter()
        .filter(|call| call.action == "StartExecution")
        .count())
}

async fn is_any_running(world: &World) -> Result<bool> {
    let listed = world
        .clients
        .sfn
        .list_executions()
        .state_machine_arn(world.deployment.state_machine_arn()?)
        .status_filter(ExecutionStatus::Running)
        .send()
        .await?;
    Ok(!listed.executions().is_empty())
}
