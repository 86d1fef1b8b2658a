//! The input of start-build.

use aws_lambda_events::eventbridge::EventBridgeEvent;
use jiff::Timestamp;
use prepull_domain::build::trigger::Push;
use prepull_domain::cache::image::EcrRepository;
use prepull_domain::{StageError, excerpt};
use serde::{Deserialize, Serialize};
use serde_json::Value;

const ECR_SOURCE: &str = "aws.ecr";

/// A kind of event by which ECR announces a new image.
struct Kind {
    detail_type: &'static str,
    /// The `action-type` that brings new content. `None` if the events have no such field.
    action_type: Option<&'static str>,
    /// The field with `SUCCESS`.
    result: &'static str,
}

/// Kinds of events that start a build. infra/triggers.tf has the same list.
///
/// Source: Amazon ECR user guide, "Amazon ECR events and `EventBridge`".
const KINDS: [Kind; 3] = [
    Kind {
        detail_type: "ECR Image Action",
        action_type: Some("PUSH"),
        result: "result",
    },
    // Sent in the Region of the copy.
    Kind {
        detail_type: "ECR Replication Action",
        action_type: Some("REPLICATE"),
        result: "result",
    },
    // Sent after the first pull of an image, and when ECR finds that a tag has moved upstream.
    Kind {
        detail_type: "ECR Pull Through Cache Action",
        action_type: None,
        result: "sync-status",
    },
];

/// A reason to build.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A tag in ECR has a new image: by a push, by replication, or from the upstream registry of a pull-through cache.
    Push {
        push: Push,
        /// The time of the event by ECR's clock. `None` if the event has no time.
        at: Option<Timestamp>,
    },
    /// A cache's schedule fired.
    Schedule { cache: String },
    /// A person or a tool requested a build of a cache.
    Manual { cache: String },
}

/// The input from a schedule or a person.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Call {
    source: Option<String>,
    cache: String,
}

/// The detail of ECR's event. The kinds have different fields.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct ImageAction {
    action_type: Option<String>,
    result: Option<String>,
    sync_status: Option<String>,
    repository_name: String,
    image_tag: Option<String>,
    image_digest: Option<String>,
}

impl Event {
    pub(crate) fn parse(input: Value) -> Result<Self, StageError> {
        if input.get("detail-type").is_some() {
            return Self::parse_push(input);
        }
        let shown = input.to_string();
        let call: Call = serde_json::from_value(input).map_err(|error| {
            invalid(format!(
                "{} is neither an event of ECR nor `{{\"cache\": \"…\"}}`: {error}",
                shorten(&shown)
            ))
        })?;
        match call.source.as_deref() {
            None => Ok(Self::Manual { cache: call.cache }),
            Some("schedule") => Ok(Self::Schedule { cache: call.cache }),
            Some(source) => Err(invalid(format!(
                "its `source` is `{}`. Set it to `schedule`, or leave it out",
                shorten(source)
            ))),
        }
    }

    fn parse_push(input: Value) -> Result<Self, StageError> {
        let field = |field: &str| input.get(field).and_then(Value::as_str);
        let known = KINDS
            .iter()
            .find(|kind| field("detail-type") == Some(kind.detail_type));
        let Some(kind) = known.filter(|_| field("source") == Some(ECR_SOURCE)) else {
            let shown = |name: &str| shorten(field(name).unwrap_or("nothing"));
            return Err(invalid(format!(
                "it is `{}` from `{}`, and only {} from `{ECR_SOURCE}` start builds. Restrict the EventBridge rule to \
                 these events",
                shown("detail-type"),
                shown("source"),
                KINDS
                    .map(|kind| format!("`{}`", kind.detail_type))
                    .join(", "),
            )));
        };
        let event: EventBridgeEvent<ImageAction> =
            serde_json::from_value(input).map_err(|error| {
                invalid(format!(
                    "it is not a valid `{}` event of ECR: {error}",
                    kind.detail_type
                ))
            })?;
        let detail = event.detail;
        let name = shorten(&detail.repository_name);
        let action = detail.action_type.as_deref();
        if let Some(wanted) = kind.action_type.filter(|wanted| action != Some(wanted)) {
            return Err(invalid(format!(
                "its `action-type` for `{name}` is `{}`, and only a `{wanted}` brings new content. Restrict the \
                 EventBridge rule to `{wanted}`",
                shorten(action.unwrap_or("nothing"))
            )));
        }
        let result = match kind.result {
            "sync-status" => detail.sync_status,
            _ => detail.result,
        };
        if result.as_deref() != Some("SUCCESS") {
            return Err(invalid(format!(
                "its `{}` for `{name}` is `{}`, so ECR has no new image. Push the image again",
                kind.result,
                shorten(result.as_deref().unwrap_or("nothing"))
            )));
        }
        let Some(tag) = detail.image_tag.filter(|tag| !tag.is_empty()) else {
            return Err(invalid(format!(
                "it has no `image-tag`: `{name}@{}` was pushed by digest only, which changes no reference of a \
                 cache. Push it with a tag",
                shorten(detail.image_digest.as_deref().unwrap_or("?"))
            )));
        };
        let part = |name: &str, value: Option<String>| {
            value.ok_or_else(|| {
                invalid(format!(
                    "it has no `{name}`, which every event of ECR has. Send the event as \
                     ECR emits it"
                ))
            })
        };
        let repository = EcrRepository {
            account: part("account", event.account)?
                .parse()
                .map_err(|error| invalid(format!("{error}")))?,
            region: part("region", event.region)?
                .parse()
                .map_err(|error| invalid(format!("{error}")))?,
            repository: detail.repository_name,
        };
        Ok(Self::Push {
            push: Push { repository, tag },
            at: event
                .time
                .and_then(|time| Timestamp::from_second(time.timestamp()).ok()),
        })
    }
}

fn invalid(problem: String) -> StageError {
    StageError::InvalidEvent(problem)
}

/// Shortens a value of the input for a message.
fn shorten(value: &str) -> String {
    excerpt(value, 200)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn push() -> Value {
        json!({
            "version": "0",
            "id": "13cde686-328b-6117-af20-0e5566167482",
            "detail-type": "ECR Image Action",
            "source": "aws.ecr",
            "account": "123456789012",
            "time": "2026-01-02T03:04:05Z",
            "region": "eu-west-1",
            "resources": [],
            "detail": {
                "result": "SUCCESS",
                "repository-name": "team/api",
                "image-digest": "sha256:7f5b2640fe6fb4f46592dfd3410c4a79dac4f89e4782432e0378abcd1234",
                "action-type": "PUSH",
                "image-tag": "v1"
            }
        })
    }

    /// Source: Amazon ECR user guide, "Amazon ECR events and `EventBridge`".
    fn replication() -> Value {
        let mut event = push();
        event["detail-type"] = json!("ECR Replication Action");
        event["resources"] = json!(["arn:aws:ecr:eu-west-1:123456789012:repository/team/api"]);
        event["detail"]["action-type"] = json!("REPLICATE");
        event["detail"]["source-account"] = json!("210987654321");
        event["detail"]["source-region"] = json!("us-west-2");
        event
    }

    /// Source: Amazon ECR user guide, "Amazon ECR events and `EventBridge`".
    fn pull_through() -> Value {
        let mut event = push();
        event["detail-type"] = json!("ECR Pull Through Cache Action");
        event["resources"] =
            json!(["arn:aws:ecr:eu-west-1:123456789012:repository/docker-hub/library/nginx"]);
        event["detail"] = json!({
            "rule-version": "1",
            "sync-status": "SUCCESS",
            "ecr-repository-prefix": "docker-hub",
            "repository-name": "docker-hub/library/nginx",
            "upstream-registry-url": "registry-1.docker.io",
            "image-tag": "1.27",
            "image-digest": "sha256:4aa08ef415aecc80814cb42fa41b658480779d80c77ab15e3a5b1c2a1e0e5b1a"
        });
        event
    }

    /// Returns the error for the push with the value at `pointer` replaced or removed.
    fn refusal(pointer: &str, value: Option<Value>) -> String {
        refusal_of(push(), pointer, value)
    }

    fn refusal_of(mut event: Value, pointer: &str, value: Option<Value>) -> String {
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        let parent = event.pointer_mut(parent).unwrap().as_object_mut().unwrap();
        match value {
            Some(value) => parent.insert(field.to_owned(), value),
            None => parent.remove(field),
        };
        Event::parse(event).unwrap_err().to_string()
    }

    #[test]
    fn push_event_yields_image_and_time() {
        let Event::Push { push, at } = Event::parse(push()).unwrap() else {
            panic!("this is a push");
        };
        assert_eq!(
            push.to_string(),
            "team/api:v1 in the registry of account 123456789012 in eu-west-1"
        );
        assert_eq!(at.unwrap().to_string(), "2026-01-02T03:04:05Z");
    }

    #[test]
    fn replication_and_pull_through_yield_the_image() {
        for (event, image) in [
            (replication(), "team/api:v1"),
            (pull_through(), "docker-hub/library/nginx:1.27"),
        ] {
            let Ok(Event::Push { push, .. }) = Event::parse(event) else {
                panic!("{image} is new");
            };
            assert_eq!(
                push.to_string(),
                format!("{image} in the registry of account 123456789012 in eu-west-1")
            );
        }
    }

    #[test]
    fn failed_copy_is_rejected_with_a_reason() {
        let failed = || Some(json!("FAILED"));
        insta::assert_snapshot!(
            [
                refusal_of(replication(), "/detail/result", failed()),
                refusal_of(replication(), "/detail/action-type", Some(json!("PUSH"))),
                refusal_of(replication(), "/detail/image-tag", None),
                refusal_of(replication(), "/source", Some(json!("custom"))),
                refusal_of(pull_through(), "/detail/sync-status", failed()),
                refusal_of(pull_through(), "/detail/sync-status", None),
                refusal_of(pull_through(), "/detail/image-tag", None),
                refusal_of(pull_through(), "/source", Some(json!("custom"))),
            ]
            .join("\n")
        );
    }

    #[test]
    fn schedule_and_manual_trigger_yield_the_cache() {
        let cache = "web".to_owned();
        assert_eq!(
            Event::parse(json!({"source": "schedule", "cache": "web"})),
            Ok(Event::Schedule {
                cache: cache.clone()
            })
        );
        assert_eq!(
            Event::parse(json!({"cache": "web"})),
            Ok(Event::Manual { cache })
        );
    }

    #[test]
    fn event_without_new_content_is_rejected_with_a_reason() {
        insta::assert_snapshot!(
            [
                refusal("/detail/image-tag", None),
                refusal("/detail/image-tag", Some(json!(""))),
                refusal("/detail/result", Some(json!("FAILURE"))),
                refusal("/detail/action-type", Some(json!("DELETE"))),
                refusal("/detail", Some(json!("SUCCESS"))),
                refusal("/detail/repository-name", Some(json!(7))),
                refusal("/detail/repository-name", None),
                refusal("/account", None),
                refusal("/region", Some(json!("here"))),
                refusal("/source", Some(json!("aws.s3"))),
                refusal("/detail-type", Some(json!("ECR Image Scan"))),
                refusal("/detail-type", Some(Value::Null)),
            ]
            .join("\n")
        );
    }

    #[test]
    fn malformed_input_is_rejected() {
        for input in [
            json!(null),
            json!([]),
            json!({}),
            json!("web"),
            json!({"cache": 1}),
            json!({"cache": "web", "force": true}),
            json!({"cache": "web", "source": "sweep"}),
            json!({"cache": "x".repeat(10_000), "oops": 1}),
        ] {
            let error = Event::parse(input).unwrap_err();
            assert_eq!(error.name(), "InvalidEvent");
            assert!(error.to_string().len() < 1_000, "{error}");
        }
    }
}
