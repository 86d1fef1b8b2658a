//! The cost of a run, before and after it.
//!
//! The prices are those of `prepull estimate`: list prices of us-east-1. Not included are data transfer, log storage, and
//! public IPv4 addresses at half a cent per hour.

use std::fmt;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use prepull_domain::build::payload::Base;
use prepull_domain::cache::config::VolumeConfig;
use prepull_domain::{Bytes, GiB, Manifest, SnapshotId};
use prepull_estimate::{Estimate, InstanceType, Work, initialization, prices};

use crate::Options;
use crate::build::BuildRecord;
use crate::deploy::{INSTANCE_TYPES, VOLUME_GIB};
use crate::node::{NodeRecord, Purpose};

/// Compressed size of an image for the price before a run. The default images have less than 100 MB. An assumption.
const IMAGE: Bytes = Bytes(100_000_000);

/// Bytes on the volume for each compressed byte: the layer, and its unpacked content. An assumption of the model.
const WRITTEN: u64 = 4;

/// Running time of a node for the price before a run, in seconds. An assumption.
const NODE_SECONDS: f64 = 240.0;

/// Memory of each function, in GB. Source: `infra/functions.tf`.
const LAMBDA_GB: f64 = 0.25;

/// Hours of a month, as AWS counts them.
const MONTH_HOURS: f64 = 730.0;

/// Items with their prices.
#[derive(Debug, Default)]
pub struct Cost {
    items: Vec<Item>,
}

#[derive(Debug)]
struct Item {
    what: String,
    /// `None` if the model has no price.
    dollars: Option<f64>,
}

impl Cost {
    fn add(&mut self, what: impl Into<String>, dollars: Option<f64>) {
        self.items.push(Item {
            what: what.into(),
            dollars,
        });
    }

    /// Adds builders, volumes, functions and transitions of `builds`, and their snapshots until now.
    pub fn add_builds(&mut self, builds: &[BuildRecord]) {
        for record in builds {
            let label = record.label;
            if let Some(manifest) = &record.manifest {
                let builder = seconds(manifest.launched_at, manifest.snapshot_started_at);
                self.add(
                    format!("{label}: {} for {builder:.0} s", manifest.instance_type),
                    instance(&manifest.instance_type, builder),
                );
                let end = record.span().map_or(manifest.published_at, |(_, end)| end);
                let attached = seconds(manifest.launched_at, end);
                self.add(
                    format!(
                        "{label}: gp3 of {} for {attached:.0} s",
                        manifest.volume_size
                    ),
                    Some(prices::volume_second(&volume(manifest.volume_size)) * attached),
                );
                let hours = seconds(manifest.snapshot_started_at, Timestamp::now()) / 3_600.0;
                self.add(
                    format!(
                        "{label}: snapshot of at most {} for {:.0} min",
                        manifest.used,
                        hours * 60.0
                    ),
                    Some(prices::snapshot_month(manifest.used) / MONTH_HOURS * hours),
                );
            }
            let transitions = record.transitions();
            self.add(
                format!("{label}: state transitions: {transitions}"),
                Some(count(transitions) * prices::TRANSITION),
            );
            let (calls, time) = (record.calls(), record.function_time().as_secs_f64());
            self.add(
                format!("{label}: calls of functions: {calls}, {time:.0} s"),
                Some(
                    count(calls) * prices::LAMBDA_INVOCATION
                        + time * LAMBDA_GB * prices::LAMBDA_GB_SECOND,
                ),
            );
        }
    }

    /// Adds nodes, their volumes, and the initialization of volumes with a rate.
    pub fn add_nodes(&mut self, nodes: &[NodeRecord], published: Option<&(SnapshotId, Manifest)>) {
        let Some((_, manifest)) = published else {
            return;
        };
        for node in nodes {
            let ran = seconds(
                node.launched_at,
                node.ended_at.unwrap_or_else(Timestamp::now),
            );
            self.add(
                format!("node: {} for {ran:.0} s", node.instance_type),
                instance(&node.instance_type, ran),
            );
            self.add(
                format!("node: gp3 of {} for {ran:.0} s", manifest.volume_size),
                Some(prices::volume_second(&volume(manifest.volume_size)) * ran),
            );
            if node.purpose == Purpose::InitializationRate {
                let initialization = initialization(manifest.used, manifest.volume_size, None);
                self.add(
                    format!("node: initialization of {}", manifest.used),
                    Some(initialization.fastest_initialization_dollars),
                );
            }
        }
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Cost at list prices of us-east-1, in dollars:\n")?;
        let width = self.items.iter().map(|item| item.what.len()).max();
        let width = width.unwrap_or_default().max("total".len());
        for Item { what, dollars } in &self.items {
            match dollars {
                Some(dollars) => writeln!(f, "    {what:<width$}  {dollars:.4}")?,
                None => writeln!(f, "    {what:<width$}  the model has no price")?,
            }
        }
        let total: f64 = self.items.iter().filter_map(|item| item.dollars).sum();
        writeln!(f, "    {:<width$}  {total:.4}", "total")
    }
}

/// Returns the expected cost of a run, and what it does.
///
/// # Errors
/// Fails if an instance type is unknown.
pub fn expected(options: &Options) -> Result<String> {
    let (_, types) = INSTANCE_TYPES
        .into_iter()
        .find(|(name, _)| *name == options.architecture.as_str())
        .context("every architecture has instance types")?;
    let kind = InstanceType::from_name(types[0]).context("the instance type is unknown")?;
    let images = u32::try_from(options.images.len())?;
    let volume = volume(GiB(VOLUME_GIB));
    let mut cost = Cost::default();
    for (label, images) in [("cold build", images), ("refresh", 1)] {
        let estimate = prepull_estimate::build(&work(images, IMAGE), &kind, &volume, None);
        cost.add(
            format!("{label} of about {} s", estimate.seconds.total()),
            estimate.dollars.build(),
        );
    }
    cost.add(
        "failed build",
        prepull_estimate::unchanged().dollars.build(),
    );
    let nodes = 2 + options.node_variants.len();
    for _ in 0..nodes {
        cost.add(
            format!("node {} for {NODE_SECONDS} s", kind.name),
            instance(&kind.name, NODE_SECONDS)
                .map(|dollars| dollars + prices::volume_second(&volume) * NODE_SECONDS),
        );
    }
    let snapshots = Bytes(IMAGE.0 * WRITTEN * u64::from(images + 1));
    cost.add(
        "snapshots for an hour",
        Some(prices::snapshot_month(snapshots) / MONTH_HOURS),
    );
    Ok(format!(
        "The live suite deploys prepull to {}, builds {} images, adds one, forces a failure, starts {nodes} nodes, and \
         destroys everything.\n\n{cost}",
        options.region,
        options.images.len(),
    ))
}

/// Returns the model's estimate of the build that wrote `manifest`.
///
/// # Errors
/// Fails if the instance type is unknown.
pub fn modelled(manifest: &Manifest) -> Result<Estimate> {
    let kind = InstanceType::from_name(&manifest.instance_type)
        .with_context(|| format!("the size of {} is unknown", manifest.instance_type))?;
    let (images, packed) = match manifest.base {
        Base::Empty { .. } => (manifest.images.len(), manifest.packed),
        // A refresh of this suite adds the last image.
        Base::Snapshot { .. } => (
            1,
            manifest.images.last().map_or(Bytes(0), |image| image.size),
        ),
    };
    let images = u32::try_from(images)?;
    let largest = Bytes(packed.0 / u64::from(images.max(1)));
    Ok(prepull_estimate::build(
        &work(images, largest),
        &kind,
        &volume(manifest.volume_size),
        None,
    ))
}

/// Returns the work of a build with `images` images of `size` compressed bytes.
fn work(images: u32, size: Bytes) -> Work {
    let pulled = Bytes(size.0 * u64::from(images));
    Work {
        images,
        pulled,
        largest: size,
        written: Bytes(pulled.0 * WRITTEN),
    }
}

/// Returns the price of an instance, which is charged for at least a minute.
fn instance(name: &str, seconds: f64) -> Option<f64> {
    let hourly = InstanceType::from_name(name)?.hourly?;
    Some(hourly / 3_600.0 * seconds.max(60.0))
}

/// Returns a volume with the suite's performance, which is that of the module's defaults.
fn volume(size_gib: GiB) -> VolumeConfig {
    VolumeConfig {
        size_gib,
        iops: 3_000,
        throughput_mibps: 500,
        kms_key_id: None,
    }
}

fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64()
}

fn count(number: usize) -> f64 {
    u32::try_from(number).map_or(f64::INFINITY, f64::from)
}
