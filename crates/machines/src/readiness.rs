//! Waits until an instance accepts commands and containerd answers.

use std::cell::RefCell;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use prepull_aws::instances::ensure_running;
use prepull_aws::run_command::run_document;
use prepull_aws::ssm::types::{InstanceInformationStringFilter, PingStatus};
use prepull_aws::{Clients, Deadline, Pace, StageResult};
use prepull_domain::StageError;
use prepull_domain::build::payload::Builder;
use prepull_domain::node::{Document, ReadyNode};
use tokio::time::Instant;

use crate::Documents;

/// Poll interval for the SSM agent.
const POLL: Pace = Pace::up_to(Duration::from_secs(1));

/// Interval between checks that the instance still runs.
const RUNNING_CHECK: Duration = Duration::from_secs(5);

/// Maximum time from the launch until an instance is ready.
///
/// It usually takes about a minute. Bottlerocket waits up to 300 s for EC2's metadata, and up to 300 s for ECR. The limit
/// allows for one such delay, but not for two.
pub const READY_WITHIN: SignedDuration = SignedDuration::from_mins(10);

/// Maximum time from the launch during which a denied command is sent again.
///
/// The role may send commands only to instances with prepull's tag. It is unknown whether Systems Manager sees the tags of
/// a new instance at once: EC2 documents that its API is eventually consistent.
const ALLOWED_WITHIN: SignedDuration = SignedDuration::from_mins(2);

/// Waits until `instance` is ready, at most until `give_up_at`.
///
/// # Errors
/// `NeverReady` after [`READY_WITHIN`] or `give_up_at`; `BuilderLost` if the instance no longer runs.
pub async fn await_ready(
    clients: &Clients,
    documents: Documents<'_>,
    instance: &Builder,
    give_up_at: Timestamp,
    deadline: Deadline,
) -> Result<ReadyNode, StageError> {
    // The last completed check, for the error message.
    let waiting_for = RefCell::new("its SSM agent to register".to_owned());
    let mut looked = None;
    deadline
        .poll(POLL, "waiting for the instance to be ready", async || {
            if looked.is_none_or(|looked: Instant| looked.elapsed() >= RUNNING_CHECK) {
                looked = Some(Instant::now());
                ensure_running(clients, &instance.instance_id).await?;
            }
            match check(clients, documents, instance, deadline).await? {
                Ready::Yes(node) => return Ok(Some(node)),
                Ready::NotYet(what) => {
                    waiting_for.replace(what);
                }
            }
            give_up(instance, give_up_at, &waiting_for.borrow())?;
            Ok(None)
        })
        .await
}

/// The result of a check.
enum Ready {
    Yes(ReadyNode),
    /// The missing part.
    NotYet(String),
}

async fn check(
    clients: &Clients,
    documents: Documents<'_>,
    instance: &Builder,
    deadline: Deadline,
) -> Result<Ready, StageError> {
    let id = &instance.instance_id;
    let mut known = clients
        .ssm
        .describe_instance_information()
        .filters(
            InstanceInformationStringFilter::builder()
                .key("InstanceIds")
                .values(id.as_str())
                .build()
                .expect("both key and values are given"),
        )
        .into_paginator()
        .items()
        .send();
    let agent = known
        .next()
        .await
        .transpose()
        .or_stage_error("ssm:DescribeInstanceInformation")?;
    if agent.as_ref().and_then(|agent| agent.ping_status()) != Some(&PingStatus::Online) {
        return Ok(Ready::NotYet(
            "its SSM agent to register. Check that its subnet reaches Systems Manager and ECR"
                .to_owned(),
        ));
    }
    let (document, parameters) = documents.command(Document::AwaitReady, Vec::new());
    let output = match run_document(clients, id, &document, &parameters, deadline).await {
        Err(StageError::AccessDenied { call, message })
            if call == "ssm:SendCommand" && age(instance) < ALLOWED_WITHIN =>
        {
            tracing::info!(denied = message, "command to a new instance denied");
            return Ok(Ready::NotYet(format!(
                "permission to send a command: {message}"
            )));
        }
        result => result?,
    };
    if let Some(what) = ReadyNode::missing_part(&output.stdout) {
        return Ok(Ready::NotYet(what.to_owned()));
    }
    Ok(match output.stdout.parse() {
        Ok(node) => Ready::Yes(node),
        Err(error) => Ready::NotYet(format!(
            "a complete answer of `{document}`: {error}; last output: {}",
            output.last_words()
        )),
    })
}

/// Returns the time since the launch of the instance.
fn age(instance: &Builder) -> SignedDuration {
    Timestamp::now().duration_since(instance.launched_at)
}

/// Fails when the instance has used its time.
fn give_up(instance: &Builder, give_up_at: Timestamp, waiting_for: &str) -> Result<(), StageError> {
    let waited = age(instance);
    if waited < READY_WITHIN && Timestamp::now() < give_up_at {
        return Ok(());
    }
    Err(StageError::NeverReady {
        instance: instance.instance_id.clone(),
        waited: waited.unsigned_abs(),
        problem: format!("it is still waiting for {waiting_for}"),
    })
}
