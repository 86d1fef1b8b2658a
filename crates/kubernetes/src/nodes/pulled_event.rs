//! Messages of the kubelet's events with the reason `Pulled`.

use super::{ImageName, Seconds};

/// An image of the kubelet's event, and how the kubelet got it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) image: ImageName,
    pub(super) outcome: Outcome,
}

/// How the kubelet got an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    Found,
    Pulled {
        seconds: Option<Seconds>,
        with_waiting: Option<Seconds>,
    },
}

/// Parses the message of an event with the reason `Pulled`. Returns `None` if the form is unknown.
///
/// Source: `pkg/kubelet/images/image_manager.go` of Kubernetes. The forms of a pull, oldest first: without a time, with
/// the time including the wait for other pulls, with both times, and with the size. The suffix "and can be accessed by
/// the pod" comes from the feature gate `KubeletEnsureSecretPulledImages`, which 1.35 enabled by default.
pub(super) fn parse(message: &str) -> Option<Report> {
    if let Some(rest) = message.strip_prefix("Container image \"") {
        let (image, rest) = rest.split_once('"')?;
        let known = matches!(
            rest,
            " already present on machine"
                | " already present on machine and can be accessed by the pod"
        );
        return known.then_some(Report {
            image: image.parse().ok()?,
            outcome: Outcome::Found,
        });
    }
    let rest = message.strip_prefix("Successfully pulled image \"")?;
    let (image, rest) = rest.split_once('"')?;
    let image = image.parse().ok()?;
    let (seconds, with_waiting) = match rest.strip_prefix(" in ") {
        None if rest.is_empty() => (None, None),
        None => return None,
        Some(times) => match times.split_once(" (") {
            None => (Some(Seconds::from_go(times)?), None),
            Some((own, rest)) => {
                let (with_waiting, rest) = rest.split_once(" including waiting)")?;
                if !(rest.is_empty() || rest.starts_with(". Image size: ")) {
                    return None;
                }
                (
                    Some(Seconds::from_go(own)?),
                    Some(Seconds::from_go(with_waiting)?),
                )
            }
        },
    };
    Some(Report {
        image,
        outcome: Outcome::Pulled {
            seconds,
            with_waiting,
        },
    })
}
