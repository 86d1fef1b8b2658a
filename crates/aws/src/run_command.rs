//! Running prepull's documents on a builder through Systems Manager's Run Command.

use std::time::Duration;

use aws_sdk_ssm::types::{CommandInvocation, CommandInvocationStatus};
use jiff::Timestamp;
use prepull_domain::{InstanceId, StageError};
use tokio::time::Instant;

use crate::builder::ensure_running;
use crate::{AwsError, Clients, Deadline, StageResult, timestamp};

/// How often a command's state is asked for.
const POLL: Duration = Duration::from_millis(500);

/// How often it is looked whether the builder still runs: the command of one that is gone stays `InProgress` until its
/// own time-out.
const LOOK_AT_BUILDER: Duration = Duration::from_secs(5);

/// How long Systems Manager tries to hand a command to the agent, in seconds: the least that it takes.
const DELIVERY_SECONDS: i32 = 30;

/// How long an agent that is not connected is given to come back before the next attempt.
const RECONNECTION: Duration = Duration::from_secs(5);

/// How often a command is sent that ends without having run to its end.
const ATTEMPTS: u32 = 3;

/// What a document's script left that ran to its end, well or badly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandOutput {
    /// The script's exit code.
    pub exit_code: i32,
    /// What it wrote to standard output, up to 24,000 characters.
    pub stdout: String,
    /// What it wrote to standard error, up to 8,000 characters.
    pub stderr: String,
}

impl CommandOutput {
    /// The last words of the script, for a message: of its standard error, or else of its standard output.
    #[must_use]
    pub fn last_words(&self) -> String {
        let words = [&self.stderr, &self.stdout]
            .into_iter()
            .find_map(|text| text.lines().rev().find(|line| !line.trim().is_empty()))
            .unwrap_or("it printed nothing");
        words.chars().take(500).collect()
    }
}

/// How a command ended.
enum Ended {
    /// The script ran to its end.
    Ran(CommandOutput),
    /// It did not run, or was cut off: Systems Manager's word for it.
    Interrupted(String),
}

/// Runs `document` on the builder and waits for its end.
///
/// Documents look at what is and do what is missing, so one that was interrupted is sent again, and so is one that the
/// stage's deadline left behind.
///
/// # Errors
/// - [`StageError::StillRunning`] when the deadline comes first,
/// - [`StageError::BuilderLost`] when the builder is gone, or runs and takes no commands.
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
                .pause(RECONNECTION, "the agent to be connected again")
                .await?;
            Ended::Interrupted("the agent is not connected".to_owned())
        };
        match ended {
            Ended::Ran(output) => return Ok(output),
            Ended::Interrupted(how) => interruption = how,
        }
        tracing::warn!(document, interruption, "a command did not run to its end");
        ensure_running(clients, instance).await?;
    }
    Err(StageError::BuilderLost {
        instance: instance.clone(),
        problem: format!(
            "it runs but carries out no commands: `{document}` ended {ATTEMPTS} times without a result, \
             the last time with `{interruption}`"
        ),
    })
}

/// Sends `document` to the builder and does not wait. None where no agent is connected.
///
/// # Errors
/// Where Systems Manager refuses.
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
    deadline
        .poll(POLL, &format!("`{document}` to end"), async || {
            if looked.elapsed() >= LOOK_AT_BUILDER {
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
        // A command is known a moment later than it was sent.
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
        // `Failed` also covers what never ran: a terminated, unsupported or undeliverable command has no exit code.
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

/// A command that was sent at some time, by whichever call of a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SentCommand {
    /// When it was sent.
    pub requested_at: Timestamp,
    /// How it stands.
    pub standing: CommandStatus,
}

/// How a command stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandStatus {
    /// It has not ended, or has ended well.
    Good,
    /// It has ended badly: with what it said, or Systems Manager's word for it.
    Bad(String),
}

/// Every time that `document` was sent to the builder, the latest first.
///
/// # Errors
/// Where Systems Manager does not answer.
pub async fn sent(
    clients: &Clients,
    instance: &InstanceId,
    document: &str,
) -> Result<Vec<SentCommand>, StageError> {
    let mut pages = clients
        .ssm
        .list_command_invocations()
        .instance_id(instance.as_str())
        .details(true)
        .into_paginator()
        .items()
        .send();
    let mut sent = Vec::new();
    while let Some(invocation) = pages.next().await {
        let invocation = invocation.or_stage_error("ssm:ListCommandInvocations")?;
        if invocation.document_name() == Some(document) {
            sent.push(SentCommand {
                requested_at: timestamp(invocation.requested_date_time()),
                standing: standing(&invocation),
            });
        }
    }
    sent.sort_by_key(|command| std::cmp::Reverse(command.requested_at));
    Ok(sent)
}

fn standing(invocation: &CommandInvocation) -> CommandStatus {
    match invocation.status() {
        Some(
            CommandInvocationStatus::Failed
            | CommandInvocationStatus::Cancelled
            | CommandInvocationStatus::TimedOut,
        ) => {
            let said = invocation
                .command_plugins()
                .iter()
                .find_map(|plugin| plugin.output())
                .unwrap_or_default()
                .trim();
            let how = invocation.status_details().unwrap_or("Failed");
            CommandStatus::Bad(format!("{how} {said}").trim_end().to_owned())
        }
        _ => CommandStatus::Good,
    }
}
