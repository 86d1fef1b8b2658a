//! Promotes candidates whose soak has ended, and completes decisions whose caller ended early.

use std::collections::BTreeMap;

use jiff::Timestamp;
use prepull_aws::Clients;
use prepull_aws::pointers::{self, TargetPointer};
use prepull_domain::snapshot::decisions::{self, Entry, KEPT, NotDecided};
use prepull_domain::snapshot::pointer::Verdict;
use prepull_domain::{Architecture, CacheConfig, CacheName, Decision, Pointer, StageError, names};

use crate::resources::TaggedSnapshot;

/// Makes the due decision about one pointer. `parameters` are all below `/prepull`, and `snapshots` all of prepull.
///
/// It makes no call if nothing is due, and the parameters and tags at home show the last decision.
pub(crate) async fn apply(
    clients: &Clients,
    (cache, architecture): (&CacheName, Architecture),
    config: &CacheConfig,
    parameters: &BTreeMap<String, String>,
    snapshots: &[TaggedSnapshot],
    now: Timestamp,
) -> Result<(), StageError> {
    let publication = &config.publication;
    let due = Decision::PromoteDue {
        promotion: publication.promotion,
    };
    let entries = entries(cache, architecture, parameters)?;
    let Some(last) = decisions::newest(entries.clone()).map(|entry| entry.pointer) else {
        return Ok(());
    };
    let is_announced = entries
        .iter()
        .filter(|entry| entry.pointer.sequence + KEPT > last.sequence)
        .all(|entry| entry.announced);
    if is_announced
        && is_shown(cache, architecture, &last, parameters)
        && are_marked(cache, architecture, &last, snapshots)
        && last.after(&due, now) == Ok(Verdict::Unchanged)
    {
        return Ok(());
    }
    let pointer = TargetPointer {
        clients,
        cache,
        architecture,
        copy_to_regions: &publication.copy_to_regions,
    };
    match pointer.decide(&due, now).await {
        Ok(_) => Ok(()),
        Err(NotDecided::Failed(error)) => Err(error),
        Err(NotDecided::Refused(refusal)) => {
            unreachable!("the pointer never refuses a promotion that is due: {refusal}")
        }
    }
}

/// Returns whether the tags of the target's snapshots show `pointer`.
fn are_marked(
    cache: &CacheName,
    architecture: Architecture,
    pointer: &Pointer,
    snapshots: &[TaggedSnapshot],
) -> bool {
    snapshots
        .iter()
        .filter(|snapshot| snapshot.target() == Some((cache.clone(), architecture)))
        .filter_map(|snapshot| Some((&snapshot.found.id, snapshot.found.state?)))
        .all(|(id, state)| pointers::state_of(id, state, pointer) == state)
}

/// Returns the decisions about one pointer.
fn entries(
    cache: &CacheName,
    architecture: Architecture,
    parameters: &BTreeMap<String, String>,
) -> Result<Vec<Entry>, StageError> {
    let path = format!("{}/", names::decisions_path(cache, architecture));
    let below = parameters
        .range(path.clone()..)
        .take_while(|(name, _)| name.starts_with(&path));
    pointers::entries(below.map(|(k, v)| (k.clone(), v.clone())).collect())
}

/// Returns whether the parameters that consumers read show `pointer`.
fn is_shown(
    cache: &CacheName,
    architecture: Architecture,
    pointer: &Pointer,
    parameters: &BTreeMap<String, String>,
) -> bool {
    let state = parameters.get(&names::state_parameter(cache, architecture));
    let shown = state.and_then(|json| serde_json::from_str::<Pointer>(json).ok());
    let id = |name: String| parameters.get(&name).map(String::as_str);
    let canary = pointer.canary().map(|it| it.snapshot_id.as_str());
    let stable = pointer.stable.as_ref().map(|it| it.snapshot_id.as_str());
    shown.as_ref() == Some(pointer)
        && id(names::candidate_parameter(cache, architecture)) == canary
        && (stable.is_none() || id(names::pointer_parameter(cache, architecture)) == stable)
}
