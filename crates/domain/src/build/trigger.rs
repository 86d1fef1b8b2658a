//! What starts a build, and which caches it concerns.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::cache::config::CacheConfig;
use crate::cache::image::{EcrRepository, ImageReference};

/// An image that was pushed to private ECR under a tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Push {
    /// Where it was pushed to.
    pub repository: EcrRepository,
    /// Under which tag.
    pub tag: String,
}

impl Push {
    /// Whether the push may have changed what `image` names.
    ///
    /// A reference that is fixed to a digest names the same content for ever, even if it bears the tag too.
    #[must_use]
    pub fn changes(&self, image: &ImageReference) -> bool {
        image.digest().is_none()
            && image.tag() == Some(&self.tag)
            && image.ecr().as_ref() == Some(&self.repository)
    }

    /// Whether `config` wants a build after this push.
    #[must_use]
    pub fn concerns(&self, config: &CacheConfig) -> bool {
        config.rebuild_on_push && config.images.iter().any(|image| self.changes(image))
    }
}

impl std::fmt::Display for Push {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let EcrRepository {
            account,
            region,
            repository,
        } = &self.repository;
        write!(
            f,
            "{repository}:{} in the registry of account {account} in {region}",
            self.tag
        )
    }
}

/// What an execution was started for: part of its input, for whoever looks at it later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "source", rename_all = "kebab-case")]
pub enum TriggerRecord {
    /// A push to private ECR. Others of the same window may have joined the execution.
    Push {
        /// What was pushed.
        image: String,
        /// When, by ECR's clock.
        at: Timestamp,
    },
    /// A schedule of the cache.
    Schedule {
        /// When start-build heard of it.
        at: Timestamp,
    },
    /// Somebody who called start-build, or `prepull build`.
    Manual {
        /// When.
        at: Timestamp,
    },
}

/// The input of an execution.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecutionInput {
    /// The cache, as whoever started the execution named it.
    pub cache: String,
    /// How long the execution waits before it plans, so that the triggers that follow are part of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub debounce_seconds: Option<i64>,
    /// What it was started for; none where a person started it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trigger: Option<TriggerRecord>,
}

impl ExecutionInput {
    /// The cache that the input of an execution names. Whatever else is in it is passed over: people start executions too,
    /// and theirs must be known as builds of their cache like all others.
    #[must_use]
    pub fn cache_in(json: &str) -> Option<String> {
        #[derive(Deserialize)]
        struct Named {
            cache: String,
        }
        let named: Named = serde_json::from_str(json).ok()?;
        Some(named.cache)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(account: &str, region: &str, repository: &str, tag: &str) -> Push {
        Push {
            repository: EcrRepository {
                account: account.parse().unwrap(),
                region: region.parse().unwrap(),
                repository: repository.to_owned(),
            },
            tag: tag.to_owned(),
        }
    }

    #[test]
    fn a_push_changes_the_reference_with_the_same_registry_repository_and_tag_alone() {
        let host = "123456789012.dkr.ecr.eu-west-1.amazonaws.com";
        let digest = format!("sha256:{}", "a".repeat(64));
        let push = push("123456789012", "eu-west-1", "team/api", "v1");
        let changes = |reference: String| push.changes(&reference.parse().unwrap());
        assert!(changes(format!("{host}/team/api:v1")));
        for other in [
            format!("{host}/team/api:v2"),
            format!("{host}/team/api-v2:v1"),
            format!("{host}/team/api@{digest}"),
            format!("{host}/team/api:v1@{digest}"),
            "210987654321.dkr.ecr.eu-west-1.amazonaws.com/team/api:v1".to_owned(),
            "123456789012.dkr.ecr.eu-west-2.amazonaws.com/team/api:v1".to_owned(),
            "registry.example.com/team/api:v1".to_owned(),
        ] {
            assert!(!changes(other.clone()), "{other}");
        }
    }

    #[test]
    fn an_execution_started_by_hand_names_the_cache_and_nothing_else() {
        let input: ExecutionInput = serde_json::from_str(r#"{"cache": "web"}"#).unwrap();
        assert_eq!(serde_json::to_string(&input).unwrap(), r#"{"cache":"web"}"#);
    }

    #[test]
    fn an_input_names_its_cache_whatever_else_it_holds() {
        for (input, cache) in [
            (r#"{"cache": "web"}"#, Some("web")),
            (
                r#"{"cache": "web", "trigger": {"source": "manual"}}"#,
                Some("web"),
            ),
            (
                r#"{"cache": "web", "trigger": "me", "debounce_seconds": "5"}"#,
                Some("web"),
            ),
            (r#"{"cache": 5}"#, None),
            ("{}", None),
            ("", None),
        ] {
            assert_eq!(ExecutionInput::cache_in(input).as_deref(), cache, "{input}");
        }
    }
}
