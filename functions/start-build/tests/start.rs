//! Tests of start-build against mocked answers of Step Functions.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_smithy_mocks::{MockResponse, Rule, mock};
use jiff::SignedDuration;
use prepull_aws::Deadline;
use prepull_aws::sfn::Client;
use prepull_aws::sfn::error::ErrorMetadata;
use prepull_aws::sfn::operation::start_execution::{
    StartExecutionError, StartExecutionInput, StartExecutionOutput,
};
use prepull_domain::StageError;
use prepull_testing::{Mocks, ParameterStore, configuration};
use serde_json::{Value, json};
use start_build::{Output, Settings, handle};

const MACHINE: &str = "arn:aws:states:eu-west-1:123456789012:stateMachine:prepull-build";

/// The recorded `StartExecution` requests.
type Requests = Arc<Mutex<Vec<StartExecutionInput>>>;

/// Returns a rule that rejects executions whose name starts with a prefix in `refused` and starts all others, and the
/// recorded requests.
fn starts(refused: &'static [(&'static str, &'static str)]) -> (Rule, Requests) {
    let requests = Requests::default();
    let kept = Arc::clone(&requests);
    let rule = mock!(Client::start_execution).then_compute_response(move |request| {
        kept.lock().unwrap().push(request.clone());
        let name = request.name().unwrap_or_default();
        match refused.iter().find(|(prefix, _)| name.starts_with(prefix)) {
            Some((_, code)) => MockResponse::Error(StartExecutionError::generic(
                ErrorMetadata::builder().code(*code).build(),
            )),
            None => MockResponse::Output(
                StartExecutionOutput::builder()
                    .execution_arn(MACHINE)
                    .start_date(prepull_aws::DateTime::from_secs(0))
                    .build()
                    .unwrap(),
            ),
        }
    });
    (rule, requests)
}

async fn trigger(store: &ParameterStore, rule: Rule, input: Value) -> Result<Output, StageError> {
    let settings = Settings {
        state_machine_arn: MACHINE.to_owned(),
        debounce: SignedDuration::from_secs(60),
    };
    let clients = Mocks::new().ssm(store.rules()).sfn([rule]).clients();
    let deadline = Deadline::after(Duration::from_mins(1));
    handle(&clients, &settings, input, deadline).await
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
fn caches() -> ParameterStore {
    let config = configuration();
    let mut deaf = config.clone();
    deaf["rebuild_on_push"] = false.into();
    ParameterStore::of([
        ("/prepull/config/web", &config.to_string()),
        ("/prepull/config/api", &config.to_string()),
        ("/prepull/config/deaf", &deaf.to_string()),
        ("/prepull/config/broken", "{}"),
    ])
}

fn names(requests: &Requests) -> Vec<String> {
    let requests = requests.lock().unwrap();
    requests
        .iter()
        .filter_map(|request| request.name.clone())
        .collect()
}

#[tokio::test]
async fn push_starts_every_cache_with_the_image() {
    let (rule, requests) = starts(&[]);
    let output = trigger(&caches(), rule, push("team/api")).await.unwrap();
    assert_eq!(
        serde_json::to_value(&output).unwrap(),
        json!({
            "started": [{"cache": "api", "execution": "api-10"}, {"cache": "web", "execution": "web-10"}],
            "joined": [],
            "ignored": null
        })
    );
    let requests = requests.lock().unwrap();
    assert_eq!(requests[1].state_machine_arn(), Some(MACHINE));
    let input: Value = serde_json::from_str(requests[1].input().unwrap()).unwrap();
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
    let (rule, _) = starts(&[("web-", "ExecutionAlreadyExists")]);
    let output = trigger(&caches(), rule, push("team/api")).await.unwrap();
    assert_eq!(output.started.len(), 1);
    assert_eq!(output.joined[0].execution.as_str(), "web-10");
}

#[tokio::test]
async fn unrelated_push_is_ignored_with_a_reason() {
    let (rule, requests) = starts(&[]);
    let output = trigger(&caches(), rule, push("team/other")).await.unwrap();
    let reason = output.ignored.unwrap();
    assert!(reason.contains("team/other:v1"), "{reason}");
    assert!(names(&requests).is_empty());
}

#[tokio::test]
async fn failed_start_does_not_stop_other_caches() {
    let (rule, requests) = starts(&[("api-", "ThrottlingException")]);
    let error = trigger(&caches(), rule, push("team/api"))
        .await
        .unwrap_err();
    assert_eq!(error.name(), "Throttled");
    assert_eq!(names(&requests), ["api-10", "web-10"]);
}

#[tokio::test]
async fn failed_push_starts_nothing() {
    let (rule, requests) = starts(&[]);
    let mut event = push("team/api");
    event["detail"]["result"] = "FAILURE".into();
    let error = trigger(&caches(), rule, event).await.unwrap_err();
    assert_eq!(error.name(), "InvalidEvent");
    assert!(names(&requests).is_empty());
}

#[tokio::test]
async fn schedule_starts_a_cache_that_ignores_pushes() {
    let (rule, requests) = starts(&[]);
    let input = json!({"source": "schedule", "cache": "deaf"});
    let output = trigger(&caches(), rule, input).await.unwrap();
    assert_eq!(output.started[0].cache.as_str(), "deaf");
    assert_eq!(names(&requests).len(), 1);
}

#[tokio::test]
async fn call_for_unknown_or_invalid_cache_is_rejected() {
    for cache in ["unknown", "broken", "Not A Name"] {
        let (rule, requests) = starts(&[]);
        let error = trigger(&caches(), rule, json!({ "cache": cache }))
            .await
            .unwrap_err();
        assert_eq!(error.name(), "InvalidConfig", "{cache}");
        assert!(error.to_string().contains(cache), "{error}");
        assert!(names(&requests).is_empty());
    }
}
