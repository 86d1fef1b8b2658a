//! Turns a running builder into a stopped one with a scrubbed data volume.

use jiff::{SignedDuration, Timestamp};
use prepull_aws::ec2::types::InstanceStateName;
use prepull_aws::instances::{self, not_known};
use prepull_aws::run_command::{self, CommandStatus, SentCommand};
use prepull_aws::{Clients, Deadline};
use prepull_domain::build::payload::BuilderInput;
use prepull_domain::node::Document;
use prepull_domain::{StageError, VolumeId};

use crate::{POLL, Settings, failed};

/// Maximum time for a builder to power off after the request. Stopping containers takes at most 60 s (`TimeoutStopSec` of
/// Bottlerocket's host containers) and any other unit 90 s (systemd's default).
const OFF_WITHIN: SignedDuration = SignedDuration::from_mins(3);

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
                    let sent = run_command::sent(clients, id, &document).await?;
                    if must_send(input, &sent, Timestamp::now())? {
                        run_command::send(clients, id, &document, &[]).await?;
                    }
                    Ok(None)
                }
                InstanceStateName::Stopping => Ok(None),
                InstanceStateName::Stopped => {
                    let sent = run_command::sent(clients, id, &document).await?;
                    if !builder.powered_itself_off() || sent.is_empty() {
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
        return Err(failed(
            input,
            format!("the builder did not power itself off: {cause}"),
        ));
    }
    // The command starts a unit that stops the agent, so the report may be lost. After a few attempts, only the power-off
    // itself counts.
    Ok(matches!(last.status, CommandStatus::Bad(_)) && sent.len() < ATTEMPTS)
}
