//! `prepull estimate`: time and cost of builds, and of loading snapshots on nodes. It applies the model of
//! [`prepull_estimate`] to the sizes in the published manifests.

use std::fmt;

use jiff::SignedDuration;
use prepull_aws::{Clients, parameters};
use prepull_domain::{
    Architecture, Bytes, CacheConfig, CacheName, Manifest, SnapshotId, VerificationLevel,
};
use prepull_estimate::{
    Estimate, FastSnapshotRestore, Initialization, InstanceType, Loading, MAX_INITIALIZATION_RATE,
    MIN_INITIALIZATION_RATE, Verification, Work, build, debounce_delay, initialization,
    refresh_pays_from, unchanged, verification,
};
use serde::Serialize;

use crate::render::{clock, count, table};
use crate::{Error, store};

/// Default of the Terraform module's `debounce_seconds`.
const DEFAULT_DEBOUNCE: u32 = 60;

/// The estimate of a cache.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EstimateReport {
    /// The cache.
    pub cache: CacheName,
    /// A build without changes, for all architectures.
    pub unchanged: Estimate,
    /// The architectures with a published snapshot.
    pub targets: Vec<TargetEstimate>,
    /// The architectures without a published snapshot, and so without sizes.
    pub unpublished: Vec<Architecture>,
}

/// The estimate of one architecture.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TargetEstimate {
    /// The architecture.
    pub architecture: Architecture,
    /// The published snapshot that the sizes come from.
    pub snapshot_id: SnapshotId,
    /// The number of its images.
    pub images: usize,
    /// The compressed size of its layers, each counted once: the bytes that a cold build pulls.
    pub packed: Bytes,
    /// Bytes in use on its volume.
    pub used: Bytes,
    /// The builders, those of the cache first.
    pub builders: Vec<BuilderEstimate>,
    /// The instance types of the cache with unknown vCPUs.
    pub unknown_instance_types: Vec<String>,
    /// The cheapest builder among those within a tenth of the fastest cold build.
    pub recommended_instance_type: Option<String>,
    /// Used bytes from which on a refresh of a twentieth takes at most half the time of a cold build, on the first builder.
    pub refresh_pays_from: Option<Bytes>,
    /// Time and cost of verifying a new snapshot. `None` if no instance type of the cache is known.
    pub verification: Option<Verification>,
    /// Time and cost of loading the snapshot on nodes.
    pub initialization: Initialization,
}

/// Time and cost of builds on an instance type.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BuilderEstimate {
    /// The instance type.
    pub instance_type: String,
    /// Its vCPUs.
    pub vcpus: u32,
    /// Whether the cache lists this type.
    pub configured: bool,
    /// A build from an empty volume.
    pub cold: Estimate,
    /// A refresh in which the largest image has changed completely.
    pub largest_changed: Estimate,
    /// The same for the image of median size.
    pub median_changed: Estimate,
}

/// Estimates `cache` for `architecture`, or for all its architectures, and also for builders of the type `beside`.
///
/// # Errors
/// If the cache does not exist, does not declare the architecture, or has no published snapshot. Also if `beside` does not
/// fit the architecture, or AWS refuses a call.
pub async fn report(
    clients: &Clients,
    cache: &CacheName,
    architecture: Option<Architecture>,
    beside: Option<&str>,
    nodes_per_day: Option<u32>,
) -> Result<EstimateReport, Error> {
    let (_, config) = parameters::cache(clients, cache.as_str()).await?;
    let architectures = store::architectures(cache, &config, architecture)?;
    let beside = beside
        .map(|name| wanted_type(name, &architectures))
        .transpose()?;

    let (mut targets, mut unpublished) = (Vec::new(), Vec::new());
    for architecture in architectures {
        let manifest = match store::published(clients, cache, architecture).await? {
            Some(snapshot) => store::manifest(clients, cache, architecture, &snapshot).await?,
            None => None,
        };
        match manifest {
            Some(manifest) => {
                targets.push(target(&manifest, &config, beside.as_ref(), nodes_per_day));
            }
            None => unpublished.push(architecture),
        }
    }
    if targets.is_empty() {
        return Err(Error::Missing(format!(
            "cannot estimate cache `{cache}`: it has no published snapshot to estimate from. {}",
            store::publish_one(cache)
        )));
    }
    Ok(EstimateReport {
        cache: cache.clone(),
        unchanged: unchanged(),
        targets,
        unpublished,
    })
}

fn wanted_type(name: &str, architectures: &[Architecture]) -> Result<InstanceType, Error> {
    let wanted = InstanceType::from_name(name).ok_or_else(|| {
        Error::Usage(format!(
            "cannot estimate instance type `{name}`: its name does not show its vCPUs. Use a type like `m7i.2xlarge`"
        ))
    })?;
    match wanted.architecture {
        Some(other) if !architectures.contains(&other) => Err(Error::Usage(format!(
            "instance type `{name}` does not fit: it is {other}, and the estimate is for {}. Use another type",
            architectures
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(" and ")
        ))),
        _ => Ok(wanted),
    }
}

fn target(
    manifest: &Manifest,
    config: &CacheConfig,
    beside: Option<&InstanceType>,
    nodes_per_day: Option<u32>,
) -> TargetEstimate {
    let architecture = manifest.architecture;
    let used = manifest.used;
    let mut sizes: Vec<Bytes> = manifest.images.iter().map(|image| image.size).collect();
    sizes.sort_unstable();
    let largest = sizes.last().copied().unwrap_or_default();
    let median = sizes
        .get(sizes.len().saturating_sub(1) / 2)
        .copied()
        .unwrap_or_default();
    let packed = manifest.packed;

    let cold = Work {
        images: u32::try_from(sizes.len()).unwrap_or(u32::MAX),
        pulled: packed,
        largest: largest.min(packed),
        written: used,
    };
    let one_changed = |size: Bytes| Work {
        images: 1,
        pulled: size.min(packed),
        largest: size.min(packed),
        written: part(used, size, packed),
    };

    let mut unknown_instance_types = Vec::new();
    let mut instances: Vec<(InstanceType, bool)> = Vec::new();
    for name in config
        .builder
        .instance_types
        .get(&architecture)
        .into_iter()
        .flatten()
    {
        match InstanceType::from_name(name) {
            Some(instance) => instances.push((instance, true)),
            None => unknown_instance_types.push(name.clone()),
        }
    }
    let suits = |instance: &&InstanceType| {
        instance
            .architecture
            .is_none_or(|other| other == architecture)
    };
    let beside = beside.filter(suits).cloned().into_iter();
    for instance in beside.chain(InstanceType::compared(architecture)) {
        if instances.iter().all(|(known, _)| *known != instance) {
            instances.push((instance, false));
        }
    }
    let first = instances.first();
    let refresh_pays_from = first.and_then(|(instance, _)| {
        refresh_pays_from(instance, &config.volume, config.parallel_pulls)
    });
    let builders: Vec<_> = instances
        .into_iter()
        .map(|(instance, configured)| {
            let estimate = |work| build(&work, &instance, &config.volume, config.parallel_pulls);
            BuilderEstimate {
                cold: estimate(cold),
                largest_changed: estimate(one_changed(largest)),
                median_changed: estimate(one_changed(median)),
                vcpus: instance.vcpus,
                configured,
                instance_type: instance.name,
            }
        })
        .collect();

    // A verifier tries the last type of the cache first.
    let types = config.builder.instance_types.get(&architecture);
    let smallest = types.and_then(|types| InstanceType::from_name(types.last()?));
    let verification = smallest.map(|instance| {
        let level = config.verification.level_for(packed);
        let releases = config.verification.releases.len().max(1);
        let verifiers = u32::try_from(releases).unwrap_or(u32::MAX);
        verification(level, used, &instance, &config.volume, verifiers)
    });

    TargetEstimate {
        refresh_pays_from,
        verification,
        architecture,
        snapshot_id: manifest.snapshot_id.clone(),
        images: sizes.len(),
        packed,
        used,
        recommended_instance_type: recommended(&builders),
        builders,
        unknown_instance_types,
        initialization: initialization(used, manifest.volume_size, nodes_per_day),
    }
}

/// Returns the share of `whole` that `part` is of `sum`.
fn part(whole: Bytes, part: Bytes, sum: Bytes) -> Bytes {
    let part = u128::from(whole.0) * u128::from(part.0.min(sum.0)) / u128::from(sum.0.max(1));
    Bytes(u64::try_from(part).unwrap_or(whole.0))
}

fn recommended(builders: &[BuilderEstimate]) -> Option<String> {
    let seconds = |builder: &BuilderEstimate| builder.cold.seconds.total();
    let fastest = builders.iter().map(seconds).min()?;
    builders
        .iter()
        .filter(|builder| seconds(builder) * 10 <= fastest * 11)
        .filter_map(|builder| Some((builder, builder.cold.dollars.build()?)))
        .min_by(|(_, one), (_, other)| one.total_cmp(other))
        .map(|(builder, _)| builder.instance_type.clone())
}

impl fmt::Display for EstimateReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "Modelled with list prices of us-east-1, not measured on AWS. See docs/costs.md.\nUnchanged build: {}, without a \
             builder. After a push, the default debounce of {DEFAULT_DEBOUNCE} s adds {} s.",
            time_and_cost(&self.unchanged),
            debounce_delay(DEFAULT_DEBOUNCE)
        )?;
        for target in &self.targets {
            writeln!(f)?;
            target.write(f, &self.cache)?;
        }
        for architecture in &self.unpublished {
            writeln!(
                f,
                "\n{} {architecture}: no published snapshot to estimate from. {}",
                self.cache,
                store::publish_one(&self.cache)
            )?;
        }
        Ok(())
    }
}

impl TargetEstimate {
    fn write(&self, f: &mut fmt::Formatter<'_>, cache: &CacheName) -> fmt::Result {
        writeln!(
            f,
            "{cache} {}: {}, {} used, {} compressed",
            self.architecture,
            count(self.images, "image"),
            self.used,
            self.packed
        )?;
        let head = [
            "",
            "BUILDER",
            "VCPUS",
            "COLD BUILD",
            "LARGEST IMAGE CHANGED",
            "MEDIAN IMAGE CHANGED",
        ];
        let mut rows = vec![head.map(String::from).to_vec()];
        rows.extend(self.builders.iter().map(|builder| {
            let recommended = self.recommended_instance_type.as_ref();
            vec![
                if recommended == Some(&builder.instance_type) {
                    "*"
                } else {
                    ""
                }
                .to_owned(),
                builder.instance_type.clone(),
                builder.vcpus.to_string(),
                time_and_cost(&builder.cold),
                time_and_cost(&builder.largest_changed),
                time_and_cost(&builder.median_changed),
            ]
        }));
        f.write_str(&table("  ", &rows))?;
        for name in &self.unknown_instance_types {
            writeln!(
                f,
                "  {name} is not estimated: its name does not show its vCPUs"
            )?;
        }
        if let Some(name) = &self.recommended_instance_type {
            let configured = self
                .builders
                .iter()
                .any(|builder| builder.configured && builder.instance_type == *name);
            let named = if configured {
                ""
            } else {
                ", not in the cache's configuration"
            };
            writeln!(
                f,
                "  * recommended{named}: the cheapest within 10 % of the fastest"
            )?;
        }
        if let Some(first) = self.builders.first() {
            let steps = first.cold.seconds.named().map(|(step, seconds)| {
                format!(
                    "{step} {}",
                    clock(SignedDuration::from_secs(seconds.into()))
                )
            });
            writeln!(
                f,
                "  Cold build on {}: {}. Its snapshot costs {} a month",
                first.instance_type,
                steps.join(", "),
                dollars(first.cold.dollars.snapshot_month)
            )?;
        }
        if let Some(used) = self.refresh_pays_from {
            writeln!(
                f,
                "  From {used} of used data, a refresh of a twentieth takes at most half the time of a cold build"
            )?;
        }
        self.write_verification(f)?;
        self.write_initialization(f)
    }

    fn write_verification(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(verification) = &self.verification else {
            return Ok(());
        };
        if verification.level == VerificationLevel::Off {
            return writeln!(f, "  Verification: off");
        }
        let verifiers = usize::try_from(verification.verifiers).unwrap_or(usize::MAX);
        let price = verification
            .dollars
            .map_or_else(|| "price unknown".to_owned(), dollars);
        writeln!(
            f,
            "  Verification of each new snapshot at level {}, on {} of type {}: {} and {price} more",
            verification.level,
            count(verifiers, "instance"),
            verification.instance_type,
            minutes(verification.seconds),
        )
    }

    fn write_initialization(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Initialization {
            lazy_seconds,
            slowest_initialization_seconds,
            fastest_initialization_seconds,
            fastest_initialization_dollars,
            fast_snapshot_restore: restore,
            recommended,
        } = &self.initialization;
        let row = |loading: Option<Loading>, cells: [String; 3]| {
            let mark = if loading == Some(*recommended) {
                "*"
            } else {
                ""
            };
            let mut row = vec![mark.to_owned()];
            row.extend(cells);
            row
        };
        let head = ["VOLUME LOADING", "TAKES", "COSTS"].map(String::from);
        let rows = [
            row(None, head),
            row(
                Some(Loading::Lazy),
                [
                    "on first read".to_owned(),
                    minutes(*lazy_seconds),
                    "nothing".to_owned(),
                ],
            ),
            row(
                None,
                [
                    format!("at {MIN_INITIALIZATION_RATE} MiB/s"),
                    minutes(*slowest_initialization_seconds),
                    "price unknown".to_owned(),
                ],
            ),
            row(
                Some(Loading::InitializationRate),
                [
                    format!("at {MAX_INITIALIZATION_RATE} MiB/s"),
                    minutes(*fastest_initialization_seconds),
                    format!("{} a node", dollars(*fastest_initialization_dollars)),
                ],
            ),
            row(
                Some(Loading::FastSnapshotRestore),
                [
                    "Fast Snapshot Restore".to_owned(),
                    "nothing".to_owned(),
                    format!(
                        "{} an hour in each zone{}",
                        dollars(restore.dollars_per_hour),
                        pays(restore)
                    ),
                ],
            ),
        ];
        f.write_str(&table("  ", &rows))
    }
}

fn pays(restore: &FastSnapshotRestore) -> String {
    let FastSnapshotRestore {
        volumes_per_hour,
        pays_from,
        ready_after_minutes,
        ..
    } = restore;
    if pays_from > volumes_per_hour {
        format!("; never cheaper: it needs {pays_from} nodes an hour and serves {volumes_per_hour}")
    } else {
        format!(
            "; cheaper from {pays_from} to {volumes_per_hour} nodes an hour; ready {ready_after_minutes} min after \
             publication"
        )
    }
}

fn time_and_cost(estimate: &Estimate) -> String {
    let takes = minutes(estimate.seconds.total());
    match estimate.dollars.build() {
        Some(price) => format!("{takes}, {}", dollars(price)),
        None => format!("{takes}, price unknown"),
    }
}

/// Formats seconds in the unit that suits their size.
fn minutes(seconds: u32) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..6_000 => format!("{:.1} min", f64::from(seconds) / 60.0),
        _ => format!("{:.1} h", f64::from(seconds) / 3_600.0),
    }
}

/// Formats dollars, small amounts to a tenth of a cent.
fn dollars(dollars: f64) -> String {
    if dollars < 0.001 {
        "less than $0.001".to_owned()
    } else if dollars < 0.1 {
        format!("${dollars:.3}")
    } else {
        format!("${dollars:.2}")
    }
}
