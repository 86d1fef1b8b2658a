//! Patches one class, waits for Karpenter, and reverts the patch if Karpenter does not accept it.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use kube::api::{Patch as Body, PatchParams};
use kube::core::{DynamicObject, Status};
use kube::{Api, Client};
use serde::Serialize;
use serde_json::json;
use tokio::time::Instant;

use crate::annotations::{SYNCED_AT, SYNCED_SNAPSHOT};
use crate::change::{Change, ChangeKind};
use crate::class::{NodeClass, Readiness, readiness};
use crate::client::api;
use crate::error::{Error, sentence};

/// Field manager of our changes. Argo CD and Flux can ignore the fields of a manager.
const FIELD_MANAGER: &str = "prepull";

/// Maximum attempts to revert a patch if the cluster does not answer.
const REVERT_ATTEMPTS: u32 = 3;

/// The wait for Karpenter's verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Maximum time. Karpenter needs seconds if nothing is wrong. With zero, there is one check.
    pub wait: Duration,
    /// Poll interval.
    pub interval: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            wait: Duration::from_secs(300),
            interval: Duration::from_secs(2),
        }
    }
}

/// The outcome of a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Outcome {
    /// The class has the snapshot, and Karpenter accepted it.
    Synced {
        /// Cause, if the annotations for people could not be written.
        not_annotated: Option<String>,
    },
    /// Another client changed the class. Before our patch, it had no effect. After it, the change of the other client
    /// stays.
    Changed,
    /// The class was deleted, before the patch or during the wait.
    Deleted,
    /// The cluster refused the patch, because the class would break a rule. Nothing changed.
    Invalid {
        /// Cause.
        why: String,
    },
    /// Karpenter did not accept the class, and it has its old snapshot again.
    Reverted {
        /// Cause.
        why: String,
    },
    /// Karpenter did not accept the class, and the patch could not be reverted.
    RevertFailed {
        /// Cause of the revert.
        why: String,
        /// Cause of its failure.
        cause: String,
    },
    /// Karpenter did not accept the class after a roll-back. The class keeps the good snapshot.
    NotReady {
        /// Cause.
        why: String,
    },
}

impl Outcome {
    /// Returns whether the class has the snapshot, and Karpenter accepted it.
    #[must_use]
    pub fn is_success(&self) -> bool {
        matches!(self, Self::Synced { .. })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Synced {
                not_annotated: None,
            } => f.write_str("synced"),
            Self::Synced {
                not_annotated: Some(cause),
            } => write!(f, "synced, but without new annotations: {cause}"),
            Self::Changed => f.write_str(
                "left alone: another client changed the node class at the same time. Run the command again",
            ),
            Self::Deleted => f.write_str("left alone: the node class was deleted"),
            Self::Invalid { why } => write!(
                f,
                "unchanged: the cluster refused the patch: {why}. Correct the node class"
            ),
            Self::Reverted { why } => write!(
                f,
                "reverted: Karpenter did not accept the snapshot: {why}. Karpenter's log has the cause"
            ),
            Self::RevertFailed { why, cause } => write!(
                f,
                "not reverted: Karpenter did not accept the snapshot: {why}, and the patch could not be reverted: {cause}. \
                 Check the node class"
            ),
            Self::NotReady { why } => write!(
                f,
                "rolled back, but the node class is not ready: {why}. Karpenter's log has the cause"
            ),
        }
    }
}

/// Applies a change. `client` comes from [`connect`](crate::connect), because a client with retries could repeat a
/// patch. `now` is the time in the annotation [`SYNCED_AT`].
///
/// # Errors
/// [`Error`] if the cluster did not apply the patch, because it cannot be reached or refuses the caller. After the
/// patch, problems are an [`Outcome`].
pub async fn apply(
    client: &Client,
    class: &NodeClass,
    change: &Change,
    patience: Patience,
    now: Timestamp,
) -> Result<Outcome, Error> {
    let target = Target {
        api: api(client),
        name: &class.name,
        change,
        patience,
    };
    match target.send(&change.patch).await {
        Ok(_) => {}
        Err(Failure::Gone) => return Ok(Outcome::Deleted),
        Err(Failure::TestFailed) => return Ok(Outcome::Changed),
        Err(Failure::Invalid(why)) => return Ok(Outcome::Invalid { why }),
        Err(Failure::Refused(error)) => return Err(error),
        Err(Failure::NoAnswer(error)) => {
            // The cluster may have applied the patch before it failed.
            let object = target.api.get_opt(&class.name).await.ok().flatten();
            if !object.is_some_and(|object| change.is_in(&object)) {
                return Err(error);
            }
        }
    }
    Ok(match target.verdict().await {
        Verdict::Accepted => Outcome::Synced {
            not_annotated: target.annotate(now).await.err(),
        },
        Verdict::Changed => Outcome::Changed,
        Verdict::Deleted => Outcome::Deleted,
        Verdict::NotAccepted(why) if change.kind == ChangeKind::RollBack => {
            Outcome::NotReady { why }
        }
        Verdict::NotAccepted(why) => target.revert(why).await,
    })
}

struct Target<'a> {
    api: Api<DynamicObject>,
    name: &'a str,
    change: &'a Change,
    patience: Patience,
}

/// Karpenter's verdict about the patched class.
enum Verdict {
    Accepted,
    NotAccepted(String),
    Changed,
    Deleted,
}

/// A failure of a patch.
enum Failure {
    /// The class does not exist.
    Gone,
    /// A test of the patch failed.
    TestFailed,
    /// The result would break a rule of the CRD or of a webhook.
    Invalid(String),
    /// The cluster refused the request.
    Refused(Error),
    /// The cluster may have applied the patch, or asks for another attempt.
    NoAnswer(Error),
}

impl From<kube::Error> for Failure {
    fn from(error: kube::Error) -> Self {
        let typed = Error::of("patch", &error);
        let kube::Error::Api(status) = error else {
            return if matches!(typed, Error::Credentials { .. }) {
                Self::Refused(typed)
            } else {
                Self::NoAnswer(typed)
            };
        };
        match status.code {
            // A missing class has a name. A missing CRD answers without one.
            404 if has_name(&status) => Self::Gone,
            409 => Self::TestFailed,
            // A failed test has no cause. A broken rule has at least one. Source: `applyJSPatch` in
            // `staging/src/k8s.io/apiserver/pkg/endpoints/handlers/patch.go` and `NewInvalid` in
            // `staging/src/k8s.io/apimachinery/pkg/api/errors/errors.go` of kubernetes/kubernetes.
            422 if !has_causes(&status) => Self::TestFailed,
            422 => Self::Invalid(sentence(&status.message)),
            429 | 500.. => Self::NoAnswer(typed),
            _ => Self::Refused(typed),
        }
    }
}

fn has_name(status: &Status) -> bool {
    status
        .details
        .as_ref()
        .is_some_and(|details| !details.name.is_empty())
}

fn has_causes(status: &Status) -> bool {
    status
        .details
        .as_ref()
        .is_some_and(|details| !details.causes.is_empty())
}

impl Target<'_> {
    async fn send(&self, patch: &json_patch::Patch) -> Result<DynamicObject, Failure> {
        let body = Body::<()>::Json(patch.clone());
        Ok(self.api.patch(self.name, &parameters(), &body).await?)
    }

    /// Waits for Karpenter's verdict about the current generation. If another client changes something else in the
    /// class during the wait, the verdict is about both changes, because Karpenter sees only the newest generation.
    async fn verdict(&self) -> Verdict {
        let deadline = Instant::now() + self.patience.wait;
        loop {
            let pending = match self.api.get_opt(self.name).await {
                Ok(None) => return Verdict::Deleted,
                // Karpenter's finalizer keeps a deleted class until its nodes are gone, and no new node uses it.
                Ok(Some(object)) if object.metadata.deletion_timestamp.is_some() => {
                    return Verdict::Deleted;
                }
                Ok(Some(object)) if !self.change.is_in(&object) => return Verdict::Changed,
                Ok(Some(object)) => match readiness(&object) {
                    Readiness::Ready => return Verdict::Accepted,
                    Readiness::NotReady { message } => {
                        return Verdict::NotAccepted(sentence(&message));
                    }
                    Readiness::Unknown { message } => message,
                },
                // The cluster may answer again before the deadline.
                Err(error) => Error::of("get", &error).to_string(),
            };
            if Instant::now() + self.patience.interval >= deadline {
                return Verdict::NotAccepted(format!(
                    "no verdict within {} s: {}",
                    self.patience.wait.as_secs(),
                    sentence(&pending)
                ));
            }
            tokio::time::sleep(self.patience.interval).await;
        }
    }

    async fn revert(&self, why: String) -> Outcome {
        let mut attempt = 1;
        let cause = loop {
            match self.send(&self.change.inverse).await {
                Ok(_) => return Outcome::Reverted { why },
                Err(Failure::Gone) => return Outcome::Deleted,
                Err(Failure::TestFailed) => {
                    // An earlier attempt without an answer may have reverted the patch.
                    let object = self.api.get_opt(self.name).await.ok().flatten();
                    if attempt > 1 && object.is_some_and(|object| self.change.is_undone_in(&object))
                    {
                        return Outcome::Reverted { why };
                    }
                    break "another client changed the volume".to_owned();
                }
                Err(Failure::Invalid(cause)) => break cause,
                Err(Failure::Refused(error)) => break sentence(&error.to_string()),
                Err(Failure::NoAnswer(error)) if attempt == REVERT_ATTEMPTS => {
                    break sentence(&error.to_string());
                }
                Err(Failure::NoAnswer(_)) => {
                    attempt += 1;
                    tokio::time::sleep(self.patience.interval).await;
                }
            }
        };
        Outcome::RevertFailed { why, cause }
    }

    /// Writes the annotations for people. A merge patch of annotations cannot conflict, and causes no drift.
    async fn annotate(&self, now: Timestamp) -> Result<(), String> {
        let time = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let annotations = json!({SYNCED_AT: time, SYNCED_SNAPSHOT: self.change.to});
        let body = Body::Merge(json!({"metadata": {"annotations": annotations}}));
        match self.api.patch(self.name, &parameters(), &body).await {
            Ok(_) => Ok(()),
            Err(error) => Err(sentence(&Error::of("patch", &error).to_string())),
        }
    }
}

fn parameters() -> PatchParams {
    PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcome_says_the_effect_the_cause_and_the_remedy() {
        let why = || "no verdict within 300 s: object is awaiting reconciliation".to_owned();
        let outcomes = [
            Outcome::Synced {
                not_annotated: None,
            },
            Outcome::Synced {
                not_annotated: Some("cannot patch node classes: timeout".to_owned()),
            },
            Outcome::Changed,
            Outcome::Deleted,
            Outcome::Invalid {
                why: "snapshotID or volumeSize must be defined".to_owned(),
            },
            Outcome::Reverted { why: why() },
            Outcome::RevertFailed {
                why: why(),
                cause: "another client changed the volume".to_owned(),
            },
            Outcome::NotReady { why: why() },
        ];
        let texts: Vec<String> = outcomes.iter().map(Outcome::to_string).collect();
        insta::assert_snapshot!(texts.join("\n"), @r"
        synced
        synced, but without new annotations: cannot patch node classes: timeout
        left alone: another client changed the node class at the same time. Run the command again
        left alone: the node class was deleted
        unchanged: the cluster refused the patch: snapshotID or volumeSize must be defined. Correct the node class
        reverted: Karpenter did not accept the snapshot: no verdict within 300 s: object is awaiting reconciliation. Karpenter's log has the cause
        not reverted: Karpenter did not accept the snapshot: no verdict within 300 s: object is awaiting reconciliation, and the patch could not be reverted: another client changed the volume. Check the node class
        rolled back, but the node class is not ready: no verdict within 300 s: object is awaiting reconciliation. Karpenter's log has the cause
        ");
    }
}
