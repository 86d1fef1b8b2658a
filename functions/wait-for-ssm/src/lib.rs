//! Waits until a builder accepts commands and can pull.
//!
//! **Before:** the builder runs.
//! **After:** the agent is online, the admin container and containerd answer, and the kubelet is masked. The versions and
//! the vCPUs of the builder are known.
//! **Called again:** repeats the same checks. Their only effect is that the kubelet stays masked.
//! **Errors:** `NeverReady` after the timeout; `BuilderLost` if the builder no longer runs.

use jiff::Timestamp;
use prepull_aws::{Clients, Deadline};
use prepull_domain::StageError;
use prepull_domain::build::payload::{BuilderInput, NodeInfo, ReadyBuilder};
use prepull_machines::Documents;
use prepull_machines::readiness::await_ready;

/// The settings of the function.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Prefix of the names of the SSM documents.
    pub name: String,
}

/// Waits until the builder of `input` is ready and returns its versions and vCPUs.
///
/// # Errors
/// See the crate's documentation.
pub async fn handle(
    clients: &Clients,
    settings: &Settings,
    input: BuilderInput,
    deadline: Deadline,
) -> Result<ReadyBuilder, StageError> {
    let give_up_at = input.target.give_up_at;
    let documents = Documents::Installed(&settings.name);
    let node = await_ready(clients, documents, &input.builder, give_up_at, deadline).await?;
    Ok(ReadyBuilder {
        node: NodeInfo {
            bottlerocket_version: node.bottlerocket_version,
            containerd_version: node.containerd_version,
            kernel_version: node.kernel_version,
            snapshotter: node.snapshotter,
            ready_at: Timestamp::now(),
        },
        vcpus: node.vcpus,
    })
}
