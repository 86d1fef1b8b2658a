//! `prepull verify`: the check of verify-snapshot by hand, on any snapshot of prepull.

use std::fmt;
use std::pin::pin;
use std::time::Duration;

use futures::future::{Either, select};
use jiff::{SignedDuration, Timestamp};
use prepull_aws::{Clients, Deadline, ami, parameters, snapshots};
use prepull_domain::build::payload::{
    Pinning, PlannedImage, SnapshotState, Target, VerificationPlan, VerificationRecord,
};
use prepull_domain::cache::config::{Publication, ResourceTags, VolumeConfig};
use prepull_domain::{
    Architecture, BottlerocketVersion, BuilderSettings, CacheConfig, CacheName, Manifest, Reason,
    SecurityGroupId, SnapshotId, StageError, SubnetId, VerificationLevel, excerpt, names,
};
use prepull_machines::verification::Verification;
use prepull_machines::{Documents, InstanceProfile};
use serde::Serialize;

use crate::{Decide, Error, Exit, check, decide, store};

/// Maximum time of a verification.
const TIME_LIMIT: SignedDuration = SignedDuration::from_hours(2);

/// The arguments of `prepull verify`.
#[derive(Debug, Clone, clap::Args)]
pub struct VerifyArgs {
    /// Verify this snapshot.
    pub snapshot: SnapshotId,
    /// Check this much: `records` or `full`.
    #[arg(long, value_name = "LEVEL", value_parser = level)]
    pub level: Option<VerificationLevel>,
    /// Boot this Bottlerocket release instead of the builder's.
    #[arg(long, value_name = "VERSION")]
    pub release: Vec<BottlerocketVersion>,
    /// Reject the snapshot if it has a defect.
    #[arg(long)]
    pub reject: bool,
    /// Use this cache instead of the one in the snapshot's tags.
    #[arg(long)]
    pub cache: Option<CacheName>,
    /// Use this architecture instead of the one in the tags.
    #[arg(long)]
    pub architecture: Option<Architecture>,
    /// Read the manifest from this file instead of Parameter Store.
    #[arg(long, value_name = "FILE", requires = "cache")]
    pub manifest: Option<String>,
    /// Launch into this subnet instead of those of the cache.
    #[arg(long, value_name = "ID")]
    pub subnet: Vec<SubnetId>,
    /// Use this security group instead of those of the cache.
    #[arg(long, value_name = "ID")]
    pub security_group: Vec<SecurityGroupId>,
    /// Launch this instance type instead of those of the cache.
    #[arg(long, value_name = "TYPE")]
    pub instance_type: Vec<String>,
    /// Use this instance profile instead of the installation's.
    #[arg(long, value_name = "NAME")]
    pub instance_profile: Option<String>,
}

/// Parses a level that checks something.
fn level(text: &str) -> Result<VerificationLevel, String> {
    match text.parse() {
        Ok(level) if level != VerificationLevel::Off => Ok(level),
        _ => Err("use `records` or `full`".to_owned()),
    }
}

/// The result of a verification.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VerifyReport {
    /// The snapshot.
    pub snapshot_id: SnapshotId,
    /// The record of a healthy snapshot.
    pub verification: Option<VerificationRecord>,
    /// The defects, as text.
    pub defects: Option<String>,
    /// Whether `--reject` has made the snapshot unusable.
    pub rejected: bool,
    /// Whether Ctrl-C or SIGTERM ended the verification.
    pub interrupted: bool,
}

impl VerifyReport {
    /// Returns the exit code of the command.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match (&self.verification, self.interrupted) {
            (Some(_), _) => Exit::Done,
            (None, true) => Exit::Interrupted,
            (None, false) => Exit::Unsound,
        }
    }
}

impl fmt::Display for VerifyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(record) = &self.verification {
            let releases: Vec<_> = record.releases.iter().map(ToString::to_string).collect();
            return write!(
                f,
                "{} has no defect: level {} on Bottlerocket {}, {} in layers, {} s",
                self.snapshot_id,
                record.level,
                releases.join(" and "),
                record.bytes,
                record.seconds
            );
        }
        match &self.defects {
            Some(defects) => write!(f, "{defects}")?,
            None => write!(
                f,
                "the verification of {} was interrupted",
                self.snapshot_id
            )?,
        }
        if self.rejected {
            write!(f, "\n{} is rejected now", self.snapshot_id)?;
        }
        Ok(())
    }
}

/// Verifies a snapshot. It terminates its verifiers at the end and if `interrupted` resolves. If the process is killed, or
/// if EC2 refuses, the sweep of an installation terminates them after [`TIME_LIMIT`].
///
/// # Errors
/// If the snapshot, its manifest or a network is unknown, or AWS refuses a call. A defect is part of the report.
pub async fn run(
    clients: &Clients,
    args: &VerifyArgs,
    name: &str,
    now: Timestamp,
    interrupted: impl Future<Output = ()>,
) -> Result<VerifyReport, Error> {
    let (cache, architecture) = whose(clients, args).await?;
    let manifest = manifest(clients, args, &cache, architecture).await?;
    let config = config(clients, &cache).await?;
    let level = level_of(args, &manifest)?;
    let target = target(clients, args, &manifest, config.as_ref(), level, now).await?;
    let region = clients.region();
    let region = region.as_ref().map_or("", |region| region.as_str());
    let profile = args
        .instance_profile
        .clone()
        .unwrap_or_else(|| format!("{name}-builder-{region}"));
    let verification = Verification {
        target: &target,
        snapshot: &args.snapshot,
        level,
        trees: manifest.trees.as_ref(),
        expires_at: Some(target.give_up_at),
        profile: InstanceProfile::Name(&profile),
        documents: match config {
            Some(_) => Documents::Installed(name),
            None => Documents::Embedded,
        },
    };
    let deadline = Deadline::after(Duration::from_secs(TIME_LIMIT.as_secs().unsigned_abs()));
    let running = pin!(verification.run(clients, deadline));
    let result = match select(running, pin!(interrupted)).await {
        Either::Left((result, _)) => Some(result),
        Either::Right(_) => None,
    };
    if let Err(error) = verification.terminate(clients).await {
        eprintln!(
            "a verifier may still run, and the next sweep after {} terminates it: {error}",
            target.give_up_at
        );
    }
    let mut report = VerifyReport {
        snapshot_id: args.snapshot.clone(),
        verification: None,
        defects: None,
        rejected: false,
        interrupted: result.is_none(),
    };
    match result {
        None => {}
        Some(Ok(record)) => report.verification = Some(record),
        Some(Err(StageError::VerifyFailed(defects))) => {
            if args.reject {
                reject(clients, &cache, &args.snapshot, &defects, now).await?;
                report.rejected = true;
            }
            report.defects = Some(defects);
        }
        Some(Err(error)) => return Err(error.into()),
    }
    Ok(report)
}

/// Returns the level of the verification: that of the build if it verified the snapshot, or else the default.
///
/// # Errors
/// If the level is `full`, and the builder recorded no content of files.
fn level_of(args: &VerifyArgs, manifest: &Manifest) -> Result<VerificationLevel, Error> {
    let recorded = manifest.verification.as_ref().map(|record| record.level);
    let default = || recorded.unwrap_or_else(|| VerificationLevel::default_for(manifest.packed));
    let level = args.level.unwrap_or_else(default);
    let records = Some(VerificationLevel::Records);
    if level == VerificationLevel::Full && recorded == records && manifest.trees.is_some() {
        return Err(Error::Usage(format!(
            "cannot verify {} at level `full`: its build verified it at level `records`, so its builder recorded no \
             content of files. Use `--level records`, or set the cache's `verification.level` to `full` and build again",
            args.snapshot
        )));
    }
    Ok(level)
}

/// Makes the snapshot unusable, like `prepull reject`.
async fn reject(
    clients: &Clients,
    cache: &CacheName,
    snapshot: &SnapshotId,
    defects: &str,
    now: Timestamp,
) -> Result<(), Error> {
    let reason: Reason = format!("prepull verify: {}", excerpt(defects, 100))
        .parse()
        .unwrap_or_else(|_| {
            "prepull verify found a defect"
                .parse()
                .expect("this is one short line")
        });
    let command = Decide::Reject {
        cache: cache.clone(),
        snapshot: snapshot.clone(),
        reason,
    };
    let report = decide::run(clients, &command, now).await?;
    match report.targets.into_iter().find_map(|target| target.refusal) {
        Some(refusal) => Err(Error::Missing(format!(
            "{snapshot} has a defect, but could not be rejected: {refusal}. {defects}"
        ))),
        None => Ok(()),
    }
}

/// Returns cache and architecture of the snapshot. Another account sees no tags.
async fn whose(clients: &Clients, args: &VerifyArgs) -> Result<(CacheName, Architecture), Error> {
    let id = &args.snapshot;
    let found = snapshots::get(clients, id).await?.ok_or_else(|| {
        Error::Usage(format!(
            "cannot verify {id}: it does not exist in this Region, or is not shared with this account. Check the ID, \
             AWS_REGION and AWS_PROFILE"
        ))
    })?;
    if found.state() == Some(SnapshotState::Rejected) {
        eprintln!("{id} is rejected already");
    }
    let cache = args.cache.clone();
    let cache = cache.or_else(|| found.tag(names::TAG_CACHE)?.parse().ok());
    let architecture = args.architecture;
    let architecture = architecture.or_else(|| found.tag(names::TAG_ARCHITECTURE)?.parse().ok());
    match (cache, architecture) {
        (Some(cache), Some(architecture)) => Ok((cache, architecture)),
        _ => Err(Error::Usage(format!(
            "cannot verify {id}: this account sees no tags of prepull on it. Set --cache and --architecture"
        ))),
    }
}

async fn manifest(
    clients: &Clients,
    args: &VerifyArgs,
    cache: &CacheName,
    architecture: Architecture,
) -> Result<Manifest, Error> {
    if let Some(file) = &args.manifest {
        let cache = check::cache_from_file(cache, file, Some(architecture))?;
        let found = cache.targets.into_iter().flat_map(|target| {
            let others = target.others.unwrap_or_default().into_iter();
            let others = others.filter_map(|other| other.manifest);
            others.chain([target.manifest]).collect::<Vec<_>>()
        });
        let wanted: Vec<_> = found
            .filter(|manifest| manifest.snapshot_id == args.snapshot)
            .collect();
        return wanted.into_iter().next().ok_or_else(|| {
            Error::Usage(format!(
                "{file} has no manifest of {}. Print it with `prepull snapshots {} --output json`",
                args.snapshot, cache.name
            ))
        });
    }
    let found = store::manifest(clients, cache, architecture, &args.snapshot).await?;
    found.ok_or_else(|| {
        Error::Missing(format!(
            "{} has no manifest in this account and Region, so its images are unknown. Set --manifest to a file with \
             the output of `prepull snapshots {cache} --output json`",
            args.snapshot
        ))
    })
}

/// Returns the configuration of the cache. `None` without an installation in this account and Region.
async fn config(clients: &Clients, cache: &CacheName) -> Result<Option<CacheConfig>, Error> {
    let parameter = names::config_parameter(cache);
    if parameters::get(clients, &parameter).await?.is_none() {
        return Ok(None);
    }
    let (_, config) = parameters::cache(clients, cache.as_str()).await?;
    Ok(Some(config))
}

/// Returns a target with the network of `args` or of the cache, and the images of `manifest`.
async fn target(
    clients: &Clients,
    args: &VerifyArgs,
    manifest: &Manifest,
    config: Option<&CacheConfig>,
    level: VerificationLevel,
    now: Timestamp,
) -> Result<Target, Error> {
    let (cache, architecture) = (&manifest.cache, manifest.architecture);
    let builder = config.map(|config| &config.builder);
    let missing = |option: &str, field: &str| {
        Error::Usage(format!(
            "cannot verify {}: cache `{cache}` has no `{field}` in this account and Region. Set {option}",
            args.snapshot
        ))
    };
    let mut instance_types = args.instance_type.clone();
    if instance_types.is_empty() {
        let types = builder.and_then(|builder| builder.instance_types.get(&architecture));
        instance_types = types.cloned().unwrap_or_default();
    }
    // The builder's type fits its architecture.
    if instance_types.is_empty() {
        instance_types.push(manifest.instance_type.clone());
    }
    let mut subnet_ids = args.subnet.clone();
    if subnet_ids.is_empty() {
        let subnets = builder.map(|builder| builder.subnet_ids.clone());
        subnet_ids = subnets.ok_or_else(|| missing("--subnet", "builder.subnet_ids"))?;
    }
    let mut security_group_ids = args.security_group.clone();
    if security_group_ids.is_empty() && args.subnet.is_empty() {
        let groups = builder.map(|builder| builder.security_group_ids.clone());
        security_group_ids = groups.unwrap_or_default();
    }
    let mut amis = Vec::new();
    for release in &args.release {
        let version = release.to_string();
        let variant = &manifest.variant;
        amis.push(ami::of_release(clients, cache, architecture, variant, &version).await?);
    }
    let release = manifest.node.bottlerocket_version.to_string();
    let ami = match amis.first() {
        Some(ami) => ami.clone(),
        None => ami::of_release(clients, cache, architecture, &manifest.variant, &release).await?,
    };
    let images = manifest.images.iter().map(|image| PlannedImage {
        reference: image.reference.clone(),
        digest: image.digest.clone(),
        platform_digest: image.digest.clone(),
        size: image.size,
        after: None,
        on_base: false,
    });
    let volume = config.map(|config| &config.volume);
    let execution = format!("{cache}-verify-{}", now.as_millisecond());
    Ok(Target {
        cache: cache.clone(),
        architecture,
        execution: execution
            .parse()
            .expect("a cache's name has 32 characters at most"),
        planned_at: now,
        give_up_at: now + TIME_LIMIT,
        content_key: manifest.content_key.clone(),
        images: images.collect(),
        packed: manifest.packed,
        pinning: Pinning::Unpinned,
        variant: manifest.variant.clone(),
        ami,
        base: manifest.base.clone(),
        volume: VolumeConfig {
            size_gib: manifest.volume_size,
            iops: volume.map_or(3_000, |volume| volume.iops),
            throughput_mibps: volume.map_or(500, |volume| volume.throughput_mibps),
            kms_key_id: volume.and_then(|volume| volume.kms_key_id.clone()),
        },
        instance_types,
        subnet_ids,
        security_group_ids,
        builder_settings: builder
            .map_or_else(BuilderSettings::default, |builder| builder.settings.clone()),
        tags: config.map_or_else(ResourceTags::default, |config| config.tags.clone()),
        registry_credentials: std::collections::BTreeMap::new(),
        parallel_pulls: None,
        verification: VerificationPlan { level, amis },
        retain_snapshots: 1,
        retain_days: 0,
        publication: Publication::default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> VerifyReport {
        VerifyReport {
            snapshot_id: "snap-0123456789abcdef0".parse().unwrap(),
            verification: None,
            defects: None,
            rejected: false,
            interrupted: false,
        }
    }

    #[test]
    fn report_of_a_healthy_snapshot_has_its_record() {
        let record = "level=records releases=1.44.0/1.57.0 seconds=80 bytes=3000 trees=7 at=2026-01-02T03:04:05Z";
        let report = VerifyReport {
            verification: Some(record.parse().unwrap()),
            ..report()
        };
        assert_eq!(
            report.to_string(),
            "snap-0123456789abcdef0 has no defect: level records on Bottlerocket 1.44.0 and 1.57.0, 3.0 kB in layers, 80 s"
        );
        assert_eq!(report.exit(), Exit::Done);
    }

    #[test]
    fn report_of_a_rejected_snapshot_has_its_defects() {
        let report = VerifyReport {
            defects: Some("a layer is missing".to_owned()),
            rejected: true,
            ..report()
        };
        assert_eq!(
            report.to_string(),
            "a layer is missing\nsnap-0123456789abcdef0 is rejected now"
        );
        assert_eq!(report.exit(), Exit::Unsound);
    }
}
