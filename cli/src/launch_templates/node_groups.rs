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
use prepull_domain::{LaunchTemplateId, StageError};
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
    /// The default version.
    pub to: i64,
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
    /// EKS is creating, updating or deleting it.
    Busy {
        /// Its status.
        status: String,
    },
    /// The update has not ended within the wait. EKS continues it.
    StillRunning,
    /// EKS did not update it. It keeps its old nodes.
    Failed {
        /// Cause.
        why: String,
    },
}

impl Groups {
    pub(super) fn fail(&self) -> bool {
        let fails = |group: &GroupReport| {
            matches!(
                group.result,
                GroupResult::StillRunning | GroupResult::Failed { .. }
            )
        };
        !self.not_listed.is_empty() || self.groups.iter().any(fails)
    }

    pub(super) fn would_change(&self) -> bool {
        let would = |group: &GroupReport| group.result == GroupResult::WouldUpdate;
        self.groups.iter().any(would)
    }

    /// Adds the cause of a failed list.
    fn listed<T>(&mut self, result: Result<T, StageError>) -> Option<T> {
        result
            .map_err(|error| self.not_listed.push(Error::from(error).to_string()))
            .ok()
    }
}

/// A group with a started update.
struct Running {
    /// Index of its report.
    index: usize,
    update: String,
}

/// Updates the node groups of all clusters in the Region whose template is in `defaults`, and waits for the end.
pub(super) async fn update(
    eks: &aws_sdk_eks::Client,
    defaults: &BTreeMap<LaunchTemplateId, i64>,
    args: &LaunchTemplatesArgs,
) -> Groups {
    let mut found = Groups::default();
    // Without a template there is nothing to look for.
    if defaults.is_empty() {
        return found;
    }
    let mut outdated = Vec::new();
    let clusters = Box::pin(clusters(eks)).await;
    for cluster in found.listed(clusters).unwrap_or_default() {
        let names = Box::pin(groups(eks, &cluster)).await;
        for name in found.listed(names).unwrap_or_default() {
            let group = Box::pin(group(eks, &cluster, &name)).await;
            let group = found.listed(group).flatten();
            outdated.extend(
                group.and_then(|group| Outdated::new(cluster.clone(), name, group, defaults)),
            );
        }
    }
    let mut running = Vec::new();
    for group in outdated {
        let result = if let Some(status) = group.busy() {
            GroupResult::Busy { status }
        } else if args.apply {
            match Box::pin(group.start(eks)).await {
                Ok(update) => {
                    let index = found.groups.len();
                    running.push(Running { index, update });
                    GroupResult::StillRunning
                }
                Err(error) => GroupResult::Failed {
                    why: Error::from(error).to_string(),
                },
            }
        } else {
            GroupResult::WouldUpdate
        };
        found.groups.push(group.report(result));
    }
    // EKS updates the groups at the same time.
    let deadline = Deadline::after(args.wait);
    for Running { index, update } in running {
        let report = &mut found.groups[index];
        report.result = Box::pin(end(eks, report, &update, deadline)).await;
    }
    found
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

/// A group whose version is not the default version of its template.
struct Outdated {
    cluster: String,
    name: String,
    template: LaunchTemplateId,
    from: String,
    to: i64,
    group: Nodegroup,
}

impl Outdated {
    /// Returns the group if it has one of the templates, in another version than the default one.
    fn new(
        cluster: String,
        name: String,
        group: Nodegroup,
        defaults: &BTreeMap<LaunchTemplateId, i64>,
    ) -> Option<Self> {
        let used = group.launch_template()?;
        let template: LaunchTemplateId = used.id()?.parse().ok()?;
        let to = *defaults.get(&template)?;
        let from = used.version()?.to_owned();
        (from != to.to_string()).then_some(Self {
            cluster,
            name,
            template,
            from,
            to,
            group,
        })
    }

    /// Returns the status of a group that cannot be updated now.
    fn busy(&self) -> Option<String> {
        match self.group.status() {
            Some(NodegroupStatus::Active | NodegroupStatus::Degraded) => None,
            Some(status) => Some(status.as_str().to_owned()),
            None => Some("UNKNOWN".to_owned()),
        }
    }

    fn report(self, result: GroupResult) -> GroupReport {
        GroupReport {
            cluster: self.cluster,
            name: self.name,
            from: self.from,
            to: self.to,
            result,
        }
    }

    /// Starts the update and returns its ID.
    async fn start(&self, eks: &aws_sdk_eks::Client) -> Result<String, StageError> {
        let template = LaunchTemplateSpecification::builder()
            .id(self.template.as_str())
            .version(self.to.to_string())
            .build();
        // The AMI of a custom group comes from the template, and EKS refuses a release beside it.
        let has_release = self.group.ami_type() != Some(&AmiTypes::Custom);
        let release = self.group.release_version().filter(|_| has_release);
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
            Self::Busy { status } => write!(f, "is {status}. The next run updates it"),
            Self::StillRunning => f.write_str("is still being updated"),
            Self::Failed { why } => write!(f, "failed: {why}"),
        }
    }
}

impl fmt::Display for Groups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.groups.is_empty() && self.not_listed.is_empty() {
            return writeln!(
                f,
                "Every node group has the default version of its launch template."
            );
        }
        let heading = ["CLUSTER", "NODE GROUP", "VERSION", "RESULT"].map(str::to_owned);
        let mut rows = vec![heading.to_vec()];
        rows.extend(self.groups.iter().map(|group| {
            let version = format!("{} -> {}", group.from, group.to);
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
