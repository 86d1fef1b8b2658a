//! Launches a builder or a verifier, or finds the one that an earlier call has launched.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use prepull_aws::ec2::error::ProvideErrorMetadata;
use prepull_aws::ec2::types::{Filter, InstanceStateName};
use prepull_aws::instances::{self, InstanceRecord, not_known};
use prepull_aws::{AwsError, Clients, Deadline, Pace, tag_key_filter, target_filters};
use prepull_domain::build::payload::{Ami, Base, Builder, Target};
use prepull_domain::{InstanceId, InvalidConfig, SnapshotId, StageError, SubnetId, names};

use crate::request;

/// Poll interval for the instance state. A launch takes about 16 s.
const POLL: Pace = Pace::up_to(Duration::from_secs(1));

/// Time during which EC2 may not list an instance that it has launched.
const LISTED_WITHIN: Duration = Duration::from_secs(30);

/// The purpose of an instance.
#[derive(Debug, Clone, Copy)]
pub enum Role<'a> {
    /// It pulls the images of its target.
    Builder,
    /// It boots from a new snapshot.
    Verifier {
        /// The snapshot.
        snapshot: &'a SnapshotId,
        /// The rate in MiB/s at which EBS loads its volume. `None` if its blocks load when they are read.
        initialization_rate: Option<u32>,
        /// The time up to which the sweep keeps it. `None` if an execution owns it.
        expires_at: Option<Timestamp>,
    },
}

impl fmt::Display for Role<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Builder => "builder",
            Self::Verifier { .. } => "verifier",
        })
    }
}

/// An instance that a target needs.
#[derive(Debug, Clone, Copy)]
pub struct Machine<'a> {
    /// Target of the instance.
    pub target: &'a Target,
    /// Its purpose.
    pub role: Role<'a>,
    /// Its machine image.
    pub ami: &'a Ami,
    /// The instance profile that lets it register with Systems Manager and pull from ECR.
    pub profile: InstanceProfile<'a>,
}

/// An instance profile.
#[derive(Debug, Clone, Copy)]
pub enum InstanceProfile<'a> {
    /// By its ARN.
    Arn(&'a str),
    /// By its name, in the account of the caller.
    Name(&'a str),
}

impl<'a> Machine<'a> {
    /// Returns the instance types to try, the preferred one first.
    ///
    /// A cache lists its preferred type first and a small type last. A verifier needs little, so it tries the last type
    /// first.
    fn instance_types(&self) -> Vec<&'a str> {
        let types = self.target.instance_types.iter().map(String::as_str);
        match self.role {
            Role::Builder => types.collect(),
            Role::Verifier { .. } => types.rev().collect(),
        }
    }

    /// Returns the tag that tells instances of a target apart: the settings of a builder, or the subject of a verifier.
    pub(crate) fn purpose(&self) -> PurposeTag {
        match self.role {
            Role::Builder => PurposeTag {
                tag: names::TAG_LAUNCH_KEY,
                value: self.target.launch_key(),
            },
            Role::Verifier { snapshot, .. } => PurposeTag {
                tag: names::TAG_VERIFIES,
                value: format!("{snapshot} on {}", self.ami.version),
            },
        }
    }
}

/// The tag that tells instances of a target apart.
pub(crate) struct PurposeTag {
    pub(crate) tag: &'static str,
    pub(crate) value: String,
}

/// A capacity pool: an instance type in a subnet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CapacityPool<'a> {
    pub(crate) instance_type: &'a str,
    pub(crate) subnet: &'a SubnetId,
}

/// Launches `machine`, unless it exists, and waits until it runs. `user_data` returns its boot settings in base64.
///
/// Exactly one instance runs after it. A builder of an early plan with other settings is terminated first. Concurrent calls
/// may launch in different capacity pools. All of them continue with the oldest instance, and the younger ones are
/// terminated.
///
/// # Errors
/// - `CapacityUnavailable`, `QuotaExceeded`, `AccountRestricted` or `InvalidConfig` if EC2 launches none,
/// - `KeyUnusable` or `BuilderLost` if it ends at its launch.
pub async fn ensure(
    clients: &Clients,
    machine: &Machine<'_>,
    user_data: impl AsyncFnOnce() -> Result<String, StageError>,
    deadline: Deadline,
) -> Result<Builder, StageError> {
    let found = find(clients, machine, &ALIVE).await?;
    if let Role::Builder = machine.role {
        for other in &found.others {
            tracing::info!(id = %other.id, "terminating a builder with the settings of an early plan");
            instances::terminate(clients, &other.id).await?;
        }
    }
    let mut id = match found.wanted.into_iter().next() {
        Some(found) => found.id,
        None => launch(clients, machine, &user_data().await?, deadline).await?,
    };
    loop {
        let running = running(clients, machine, &id, deadline).await?;
        match oldest(clients, machine).await? {
            Some(other) if other != id => {
                terminate_duplicate(clients, machine, &id).await?;
                id = other;
            }
            _ => return Ok(running),
        }
    }
}

/// Returns the instances of `machine` that are pending or running, oldest first.
///
/// # Errors
/// If EC2 does not answer.
pub async fn alive(
    clients: &Clients,
    machine: &Machine<'_>,
) -> Result<Vec<InstanceRecord>, StageError> {
    Ok(find(clients, machine, &ALIVE).await?.wanted)
}

const ALIVE: [InstanceStateName; 2] = [InstanceStateName::Pending, InstanceStateName::Running];

/// The instances of a target with one role.
struct Found {
    /// Those with the wanted purpose, oldest first, so that all callers choose the same one.
    wanted: Vec<InstanceRecord>,
    /// Those with another one.
    others: Vec<InstanceRecord>,
}

/// Returns the instances of `machine`'s target and role in one of `states`.
async fn find(
    clients: &Clients,
    machine: &Machine<'_>,
    states: &[InstanceStateName],
) -> Result<Found, StageError> {
    let states = Filter::builder()
        .name("instance-state-name")
        .set_values(Some(states.iter().map(ToString::to_string).collect()))
        .build();
    let mut filters = target_filters(machine.target);
    let purpose = machine.purpose();
    filters.extend([states, tag_key_filter(purpose.tag)]);
    let mut found = instances::find(clients, filters).await?;
    // An instance without a launch time counts as just launched.
    let age = |found: &InstanceRecord| {
        let launched_at = found.launched_at.unwrap_or(Timestamp::MAX);
        (launched_at, found.id.clone())
    };
    found.sort_by_key(age);
    let (wanted, others) = found
        .into_iter()
        .partition(|found| found.tag(purpose.tag) == Some(&purpose.value));
    Ok(Found { wanted, others })
}

/// Returns the oldest instance of `machine` that is pending or running.
async fn oldest(
    clients: &Clients,
    machine: &Machine<'_>,
) -> Result<Option<InstanceId>, StageError> {
    let found = alive(clients, machine).await?;
    Ok(found.into_iter().next().map(|found| found.id))
}

/// Terminates a duplicate. A capacity pool may have capacity for one concurrent call and not for another, and their client
/// tokens then differ. All calls agree on the oldest instance, and each terminates its own duplicate.
async fn terminate_duplicate(
    clients: &Clients,
    machine: &Machine<'_>,
    id: &InstanceId,
) -> Result<(), StageError> {
    tracing::warn!(%id, role = %machine.role, "terminating duplicate");
    instances::terminate(clients, id).await?;
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
    machine: &Machine<'_>,
    user_data: &str,
    deadline: Deadline,
) -> Result<InstanceId, StageError> {
    let mut tried = Vec::new();
    let mut last = Obstacle::Capacity;
    let looking = format!("looking for capacity for a {}", machine.role);
    for instance_type in machine.instance_types() {
        for subnet in &machine.target.subnet_ids {
            deadline.check(&looking)?;
            let pool = CapacityPool {
                instance_type,
                subnet,
            };
            match try_pool(clients, machine, pool, user_data, deadline).await? {
                Attempt::Launched(id) => {
                    tracing::info!(%id, instance_type, %subnet, role = %machine.role, "instance launched");
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
    machine: &Machine<'_>,
    pool: CapacityPool<'_>,
    user_data: &str,
    deadline: Deadline,
) -> Result<Attempt, StageError> {
    let error = match request::send(clients, machine, pool, user_data).await {
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
            earlier_launch(clients, machine, deadline)
                .await
                .map(Attempt::Launched)
        }
        code if is_volume_quota(code) => Err(StageError::QuotaExceeded(answer())),
        code if is_restriction(code) => Err(StageError::AccountRestricted(answer())),
        code if code.starts_with("Invalid") => Err(refused(
            machine,
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
fn refused(machine: &Machine<'_>, pool: CapacityPool<'_>, answer: &str) -> StageError {
    let target = machine.target;
    let problem = match &target.base {
        Base::Snapshot { snapshot_id, .. } if answer.contains("smaller than snapshot") => format!(
            "`volume.size_gib` is {}, smaller than the base snapshot {snapshot_id} ({answer}). Set it to at least \
             that snapshot's size",
            target.volume.size_gib.0
        ),
        _ => format!(
            "EC2 rejected a {} of type {} in {}: {answer}. Correct the setting in `builder`, `volume` or \
             `architectures`",
            machine.role, pool.instance_type, pool.subnet
        ),
    };
    InvalidConfig::new(target.cache.as_str(), problem).into()
}

/// Returns the instance of an earlier launch.
async fn earlier_launch(
    clients: &Clients,
    machine: &Machine<'_>,
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
                let found = find(clients, machine, &states).await?;
                // The youngest, because an older one may belong to an attempt on a defective base.
                Ok(found.wanted.into_iter().next_back().map(|found| found.id))
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
    machine: &Machine<'_>,
    id: &InstanceId,
    deadline: Deadline,
) -> Result<Builder, StageError> {
    let visible = Deadline::after(LISTED_WITHIN);
    let waiting_for = format!("waiting for the {} to run", machine.role);
    deadline
        .poll(POLL, &waiting_for, async || {
            let Some(found) = instances::get(clients, id).await? else {
                // EC2 lists a new instance with a short delay.
                visible
                    .check("waiting for the instance to be listed")
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
