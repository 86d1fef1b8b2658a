//! What a snapshot saves a node: the time from the request for a container until it runs.

use anyhow::{Context as _, Result, ensure};
use prepull_domain::Bytes;
use prepull_tests::World;
use prepull_tests::benchmark::ContainerStarts;

use crate::images::Images;
use crate::options::Options;
use crate::{ARCHITECTURE, PATTERN, builds, declare, discard};

/// Starts a container of every image on an empty node and on one from a snapshot, as often as builds were measured.
pub async fn measure(
    world: &World,
    images: &Images,
    options: &Options,
) -> Result<Vec<ContainerStarts>> {
    let images = images.of_nodes(world);
    let references: Vec<_> = images.iter().map(|(name, _)| name.clone()).collect();
    let cache = declare(world, &format!("{PATTERN}-nodes"), &references).await?;
    let build = builds::measure(world, &cache).await?;
    let (snapshot, _) = build.published.context("the build published nothing")?;
    let mut starts: Vec<_> = images
        .iter()
        .map(|(_, size)| ContainerStarts {
            size: *size,
            empty: Vec::new(),
            cached: Vec::new(),
            pulled_by_empty: Vec::new(),
            pulled_by_cached: Vec::new(),
        })
        .collect();
    for number in 1..=options.runs {
        eprintln!("containers on nodes, run {number} of {}", options.runs);
        for base in [None, Some(&snapshot)] {
            let node = world.start_node(base, ARCHITECTURE, options.volume).await?;
            let runs = world.run_containers(&node, &references).await?;
            world.terminate_node(&node).await?;
            for (reference, starts) in references.iter().zip(&mut starts) {
                let run = &runs[reference];
                let (seconds, pulled) = if base.is_some() {
                    ensure!(run.present, "{reference} is not in {snapshot}");
                    (&mut starts.cached, &mut starts.pulled_by_cached)
                } else {
                    (&mut starts.empty, &mut starts.pulled_by_empty)
                };
                seconds.push(run.seconds);
                pulled.push(Bytes(run.pulled_bytes));
            }
        }
    }
    discard(world, &snapshot).await?;
    Ok(starts)
}
