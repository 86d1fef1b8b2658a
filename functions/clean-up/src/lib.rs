//! clean-up: removes what builds leave behind, and snapshots that are beyond retention.
//!
//! It is called in three ways, each of which is enough for a build to leave nothing:
//! - by the state machine, at the end of a target, however that ended: the target's builder, volumes and unfinished
//!   snapshots go, and so do old snapshots of its cache and architecture;
//! - by `EventBridge`, when an execution failed, timed out or was aborted: the same for the whole execution, which may
//!   have ended without running any `Catch`; then the event `Build Failed` is emitted;
//! - by a schedule, as a sweep: the same for every execution that does not run any more, for all caches.
//!
//! **Before:** nothing. Whatever is to go bears the tag `prepull:cache`; what does not bear it is never touched.
//!
//! **After:** no instance, no volume and no unfinished snapshot of the target or execution is left. What the pointer names
//! is kept; of the verified snapshots, what a machine image or a launch template names, and the newest of each cache and
//! architecture.
//!
//! **Called again:** it removes what is left, and nothing else.
//!
//! **Errors:** `StillRunning` while instances end; `InvalidEvent` for an input that is none of the three.

mod failed_build;
mod input;
mod leftovers;
mod removal;
mod retention;
mod sweep;

use prepull_aws::{Clients, Deadline};
use prepull_domain::{InstanceId, SnapshotId, StageError, VolumeId};
use serde::Serialize;
use serde_json::Value;

use crate::input::Input;
use crate::leftovers::Owner;

/// What was removed.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Removed {
    /// Instances.
    pub terminated: Vec<InstanceId>,
    /// Volumes.
    pub deleted_volumes: Vec<VolumeId>,
    /// Snapshots.
    pub deleted_snapshots: Vec<SnapshotId>,
    /// Manifests, by the name of their parameter.
    pub deleted_manifests: Vec<String>,
}

/// Cleans up.
///
/// # Errors
/// See the module's documentation.
pub async fn handle(
    clients: &Clients,
    state_machine_arn: &str,
    input: Value,
    deadline: Deadline,
) -> Result<Removed, StageError> {
    let mut removed = Removed::default();
    match Input::parse(input)? {
        Input::Target(target) => {
            let owner = Owner {
                execution: target.execution.clone(),
                architecture: Some(target.architecture),
            };
            leftovers::remove(clients, &owner, &mut removed, deadline).await?;
            retention::apply(
                clients,
                &target.cache,
                target.architecture,
                target.retain_snapshots,
                &target.publication.copy_to_regions,
                &mut removed,
            )
            .await?;
        }
        Input::Ended(execution) => {
            let owner = Owner {
                execution: execution.name(),
                architecture: None,
            };
            // The event names them elsewhere than the other inputs do.
            tracing::Span::current()
                .record("execution", owner.execution.as_str())
                .record("cache", execution.cache());
            let result = leftovers::remove(clients, &owner, &mut removed, deadline).await;
            // Whatever became of the clean-up: who waits for the build must hear that it failed.
            failed_build::announce(clients, &execution).await?;
            match result {
                // Lambda would call again and announce again; the sweep sees to what is still ending.
                Err(StageError::StillRunning(what)) => tracing::info!("left to the sweep: {what}"),
                other => other?,
            }
        }
        Input::Sweep(least_age) => {
            sweep::sweep(
                clients,
                state_machine_arn,
                least_age,
                &mut removed,
                deadline,
            )
            .await?;
        }
    }
    if removed != Removed::default() {
        tracing::info!(
            removed = serde_json::to_string(&removed).unwrap_or_default(),
            "removed"
        );
    }
    Ok(removed)
}
