//! Queues the execution behind others of the same cache.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use prepull_aws::sfn::types::ExecutionStatus;
use prepull_aws::{Clients, Deadline, StageResult, timestamp};
use prepull_domain::build::payload::PlanInput;
use prepull_domain::build::queue::{self, Position, Queued};
use prepull_domain::build::trigger::ExecutionInput;
use prepull_domain::{ExecutionArn, ExecutionName, StageError};

/// Minimum and maximum poll interval.
///
/// At most one execution of each cache waits. Step Functions allows two `ListExecutions` calls per second and account, in
/// some Regions five. At the maximum interval this suffices for 60 caches.
///
/// Source of the rate: Step Functions developer guide, "Quotas".
const INTERVALS: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(30));

/// Poll interval, as a fraction of the time already waited (back-off).
const BACKOFF_DIVISOR: u32 = 10;

/// Jitter, as a fraction of the interval, so that executions that started together do not poll together.
const JITTER: u32 = 4;

/// Waits until the execution builds or ends. It never returns [`Position::Waiting`].
///
/// The list of Step Functions is eventually consistent. Two executions that start at the same instant may miss each other
/// and both build. The state machine waits a moment first, so this is rare. It costs one builder and breaks nothing, because
/// publication never goes back to an older plan.
pub(crate) async fn wait(
    clients: &Clients,
    state_machine_arn: &str,
    input: &PlanInput,
    deadline: Deadline,
) -> Result<Position, StageError> {
    let mut queue = Queue::new(clients, state_machine_arn, input);
    let own = queue.own(&input.execution).await?;
    loop {
        // Boxed for the same reason as in `Deadline::poll`.
        match queue::position(&own, &Box::pin(queue.running()).await?) {
            Position::Waiting { behind } => {
                tracing::info!(%behind, "waiting for an older build");
                let waited = Timestamp::now().duration_since(own.started_at);
                let interval = interval(&own.name, waited.unsigned_abs());
                deadline
                    .pause(interval, "waiting for an older build of the cache to end")
                    .await?;
            }
            position => return Ok(position),
        }
    }
}

/// Returns the current position of the execution.
pub(crate) async fn position_now(
    clients: &Clients,
    state_machine_arn: &str,
    input: &PlanInput,
) -> Result<Position, StageError> {
    let mut queue = Queue::new(clients, state_machine_arn, input);
    let own = queue.own(&input.execution).await?;
    Ok(queue::position(&own, &queue.running().await?))
}

/// Returns the poll interval of an execution that has waited for `waited`. The jitter comes from the name, so every call
/// returns the same.
fn interval(name: &ExecutionName, waited: Duration) -> Duration {
    let (shortest, longest) = INTERVALS;
    let interval = (waited / BACKOFF_DIVISOR).clamp(shortest, longest);
    let chance = name.as_str().bytes().fold(0_u32, |hash, byte| {
        hash.wrapping_mul(31).wrapping_add(byte.into())
    }) % 1_000;
    interval.saturating_sub(interval / JITTER * chance / 1_000)
}

struct Queue<'a> {
    clients: &'a Clients,
    state_machine_arn: &'a str,
    cache: &'a str,
    /// Whether each execution, by ARN, belongs to this cache. The input of an execution never changes.
    ///
    /// Step Functions allows ten `DescribeExecution` calls per second and account. Executions whose name shows another cache are
    /// therefore not described. Otherwise, many concurrent caches would describe each other's builds.
    ///
    /// Source of the rate: Step Functions developer guide, "Quotas"; 15 in some Regions.
    seen: HashMap<String, bool>,
}

impl<'a> Queue<'a> {
    fn new(clients: &'a Clients, state_machine_arn: &'a str, input: &'a PlanInput) -> Self {
        Self {
            clients,
            state_machine_arn,
            cache: &input.cache,
            // Its own description is already known.
            seen: HashMap::from([(input.execution.to_string(), true)]),
        }
    }

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
            started_at: timestamp(execution.start_date()),
            name: arn.name(),
        })
    }

    /// Returns the running executions of the cache, including those that debounce.
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
                let Ok(name) = found.name.parse::<ExecutionName>() else {
                    // Step Functions accepts more characters than prepull. Such an execution cannot tag its resources.
                    tracing::warn!(
                        name = found.name,
                        "execution ignored: its name is not valid in a tag"
                    );
                    continue;
                };
                let started_at = timestamp(&found.start_date);
                if name.can_belong_to(self.cache, started_at)
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
        // An execution with foreign input fails in its own plan-build.
        let cache = ExecutionInput::cache_in(execution.input().unwrap_or_default());
        let is_ours = cache.as_deref() == Some(self.cache);
        self.seen.insert(arn.to_owned(), is_ours);
        Ok(is_ours)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn name(window: u32) -> ExecutionName {
        format!("web-{window}").parse().unwrap()
    }

    #[test]
    fn poll_interval_grows_with_the_waited_time() {
        let (shortest, longest) = INTERVALS;
        let after = |seconds| interval(&name(1), Duration::from_secs(seconds));
        let intervals = [0, 30, 60, 120, 300, 100_000].map(after);
        assert!(intervals.is_sorted());
        assert_eq!(intervals[0], intervals[1]);
        assert_eq!(intervals[4], intervals[5]);
        let least = |interval: Duration| interval.saturating_sub(interval / JITTER);
        assert!((least(shortest)..=shortest).contains(&intervals[0]));
        assert!((least(longest)..=longest).contains(&intervals[5]));
    }

    #[test]
    fn poll_interval_differs_between_executions() {
        let intervals: HashSet<_> = (29_922_780..29_922_800)
            .map(|window| interval(&name(window), Duration::from_secs(60)))
            .collect();
        assert!(intervals.len() > 10, "{intervals:?}");
    }
}
