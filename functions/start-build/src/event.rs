//! The input of start-build.

use aws_lambda_events::eventbridge::EventBridgeEvent;
use jiff::Timestamp;
use prepull_domain::build::trigger::Push;
use prepull_domain::cache::image::EcrRepository;
use prepull_domain::{StageError, excerpt};
use serde::{Deserialize, Serialize};
use serde_json::Value;

const ECR_SOURCE: &str = "aws.ecr";
const ECR_DETAIL_TYPE: &str = "ECR Image Action";

/// A reason to build.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// An image was pushed.
    Push {
        push: Push,
        /// The time of the push by ECR's clock. `None` if the event has no time.
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

/// The detail of ECR's event.
///
/// Source: Amazon ECR user guide, "Amazon ECR events and `EventBridge`".
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct ImageAction {
    action_type: String,
    result: String,
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
                "{} is neither an `{ECR_DETAIL_TYPE}` event nor `{{\"cache\": \"…\"}}`: {error}",
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
        let kind = |field: &str| {
            let value = input.get(field).and_then(Value::as_str);
            shorten(value.unwrap_or("nothing"))
        };
        if input.get("detail-type") != Some(&ECR_DETAIL_TYPE.into())
            || input.get("source") != Some(&ECR_SOURCE.into())
        {
            return Err(invalid(format!(
                "it is `{}` from `{}`, not `{ECR_DETAIL_TYPE}` from `{ECR_SOURCE}`. Restrict the EventBridge rule to \
                 this event",
                kind("detail-type"),
                kind("source"),
            )));
        }
        let event: EventBridgeEvent<ImageAction> =
            serde_json::from_value(input).map_err(|error| {
                invalid(format!(
                    "it is not a valid `{ECR_DETAIL_TYPE}` event of ECR: {error}"
                ))
            })?;
        let detail = event.detail;
        let name = shorten(&detail.repository_name);
        if detail.action_type != "PUSH" {
            return Err(invalid(format!(
                "its `action-type` for `{name}` is `{}`, and only a `PUSH` brings new content. Restrict the \
                 EventBridge rule to `PUSH`",
                shorten(&detail.action_type)
            )));
        }
        if detail.result != "SUCCESS" {
            return Err(invalid(format!(
                "its `result` for `{name}` is `{}`, so ECR has no new image. Push the image again",
                shorten(&detail.result)
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

    /// Returns the error for the push with the value at `pointer` replaced or removed.
    fn refusal(pointer: &str, value: Option<Value>) -> String {
        let mut event = push();
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
