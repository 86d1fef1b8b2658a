//! EC2 instances: builders, verifiers and orphans.

use aws_sdk_ec2::types::{Filter, Instance, InstanceStateName, Reservation, Tag};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use prepull_domain::build::payload::Builder;
use prepull_domain::{InstanceId, Launched, StageError, VolumeId, names};

use crate::{AwsError, Clients, StageResult, tag_value, timestamp};

/// Code of the state reason after the operating system has powered the instance off.
///
/// Source: EC2 API reference, `StateReason`. After a stop through the API the code is `Client.UserInitiatedShutdown`.
const POWERED_ITSELF_OFF: &str = "Client.InstanceInitiatedShutdown";

/// Code of the state reason after a launch that EC2 could not complete. The usual cause is a KMS key that the caller may not
/// use. `RunInstances` itself succeeds, because EC2 creates the volumes later.
///
/// Source: AWS re:Post knowledge center, "kms-iam-ec2-permission". The role that launches needs `kms:CreateGrant`.
const CLIENT_ERROR_ON_LAUNCH: &str = "Client.InternalError";

/// EC2's error code for an instance that does not exist.
const NOT_FOUND: &str = "InvalidInstanceID.NotFound";

/// An instance as EC2 describes it.
#[derive(Debug, Clone, PartialEq)]
pub struct InstanceRecord {
    /// Its ID.
    pub id: InstanceId,
    /// Its type.
    pub instance_type: String,
    /// Its launch time, if EC2 returns one.
    pub launched_at: Option<Timestamp>,
    /// Its state.
    pub state: InstanceStateName,
    /// The code of the state reason, if EC2 returns one.
    pub reason_code: Option<String>,
    /// The state reason, if EC2 returns one.
    pub reason: Option<String>,
    /// Bottlerocket's data volume.
    pub data_volume: Option<VolumeId>,
    /// Its tags.
    pub tags: Vec<Tag>,
}

/// Returns all instances that match `filters`, in any state.
///
/// # Errors
/// If EC2 does not answer.
pub async fn find(
    clients: &Clients,
    filters: Vec<Filter>,
) -> Result<Vec<InstanceRecord>, StageError> {
    let request = clients.ec2.describe_instances().set_filters(Some(filters));
    let mut pages = request.into_paginator().send();
    let mut found = Vec::new();
    while let Some(page) = pages.next().await {
        let page = page.or_stage_error("ec2:DescribeInstances")?;
        let reservations = page.reservations.unwrap_or_default().into_iter();
        found.extend(
            reservations
                .flat_map(|reservation| reservation.instances.unwrap_or_default())
                .filter_map(|instance| InstanceRecord::parse(&instance)),
        );
    }
    Ok(found)
}

/// Returns the instance `id`, or `None` if EC2 does not list it (yet or any longer).
///
/// # Errors
/// If EC2 does not answer.
pub async fn get(clients: &Clients, id: &InstanceId) -> Result<Option<InstanceRecord>, StageError> {
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
            .find_map(InstanceRecord::parse)),
        Err(error) if error.aws_code() == Some(NOT_FOUND) => Ok(None),
        Err(error) => Err(error.into_stage_error("ec2:DescribeInstances")),
    }
}

/// Terminates the instance `id`. EC2 deletes its volumes when it has terminated. Returns whether the instance exists.
///
/// # Errors
/// If EC2 rejects the call.
pub async fn terminate(clients: &Clients, id: &InstanceId) -> Result<bool, StageError> {
    let request = clients.ec2.terminate_instances().instance_ids(id.as_str());
    match request.send().await {
        Ok(_) => Ok(true),
        Err(error) if error.aws_code() == Some(NOT_FOUND) => Ok(false),
        Err(error) => Err(error.into_stage_error("ec2:TerminateInstances")),
    }
}

/// Checks that the builder `id` runs.
///
/// # Errors
/// The error of [`InstanceRecord::lost`] if it does not.
pub async fn ensure_running(clients: &Clients, id: &InstanceId) -> Result<(), StageError> {
    match get(clients, id).await? {
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

/// Returns the latest console output of the instance `id`. EC2 keeps the last 64 KB.
///
/// # Errors
/// If EC2 does not answer, or the instance type is not based on Nitro.
pub async fn console(clients: &Clients, id: &InstanceId) -> Result<String, StageError> {
    const CALL: &str = "ec2:GetConsoleOutput";
    let answer = clients
        .ec2
        .get_console_output()
        .instance_id(id.as_str())
        .latest(true)
        .send()
        .await
        .or_stage_error(CALL)?;
    let output = BASE64
        .decode(answer.output().unwrap_or_default())
        .map_err(|error| StageError::AwsFailed {
            call: CALL,
            message: format!("the answer is not Base64: {error}"),
        })?;
    Ok(String::from_utf8_lossy(&output).into_owned())
}

impl InstanceRecord {
    /// Parses `instance`. `None` if it has no ID, which EC2 always sets.
    #[must_use]
    pub fn parse(instance: &Instance) -> Option<Self> {
        let data_volume = instance
            .block_device_mappings()
            .iter()
            .find(|mapping| mapping.device_name() == Some(names::DATA_DEVICE))
            .and_then(|mapping| mapping.ebs()?.volume_id()?.parse().ok());
        let reason = instance.state_reason();
        let state = instance.state().and_then(|state| state.name()).cloned();
        Some(Self {
            id: instance.instance_id()?.parse().ok()?,
            instance_type: instance
                .instance_type()
                .map(|instance_type| instance_type.as_str().to_owned())
                .unwrap_or_default(),
            launched_at: instance.launch_time().map(timestamp),
            state: state.unwrap_or_else(|| InstanceStateName::from("unknown")),
            reason_code: reason
                .and_then(|reason| reason.code())
                .map(ToOwned::to_owned),
            reason: reason
                .and_then(|reason| reason.message())
                .map(ToOwned::to_owned),
            data_volume,
            tags: instance.tags().to_vec(),
        })
    }

    /// Returns the builder that this instance is. If EC2 returns no launch time, the builder counts as just launched.
    #[must_use]
    pub fn into_builder(self) -> Builder {
        Builder {
            instance_id: self.id,
            instance_type: self.instance_type,
            launched_at: self.launched_at.unwrap_or_else(Timestamp::now),
        }
    }

    /// Returns the value of the tag `key`.
    #[must_use]
    pub fn tag(&self, key: &str) -> Option<&str> {
        tag_value(&self.tags, key)
    }

    /// Returns whether the instance's own operating system stopped it, and not the API.
    #[must_use]
    pub fn powered_itself_off(&self) -> bool {
        self.reason_code.as_deref() == Some(POWERED_ITSELF_OFF)
    }

    /// Returns the error of a stage that needs the instance in another state. It is for a builder. Callers with a verifier
    /// convert it.
    #[must_use]
    pub fn lost(&self) -> StageError {
        let reason = self
            .reason
            .as_deref()
            .map(|reason| format!(" ({reason})"))
            .unwrap_or_default();
        let (instance, problem) = (self.id.clone(), format!("it is {}{reason}", self.state));
        if self.reason_code.as_deref() == Some(CLIENT_ERROR_ON_LAUNCH) {
            StageError::KeyUnusable {
                launched: Launched::Builder,
                instance,
                problem,
            }
        } else {
            StageError::BuilderLost { instance, problem }
        }
    }
}
