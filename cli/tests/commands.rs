//! Snapshot tests of the commands' output, against mocked answers of AWS.

use std::collections::BTreeMap;
use std::future::{pending, ready};

use aws_smithy_mocks::{Rule, mock};
use clap::{CommandFactory as _, Parser as _};
use jiff::Timestamp;
use prepull::history::{Build, Outcome, TargetOutcome, Update};
use prepull::{Answer, Args, Error, Exit, Output, progress};
use prepull_aws::ec2::types::{
    Instance, InstanceState, InstanceStateName, Reservation, Snapshot, SnapshotState, Tag,
};
use prepull_aws::sfn::types::{
    ExecutionListItem, ExecutionStatus, HistoryEvent, StateMachineListItem, StateMachineType,
};
use prepull_aws::ssm::types::Parameter;
use prepull_aws::{Clients, DateTime, ec2, sfn, ssm};
use prepull_domain::Architecture;
use prepull_testing::Mocks;
use serde_json::{Value, json};

const MACHINE: &str = "arn:aws:states:eu-west-1:123456789012:stateMachine:prepull-build";
const NEW: &str = "snap-0123456789abcdef1";
const OLD: &str = "snap-0123456789abcdef0";

fn now() -> Timestamp {
    "2026-01-02T06:10:00Z".parse().unwrap()
}

async fn run(command: &str, clients: Clients) -> Result<Answer, Error> {
    let args = Args::try_parse_from(format!("prepull {command}").split(' ')).unwrap();
    prepull::run(&args, &clients, now(), pending()).await
}

async fn text(command: &str, clients: Clients) -> String {
    run(command, clients).await.unwrap().text
}

// The content of AWS.

fn config() -> Value {
    json!({
        "images": ["docker.io/library/nginx:1.27", "docker.io/library/redis:8"],
        "architectures": ["x86_64", "arm64"],
        "variant": "aws-k8s-1.33",
        "bottlerocket_version": "latest",
        "volume": {"size_gib": 50, "iops": 3000, "throughput_mibps": 500, "kms_key_id": null},
        "builder": {
            "instance_types": {"x86_64": ["m7i.2xlarge"], "arm64": ["m7g.2xlarge"]},
            "subnet_ids": ["subnet-0123456789abcdef0"],
            "security_group_ids": ["sg-0123456789abcdef0"]
        },
        "parallel_pulls": 4,
        "retain_snapshots": 3,
        "timeout_minutes": 60,
        "rebuild_on_push": true
    })
}

fn manifest(snapshot: &str, image: &str, base: &Value) -> Value {
    json!({
        "snapshot_id": snapshot,
        "cache": "web",
        "architecture": "x86_64",
        "execution": "web-29455384",
        "content_key": "c".repeat(64),
        "images": [
            {"reference": "docker.io/library/nginx:1.27", "digest": format!("sha256:{}", "a".repeat(64)), "size": 72_400_000},
            {"reference": image, "digest": format!("sha256:{}", "b".repeat(64)), "size": 45_300_000}
        ],
        "variant": "aws-k8s-1.33",
        "node": {
            "bottlerocket_version": "1.57.0",
            "containerd_version": "2.1.9",
            "kernel_version": "6.12.40",
            "snapshotter": "overlayfs",
            "ready_at": "2026-01-02T03:05:00Z"
        },
        "base": base,
        "volume_size": 50,
        "used": 412_000_000,
        "packed": 110_000_000,
        "fresh": {"packed": 105_000_000, "used": 390_000_000},
        "instance_type": "m7i.2xlarge",
        "planned_at": "2026-01-02T03:04:05Z",
        "launched_at": "2026-01-02T03:04:10Z",
        "verified_at": "2026-01-02T03:06:00Z",
        "snapshot_started_at": "2026-01-02T03:07:00Z",
        "completed_at": "2026-01-02T03:08:00Z",
        "published_at": "2026-01-02T03:08:10Z"
    })
}

/// Returns a published snapshot for `x86_64`, built on an older one. `arm64` has none.
fn parameters() -> BTreeMap<String, String> {
    let path = "/prepull/web/x86_64";
    let (redis, valkey) = ("docker.io/library/redis:8", "docker.io/valkey/valkey:8");
    let first = json!({"kind": "empty", "reason": "no snapshot is published"});
    let second = json!({"kind": "snapshot", "snapshot_id": OLD, "fresh": {"packed": 120_000_000, "used": 380_000_000}});
    [
        ("/prepull/config/web".to_owned(), config().to_string()),
        (format!("{path}/snapshot-id"), NEW.to_owned()),
        (
            format!("{path}/snapshots/{NEW}"),
            manifest(NEW, redis, &second).to_string(),
        ),
        (
            format!("{path}/snapshots/{OLD}"),
            manifest(OLD, valkey, &first).to_string(),
        ),
    ]
    .into()
}

fn code(code: &str) -> ssm::error::ErrorMetadata {
    ssm::error::ErrorMetadata::builder().code(code).build()
}

fn parameter_store(parameters: BTreeMap<String, String>) -> [Rule; 2] {
    let below = parameters.clone();
    [
        mock!(ssm::Client::get_parameter).then_compute_response(move |request| {
            use aws_smithy_mocks::MockResponse;
            use ssm::operation::get_parameter::{GetParameterError, GetParameterOutput};
            use ssm::types::error::ParameterNotFound;
            let Some(value) = parameters.get(request.name().unwrap()) else {
                let metadata = code("ParameterNotFound");
                return MockResponse::Error(GetParameterError::ParameterNotFound(
                    ParameterNotFound::builder().meta(metadata).build(),
                ));
            };
            let parameter = Parameter::builder().value(value).build();
            MockResponse::Output(GetParameterOutput::builder().parameter(parameter).build())
        }),
        mock!(ssm::Client::get_parameters_by_path).then_compute_output(move |request| {
            let path = format!("{}/", request.path().unwrap());
            let found = below.iter().filter(|(name, _)| name.starts_with(&path));
            let found =
                found.map(|(name, value)| Parameter::builder().name(name).value(value).build());
            ssm::operation::get_parameters_by_path::GetParametersByPathOutput::builder()
                .set_parameters(Some(found.collect()))
                .build()
        }),
    ]
}

fn tags(tags: &[(&str, &str)]) -> Vec<Tag> {
    let tag = |(key, value): &(&str, &str)| Tag::builder().key(*key).value(*value).build();
    tags.iter().map(tag).collect()
}

fn date(time: &str) -> DateTime {
    DateTime::from_secs(time.parse::<Timestamp>().unwrap().as_second())
}

fn snapshots() -> Rule {
    let snapshot = |id: &str, time: &str, state: SnapshotState, tag: &[(&str, &str)]| {
        let mut all = vec![("prepull:cache", "web"), ("prepull:architecture", "x86_64")];
        all.extend(tag);
        let progress = if state == SnapshotState::Pending {
            "42%"
        } else {
            "100%"
        };
        Snapshot::builder()
            .snapshot_id(id)
            .state(state)
            .progress(progress)
            .start_time(date(time))
            .volume_size(50)
            .set_tags(Some(tags(&all)))
            .build()
    };
    let found = [
        snapshot(
            OLD,
            "2026-01-01T03:07:00Z",
            SnapshotState::Completed,
            &[("prepull:state", "verified")],
        ),
        snapshot(
            NEW,
            "2026-01-02T03:07:00Z",
            SnapshotState::Completed,
            &[("prepull:state", "published")],
        ),
        snapshot(
            "snap-0123456789abcdef2",
            "2026-01-02T06:09:00Z",
            SnapshotState::Pending,
            &[],
        ),
    ];
    mock!(ec2::Client::describe_snapshots).then_compute_output(move |request| {
        let asked = |snapshot: &&Snapshot| {
            let ids = request.snapshot_ids();
            ids.is_empty()
                || ids
                    .iter()
                    .any(|id| Some(id.as_str()) == snapshot.snapshot_id())
        };
        ec2::operation::describe_snapshots::DescribeSnapshotsOutput::builder()
            .set_snapshots(Some(found.iter().filter(asked).cloned().collect()))
            .build()
    })
}

fn instances() -> Rule {
    mock!(ec2::Client::describe_instances).then_output(|| {
        let instance = Instance::builder()
            .instance_id("i-0123456789abcdef0")
            .state(
                InstanceState::builder()
                    .name(InstanceStateName::Running)
                    .build(),
            )
            .set_tags(Some(tags(&[
                ("prepull:cache", "web"),
                ("prepull:architecture", "arm64"),
                ("prepull:execution", "web-29455999"),
            ])))
            .build();
        ec2::operation::describe_instances::DescribeInstancesOutput::builder()
            .reservations(Reservation::builder().instances(instance).build())
            .build()
    })
}

fn execution(name: &str) -> String {
    format!("arn:aws:states:eu-west-1:123456789012:execution:prepull-build:{name}")
}

/// Returns rules for the state machine. An execution of another cache is newer than the one of `web`.
fn executions() -> Vec<Rule> {
    vec![
        mock!(sfn::Client::list_state_machines).then_output(|| {
            let machine = StateMachineListItem::builder()
                .name("prepull-build")
                .state_machine_arn(MACHINE)
                .r#type(StateMachineType::Standard)
                .creation_date(date("2026-01-01T00:00:00Z"))
                .build();
            sfn::operation::list_state_machines::ListStateMachinesOutput::builder()
                .state_machines(machine.unwrap())
                .build()
                .unwrap()
        }),
        mock!(sfn::Client::list_executions).then_output(|| {
            let execution = |name: &str| {
                ExecutionListItem::builder()
                    .name(name)
                    .execution_arn(execution(name))
                    .state_machine_arn(MACHINE)
                    .status(ExecutionStatus::Failed)
                    .start_date(date("2026-01-02T03:04:05Z"))
                    .build()
                    .unwrap()
            };
            sfn::operation::list_executions::ListExecutionsOutput::builder()
                .executions(execution("web-2-29455999"))
                .executions(execution("web-29455384"))
                .build()
                .unwrap()
        }),
        mock!(sfn::Client::describe_execution).then_compute_output(|request| {
            let arn = request.execution_arn().unwrap();
            let cache = if arn.contains("web-2-") { "web-2" } else { "web" };
            sfn::operation::describe_execution::DescribeExecutionOutput::builder()
                .execution_arn(arn)
                .state_machine_arn(MACHINE)
                .status(ExecutionStatus::Failed)
                .start_date(date("2026-01-02T03:04:05Z"))
                .stop_date(date("2026-01-02T03:16:18Z"))
                .input(json!({"cache": cache}).to_string())
                .error("PullFailed")
                .cause("arm64: pull-images failed with PullFailed: image `docker.io/library/redis:8` could not be pulled: connection reset by peer")
                .build()
                .unwrap()
        }),
    ]
}

/// Returns rules for an execution. Its history grows between two requests.
fn history() -> Vec<Rule> {
    let page = |events: usize| {
        let all = include_str!("histories/one_of_two_architectures_fails.json");
        let mut events: Vec<Value> = serde_json::from_str::<Vec<Value>>(all)
            .unwrap()
            .into_iter()
            .take(events)
            .collect();
        events.reverse();
        json!({"events": events}).to_string()
    };
    let response = move |events: usize| {
        prepull_aws::smithy::client::orchestrator::HttpResponse::new(
            200.try_into().unwrap(),
            page(events).into(),
        )
    };
    vec![
        mock!(sfn::Client::start_execution).then_compute_output(|request| {
            assert_eq!(
                request.input(),
                Some(
                    r#"{"cache":"web","trigger":{"source":"manual","at":"2026-01-02T06:10:00Z"}}"#
                )
            );
            sfn::operation::start_execution::StartExecutionOutput::builder()
                .execution_arn(execution(request.name().unwrap()))
                .start_date(date("2026-01-02T03:04:05Z"))
                .build()
                .unwrap()
        }),
        mock!(sfn::Client::get_execution_history)
            .sequence()
            .http_response(move || response(30))
            .http_response(move || response(usize::MAX))
            .build(),
    ]
}

// The commands.

#[test]
fn help_lists_commands_and_exit_codes() {
    insta::assert_snapshot!(Args::command().render_long_help());
}

#[test]
fn invalid_cache_name_fails_with_the_naming_rule() {
    let error = Args::try_parse_from(["prepull", "build", "Web"]).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    insta::assert_snapshot!(error);
}

#[tokio::test]
async fn build_starts_and_follows_to_the_end() {
    let mut rules = executions();
    rules.extend(history());
    let clients = Mocks::new()
        .ssm(parameter_store(parameters()))
        .sfn(rules)
        .clients();
    let answer = run("build web", clients).await.unwrap();
    assert_eq!(answer.exit, Exit::Failed);
    insta::assert_snapshot!(answer.text);
}

#[tokio::test]
async fn build_json_contains_every_stage_and_target() {
    let mut rules = executions();
    rules.extend(history());
    let clients = Mocks::new()
        .ssm(parameter_store(parameters()))
        .sfn(rules)
        .clients();
    insta::assert_snapshot!(text("build web --output json", clients).await);
}

#[tokio::test]
async fn follow_selects_the_newest_build_of_exactly_this_cache() {
    let mut rules = executions();
    rules.extend(history());
    let clients = Mocks::new().sfn(rules).clients();
    let text = text("follow web", clients).await;
    assert!(text.starts_with("Build web-29455384 failed"), "{text}");
}

#[test]
fn progress_prints_self_contained_lines() {
    let clients = Mocks::new().sfn(history()).clients();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let events: Vec<HistoryEvent> = runtime.block_on(async {
        let ask = || {
            clients
                .sfn
                .get_execution_history()
                .execution_arn(execution("web-1"))
                .send()
        };
        ask().await.unwrap();
        ask().await.unwrap().events.into_iter().rev().collect()
    });
    let mut build = Build::new("web".parse().unwrap(), execution("web-1").parse().unwrap());
    let updates: Vec<Update> = events
        .iter()
        .filter_map(|event| build.apply(event))
        .collect();
    let lines: Vec<String> = updates.iter().flat_map(progress::lines).collect();
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn outcome_determines_text_and_exit_code() {
    let snapshots: BTreeMap<_, _> = [(Architecture::X86_64, NEW.parse().unwrap())].into();
    let published = TargetOutcome::Published {
        snapshot_id: NEW.parse().unwrap(),
    };
    let superseded = TargetOutcome::Superseded {
        snapshot_id: NEW.parse().unwrap(),
    };
    let ends = [
        (
            Outcome::Published {
                snapshots: snapshots.clone(),
            },
            Some(published),
        ),
        (
            Outcome::Published {
                snapshots: BTreeMap::new(),
            },
            Some(superseded),
        ),
        (Outcome::UpToDate { snapshots }, None),
        (
            Outcome::Superseded {
                superseded_by: "web-29455385".parse().unwrap(),
            },
            None,
        ),
        (
            Outcome::Failed {
                error: "ImageNotFound".to_owned(),
                cause: "plan-build failed with ImageNotFound: image `docker.io/library/nginx:1.72`: the registry has no such tag"
                    .to_owned(),
            },
            None,
        ),
        (
            Outcome::Aborted {
                cause: "wrong cache".to_owned(),
            },
            None,
        ),
        (Outcome::TimedOut, None),
    ];
    let texts = ends.map(|(outcome, target)| {
        let mut build = Build::new("web".parse().unwrap(), execution("web-1").parse().unwrap());
        build.outcome = outcome;
        build
            .targets
            .extend(target.map(|target| (Architecture::X86_64, target)));
        let Answer { text, exit } = prepull::build::answer(build, Output::Text, false);
        format!("{text}\n-> exit code {}\n", exit as u8)
    });
    insta::assert_snapshot!(texts.join("\n"));
}

#[tokio::test]
async fn ctrl_c_stops_following_and_prints_the_stop_command() {
    let mut rules = executions();
    rules.extend(history());
    let clients = Mocks::new()
        .ssm(parameter_store(parameters()))
        .sfn(rules)
        .clients();
    let args = Args::try_parse_from(["prepull", "build", "web"]).unwrap();
    let answer = prepull::run(&args, &clients, now(), ready(()))
        .await
        .unwrap();
    assert_eq!(answer.exit, Exit::Interrupted);
    insta::assert_snapshot!(answer.text);
}

#[tokio::test]
async fn build_of_missing_or_invalid_cache_starts_nothing() {
    let mut wrong = config();
    wrong["images"] = json!(["nginx:1.27"]);
    for parameters in [
        BTreeMap::new(),
        [("/prepull/config/web".to_owned(), wrong.to_string())].into(),
    ] {
        let clients = Mocks::new().ssm(parameter_store(parameters)).clients();
        let error = run("build web", clients).await.unwrap_err();
        assert_eq!(error.exit(), Exit::Usage);
        insta::assert_snapshot!(error);
    }
}

#[tokio::test]
async fn missing_state_machine_fails_with_the_option_to_set() {
    let clients = Mocks::new()
        .ssm(parameter_store(parameters()))
        .sfn(executions())
        .clients();
    let error = run("build web --name other", clients).await.unwrap_err();
    assert_eq!(error.exit(), Exit::Usage);
    insta::assert_snapshot!(error);
}

fn everything() -> Clients {
    Mocks::new()
        .ssm(parameter_store(parameters()))
        .ec2([snapshots(), instances()])
        .sfn(executions())
        .clients()
}

#[tokio::test]
async fn status_shows_snapshots_last_build_and_instances() {
    insta::assert_snapshot!(text("status", everything()).await);
}

#[tokio::test]
async fn status_shows_differences_and_deleted_snapshots() {
    let mut changed = config();
    changed["images"] = json!(["docker.io/library/nginx:1.28", "docker.io/library/redis:8"]);
    changed["variant"] = json!("aws-k8s-1.34");
    let mut parameters = parameters();
    parameters.insert("/prepull/config/web".to_owned(), changed.to_string());
    let gone = mock!(ec2::Client::describe_snapshots).then_error(|| {
        ec2::operation::describe_snapshots::DescribeSnapshotsError::generic(code(
            "InvalidSnapshot.NotFound",
        ))
    });
    let clients = Mocks::new()
        .ssm(parameter_store(parameters))
        .ec2([gone, instances()])
        .sfn(executions())
        .clients();
    insta::assert_snapshot!(text("status web", clients).await);
}

#[tokio::test]
async fn status_of_unknown_cache_lists_declared_caches() {
    let error = run("status api", everything()).await.unwrap_err();
    assert_eq!(error.exit(), Exit::Usage);
    insta::assert_snapshot!(error);
}

#[tokio::test]
async fn snapshots_show_content_and_published_snapshot() {
    insta::assert_snapshot!(text("snapshots web", everything()).await);
    insta::assert_snapshot!(text("snapshots web --images", everything()).await);
    insta::assert_snapshot!(text("snapshots web --timeline", everything()).await);
}

#[tokio::test]
async fn nodeclass_contains_the_published_snapshot() {
    insta::assert_snapshot!(text("nodeclass web --architecture x86_64", everything()).await);
    insta::assert_snapshot!(
        text(
            "nodeclass web --architecture x86_64 --output json",
            everything()
        )
        .await
    );
}

#[tokio::test]
async fn nodeclass_without_snapshot_suggests_a_build() {
    let error = run("nodeclass web", everything()).await.unwrap_err();
    assert_eq!(error.exit(), Exit::Failed);
    insta::assert_snapshot!(error);
}

#[tokio::test]
async fn estimate_shows_time_cost_and_recommendation() {
    insta::assert_snapshot!(text("estimate web", everything()).await);
    // A large cache, with an instance type that has no price here.
    let mut parameters = parameters();
    let manifest = parameters
        .get_mut(&format!("/prepull/web/x86_64/snapshots/{NEW}"))
        .unwrap();
    *manifest = manifest
        .replace("72400000", "6000000000")
        .replace("45300000", "3000000000")
        .replace("110000000", "8500000000")
        .replace("412000000", "31000000000");
    let clients = Mocks::new().ssm(parameter_store(parameters)).clients();
    let command =
        "estimate web --architecture x86_64 --instance-type r8i.2xlarge --nodes-per-day 200";
    insta::assert_snapshot!(text(command, clients).await);
}

#[tokio::test]
async fn estimate_json_contains_steps_and_prices() {
    let answer = text("estimate web --output json", everything()).await;
    let answer: Value = serde_json::from_str(&answer).unwrap();
    let target = &answer["targets"][0];
    assert_eq!(target["packed"], 110_000_000);
    let builder = &target["builders"][0];
    assert_eq!(builder["instance_type"], "m7i.2xlarge");
    assert_eq!(builder["cold"]["seconds"]["launch"], 48);
    assert!(builder["cold"]["dollars"]["instance"].as_f64() > Some(0.0));
    assert_eq!(target["hydration"]["recommended"], "initialization-rate");
    assert_eq!(answer["unpublished"], json!(["arm64"]));
}

#[tokio::test]
async fn estimate_requires_a_snapshot_and_a_matching_type() {
    for (command, exit) in [
        ("estimate web --architecture arm64", Exit::Failed),
        ("estimate web --instance-type m7i.metal", Exit::Usage),
        (
            "estimate web --architecture x86_64 --instance-type c7g.xlarge",
            Exit::Usage,
        ),
    ] {
        let error = run(command, everything()).await.unwrap_err();
        assert_eq!(error.exit(), exit, "{command}");
        insta::assert_snapshot!(error);
    }
}
