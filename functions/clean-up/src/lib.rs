//! clean-up removes the resources of builds and the snapshots beyond retention.
//!
//! It has three callers. Each one alone is enough to remove everything that a build leaves:
//! - The state machine calls it when a target has ended, with success or failure. It removes the target's builder, volumes
//!   and unfinished snapshots, and old snapshots of the same cache and architecture.
//! - `EventBridge` calls it when an execution has failed, timed out or been aborted. It does the same for the whole
//!   execution, which may have ended without any `Catch`. It then emits the event `Build Failed`.
//! - A schedule calls it as a sweep. It does the same for every execution that has ended, for all caches. Step Functions
//!   delivers its events on a best-effort basis, so the sweep also emits missing `Build Failed` events.
//!
//! **Before:** nothing. Every resource that it may delete has the tag `prepull:cache`. It never touches other resources.
//!
//! **After:** the target or execution has no instance, no volume and no unfinished snapshot. clean-up keeps the snapshots
//! that the pointer refers to. It also keeps the newest verified snapshots of each cache and architecture, and those that a
//! machine image, a launch template, a volume or a registered consumer uses. It announces the deletion of the others with
//! the event `Snapshot Expiring`, and deletes them after the days that the cache sets. The sweep promotes candidates whose
//! soak has ended, and completes decisions about pointers whose caller ended early.
//!
//! **Called again:** it removes only resources that still exist.
//!
//! **Errors:** `StillRunning` while instances terminate; `InvalidEvent` for any other input.

mod failed_build;
mod input;
mod promotion;
mod removal;
mod resources;
mod retention;
mod sweep;

use prepull_aws::{Clients, Deadline};
use prepull_domain::{InstanceId, SnapshotId, StageError, VolumeId};
use serde::Serialize;
use serde_json::Value;

use crate::input::Input;
use crate::resources::Owner;
use crate::retention::Retention;

/// The removed resources.
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
            resources::remove(clients, &owner, &mut removed, deadline).await?;
            let retention = Retention {
                clients,
                cache: &target.cache,
                architecture: target.architecture,
                snapshots: target.retain_snapshots,
                days: target.retain_days,
                copy_to_regions: &target.publication.copy_to_regions,
            };
            retention.apply(&mut removed).await?;
        }
        Input::Ended(execution) => {
            let owner = Owner {
                execution: execution.name(),
                architecture: None,
            };
            // The event has these fields in other places than the other inputs.
            tracing::Span::current()
                .record("execution", owner.execution.as_str())
                .record("cache", execution.cache());
            let result = resources::remove(clients, &owner, &mut removed, deadline).await;
            // The failure is announced even if the clean-up itself fails.
            failed_build::announce(clients, &execution).await?;
            match result {
                // With an error, Lambda would call again and announce twice. The sweep removes instances that still terminate.
                Err(StageError::StillRunning(progress)) => {
                    tracing::info!(progress, "leaving the rest to the sweep");
                }
                other => other?,
            }
        }
        Input::Sweep(minimum_age) => {
            sweep::sweep(
                clients,
                state_machine_arn,
                minimum_age,
                &mut removed,
                deadline,
            )
            .await?;
        }
    }
    if removed != Removed::default() {
        tracing::info!(
            removed = serde_json::to_string(&removed).unwrap_or_default(),
            "resources removed"
        );
    }
    Ok(removed)
}
