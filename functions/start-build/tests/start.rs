//! Tests of start-build against mocked answers of Step Functions.

use std::time::Duration;

use jiff::SignedDuration;
use prepull_aws::Deadline;
use prepull_domain::StageError;
use prepull_testing::{FakeAws, STATE_MACHINE_ARN, configuration};
use serde_json::{Value, json};
use start_build::{Output, Settings, handle};

async fn trigger(aws: &FakeAws, input: Value) -> Result<Output, StageError> {
    let settings = Settings {
        state_machine_arn: STATE_MACHINE_ARN.to_owned(),
        debounce: SignedDuration::from_secs(60),
    };
    let deadline = Deadline::after(Duration::from_mins(1));
    handle(&aws.clients(), &settings, input, deadline).await
}

fn push(repository: &str) -> Value {
    json!({
        "detail-type": "ECR Image Action",
        "source": "aws.ecr",
        "account": "123456789012",
        "region": "eu-west-1",
        "time": "1970-01-01T00:10:59Z",
        "detail": {
            "action-type": "PUSH",
            "result": "SUCCESS",
            "repository-name": repository,
            "image-tag": "v1"
        }
    })
}

/// Returns two caches with `team/api:v1`, one cache that ignores pushes, and one misconfigured cache.
fn caches() -> FakeAws {
    let config = configuration();
    let mut deaf = config.clone();
    deaf["rebuild_on_push"] = false.into();
    FakeAws::new()
        .with_parameters(&[
            ("/prepull/config/web", &config.to_string()),
            ("/prepull/config/api", &config.to_string()),
            ("/prepull/config/deaf", &deaf.to_string()),
            ("/prepull/config/broken", "{}"),
        ])
        .with_executions([])
}

/// Returns a cache whose first page has no image, and whose second page is `page`.
fn paged(page: Option<&str>) -> FakeAws {
    let mut config = configuration();
    config["images"] = json!([]);
    config["more_images"] = json!({"pages": 1, "folder": "f"});
    let aws = FakeAws::new()
        .with_parameters(&[
            ("/prepull/config/web", &config.to_string()),
            ("/prepull/config/api", &configuration().to_string()),
        ])
        .with_executions([]);
    if let Some(page) = page {
        aws.set_parameter("/prepull/config/web/f/2", page);
    }
    aws
}

#[tokio::test]
async fn push_of_an_image_on_a_further_page_starts_a_build() {
    let image = r#"["123456789012.dkr.ecr.eu-west-1.amazonaws.com/team/far:v1"]"#;
    let output = trigger(&paged(Some(image)), push("team/far"))
        .await
        .unwrap();
    assert_eq!(output.started.len(), 1, "{output:?}");
}

#[tokio::test(start_paused = true)]
async fn missing_page_is_read_again_and_stops_only_its_cache() {
    let aws = paged(None);
    let output = trigger(&aws, push("team/api")).await.unwrap();
    assert_eq!(output.started.len(), 1, "{output:?}");
    assert_eq!(aws.calls("ssm:GetParametersByPath").len(), 3);
    let error = trigger(&aws, json!({"source": "schedule", "cache": "web"}))
        .await
        .unwrap_err();
    assert_eq!(error.name(), "InvalidConfig");
    let page = "page /prepull/config/web/f/2 is missing. Run `terraform apply` again";
    assert!(error.to_string().contains(page), "{error}");
}

#[tokio::test]
async fn push_starts_every_cache_with_the_image() {
    let aws = caches();
    let output = trigger(&aws, push("team/api")).await.unwrap();
    assert_eq!(
        serde_json::to_value(&output).unwrap(),
        json!({
            "started": [{"cache": "api", "execution": "api-10"}, {"cache": "web", "execution": "web-10"}],
            "joined": [],
            "ignored": null
        })
    );
    let newest = &aws.executions()[0];
    assert_eq!(newest.state_machine_arn(), STATE_MACHINE_ARN);
    let input: Value = serde_json::from_str(newest.input().unwrap()).unwrap();
    assert_eq!(
        input,
        json!({
            "cache": "web",
            "debounce_seconds": 60,
            "trigger": {"source": "push", "image": "team/api:v1", "at": "1970-01-01T00:10:59Z"}
        })
    );
}

#[tokio::test]
async fn push_joins_the_execution_of_its_window() {
    let aws = caches().failing("states:StartExecution web-", "ExecutionAlreadyExists");
    let output = trigger(&aws, push("team/api")).await.unwrap();
    assert_eq!(output.started.len(), 1);
    assert_eq!(output.joined[0].execution.as_str(), "web-10");
}

#[tokio::test]
async fn unrelated_push_is_ignored_with_a_reason() {
    let aws = caches();
    let output = trigger(&aws, push("team/other")).await.unwrap();
    let reason = output.ignored.unwrap();
    assert!(reason.contains("team/other:v1"), "{reason}");
    assert!(aws.calls("states:StartExecution").is_empty());
}

#[tokio::test]
async fn failed_start_does_not_stop_other_caches() {
    let aws = caches().failing("states:StartExecution api-", "ThrottlingException");
    let error = trigger(&aws, push("team/api")).await.unwrap_err();
    assert_eq!(error.name(), "Throttled");
    assert_eq!(aws.calls("states:StartExecution"), ["api-10", "web-10"]);
}

#[tokio::test]
async fn failed_push_starts_nothing() {
    let aws = caches();
    let mut event = push("team/api");
    event["detail"]["result"] = "FAILURE".into();
    let error = trigger(&aws, event).await.unwrap_err();
    assert_eq!(error.name(), "InvalidEvent");
    assert!(aws.calls("states:StartExecution").is_empty());
}

#[tokio::test]
async fn schedule_starts_a_cache_that_ignores_pushes() {
    let aws = caches();
    let input = json!({"source": "schedule", "cache": "deaf"});
    let output = trigger(&aws, input).await.unwrap();
    assert_eq!(output.started[0].cache.as_str(), "deaf");
    assert_eq!(aws.calls("states:StartExecution").len(), 1);
}

#[tokio::test]
async fn call_for_unknown_or_invalid_cache_is_rejected() {
    for cache in ["unknown", "broken", "Not A Name"] {
        let aws = caches();
        let error = trigger(&aws, json!({ "cache": cache })).await.unwrap_err();
        assert_eq!(error.name(), "InvalidConfig", "{cache}");
        assert!(error.to_string().contains(cache), "{error}");
        assert!(aws.calls("states:StartExecution").is_empty());
    }
}
