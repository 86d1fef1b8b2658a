//! Failures that concern the cluster and not one class.

use kube::client::AuthError;
use kube::core::Status;
use kube::core::response::StatusDetails;

/// Rule of a `ClusterRole` with the rights that a sync needs.
pub const RBAC_RULE: &str = r#"{apiGroups: ["karpenter.k8s.aws"], resources: ["ec2nodeclasses"], verbs: ["get", "list", "patch"]}"#;

/// A failure of the Kubernetes API.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No kubeconfig is usable, and the process does not run in a pod.
    #[error(
        "cannot find the cluster: {cause}. Write a kubeconfig with `aws eks update-kubeconfig --name CLUSTER`, or choose one \
         with the environment variable `KUBECONFIG`"
    )]
    Kubeconfig {
        /// Cause.
        cause: String,
    },
    /// The kubeconfig gives no credentials. On EKS, it runs `aws eks get-token`.
    #[error(
        "cannot get credentials for the cluster: {cause}. Log in to AWS again, and try `aws eks get-token --cluster-name \
         CLUSTER`"
    )]
    Credentials {
        /// Cause.
        cause: String,
    },
    /// The cluster does not answer.
    #[error(
        "cannot reach the cluster: {cause}. Check the address of the cluster in the kubeconfig, and the network"
    )]
    Unreachable {
        /// Cause.
        cause: String,
    },
    /// The cluster does not know the caller.
    #[error(
        "the cluster refuses the credentials: {cause}. Log in to AWS again, and check that the cluster has an access entry for \
         the role"
    )]
    Unauthorized {
        /// Cause.
        cause: String,
    },
    /// A right is missing.
    #[error(
        "cannot {verb} node classes: {cause}. Give the role a ClusterRole with the rule {RBAC_RULE}"
    )]
    Forbidden {
        /// Verb of the request.
        verb: &'static str,
        /// Message of the cluster.
        cause: String,
    },
    /// The CRD is absent.
    #[error(
        "cannot {verb} node classes: Karpenter v1 is not installed in this cluster. Install Karpenter 1.5 or newer, or choose \
         another cluster. EKS Auto Mode has no EC2NodeClass and cannot use snapshots"
    )]
    NotInstalled {
        /// Verb of the request.
        verb: &'static str,
    },
    /// A right to read objects of the cluster is missing.
    #[error(
        "cannot list {resource}: {cause}. Give the role a ClusterRole with the verb `list` for {resource}"
    )]
    ForbiddenToObserve {
        /// Resource of the request.
        resource: &'static str,
        /// Message of the cluster.
        cause: String,
    },
    /// Objects of the cluster cannot be read.
    #[error("cannot list {resource}: {cause}. Try again later")]
    NotObserved {
        /// Resource of the request.
        resource: &'static str,
        /// Cause.
        cause: String,
    },
    /// Another failure.
    #[error("cannot {verb} node classes: {cause}. Try again later")]
    Failed {
        /// Verb of the request.
        verb: &'static str,
        /// Cause.
        cause: String,
    },
}

impl Error {
    /// Returns the error of a request with `verb`.
    pub(crate) fn of(verb: &'static str, error: &kube::Error) -> Self {
        use kube::Error as Kube;
        match error {
            Kube::Api(status) => Self::of_status(verb, status),
            Kube::Auth(source) => Self::Credentials {
                cause: credentials(source),
            },
            // A refresh of the credentials fails within the request.
            Kube::Service(source) => match source.downcast_ref::<AuthError>() {
                Some(source) => Self::Credentials {
                    cause: credentials(source),
                },
                None => Self::Unreachable {
                    cause: chain(source.as_ref()),
                },
            },
            Kube::HyperError(source) => Self::Unreachable {
                cause: chain(source),
            },
            _ => Self::Failed {
                verb,
                cause: chain(error),
            },
        }
    }

    /// Returns the error of a list of other objects than node classes.
    pub(crate) fn of_list(resource: &'static str, error: &kube::Error) -> Self {
        match Self::of("list", error) {
            Self::Forbidden { cause, .. } => Self::ForbiddenToObserve { resource, cause },
            Self::Failed { cause, .. } => Self::NotObserved { resource, cause },
            other => other,
        }
    }

    fn of_status(verb: &'static str, status: &Status) -> Self {
        let cause = sentence(&status.message);
        match status.code {
            401 => Self::Unauthorized { cause },
            403 => Self::Forbidden { verb, cause },
            404 => Self::NotInstalled { verb },
            _ => Self::Failed { verb, cause },
        }
    }
}

/// Returns whether a class does not exist. A missing CRD answers without the name of the class.
pub(crate) fn is_gone(status: &Status) -> bool {
    let has_name = |details: &StatusDetails| !details.name.is_empty();
    status.code == 404 && status.details.as_ref().is_some_and(has_name)
}

/// Returns the cause of missing credentials. The output of the command is left out, because it may have a token.
fn credentials(error: &AuthError) -> String {
    match error {
        AuthError::AuthExecRun { out, .. } => {
            format!(
                "the command of the user in the kubeconfig failed with {}",
                out.status
            )
        }
        AuthError::AuthExecStart(source) => {
            format!("the command of the user in the kubeconfig does not start: {source}")
        }
        AuthError::AuthExecParse(_) => {
            "the command of the user in the kubeconfig printed no credentials".to_owned()
        }
        _ => chain(error),
    }
}

/// Returns the message of an error and of its sources.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut texts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        // Some messages contain the one of their source.
        if !texts.iter().any(|known| known.contains(&text)) {
            texts.push(text);
        }
        next = error.source();
    }
    sentence(&texts.join(": "))
}

/// Returns a message of another program for use within a sentence: on one line, without a full stop.
pub(crate) fn sentence(message: &str) -> String {
    let line: Vec<&str> = message.split_whitespace().collect();
    line.join(" ").trim_end_matches('.').to_owned()
}
