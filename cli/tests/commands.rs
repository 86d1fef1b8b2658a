//! Snapshot tests of the commands' output, against mocked answers of AWS.

use std::collections::BTreeMap;
use std::future::{pending, ready};

use aws_smithy_mocks::{Rule, mock};
use clap::{CommandFactory as _, Parser as _};
use jiff::Timestamp;
use prepull::check::Cache;
use prepull::history::{Build, Outcome, TargetOutcome, Update};
use prepull::{Answer, Args, Command, Error, Exit, Output, check, progress};
use prepull_aws::ec2::types::{
    Instance, InstanceState, InstanceStateName, Snapshot, SnapshotState, Tag,
};
use prepull_aws::sfn::operation::describe_execution::DescribeExecutionOutput;
use prepull_aws::sfn::types::{ExecutionStatus, HistoryEvent};
use prepull_aws::{DateTime, sfn, tag};
use prepull_domain::Architecture;
use prepull_testing::{FakeAws, configuration, execution, execution_arn, manifest};
use serde_json::{Value, json};

const NEW: &str = "snap-0123456789abcdef1";
const OLD: &str = "snap-0123456789abcdef0";

fn now() -> Timestamp {
    "2026-01-02T06:10:00Z".parse().unwrap()
}

fn command_line(command: &str) -> impl Iterator<Item = &str> {
    std::iter::once("prepull").chain(command.split(' '))
}

async fn run(command: &str, aws: &FakeAws) -> Result<Answer, Error> {
    let args = Args::try_parse_from(command_line(command)).unwrap();
    prepull::run(&args, &aws.clients(), now(), pending()).await
}

async fn text(command: &str, aws: &FakeAws) -> String {
    run(command, aws).await.unwrap().text
}

// The content of AWS.

fn config() -> Value {
    let mut config = configuration();
    config["images"] = json!(["docker.io/library/nginx:1.27", "docker.io/library/redis:8"]);
    config["architectures"] = json!(["x86_64", "arm64"]);
    config
}

fn manifest_of(snapshot: &str, image: &str, base: &Value) -> Value {
    let digest = |digit: &str| format!("sha256:{}", digit.repeat(64));
    let mut manifest = manifest(snapshot);
    manifest["images"] = json!([
        {"reference": "docker.io/library/nginx:1.27", "digest": digest("a"), "size": 72_400_000},
        {"reference": image, "digest": digest("b"), "size": 45_300_000}
    ]);
    manifest["base"] = base.clone();
    manifest
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
            manifest_of(NEW, redis, &second).to_string(),
        ),
        (
            format!("{path}/snapshots/{OLD}"),
            manifest_of(OLD, valkey, &first).to_string(),
        ),
    ]
    .into()
}

/// Returns AWS with `parameters` and the executions.
fn with_parameters(parameters: &BTreeMap<String, String>) -> FakeAws {
    let aws = FakeAws::new()
        .with_parameters(&[])
        .with_executions(executions());
    for (name, value) in parameters {
        aws.set_parameter(name, value);
    }
    aws
}

/// Returns the tags of a resource of the cache `web`.
fn tags(architecture: &str, more: &[(&str, &str)]) -> Vec<Tag> {
    let owner = [
        ("prepull:cache", "web"),
        ("prepull:architecture", architecture),
    ];
    let all = owner.iter().chain(more);
    all.map(|(key, value)| tag(key, value)).collect()
}

fn date(time: &str) -> DateTime {
    DateTime::from_secs(time.parse::<Timestamp>().unwrap().as_second())
}

fn snapshots() -> [Snapshot; 3] {
    let snapshot = |id: &str, time: &str, state: SnapshotState, more: &[(&str, &str)]| {
        let pending = state == SnapshotState::Pending;
        Snapshot::builder()
            .snapshot_id(id)
            .state(state)
            .progress(if pending { "42%" } else { "100%" })
            .start_time(date(time))
            .volume_size(50)
            .set_tags(Some(tags("x86_64", more)))
            .build()
    };
    [
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
    ]
}

fn instance() -> Instance {
    let running = InstanceState::builder().name(InstanceStateName::Running);
    let execution = [("prepull:execution", "web-29455999")];
    Instance::builder()
        .instance_id("i-0123456789abcdef0")
        .state(running.build())
        .set_tags(Some(tags("arm64", &execution)))
        .build()
}

/// Returns an execution of `web`, and a newer one of another cache.
fn executions() -> [DescribeExecutionOutput; 2] {
    [("web-2-29455999", "web-2"), ("web-29455384", "web")].map(|(name, cache)| {
        let started = date("2026-01-02T03:04:05Z").secs();
        let mut failed = execution(name, cache, ExecutionStatus::Failed, started);
        failed.stop_date = Some(date("2026-01-02T03:16:18Z"));
        failed.error = Some("PullFailed".to_owned());
        failed.cause = Some("arm64: pull-images failed with PullFailed: image `docker.io/library/redis:8` could not be pulled: connection reset by peer".to_owned());
        failed
    })
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
                .execution_arn(execution_arn(request.name().unwrap()))
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
    let aws = with_parameters(&parameters()).sfn(history());
    let answer = run("build web", &aws).await.unwrap();
    assert_eq!(answer.exit, Exit::Failed);
    insta::assert_snapshot!(answer.text);
}

#[tokio::test]
async fn build_json_contains_every_stage_and_target() {
    let aws = with_parameters(&parameters()).sfn(history());
    insta::assert_snapshot!(text("build web --output json", &aws).await);
}

#[tokio::test]
async fn follow_selects_the_newest_build_of_exactly_this_cache() {
    let aws = FakeAws::new().with_executions(executions()).sfn(history());
    let text = text("follow web", &aws).await;
    assert!(text.starts_with("Build web-29455384 failed"), "{text}");
}

#[test]
fn progress_prints_self_contained_lines() {
    let clients = FakeAws::new().sfn(history()).clients();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let events: Vec<HistoryEvent> = runtime.block_on(async {
        let ask = || {
            clients
                .sfn
                .get_execution_history()
                .execution_arn(execution_arn("web-1"))
                .send()
        };
        ask().await.unwrap();
        ask().await.unwrap().events.into_iter().rev().collect()
    });
    let mut build = Build::new(
        "web".parse().unwrap(),
        execution_arn("web-1").parse().unwrap(),
    );
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
                candidates: BTreeMap::new(),
            },
            Some(published),
        ),
        (
            Outcome::Published {
                snapshots: BTreeMap::new(),
                candidates: BTreeMap::new(),
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
                cause: "plan-build failed with ImageNotFound: image `docker.io/library/nginx:1.72` is not available: the registry has no such tag"
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
        let mut build = Build::new(
            "web".parse().unwrap(),
            execution_arn("web-1").parse().unwrap(),
        );
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
    let aws = with_parameters(&parameters()).sfn(history());
    let args = Args::try_parse_from(["prepull", "build", "web"]).unwrap();
    let answer = prepull::run(&args, &aws.clients(), now(), ready(()))
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
        let aws = with_parameters(&parameters);
        let error = run("build web", &aws).await.unwrap_err();
        assert!(aws.writes().is_empty());
        assert_eq!(error.exit(), Exit::Usage);
        insta::assert_snapshot!(error);
    }
}

#[tokio::test]
async fn missing_state_machine_fails_with_the_option_to_set() {
    let aws = with_parameters(&parameters());
    let error = run("build web --name other", &aws).await.unwrap_err();
    assert_eq!(error.exit(), Exit::Usage);
    insta::assert_snapshot!(error);
}

fn everything() -> FakeAws {
    with_parameters(&parameters())
        .with_snapshots(snapshots())
        .with_instances([instance()])
}

#[tokio::test]
async fn status_shows_snapshots_last_build_and_instances() {
    insta::assert_snapshot!(text("status", &everything()).await);
}

#[tokio::test]
async fn status_shows_differences_and_deleted_snapshots() {
    let mut changed = config();
    changed["images"] = json!(["docker.io/library/nginx:1.28", "docker.io/library/redis:8"]);
    changed["variant"] = json!("aws-k8s-1.34");
    let mut parameters = parameters();
    parameters.insert("/prepull/config/web".to_owned(), changed.to_string());
    let aws = with_parameters(&parameters)
        .with_snapshots([])
        .with_instances([instance()]);
    insta::assert_snapshot!(text("status web", &aws).await);
}

#[tokio::test]
async fn status_of_unknown_cache_lists_declared_caches() {
    let error = run("status api", &everything()).await.unwrap_err();
    assert_eq!(error.exit(), Exit::Usage);
    insta::assert_snapshot!(error);
}

#[tokio::test]
async fn snapshots_show_content_and_published_snapshot() {
    insta::assert_snapshot!(text("snapshots web", &everything()).await);
    insta::assert_snapshot!(text("snapshots web --images", &everything()).await);
    insta::assert_snapshot!(text("snapshots web --timeline", &everything()).await);
}

#[tokio::test]
async fn nodeclass_contains_the_published_snapshot() {
    insta::assert_snapshot!(text("nodeclass web --architecture x86_64", &everything()).await);
    insta::assert_snapshot!(
        text(
            "nodeclass web --architecture x86_64 --output json",
            &everything()
        )
        .await
    );
}

#[tokio::test]
async fn nodeclass_prints_a_pool_and_a_fallback() {
    let options = "--architecture x86_64 --node-pool --fallback --headroom 50 --rate 125";
    let options = format!("nodeclass web {options} --replacement new-nodes-only");
    insta::assert_snapshot!(text(&options, &everything()).await);
}

#[tokio::test]
async fn text_and_json_of_nodeclass_are_the_same_objects() {
    for options in [
        "",
        "--rate 0",
        "--node-pool",
        "--node-pool --fallback --headroom 50 --rate 125 --replacement new-nodes-only",
    ] {
        let command = format!("nodeclass web --architecture x86_64 {options}");
        let printed = text(command.trim(), &everything()).await;
        let printed = printed.split("---\n");
        let printed = printed.map(|yaml| serde_saphyr::from_str(yaml).unwrap());
        let printed: Vec<Value> = printed.collect();
        let json = text(&format!("{} --output json", command.trim()), &everything()).await;
        let json: Value = serde_json::from_str(&json).unwrap();
        let objects = match &json["items"] {
            Value::Null => vec![json],
            items => items.as_array().unwrap().clone(),
        };
        assert_eq!(printed, objects, "{options}");
    }
}

#[tokio::test]
async fn nodeclass_without_snapshot_suggests_a_build() {
    let error = run("nodeclass web", &everything()).await.unwrap_err();
    assert_eq!(error.exit(), Exit::Failed);
    insta::assert_snapshot!(error);
}

#[tokio::test]
async fn printed_nodeclass_passes_the_check() {
    let printed = text("nodeclass web --architecture x86_64", &everything()).await;
    let manifest = parameters()[&format!("/prepull/web/x86_64/snapshots/{NEW}")].clone();
    let cache = Cache::parse(&"web".parse().unwrap(), "manifest.json", &manifest, None).unwrap();
    let args = Args::try_parse_from(["prepull", "check", "web"]).unwrap();
    let Command::Check(args) = args.command else {
        panic!("this is not `check`");
    };
    let files = [("nodeclass.yaml".to_owned(), printed)];
    let report = check::report(&args, &cache, &files, None).unwrap();
    assert!(report.findings.is_empty(), "{report}");
}

#[tokio::test]
async fn decisions_print_change_refusal_and_exit_code() {
    let aws = everything().with_event_bus();
    let mut printed = Vec::new();
    for command in [
        "pin web --reason freeze",
        "pin web --reason freeze --architecture x86_64",
        "rollback web --reason slow --architecture x86_64",
        "promote web --architecture x86_64",
        "unpin web --architecture x86_64",
        "reject web snap-0123456789abcdef1 --reason slow",
        "reject web snap-0123456789abcdef0 --reason slow",
        "status web",
        "snapshots web",
    ] {
        let answer = run(command, &aws).await.unwrap();
        let exit = answer.exit as u8;
        printed.push(format!(
            "$ prepull {command}\n{}\n[exit code {exit}]\n\n",
            answer.text
        ));
    }
    insta::assert_snapshot!(printed.concat());
    let unknown = run("reject web snap-00000001 --reason slow", &aws).await;
    assert_eq!(unknown.unwrap_err().exit(), Exit::Usage);
}

#[tokio::test]
async fn check_reports_a_rejected_snapshot() {
    let aws = everything().with_event_bus();
    run(&format!("reject web {OLD} --reason slow"), &aws)
        .await
        .unwrap();
    let class = text("nodeclass web --architecture x86_64", &aws).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), class.replace(NEW, OLD)).unwrap();
    let command = format!("check web {}", file.path().display());
    let answer = run(&command, &aws).await.unwrap();
    assert_eq!(answer.exit, Exit::Unsound);
    assert!(answer.text.contains("it was rejected"), "{}", answer.text);
}

#[tokio::test]
async fn check_compares_with_the_published_snapshot() {
    // The cache of this file has one image less than the workload of the example.
    let answer = run("check web tests/check/karpenter.yaml", &everything())
        .await
        .unwrap();
    assert_eq!(answer.exit, Exit::Unsound);
    let missing = "team/api:v1.2.3`, which the snapshot does not have";
    assert!(answer.text.contains(missing), "{}", answer.text);
    assert!(answer.text.contains("1 error,"), "{}", answer.text);
}

#[test]
fn check_with_a_manifest_makes_no_call() {
    let command = "check web tests/check/karpenter.yaml --manifest tests/check/snapshots.json";
    let args = Args::try_parse_from(command_line(command)).unwrap();
    let answer = prepull::run_offline(&args).unwrap().unwrap();
    assert_eq!(answer.exit, Exit::Done, "{}", answer.text);
    for online in ["check web tests/check/karpenter.yaml", "status"] {
        let args = Args::try_parse_from(command_line(online)).unwrap();
        assert!(prepull::run_offline(&args).is_none(), "{online}");
    }
}

#[tokio::test]
async fn github_output_of_another_command_fails() {
    let error = run("status --output github", &everything())
        .await
        .unwrap_err();
    assert_eq!(error.exit(), Exit::Usage);
}

#[tokio::test]
async fn estimate_shows_time_cost_and_recommendation() {
    insta::assert_snapshot!(text("estimate web", &everything()).await);
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
    let aws = with_parameters(&parameters);
    let command =
        "estimate web --architecture x86_64 --instance-type r8i.2xlarge --nodes-per-day 200";
    insta::assert_snapshot!(text(command, &aws).await);
}

#[tokio::test]
async fn estimate_json_contains_steps_and_prices() {
    let answer = text("estimate web --output json", &everything()).await;
    let answer: Value = serde_json::from_str(&answer).unwrap();
    let target = &answer["targets"][0];
    assert_eq!(target["packed"], 110_000_000);
    let builder = &target["builders"][0];
    assert_eq!(builder["instance_type"], "m7i.2xlarge");
    assert_eq!(builder["cold"]["seconds"]["launch"], 48);
    assert!(builder["cold"]["dollars"]["instance"].as_f64() > Some(0.0));
    assert_eq!(
        target["initialization"]["recommended"],
        "initialization-rate"
    );
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
        let error = run(command, &everything()).await.unwrap_err();
        assert_eq!(error.exit(), exit, "{command}");
        insta::assert_snapshot!(error);
    }
}
