//! Verifies a snapshot on a second machine.
//!
//! **Before:** the snapshot is complete and has no state. The cache's verification level is not `off`.
//! **After:** a node of each release that the cache lists has booted from the snapshot. Every image is complete and
//! unpacked, every tree matches the fingerprint of the builder, and a container has started. At level `full`, the bytes of
//! every layer match its digest. The snapshot has the state `verified` and a record of the verification. The verifiers are
//! terminated.
//! **Called again:** it finds the verifiers by their tags and continues. It returns the record of a verified snapshot at
//! once, because an earlier answer was lost, or a concurrent call has finished first. It reads the state again before it
//! sets it, so a rejection by a person stays.
//! **Errors:** `VerifyFailed` with the defects, after which the snapshot is rejected; `VerifierLost` and `NeverReady`, after
//! which it stays without a state, so no build uses it as a base and clean-up deletes it; the errors of launch-builder.

use prepull_aws::snapshots::{self, set_state, set_verified};
use prepull_aws::{Clients, Deadline};
use prepull_domain::StageError;
use prepull_domain::build::payload::{SnapshotState, VerificationRecord, VerifyInput};
use prepull_machines::verification::Verification;
use prepull_machines::{Documents, InstanceProfile};

/// The settings of the function.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Prefix of the names of the SSM documents.
    pub name: String,
    /// The instance profile that lets a verifier register with Systems Manager.
    pub instance_profile_arn: String,
}

/// Verifies the snapshot of `input`.
///
/// # Errors
/// See the crate's documentation.
pub async fn handle(
    clients: &Clients,
    settings: &Settings,
    input: VerifyInput,
    deadline: Deadline,
) -> Result<VerificationRecord, StageError> {
    let verification = Verification {
        target: &input.target,
        snapshot: &input.snapshot.snapshot_id,
        level: input.target.verification.level,
        trees: input.snapshot.trees.as_ref().map(|trees| &trees.digest),
        expires_at: None,
        profile: InstanceProfile::Arn(&settings.instance_profile_arn),
        documents: Documents::Installed(&settings.name),
    };
    let record = match earlier_result(clients, &input).await? {
        Some(record) => record,
        None => match verification.run(clients, deadline).await {
            Ok(record) => passed(clients, &input, record).await?,
            Err(error) => failed(clients, &input, error).await?,
        },
    };
    terminate(clients, &verification).await;
    Ok(record)
}

/// Returns the result of an earlier call. `None` if there is none.
async fn earlier_result(
    clients: &Clients,
    input: &VerifyInput,
) -> Result<Option<VerificationRecord>, StageError> {
    let id = &input.snapshot.snapshot_id;
    let Some(snapshot) = snapshots::get(clients, id).await? else {
        return Err(StageError::SnapshotFailed {
            instance: input.builder.instance_id.clone(),
            problem: format!("{id} was deleted before the end of its verification"),
        });
    };
    match snapshot.state() {
        Some(SnapshotState::Rejected) => Err(StageError::VerifyFailed(format!(
            "snapshot {id} is rejected already, by an earlier call or by a person. The log of verify-snapshot has the \
             defects"
        ))),
        Some(SnapshotState::Verified | SnapshotState::Published) => Ok(snapshot.verification()),
        None => Ok(None),
    }
}

/// Marks a snapshot that has passed, unless a person has rejected it in the meantime, or a concurrent call has marked it.
async fn passed(
    clients: &Clients,
    input: &VerifyInput,
    record: VerificationRecord,
) -> Result<VerificationRecord, StageError> {
    if let Some(earlier) = earlier_result(clients, input).await? {
        return Ok(earlier);
    }
    let id = &input.snapshot.snapshot_id;
    if !set_verified(clients, id, &record).await? {
        return Err(StageError::SnapshotFailed {
            instance: input.builder.instance_id.clone(),
            problem: format!("{id} was deleted before the end of its verification"),
        });
    }
    tracing::info!(snapshot = %id, record = record.to_string(), "snapshot verified");
    Ok(record)
}

/// Rejects a snapshot with defects, unless it is rejected already, and returns the error. A concurrent call may have verified
/// the snapshot and terminated the verifier of this call.
async fn failed(
    clients: &Clients,
    input: &VerifyInput,
    error: StageError,
) -> Result<VerificationRecord, StageError> {
    let id = &input.snapshot.snapshot_id;
    match error {
        StageError::VerifyFailed(_) => {
            tracing::error!(snapshot = %id, %error, "snapshot rejected");
            let found = snapshots::get(clients, id).await?;
            if found.is_some_and(|found| found.state() != Some(SnapshotState::Rejected)) {
                set_state(clients, id, SnapshotState::Rejected).await?;
            }
        }
        StageError::VerifierLost { .. } => {
            if let Some(record) = earlier_result(clients, input).await? {
                return Ok(record);
            }
        }
        _ => {}
    }
    Err(error)
}

/// Terminates the verifiers. If that fails, clean-up does it.
async fn terminate(clients: &Clients, verification: &Verification<'_>) {
    if let Err(error) = verification.terminate(clients).await {
        tracing::warn!(%error, "verifiers left to clean-up");
    }
}
