//! Executions of the state machine.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;
use prepull_aws::sfn::operation::describe_execution::DescribeExecutionOutput;
use prepull_aws::{AwsError, Clients, StageResult};
use prepull_domain::build::trigger::{ExecutionInput, TriggerRecord};
use prepull_domain::{CacheName, ExecutionArn, ExecutionName};

use crate::Error;

/// Number of executions to search for the newest one of a cache. Reading the cache of an execution takes one call.
const LOOK_BACK: usize = 200;

/// Number of concurrent `DescribeExecution` calls, far below the API's burst limit of hundreds.
const DESCRIBED_AT_ONCE: usize = 8;

/// The state machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StateMachine {
    /// Known by its ARN.
    Arn(String),
    /// Known by its name in the account and Region.
    Name(String),
}

impl StateMachine {
    /// Returns the state machine `arn`, or the one of the installation `name` if `arn` is `None`.
    #[must_use]
    pub fn named(name: &str, arn: Option<&str>) -> Self {
        match arn {
            Some(arn) => Self::Arn(arn.to_owned()),
            None => Self::Name(format!("{name}-build")),
        }
    }

    /// Returns its ARN, without a call if it is known.
    pub async fn arn(&self, clients: &Clients) -> Result<String, Error> {
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
            "prepull is not deployed here: there is no state machine `{wanted}` in {region}. Set AWS_REGION to the \
             region of the deployment, or use --name or --state-machine"
        )))
    }

    /// Starts an execution that builds `cache`.
    ///
    /// # Panics
    /// Never. The input always serializes to JSON.
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

    /// Returns the newest execution of each of `caches` among the last [`LOOK_BACK`] executions.
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
        Error::Usage(format!(
            "prepull is not deployed here: there is no state machine {machine}. Check AWS_REGION, \
             --name and --state-machine"
        ))
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

/// Returns the cache in an execution's input, or `None` if the input is not prepull's.
fn cache_of(execution: &DescribeExecutionOutput) -> Option<CacheName> {
    ExecutionInput::cache_in(execution.input()?)?.parse().ok()
}

/// Parses an execution ARN from AWS.
pub fn parse(arn: &str) -> Result<ExecutionArn, Error> {
    arn.parse()
        .map_err(|error: prepull_domain::ids::InvalidId| Error::Malformed {
            place: "an execution ARN".to_owned(),
            problem: error.to_string(),
        })
}
