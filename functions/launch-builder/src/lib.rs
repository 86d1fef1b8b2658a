//! Launches the builder of a target.
//!
//! **Before:** the target is planned.
//! **After:** exactly one instance with this execution's tags runs for the target. It has the planned data volume, and it
//! will register with Systems Manager.
//! **Called again:** it finds the instance by its tags and launches none. If an answer of EC2 was lost, or tags are not
//! visible yet, the client token prevents a second launch. The token depends only on the plan. Concurrent calls may launch
//! in different capacity pools. All of them continue with the oldest builder, and the younger ones are terminated.
//! **Called early:** before the debounce, with an early plan. The call after the debounce finds that builder, if both plans
//! launch the same. Otherwise it terminates that builder and launches another.
//! **Errors:** `CapacityUnavailable` if no instance type has capacity in any subnet; `QuotaExceeded`; `AccountRestricted` if
//! AWS has not verified the account, or its plan excludes every type; `InvalidConfig` if EC2 rejects the request or
//! credentials cannot be read; `KeyUnusable` if the instance ends because of its KMS key; `BuilderLost` if it ends for
//! another reason.

use std::collections::BTreeSet;

use prepull_aws::{Clients, Deadline};
use prepull_domain::StageError;
use prepull_domain::build::payload::{Builder, LaunchInput, Target};
use prepull_machines::user_data::{self, Credential};
use prepull_machines::{InstanceProfile, Machine, Role, ensure};
use prepull_registry::read_credentials;

/// The settings of the function.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The instance profile that lets a builder register with Systems Manager and pull from ECR.
    pub instance_profile_arn: String,
}

/// Launches the builder of `input.target`, unless it exists, and waits until it runs.
///
/// # Errors
/// See the crate's documentation.
pub async fn handle(
    clients: &Clients,
    settings: &Settings,
    input: LaunchInput,
    deadline: Deadline,
) -> Result<Builder, StageError> {
    let target = &input.target;
    let machine = Machine {
        target,
        role: Role::Builder,
        ami: &target.ami,
        profile: InstanceProfile::Arn(&settings.instance_profile_arn),
    };
    let user_data = async || user_data::encode(target, credentials(clients, target).await?);
    ensure(clients, &machine, user_data, deadline).await
}

/// Returns the credentials of the registries of the target's images, and no others.
async fn credentials(clients: &Clients, target: &Target) -> Result<Vec<Credential>, StageError> {
    let hosts: BTreeSet<_> = target
        .images
        .iter()
        .map(|image| image.reference.registry())
        .collect();
    let mut credentials = Vec::new();
    for (host, source) in &target.registry_credentials {
        if hosts.contains(host.as_str()) {
            let read = read_credentials(clients, target.cache.as_str(), host, source).await?;
            credentials.push(Credential::new(host, &read.username, &read.password));
        }
    }
    Ok(credentials)
}
