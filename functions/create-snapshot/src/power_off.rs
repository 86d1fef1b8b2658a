//! Turns a running builder into a stopped one with a scrubbed data volume.

use std::cell::Cell;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use prepull_aws::ec2::types::InstanceStateName;
use prepull_aws::instances::{self, not_known};
use prepull_aws::run_command::{self, CommandStatus, SentCommand};
use prepull_aws::{Clients, Deadline};
use prepull_domain::build::payload::BuilderInput;
use prepull_domain::node::Document;
use prepull_domain::{InstanceId, StageError, VolumeId, excerpt};
use tokio::time::Instant;

use crate::{POLL, Settings, failed, fingerprint};

/// Maximum time for a builder to power off after the request. The scrub waits at most 60 s for each of two host containers
/// (their `TimeoutStopSec`) and 90 s for any other unit (systemd's default), and the shutdown waits as long again.
const OFF_WITHIN: SignedDuration = SignedDuration::from_mins(8);

/// Minimum interval between two looks at the commands of a builder.
const COMMANDS_INTERVAL: Duration = Duration::from_secs(3);

/// Interval between two looks at the console of a builder that does not power off.
const CONSOLE_INTERVAL: SignedDuration = SignedDuration::from_secs(15);

/// Start of the scrub's lines on the console. systemd sets the identifier, which the document requests.
const SCRUB_LINE: &str = "prepull-power-off[";

/// Start of the scrub's last line. The rest is systemd's `SERVICE_RESULT`, for example `exit-code`.
const SCRUB_RESULT: &str = "scrub ended: ";

/// Maximum number of power-off commands if the command fails.
const ATTEMPTS: usize = 3;

/// Powers the builder off and returns its data volume. The crate's documentation explains why the volume is scrubbed.
pub(crate) async fn scrubbed_volume(
    clients: &Clients,
    settings: &Settings,
    input: &BuilderInput,
    deadline: Deadline,
) -> Result<VolumeId, StageError> {
    let id = &input.builder.instance_id;
    let document = Document::PowerOff.name(&settings.name);
    let console_read_at = Cell::new(Timestamp::MIN);
    let commands_read_at = Cell::new(None);
    let is_requested = Cell::new(false);
    deadline
        .poll(POLL, "waiting for the builder to power off", async || {
            let Some(builder) = instances::get(clients, id).await? else {
                return Err(not_known(id));
            };
            match builder.state {
                // Without its agent, the builder cannot receive the command.
                InstanceStateName::Running | InstanceStateName::Stopping
                    if Timestamp::now() > input.target.give_up_at =>
                {
                    Err(failed(
                        input,
                        format!(
                            "the builder is still {} at the build's timeout. Start the build again",
                            builder.state
                        ),
                    ))
                }
                InstanceStateName::Running => {
                    let is_recent = |read_at: Instant| read_at.elapsed() < COMMANDS_INTERVAL;
                    // Until the request, every look can bring the fingerprint to its end.
                    if is_requested.get() && commands_read_at.get().is_some_and(is_recent) {
                        return Ok(None);
                    }
                    commands_read_at.set(Some(Instant::now()));
                    let now = Timestamp::now();
                    let sent = run_command::sent(clients, id, &document).await?;
                    let waits_since = sent
                        .first()
                        .map(|last| last.requested_at.max(console_read_at.get()));
                    if waits_since.is_some_and(|since| now.duration_since(since) >= CONSOLE_INTERVAL) {
                        console_read_at.set(now);
                        if let Some(reason) = scrub_failure(clients, id).await {
                            return Err(not_off(input, &format!("its scrub failed: {reason}")));
                        }
                    }
                    // The fingerprint cannot be taken later.
                    if sent.is_empty() && !fingerprint::take(clients, settings, input).await? {
                        return Ok(None);
                    }
                    if must_send(input, &sent, now)? {
                        run_command::send(clients, id, &document, &[]).await?;
                    }
                    is_requested.set(true);
                    Ok(None)
                }
                InstanceStateName::Stopping => Ok(None),
                InstanceStateName::Stopped => {
                    let is_requested = is_requested.get()
                        || !run_command::sent(clients, id, &document).await?.is_empty();
                    if !(builder.powered_itself_off() && is_requested) {
                        return Err(failed(
                            input,
                            format!(
                                "something other than its scrub stopped the builder ({}), so its volume may hold \
                                 secrets. Start the build again",
                                builder.reason.as_deref().unwrap_or("EC2 gives no reason")
                            ),
                        ));
                    }
                    let volume = builder.data_volume.ok_or_else(|| {
                        failed(input, "the builder has no data volume".to_owned())
                    })?;
                    Ok(Some(volume))
                }
                _ => Err(builder.lost()),
            }
        })
        .await
}

/// Returns whether a running builder needs a (further) power-off command. `sent` has the commands so far, latest first.
fn must_send(
    input: &BuilderInput,
    sent: &[SentCommand],
    now: Timestamp,
) -> Result<bool, StageError> {
    let (Some(last), Some(first)) = (sent.first(), sent.last()) else {
        return Ok(true);
    };
    if now.duration_since(first.requested_at) > OFF_WITHIN {
        let cause = match &last.status {
            CommandStatus::Good => "its scrub did not finish".to_owned(),
            CommandStatus::Bad(said) => format!("its scrub failed: {said}"),
        };
        return Err(not_off(input, &cause));
    }
    // The command starts a unit that stops the agent, so the report may be lost. After a few attempts, only the power-off
    // itself counts.
    Ok(matches!(last.status, CommandStatus::Bad(_)) && sent.len() < ATTEMPTS)
}

fn not_off(input: &BuilderInput, cause: &str) -> StageError {
    failed(
        input,
        format!("the builder did not power itself off: {cause}"),
    )
}

/// Returns the reason from the console if the scrub has failed. The builder's agent has ended by then.
async fn scrub_failure(clients: &Clients, id: &InstanceId) -> Option<String> {
    match instances::console(clients, id).await {
        Ok(console) => failure_on_console(&console),
        Err(error) => {
            tracing::warn!(%error, "console of the builder not read");
            None
        }
    }
}

fn failure_on_console(console: &str) -> Option<String> {
    let mut lines: Vec<_> = console
        .lines()
        .filter_map(|line| line.split_once(SCRUB_LINE)?.1.split_once("]: "))
        .map(|(_pid, message)| message.trim())
        .collect();
    let result = lines.pop()?.strip_prefix(SCRUB_RESULT)?;
    let cause = lines.last().map_or(result, |last| *last);
    (result != "success").then(|| excerpt(cause, 300))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn console_of_a_failed_scrub_yields_its_last_words() {
        let console = "[    3.1] systemd[1]: Started.\n\
             [   71.5] prepull-power-off[812]: find: cannot delete '/var/lib/kubelet/a': Permission denied\n\
             [   71.6] prepull-power-off[813]: scrub ended: exit-code\r\n[   72.0] kernel: eth0\n";
        assert_eq!(
            failure_on_console(console).as_deref(),
            Some("find: cannot delete '/var/lib/kubelet/a': Permission denied")
        );
        let silent = "prepull-power-off[813]: scrub ended: timeout\n";
        assert_eq!(failure_on_console(silent).as_deref(), Some("timeout"));
    }

    #[test]
    fn console_of_a_running_or_successful_scrub_yields_nothing() {
        for console in [
            "",
            "kernel: scrub ended: exit-code",
            "prepull-power-off[812]: shred: /local/a: pass 1/1",
            "prepull-power-off[812]: scrub ended: success",
        ] {
            assert_eq!(failure_on_console(console), None, "{console}");
        }
    }
}
