//! plan-build decides what an execution builds, and on which base.
//!
//! **Before:** an execution of a cache runs, and its triggers have happened.
//!
//! **After:** nothing has changed. The answer is a [`Plan`]. It has a target for each architecture whose published snapshot
//! does not match the cache's references. Or it says that all match, or that a newer execution supersedes this one.
//!
//! **Called again:** it makes a new plan from the current references.
//!
//! **Errors:** `InvalidConfig` if the cache does not exist, is misconfigured, wants an unknown Bottlerocket release, or has
//! too small a volume. `ImageNotFound` and `RegistryDenied` for its images, one message for all of the same kind.
//! `StillRunning` while an older execution of the cache builds. No error leaves an instance.

mod base;
mod capacity_check;
mod images;
mod pull_order;
mod queue;

use std::collections::BTreeMap;

use futures::future::try_join_all;
use jiff::{SignedDuration, Timestamp};
use prepull_aws::{Clients, Deadline, ami, parameters};
use prepull_domain::build::payload::{Base, Pinning, Plan, PlanInput, PlannedImage, Target};
use prepull_domain::build::queue::Position;
use prepull_domain::{
    Architecture, CacheConfig, CacheName, ContentKey, ExecutionName, InvalidConfig, SnapshotId,
    StageError, names,
};

use crate::base::{Published, PublishedSnapshot};
use crate::images::Images;

/// Plans one execution.
///
/// # Errors
/// See the module's documentation.
pub async fn handle(
    clients: &Clients,
    state_machine_arn: &str,
    input: PlanInput,
    deadline: Deadline,
) -> Result<Plan, StageError> {
    // Checks before the wait, so that a configuration error is reported at once.
    parameters::cache(clients, &input.cache).await?;
    if let Position::Superseded { by } =
        queue::wait(clients, state_machine_arn, &input, deadline).await?
    {
        tracing::info!(%by, "superseded by a newer build");
        return Ok(Plan::Superseded { by });
    }
    // Reads again, because the configuration may have changed during the wait.
    let (cache, config) = parameters::cache(clients, &input.cache).await?;
    let planner = Planner {
        clients,
        cache,
        config,
        execution: input.execution.name(),
        // The plan may miss pushes from here on.
        planned_at: Timestamp::now(),
    };
    planner.plan().await
}

/// A cache whose build may proceed.
struct Planner<'a> {
    clients: &'a Clients,
    cache: CacheName,
    config: CacheConfig,
    execution: ExecutionName,
    planned_at: Timestamp,
}

/// The decision for one architecture.
enum Decision {
    UpToDate(SnapshotId),
    Build(Box<Target>),
}

impl Planner<'_> {
    async fn plan(&self) -> Result<Plan, StageError> {
        let images = images::resolve(self.clients, &self.cache, &self.config).await?;
        let mut targets = Vec::new();
        let mut snapshots = BTreeMap::new();
        let architectures = &self.config.architectures;
        let decisions = try_join_all(
            architectures
                .iter()
                .map(|architecture| self.decide(*architecture, &images)),
        );
        for (architecture, decision) in architectures.iter().zip(decisions.await?) {
            match decision {
                Decision::UpToDate(snapshot) => {
                    tracing::info!(%architecture, %snapshot, "target is up to date");
                    snapshots.insert(*architecture, snapshot);
                }
                Decision::Build(target) => {
                    tracing::info!(%architecture, base = ?target.base, "target needs a build");
                    targets.push(*target);
                }
            }
        }
        if targets.is_empty() {
            Ok(Plan::UpToDate { snapshots })
        } else {
            Ok(Plan::Build { targets })
        }
    }

    async fn decide(
        &self,
        architecture: Architecture,
        images: &Images,
    ) -> Result<Decision, StageError> {
        let config = &self.config;
        let pinning = if config.pin_images {
            Pinning::Pinned
        } else {
            Pinning::Unpinned
        };
        let planned = images.planned(architecture);
        let content_key = ContentKey::of(&config.variant, architecture, pinning, &planned);
        let published = base::published(self.clients, &self.cache, architecture).await?;
        if let Published::Snapshot(snapshot) = &published
            && snapshot.content_key.as_ref() == Some(&content_key)
        {
            self.check_not_shrunk(architecture, snapshot)?;
            return Ok(Decision::UpToDate(snapshot.id.clone()));
        }
        self.check_capacity(architecture, images, &planned)?;
        let ami = ami::find(self.clients, &self.cache, architecture, &self.config).await?;
        let base = self.base(architecture, published, &ami.version).await?;
        Ok(Decision::Build(Box::new(Target {
            cache: self.cache.clone(),
            architecture,
            execution: self.execution.clone(),
            planned_at: self.planned_at,
            give_up_at: self.planned_at
                + SignedDuration::from_mins(i64::from(config.timeout_minutes)),
            content_key,
            images: planned,
            packed: images.compressed_size(architecture),
            pinning,
            variant: config.variant.clone(),
            ami,
            base,
            volume: config.volume.clone(),
            instance_types: config.builder.instance_types[&architecture].clone(),
            subnet_ids: config.builder.subnet_ids.clone(),
            security_group_ids: config.builder.security_group_ids.clone(),
            registry_credentials: config.registry_credentials.clone(),
            parallel_pulls: config.parallel_pulls,
            retain_snapshots: config.retain_snapshots,
            publication: config.publication.clone(),
        })))
    }

    fn check_capacity(
        &self,
        architecture: Architecture,
        images: &Images,
        planned: &[PlannedImage],
    ) -> Result<(), StageError> {
        capacity_check::on_volume(
            images.compressed_size(architecture),
            self.config.volume.size_gib,
        )
        .and_then(|()| capacity_check::in_manifest(planned))
        .map_err(|problem| self.invalid(problem))
    }

    async fn base(
        &self,
        architecture: Architecture,
        published: Published,
        version: &prepull_domain::BottlerocketVersion,
    ) -> Result<Base, StageError> {
        let snapshot = match published {
            Published::Snapshot(snapshot) => snapshot,
            Published::Nothing { reason } => return Ok(Base::Empty { reason }),
        };
        let parameter = names::manifest_parameter(&self.cache, architecture, &snapshot.id);
        let manifest = parameters::get(self.clients, &parameter).await?;
        match base::usable(
            &snapshot.id,
            manifest.as_deref(),
            &self.config.variant,
            version,
        ) {
            Ok(fresh) => {
                self.check_not_shrunk(architecture, &snapshot)?;
                Ok(Base::Snapshot {
                    snapshot_id: snapshot.id,
                    fresh,
                })
            }
            Err(reason) => Ok(Base::Empty { reason }),
        }
    }

    /// A volume from a snapshot must be at least as large as the volume of the snapshot.
    fn check_not_shrunk(
        &self,
        architecture: Architecture,
        snapshot: &PublishedSnapshot,
    ) -> Result<(), StageError> {
        let (wanted, least) = (self.config.volume.size_gib, snapshot.volume_size);
        if wanted < least {
            return Err(self.invalid(format!(
                "`volume.size_gib` is {wanted}, less than the {least} of the published snapshot {}, and a volume \
                 cannot be smaller than its snapshot. Set it to at least {}, or delete the parameter {} to start \
                 from an empty volume",
                snapshot.id,
                least.0,
                names::pointer_parameter(&self.cache, architecture)
            )));
        }
        Ok(())
    }

    fn invalid(&self, problem: String) -> StageError {
        InvalidConfig::new(self.cache.as_str(), problem).into()
    }
}
