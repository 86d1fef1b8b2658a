//! `prepull sync`: gives the snapshots of caches to the node classes of a cluster, so that nobody copies an ID.
//!
//! [`prepull_kubernetes`] has the rules. This module reads the pointers, registers the node classes as consumers, and reports.

use std::collections::BTreeSet;
use std::fmt;
use std::pin::pin;
use std::str::FromStr;
use std::time::Duration;

use futures::future::{Either, select};
use jiff::{SignedDuration, Timestamp};
use prepull_aws::{Clients, parameters};
use prepull_domain::snapshot::retention::Consumer;
use prepull_domain::{SnapshotId, names};
use prepull_kubernetes::{
    Channel, Client, FieldChange, Interruption, Listed, NodeClass, OptIn, Outcome, Patience, Plan,
    Readiness, Ring, Timing,
};
use serde::Serialize;

use crate::{Error, Exit, opt_in, store};

/// The arguments of `prepull sync`.
#[derive(Debug, Clone, clap::Args)]
pub struct SyncArgs {
    /// Change the node classes. Otherwise it only shows the changes.
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

/// Minimum wait for Karpenter. A shorter one reverts good snapshots.
const MIN_WAIT: Duration = Duration::from_secs(3);

fn wait(given: &str) -> Result<Duration, String> {
    let wait = opt_in::wait(given)?;
    if wait < MIN_WAIT {
        return Err(format!(
            "expected at least {} s, such as `5m`",
            MIN_WAIT.as_secs()
        ));
    }
    Ok(wait)
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
    /// Whether it could change node classes.
    pub applied: bool,
    /// The ring.
    pub ring: Option<Ring>,
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
    /// It is being deleted.
    Deleting,
    /// It was left alone.
    Refused {
        /// Cause and remedy.
        why: String,
    },
    /// A call failed.
    Failed {
        /// Cause and remedy.
        why: String,
    },
}

impl ClassReport {
    fn fails(&self) -> bool {
        let fails = match &self.result {
            ClassResult::UpToDate { readiness, .. } => *readiness != Readiness::Ready,
            ClassResult::WouldChange { .. }
            | ClassResult::NotDue { .. }
            | ClassResult::Deleting => false,
            ClassResult::Applied { outcome, .. } => !outcome.is_success(),
            ClassResult::Refused { .. } | ClassResult::Failed { .. } => true,
        };
        fails || self.not_registered.is_some()
    }
}

impl SyncReport {
    /// Returns the exit code: an error if a node class could not be synced, or the ring has none.
    #[must_use]
    pub fn exit(&self) -> Exit {
        opt_in::exit(
            self.ring.as_ref(),
            self.node_classes.iter().map(ClassReport::fails),
        )
    }
}

/// Syncs the node classes of a cluster. If `interrupted` resolves, it reverts a change that Karpenter has not accepted, and
/// leaves the other node classes alone.
///
/// # Errors
/// If the cluster does not list its node classes. Problems of one node class are in the report.
pub async fn run(
    clients: &Clients,
    args: &SyncArgs,
    now: Timestamp,
    interrupted: impl Future<Output = ()>,
) -> Result<SyncReport, Error> {
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
    let cluster = cluster.filter(|_| args.apply);
    in_cluster(clients, kubernetes, cluster, args, now, interrupted).await
}

/// Syncs the node classes of the cluster that `kubernetes` is connected to. Without `cluster`, it registers none of them.
///
/// # Errors
/// If the cluster does not list its node classes.
pub async fn in_cluster(
    clients: &Clients,
    kubernetes: Client,
    cluster: Option<ClusterName>,
    args: &SyncArgs,
    now: Timestamp,
    interrupted: impl Future<Output = ()>,
) -> Result<SyncReport, Error> {
    let listed = prepull_kubernetes::list(&kubernetes, args.ring.as_ref()).await?;
    let interruption = Interruption::default();
    let mut sync = Sync {
        clients,
        kubernetes,
        args,
        cluster,
        interruption: interruption.clone(),
        now,
        refused: BTreeSet::new(),
    };
    let signal = async {
        interrupted.await;
        interruption.interrupt();
    };
    let node_classes = match select(pin!(signal), pin!(sync.classes(listed))).await {
        Either::Left(((), classes)) => classes.await,
        Either::Right((reports, _)) => reports,
    };
    Ok(SyncReport {
        applied: args.apply,
        ring: args.ring.clone(),
        node_classes,
    })
}

/// A run for one cluster.
struct Sync<'a> {
    clients: &'a Clients,
    kubernetes: Client,
    args: &'a SyncArgs,
    /// Name for registrations. `None` in a dry run.
    cluster: Option<ClusterName>,
    interruption: Interruption,
    now: Timestamp,
    /// Snapshots that Karpenter did not accept in this run. Each attempt stops the launches of its node class for a while.
    refused: BTreeSet<SnapshotId>,
}

impl Sync<'_> {
    async fn classes(&mut self, listed: Vec<Listed>) -> Vec<ClassReport> {
        let mut reports = Vec::new();
        for listed in listed {
            reports.push(match listed {
                Listed::Invalid { name, problem } => {
                    ClassReport::refused(name, problem.to_string())
                }
                Listed::OptedIn(class) if self.interruption.is_interrupted() => {
                    let why = "the command was interrupted. Run it again";
                    ClassReport::refused(class.name, why.to_owned())
                }
                Listed::OptedIn(class) => self.class(&class).await,
            });
        }
        reports
    }

    /// Syncs and registers one node class. An error is part of the report, so the other node classes still follow.
    async fn class(&mut self, class: &NodeClass) -> ClassReport {
        let result = self.sync(class).await;
        let result = result.unwrap_or_else(|error| ClassResult::Failed {
            why: error.to_string(),
        });
        let registered = self.register(class, &result).await;
        ClassReport {
            name: class.name.clone(),
            opt_in: Some(class.opt_in.clone()),
            result,
            not_registered: registered.err().map(|error| error.to_string()),
        }
    }

    async fn sync(&mut self, class: &NodeClass) -> Result<ClassResult, Error> {
        // Each node class reads the pointer again. Someone may roll back while another one waits for Karpenter.
        let (cache, architecture) = (&class.opt_in.cache, class.opt_in.architecture);
        let pointer = store::shown_pointer(self.clients, cache, architecture).await?;
        let timing = Timing {
            now: self.now,
            delay: self.args.delay,
            // A canary exists to meet a candidate first.
            since: match class.opt_in.channel {
                Channel::Stable => pointer.as_ref().and_then(|pointer| pointer.stable_since),
                Channel::Candidate => None,
            },
        };
        let change = match prepull_kubernetes::plan(class, pointer.as_ref(), timing) {
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
            Plan::Deleting => return Ok(ClassResult::Deleting),
            Plan::Patch(change) => change,
        };
        let fields = change.fields.clone();
        if !self.args.apply {
            return Ok(ClassResult::WouldChange { fields });
        }
        if self.refused.contains(&change.to) {
            let why = format!(
                "Karpenter did not accept {} for another node class. Correct the cause first",
                change.to
            );
            return Ok(ClassResult::Refused { why });
        }
        let patience = Patience {
            wait: self.args.wait,
            ..Patience::default()
        };
        let applied = prepull_kubernetes::apply(
            &self.kubernetes,
            class,
            &change,
            patience,
            &self.interruption,
            self.now,
        );
        let outcome = applied.await?;
        if matches!(outcome, Outcome::Reverted { .. }) {
            self.refused.insert(change.to.clone());
        }
        Ok(ClassResult::Applied { fields, outcome })
    }

    /// Registers a node class as a consumer, so that retention keeps its snapshot.
    async fn register(&self, class: &NodeClass, result: &ClassResult) -> Result<(), Error> {
        let (Some(cluster), Some(snapshot_id)) =
            (&self.cluster, self.snapshot(class, result).await?)
        else {
            return Ok(());
        };
        let opt_in = &class.opt_in;
        let path = names::consumers_path(&opt_in.cache, opt_in.architecture);
        let consumer = Consumer {
            snapshot_id,
            registered_at: self.now,
        };
        let json = serde_json::to_string(&consumer).expect("a consumer can be serialized");
        let name = format!("{path}/{}.{}", cluster.0, class.name);
        Ok(parameters::put(self.clients, &name, &json).await?)
    }

    /// Returns the snapshot that the node class has now.
    async fn snapshot(
        &self,
        class: &NodeClass,
        result: &ClassResult,
    ) -> Result<Option<SnapshotId>, Error> {
        let ClassResult::Applied { .. } = result else {
            return Ok(class.snapshot());
        };
        let now = prepull_kubernetes::get(&self.kubernetes, &class.name).await?;
        Ok(now.and_then(|listed| match listed {
            Listed::OptedIn(class) => class.snapshot(),
            Listed::Invalid { .. } => None,
        }))
    }
}

impl ClassReport {
    fn refused(name: String, why: String) -> Self {
        Self {
            name,
            opt_in: None,
            result: ClassResult::Refused { why },
            not_registered: None,
        }
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
            Self::WouldChange { fields } => write!(f, "would change: {}", opt_in::fields(fields)),
            Self::Applied { fields, outcome } => {
                write!(f, "{outcome}: {}", opt_in::fields(fields))
            }
            Self::NotDue { snapshot_id, at } => write!(f, "gets {snapshot_id} at {at}"),
            Self::Deleting => f.write_str("is being deleted"),
            Self::Refused { why } => write!(f, "left alone: {why}"),
            Self::Failed { why } => write!(f, "failed: {why}"),
        }
    }
}

impl fmt::Display for SyncReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.node_classes.is_empty() {
            return f.write_str(&opt_in::none(
                "node class",
                "annotation",
                self.ring.as_ref(),
            ));
        }
        let results = self.node_classes.iter().map(|class| {
            let opt_in = class.opt_in.as_ref();
            (class.name.as_str(), opt_in, class.result.to_string())
        });
        f.write_str(&opt_in::table("NODE CLASS", results))?;
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
            f.write_str(opt_in::NOTHING_CHANGED)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cluster_name_comes_from_the_arn_in_a_kubeconfig() {
        let name = |text| ClusterName::of_kubeconfig(text).map(|name| name.0);
        let arn = "arn:aws:eks:eu-west-1:123456789012:cluster/production";
        assert_eq!(name(arn).as_deref(), Some("production"));
        assert_eq!(name("production").as_deref(), Some("production"));
        // The policy of the role separates the cluster from the node class by a dot.
        assert_eq!(name("production.example.com"), None);
        assert_eq!(name("").as_deref(), None);
    }

    #[test]
    fn wait_has_a_minimum() {
        assert_eq!(wait("5m"), Ok(Duration::from_secs(300)));
        for short in ["0s", "-5m", "soon"] {
            assert!(wait(short).is_err(), "{short}");
        }
    }
}
