//! Triggers of builds, and the caches that they affect.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::cache::config::CacheConfig;
use crate::cache::image::{EcrRepository, ImageReference};

/// A new image of a tag in private ECR: by a push, by replication, or through a pull-through cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Push {
    /// Repository of the push.
    pub repository: EcrRepository,
    /// Tag of the image.
    pub tag: String,
}

impl Push {
    /// Whether the push can change the content that `image` resolves to.
    ///
    /// A reference with a digest always resolves to the same content, even if it also has the tag.
    #[must_use]
    pub fn changes(&self, image: &ImageReference) -> bool {
        image.digest().is_none()
            && image.tag() == Some(&self.tag)
            && image.ecr().as_ref() == Some(&self.repository)
    }

    /// Whether the push triggers a build of the cache with `config`.
    #[must_use]
    pub fn triggers(&self, config: &CacheConfig) -> bool {
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

/// The trigger of an execution. It is part of the input, as a record for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "source", rename_all = "kebab-case")]
pub enum TriggerRecord {
    /// A push to private ECR. The execution can also cover later pushes of the same window.
    Push {
        /// Pushed image.
        image: String,
        /// Time of the push, from ECR.
        at: Timestamp,
    },
    /// A schedule of the cache.
    Schedule {
        /// Time of the call to start-build.
        at: Timestamp,
    },
    /// A direct call to start-build, or `prepull build`.
    Manual {
        /// Time of the call.
        at: Timestamp,
    },
}

/// The input of an execution.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecutionInput {
    /// Cache name, unparsed.
    pub cache: String,
    /// Debounce: time that the execution waits before it plans, to cover further triggers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub debounce_seconds: Option<i64>,
    /// Trigger of the execution. `None` if a person started it without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trigger: Option<TriggerRecord>,
}

impl ExecutionInput {
    /// Returns the cache name from the input of an execution. It ignores all other fields, because people also start
    /// executions. clean-up and the queue must recognize these as builds of their cache.
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
    fn push_changes_only_the_same_repository_and_tag() {
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
    fn manual_input_serializes_only_the_cache() {
        let input: ExecutionInput = serde_json::from_str(r#"{"cache": "web"}"#).unwrap();
        assert_eq!(serde_json::to_string(&input).unwrap(), r#"{"cache":"web"}"#);
    }

    #[test]
    fn input_yields_the_cache_despite_unknown_fields() {
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
