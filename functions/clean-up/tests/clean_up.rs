//! Tests of clean-up among resources of prepull and of others.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_smithy_mocks::mock;
use clean_up::{Removed, handle};
use jiff::{SignedDuration, Timestamp};
use prepull_aws::ec2::types::{
    Instance, InstanceState, InstanceStateName, Snapshot, SnapshotState, Tag, Volume, VolumeState,
};
use prepull_aws::sfn::operation::describe_execution::DescribeExecutionOutput;
use prepull_aws::sfn::types::ExecutionStatus;
use prepull_aws::{DateTime, Deadline, ec2, tag};
use prepull_domain::{Decision, PublishedSnapshot, StageError};
use prepull_testing::{FakeAws, STATE_MACHINE_ARN, configuration, described, execution, target};
use serde_json::{Value, json};

/// A time before any test.
const LONG_AGO: i64 = 1_000_000_000;

fn tags(execution: &str, architecture: &str) -> Vec<Tag> {
    vec![
        tag("prepull:cache", "web"),
        tag("prepull:architecture", architecture),
        tag("prepull:execution", execution),
    ]
}

fn instance(id: &str, tags: Vec<Tag>, launched: i64) -> Instance {
    let running = InstanceState::builder().name(InstanceStateName::Running);
    Instance::builder()
        .instance_id(id)
        .state(running.build())
        .launch_time(DateTime::from_secs(launched))
        .set_tags(Some(tags))
        .build()
}

fn volume(id: &str, state: VolumeState, tags: Vec<Tag>) -> Volume {
    Volume::builder()
        .volume_id(id)
        .state(state)
        .create_time(DateTime::from_secs(LONG_AGO))
        .set_tags(Some(tags))
        .build()
}

/// Returns a snapshot, started `second` after [`LONG_AGO`]. It has the tag `prepull:state` if `tagged` is not empty.
fn snapshot(id: &str, second: i64, tagged: &str, mut tags: Vec<Tag>) -> Snapshot {
    if !tagged.is_empty() {
        tags.push(tag("prepull:state", tagged));
    }
    Snapshot::builder()
        .snapshot_id(id)
        .state(SnapshotState::Completed)
        .start_time(DateTime::from_secs(LONG_AGO + second))
        .set_tags(Some(tags))
        .build()
}

/// Returns an AWS account without resources.
fn empty_account() -> FakeAws {
    FakeAws::new()
        .with_parameters(&[])
        .with_instances([])
        .with_volumes([])
        .with_snapshots([])
        .with_snapshot_users(&[], &[])
        .with_executions([
            execution("runs", "web", ExecutionStatus::Running, LONG_AGO),
            execution("aborted", "web", ExecutionStatus::Aborted, LONG_AGO),
        ])
        .with_event_bus()
}

async fn clean_up(aws: &FakeAws, input: Value) -> Result<Removed, StageError> {
    let deadline = Deadline::after(Duration::from_secs(30));
    handle(&aws.clients(), STATE_MACHINE_ARN, input, deadline).await
}

fn ids<T: ToString>(ids: &[T]) -> Vec<String> {
    ids.iter().map(ToString::to_string).collect()
}

fn foreign() -> Vec<Tag> {
    vec![
        tag("Name", "prepull web x86_64"),
        tag("prepull:execution", "web-10"),
        tag("prepull:architecture", "x86_64"),
    ]
}

/// Two builders and orphans of the execution `web-10`, and resources of another execution.
fn after_a_build() -> FakeAws {
    empty_account()
        .with_instances([
            instance("i-00000001", tags("web-10", "x86_64"), LONG_AGO),
            instance("i-00000002", tags("web-10", "arm64"), LONG_AGO),
            instance("i-00000003", tags("web-11", "x86_64"), LONG_AGO),
        ])
        .with_volumes([
            volume(
                "vol-00000001",
                VolumeState::Available,
                tags("web-10", "x86_64"),
            ),
            volume("vol-00000002", VolumeState::InUse, tags("web-11", "x86_64")),
        ])
        .with_snapshots([
            snapshot("snap-00000001", 1, "", tags("web-10", "x86_64")),
            snapshot("snap-00000002", 2, "verified", tags("web-10", "x86_64")),
            snapshot("snap-00000003", 3, "", tags("web-11", "x86_64")),
        ])
}

#[tokio::test(start_paused = true)]
async fn target_clean_up_removes_only_its_own_resources() {
    let aws = after_a_build();
    let input = json!({"target": target(), "execution": "web-10"});
    let removed = clean_up(&aws, input).await.unwrap();
    assert_eq!(ids(&removed.terminated), ["i-00000001"]);
    assert_eq!(ids(&removed.deleted_volumes), ["vol-00000001"]);
    assert_eq!(ids(&removed.deleted_snapshots), ["snap-00000001"]);
}

#[tokio::test(start_paused = true)]
async fn clean_up_waits_for_the_builder_to_terminate() {
    let aws = after_a_build();
    clean_up(&aws, json!({"target": target()})).await.unwrap();
    let state = aws.instances()[0].state.clone().unwrap();
    assert_eq!(state.name(), Some(&InstanceStateName::Terminated));
}

#[tokio::test(start_paused = true)]
async fn builder_with_delayed_listing_is_removed() {
    let unlisted = mock!(ec2::Client::describe_instances)
        .sequence()
        .output(|| described([]))
        .times(5)
        .build();
    let aws = after_a_build().ec2([unlisted]);
    let removed = clean_up(&aws, json!({"target": target()})).await.unwrap();
    assert_eq!(ids(&removed.terminated), ["i-00000001"]);
}

#[tokio::test(start_paused = true)]
async fn second_call_removes_nothing() {
    let (aws, input) = (after_a_build(), json!({"target": target()}));
    clean_up(&aws, input.clone()).await.unwrap();
    let removed = clean_up(&aws, input).await.unwrap();
    assert_eq!(removed, Removed::default());
}

/// Returns the event of an execution that was stopped.
fn aborted() -> Value {
    json!({
        "detail-type": "Step Functions Execution Status Change",
        "source": "aws.states",
        "detail": {
            "executionArn": "arn:aws:states:eu-west-1:123456789012:execution:prepull-build:web-10",
            "status": "ABORTED",
            "startDate": 0,
            "stopDate": 1000,
            "input": "{\"cache\": \"web\"}",
            "error": "Stopped",
            "cause": "by a person"
        }
    })
}

#[tokio::test(start_paused = true)]
async fn aborted_execution_is_cleaned_up_and_announced_once() {
    let aws = after_a_build();
    let removed = clean_up(&aws, aborted()).await.unwrap();
    assert_eq!(ids(&removed.terminated), ["i-00000001", "i-00000002"]);
    assert_eq!(
        aws.emitted_events(),
        [json!({
            "cache": "web",
            "execution": "web-10",
            "status": "ABORTED",
            "error": "Stopped",
            "cause": "by a person",
            "failures": [{
                "architecture": null,
                "stage": null,
                "error": "Stopped",
                "message": "by a person",
                "image": null,
                "remedy": "Start the build again, unless it was stopped on purpose"
            }],
            "started_at": "1970-01-01T00:00:00Z",
            "stopped_at": "1970-01-01T00:00:01Z"
        })]
    );
    clean_up(&aws, aborted()).await.unwrap();
    assert_eq!(aws.emitted_events().len(), 1);
}

/// Returns an execution that has ended with `status`, `minutes` ago.
fn ended(name: &str, status: ExecutionStatus, minutes: i64) -> DescribeExecutionOutput {
    let now = Timestamp::now().as_second();
    let mut ended = execution(name, "web", status, now - 60 * (minutes + 20));
    ended.stop_date = Some(DateTime::from_secs(now - 60 * minutes));
    ended
}

/// Returns the executions of all events.
fn announced(aws: &FakeAws) -> Vec<String> {
    let events = aws.emitted_events();
    let names = events
        .iter()
        .map(|event| event["execution"].as_str().expect("a name").to_owned());
    names.collect()
}

#[tokio::test]
async fn sweep_announces_unannounced_failures_once() {
    let aws = empty_account().with_executions([
        ended("web-9", ExecutionStatus::Failed, 2),
        ended("web-8", ExecutionStatus::Failed, 10),
        ended("web-7", ExecutionStatus::TimedOut, 20),
        ended("web-6", ExecutionStatus::Aborted, 30),
        ended("web-5", ExecutionStatus::Succeeded, 40),
        ended("web-4", ExecutionStatus::Failed, 50),
        ended("web-3", ExecutionStatus::Failed, 200),
    ]);
    let marked = Timestamp::now().to_string();
    aws.set_parameter("/prepull/announced/web-4", &marked);
    for _ in 0..2 {
        clean_up(&aws, json!({"source": "sweep"})).await.unwrap();
        assert_eq!(announced(&aws), ["web-8", "web-7", "web-6"]);
    }
    assert_eq!(aws.emitted_events()[0]["cache"], "web");
}

#[tokio::test]
async fn sweep_deletes_old_markers_of_announced_failures() {
    let aws = empty_account();
    let hours_ago = |hours| Timestamp::now() - SignedDuration::from_hours(hours);
    for (name, hours) in [("web-1", 7), ("web-2", 5)] {
        let marker = format!("/prepull/announced/{name}");
        aws.set_parameter(&marker, &hours_ago(hours).to_string());
    }
    clean_up(&aws, json!({"source": "sweep"})).await.unwrap();
    assert_eq!(aws.parameter("/prepull/announced/web-1"), None);
    assert!(aws.parameter("/prepull/announced/web-2").is_some());
}

/// Five verified snapshots. The second is published.
fn many_snapshots() -> FakeAws {
    empty_account()
        .with_snapshots((1..=5).map(|n| {
            let state = if n == 2 { "published" } else { "verified" };
            let owner = tags(&format!("web-{n}"), "x86_64");
            snapshot(&format!("snap-0000000{n}"), n, state, owner)
        }))
        .with_parameters(&[
            ("/prepull/config/web", &configuration().to_string()),
            ("/prepull/web/x86_64/snapshot-id", "snap-00000002"),
            ("/prepull/web/x86_64/snapshots/snap-00000001", "{}"),
            ("/prepull/web/x86_64/snapshots/snap-00000002", "{}"),
        ])
}

#[tokio::test(start_paused = true)]
async fn retention_keeps_the_newest_and_the_published_snapshot() {
    let mut target = target();
    target.retain_snapshots = 2;
    let removed = clean_up(&many_snapshots(), json!({ "target": target }))
        .await
        .unwrap();
    assert_eq!(
        ids(&removed.deleted_snapshots),
        ["snap-00000001", "snap-00000003"]
    );
    assert_eq!(
        removed.deleted_manifests,
        ["/prepull/web/x86_64/snapshots/snap-00000001"]
    );
}

#[tokio::test(start_paused = true)]
async fn retention_deletes_the_first_page_of_a_manifest_first() {
    let first = "/prepull/web/x86_64/snapshots/snap-00000001";
    let aws = many_snapshots();
    for page in ["2", "3"] {
        aws.set_parameter(&format!("{first}/{page}"), "[]");
    }
    let mut target = target();
    target.retain_snapshots = 2;
    clean_up(&aws, json!({ "target": target })).await.unwrap();
    let mut deleted = aws.calls("ssm:DeleteParameter");
    deleted.retain(|name| name.starts_with(first));
    assert_eq!(
        deleted,
        [first.to_owned(), format!("{first}/2"), format!("{first}/3")]
    );
}

#[tokio::test(start_paused = true)]
async fn retention_keeps_snapshots_of_images_and_launch_templates() {
    // Version 1 of the launch template is neither the latest nor the default one.
    let aws = many_snapshots().with_snapshot_users(
        &["snap-00000001".to_owned()],
        &[("snap-00000003".to_owned(), 1)],
    );
    let mut target = target();
    target.retain_snapshots = 1;
    let removed = clean_up(&aws, json!({ "target": target })).await.unwrap();
    assert_eq!(ids(&removed.deleted_snapshots), ["snap-00000004"]);
}

const EXPIRES_AT: &str = "prepull:expires-at";

/// Returns the tag with the time of the announced deletion. It is empty if the announcement was withdrawn.
fn expiry(aws: &FakeAws, id: &str) -> Option<String> {
    let snapshots = aws.snapshots();
    let found = snapshots
        .iter()
        .find(|found| found.snapshot_id() == Some(id))?;
    let tag = found
        .tags()
        .iter()
        .find(|tag| tag.key() == Some(EXPIRES_AT))?;
    tag.value().map(str::to_owned)
}

async fn retention_of_days(aws: &FakeAws, days: u16) -> Vec<String> {
    let mut target = target();
    target.retain_snapshots = 2;
    target.retain_days = days;
    let removed = clean_up(aws, json!({ "target": target })).await.unwrap();
    ids(&removed.deleted_snapshots)
}

#[tokio::test(start_paused = true)]
async fn retention_announces_a_deletion_and_waits() {
    let aws = many_snapshots();
    let now = Timestamp::now();
    assert!(retention_of_days(&aws, 7).await.is_empty());
    let events = aws.emitted_events();
    assert_eq!(events.len(), 2, "{events:?}");
    let detail = &events[0];
    assert_eq!(aws.calls("events:PutEvents")[0], "Snapshot Expiring");
    assert_eq!(detail["snapshot_id"], "snap-00000001");
    let expires_at = expiry(&aws, "snap-00000001").unwrap();
    assert_eq!(detail["expires_at"], json!(expires_at));
    let wait = expires_at.parse::<Timestamp>().unwrap().duration_since(now);
    assert_eq!(wait.as_hours(), 7 * 24);

    let writes = aws.writes().len();
    assert!(retention_of_days(&aws, 7).await.is_empty());
    assert_eq!(aws.writes().len(), writes, "it only waits");

    for id in ["snap-00000001", "snap-00000003"] {
        aws.set_tag(id, EXPIRES_AT, "2020-01-01T00:00:00Z");
    }
    assert_eq!(
        retention_of_days(&aws, 7).await,
        ["snap-00000001", "snap-00000003"]
    );
}

#[tokio::test(start_paused = true)]
async fn retention_keeps_snapshots_of_volumes_and_consumers() {
    let registered =
        |at: Timestamp| json!({"snapshot_id": "snap-00000003", "registered_at": at}).to_string();
    let consumer = "/prepull/web/x86_64/consumers/production.web";
    let mut of_node = volume("vol-00000001", VolumeState::InUse, Vec::new());
    of_node.snapshot_id = Some("snap-00000001".to_owned());
    let aws = many_snapshots().with_volumes([of_node]);
    aws.set_parameter(consumer, &registered(Timestamp::now()));
    aws.set_tag("snap-00000003", EXPIRES_AT, "2020-01-01T00:00:00Z");
    assert!(retention_of_days(&aws, 0).await.is_empty());
    assert_eq!(expiry(&aws, "snap-00000003").as_deref(), Some(""));

    // A consumer that was removed does not register itself again.
    let long_ago = Timestamp::now() - SignedDuration::from_hours(31 * 24);
    aws.set_parameter(consumer, &registered(long_ago));
    assert_eq!(retention_of_days(&aws, 0).await, ["snap-00000003"]);
}

#[tokio::test(start_paused = true)]
async fn retention_withdraws_the_expiry_of_a_needed_snapshot() {
    let aws = many_snapshots();
    aws.set_tag("snap-00000005", EXPIRES_AT, "2020-01-01T00:00:00Z");
    retention_of_days(&aws, 7).await;
    assert_eq!(expiry(&aws, "snap-00000005").as_deref(), Some(""));
}

#[tokio::test(start_paused = true)]
async fn rejected_snapshot_stays_while_published() {
    for input in [json!({"target": target()}), json!({"source": "sweep"})] {
        let aws = empty_account()
            .with_parameters(&[
                ("/prepull/config/web", &configuration().to_string()),
                ("/prepull/web/x86_64/snapshot-id", "snap-00000001"),
            ])
            .with_snapshots([
                snapshot("snap-00000001", 1, "rejected", tags("web-10", "x86_64")),
                snapshot("snap-00000002", 2, "rejected", tags("web-10", "x86_64")),
            ]);
        let removed = clean_up(&aws, input).await.unwrap();
        assert_eq!(ids(&removed.deleted_snapshots), ["snap-00000002"]);
    }
}

#[tokio::test]
async fn sweep_removes_only_orphans() {
    let now = jiff::Timestamp::now().as_second();
    let orphan = || tags("aborted", "x86_64");
    let aws = empty_account()
        .with_instances([
            instance("i-00000001", orphan(), LONG_AGO),
            instance("i-00000002", tags("forgotten", "x86_64"), LONG_AGO),
            instance("i-00000003", tags("runs", "x86_64"), LONG_AGO),
            instance("i-00000004", orphan(), now),
            instance("i-00000005", foreign(), LONG_AGO),
            instance("i-00000006", vec![tag("prepull:cache", "web")], LONG_AGO),
        ])
        .with_volumes([
            volume("vol-00000001", VolumeState::Available, orphan()),
            volume("vol-00000002", VolumeState::InUse, orphan()),
            volume("vol-00000003", VolumeState::Available, foreign()),
        ])
        .with_snapshots([
            snapshot("snap-00000001", 1, "", orphan()),
            snapshot("snap-00000002", 2, "", tags("runs", "x86_64")),
            snapshot("snap-00000003", 3, "", foreign()),
            snapshot("snap-00000004", 4, "verified", orphan()),
        ])
        .with_parameters(&[
            ("/prepull/web/x86_64/snapshots/snap-00000004", "{}"),
            ("/prepull/web/x86_64/snapshots/snap-0000000f", "{}"),
            ("/prepull/web/x86_64/snapshots/snap-0000000f/2", "[]"),
            // An interrupted publication or deletion leaves only further pages.
            ("/prepull/web/x86_64/snapshots/snap-0000000e/2", "[]"),
            ("/prepull/web/x86_64/snapshots/snap-0000000e/3", "[]"),
            ("/prepull/web/x86_64/snapshots/snap-00000004/2", "[]"),
            ("/prepull/web/x86_64/snapshot-id", "snap-00000004"),
        ]);
    let removed = clean_up(&aws, json!({"source": "sweep"})).await.unwrap();
    assert_eq!(ids(&removed.terminated), ["i-00000001", "i-00000002"]);
    assert_eq!(ids(&removed.deleted_volumes), ["vol-00000001"]);
    assert_eq!(ids(&removed.deleted_snapshots), ["snap-00000001"]);
    assert_eq!(
        removed.deleted_manifests,
        [
            "/prepull/web/x86_64/snapshots/snap-0000000e",
            "/prepull/web/x86_64/snapshots/snap-0000000f"
        ]
    );
    let left = |id: &str, page: &str| {
        let name = format!("/prepull/web/x86_64/snapshots/{id}{page}");
        aws.parameter(&name).is_some()
    };
    assert!(left("snap-00000004", "") && left("snap-00000004", "/2"));
    for (id, page) in [
        ("snap-0000000e", "/2"),
        ("snap-0000000e", "/3"),
        ("snap-0000000f", "/2"),
    ] {
        assert!(!left(id, page), "{id}{page}");
    }
}

#[tokio::test]
async fn sweep_keeps_a_verifier_until_it_expires() {
    let now = jiff::Timestamp::now();
    let verifier = |id: &str, expires_at: jiff::Timestamp| {
        let mut tags = tags("forgotten", "x86_64");
        tags.push(tag("prepull:expires-at", &expires_at.to_string()));
        instance(id, tags, LONG_AGO)
    };
    let minute = jiff::SignedDuration::from_mins(1);
    let aws = empty_account().with_instances([
        verifier("i-00000001", now + minute),
        verifier("i-00000002", now - minute),
    ]);
    let removed = clean_up(&aws, json!({"source": "sweep"})).await.unwrap();
    assert_eq!(ids(&removed.terminated), ["i-00000002"]);
}

#[tokio::test]
async fn sweep_keeps_resources_of_unknown_age() {
    let orphan = || tags("aborted", "x86_64");
    let mut instance = instance("i-00000001", orphan(), LONG_AGO);
    instance.launch_time = None;
    let mut volume = volume("vol-00000001", VolumeState::Available, orphan());
    volume.create_time = None;
    let mut snapshot = snapshot("snap-00000001", 1, "", orphan());
    snapshot.start_time = None;
    let aws = empty_account()
        .with_instances([instance])
        .with_volumes([volume])
        .with_snapshots([snapshot]);
    let removed = clean_up(&aws, json!({"source": "sweep"})).await.unwrap();
    assert_eq!(removed, Removed::default());
}

/// Returns a published snapshot of the cache `web`.
fn published(id: &str) -> PublishedSnapshot {
    let manifest = serde_json::from_value(prepull_testing::manifest(id)).unwrap();
    PublishedSnapshot::new(&manifest, BTreeMap::new())
}

/// Returns an account with the cache `web`, whose pointer has the stable snapshot 1 and the soaking candidate 2. Snapshots 3
/// and 4 are newer. The soak ends `minutes` from now.
async fn with_candidate(minutes: i64) -> FakeAws {
    let mut config = configuration();
    config["retain_snapshots"] = 1.into();
    config["publication"] =
        json!({"promotion": {"mode": "soak", "soak_minutes": minutes.max(0) + 1}});
    let aws = empty_account()
        .with_parameters(&[("/prepull/config/web", &config.to_string())])
        .with_snapshots([
            snapshot("snap-00000001", 1, "published", tags("web-1", "x86_64")),
            snapshot("snap-00000002", 2, "published", tags("web-2", "x86_64")),
            snapshot("snap-00000003", 3, "verified", tags("web-3", "x86_64")),
            snapshot("snap-00000004", 4, "verified", tags("web-4", "x86_64")),
        ]);
    let now = Timestamp::now() + SignedDuration::from_mins(minutes);
    let soak = json!({"mode": "soak", "soak_minutes": 1});
    for (id, promotion) in [
        ("snap-00000001", json!({"mode": "immediate"})),
        ("snap-00000002", soak),
    ] {
        let decision = Decision::Publish {
            snapshot: Box::new(published(id)),
            promotion: serde_json::from_value(promotion).unwrap(),
        };
        aws.decide(&decision, now - SignedDuration::from_mins(1))
            .await;
    }
    aws
}

fn sweep() -> Value {
    json!({"source": "sweep", "minimum_age_seconds": 0})
}

const STABLE: &str = "/prepull/web/x86_64/snapshot-id";

#[tokio::test(start_paused = true)]
async fn sweep_promotes_a_candidate_after_its_soak() {
    for (minutes, stable) in [(-1, "snap-00000002"), (60, "snap-00000001")] {
        let aws = with_candidate(minutes).await;
        let events = aws.emitted_events().len();
        let removed = clean_up(&aws, sweep()).await.unwrap();
        assert_eq!(aws.parameter(STABLE).as_deref(), Some(stable));
        let promoted = usize::from(minutes < 0);
        assert_eq!(aws.emitted_events().len(), events + promoted);
        // Retention keeps the newest snapshot, and those that the pointer refers to.
        assert_eq!(ids(&removed.deleted_snapshots), ["snap-00000003"]);
        let calls = aws.writes().len();
        clean_up(&aws, sweep()).await.unwrap();
        assert_eq!(
            aws.writes().len(),
            calls,
            "a second sweep finds nothing to do"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn sweep_completes_the_decision_of_an_interrupted_caller() {
    for parameter in [
        STABLE,
        "/prepull/web/x86_64/candidate-snapshot-id",
        "/prepull/web/x86_64/pointer",
    ] {
        let aws = with_candidate(60).await;
        let shown = aws.parameter(parameter);
        aws.set_parameter(parameter, "snap-00000009");
        clean_up(&aws, sweep()).await.unwrap();
        assert_eq!(aws.parameter(parameter), shown);
    }
    let aws = with_candidate(60).await;
    let decision = "/prepull/web/x86_64/decisions/2";
    let announced = aws.parameter(decision).unwrap();
    aws.set_parameter(decision, &announced.replace("true", "false"));
    let events = aws.emitted_events().len();
    clean_up(&aws, sweep()).await.unwrap();
    assert_eq!(aws.emitted_events().len(), events + 1);
    assert_eq!(aws.parameter(decision), Some(announced));
}

#[tokio::test]
async fn sweep_applies_retention_to_declared_caches() {
    let sweep = json!({"source": "sweep"});
    let removed = clean_up(&many_snapshots(), sweep.clone()).await.unwrap();
    assert_eq!(ids(&removed.deleted_snapshots), ["snap-00000001"]);

    let undeclared = empty_account().with_snapshots(many_snapshots().snapshots());
    let removed = clean_up(&undeclared, sweep).await.unwrap();
    assert!(removed.deleted_snapshots.is_empty());
}

#[tokio::test]
async fn failed_removal_does_not_stop_the_sweep() {
    let orphan = || tags("aborted", "x86_64");
    let aws = empty_account()
        .with_instances([instance("i-00000001", orphan(), LONG_AGO)])
        .with_volumes([volume("vol-00000001", VolumeState::Available, orphan())])
        .failing("ec2:TerminateInstances", "UnauthorizedOperation");
    let error = clean_up(&aws, json!({"source": "sweep"}))
        .await
        .unwrap_err();
    assert_eq!(error.name(), "AccessDenied");
    assert!(aws.volumes().is_empty());
}
