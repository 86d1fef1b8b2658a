//! Runs prepull's documents on a builder with Systems Manager's Run Command.

use std::time::Duration;

use aws_sdk_ssm::types::{
    CommandFilter, CommandFilterKey, CommandInvocation, CommandInvocationStatus,
};
use jiff::Timestamp;
use prepull_domain::{InstanceId, StageError, excerpt};
use tokio::time::Instant;

use crate::instances::ensure_running;
use crate::{AwsError, Clients, Deadline, Pace, StageResult, timestamp};

/// Pause before the first poll for a command. No command ends sooner.
const FIRST: Duration = Duration::from_millis(500);

/// Poll interval for a command.
const POLL: Pace = Pace::up_to(Duration::from_secs(2));

/// Interval between checks that the builder still runs. The command of a terminated builder stays `InProgress` until its
/// own timeout.
const BUILDER_CHECK: Duration = Duration::from_secs(5);

/// Delivery timeout of a command in seconds. This is the minimum that Systems Manager accepts.
const DELIVERY_SECONDS: i32 = 30;

/// Wait before the next attempt if the agent is not connected.
const RECONNECTION: Duration = Duration::from_secs(5);

/// Maximum attempts for a command that was interrupted.
const ATTEMPTS: u32 = 3;

/// The output of a script that ran to its end, with any exit code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandOutput {
    /// The script's exit code.
    pub exit_code: i32,
    /// Its standard output, up to 24,000 characters.
    pub stdout: String,
    /// Its standard error, up to 8,000 characters.
    pub stderr: String,
}

impl CommandOutput {
    /// Returns the last line of standard error for a message, or else of standard output.
    #[must_use]
    pub fn last_words(&self) -> String {
        let words = [&self.stderr, &self.stdout]
            .into_iter()
            .find_map(|text| text.lines().rev().find(|line| !line.trim().is_empty()))
            .unwrap_or("no output");
        excerpt(words, 500)
    }
}

/// The end of a command.
enum Ended {
    /// The script ran to its end.
    Ran(CommandOutput),
    /// The script did not run or was interrupted, with Systems Manager's status.
    Interrupted(String),
}

/// Runs `document` on the builder and waits for its end.
///
/// Documents inspect the current state and do only the missing steps. A document that was interrupted, or that outlived the
/// stage's deadline, is therefore sent again.
///
/// # Errors
/// - [`StageError::StillRunning`] if the deadline comes first,
/// - [`StageError::BuilderLost`] if the builder no longer runs, or runs and accepts no commands.
pub async fn run_document(
    clients: &Clients,
    instance: &InstanceId,
    document: &str,
    parameters: &[(&str, String)],
    deadline: Deadline,
) -> Result<CommandOutput, StageError> {
    let mut interruption = String::new();
    for _ in 0..ATTEMPTS {
        let sent = send(clients, instance, document, parameters).await?;
        let ended = if let Some(id) = sent {
            follow(clients, instance, document, &id, deadline).await?
        } else {
            deadline
                .pause(RECONNECTION, "waiting for the SSM agent to reconnect")
                .await?;
            Ended::Interrupted("the SSM agent is not connected".to_owned())
        };
        match ended {
            Ended::Ran(output) => return Ok(output),
            Ended::Interrupted(how) => interruption = how,
        }
        tracing::warn!(document, interruption, "command interrupted");
        ensure_running(clients, instance).await?;
    }
    Err(StageError::BuilderLost {
        instance: instance.clone(),
        problem: format!(
            "it runs but executes no commands: `{document}` ended {ATTEMPTS} times without a result, the last time \
             with `{interruption}`"
        ),
    })
}

/// Sends `document` to the builder and does not wait. `None` if no agent is connected.
///
/// # Errors
/// If Systems Manager rejects the call.
pub async fn send(
    clients: &Clients,
    instance: &InstanceId,
    document: &str,
    parameters: &[(&str, String)],
) -> Result<Option<String>, StageError> {
    let mut call = clients
        .ssm
        .send_command()
        .document_name(document)
        .instance_ids(instance.as_str())
        .timeout_seconds(DELIVERY_SECONDS);
    for (name, value) in parameters {
        call = call.parameters(*name, vec![value.clone()]);
    }
    match call.send().await {
        Ok(answer) => Ok(answer.command.and_then(|command| command.command_id)),
        Err(error) if error.aws_code() == Some("InvalidInstanceId") => Ok(None),
        Err(error) => Err(error.into_stage_error("ssm:SendCommand")),
    }
}

async fn follow(
    clients: &Clients,
    instance: &InstanceId,
    document: &str,
    command_id: &str,
    deadline: Deadline,
) -> Result<Ended, StageError> {
    let mut looked = Instant::now();
    let waiting_for = format!("waiting for `{document}` to end");
    deadline.pause(FIRST, &waiting_for).await?;
    deadline
        .poll(POLL, &waiting_for, async || {
            if looked.elapsed() >= BUILDER_CHECK {
                looked = Instant::now();
                ensure_running(clients, instance).await?;
            }
            ended(clients, instance, command_id).await
        })
        .await
}

async fn ended(
    clients: &Clients,
    instance: &InstanceId,
    command_id: &str,
) -> Result<Option<Ended>, StageError> {
    let answer = clients
        .ssm
        .get_command_invocation()
        .command_id(command_id)
        .instance_id(instance.as_str())
        .send()
        .await;
    let answer = match answer {
        Ok(answer) => answer,
        // Systems Manager lists a new command with a short delay.
        Err(error) if error.aws_code() == Some("InvocationDoesNotExist") => return Ok(None),
        Err(error) => return Err(error.into_stage_error("ssm:GetCommandInvocation")),
    };
    let output = || CommandOutput {
        exit_code: answer.response_code(),
        stdout: answer
            .standard_output_content()
            .unwrap_or_default()
            .to_owned(),
        stderr: answer
            .standard_error_content()
            .unwrap_or_default()
            .to_owned(),
    };
    Ok(match answer.status() {
        Some(CommandInvocationStatus::Success) => Some(Ended::Ran(output())),
        // `Failed` also covers commands that never ran. A terminated or undeliverable command has no exit code.
        Some(CommandInvocationStatus::Failed) if answer.response_code() > 0 => {
            Some(Ended::Ran(output()))
        }
        Some(
            CommandInvocationStatus::Pending
            | CommandInvocationStatus::InProgress
            | CommandInvocationStatus::Delayed
            | CommandInvocationStatus::Cancelling,
        )
        | None => None,
        Some(status) => Some(Ended::Interrupted(
            answer
                .status_details()
                .unwrap_or(status.as_str())
                .to_owned(),
        )),
    })
}

/// A command that any call of a stage has sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SentCommand {
    /// The time of the request.
    pub requested_at: Timestamp,
    /// Its status.
    pub status: CommandStatus,
    /// Its standard output, up to 2,500 characters, if it has succeeded.
    ///
    /// Source: Systems Manager API reference, `CommandPlugin`.
    pub output: Option<String>,
}

/// The status of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandStatus {
    /// It runs, or it has succeeded.
    Good,
    /// It has failed, with its last output or Systems Manager's status.
    Bad(String),
}

/// Returns all commands with `document` on the builder, latest first.
///
/// # Errors
/// If Systems Manager does not answer.
pub async fn sent(
    clients: &Clients,
    instance: &InstanceId,
    document: &str,
) -> Result<Vec<SentCommand>, StageError> {
    let mut pages = clients
        .ssm
        .list_command_invocations()
        .instance_id(instance.as_str())
        .filters(of_document(document))
        .details(true)
        .into_paginator()
        .items()
        .send();
    let mut sent = Vec::new();
    while let Some(invocation) = pages.next().await {
        let invocation = invocation.or_stage_error("ssm:ListCommandInvocations")?;
        sent.push(SentCommand {
            requested_at: invocation
                .requested_date_time()
                .map_or_else(Timestamp::now, timestamp),
            status: command_status(&invocation),
            output: (invocation.status() == Some(&CommandInvocationStatus::Success))
                .then(|| plugin_output(&invocation)),
        });
    }
    sent.sort_by_key(|command| std::cmp::Reverse(command.requested_at));
    Ok(sent)
}

fn of_document(name: &str) -> CommandFilter {
    CommandFilter::builder()
        .key(CommandFilterKey::DocumentName)
        .value(name)
        .build()
        .expect("both key and value are given")
}

fn plugin_output(invocation: &CommandInvocation) -> String {
    let mut plugins = invocation.command_plugins().iter();
    let output = plugins.find_map(|plugin| plugin.output());
    output.unwrap_or_default().to_owned()
}

fn command_status(invocation: &CommandInvocation) -> CommandStatus {
    match invocation.status() {
        Some(
            CommandInvocationStatus::Failed
            | CommandInvocationStatus::Cancelled
            | CommandInvocationStatus::TimedOut,
        ) => {
            let said = plugin_output(invocation);
            let said = said.trim();
            let how = invocation.status_details().unwrap_or("Failed");
            CommandStatus::Bad(format!("{how} {said}").trim_end().to_owned())
        }
        _ => CommandStatus::Good,
    }
}
