//! The sweep removes the orphans of executions that have ended, for any reason.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::{SignedDuration, Timestamp};
use prepull_aws::ec2::types::{InstanceStateName, Tag};
use prepull_aws::instances::InstanceRecord;
use prepull_aws::sfn::types::ExecutionStatus;
use prepull_aws::{AwsError, Clients, Deadline, StageResult, parameters, tag_value, timestamp};
use prepull_domain::{
    Architecture, CacheConfig, CacheName, ExecutionName, InvalidConfig, SnapshotId, StageError,
    names,
};

use crate::input::EndedExecution;
use crate::resources::{self, TaggedSnapshot};
use crate::retention::Retention;
use crate::{Removed, failed_build, promotion, removal};

/// Age up to which the sweep announces a failed execution. The sweep runs every hour, so two may fail.
const ANNOUNCED_WITHIN: SignedDuration = SignedDuration::from_hours(3);

/// Maximum duration of an execution: `TimeoutSeconds` in `build.asl.json`.
const LONGEST_EXECUTION: SignedDuration = SignedDuration::from_hours(48);

/// Removes every orphan of at least `minimum_age`, and every snapshot beyond retention.
///
/// It does not wait for instances to terminate. The next sweep removes the rest. A failed deletion does not stop the sweep.
/// The first error is returned at the end.
pub(crate) async fn sweep(
    clients: &Clients,
    state_machine_arn: &str,
    minimum_age: SignedDuration,
    removed: &mut Removed,
    deadline: Deadline,
) -> Result<(), StageError> {
    let mut sweep = Sweep {
        clients,
        state_machine_arn,
        now: Timestamp::now(),
        minimum_age,
        running: HashMap::new(),
        removed,
        failure: Ok(()),
    };
    let announced = sweep.unannounced_failures().await;
    sweep.note(announced);
    let orphans = sweep.orphans().await;
    sweep.log_orphans();
    let (parameters, snapshots) = orphans?;
    let caches = parameters::caches(clients).await?;
    sweep.promotions(&parameters.all, &snapshots, &caches).await;
    sweep.log_ages(&parameters.pointers, &snapshots, &caches);
    sweep
        .orphaned_manifests(parameters.manifests, &snapshots)
        .await;
    sweep.old_snapshots(&snapshots, &caches, deadline).await?;
    sweep.failure
}

struct Sweep<'a> {
    clients: &'a Clients,
    state_machine_arn: &'a str,
    now: Timestamp,
    minimum_age: SignedDuration,
    /// Whether an execution still runs, by its name.
    running: HashMap<ExecutionName, bool>,
    removed: &'a mut Removed,
    /// The first failed removal.
    failure: Result<(), StageError>,
}

impl Sweep<'_> {
    /// Announces failed executions without a marker, and deletes old markers.
    ///
    /// The event of an execution's end is missing or late if it has not arrived within the minimum age.
    ///
    /// Source: Step Functions developer guide, "Event delivery"; `ListExecutions` returns the most recent execution first.
    async fn unannounced_failures(&self) -> Result<(), StageError> {
        let announced = parameters::below(self.clients, names::ANNOUNCED_PATH).await?;
        for status in [
            ExecutionStatus::Failed,
            ExecutionStatus::TimedOut,
            ExecutionStatus::Aborted,
        ] {
            for execution in self.recently_ended(status).await? {
                let marker = names::announced_parameter(&execution.name());
                if !announced.contains_key(&marker) {
                    tracing::warn!(marker, "the sweep announces a failed build");
                    failed_build::announce(self.clients, &execution).await?;
                }
            }
        }
        for (marker, ended) in announced {
            // Twice the time, so that no sweep with a slow clock announces the execution again.
            let is_recent = ended.parse::<Timestamp>().is_ok_and(|ended| {
                self.now.duration_since(ended) < ANNOUNCED_WITHIN + ANNOUNCED_WITHIN
            });
            if !is_recent {
                parameters::delete(self.clients, &marker).await?;
            }
        }
        Ok(())
    }

    /// Returns the executions that ended with `status` at least the minimum age ago, and within [`ANNOUNCED_WITHIN`].
    async fn recently_ended(
        &self,
        status: ExecutionStatus,
    ) -> Result<Vec<EndedExecution>, StageError> {
        let mut pages = self
            .clients
            .sfn
            .list_executions()
            .state_machine_arn(self.state_machine_arn)
            .status_filter(status)
            .into_paginator()
            .items()
            .send();
        let mut ended = Vec::new();
        while let Some(found) = pages.next().await {
            let found = found.or_stage_error("states:ListExecutions")?;
            let age = |time| self.now.duration_since(timestamp(time));
            if age(found.start_date()) > LONGEST_EXECUTION + ANNOUNCED_WITHIN {
                break;
            }
            let is_recent = found.stop_date().is_some_and(|stopped| {
                (self.minimum_age..ANNOUNCED_WITHIN).contains(&age(stopped))
            });
            if !is_recent {
                continue;
            }
            let described = self
                .clients
                .sfn
                .describe_execution()
                .execution_arn(found.execution_arn())
                .send()
                .await
                .or_stage_error("states:DescribeExecution")?;
            ended.extend(EndedExecution::described(&described));
        }
        Ok(ended)
    }

    /// Removes orphans, and returns every parameter and snapshot that it found.
    async fn orphans(&mut self) -> Result<(Parameters, Vec<TaggedSnapshot>), StageError> {
        self.instances().await?;
        self.volumes().await?;
        // Manifests come before snapshots, so the list of snapshots includes each one published in the meantime.
        let parameters = Parameters::read(self.clients).await?;
        let snapshots = resources::snapshots(self.clients, vec![resources::ours()]).await?;
        self.unfinished_snapshots(&snapshots).await?;
        Ok((parameters, snapshots))
    }

    /// Logs the removed orphans, if there are any. Every build cleans up after itself, so an orphan has a cause that an operator
    /// should find. A metric filter of the Terraform module reads `message` and `orphans`.
    fn log_orphans(&self) {
        let Removed {
            terminated,
            deleted_volumes,
            deleted_snapshots,
            ..
        } = &*self.removed;
        let orphans = terminated.len() + deleted_volumes.len() + deleted_snapshots.len();
        if orphans > 0 {
            tracing::error!(
                orphans,
                removed = serde_json::to_string(self.removed).unwrap_or_default(),
                "the sweep removed orphans"
            );
        }
    }

    /// Logs the age of the published snapshot of each target. The dashboard of the Terraform module reads these fields. The
    /// pointer of a removed cache stays for its nodes, and its age says nothing.
    fn log_ages(
        &self,
        pointers: &BTreeMap<Target, SnapshotId>,
        snapshots: &[TaggedSnapshot],
        caches: &Caches,
    ) {
        let declared = pointers
            .iter()
            .filter(|((cache, _), _)| caches.contains_key(cache));
        for ((cache, architecture), id) in declared {
            let found = snapshots.iter().find(|snapshot| snapshot.found.id == *id);
            let Some(started_at) = found.and_then(|snapshot| snapshot.found.started_at) else {
                tracing::error!(%cache, %architecture, snapshot = %id, "published snapshot not found");
                continue;
            };
            tracing::info!(
                %cache,
                %architecture,
                snapshot = %id,
                published_age_hours = self.now.duration_since(started_at).as_hours(),
                "published snapshot"
            );
        }
    }

    async fn instances(&mut self) -> Result<(), StageError> {
        for instance in resources::living_instances(self.clients, vec![resources::ours()]).await? {
            if instance.launched_at.is_none() {
                tracing::warn!(instance = %instance.id, "instance kept: EC2 returns no launch time");
            }
            if instance.state != InstanceStateName::ShuttingDown
                && !self.is_awaited(&instance)
                && self.is_orphan(&instance.tags, instance.launched_at).await?
            {
                let result = removal::terminate(self.clients, instance.id, self.removed).await;
                self.note(result);
            }
        }
        Ok(())
    }

    async fn volumes(&mut self) -> Result<(), StageError> {
        for volume in resources::free_volumes(self.clients, vec![resources::ours()]).await? {
            if self.is_orphan(&volume.tags, volume.created_at).await? {
                let result = removal::delete_volume(self.clients, volume.id, self.removed).await;
                self.note(result);
            }
        }
        Ok(())
    }

    async fn unfinished_snapshots(
        &mut self,
        snapshots: &[TaggedSnapshot],
    ) -> Result<(), StageError> {
        for snapshot in snapshots {
            let TaggedSnapshot { found, tags } = snapshot;
            if !found.is_verified()
                && self.is_orphan(tags, found.started_at).await?
                && !snapshot.was_published(self.clients).await?
            {
                let id = found.id.clone();
                let result = removal::delete_snapshot(self.clients, id, self.removed).await;
                self.note(result.map(drop));
            }
        }
        Ok(())
    }

    /// Promotes the candidates that are due.
    async fn promotions(
        &mut self,
        parameters: &BTreeMap<String, String>,
        snapshots: &[TaggedSnapshot],
        caches: &Caches,
    ) {
        for (cache, config) in caches {
            // The configuration may have an error, or no longer list an architecture.
            let Ok(config) = config else { continue };
            for architecture in &config.architectures {
                let result = promotion::apply(
                    self.clients,
                    (cache, *architecture),
                    config,
                    parameters,
                    snapshots,
                    self.now,
                )
                .await;
                self.note(result);
            }
        }
    }

    async fn orphaned_manifests(
        &mut self,
        manifests: BTreeMap<String, Pages>,
        snapshots: &[TaggedSnapshot],
    ) {
        let present: BTreeSet<_> = snapshots
            .iter()
            .map(|snapshot| &snapshot.found.id)
            .collect();
        for (parameter, manifest) in manifests {
            if !present.contains(&manifest.snapshot) {
                let pages = manifest.more;
                let result =
                    removal::delete_manifest(self.clients, parameter, pages, self.removed).await;
                self.note(result);
            }
        }
    }

    /// Applies retention to every declared cache. A removed cache keeps its snapshots, because nodes may use them and no setting
    /// says how many to keep.
    async fn old_snapshots(
        &mut self,
        snapshots: &[TaggedSnapshot],
        caches: &Caches,
        deadline: Deadline,
    ) -> Result<(), StageError> {
        let targets: BTreeSet<_> = snapshots
            .iter()
            .filter_map(TaggedSnapshot::target)
            .collect();
        for (cache, architecture) in targets {
            let Some(Ok(config)) = caches.get(&cache) else {
                tracing::info!(%cache, "snapshots kept: their cache is not declared or not valid");
                continue;
            };
            deadline.check("applying retention to the other caches")?;
            let retention = Retention {
                clients: self.clients,
                cache: &cache,
                architecture,
                snapshots: config.retain_snapshots,
                days: config.retain_days,
                copy_to_regions: &config.publication.copy_to_regions,
            };
            let result = retention.apply(self.removed).await;
            self.note(result);
        }
        Ok(())
    }

    /// Continues after a failure, and keeps the first one.
    fn note(&mut self, result: Result<(), StageError>) {
        if let Err(error) = result {
            tracing::error!(error = error.name(), cause = %error, "removal failed");
            if self.failure.is_ok() {
                self.failure = Err(error);
            }
        }
    }

    /// Returns whether a running `prepull verify` still needs its verifier. No execution owns such an instance.
    fn is_awaited(&self, instance: &InstanceRecord) -> bool {
        let expires_at = instance.tag(names::TAG_EXPIRES_AT);
        let expires_at = expires_at.and_then(|at| at.parse::<Timestamp>().ok());
        expires_at.is_some_and(|at| self.now < at)
    }

    /// Returns whether a resource belongs to an execution that has ended. A resource without an execution tag was tagged by
    /// someone else, and stays. A resource of unknown age stays too.
    async fn is_orphan(
        &mut self,
        tags: &[Tag],
        since: Option<Timestamp>,
    ) -> Result<bool, StageError> {
        let is_old = since.is_some_and(|since| self.now.duration_since(since) >= self.minimum_age);
        let is_ours = tag_value(tags, names::TAG_CACHE).is_some();
        let execution = tag_value(tags, names::TAG_EXECUTION).and_then(|name| name.parse().ok());
        match execution {
            Some(execution) if is_ours && is_old => Ok(!self.runs(execution).await?),
            _ => Ok(false),
        }
    }

    async fn runs(&mut self, execution: ExecutionName) -> Result<bool, StageError> {
        if let Some(known) = self.running.get(&execution) {
            return Ok(*known);
        }
        let machine = self
            .state_machine_arn
            .replace(":stateMachine:", ":execution:");
        let answer = self
            .clients
            .sfn
            .describe_execution()
            .execution_arn(format!("{machine}:{execution}"))
            .send()
            .await;
        let runs = match answer {
            Ok(found) => *found.status() == ExecutionStatus::Running,
            // Step Functions forgets executions after 90 days.
            Err(error) if error.aws_code() == Some("ExecutionDoesNotExist") => false,
            Err(error) => return Err(error.into_stage_error("states:DescribeExecution")),
        };
        self.running.insert(execution, runs);
        Ok(runs)
    }
}

/// A cache and an architecture.
type Target = (CacheName, Architecture);

/// The declared caches, each with its configuration or the configuration's error.
type Caches = BTreeMap<CacheName, Result<CacheConfig, InvalidConfig>>;

/// The parameters of a manifest.
struct Pages {
    snapshot: SnapshotId,
    /// Further pages. The first one may be missing, because it is written last and deleted first.
    more: Vec<String>,
}

/// The parameters of snapshots.
#[derive(Default)]
struct Parameters {
    /// All of them.
    all: BTreeMap<String, String>,
    /// Manifests, by the name of their first page.
    manifests: BTreeMap<String, Pages>,
    /// Published snapshot of each target.
    pointers: BTreeMap<Target, SnapshotId>,
}

impl Parameters {
    async fn read(clients: &Clients) -> Result<Self, StageError> {
        let mut found = Self {
            all: parameters::below(clients, "/prepull").await?,
            ..Self::default()
        };
        for (name, value) in found.all.clone() {
            found.add(name, &value);
        }
        Ok(found)
    }

    /// Adds a parameter. Returns `None` for one of another kind.
    fn add(&mut self, name: String, value: &str) -> Option<()> {
        let parts: Vec<_> = name.split('/').collect();
        let ["", "prepull", cache, architecture, ref rest @ ..] = parts[..] else {
            return None;
        };
        let target = (cache.parse().ok()?, architecture.parse().ok()?);
        match *rest {
            ["snapshot-id"] => {
                self.pointers.insert(target, value.parse().ok()?);
            }
            ["snapshots", snapshot, ref page @ ..] => {
                let snapshot: SnapshotId = snapshot.parse().ok()?;
                let first = names::manifest_parameter(&target.0, target.1, &snapshot);
                let manifest = self.manifests.entry(first).or_insert(Pages {
                    snapshot,
                    more: Vec::new(),
                });
                if !page.is_empty() {
                    manifest.more.push(name);
                }
            }
            _ => {}
        }
        Some(())
    }
}
