//! The burst itself: the caches it falls on, and its pushes.

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

use crate::expectation::Expectation;

pub const ARCHITECTURE: Architecture = Architecture::X86_64;

/// The default of the module's `debounce_seconds`.
pub const DEBOUNCE_SECONDS: u32 = 60;

pub const CACHES: usize = 20;

pub const PUSHES: usize = 1_000;

/// The images of each cache.
pub const IMAGES: [&str; 2] = ["api", "worker"];

const TAG: &str = "v1";

/// The pushes begin within this time; some more seconds may pass until the last of them is stored.
const STORM: Duration = Duration::from_secs(55);

/// Bursts of one seed are the same, push by push.
const SEED: &str = "a burst of pushes";

/// How long it may take until everything that was started has ended.
const CALM_WITHIN: Duration = Duration::from_secs(900);

const PAUSE: Duration = Duration::from_secs(3);

/// One push.
struct Push {
    /// How long after the burst began.
    after: Duration,
    image: &'static str,
    /// What makes its content another one than that of all pushes before.
    number: usize,
}

/// What the burst did.
pub struct Burst {
    /// The last content of each cache's images.
    pub pushed: BTreeMap<String, BTreeMap<&'static str, Digest>>,
    pub began_at: Timestamp,
    /// Until the registry had taken the last push.
    pub took: Duration,
}

fn name(cache: usize) -> String {
    format!("burst-{cache:02}")
}

pub fn repository(cache: &str, image: &str) -> String {
    format!("{cache}/{image}")
}

/// Builds every cache, lets the burst rage, and tells what is found after it.
pub async fn rage(environment: Environment) -> Result<Expectation> {
    let state = tempfile::Builder::new()
        .prefix("prepull-burst-")
        .tempdir()?;
    let world = deploy(environment, state.path()).await?;
    try_join_all((0..CACHES).map(|cache| build_first(&world, cache))).await?;
    world.cloud.forget_calls().await?;
    let burst = push_all(&world).await?;
    eprintln!("{PUSHES} pushes in {:.0} s", burst.took.as_secs_f64());
    await_calm(&world).await?;
    let aftermath = Expectation::read(&world, burst).await?;
    world.cloud.stop()?;
    Ok(aftermath)
}

async fn deploy(environment: Environment, state: &Path) -> Result<World> {
    let world = World::start(environment, state, DEBOUNCE_SECONDS, |cloud| {
        let host = &cloud.ready.registries.ecr.host;
        let cache = |name: &str| {
            let images = IMAGES.map(|image| format!("{host}/{}:{TAG}", repository(name, image)));
            json!({
                "images": images,
                "variant": "aws-k8s-1.33",
                "volume": {"size_gib": 4},
                "schedule": {"enabled": false},
                // No manifest of the burst is gone when it is looked at.
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
    // Before the rule for pushes exists, so that these start no build.
    for cache in (0..CACHES).map(name) {
        for image in IMAGES {
            world.create_repository(&repository(&cache, image)).await?;
            push(&world, &cache, image, "before the burst").await?;
        }
    }
    tokio::task::block_in_place(|| world.deployment.apply())?;
    Ok(world)
}

/// The builds of the burst are to find a base, as those of any day do.
async fn build_first(world: &World, cache: usize) -> Result<()> {
    let cache = name(cache);
    let execution = world.start_build(&cache).await?;
    let outcome = world
        .await_end_within(&execution, CALM_WITHIN, PAUSE)
        .await?;
    ensure!(
        outcome.status == ExecutionStatus::Succeeded,
        "the first build of {cache} ended {}: {}",
        outcome.status,
        outcome.cause
    );
    Ok(())
}

/// The pushes to each cache, in order.
fn forecast() -> Vec<Vec<Push>> {
    let mut caches: Vec<_> = (0..CACHES).map(|_| Vec::new()).collect();
    for number in 0..PUSHES {
        let random = Sha256::digest(format!("{SEED} {number}"));
        let cache = usize::from(random[0]) * 256 + usize::from(random[1]);
        let part = f64::from(u16::from_be_bytes([random[2], random[3]])) / f64::from(u16::MAX);
        caches[cache % CACHES].push(Push {
            after: STORM.mul_f64(part),
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
    let caches = forecast()
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
        took: start.elapsed(),
    })
}

/// Pushes another content under the same tag, as a team's pipeline does.
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

/// Waits until every push was announced and answered, and every execution has ended.
async fn await_calm(world: &World) -> Result<()> {
    let start = Instant::now();
    loop {
        let answered = answered_pushes(world).await?;
        let running = is_any_running(world).await?;
        if answered >= PUSHES && !running {
            return Ok(());
        }
        ensure!(
            start.elapsed() < CALM_WITHIN,
            "after {CALM_WITHIN:?} start-build has answered {answered} of {PUSHES} pushes{}",
            if running {
                ", and builds run still"
            } else {
                ""
            }
        );
        tokio::time::sleep(PAUSE).await;
    }
}

/// How often start-build asked for an execution because of a push: once for each event, unless an invocation failed and
/// was repeated.
pub async fn answered_pushes(world: &World) -> Result<usize> {
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
