//! Takes the fingerprint of the unpacked images, which verify-snapshot compares with the snapshot.
//!
//! Systems Manager keeps the output of a command for 30 days. A later call therefore finds the fingerprint there, although
//! the builder is stopped by then. The output's line is short, so the limit of a listed output does not cut it.
//!
//! Source: Systems Manager user guide, "Understanding command statuses": the history of a command.

use prepull_aws::Clients;
use prepull_aws::run_command::{self, CommandStatus, SentCommand};
use prepull_domain::build::payload::BuilderInput;
use prepull_domain::node::{Document, FingerprintOutput, Trees};
use prepull_domain::{StageError, VerificationLevel};

use crate::{Settings, failed};

/// Maximum number of consecutive commands without a usable output.
const ATTEMPTS: usize = 3;

/// Returns the fingerprint that an earlier command has taken. `None` if the snapshot is not verified, or if the power-off
/// was requested by a version without fingerprints.
pub(crate) async fn taken(
    clients: &Clients,
    settings: &Settings,
    input: &BuilderInput,
) -> Result<Option<Trees>, StageError> {
    if input.target.verification.level == VerificationLevel::Off {
        return Ok(None);
    }
    let sent = sent(clients, settings, input).await?;
    Ok(sent.iter().find_map(trees))
}

/// Takes the fingerprint. Returns whether it is taken, or not needed.
///
/// # Errors
/// `SnapshotFailed` if the builder returns none.
pub(crate) async fn take(
    clients: &Clients,
    settings: &Settings,
    input: &BuilderInput,
) -> Result<bool, StageError> {
    let level = input.target.verification.level;
    if level == VerificationLevel::Off {
        return Ok(true);
    }
    let sent = sent(clients, settings, input).await?;
    if sent.iter().any(|command| trees(command).is_some()) {
        return Ok(true);
    }
    let is_running =
        |command: &SentCommand| command.output.is_none() && command.status == CommandStatus::Good;
    if sent.iter().any(is_running) {
        return Ok(false);
    }
    let failures = sent.iter().map_while(problem);
    if failures.clone().count() >= ATTEMPTS {
        let last = failures.take(1).next().unwrap_or_default();
        return Err(failed(
            input,
            format!("the builder took no fingerprint of its images: {last}"),
        ));
    }
    let document = Document::Fingerprint.name(&settings.name);
    let parameters = [("Level", level.to_string())];
    let id = &input.builder.instance_id;
    run_command::send(clients, id, &document, &parameters).await?;
    Ok(false)
}

/// Returns the commands so far, latest first.
async fn sent(
    clients: &Clients,
    settings: &Settings,
    input: &BuilderInput,
) -> Result<Vec<SentCommand>, StageError> {
    let document = Document::Fingerprint.name(&settings.name);
    run_command::sent(clients, &input.builder.instance_id, &document).await
}

/// Returns the fingerprint in the output of a command.
fn trees(command: &SentCommand) -> Option<Trees> {
    match command.output.as_deref()?.parse() {
        Ok(FingerprintOutput::Finished(trees)) => Some(trees),
        _ => None,
    }
}

/// Returns why a command that has ended has no usable output. `None` if it reports progress.
fn problem(command: &SentCommand) -> Option<String> {
    match (&command.status, command.output.as_deref()) {
        (CommandStatus::Bad(said), _) => Some(said.clone()),
        (CommandStatus::Good, output) => match output?.parse::<FingerprintOutput>() {
            Ok(_) => None,
            Err(error) => Some(error.to_string()),
        },
    }
}
