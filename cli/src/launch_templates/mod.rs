//! `prepull templates`: gives the snapshots of caches to EC2 launch templates.
//!
//! A template opts in with tags whose keys are the [annotations](prepull_kubernetes::annotations) of node classes. It gets a
//! version with the stable snapshot, which becomes the default version, and one with the candidate, which never does.
//!
//! **Before:** credentials for EC2 and for the pointers. **After:** the default version has the stable snapshot, the newest
//! version has the candidate if there is one, and own versions of other snapshots are deleted. **Called again:** an up-to-date
//! template is not written. Two calls at once create one version, because they use the same client token. **Errors:** problems
//! of one template are in the report.
//!
//! A template is not registered as a consumer. Retention reads all versions of all templates in the account and Region, and
//! keeps their snapshots. A registration would keep them for 30 more days after the end of a template.

mod difference;
mod ec2;
mod node_groups;
mod plan;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use prepull_aws::ec2::types::LaunchTemplate;
use prepull_aws::{Clients, parameters};
use prepull_domain::{LaunchTemplateId, SnapshotId};
use prepull_estimate::MAX_INITIALIZATION_RATE;
use prepull_kubernetes::{Channel, FieldChange, OptIn, Ring};
use serde::Serialize;

use crate::render::table;
use crate::{Error, Exit, store};
use ec2::CallError;
pub use node_groups::{GroupReport, GroupResult, Groups};
use plan::{NewVolume, Plan, Target, TargetVersion, Template};

/// The arguments of `prepull templates`.
#[derive(Debug, Clone, clap::Args)]
pub struct LaunchTemplatesArgs {
    /// Update only these launch templates, by name or ID.
    #[arg(value_name = "TEMPLATE")]
    pub templates: Vec<String>,
    /// Change the templates. Otherwise it only shows the changes.
    #[arg(long)]
    pub apply: bool,
    /// Update only templates with this value of `prepull/ring`.
    #[arg(long, value_name = "NAME")]
    pub ring: Option<Ring>,
    /// Update managed node groups of these templates, too.
    ///
    /// EKS replaces all nodes and keeps their Bottlerocket release.
    #[arg(long)]
    pub update_node_groups: bool,
    /// Wait up to this time for the updates of node groups.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = wait)]
    pub wait: Duration,
}

fn wait(given: &str) -> Result<Duration, String> {
    let wait: SignedDuration = given.parse().map_err(|error| format!("{error}"))?;
    Duration::try_from(wait).map_err(|_| "expected a time such as `1h`".to_owned())
}

/// The result for a Region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LaunchTemplatesReport {
    /// Whether it could change templates.
    pub applied: bool,
    /// The ring.
    pub ring: Option<Ring>,
    /// The templates with tags of prepull.
    pub launch_templates: Vec<TemplateReport>,
    /// The managed node groups that do not have the default version, if the command updates node groups.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_groups: Option<Groups>,
}

/// The result for one launch template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TemplateReport {
    /// Name, or the argument if no such template opted in.
    pub name: String,
    /// ID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<LaunchTemplateId>,
    /// Its tags, if they are valid.
    #[serde(flatten)]
    pub opt_in: Option<OptIn>,
    /// The result.
    pub result: TemplateResult,
    /// A remark about the default version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<&'static str>,
}

/// The result for a launch template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum TemplateResult {
    /// It has its versions.
    UpToDate {
        /// The default version.
        default_version: i64,
        /// The stable snapshot.
        snapshot_id: SnapshotId,
    },
    /// It would change.
    WouldChange {
        /// The changes.
        changes: Vec<Change>,
    },
    /// It was changed.
    Applied {
        /// The default version.
        default_version: i64,
        /// The changes.
        changes: Vec<Change>,
    },
    /// It was deleted meanwhile.
    Deleted,
    /// It was left alone.
    Refused {
        /// Cause and remedy.
        why: String,
    },
    /// A call failed.
    Failed {
        /// The changes before the failure.
        changes: Vec<Change>,
        /// Cause and remedy.
        why: String,
    },
}

/// A change of a launch template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Change {
    /// A new version.
    Create {
        /// Its number, after the change.
        version: Option<i64>,
        /// The use of the snapshot.
        channel: Channel,
        /// The changed fields of the data volume, compared with the default version.
        fields: Vec<FieldChange>,
    },
    /// Another default version.
    SetDefault {
        /// Default version before.
        from: i64,
        /// Default version after. `None` for a version that does not exist yet.
        to: Option<i64>,
        /// Its snapshot.
        snapshot_id: SnapshotId,
    },
    /// The end of own versions that nobody needs.
    Delete {
        /// Their numbers.
        versions: Vec<i64>,
    },
}

impl TemplateReport {
    fn fails(&self) -> bool {
        match self.result {
            TemplateResult::UpToDate { .. }
            | TemplateResult::WouldChange { .. }
            | TemplateResult::Applied { .. }
            | TemplateResult::Deleted => false,
            TemplateResult::Refused { .. } | TemplateResult::Failed { .. } => true,
        }
    }

    /// Returns the default version if it has the stable snapshot now.
    fn default_version(&self) -> Option<i64> {
        match &self.result {
            TemplateResult::UpToDate {
                default_version, ..
            }
            | TemplateResult::Applied {
                default_version, ..
            } => Some(*default_version),
            _ => None,
        }
    }
}

impl LaunchTemplatesReport {
    /// Returns the exit code: an error if a template or a node group could not be updated, or the ring has none.
    #[must_use]
    pub fn exit(&self) -> Exit {
        let is_empty_ring = self.ring.is_some() && self.launch_templates.is_empty();
        let groups_fail = self.node_groups.as_ref().is_some_and(Groups::fail);
        if is_empty_ring || groups_fail || self.launch_templates.iter().any(TemplateReport::fails) {
            Exit::Failed
        } else {
            Exit::Done
        }
    }
}

/// Updates the launch templates of the Region, and then their node groups.
///
/// # Errors
/// If EC2 does not list the templates. Problems of one template are in the report.
pub async fn run(
    clients: &Clients,
    args: &LaunchTemplatesArgs,
    now: Timestamp,
) -> Result<LaunchTemplatesReport, Error> {
    let eks = aws_sdk_eks::Client::new(&clients.sdk_config());
    run_with(clients, &eks, args, now).await
}

/// Does the same as [`run`], with this client of EKS.
///
/// # Errors
/// Those of [`run`].
pub async fn run_with(
    clients: &Clients,
    eks: &aws_sdk_eks::Client,
    args: &LaunchTemplatesArgs,
    now: Timestamp,
) -> Result<LaunchTemplatesReport, Error> {
    let update = Update { clients, args, now };
    let mut launch_templates = Vec::new();
    for listed in update.list().await? {
        launch_templates.push(match listed {
            Listed::Invalid(report) => report,
            Listed::OptedIn { id, name, opt_in } => update.template(id, name, opt_in).await,
        });
    }
    let node_groups = if args.update_node_groups {
        let default =
            |report: &TemplateReport| Some((report.id.clone()?, report.default_version()?));
        let defaults: BTreeMap<_, _> = launch_templates.iter().filter_map(default).collect();
        Some(node_groups::update(eks, &defaults, args).await)
    } else {
        None
    };
    Ok(LaunchTemplatesReport {
        applied: args.apply,
        ring: args.ring.clone(),
        launch_templates,
        node_groups,
    })
}

/// A launch template with tags of prepull.
enum Listed {
    OptedIn {
        id: LaunchTemplateId,
        name: String,
        opt_in: OptIn,
    },
    /// A template that cannot be updated.
    Invalid(TemplateReport),
}

/// A run.
struct Update<'a> {
    clients: &'a Clients,
    args: &'a LaunchTemplatesArgs,
    now: Timestamp,
}

impl Update<'_> {
    /// Returns the selected templates by name.
    async fn list(&self) -> Result<Vec<Listed>, Error> {
        let mut found = ec2::opted_in(self.clients).await?;
        found.sort_by(|a, b| a.launch_template_name().cmp(&b.launch_template_name()));
        let mut missing: BTreeSet<_> = self.args.templates.iter().map(String::as_str).collect();
        let mut listed = Vec::new();
        for template in &found {
            let names = [
                template.launch_template_name(),
                template.launch_template_id(),
            ];
            let is_named = names
                .into_iter()
                .flatten()
                .filter(|name| missing.remove(name))
                .count();
            if self.args.templates.is_empty() || is_named > 0 {
                listed.extend(self.parse(template));
            }
        }
        let missing = missing.into_iter().map(|name| {
            let why = "no such launch template in this Region has the tags `prepull/cache` and `prepull/architecture`. Add them, \
                       or correct the name";
            Listed::Invalid(TemplateReport::refused(name.to_owned(), None, why.to_owned()))
        });
        listed.extend(missing);
        Ok(listed)
    }

    /// Parses the tags of a template. `None` if it belongs to another ring.
    fn parse(&self, template: &LaunchTemplate) -> Option<Listed> {
        let name = template
            .launch_template_name()
            .unwrap_or_default()
            .to_owned();
        let tags = template.tags().iter();
        let tags = tags.filter_map(|tag| Some((tag.key()?.to_owned(), tag.value()?.to_owned())));
        let id = template.launch_template_id().unwrap_or_default().parse();
        let opt_in = OptIn::parse(&tags.collect());
        let refused = |why: String| {
            let id = template.launch_template_id().and_then(|id| id.parse().ok());
            Some(Listed::Invalid(TemplateReport::refused(
                name.clone(),
                id,
                why,
            )))
        };
        match (id, opt_in) {
            (Ok(_), Ok(Some(opt_in))) if self.args.ring.is_some() && opt_in.ring != self.args.ring => {
                None
            }
            (Ok(_), Ok(Some(opt_in))) if opt_in.channel != Channel::Stable => refused(
                "the tag `prepull/channel` is not available, because the default version never gets a candidate. Remove the tag"
                    .to_owned(),
            ),
            (Ok(id), Ok(Some(opt_in))) => Some(Listed::OptedIn { id, name, opt_in }),
            (Err(problem), _) => refused(problem.to_string()),
            // The same rules hold for annotations of node classes.
            (_, Err(problem)) => refused(problem.to_string().replace("annotation", "tag")),
            (_, Ok(None)) => None,
        }
    }

    /// Updates one template. An error is part of the report, so the other templates still follow.
    async fn template(&self, id: LaunchTemplateId, name: String, opt_in: OptIn) -> TemplateReport {
        let mut changes = Vec::new();
        let mut note = None;
        let result = Box::pin(self.update(&id, &opt_in, &mut changes, &mut note)).await;
        let result = match result {
            Ok(result) => result,
            Err(Problem::Gone) => TemplateResult::Deleted,
            Err(Problem::Refused(why)) => TemplateResult::Refused { why },
            Err(Problem::Failed(why)) => TemplateResult::Failed { changes, why },
        };
        TemplateReport {
            name,
            id: Some(id),
            opt_in: Some(opt_in),
            result,
            note,
        }
    }

    async fn update(
        &self,
        id: &LaunchTemplateId,
        opt_in: &OptIn,
        changes: &mut Vec<Change>,
        note: &mut Option<&'static str>,
    ) -> Result<TemplateResult, Problem> {
        let (cache, architecture) = (&opt_in.cache, opt_in.architecture);
        let template = ec2::template(self.clients, id).await?;
        let pointer = store::shown_pointer(self.clients, cache, architecture).await?;
        let default = template
            .default_version()
            .map_err(|refusal| Problem::refused(&refusal))?;
        let image = ec2::image(self.clients, default.data.image_id()).await?;
        let new_volume = self.new_volume(&template, opt_in).await;
        let plan = template
            .plan(opt_in, pointer.as_ref(), &image, &new_volume)
            .map_err(|refusal| Problem::refused(&refusal))?;
        if template.has_data_volume() && plan::loads_lazily(&default.data) {
            *note = Some(
                "the data volume has no `VolumeInitializationRate`, so a large image can start later than after a pull",
            );
        }
        let planned = plan.changes(template.default);
        if planned.is_empty() {
            return Ok(TemplateResult::UpToDate {
                default_version: template.default,
                snapshot_id: plan.stable.snapshot,
            });
        }
        if !self.args.apply {
            return Ok(TemplateResult::WouldChange { changes: planned });
        }
        let default_version = self.apply(&template, opt_in, plan, changes).await?;
        Ok(TemplateResult::Applied {
            default_version,
            changes: std::mem::take(changes),
        })
    }

    /// Returns the settings of a missing data volume, or the reason why they are unknown. Only the Region of the installation
    /// has the configuration of the cache.
    async fn new_volume(&self, template: &Template, opt_in: &OptIn) -> Result<NewVolume, String> {
        if template.has_data_volume() {
            return Err("it has one".to_owned());
        }
        let config = parameters::cache(self.clients, opt_in.cache.as_str()).await;
        config
            .map(|(_, config)| NewVolume {
                iops: config.volume.iops,
                throughput_mibps: config.volume.throughput_mibps,
                rate: MAX_INITIALIZATION_RATE,
            })
            .map_err(|error| error.to_string().trim_end_matches('.').to_owned())
    }

    /// Makes the changes of a plan, and returns the default version.
    async fn apply(
        &self,
        template: &Template,
        opt_in: &OptIn,
        plan: Plan,
        changes: &mut Vec<Change>,
    ) -> Result<i64, Problem> {
        let stable = self
            .create(template, &plan.stable, Channel::Stable, changes)
            .await?;
        if let Some(candidate) = &plan.candidate {
            self.create(template, candidate, Channel::Candidate, changes)
                .await?;
        }
        if stable != template.default {
            // The pointer may have moved during the calls, and another caller may follow it already.
            let (cache, architecture) = (&opt_in.cache, opt_in.architecture);
            let pointer = store::shown_pointer(self.clients, cache, architecture).await?;
            let now = pointer.and_then(|pointer| pointer.stable);
            if now.is_none_or(|now| now.snapshot_id != plan.stable.snapshot) {
                return Err(Problem::Failed(
                    "the stable snapshot changed during the run. Run the command again".to_owned(),
                ));
            }
            ec2::set_default(self.clients, &template.id, stable).await?;
            changes.push(Change::SetDefault {
                from: template.default,
                to: Some(stable),
                snapshot_id: plan.stable.snapshot,
            });
        }
        // Retention deletes a snapshot only after its last version.
        if !plan.prune.is_empty() {
            ec2::delete(self.clients, &template.id, &plan.prune).await?;
            changes.push(Change::Delete {
                versions: plan.prune,
            });
        }
        Ok(stable)
    }

    /// Returns the version of a target. It creates a missing one.
    async fn create(
        &self,
        template: &Template,
        target: &Target,
        channel: Channel,
        changes: &mut Vec<Change>,
    ) -> Result<i64, Problem> {
        let new = match &target.version {
            TargetVersion::Existing(number) => return Ok(*number),
            TargetVersion::Missing(new) => new,
        };
        // Two callers use the same token in the same hour. A later call must not get a version that was deleted since.
        // Source: EC2 API reference, "CreateLaunchTemplateVersion": at most 128 ASCII characters.
        let hour = self.now.as_second() / 3600;
        let (id, snapshot) = (&template.id, &target.snapshot);
        let token = format!("prepull-{id}-{}-{snapshot}-{channel}-{hour}", new.source);
        let number = ec2::create(self.clients, id, snapshot, new, &token).await?;
        changes.push(Change::Create {
            version: Some(number),
            channel,
            fields: new.fields.clone(),
        });
        Ok(number)
    }
}

/// The reason why a template was not updated.
enum Problem {
    Gone,
    Refused(String),
    Failed(String),
}

impl Problem {
    fn refused(refusal: &plan::Refusal) -> Self {
        Self::Refused(refusal.to_string())
    }
}

impl From<CallError> for Problem {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Gone => Self::Gone,
            CallError::Call(error) => Error::from(error).into(),
            error @ CallError::ReadBack { .. } => Self::Failed(error.to_string()),
        }
    }
}

impl From<prepull_domain::StageError> for Problem {
    fn from(error: prepull_domain::StageError) -> Self {
        Error::from(error).into()
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Self::Failed(error.to_string())
    }
}

impl Plan {
    /// Returns the changes that the plan makes. A template with its versions needs none.
    fn changes(&self, default: i64) -> Vec<Change> {
        let create = |target: &Target, channel| match &target.version {
            TargetVersion::Existing(_) => None,
            TargetVersion::Missing(new) => Some(Change::Create {
                version: None,
                channel,
                fields: new.fields.clone(),
            }),
        };
        let stable = match self.stable.version {
            TargetVersion::Existing(number) => Some(number),
            TargetVersion::Missing(_) => None,
        };
        let moves = (stable != Some(default)).then(|| Change::SetDefault {
            from: default,
            to: stable,
            snapshot_id: self.stable.snapshot.clone(),
        });
        let candidate = self.candidate.as_ref();
        let prune = (!self.prune.is_empty()).then(|| Change::Delete {
            versions: self.prune.clone(),
        });
        let changes = [
            create(&self.stable, Channel::Stable),
            candidate.and_then(|target| create(target, Channel::Candidate)),
            moves,
            prune,
        ];
        changes.into_iter().flatten().collect()
    }
}

impl TemplateReport {
    fn refused(name: String, id: Option<LaunchTemplateId>, why: String) -> Self {
        Self {
            name,
            id,
            opt_in: None,
            result: TemplateResult::Refused { why },
            note: None,
        }
    }

    fn row(&self) -> Vec<String> {
        let opt_in = self.opt_in.as_ref();
        let cell = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        vec![
            self.name.clone(),
            cell(opt_in.map(|opt_in| opt_in.cache.to_string())),
            cell(opt_in.map(|opt_in| opt_in.architecture.to_string())),
            self.result.to_string(),
        ]
    }
}

impl fmt::Display for TemplateResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UpToDate {
                default_version,
                snapshot_id,
            } => write!(f, "has {snapshot_id} in default version {default_version}"),
            Self::WouldChange { .. } => f.write_str("would change"),
            Self::Applied {
                default_version, ..
            } => write!(f, "updated, default version {default_version}"),
            Self::Deleted => f.write_str("was deleted"),
            Self::Refused { why } => write!(f, "left alone: {why}"),
            Self::Failed { why, .. } => write!(f, "failed: {why}"),
        }
    }
}

impl TemplateResult {
    fn changes(&self) -> &[Change] {
        match self {
            Self::WouldChange { changes }
            | Self::Applied { changes, .. }
            | Self::Failed { changes, .. } => changes,
            _ => &[],
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create {
                version,
                channel,
                fields,
            } => {
                match version {
                    Some(version) => write!(f, "+ version {version}")?,
                    None => write!(f, "+ new version")?,
                }
                let fields: Vec<_> = fields.iter().map(FieldChange::to_string).collect();
                write!(f, " ({channel}): {}", fields.join(", "))
            }
            Self::SetDefault {
                from,
                to,
                snapshot_id,
            } => {
                let to = to.map_or_else(|| "the new version".to_owned(), |to| to.to_string());
                write!(f, "~ default version: {from} -> {to} ({snapshot_id})")
            }
            Self::Delete { versions } => {
                let versions: Vec<_> = versions.iter().map(i64::to_string).collect();
                write!(f, "- version {}", versions.join(", "))
            }
        }
    }
}

impl fmt::Display for LaunchTemplatesReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let (Some(ring), []) = (&self.ring, &self.launch_templates[..]) {
            return writeln!(f, "No launch template has the tag `prepull/ring: {ring}`.");
        }
        if self.launch_templates.is_empty() {
            return writeln!(
                f,
                "No launch template has the tags `prepull/cache` and `prepull/architecture`."
            );
        }
        let heading = ["LAUNCH TEMPLATE", "CACHE", "ARCH", "RESULT"].map(str::to_owned);
        let mut rows = vec![heading.to_vec()];
        rows.extend(self.launch_templates.iter().map(TemplateReport::row));
        f.write_str(&table("", &rows))?;
        for template in &self.launch_templates {
            let changes = template.result.changes();
            if changes.is_empty() && template.note.is_none() {
                continue;
            }
            writeln!(f, "\n{}", template.name)?;
            for change in changes {
                writeln!(f, "  {change}")?;
            }
            if let Some(note) = template.note {
                writeln!(f, "  note: {note}")?;
            }
        }
        if let Some(groups) = &self.node_groups {
            write!(f, "\n{groups}")?;
        }
        let is_pending =
            |report: &TemplateReport| matches!(report.result, TemplateResult::WouldChange { .. });
        let groups_wait = self.node_groups.as_ref().is_some_and(Groups::would_change);
        if groups_wait || self.launch_templates.iter().any(is_pending) {
            writeln!(
                f,
                "\nNothing was changed. Use `--apply` to make these changes."
            )?;
        }
        Ok(())
    }
}
