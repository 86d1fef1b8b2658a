//! `prepull templates`: gives the snapshots of caches to EC2 launch templates.
//!
//! A template opts in with tags whose keys are the [annotations](prepull_kubernetes::annotations) of node classes, and follows
//! one channel. It gets a version with the snapshot of the channel, which becomes the default version. A candidate never sits
//! beside a stable default version, because groups with `$Latest` and Terraform's provider use the newest version.
//!
//! **Before:** credentials for EC2, EKS and the pointers. **After:** the default version has the snapshot. **Called again:** an
//! up-to-date template is not written, except that own versions are deleted if nothing uses them and their snapshots. Two calls at
//! once create one version, because they use the same client token. **Errors:** problems of one template are in the report.
//!
//! A template is not registered as a consumer. Retention reads all versions of all templates in the account and Region, and
//! keeps their snapshots. A registration would keep them for 30 more days after the end of a template.

mod difference;
mod ec2;
mod node_groups;
mod plan;

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use prepull_aws::ec2::types::LaunchTemplate;
use prepull_aws::{Clients, parameters};
use prepull_domain::{LaunchTemplateId, SnapshotId};
use prepull_estimate::MAX_INITIALIZATION_RATE;
use prepull_kubernetes::{FieldChange, OptIn, Ring, annotations};
use serde::Serialize;

use crate::{Error, Exit, opt_in, store};
use ec2::CallError;
use node_groups::{DefaultVersion, Listing};
pub use node_groups::{GroupReport, GroupResult, Groups};
use plan::{NewVolume, Plan, Step, Target, Template};

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
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = opt_in::wait)]
    pub wait: Duration,
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
    /// Its default version has the snapshot.
    UpToDate {
        /// The default version.
        default_version: i64,
        /// The snapshot.
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

    /// Returns whether a dry run would change the default version.
    fn would_move(&self) -> bool {
        let TemplateResult::WouldChange { changes } = &self.result else {
            return false;
        };
        let moves = |change: &Change| matches!(change, Change::SetDefault { .. });
        changes.iter().any(moves)
    }
}

impl LaunchTemplatesReport {
    /// Returns the exit code: an error if a template or a node group could not be updated, or the ring has none.
    #[must_use]
    pub fn exit(&self) -> Exit {
        if self.node_groups.as_ref().is_some_and(Groups::fail) {
            return Exit::Failed;
        }
        let fails = self.launch_templates.iter().map(TemplateReport::fails);
        opt_in::exit(self.ring.as_ref(), fails)
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
    let mut templates = Vec::new();
    for listed in update.list().await? {
        templates.push(match listed {
            Listed::Invalid(report) => report.into(),
            Listed::OptedIn { id, name, opt_in } => update.template(id, name, opt_in).await,
        });
    }
    let needs_groups = templates.iter().any(|template| {
        !template.old.is_empty() || (args.update_node_groups && template.default.is_some())
    });
    let listing = if needs_groups {
        node_groups::list(eks).await
    } else {
        Listing::default()
    };
    for template in &mut templates {
        update.prune(template, &listing).await;
    }
    let node_groups = if args.update_node_groups {
        let default =
            |template: &Followed| Some((template.report.id.clone()?, template.default.clone()?));
        let defaults = templates.iter().filter_map(default).collect();
        Some(listing.update(eks, &defaults, args).await)
    } else {
        None
    };
    Ok(LaunchTemplatesReport {
        applied: args.apply,
        ring: args.ring.clone(),
        launch_templates: templates
            .into_iter()
            .map(|template| template.report)
            .collect(),
        node_groups,
    })
}

/// A launch template after its update.
struct Followed {
    report: TemplateReport,
    /// Its default version, if the version has the snapshot, or would have it.
    default: Option<DefaultVersion>,
    /// Own versions that are deleted if nothing uses them.
    old: Vec<i64>,
}

impl From<TemplateReport> for Followed {
    fn from(report: TemplateReport) -> Self {
        Self {
            report,
            default: None,
            old: Vec::new(),
        }
    }
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
        let tags = template.tags().iter();
        let tags = tags.filter_map(|tag| Some((tag.key()?.to_owned(), tag.value()?.to_owned())));
        let tags = tags.collect();
        if !annotations::is_in_ring(&tags, self.args.ring.as_ref()) {
            return None;
        }
        let name = template
            .launch_template_name()
            .unwrap_or_default()
            .to_owned();
        let id = template.launch_template_id().unwrap_or_default();
        let invalid = |id, why| Listed::Invalid(TemplateReport::refused(name.clone(), id, why));
        Some(match (id.parse(), OptIn::parse(&tags)) {
            (Ok(id), Ok(opt_in)) => Listed::OptedIn {
                id,
                opt_in: opt_in?,
                name,
            },
            // The same rules hold for annotations of node classes.
            (id, Err(problem)) => {
                invalid(id.ok(), problem.to_string().replace("annotation", "tag"))
            }
            (Err(problem), _) => invalid(None, problem.to_string()),
        })
    }

    /// Updates one template. An error is part of the report, so the other templates still follow.
    async fn template(&self, id: LaunchTemplateId, name: String, opt_in: OptIn) -> Followed {
        let mut facts = Facts::default();
        let result = Box::pin(self.update(&id, &opt_in, &mut facts)).await;
        Followed {
            report: TemplateReport {
                name,
                id: Some(id),
                opt_in: Some(opt_in),
                result: result.unwrap_or_else(|problem| problem.result(facts.changes)),
                note: facts.note,
            },
            default: facts.default,
            old: facts.old,
        }
    }

    async fn update(
        &self,
        id: &LaunchTemplateId,
        opt_in: &OptIn,
        facts: &mut Facts,
    ) -> Result<TemplateResult, Problem> {
        let (cache, architecture) = (&opt_in.cache, opt_in.architecture);
        let template = ec2::template(self.clients, id).await?;
        let pointer = store::shown_pointer(self.clients, cache, architecture).await?;
        let default = template.default_version()?;
        let image = ec2::image(self.clients, default.data.image_id()).await?;
        let new_volume = self.new_volume(&template, opt_in).await;
        let plan = template.plan(opt_in, pointer.as_ref(), &image, &new_volume)?;
        if template.has_data_volume() && plan::loads_lazily(&default.data) {
            facts.note = Some(
                "the data volume has no `VolumeInitializationRate`, so a large image can start later than after a pull",
            );
        }
        let (result, number) = match &plan.step {
            Step::Keep { old } => {
                facts.old.clone_from(old);
                let result = TemplateResult::UpToDate {
                    default_version: template.default,
                    snapshot_id: plan.snapshot.snapshot_id.clone(),
                };
                (result, Some(template.default))
            }
            Step::Move(target) if self.args.apply => {
                let number = self
                    .apply(&template, opt_in, &plan, target, &mut facts.changes)
                    .await?;
                let result = TemplateResult::Applied {
                    default_version: number,
                    changes: std::mem::take(&mut facts.changes),
                };
                (result, Some(number))
            }
            Step::Move(target) => {
                let changes = plan.changes(target, template.default);
                (TemplateResult::WouldChange { changes }, target.number())
            }
        };
        facts.default = Some(DefaultVersion {
            number,
            release: plan.snapshot.bottlerocket_version,
        });
        Ok(result)
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

    /// Makes the target the default version, and returns its number. It creates a missing one.
    async fn apply(
        &self,
        template: &Template,
        opt_in: &OptIn,
        plan: &Plan,
        target: &Target,
        changes: &mut Vec<Change>,
    ) -> Result<i64, Problem> {
        let (id, snapshot) = (&template.id, &plan.snapshot.snapshot_id);
        let number = match target {
            Target::Existing(number) => *number,
            Target::New(new) => {
                // Two callers use the same token in the same hour. A later call must not get a version that was deleted since.
                // Source: EC2 API reference, "CreateLaunchTemplateVersion": at most 128 ASCII characters.
                let hour = self.now.as_second() / 3600;
                let token = format!("prepull-{id}-{}-{snapshot}-{hour}", new.source);
                let number = ec2::create(self.clients, id, snapshot, new, &token).await?;
                changes.push(Change::Create {
                    version: Some(number),
                    fields: new.fields.clone(),
                });
                number
            }
        };
        // The pointer may have moved during the calls, and another caller may follow it already.
        let (cache, architecture) = (&opt_in.cache, opt_in.architecture);
        let pointer = store::shown_pointer(self.clients, cache, architecture).await?;
        let now = opt_in.snapshot(pointer.as_ref());
        if now.map(|now| &now.snapshot_id) != Ok(snapshot) {
            // As the newest version, it would reach groups with `$Latest`.
            let rest = ec2::discard(self.clients, id, number).await;
            if rest.is_empty() {
                changes.push(Change::Delete {
                    versions: vec![number],
                });
            }
            return Err(Problem::Failed(format!(
                "the {} snapshot changed during the run{rest}. Run the command again",
                opt_in.channel
            )));
        }
        ec2::set_default(self.clients, id, number).await?;
        changes.push(Change::SetDefault {
            from: template.default,
            to: Some(number),
            snapshot_id: snapshot.clone(),
        });
        Ok(number)
    }

    /// Deletes the old versions of a template that nothing uses. Retention deletes a snapshot only after its last version.
    async fn prune(&self, template: &mut Followed, listing: &Listing) {
        let (
            Some(id),
            TemplateResult::UpToDate {
                default_version, ..
            },
        ) = (&template.report.id, &template.report.result)
        else {
            return;
        };
        let default_version = *default_version;
        match self.delete_unused(id, &template.old, listing).await {
            Ok(versions) if versions.is_empty() => {}
            Ok(versions) => {
                let changes = vec![Change::Delete { versions }];
                template.report.result = if self.args.apply {
                    TemplateResult::Applied {
                        default_version,
                        changes,
                    }
                } else {
                    TemplateResult::WouldChange { changes }
                };
            }
            Err(problem) => template.report.result = problem.result(Vec::new()),
        }
    }

    /// Deletes those of the versions that nothing uses, and returns them. A dry run only returns them.
    async fn delete_unused(
        &self,
        id: &LaunchTemplateId,
        versions: &[i64],
        listing: &Listing,
    ) -> Result<Vec<i64>, Problem> {
        if versions.is_empty() {
            return Ok(Vec::new());
        }
        if let Some(failure) = listing.failure() {
            return Err(Problem::Failed(format!(
                "old versions stay, because node groups that may use them could not be listed: {failure}"
            )));
        }
        let in_use = ec2::versions_in_use(self.clients, id).await?;
        let mut unused = versions.to_vec();
        unused.retain(|version| !in_use.contains(version) && !listing.uses(id, *version));
        if self.args.apply && !unused.is_empty() {
            ec2::delete(self.clients, id, &unused).await?;
        }
        Ok(unused)
    }
}

/// The facts about one template that its update collects. They count also if the update fails.
#[derive(Default)]
struct Facts {
    /// The changes until now.
    changes: Vec<Change>,
    note: Option<&'static str>,
    default: Option<DefaultVersion>,
    old: Vec<i64>,
}

/// The reason why a template was not updated.
enum Problem {
    Gone,
    Refused(String),
    Failed(String),
}

impl Problem {
    /// Returns the result of a template with this problem. `changes` are those before it.
    fn result(self, changes: Vec<Change>) -> TemplateResult {
        match self {
            Self::Gone => TemplateResult::Deleted,
            Self::Refused(why) => TemplateResult::Refused { why },
            Self::Failed(why) => TemplateResult::Failed { changes, why },
        }
    }
}

impl From<plan::Refusal> for Problem {
    fn from(refusal: plan::Refusal) -> Self {
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

impl Target {
    /// Returns the number of an existing version.
    fn number(&self) -> Option<i64> {
        match self {
            Self::Existing(number) => Some(*number),
            Self::New(_) => None,
        }
    }
}

impl Plan {
    /// Returns the changes that make the target the default version.
    fn changes(&self, target: &Target, default: i64) -> Vec<Change> {
        let create = match target {
            Target::Existing(_) => None,
            Target::New(new) => Some(Change::Create {
                version: None,
                fields: new.fields.clone(),
            }),
        };
        let set_default = Change::SetDefault {
            from: default,
            to: target.number(),
            snapshot_id: self.snapshot.snapshot_id.clone(),
        };
        create.into_iter().chain([set_default]).collect()
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
            Self::Create { version, fields } => {
                match version {
                    Some(version) => write!(f, "+ version {version}")?,
                    None => write!(f, "+ new version")?,
                }
                write!(f, ": {}", opt_in::fields(fields))
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
        if self.launch_templates.is_empty() {
            return f.write_str(&opt_in::none("launch template", "tag", self.ring.as_ref()));
        }
        let results = self.launch_templates.iter().map(|template| {
            let opt_in = template.opt_in.as_ref();
            (template.name.as_str(), opt_in, template.result.to_string())
        });
        f.write_str(&opt_in::table("LAUNCH TEMPLATE", results))?;
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
            let moves = self.launch_templates.iter().any(TemplateReport::would_move);
            let has_problem = self.launch_templates.iter().any(TemplateReport::fails);
            if !groups.is_empty() {
                write!(f, "\n{groups}")?;
            } else if !has_problem && !moves {
                writeln!(
                    f,
                    "\nEvery node group has the default version of its launch template."
                )?;
            }
            if has_problem {
                writeln!(
                    f,
                    "\nNode groups of launch templates with a problem may be missing here."
                )?;
            }
        }
        let is_pending =
            |report: &TemplateReport| matches!(report.result, TemplateResult::WouldChange { .. });
        let groups_wait = self.node_groups.as_ref().is_some_and(Groups::would_change);
        if groups_wait || self.launch_templates.iter().any(is_pending) {
            f.write_str(opt_in::NOTHING_CHANGED)?;
        }
        Ok(())
    }
}
