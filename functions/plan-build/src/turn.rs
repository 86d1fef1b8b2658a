//! Waiting for the execution's turn among those of the same cache.

use std::collections::HashMap;
use std::time::Duration;

use prepull_aws::sfn::types::ExecutionStatus;
use prepull_aws::{Clients, Deadline, StageResult, timestamp};
use prepull_domain::queue::{self, Queued, Turn};
use prepull_domain::stages::PlanInput;
use prepull_domain::trigger::ExecutionInput;
use prepull_domain::{ExecutionArn, StageError, execution};

/// How often the older execution is looked after. Step Functions allows five calls of `ListExecutions` a second in an
/// account, and several executions may wait.
const INTERVAL: Duration = Duration::from_secs(3);

/// Waits until the execution builds or ends; never answers [`Turn::Wait`].
///
/// Step Functions' list is eventually consistent: two executions that start within the same instant may each miss the
/// other, and then both build. The state machine waits a moment before it comes here, so that this is rare. It costs a
/// builder and breaks nothing, since publication never goes backwards.
pub(crate) async fn wait(
    clients: &Clients,
    state_machine_arn: &str,
    input: &PlanInput,
    deadline: Deadline,
) -> Result<Turn, StageError> {
    let mut queue = Queue {
        clients,
        state_machine_arn,
        cache: &input.cache,
        // Its own need not be described twice.
        seen: HashMap::from([(input.execution.to_string(), true)]),
    };
    let own = queue.own(&input.execution).await?;
    deadline
        .poll(
            INTERVAL,
            "an older build of the cache to end",
            async || match queue::turn(&own, &queue.running().await?) {
                Turn::Wait { behind } => {
                    tracing::info!(%behind, "waiting");
                    Ok(None)
                }
                turn => Ok(Some(turn)),
            },
        )
        .await
}

struct Queue<'a> {
    clients: &'a Clients,
    state_machine_arn: &'a str,
    cache: &'a str,
    /// Whether an execution is of this cache, by its ARN. An execution's input never changes.
    ///
    /// Step Functions allows ten calls of `DescribeExecution` a second in an account, so those are not described whose name
    /// tells that they are of another cache: where many caches build at once each would describe the builds of all.
    ///
    /// Source of the rate: Step Functions developer guide, "Quotas"; 15 in some regions.
    seen: HashMap<String, bool>,
}

impl Queue<'_> {
    async fn own(&self, arn: &ExecutionArn) -> Result<Queued, StageError> {
        let execution = self
            .clients
            .sfn
            .describe_execution()
            .execution_arn(arn.as_str())
            .send()
            .await
            .or_stage_error("states:DescribeExecution")?;
        Ok(Queued {
            started_at: timestamp(Some(execution.start_date())),
            name: arn.name(),
        })
    }

    /// The running executions of the cache. One that waits for its triggers to settle is running too.
    async fn running(&mut self) -> Result<Vec<Queued>, StageError> {
        let mut pages = self
            .clients
            .sfn
            .list_executions()
            .state_machine_arn(self.state_machine_arn)
            .status_filter(ExecutionStatus::Running)
            .into_paginator()
            .send();
        let mut running = Vec::new();
        while let Some(page) = pages.next().await {
            for found in page.or_stage_error("states:ListExecutions")?.executions {
                let Ok(name) = found.name.parse() else {
                    // Step Functions takes more characters than we do; such a one cannot tag what it makes.
                    tracing::warn!(
                        name = found.name,
                        "an execution has a name that no tag can hold"
                    );
                    continue;
                };
                let started_at = timestamp(Some(&found.start_date));
                if execution::may_be_of(self.cache, &name, started_at)
                    && self.is_of_this_cache(&found.execution_arn).await?
                {
                    running.push(Queued { started_at, name });
                }
            }
        }
        Ok(running)
    }

    async fn is_of_this_cache(&mut self, arn: &str) -> Result<bool, StageError> {
        if let Some(known) = self.seen.get(arn) {
            return Ok(*known);
        }
        let execution = self
            .clients
            .sfn
            .describe_execution()
            .execution_arn(arn)
            .send()
            .await
            .or_stage_error("states:DescribeExecution")?;
        // What is no input of ours fails in its own plan-build.
        let cache = ExecutionInput::cache_in(execution.input().unwrap_or_default());
        let is_ours = cache.as_deref() == Some(self.cache);
        self.seen.insert(arn.to_owned(), is_ours);
        Ok(is_ours)
    }
}
