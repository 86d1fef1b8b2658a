//! Launches the builder of a target.
//!
//! **Before:** the target is planned.
//! **After:** exactly one instance with this execution's tags runs for the target. It has the planned data volume, and it
//! will register with Systems Manager.
//! **Called again:** it finds the instance by its tags and launches none. If an answer of EC2 was lost, or tags are not
//! visible yet, the client token prevents a second launch. The token depends only on the plan. Concurrent calls may launch
//! in different capacity pools. All of them continue with the oldest builder, and the younger ones are terminated.
//! **Called early:** before the debounce, with an early plan. The call after the debounce finds that builder, if both plans
//! launch the same. Otherwise it launches another, and clean-up removes the early one.
//! **Errors:** `CapacityUnavailable` if no instance type has capacity in any subnet; `QuotaExceeded`; `AccountRestricted` if
//! AWS has not verified the account, or its plan excludes every type; `InvalidConfig` if EC2 rejects the request or
//! credentials cannot be read; `KeyUnusable` if the instance ends because of its KMS key; `BuilderLost` if it ends for
//! another reason.

mod request;
mod user_data;

use std::time::Duration;

use prepull_aws::ec2::error::ProvideErrorMetadata;
use prepull_aws::ec2::types::InstanceStateName;
use prepull_aws::instances::{self, InstanceRecord, not_known};
use prepull_aws::{AwsError, Clients, Deadline, StageResult};
use prepull_domain::build::payload::{Base, Builder, LaunchInput, Target};
use prepull_domain::{InstanceId, InvalidConfig, StageError, SubnetId, names};

/// Poll interval for the instance state. A launch takes about 16 s.
const POLL: Duration = Duration::from_secs(1);

/// Time during which EC2 may not list an instance that it has launched.
const LISTED_WITHIN: Duration = Duration::from_secs(30);

/// The settings of the function.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The instance profile that lets a builder register with Systems Manager and pull from ECR.
    pub instance_profile_arn: String,
}

/// A capacity pool: an instance type in a subnet.
#[derive(Debug, Clone, Copy)]
struct CapacityPool<'a> {
    instance_type: &'a str,
    subnet: &'a SubnetId,
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
    let mut id = match oldest(clients, target).await? {
        Some(id) => id,
        None => launch(clients, settings, target, deadline).await?,
    };
    loop {
        let builder = running(clients, &id, deadline).await?;
        match oldest(clients, target).await? {
            Some(other) if other != id => {
                terminate_duplicate(clients, &id).await?;
                id = other;
            }
            _ => return Ok(builder),
        }
    }
}

/// Returns the oldest builder of `target` that is pending or running, and that started with the planned settings. A builder
/// of an early plan can have others.
async fn oldest(clients: &Clients, target: &Target) -> Result<Option<InstanceId>, StageError> {
    let alive = [InstanceStateName::Pending, InstanceStateName::Running];
    let found = instances::builders_of(clients, target, &alive).await?;
    let key = target.launch_key();
    Ok(found
        .into_iter()
        .find(|found| found.tag(names::TAG_LAUNCH_KEY) == Some(&key))
        .map(|found| found.id))
}

/// Terminates a duplicate builder. A capacity pool may have capacity for one concurrent call and not for another, and their
/// client tokens then differ. All calls agree on the oldest builder, and each terminates its own duplicate.
async fn terminate_duplicate(clients: &Clients, id: &InstanceId) -> Result<(), StageError> {
    tracing::warn!(%id, "terminating duplicate builder");
    clients
        .ec2
        .terminate_instances()
        .instance_ids(id.as_str())
        .send()
        .await
        .or_stage_error("ec2:TerminateInstances")?;
    Ok(())
}

/// Tries every instance type in every subnet, the preferred type first.
///
/// An instance type over its quota is not tried in other subnets, because quotas apply to the Region. The search goes on,
/// because a smaller type can fit, and types of other families count towards other quotas.
///
/// Source: EC2 user guide, "Amazon EC2 On-Demand Instance quotas": vCPU quotas by group of families, in a Region.
async fn launch(
    clients: &Clients,
    settings: &Settings,
    target: &Target,
    deadline: Deadline,
) -> Result<InstanceId, StageError> {
    let user_data = user_data::for_target(clients, target).await?;
    let mut tried = Vec::new();
    let mut last = Obstacle::Capacity;
    for instance_type in &target.instance_types {
        for subnet in &target.subnet_ids {
            deadline.check("looking for capacity for a builder")?;
            let pool = CapacityPool {
                instance_type,
                subnet,
            };
            match try_pool(clients, settings, target, pool, &user_data, deadline).await? {
                Attempt::Launched(id) => {
                    tracing::info!(%id, instance_type, %subnet, "builder launched");
                    return Ok(id);
                }
                Attempt::Failed(obstacle, why) => {
                    tracing::warn!(instance_type, %subnet, why, "capacity pool not usable");
                    tried.push(format!("{instance_type} in {subnet}: {why}"));
                    last = obstacle;
                    if obstacle != Obstacle::Capacity {
                        break;
                    }
                }
            }
        }
    }
    let tried = tried.join("; ");
    Err(match last {
        Obstacle::Capacity => StageError::CapacityUnavailable { tried },
        Obstacle::Quota => StageError::QuotaExceeded(tried),
        Obstacle::FreePlan => StageError::AccountRestricted(tried),
    })
}

/// The result of an attempt to launch.
enum Attempt {
    Launched(InstanceId),
    /// The obstacle, and EC2's code and message.
    Failed(Obstacle, String),
}

/// The reason why a capacity pool cannot be used, if another one may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Obstacle {
    /// The pool has no capacity.
    Capacity,
    /// The account's quota does not allow another instance of this type.
    Quota,
    /// The account is on the Free plan, which does not include this type.
    FreePlan,
}

impl Obstacle {
    /// Returns the obstacle that EC2's error describes. `None` if other capacity pools have it too.
    ///
    /// Source: EC2 API reference, "Error codes". EC2 returns `Unsupported` if an availability zone does not offer the
    /// instance type, and `InsufficientVolumeCapacity` if a zone has no space for the volumes. Source of the Free plan's
    /// message: Karpenter's list of launch failures (karpenter-provider-aws, pull request 9004).
    fn parse(code: &str, message: &str) -> Option<Self> {
        match code {
            "InsufficientInstanceCapacity"
            | "InsufficientHostCapacity"
            | "InsufficientCapacity"
            | "InsufficientVolumeCapacity"
            | "InsufficientFreeAddressesInSubnet"
            | "Unsupported" => Some(Self::Capacity),
            "VcpuLimitExceeded" | "InstanceLimitExceeded" => Some(Self::Quota),
            "InvalidParameterCombination" if message.contains("Free Tier") => Some(Self::FreePlan),
            _ => None,
        }
    }
}

async fn try_pool(
    clients: &Clients,
    settings: &Settings,
    target: &Target,
    pool: CapacityPool<'_>,
    user_data: &str,
    deadline: Deadline,
) -> Result<Attempt, StageError> {
    let error = match request::send(clients, settings, target, pool, user_data).await {
        Ok(answer) => {
            return answer
                .instances()
                .iter()
                .find_map(InstanceRecord::parse)
                .map(|launched| Attempt::Launched(launched.id))
                .ok_or_else(|| StageError::AwsFailed {
                    call: "ec2:RunInstances",
                    message: "the answer contains no instance".to_owned(),
                });
        }
        Err(error) => error,
    };
    let code = error.aws_code().unwrap_or_default();
    let message = error.message().unwrap_or_default();
    if let Some(obstacle) = Obstacle::parse(code, message) {
        return Ok(Attempt::Failed(obstacle, format!("{code}: {message}")));
    }
    let answer = || {
        format!(
            "{} in {}: {code}: {message}",
            pool.instance_type, pool.subnet
        )
    };
    match code {
        // An earlier call with this token succeeded. Either the user data has changed since then, because of new credentials, or
        // the instance has already terminated.
        "IdempotentParameterMismatch" | "IdempotentInstanceTerminated" => {
            earlier_launch(clients, target, deadline)
                .await
                .map(Attempt::Launched)
        }
        code if is_volume_quota(code) => Err(StageError::QuotaExceeded(answer())),
        code if is_restriction(code) => Err(StageError::AccountRestricted(answer())),
        code if code.starts_with("Invalid") => Err(refused(
            target,
            pool,
            &error.into_stage_error("ec2:RunInstances").to_string(),
        )),
        _ => Err(error.into_stage_error("ec2:RunInstances")),
    }
}

/// Returns whether `code` means a quota for volumes. Every capacity pool needs the same volumes.
fn is_volume_quota(code: &str) -> bool {
    matches!(code, "VolumeLimitExceeded" | "MaxIOPSLimitExceeded")
}

/// Returns whether `code` means that the account may launch no instance at all.
///
/// Source: EC2 API reference, "Error codes". AWS validates a new account in each Region that it uses for the first time.
fn is_restriction(code: &str) -> bool {
    matches!(code, "PendingVerification" | "OptInRequired" | "Blocked")
}

/// Returns the error for a request that EC2 rejects because of the cache's configuration.
fn refused(target: &Target, pool: CapacityPool<'_>, answer: &str) -> StageError {
    let problem = match &target.base {
        Base::Snapshot { snapshot_id, .. } if answer.contains("smaller than snapshot") => format!(
            "`volume.size_gib` is {}, smaller than the base snapshot {snapshot_id} ({answer}). Set it to at least \
             that snapshot's size",
            target.volume.size_gib.0
        ),
        _ => format!(
            "EC2 rejected a builder of type {} in {}: {answer}. Correct the setting in `builder`, `volume` or \
             `architectures`",
            pool.instance_type, pool.subnet
        ),
    };
    InvalidConfig::new(target.cache.as_str(), problem).into()
}

/// Returns the instance of an earlier launch for this target.
async fn earlier_launch(
    clients: &Clients,
    target: &Target,
    deadline: Deadline,
) -> Result<InstanceId, StageError> {
    let states = [
        InstanceStateName::Pending,
        InstanceStateName::Running,
        InstanceStateName::ShuttingDown,
        InstanceStateName::Terminated,
        InstanceStateName::Stopping,
        InstanceStateName::Stopped,
    ];
    deadline
        .at_most(LISTED_WITHIN)
        .poll(
            POLL,
            "waiting for the instance of an earlier launch",
            async || {
                let found = instances::builders_of(clients, target, &states).await?;
                // The youngest, because an older one may belong to an attempt on a defective base.
                Ok(found.into_iter().next_back().map(|found| found.id))
            },
        )
        .await
        .map_err(|error| match error {
            StageError::StillRunning(_) => StageError::AwsFailed {
                call: "ec2:RunInstances",
                message: "EC2 reports an earlier launch for this execution but lists no instance"
                    .to_owned(),
            },
            error => error,
        })
}

async fn running(
    clients: &Clients,
    id: &InstanceId,
    deadline: Deadline,
) -> Result<Builder, StageError> {
    let visible = Deadline::after(LISTED_WITHIN);
    deadline
        .poll(POLL, "waiting for the builder to run", async || {
            let Some(found) = instances::get(clients, id).await? else {
                // EC2 lists a new instance with a short delay.
                visible
                    .check("waiting for the builder to be listed")
                    .map_err(|_| not_known(id))?;
                return Ok(None);
            };
            match found.state {
                InstanceStateName::Running => Ok(Some(found.into_builder())),
                InstanceStateName::Pending => Ok(None),
                _ => Err(found.lost()),
            }
        })
        .await
}
