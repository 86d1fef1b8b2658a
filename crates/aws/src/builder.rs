//! Reads the state of a builder from EC2.

use aws_sdk_ec2::types::{Filter, Instance, InstanceStateName, Reservation};
use prepull_domain::stages::{Builder, Target};
use prepull_domain::{InstanceId, StageError, VolumeId, names};

use crate::{AwsError, Clients, StageResult, tag_filter, timestamp};

/// Code of the state reason after the operating system has powered the instance off.
///
/// Source: EC2 API reference, `StateReason`. After a stop through the API the code is `Client.UserInitiatedShutdown`.
const POWERED_ITSELF_OFF: &str = "Client.InstanceInitiatedShutdown";

/// A builder as EC2 sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuilderInstance {
    /// Its ID, type and launch time.
    pub builder: Builder,
    /// Its state.
    pub state: InstanceStateName,
    /// The code of the state reason, if EC2 gives one.
    pub reason_code: Option<String>,
    /// The state reason, if EC2 gives one.
    pub reason: Option<String>,
    /// Bottlerocket's data volume.
    pub data_volume: Option<VolumeId>,
}

impl BuilderInstance {
    /// Returns the builders of `target` in one of `states`, oldest first, so that all callers choose the same one.
    ///
    /// # Errors
    /// If EC2 does not answer.
    pub async fn find(
        clients: &Clients,
        target: &Target,
        states: &[InstanceStateName],
    ) -> Result<Vec<Self>, StageError> {
        let states = Filter::builder()
            .name("instance-state-name")
            .set_values(Some(states.iter().map(ToString::to_string).collect()))
            .build();
        let answer = clients
            .ec2
            .describe_instances()
            .filters(tag_filter(names::TAG_EXECUTION, target.execution.as_str()))
            .filters(tag_filter(
                names::TAG_ARCHITECTURE,
                target.architecture.as_str(),
            ))
            .filters(states)
            .send()
            .await
            .or_stage_error("ec2:DescribeInstances")?;
        let mut found: Vec<_> = answer
            .reservations()
            .iter()
            .flat_map(Reservation::instances)
            .filter_map(Self::of)
            .collect();
        found.sort_by(|a, b| {
            let key = |found: &Self| (found.builder.launched_at, found.builder.instance_id.clone());
            key(a).cmp(&key(b))
        });
        Ok(found)
    }

    /// Returns the instance `id`, or `None` if EC2 does not list it (yet or any longer).
    ///
    /// # Errors
    /// If EC2 does not answer.
    pub async fn look(clients: &Clients, id: &InstanceId) -> Result<Option<Self>, StageError> {
        let answer = clients
            .ec2
            .describe_instances()
            .instance_ids(id.as_str())
            .send()
            .await;
        match answer {
            Ok(answer) => Ok(answer
                .reservations()
                .iter()
                .flat_map(Reservation::instances)
                .find_map(Self::of)),
            Err(error) if error.aws_code() == Some("InvalidInstanceID.NotFound") => Ok(None),
            Err(error) => Err(error.into_stage_error("ec2:DescribeInstances")),
        }
    }

    /// Parses `instance`. `None` if it has no ID, which EC2 always sets.
    #[must_use]
    pub fn of(instance: &Instance) -> Option<Self> {
        let data_volume = instance
            .block_device_mappings()
            .iter()
            .find(|mapping| mapping.device_name() == Some(names::DATA_DEVICE))
            .and_then(|mapping| mapping.ebs()?.volume_id()?.parse().ok());
        let reason = instance.state_reason();
        Some(Self {
            builder: Builder {
                instance_id: instance.instance_id()?.parse().ok()?,
                instance_type: instance
                    .instance_type()
                    .map(|instance_type| instance_type.as_str().to_owned())
                    .unwrap_or_default(),
                launched_at: timestamp(instance.launch_time()),
            },
            state: instance.state()?.name()?.clone(),
            reason_code: reason
                .and_then(|reason| reason.code())
                .map(ToOwned::to_owned),
            reason: reason
                .and_then(|reason| reason.message())
                .map(ToOwned::to_owned),
            data_volume,
        })
    }

    /// Whether the instance's own operating system stopped it, and not the API.
    #[must_use]
    pub fn powered_itself_off(&self) -> bool {
        self.reason_code.as_deref() == Some(POWERED_ITSELF_OFF)
    }

    /// Returns the error of a stage that needs the builder in another state.
    #[must_use]
    pub fn lost(&self) -> StageError {
        let reason = self
            .reason
            .as_deref()
            .map(|reason| format!(" ({reason})"))
            .unwrap_or_default();
        StageError::BuilderLost {
            instance: self.builder.instance_id.clone(),
            problem: format!("it is {}{reason}", self.state),
        }
    }
}

/// Checks that the builder `id` runs.
///
/// # Errors
/// [`StageError::BuilderLost`] if it does not.
pub async fn ensure_running(clients: &Clients, id: &InstanceId) -> Result<(), StageError> {
    match BuilderInstance::look(clients, id).await? {
        Some(found) if found.state == InstanceStateName::Running => Ok(()),
        Some(found) => Err(found.lost()),
        None => Err(not_known(id)),
    }
}

/// Returns the error of a stage whose builder EC2 does not list.
#[must_use]
pub fn not_known(id: &InstanceId) -> StageError {
    StageError::BuilderLost {
        instance: id.clone(),
        problem: "EC2 does not list it".to_owned(),
    }
}
