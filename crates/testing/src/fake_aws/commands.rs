//! Run Command.

use std::sync::Mutex;

use prepull_aws::ssm;
use prepull_aws::ssm::operation::get_command_invocation::{
    GetCommandInvocationError, GetCommandInvocationOutput,
};
use prepull_aws::ssm::operation::send_command::{
    SendCommandError, SendCommandInput, SendCommandOutput,
};
use prepull_aws::ssm::types::Command;

use super::{FakeAws, answers, error};

impl FakeAws {
    /// Adds an agent that runs every command at once. `run` returns the result of a command with the given document.
    #[must_use]
    pub fn with_agent(
        mut self,
        run: impl FnMut(&str) -> GetCommandInvocationOutput + Send + 'static,
    ) -> Self {
        let run = Mutex::new(run);
        let send = answers!(
            self,
            ssm::send_command,
            SendCommandError,
            |state, request| {
                let document = request.document_name().unwrap_or_default();
                state.call(format!("ssm:SendCommand {document}"))?;
                let id = state.commands.len().to_string();
                let mut run = run.lock().expect("no command panics");
                state.commands.push((request.clone(), run(document)));
                let command = Command::builder().command_id(id).build();
                Ok(SendCommandOutput::builder().command(command).build())
            }
        );
        let get = answers!(
            self,
            ssm::get_command_invocation,
            GetCommandInvocationError,
            |state, request| {
                let id = request.command_id().unwrap_or_default();
                state.call(format!("ssm:GetCommandInvocation {id}"))?;
                let command = id.parse().ok().and_then(|id: usize| state.commands.get(id));
                let (_, output) = command.ok_or_else(|| error("InvocationDoesNotExist"))?;
                Ok(output.clone())
            }
        );
        self.rules.ssm.extend([send, get]);
        self
    }

    /// Returns all commands that were sent to the agent.
    #[must_use]
    pub fn commands(&self) -> Vec<SendCommandInput> {
        let state = self.state();
        let commands = state.commands.iter();
        commands.map(|(command, _)| command.clone()).collect()
    }
}
