//! Step Functions.

use prepull_aws::sfn::operation::describe_execution::{
    DescribeExecutionError, DescribeExecutionOutput,
};
use prepull_aws::sfn::operation::list_executions::{ListExecutionsError, ListExecutionsOutput};
use prepull_aws::sfn::operation::list_state_machines::{
    ListStateMachinesError, ListStateMachinesOutput,
};
use prepull_aws::sfn::operation::start_execution::{StartExecutionError, StartExecutionOutput};
use prepull_aws::sfn::types::{
    ExecutionListItem, ExecutionStatus, StateMachineListItem, StateMachineType,
};
use prepull_aws::{DateTime, sfn};

use super::{FakeAws, answers, error};
use crate::STATE_MACHINE_ARN;

/// Why the SDK accepts an output.
const COMPLETE: &str = "all required fields are set";

/// Returns the ARN of an execution.
#[must_use]
pub fn execution_arn(name: &str) -> String {
    let executions = STATE_MACHINE_ARN.replace(":stateMachine:", ":execution:");
    format!("{executions}:{name}")
}

fn list_item(execution: &DescribeExecutionOutput) -> ExecutionListItem {
    ExecutionListItem::builder()
        .execution_arn(execution.execution_arn())
        .state_machine_arn(execution.state_machine_arn())
        .name(execution.name().unwrap_or_default())
        .status(execution.status().clone())
        .start_date(*execution.start_date())
        .set_stop_date(execution.stop_date().copied())
        .build()
        .expect(COMPLETE)
}

impl FakeAws {
    /// Adds the state machine with `executions`. It lists those that started last first.
    #[must_use]
    pub fn with_executions(
        mut self,
        executions: impl IntoIterator<Item = DescribeExecutionOutput>,
    ) -> Self {
        self.state().executions.extend(executions);
        let machines = answers!(
            self,
            sfn::list_state_machines,
            ListStateMachinesError,
            |state, _request| {
                state.call("states:ListStateMachines")?;
                let machine = StateMachineListItem::builder()
                    .name("prepull-build")
                    .state_machine_arn(STATE_MACHINE_ARN)
                    .r#type(StateMachineType::Standard)
                    .creation_date(DateTime::from_secs(0))
                    .build()
                    .expect(COMPLETE);
                let machines = ListStateMachinesOutput::builder().state_machines(machine);
                Ok(machines.build().expect(COMPLETE))
            }
        );
        let list = answers!(
            self,
            sfn::list_executions,
            ListExecutionsError,
            |state, request| {
                state.call("states:ListExecutions")?;
                let mut found: Vec<_> = state.executions.iter().collect();
                found.retain(|execution| {
                    request
                        .status_filter()
                        .is_none_or(|status| status == execution.status())
                });
                found.sort_by_key(|execution| std::cmp::Reverse(*execution.start_date()));
                Ok(ListExecutionsOutput::builder()
                    .set_executions(Some(found.into_iter().map(list_item).collect()))
                    .build()
                    .expect(COMPLETE))
            }
        );
        let describe = answers!(
            self,
            sfn::describe_execution,
            DescribeExecutionError,
            |state, request| {
                let arn = request.execution_arn().unwrap_or_default();
                state.call(format!("states:DescribeExecution {arn}"))?;
                let mut executions = state.executions.iter();
                executions
                    .find(|execution| execution.execution_arn() == arn)
                    .cloned()
                    .ok_or_else(|| error("ExecutionDoesNotExist"))
            }
        );
        let start = answers!(
            self,
            sfn::start_execution,
            StartExecutionError,
            |state, request| {
                let name = request.name().unwrap_or_default();
                state.call(format!("states:StartExecution {name}"))?;
                let started = DescribeExecutionOutput::builder()
                    .execution_arn(execution_arn(name))
                    .set_state_machine_arn(request.state_machine_arn.clone())
                    .name(name)
                    .status(ExecutionStatus::Running)
                    .start_date(DateTime::from_secs(0))
                    .set_input(request.input.clone())
                    .build()
                    .expect(COMPLETE);
                let answer = StartExecutionOutput::builder()
                    .execution_arn(started.execution_arn())
                    .start_date(*started.start_date());
                state.executions.insert(0, started);
                Ok(answer.build().expect(COMPLETE))
            }
        );
        self.rules.sfn.extend([machines, list, describe, start]);
        self
    }

    /// Returns all executions, newest first.
    #[must_use]
    pub fn executions(&self) -> Vec<DescribeExecutionOutput> {
        self.state().executions.clone()
    }
}
