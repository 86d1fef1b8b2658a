//! Measures the gain of a node: the time from its launch until a container runs.

use anyhow::{Context as _, Result, ensure};
use jiff::{Timestamp, Unit};
use prepull_domain::{Bytes, SnapshotId};
use prepull_tests::World;
use prepull_tests::benchmark::{ContainerStart, ContainerStarts};

use crate::images::Images;
use crate::options::Options;
use crate::{ARCHITECTURE, PATTERN, builds, declare, discard};

/// Starts a container of every image on an empty node and on a node from a snapshot, once for each run.
pub async fn measure(
    world: &World,
    images: &Images,
    options: &Options,
) -> Result<Vec<ContainerStarts>> {
    let images = images.for_nodes(world);
    let references: Vec<_> = images.iter().map(|(name, _)| name.clone()).collect();
    let cache = declare(world, &format!("{PATTERN}-nodes"), &references, "off").await?;
    let build = builds::measure(world, &cache).await?;
    let (snapshot, _) = build.published.context("the build published nothing")?;
    let mut measured: Vec<_> = images
        .iter()
        .map(|(_, size)| ContainerStarts {
            size: *size,
            empty: Vec::new(),
            cached: Vec::new(),
        })
        .collect();
    for number in 1..=options.runs {
        eprintln!("containers on nodes, run {number} of {}", options.runs);
        for (reference, starts) in references.iter().zip(&mut measured) {
            starts
                .empty
                .push(start(world, None, reference, options).await?);
            let cached = start(world, Some(&snapshot), reference, options).await?;
            starts.cached.push(cached);
        }
    }
    discard(world, &snapshot).await?;
    Ok(measured)
}

/// Starts a container on a new node.
async fn start(
    world: &World,
    snapshot: Option<&SnapshotId>,
    reference: &str,
    options: &Options,
) -> Result<ContainerStart> {
    let node = world
        .launch_node(snapshot, ARCHITECTURE, options.volume, "")
        .await?;
    // The clock starts here, because the local cloud first copies the snapshot. EBS loads blocks when they are read.
    let launched = Timestamp::now();
    world.await_running(&node).await?;
    let run = world.run_container(&node, reference).await?;
    world.terminate_node(&node).await?;
    if let Some(snapshot) = snapshot {
        ensure!(run.present, "{reference} is not in {snapshot}");
    }
    Ok(ContainerStart {
        since_launch: (run.running_at - launched).total(Unit::Second)?,
        since_request: run.seconds,
        pulled: Bytes(run.pulled_bytes),
    })
}
