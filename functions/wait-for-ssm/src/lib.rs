//! Waits until a builder accepts commands and can pull.
//!
//! **Before:** the builder runs.
//! **After:** the agent is online, the admin container and containerd answer, and the kubelet is masked. The versions and
//! the vCPUs of the builder are known.
//! **Called again:** repeats the same checks. Their only effect is that the kubelet stays masked.
//! **Errors:** `NeverReady` after the timeout; `BuilderLost` if the builder no longer runs.

use std::cell::RefCell;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use prepull_aws::instances::ensure_running;
use prepull_aws::run_command::run_document;
use prepull_aws::ssm::types::{InstanceInformationStringFilter, PingStatus};
use prepull_aws::{Clients, Deadline, Pace, StageResult};
use prepull_domain::StageError;
use prepull_domain::build::payload::{BuilderInput, NodeInfo, ReadyBuilder};
use prepull_domain::node::{Document, ReadyNode};
use tokio::time::Instant;

/// Poll interval for the SSM agent.
const POLL: Pace = Pace::up_to(Duration::from_secs(1));

/// Interval between checks that the builder still runs.
const BUILDER_CHECK: Duration = Duration::from_secs(5);

/// Maximum time from the launch until the builder is ready.
///
/// It usually takes about a minute. Bottlerocket waits up to 300 s for EC2's metadata, and up to 300 s for ECR. The limit
/// allows for one such delay, but not for two.
const READY_WITHIN: SignedDuration = SignedDuration::from_mins(10);

/// Maximum time from the launch during which a denied command is sent again.
///
/// The role may send commands only to instances with prepull's tag. It is unknown whether Systems Manager sees the tags of
/// a new instance at once: EC2 documents that its API is eventually consistent.
const ALLOWED_WITHIN: SignedDuration = SignedDuration::from_mins(2);

/// The settings of the function.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Prefix of the names of the SSM documents.
    pub name: String,
}

/// Waits until the builder of `input` is ready and returns its versions and vCPUs.
///
/// # Errors
/// See the crate's documentation.
pub async fn handle(
    clients: &Clients,
    settings: &Settings,
    input: BuilderInput,
    deadline: Deadline,
) -> Result<ReadyBuilder, StageError> {
    // The last completed check, for the error message.
    let waiting_for = RefCell::new("its SSM agent to register".to_owned());
    let mut looked = None;
    let node = deadline
        .poll(POLL, "waiting for the builder to be ready", async || {
            if looked.is_none_or(|looked: Instant| looked.elapsed() >= BUILDER_CHECK) {
                looked = Some(Instant::now());
                ensure_running(clients, &input.builder.instance_id).await?;
            }
            let ready = check(clients, settings, &input, deadline).await?;
            match ready {
                Ready::Yes(node) => return Ok(Some(node)),
                Ready::NotYet(what) => {
                    waiting_for.replace(what);
                }
            }
            give_up(&input, &waiting_for.borrow())?;
            Ok(None)
        })
        .await?;
    Ok(ReadyBuilder {
        node: NodeInfo {
            bottlerocket_version: node.bottlerocket_version,
            containerd_version: node.containerd_version,
            kernel_version: node.kernel_version,
            snapshotter: node.snapshotter,
            ready_at: Timestamp::now(),
        },
        vcpus: node.vcpus,
    })
}

/// The result of a check.
enum Ready {
    Yes(ReadyNode),
    /// The missing part.
    NotYet(String),
}

async fn check(
    clients: &Clients,
    settings: &Settings,
    input: &BuilderInput,
    deadline: Deadline,
) -> Result<Ready, StageError> {
    let id = &input.builder.instance_id;
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
    let document = Document::AwaitReady.name(&settings.name);
    let output = match run_document(clients, id, &document, &[], deadline).await {
        Err(StageError::AccessDenied { call, message })
            if call == "ssm:SendCommand" && age(input) < ALLOWED_WITHIN =>
        {
            tracing::info!(denied = message, "command to a new builder denied");
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

/// Returns the time since the launch of the builder.
fn age(input: &BuilderInput) -> SignedDuration {
    Timestamp::now().duration_since(input.builder.launched_at)
}

/// Fails when the builder has used its time.
fn give_up(input: &BuilderInput, waiting_for: &str) -> Result<(), StageError> {
    let waited = age(input);
    if waited < READY_WITHIN && Timestamp::now() < input.target.give_up_at {
        return Ok(());
    }
    Err(StageError::NeverReady {
        instance: input.builder.instance_id.clone(),
        waited: waited.unsigned_abs(),
        problem: format!("it is still waiting for {waiting_for}"),
    })
}
