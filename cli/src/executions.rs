//! Executions of the state machine.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;
use prepull_aws::sfn::operation::describe_execution::DescribeExecutionOutput;
use prepull_aws::{AwsError, Clients, StageResult};
use prepull_domain::trigger::{ExecutionInput, TriggerRecord};
use prepull_domain::{CacheName, ExecutionArn, ExecutionName};

use crate::Error;

/// How many executions are looked at for the newest one of a cache. An execution tells its cache only when it is
/// described, which is one call each.
const LOOK_BACK: usize = 200;

/// How many executions are described at once, far below the API's burst of hundreds.
const DESCRIBED_AT_ONCE: usize = 8;

/// The state machine to talk to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StateMachine {
    /// By its ARN.
    Arn(String),
    /// By its name, among those of the account and region.
    Name(String),
}

impl StateMachine {
    /// The state machine `arn`, or the one of the installation called `name` where there is none.
    #[must_use]
    pub fn named(name: &str, arn: Option<&str>) -> Self {
        match arn {
            Some(arn) => Self::Arn(arn.to_owned()),
            None => Self::Name(format!("{name}-build")),
        }
    }

    async fn arn(&self, clients: &Clients) -> Result<String, Error> {
        let wanted = match self {
            Self::Arn(arn) => return Ok(arn.clone()),
            Self::Name(name) => name,
        };
        let mut machines = clients
            .sfn
            .list_state_machines()
            .into_paginator()
            .items()
            .send();
        while let Some(machine) = machines.next().await {
            let machine = machine.or_stage_error("states:ListStateMachines")?;
            if machine.name() == wanted {
                return Ok(machine.state_machine_arn);
            }
        }
        let region = clients
            .region()
            .map_or_else(|| "this region".to_owned(), |region| region.to_string());
        Err(Error::Usage(format!(
            "there is no state machine `{wanted}` in {region}: set AWS_REGION to where prepull is deployed, \
             or say which with --name or --state-machine"
        )))
    }

    /// Starts an execution that builds `cache`.
    ///
    /// # Panics
    /// Never: its input can always be written as JSON.
    pub async fn start(
        &self,
        clients: &Clients,
        cache: &CacheName,
        name: &ExecutionName,
        now: Timestamp,
    ) -> Result<ExecutionArn, Error> {
        let input = ExecutionInput {
            cache: cache.to_string(),
            debounce_seconds: None,
            trigger: Some(TriggerRecord::Manual { at: now }),
        };
        let input = serde_json::to_string(&input).expect("strings and numbers always serialize");
        let started = clients
            .sfn
            .start_execution()
            .state_machine_arn(self.arn(clients).await?)
            .name(name.as_str())
            .input(input)
            .send()
            .await;
        let started = match started {
            Err(error) if error.aws_code() == Some("StateMachineDoesNotExist") => {
                return Err(self.unknown());
            }
            other => other.or_stage_error("states:StartExecution")?,
        };
        parse(&started.execution_arn)
    }

    /// The newest execution of each of `caches`, as far as the last [`LOOK_BACK`] executions hold one.
    pub async fn newest(
        &self,
        clients: &Clients,
        mut caches: BTreeSet<CacheName>,
    ) -> Result<BTreeMap<CacheName, DescribeExecutionOutput>, Error> {
        let mut listed = clients
            .sfn
            .list_executions()
            .state_machine_arn(self.arn(clients).await?)
            .into_paginator()
            .items()
            .send();
        let mut arns = Vec::new();
        while let Some(execution) = listed.next().await {
            let execution = execution.map_err(|error| match error.aws_code() {
                Some("StateMachineDoesNotExist") => self.unknown(),
                _ => error.into_stage_error("states:ListExecutions").into(),
            })?;
            arns.push(execution.execution_arn);
            if arns.len() == LOOK_BACK {
                break;
            }
        }
        let mut executions = stream::iter(arns)
            .map(|arn| describe(clients, arn))
            .buffered(DESCRIBED_AT_ONCE);
        let mut newest = BTreeMap::new();
        while !caches.is_empty() {
            let Some(execution) = executions.try_next().await? else {
                break;
            };
            if let Some(cache) = cache_of(&execution).filter(|cache| caches.remove(cache)) {
                newest.insert(cache, execution);
            }
        }
        Ok(newest)
    }

    fn unknown(&self) -> Error {
        let (Self::Arn(machine) | Self::Name(machine)) = self;
        Error::Usage(format!("there is no state machine {machine}"))
    }
}

async fn describe(clients: &Clients, arn: String) -> Result<DescribeExecutionOutput, Error> {
    let described = clients
        .sfn
        .describe_execution()
        .execution_arn(arn)
        .send()
        .await;
    Ok(described.or_stage_error("states:DescribeExecution")?)
}

/// The cache that an execution's input names; none where it is no input of ours.
fn cache_of(execution: &DescribeExecutionOutput) -> Option<CacheName> {
    ExecutionInput::cache_in(execution.input()?)?.parse().ok()
}

/// The ARN of an execution as AWS gave it.
pub fn parse(arn: &str) -> Result<ExecutionArn, Error> {
    arn.parse()
        .map_err(|error: prepull_domain::ids::InvalidId| Error::Malformed {
            place: "an execution".to_owned(),
            problem: error.to_string(),
        })
}
