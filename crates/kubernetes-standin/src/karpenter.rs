//! Karpenter's answer to changes of a node class.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::store::now;

/// The conditions that Karpenter sets for a generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Ready is True.
    Ready,
    /// Ready is False, as after missing rights.
    NotReady {
        /// Message of the condition.
        message: String,
    },
    /// Ready stays Unknown, as after a snapshot that does not exist
    /// (<https://github.com/aws/karpenter-provider-aws/issues/8148>).
    Unknown,
    /// The conditions stay those of the generation before, as without a controller.
    Silent,
}

/// The behaviour of Karpenter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Karpenter {
    /// Answer to a node class.
    pub answer: Answer,
    /// Answers to node classes with these snapshots on `/dev/xvdb`.
    pub by_snapshot: BTreeMap<String, Answer>,
    /// Time between a change and the answer.
    pub delay: Duration,
}

impl Default for Karpenter {
    fn default() -> Self {
        Self {
            answer: Answer::Ready,
            by_snapshot: BTreeMap::new(),
            delay: Duration::ZERO,
        }
    }
}

impl Karpenter {
    /// Returns the behaviour of a Karpenter that is content with every snapshot but one.
    #[must_use]
    pub fn with(snapshot: &str, answer: Answer) -> Self {
        Self {
            by_snapshot: BTreeMap::from([(snapshot.to_owned(), answer)]),
            ..Self::default()
        }
    }

    fn answer_to(&self, class: &Value) -> &Answer {
        class["spec"]["blockDeviceMappings"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|mapping| mapping["deviceName"] == "/dev/xvdb")
            .find_map(|mapping| self.by_snapshot.get(mapping["ebs"]["snapshotID"].as_str()?))
            .unwrap_or(&self.answer)
    }

    /// Returns the status of a class after Karpenter has seen its generation, or `None` if Karpenter does not answer.
    ///
    /// Source: condition types of `pkg/apis/v1/ec2nodeclass_status.go` of aws/karpenter-provider-aws, without the
    /// optional ones. Every condition has an `observedGeneration` and a reason. The status of Ready is the worst of the
    /// others (`status/condition_set.go` of awslabs/operatorpkg).
    pub(crate) fn status_of(&self, class: &Value) -> Option<Value> {
        let (validation, reason, message) = match self.answer_to(class) {
            Answer::Ready => ("True", "ValidationSucceeded", ""),
            Answer::NotReady { message } => {
                ("False", "RunInstancesAuthCheckFailed", message.as_str())
            }
            Answer::Unknown => (
                "Unknown",
                "AwaitingReconciliation",
                "object is awaiting reconciliation",
            ),
            Answer::Silent => return None,
        };
        let mut conditions: Vec<Value> = [
            "AMIsReady",
            "InstanceProfileReady",
            "SecurityGroupsReady",
            "SubnetsReady",
        ]
        .into_iter()
        .map(|kind| condition(class, kind, "True", kind, ""))
        .collect();
        let ready = if validation == "True" {
            "Ready"
        } else {
            reason
        };
        conditions.push(condition(
            class,
            "ValidationSucceeded",
            validation,
            reason,
            message,
        ));
        conditions.push(condition(class, "Ready", validation, ready, message));
        let mut status = class.get("status").cloned().unwrap_or_else(|| json!({}));
        status["conditions"] = json!(conditions);
        Some(status)
    }
}

fn condition(class: &Value, kind: &str, status: &str, reason: &str, message: &str) -> Value {
    let before = class["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|condition| condition["type"] == kind && condition["status"] == status);
    let since = before.map_or_else(
        || json!(now()),
        |condition| condition["lastTransitionTime"].clone(),
    );
    json!({
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": since,
        "observedGeneration": class["metadata"]["generation"],
    })
}
