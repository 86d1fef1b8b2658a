//! `prepull sync`: gives the snapshots of caches to the node classes of a cluster, so that nobody copies an ID.
//!
//! [`prepull_kubernetes`] has the rules. This module reads the pointers, registers the node classes as consumers, and reports.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use prepull_aws::{Clients, parameters};
use prepull_domain::snapshot::retention::Consumer;
use prepull_domain::{Architecture, CacheName, Pointer, SnapshotId, names};
use prepull_kubernetes::{
    Channel, FieldChange, Listed, NodeClass, OptIn, Outcome, Patience, Plan, Readiness, Ring,
    Timing,
};
use serde::Serialize;

use crate::render::table;
use crate::{Error, Exit};

/// The arguments of `prepull sync`.
#[derive(Debug, Clone, clap::Args)]
pub struct SyncArgs {
    /// Change the node classes, instead of only showing what would change.
    #[arg(long)]
    pub apply: bool,
    /// Sync only node classes with this value of `prepull/ring`.
    #[arg(long, value_name = "NAME")]
    pub ring: Option<Ring>,
    /// Sync a snapshot only after it has been stable for this time.
    ///
    /// A roll-back does not wait.
    #[arg(long, value_name = "TIME", default_value = "0s")]
    pub delay: SignedDuration,
    /// Wait up to this time until Karpenter accepts a change.
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = wait)]
    pub wait: Duration,
    /// Use this context of the kubeconfig.
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
    /// Register node classes under this name of the cluster.
    ///
    /// The default is the cluster's name in the kubeconfig.
    #[arg(
        long,
        env = "PREPULL_CLUSTER",
        hide_env_values = true,
        value_name = "NAME"
    )]
    pub cluster: Option<ClusterName>,
}

fn wait(given: &str) -> Result<Duration, String> {
    let wait: SignedDuration = given.parse().map_err(|error| format!("{error}"))?;
    Duration::try_from(wait).map_err(|_| "expected a positive time such as `5m`".to_owned())
}

/// The name of a cluster in the names of parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterName(String);

impl FromStr for ClusterName {
    type Err = String;

    /// Source: Amazon EKS API reference, `CreateCluster`: up to 100 letters, digits, `-` and `_`.
    fn from_str(text: &str) -> Result<Self, String> {
        let fits = (1..=100).contains(&text.len())
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
        if fits {
            Ok(Self(text.to_owned()))
        } else {
            Err("expected 1 to 100 letters, digits, `-` and `_`".to_owned())
        }
    }
}

impl ClusterName {
    /// Returns the name in a kubeconfig. `aws eks update-kubeconfig` writes the ARN of the cluster.
    fn of_kubeconfig(text: &str) -> Option<Self> {
        text.rsplit('/').next()?.parse().ok()
    }
}

/// The result for a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SyncReport {
    /// Whether node classes were changed.
    pub applied: bool,
    /// The node classes with annotations of prepull.
    pub node_classes: Vec<ClassReport>,
}

/// The result for one node class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClassReport {
    /// Name.
    pub name: String,
    /// Its annotations, if they are valid.
    #[serde(flatten)]
    pub opt_in: Option<OptIn>,
    /// The result.
    pub result: ClassResult,
    /// Cause, if the node class could not be registered as a consumer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_registered: Option<String>,
}

/// The result for a node class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum ClassResult {
    /// It has the snapshot.
    UpToDate {
        /// The snapshot.
        snapshot_id: SnapshotId,
        /// Karpenter's verdict.
        readiness: Readiness,
    },
    /// It would change.
    WouldChange {
        /// The changed fields.
        fields: Vec<FieldChange>,
    },
    /// It was changed, or should have been.
    Applied {
        /// The changed fields.
        fields: Vec<FieldChange>,
        /// The outcome.
        outcome: Outcome,
    },
    /// It waits for the end of the delay.
    NotDue {
        /// The snapshot.
        snapshot_id: SnapshotId,
        /// End of the delay.
        at: Timestamp,
    },
    /// It was left alone.
    Refused {
        /// Cause and remedy.
        why: String,
    },
}

impl ClassReport {
    fn fails(&self) -> bool {
        let fails = match &self.result {
            ClassResult::UpToDate { readiness, .. } => *readiness != Readiness::Ready,
            ClassResult::WouldChange { .. } | ClassResult::NotDue { .. } => false,
            ClassResult::Applied { outcome, .. } => !outcome.is_success(),
            ClassResult::Refused { .. } => true,
        };
        fails || self.not_registered.is_some()
    }
}

impl SyncReport {
    /// Returns the exit code: an error if a node class could not be synced.
    #[must_use]
    pub fn exit(&self) -> Exit {
        if self.node_classes.iter().any(ClassReport::fails) {
            Exit::Failed
        } else {
            Exit::Done
        }
    }
}

/// Syncs the node classes of a cluster.
///
/// # Errors
/// If the cluster or AWS does not answer, or refuses a call. Problems of one node class are in the report.
pub async fn run(clients: &Clients, args: &SyncArgs, now: Timestamp) -> Result<SyncReport, Error> {
    let kubernetes = prepull_kubernetes::connect(args.context.as_deref()).await?;
    let cluster = match &args.cluster {
        Some(cluster) => Some(cluster.clone()),
        None => prepull_kubernetes::cluster_name(args.context.as_deref())
            .and_then(|name| ClusterName::of_kubeconfig(&name)),
    };
    if args.apply && cluster.is_none() {
        return Err(Error::Usage(
            "cannot register the node classes: the name of the cluster is unknown. Give it with `--cluster`".to_owned(),
        ));
    }
    let listed = prepull_kubernetes::list(&kubernetes, args.ring.as_ref()).await?;
    let mut pointers = BTreeMap::new();
    let mut node_classes = Vec::new();
    for listed in listed {
        let class = match listed {
            Listed::Invalid { name, problem } => {
                node_classes.push(ClassReport {
                    name,
                    opt_in: None,
                    result: ClassResult::Refused {
                        why: problem.to_string(),
                    },
                    not_registered: None,
                });
                continue;
            }
            Listed::OptedIn(class) => class,
        };
        let target = (class.opt_in.cache.clone(), class.opt_in.architecture);
        if !pointers.contains_key(&target) {
            let pointer = shown_pointer(clients, &target.0, target.1).await?;
            pointers.insert(target.clone(), pointer);
        }
        let pointer = pointers[&target].as_ref();
        let result = sync_class(&kubernetes, &class, pointer, args, now).await?;
        let mut report = ClassReport {
            name: class.name.clone(),
            opt_in: Some(class.opt_in.clone()),
            not_registered: None,
            result,
        };
        if let (true, Some(cluster), Some(snapshot)) = (args.apply, &cluster, report.snapshot()) {
            let registered = register(clients, cluster, &class, snapshot, now).await;
            report.not_registered = registered.err().map(|error| error.to_string());
        }
        node_classes.push(report);
    }
    Ok(SyncReport {
        applied: args.apply,
        node_classes,
    })
}

/// Returns the pointer as the Region of the cluster sees it. Decisions exist only in the Region of the installation.
async fn shown_pointer(
    clients: &Clients,
    cache: &CacheName,
    architecture: Architecture,
) -> Result<Option<Pointer>, Error> {
    let place = names::state_parameter(cache, architecture);
    let json = parameters::get(clients, &place).await?;
    let parsed = json.map(|json| serde_json::from_str(&json)).transpose();
    parsed.map_err(|error| Error::Malformed {
        place: format!("parameter {place}"),
        problem: error.to_string(),
    })
}

async fn sync_class(
    kubernetes: &prepull_kubernetes::Client,
    class: &NodeClass,
    pointer: Option<&Pointer>,
    args: &SyncArgs,
    now: Timestamp,
) -> Result<ClassResult, prepull_kubernetes::Error> {
    let timing = Timing {
        now,
        delay: args.delay,
        // A canary exists to meet a candidate first.
        since: match class.opt_in.channel {
            Channel::Stable => pointer.and_then(|pointer| pointer.stable_since),
            Channel::Candidate => None,
        },
    };
    let change = match prepull_kubernetes::plan(class, pointer, timing) {
        Plan::UpToDate {
            snapshot,
            readiness,
        } => {
            return Ok(ClassResult::UpToDate {
                snapshot_id: snapshot,
                readiness,
            });
        }
        Plan::NotDue { snapshot, at } => {
            return Ok(ClassResult::NotDue {
                snapshot_id: snapshot,
                at,
            });
        }
        Plan::Refused(refusal) => {
            return Ok(ClassResult::Refused {
                why: refusal.to_string(),
            });
        }
        Plan::Patch(change) => change,
    };
    let fields = change.fields.clone();
    if !args.apply {
        return Ok(ClassResult::WouldChange { fields });
    }
    let patience = Patience {
        wait: args.wait,
        ..Patience::default()
    };
    let outcome = prepull_kubernetes::apply(kubernetes, class, &change, patience, now).await?;
    Ok(ClassResult::Applied { fields, outcome })
}

/// Registers a node class as a consumer, so that retention keeps its snapshot.
async fn register(
    clients: &Clients,
    cluster: &ClusterName,
    class: &NodeClass,
    snapshot: SnapshotId,
    now: Timestamp,
) -> Result<(), Error> {
    let opt_in = &class.opt_in;
    let path = names::consumers_path(&opt_in.cache, opt_in.architecture);
    let consumer = Consumer {
        snapshot_id: snapshot,
        registered_at: now,
    };
    let json = serde_json::to_string(&consumer).expect("a consumer can be serialized");
    let name = format!("{path}/{}.{}", cluster.0, class.name);
    Ok(parameters::put(clients, &name, &json).await?)
}

impl ClassReport {
    /// Returns the snapshot of the node class, if it follows its pointer.
    fn snapshot(&self) -> Option<SnapshotId> {
        match &self.result {
            ClassResult::UpToDate { snapshot_id, .. } => Some(snapshot_id.clone()),
            ClassResult::Applied {
                fields,
                outcome: Outcome::Synced { .. } | Outcome::NotReady { .. },
            } => {
                let field = fields.iter().find(|field| field.field == "snapshotID")?;
                field.to.parse().ok()
            }
            _ => None,
        }
    }

    fn row(&self) -> Vec<String> {
        let opt_in = self.opt_in.as_ref();
        let cell = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        vec![
            self.name.clone(),
            cell(opt_in.map(|opt_in| opt_in.cache.to_string())),
            cell(opt_in.map(|opt_in| opt_in.architecture.to_string())),
            cell(opt_in.map(|opt_in| opt_in.channel.to_string())),
            self.result.to_string(),
        ]
    }
}

impl fmt::Display for ClassResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UpToDate {
                snapshot_id,
                readiness: Readiness::Ready,
            } => write!(f, "has {snapshot_id}"),
            Self::UpToDate {
                snapshot_id,
                readiness,
            } => write!(f, "has {snapshot_id}, but is {readiness}"),
            Self::WouldChange { fields } => write!(f, "would change: {}", Fields(fields)),
            Self::Applied { fields, outcome } => write!(f, "{outcome}: {}", Fields(fields)),
            Self::NotDue { snapshot_id, at } => write!(f, "gets {snapshot_id} at {at}"),
            Self::Refused { why } => write!(f, "left alone: {why}"),
        }
    }
}

struct Fields<'a>(&'a [FieldChange]);

impl fmt::Display for Fields<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields: Vec<_> = self.0.iter().map(FieldChange::to_string).collect();
        f.write_str(&fields.join(", "))
    }
}

impl fmt::Display for SyncReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.node_classes.is_empty() {
            return writeln!(
                f,
                "No node class has the annotations `prepull/cache` and `prepull/architecture`."
            );
        }
        let heading = ["NODE CLASS", "CACHE", "ARCH", "CHANNEL", "RESULT"].map(str::to_owned);
        let mut rows = vec![heading.to_vec()];
        rows.extend(self.node_classes.iter().map(ClassReport::row));
        f.write_str(&table("", &rows))?;
        for class in &self.node_classes {
            if let Some(cause) = &class.not_registered {
                writeln!(
                    f,
                    "\n{} is not registered, so retention may delete its snapshot: {cause}",
                    class.name
                )?;
            }
        }
        let is_pending =
            |class: &ClassReport| matches!(class.result, ClassResult::WouldChange { .. });
        if self.node_classes.iter().any(is_pending) {
            writeln!(
                f,
                "\nNothing was changed. Use `--apply` to make these changes."
            )?;
        }
        Ok(())
    }
}
