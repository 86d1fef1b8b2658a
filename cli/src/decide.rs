//! `prepull promote`, `rollback`, `pin`, `unpin` and `reject`: decisions about the snapshot that nodes use.

use std::fmt;

use jiff::Timestamp;
use prepull_aws::pointers::TargetPointer;
use prepull_aws::{Clients, parameters, snapshots};
use prepull_domain::snapshot::decisions::{Decided, NotDecided};
use prepull_domain::snapshot::pointer::Change;
use prepull_domain::{
    Architecture, CacheConfig, CacheName, Decision, Pointer, Promotion, Refusal, SnapshotId, names,
};
use serde::Serialize;

use crate::render::table;
use crate::{Decide, Error, Exit, store};

/// The result for each architecture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DecisionReport {
    /// The cache.
    pub cache: CacheName,
    /// The architectures that the decision applies to.
    pub targets: Vec<TargetDecision>,
}

/// The result for one architecture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TargetDecision {
    /// The architecture.
    pub architecture: Architecture,
    /// The change. `None` if the decision had been made before, or was refused.
    pub change: Option<Change>,
    /// The cause of a refusal, with a remedy.
    pub refusal: Option<String>,
    /// The pointer after the decision.
    pub pointer: Pointer,
}

/// Runs a command: makes its decision about the pointers of its cache, for one architecture or for all.
///
/// # Errors
/// If the cache or the snapshot does not exist, or AWS refuses a call.
pub async fn run(
    clients: &Clients,
    command: &Decide,
    now: Timestamp,
) -> Result<DecisionReport, Error> {
    let (cache, architecture, snapshot) = match command {
        Decide::Promote {
            cache,
            snapshot,
            architecture,
        } => (cache, *architecture, snapshot.as_ref()),
        Decide::Rollback {
            cache,
            architecture,
            ..
        }
        | Decide::Pin {
            cache,
            architecture,
            ..
        }
        | Decide::Unpin {
            cache,
            architecture,
        } => (cache, *architecture, None),
        Decide::Reject {
            cache, snapshot, ..
        } => (cache, None, Some(snapshot)),
    };
    let (_, config) = parameters::cache(clients, cache.as_str()).await?;
    let pointers: Vec<_> = store::architectures(cache, &config, architecture)?
        .into_iter()
        .map(|architecture| pointer(clients, cache, architecture, &config))
        .collect();
    let chosen = match snapshot {
        Some(snapshot) => vec![target_of(clients, &pointers, cache, snapshot).await?],
        None => pointers
            .iter()
            .map(|pointer| (pointer, None))
            .collect::<Vec<_>>(),
    };
    let mut targets = Vec::new();
    for (pointer, snapshot) in chosen {
        let decision = decision(command, snapshot, config.publication.promotion);
        let (change, refusal, after) = match pointer.decide(&decision, now).await {
            Ok(Decided { pointer, change }) => (change, None, pointer),
            Err(NotDecided::Refused(refusal)) => (None, Some(refusal), pointer.current().await?),
            Err(NotDecided::Failed(error)) => return Err(error.into()),
        };
        targets.push(TargetDecision {
            architecture: pointer.architecture,
            change,
            refusal: refusal.as_ref().map(Refusal::to_string),
            pointer: after,
        });
    }
    Ok(DecisionReport {
        cache: cache.clone(),
        targets,
    })
}

fn pointer<'a>(
    clients: &'a Clients,
    cache: &'a CacheName,
    architecture: Architecture,
    config: &'a CacheConfig,
) -> TargetPointer<'a> {
    TargetPointer {
        clients,
        cache,
        architecture,
        copy_to_regions: &config.publication.copy_to_regions,
    }
}

/// Returns the decision of a command. `snapshot` is the ID in this Region of the given snapshot.
fn decision(command: &Decide, snapshot: Option<SnapshotId>, promotion: Promotion) -> Decision {
    match command {
        Decide::Promote { .. } => Decision::Promote {
            snapshot,
            promotion,
        },
        Decide::Rollback { reason, .. } => Decision::RollBack {
            reason: reason.clone(),
        },
        Decide::Pin { reason, .. } => Decision::Pin {
            reason: reason.clone(),
        },
        Decide::Unpin { .. } => Decision::Unpin { promotion },
        Decide::Reject {
            snapshot: given,
            reason,
            ..
        } => Decision::Reject {
            snapshot: snapshot.unwrap_or_else(|| given.clone()),
            reason: reason.clone(),
            promotion,
        },
    }
}

/// Returns the pointer of a snapshot, and the ID of the snapshot in this Region. `given` can be the ID of a copy.
async fn target_of<'a, 'b>(
    clients: &Clients,
    pointers: &'b [TargetPointer<'a>],
    cache: &CacheName,
    given: &SnapshotId,
) -> Result<(&'b TargetPointer<'a>, Option<SnapshotId>), Error> {
    for pointer in pointers {
        let current = pointer.current().await?;
        let held = current.held().find(|held| {
            held.snapshot_id == *given || held.copies.values().any(|copy| copy == given)
        });
        if let Some(held) = held {
            return Ok((pointer, Some(held.snapshot_id.clone())));
        }
    }
    let found = snapshots::get(clients, given).await?;
    let architecture = found
        .as_ref()
        .filter(|found| found.tag(names::TAG_CACHE) == Some(cache.as_str()))
        .and_then(|found| found.tag(names::TAG_ARCHITECTURE)?.parse().ok());
    pointers
        .iter()
        .find(|pointer| Some(pointer.architecture) == architecture)
        .map(|pointer| (pointer, Some(given.clone())))
        .ok_or_else(|| {
            Error::Usage(format!(
                "{given} is no snapshot of cache `{cache}` in this Region. `prepull snapshots {cache}` lists them"
            ))
        })
}

impl DecisionReport {
    /// Returns the exit code: a refusal counts as failure.
    #[must_use]
    pub fn exit(&self) -> Exit {
        if self.targets.iter().any(|target| target.refusal.is_some()) {
            Exit::Failed
        } else {
            Exit::Done
        }
    }
}

impl fmt::Display for DecisionReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows: Vec<_> = self
            .targets
            .iter()
            .map(|target| {
                let text = match (&target.refusal, &target.change) {
                    (Some(refusal), _) => format!("refused: {refusal}"),
                    (None, Some(change)) => self::change(change),
                    (None, None) => "unchanged".to_owned(),
                };
                let stable = match &target.pointer.stable {
                    Some(stable) => format!("stable is {}", stable.snapshot_id),
                    None => "nothing is stable".to_owned(),
                };
                vec![
                    format!("{} {}", self.cache, target.architecture),
                    format!("{text}; {stable}"),
                ]
            })
            .collect();
        f.write_str(&table("", &rows))
    }
}

/// Describes a change.
#[must_use]
pub fn change(change: &Change) -> String {
    match change {
        Change::Published { snapshot_id } => format!("published {snapshot_id} as candidate"),
        Change::PublishedAndPromoted { snapshot_id } => {
            format!("published and promoted {snapshot_id}")
        }
        Change::SoakStarted { snapshot_id } => format!("started the soak of {snapshot_id}"),
        Change::Promoted { snapshot_id } => format!("promoted {snapshot_id}"),
        Change::RolledBack { from, to, reason } => {
            format!("rolled back from {from} to {to} and pinned: {reason}")
        }
        Change::Pinned { reason } => format!("pinned: {reason}"),
        Change::Unpinned => "unpinned".to_owned(),
        Change::Rejected {
            snapshot_id,
            reason,
        } => format!("rejected {snapshot_id}: {reason}"),
    }
}
