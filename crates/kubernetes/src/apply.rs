//! Patches one class, waits for Karpenter, and reverts the patch if Karpenter does not accept it.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use kube::api::{Patch as Body, PatchParams};
use kube::core::{DynamicObject, Status};
use kube::{Api, Client};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::annotations::{REVERTED_SNAPSHOT, SYNCED_AT, SYNCED_SNAPSHOT};
use crate::change::{Change, ChangeKind};
use crate::class::{NodeClass, Readiness, readiness};
use crate::client::api;
use crate::error::{Error, is_gone, sentence};
use crate::interruption::Interruption;

/// Field manager of our changes. Argo CD and Flux can ignore the fields of a manager.
const FIELD_MANAGER: &str = "prepull";

/// Maximum attempts to revert a patch if the cluster does not answer, or answers with a conflict.
const REVERT_ATTEMPTS: u32 = 3;

/// Cause of an outcome after an interruption.
const INTERRUPTED: &str = "the command was interrupted";

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
        /// Cause, if the annotation [`REVERTED_SNAPSHOT`] could not be written. The next sync then tries again.
        not_annotated: Option<String>,
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
            Self::Reverted { why, .. } if why == INTERRUPTED => write!(
                f,
                "reverted: {why} before Karpenter accepted the snapshot. Run the command again"
            ),
            Self::Reverted { why, not_annotated } => {
                write!(
                    f,
                    "reverted: Karpenter did not accept the snapshot: {why}. Karpenter's log has the cause"
                )?;
                match not_annotated {
                    Some(cause) => write!(
                        f,
                        ". The next sync tries the snapshot again, because the annotation is missing: {cause}"
                    ),
                    None => Ok(()),
                }
            }
            Self::RevertFailed { why, cause } if why == INTERRUPTED => write!(
                f,
                "not reverted: {why} before Karpenter accepted the snapshot, and the patch could not be reverted: {cause}. \
                 Check the node class"
            ),
            Self::RevertFailed { why, cause } => write!(
                f,
                "not reverted: Karpenter did not accept the snapshot: {why}, and the patch could not be reverted: {cause}. \
                 Check the node class"
            ),
            Self::NotReady { why } if why == INTERRUPTED => write!(
                f,
                "rolled back, but {why} before Karpenter accepted the snapshot. Run the command again"
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
/// After `interruption`, the wait ends and the patch is reverted, but not that of a roll-back. The caller then stops
/// before the next class. The requests before and after the wait are not interrupted.
///
/// # Errors
/// [`Error`] if the cluster did not apply the patch, because it cannot be reached or refuses the caller. After the
/// patch, problems are an [`Outcome`].
pub async fn apply(
    client: &Client,
    class: &NodeClass,
    change: &Change,
    patience: Patience,
    interruption: &Interruption,
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
        Err(Failure::TestFailed | Failure::Conflict(_)) => return Ok(Outcome::Changed),
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
    let verdict = tokio::select! {
        // A verdict at the time of the interruption counts.
        biased;
        verdict = target.verdict() => verdict,
        () = interruption.wait() => Verdict::Interrupted,
    };
    Ok(match verdict {
        Verdict::Accepted => Outcome::Synced {
            not_annotated: target.annotate_success(now).await.err(),
        },
        Verdict::Changed => Outcome::Changed,
        Verdict::Deleted => Outcome::Deleted,
        Verdict::NotAccepted(why) if change.kind == ChangeKind::RollBack => {
            Outcome::NotReady { why }
        }
        Verdict::Interrupted if change.kind == ChangeKind::RollBack => Outcome::NotReady {
            why: INTERRUPTED.to_owned(),
        },
        // The next sync tries the snapshot again.
        Verdict::Interrupted => target.send_inverse(INTERRUPTED.to_owned()).await,
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
    Interrupted,
    Changed,
    Deleted,
}

/// A failure of a patch.
enum Failure {
    /// The class does not exist.
    Gone,
    /// A test of the patch failed.
    TestFailed,
    /// The cluster answers with a conflict, for example after a race with a write of the status. Nothing changed, and the
    /// values that the patch tests may be the same.
    Conflict(Error),
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
            404 if is_gone(&status) => Self::Gone,
            409 => Self::Conflict(typed),
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

    /// Reverts the patch, and records the snapshot, so that later syncs do not try it again.
    async fn revert(&self, why: String) -> Outcome {
        match self.send_inverse(why).await {
            Outcome::Reverted { why, .. } => Outcome::Reverted {
                why,
                not_annotated: self.annotate_revert().await.err(),
            },
            outcome => outcome,
        }
    }

    async fn send_inverse(&self, why: String) -> Outcome {
        let reverted = |why| Outcome::Reverted {
            why,
            not_annotated: None,
        };
        let mut attempt = 1;
        let cause = loop {
            match self.send(&self.change.inverse).await {
                Ok(_) => return reverted(why),
                Err(Failure::Gone) => return Outcome::Deleted,
                Err(Failure::TestFailed) => {
                    // An earlier attempt without an answer may have reverted the patch.
                    let object = self.api.get_opt(self.name).await.ok().flatten();
                    if attempt > 1 && object.is_some_and(|object| self.change.is_undone_in(&object))
                    {
                        return reverted(why);
                    }
                    break "another client changed the volume".to_owned();
                }
                Err(Failure::Invalid(cause)) => break cause,
                Err(Failure::Refused(error)) => break sentence(&error.to_string()),
                Err(Failure::Conflict(error) | Failure::NoAnswer(error))
                    if attempt == REVERT_ATTEMPTS =>
                {
                    break sentence(&error.to_string());
                }
                Err(Failure::Conflict(_) | Failure::NoAnswer(_)) => {
                    attempt += 1;
                    tokio::time::sleep(self.patience.interval).await;
                }
            }
        };
        Outcome::RevertFailed { why, cause }
    }

    /// Writes the annotations for people, and forgets an earlier revert.
    async fn annotate_success(&self, now: Timestamp) -> Result<(), String> {
        let time = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        self.annotate(json!({
            SYNCED_AT: time,
            SYNCED_SNAPSHOT: self.change.to,
            REVERTED_SNAPSHOT: Value::Null,
        }))
        .await
    }

    async fn annotate_revert(&self) -> Result<(), String> {
        self.annotate(json!({REVERTED_SNAPSHOT: self.change.to}))
            .await
    }

    /// Writes annotations. `null` removes one. A merge patch of annotations has no tests, and causes no drift.
    async fn annotate(&self, annotations: Value) -> Result<(), String> {
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
            Outcome::Reverted {
                why: why(),
                not_annotated: None,
            },
            Outcome::Reverted {
                why: why(),
                not_annotated: Some("cannot patch node classes: timeout".to_owned()),
            },
            Outcome::RevertFailed {
                why: why(),
                cause: "another client changed the volume".to_owned(),
            },
            Outcome::NotReady { why: why() },
            Outcome::Reverted {
                why: INTERRUPTED.to_owned(),
                not_annotated: None,
            },
            Outcome::RevertFailed {
                why: INTERRUPTED.to_owned(),
                cause: "another client changed the volume".to_owned(),
            },
            Outcome::NotReady {
                why: INTERRUPTED.to_owned(),
            },
        ];
        let texts: Vec<String> = outcomes.iter().map(Outcome::to_string).collect();
        insta::assert_snapshot!(texts.join("\n"), @r"
        synced
        synced, but without new annotations: cannot patch node classes: timeout
        left alone: another client changed the node class at the same time. Run the command again
        left alone: the node class was deleted
        unchanged: the cluster refused the patch: snapshotID or volumeSize must be defined. Correct the node class
        reverted: Karpenter did not accept the snapshot: no verdict within 300 s: object is awaiting reconciliation. Karpenter's log has the cause
        reverted: Karpenter did not accept the snapshot: no verdict within 300 s: object is awaiting reconciliation. Karpenter's log has the cause. The next sync tries the snapshot again, because the annotation is missing: cannot patch node classes: timeout
        not reverted: Karpenter did not accept the snapshot: no verdict within 300 s: object is awaiting reconciliation, and the patch could not be reverted: another client changed the volume. Check the node class
        rolled back, but the node class is not ready: no verdict within 300 s: object is awaiting reconciliation. Karpenter's log has the cause
        reverted: the command was interrupted before Karpenter accepted the snapshot. Run the command again
        not reverted: the command was interrupted before Karpenter accepted the snapshot, and the patch could not be reverted: another client changed the volume. Check the node class
        rolled back, but the command was interrupted before Karpenter accepted the snapshot. Run the command again
        ");
    }
}
