//! Failed requests to a registry.

use prepull_domain::{ImageReference, StageError, excerpt};
use serde::Deserialize;

/// A failed request, with its cause and a remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The registry did not answer, or too many requests reached it. Another attempt can succeed.
    Unavailable(String),
    /// The registry refused the request.
    Denied(String),
    /// The image, or a part of it, does not exist or is not an image that containerd pulls.
    NotFound(String),
}

impl Failure {
    /// Returns the error of a stage that needs `image`.
    pub(crate) fn of(self, image: &ImageReference) -> StageError {
        let image = image.clone();
        match self {
            Self::Unavailable(problem) => StageError::RegistryUnavailable { image, problem },
            Self::Denied(problem) => StageError::RegistryDenied { image, problem },
            Self::NotFound(problem) => StageError::ImageNotFound { image, problem },
        }
    }

    /// Combines the failures of all endpoints of a registry, the registry's own last. If one of them is unavailable, another
    /// attempt can succeed.
    pub(crate) fn of_all(failures: Vec<Self>) -> Self {
        let is_unavailable = failures
            .iter()
            .any(|failure| matches!(failure, Self::Unavailable(_)));
        let is_denied = matches!(failures.last(), Some(Self::Denied(_)));
        let problems: Vec<_> = failures
            .into_iter()
            .map(|failure| match failure {
                Self::Unavailable(problem) | Self::Denied(problem) | Self::NotFound(problem) => {
                    problem
                }
            })
            .collect();
        let problems = problems.join("; also, ");
        if is_unavailable {
            Self::Unavailable(problems)
        } else if is_denied {
            Self::Denied(problems)
        } else {
            Self::NotFound(problems)
        }
    }

    /// Returns the failure of a request without an answer.
    pub(crate) fn no_answer(host: &str, error: reqwest::Error) -> Self {
        // The URL is long, and repeats the image.
        let error = error.without_url();
        Self::Unavailable(format!(
            "`{host}` did not answer: {}. Check that prepull's functions reach it",
            chain(&error)
        ))
    }
}

/// Returns the registry's own words on a failed request: codes and messages in the format of the OCI distribution
/// specification, or the beginning of a text.
pub(crate) fn details(content_type: &str, body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Envelope {
        errors: Vec<Entry>,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Entry {
        code: String,
        message: String,
    }
    if let Ok(Envelope { errors }) = serde_json::from_slice(body) {
        let texts: Vec<_> = errors
            .iter()
            .map(
                |Entry { code, message }| match (code.as_str(), message.as_str()) {
                    (code, "") => excerpt(code, 200),
                    ("", message) => excerpt(message, 200),
                    (code, message) => excerpt(&format!("{code}: {message}"), 200),
                },
            )
            .collect();
        return texts.join("; ");
    }
    let text = String::from_utf8_lossy(body);
    let text = text.trim();
    if content_type.starts_with("text/html") || text.starts_with('<') {
        "a web page, as a proxy, a firewall or a login page sends it".to_owned()
    } else {
        let line = text.lines().next().unwrap_or_default();
        excerpt(line, 200)
    }
}

/// Formats an error with its causes. The HTTP client's own message says only that a request failed.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(error.source(), |error| error.source()).fold(
        error.to_string(),
        |text, cause| {
            let cause = cause.to_string();
            // Transparent wrappers repeat the message of their cause.
            if text.ends_with(&cause) {
                text
            } else {
                format!("{text}: {cause}")
            }
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_are_the_registrys_own_words() {
        for (content_type, body, expected) in [
            (
                "application/json",
                r#"{"errors": [{"code": "DENIED", "message": "no pull for you"}]}"#,
                "DENIED: no pull for you",
            ),
            (
                "application/json",
                r#"{"errors": [{"code": "FORBIDDEN"}, {"message": "quota"}]}"#,
                "FORBIDDEN; quota",
            ),
            (
                "text/html; charset=utf-8",
                "<html>Access denied</html>",
                "a web page, as a proxy, a firewall or a login page sends it",
            ),
            ("text/plain", "over quota\nsee the manual", "over quota"),
            ("", "", ""),
        ] {
            assert_eq!(details(content_type, body.as_bytes()), expected);
        }
    }
}
