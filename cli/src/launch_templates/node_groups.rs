//! Managed node groups: gives them the default versions of their launch templates.
//!
//! A group copies the version of its template, so it does not follow the default version. An update keeps the Bottlerocket
//! release of the group: without `releaseVersion`, EKS also takes the newest AMI.
//!
//! Source: Amazon EKS API reference, `UpdateNodegroupVersion`.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use aws_sdk_eks::types::{
    AmiTypes, LaunchTemplateSpecification, Nodegroup, NodegroupStatus, Update, UpdateStatus,
};
use prepull_aws::{Deadline, StageResult};
use prepull_domain::{BottlerocketVersion, LaunchTemplateId, StageError};
use serde::Serialize;

use super::LaunchTemplatesArgs;
use crate::Error;
use crate::render::table;

/// Poll interval of updates. A group needs minutes for each node.
const INTERVAL: Duration = Duration::from_secs(15);

/// The node groups that do not have the default version of their template.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Groups {
    /// The groups.
    pub groups: Vec<GroupReport>,
    /// Causes, if groups could not be listed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_listed: Vec<String>,
}

/// The result for one node group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GroupReport {
    /// The cluster.
    pub cluster: String,
    /// The group.
    pub name: String,
    /// Its version of the launch template.
    pub from: String,
    /// The default version. `None` for a version that does not exist yet.
    pub to: Option<i64>,
    /// The result.
    pub result: GroupResult,
}

/// The result for a node group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum GroupResult {
    /// It would be updated.
    WouldUpdate,
    /// All its nodes have the version.
    Updated,
    /// EKS is creating or updating it.
    Busy {
        /// Its status.
        status: String,
    },
    /// The update has not ended within the wait. EKS continues it.
    StillRunning,
    /// It was left alone.
    Refused {
        /// Cause and remedy.
        why: String,
    },
    /// EKS did not update it. It keeps its old nodes.
    Failed {
        /// Cause.
        why: String,
    },
}

impl Groups {
    /// Returns whether there is nothing to report.
    pub(super) fn is_empty(&self) -> bool {
        self.groups.is_empty() && self.not_listed.is_empty()
    }

    pub(super) fn fail(&self) -> bool {
        let fails = |group: &GroupReport| match group.result {
            GroupResult::WouldUpdate | GroupResult::Updated => false,
            GroupResult::Busy { .. }
            | GroupResult::StillRunning
            | GroupResult::Refused { .. }
            | GroupResult::Failed { .. } => true,
        };
        !self.not_listed.is_empty() || self.groups.iter().any(fails)
    }

    pub(super) fn would_change(&self) -> bool {
        let would = |group: &GroupReport| group.result == GroupResult::WouldUpdate;
        self.groups.iter().any(would)
    }
}

/// The default version of a launch template after this run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DefaultVersion {
    /// Its number. `None` in a dry run that would create it.
    pub(super) number: Option<i64>,
    /// Bottlerocket release of the builder of its snapshot.
    pub(super) release: BottlerocketVersion,
}

/// All node groups of the Region with a launch template.
#[derive(Debug, Default)]
pub(super) struct Listing {
    groups: Vec<Group>,
    /// Causes, if groups could not be listed.
    failures: Vec<String>,
}

/// A node group.
#[derive(Debug)]
struct Group {
    cluster: String,
    name: String,
    template: LaunchTemplateId,
    /// Its version of the template.
    version: String,
    facts: Nodegroup,
}

/// A group with a started update.
struct Running {
    /// Index of its report.
    index: usize,
    update: String,
}

/// Returns the node groups of all clusters in the Region.
pub(super) async fn list(eks: &aws_sdk_eks::Client) -> Listing {
    let mut listing = Listing::default();
    let clusters = Box::pin(clusters(eks)).await;
    for cluster in listing.listed(clusters).unwrap_or_default() {
        let names = Box::pin(groups(eks, &cluster)).await;
        for name in listing.listed(names).unwrap_or_default() {
            let facts = Box::pin(group(eks, &cluster, &name)).await;
            let facts = listing.listed(facts).flatten();
            let group = facts.and_then(|facts| Group::new(cluster.clone(), name, facts));
            listing.groups.extend(group);
        }
    }
    listing
}

impl Listing {
    /// Adds the cause of a failed list.
    fn listed<T>(&mut self, result: Result<T, StageError>) -> Option<T> {
        result
            .map_err(|error| self.failures.push(Error::from(error).to_string()))
            .ok()
    }

    /// Returns the cause, if groups could not be listed.
    pub(super) fn failure(&self) -> Option<&str> {
        self.failures.first().map(String::as_str)
    }

    /// Returns whether a group has this version.
    pub(super) fn uses(&self, template: &LaunchTemplateId, version: i64) -> bool {
        let version = version.to_string();
        let mut groups = self.groups.iter();
        groups.any(|group| group.template == *template && group.version == version)
    }

    /// Updates the groups whose template is in `defaults`, and waits for the end.
    pub(super) async fn update(
        self,
        eks: &aws_sdk_eks::Client,
        defaults: &BTreeMap<LaunchTemplateId, DefaultVersion>,
        args: &LaunchTemplatesArgs,
    ) -> Groups {
        let mut found = Groups {
            groups: Vec::new(),
            not_listed: self.failures,
        };
        let mut running = Vec::new();
        for group in self.groups {
            let Some(default) = defaults.get(&group.template) else {
                continue;
            };
            let to = default.number.map(|number| number.to_string());
            if to.as_ref() == Some(&group.version) {
                continue;
            }
            let result = match (group.check(&default.release), to) {
                (Err(result), _) => result,
                (Ok(()), Some(version)) if args.apply => {
                    match Box::pin(group.start(eks, &version)).await {
                        Ok(update) => {
                            let index = found.groups.len();
                            running.push(Running { index, update });
                            GroupResult::StillRunning
                        }
                        Err(error) => GroupResult::Failed {
                            why: Error::from(error).to_string(),
                        },
                    }
                }
                (Ok(()), _) => GroupResult::WouldUpdate,
            };
            found.groups.push(GroupReport {
                cluster: group.cluster,
                name: group.name,
                from: group.version,
                to: default.number,
                result,
            });
        }
        // EKS updates the groups at the same time.
        let deadline = Deadline::after(args.wait);
        for Running { index, update } in running {
            let report = &mut found.groups[index];
            report.result = Box::pin(end(eks, report, &update, deadline)).await;
        }
        found
    }
}

async fn clusters(eks: &aws_sdk_eks::Client) -> Result<Vec<String>, StageError> {
    let mut pages = eks.list_clusters().into_paginator().items().send();
    let mut found = Vec::new();
    while let Some(cluster) = pages.next().await {
        found.push(cluster.or_stage_error("eks:ListClusters")?);
    }
    Ok(found)
}

async fn groups(eks: &aws_sdk_eks::Client, cluster: &str) -> Result<Vec<String>, StageError> {
    let request = eks.list_nodegroups().cluster_name(cluster);
    let mut pages = request.into_paginator().items().send();
    let mut found = Vec::new();
    while let Some(group) = pages.next().await {
        found.push(group.or_stage_error("eks:ListNodegroups")?);
    }
    Ok(found)
}

async fn group(
    eks: &aws_sdk_eks::Client,
    cluster: &str,
    name: &str,
) -> Result<Option<Nodegroup>, StageError> {
    let request = eks.describe_nodegroup().cluster_name(cluster);
    let answer = request.nodegroup_name(name).send().await;
    Ok(answer.or_stage_error("eks:DescribeNodegroup")?.nodegroup)
}

impl Group {
    /// Parses a group. `None` if it has no launch template.
    fn new(cluster: String, name: String, facts: Nodegroup) -> Option<Self> {
        let used = facts.launch_template()?;
        Some(Self {
            cluster,
            name,
            template: used.id()?.parse().ok()?,
            version: used.version()?.to_owned(),
            facts,
        })
    }

    /// Checks that EKS can update the group now, and that its nodes can use a snapshot whose builder had the release `needed`.
    fn check(&self, needed: &BottlerocketVersion) -> Result<(), GroupResult> {
        let refused = |why: String| Err(GroupResult::Refused { why });
        let status = self.facts.status();
        let name = status.map_or("unknown", NodegroupStatus::as_str);
        match status {
            Some(NodegroupStatus::Active | NodegroupStatus::Degraded) => {}
            Some(NodegroupStatus::Updating | NodegroupStatus::Creating) => {
                return Err(GroupResult::Busy {
                    status: name.to_owned(),
                });
            }
            Some(NodegroupStatus::Deleting) => {
                return refused(
                    "it is being deleted. Run the command again after its end".to_owned(),
                );
            }
            _ => {
                return refused(format!(
                    "its status is {name}. Correct the cause in its health issues, or delete it"
                ));
            }
        }
        match self.release().map(|release| release.check_snapshot(needed)) {
            Some(Err(old)) => refused(format!(
                "the node group {old}. Update its release version first"
            )),
            _ => Ok(()),
        }
    }

    /// Returns the Bottlerocket release. Other AMIs have other numbers, and a custom group has the ID of its AMI.
    fn release(&self) -> Option<BottlerocketVersion> {
        let ami_type = self.facts.ami_type()?.as_str();
        if !ami_type.starts_with("BOTTLEROCKET_") {
            return None;
        }
        self.facts.release_version()?.parse().ok()
    }

    /// Starts the update to this version of the template, and returns its ID.
    async fn start(&self, eks: &aws_sdk_eks::Client, version: &str) -> Result<String, StageError> {
        let template = LaunchTemplateSpecification::builder()
            .id(self.template.as_str())
            .version(version)
            .build();
        // The AMI of a custom group comes from the template, and EKS refuses a release beside it.
        let has_release = self.facts.ami_type() != Some(&AmiTypes::Custom);
        let release = self.facts.release_version().filter(|_| has_release);
        let answer = eks
            .update_nodegroup_version()
            .cluster_name(&self.cluster)
            .nodegroup_name(&self.name)
            .launch_template(template)
            .set_release_version(release.map(str::to_owned))
            .send()
            .await
            .or_stage_error("eks:UpdateNodegroupVersion")?;
        let update = answer.update.and_then(|update| update.id);
        update.ok_or_else(|| StageError::AwsFailed {
            call: "eks:UpdateNodegroupVersion",
            message: "EKS returned no ID of the update".to_owned(),
        })
    }
}

/// Waits for the end of an update.
async fn end(
    eks: &aws_sdk_eks::Client,
    group: &GroupReport,
    update: &str,
    deadline: Deadline,
) -> GroupResult {
    let ended = deadline
        .poll(INTERVAL, "the update of the node group", async || {
            let answer = eks
                .describe_update()
                .name(&group.cluster)
                .nodegroup_name(&group.name)
                .update_id(update)
                .send()
                .await
                .or_stage_error("eks:DescribeUpdate")?;
            Ok(answer.update.as_ref().and_then(result_of))
        })
        .await;
    match ended {
        Ok(result) => result,
        Err(StageError::StillRunning(_)) => GroupResult::StillRunning,
        Err(error) => GroupResult::Failed {
            why: Error::from(error).to_string(),
        },
    }
}

/// Returns the result of an update. `None` if it runs.
fn result_of(update: &Update) -> Option<GroupResult> {
    let status = match update.status()? {
        UpdateStatus::InProgress => return None,
        UpdateStatus::Successful => return Some(GroupResult::Updated),
        status => status.as_str(),
    };
    let errors = update.errors().iter().map(|error| {
        let code = error.error_code().map_or("no code", |code| code.as_str());
        format!("{code}: {}", error.error_message().unwrap_or("no message"))
    });
    let errors: Vec<_> = errors.collect();
    Some(GroupResult::Failed {
        why: if errors.is_empty() {
            format!("the update ended as {status}")
        } else {
            errors.join("; ")
        },
    })
}

impl fmt::Display for GroupResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WouldUpdate => f.write_str("would be updated"),
            Self::Updated => f.write_str("updated"),
            Self::Busy { status } => write!(f, "is {status}. Run the command again after that"),
            Self::StillRunning => f.write_str("is still being updated"),
            Self::Refused { why } => write!(f, "left alone: {why}"),
            Self::Failed { why } => write!(f, "failed: {why}"),
        }
    }
}

impl fmt::Display for Groups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heading = ["CLUSTER", "NODE GROUP", "VERSION", "RESULT"].map(str::to_owned);
        let mut rows = vec![heading.to_vec()];
        rows.extend(self.groups.iter().map(|group| {
            let to = group
                .to
                .map_or_else(|| "new".to_owned(), |to| to.to_string());
            let version = format!("{} -> {to}", group.from);
            vec![
                group.cluster.clone(),
                group.name.clone(),
                version,
                group.result.to_string(),
            ]
        }));
        if !self.groups.is_empty() {
            f.write_str(&table("", &rows))?;
        }
        for cause in &self.not_listed {
            writeln!(f, "Node groups could not be listed: {cause}")?;
        }
        Ok(())
    }
}
