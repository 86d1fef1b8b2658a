//! plan-build decides what an execution builds, and on which base.
//!
//! **Before:** an execution of a cache runs, and its triggers have happened.
//!
//! **After:** nothing has changed. The answer is a [`Plan`]. It has a target for each architecture whose newest published
//! snapshot does not match the cache's references. Or it says that all match, or that a newer execution supersedes this one.
//!
//! **Called again:** it makes a new plan from the current references.
//!
//! **Called early:** before the debounce, it makes a plan without waiting and without reading the images' manifests. The state machine
//! launches builders by it, and plans again after the debounce.
//!
//! **Errors:** `InvalidConfig` if the cache does not exist, is misconfigured, wants an unknown Bottlerocket release, has too
//! small a volume, or has images in ECR that the builder cannot log in to. `ImageNotFound`, `RegistryDenied` and
//! `RegistryUnavailable` for its images, one message for all of the same kind.
//! `StillRunning` while an older execution of the cache builds. No error leaves an instance.

mod base;
mod capacity_check;
mod images;
mod pull_order;
mod queue;

use std::collections::{BTreeMap, BTreeSet};

use futures::future::try_join_all;
use jiff::{SignedDuration, Timestamp};
use prepull_aws::parameters::DocumentError;
use prepull_aws::{Clients, Deadline, ami, parameters};
use prepull_domain::build::payload::{
    Base, Pinning, Plan, PlanInput, PlanTime, PlannedImage, Target, VerificationPlan,
};
use prepull_domain::build::queue::Position;
use prepull_domain::{
    Architecture, BottlerocketVersion, Bytes, CacheConfig, CacheName, ContentKey, ExecutionName,
    InvalidConfig, Manifest, ManifestImage, SnapshotId, StageError, VerificationLevel, names,
};

use crate::base::{Newest, NewestSnapshot};
use crate::images::{Images, References};

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
    let position = match input.time {
        PlanTime::AfterDebounce => {
            queue::wait(clients, state_machine_arn, &input, deadline).await?
        }
        PlanTime::Early => queue::position_now(clients, state_machine_arn, &input).await?,
    };
    match position {
        Position::First => {}
        Position::Superseded { by } => {
            tracing::info!(%by, "superseded by a newer build");
            return Ok(Plan::Superseded { by });
        }
        Position::Waiting { behind } => return Ok(Plan::Queued { behind }),
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
        time: input.time,
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
    time: PlanTime,
}

/// The newest published snapshot of one architecture.
enum State {
    UpToDate(SnapshotId),
    Outdated(Outdated),
}

/// An architecture that needs a build.
struct Outdated {
    architecture: Architecture,
    content_key: ContentKey,
    newest: Newest,
}

impl Planner<'_> {
    async fn plan(&self) -> Result<Plan, StageError> {
        let references = images::locate(self.clients, &self.cache, &self.config).await?;
        let mut outdated = Vec::new();
        let mut snapshots = BTreeMap::new();
        let architectures = &self.config.architectures;
        let states = architectures
            .iter()
            .map(|architecture| self.state(*architecture, &references));
        for (architecture, state) in architectures.iter().zip(try_join_all(states).await?) {
            match state {
                State::UpToDate(snapshot) => {
                    tracing::info!(%architecture, %snapshot, "target is up to date");
                    snapshots.insert(*architecture, snapshot);
                }
                State::Outdated(target) => outdated.push(target),
            }
        }
        if outdated.is_empty() {
            return Ok(Plan::UpToDate { snapshots });
        }
        // Only a build needs the manifests. Reading them counts as a pull on Docker Hub.
        let architectures = outdated.iter().map(|target| target.architecture).collect();
        let images = match self.time {
            PlanTime::Early => references.unread(),
            PlanTime::AfterDebounce => references.images(self.clients, &architectures).await?,
        };
        let targets = outdated
            .into_iter()
            .map(|target| self.target(target, &images));
        let targets = try_join_all(targets).await?;
        for target in &targets {
            tracing::info!(architecture = %target.architecture, base = ?target.base, "target needs a build");
        }
        capacity_check::in_payload(&targets).map_err(|problem| self.invalid(problem))?;
        Ok(Plan::Build { targets })
    }

    fn pinning(&self) -> Pinning {
        if self.config.pin_images {
            Pinning::Pinned
        } else {
            Pinning::Unpinned
        }
    }

    async fn state(
        &self,
        architecture: Architecture,
        references: &References<'_>,
    ) -> Result<State, StageError> {
        let variant = &self.config.variant;
        let content_key =
            ContentKey::of(variant, architecture, self.pinning(), references.digests());
        let newest = base::newest(self.clients, &self.cache, architecture).await?;
        if let Newest::Snapshot(snapshot) = &newest
            && snapshot.content_key.as_ref() == Some(&content_key)
            && self.fits(snapshot)
        {
            return Ok(State::UpToDate(snapshot.id.clone()));
        }
        Ok(State::Outdated(Outdated {
            architecture,
            content_key,
            newest,
        }))
    }

    async fn target(&self, outdated: Outdated, images: &Images) -> Result<Target, StageError> {
        let Outdated {
            architecture,
            content_key,
            newest,
        } = outdated;
        let config = &self.config;
        let mut planned = images.planned(architecture);
        self.check_capacity(architecture, images, &planned)?;
        let ami = ami::find(self.clients, &self.cache, architecture, &self.config).await?;
        self.check_login(&ami.version)?;
        let (base, held) = self.base(architecture, newest, &ami.version).await?;
        let held: BTreeSet<_> = held.iter().map(ManifestImage::by_digest).collect();
        for image in &mut planned {
            image.on_base = held.contains(&image.reference.by_digest(&image.digest));
        }
        let packed = images.compressed_size(architecture);
        let verification = self.verification(architecture, packed).await?;
        Ok(Target {
            cache: self.cache.clone(),
            architecture,
            execution: self.execution.clone(),
            planned_at: self.planned_at,
            give_up_at: self.planned_at
                + SignedDuration::from_mins(i64::from(config.timeout_minutes)),
            content_key,
            images: planned,
            packed,
            pinning: self.pinning(),
            variant: config.variant.clone(),
            ami,
            base,
            volume: config.volume.clone(),
            instance_types: config.builder.instance_types[&architecture].clone(),
            subnet_ids: config.builder.subnet_ids.clone(),
            security_group_ids: config.builder.security_group_ids.clone(),
            builder_settings: config.builder.settings.clone(),
            tags: config.tags.clone(),
            registry_credentials: config.registry_credentials.clone(),
            parallel_pulls: config.parallel_pulls,
            verification,
            retain_snapshots: config.retain_snapshots,
            retain_days: config.retain_days,
            publication: config.publication.clone(),
        })
    }

    /// Returns the verification of a snapshot whose layers have `packed` bytes.
    async fn verification(
        &self,
        architecture: Architecture,
        packed: Bytes,
    ) -> Result<VerificationPlan, StageError> {
        let config = &self.config;
        let level = config.verification.level_for(packed);
        let mut amis = Vec::new();
        if level != VerificationLevel::Off {
            for release in &config.verification.releases {
                let (cache, release) = (&self.cache, release.to_string());
                let variant = &config.variant;
                let ami = ami::of_release(self.clients, cache, architecture, variant, &release);
                amis.push(ami.await?);
            }
        }
        Ok(VerificationPlan { level, amis })
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
        .and_then(|()| capacity_check::in_commands(planned))
        .map_err(|problem| self.invalid(problem))
    }

    /// An image that the builder pulls without credentials fails only after the launch.
    fn check_login(&self, release: &BottlerocketVersion) -> Result<(), StageError> {
        let mut images = self.config.images.iter();
        images
            .try_for_each(|image| image.check_login(release))
            .map_err(|problem| self.invalid(problem.to_string()))
    }

    /// Returns the base and, unless the plan is an early one, its images.
    async fn base(
        &self,
        architecture: Architecture,
        newest: Newest,
        version: &BottlerocketVersion,
    ) -> Result<(Base, Vec<ManifestImage>), StageError> {
        let empty = |reason| Ok((Base::Empty { reason }, Vec::new()));
        let snapshot = match newest {
            Newest::Snapshot(snapshot) if self.fits(&snapshot) => snapshot,
            Newest::Snapshot(snapshot) => {
                return empty(format!(
                    "`volume.size_gib` is {}, less than the {} of snapshot {}",
                    self.config.volume.size_gib, snapshot.volume_size, snapshot.id
                ));
            }
            Newest::Nothing { reason } => return empty(reason),
        };
        let parameter = names::manifest_parameter(&self.cache, architecture, &snapshot.id);
        let first = parameters::get(self.clients, &parameter).await?;
        let variant = &self.config.variant;
        let fresh = match base::usable(&snapshot.id, first.as_deref(), variant, version) {
            Ok(manifest) => manifest.fresh,
            Err(reason) => return empty(reason),
        };
        let held = match first {
            Some(first) if self.time == PlanTime::AfterDebounce => {
                self.held(&parameter, first).await?
            }
            _ => Vec::new(),
        };
        let base = Base::Snapshot {
            snapshot_id: snapshot.id,
            fresh,
        };
        Ok((base, held))
    }

    /// Returns the images in a manifest. If its pages do not fit together, it returns none, and pull-images finds out which
    /// images are on the base.
    async fn held(&self, parameter: &str, first: String) -> Result<Vec<ManifestImage>, StageError> {
        match parameters::complete(self.clients, parameter, first).await {
            Ok(json) => {
                let manifest = serde_json::from_str::<Manifest>(&json);
                Ok(manifest.map_or_else(|_| Vec::new(), |manifest| manifest.images))
            }
            Err(DocumentError::Call(error)) => Err(error),
            Err(DocumentError::Pages(error)) => {
                tracing::warn!(parameter, %error, "manifest without all of its pages");
                Ok(Vec::new())
            }
        }
    }

    /// Returns whether a volume of the configured size can start from `snapshot`. A volume cannot be smaller than its
    /// snapshot.
    fn fits(&self, snapshot: &NewestSnapshot) -> bool {
        self.config.volume.size_gib >= snapshot.volume_size
    }

    fn invalid(&self, problem: String) -> StageError {
        InvalidConfig::new(self.cache.as_str(), problem).into()
    }
}
