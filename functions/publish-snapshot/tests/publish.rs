//! Tests of publish-snapshot: the order of its steps, and the conditions that prevent them.

use std::time::Duration;

use prepull_aws::ec2::types::{Snapshot, SnapshotState};
use prepull_aws::{Deadline, tag, tag_value};
use prepull_domain::build::payload::{PublishInput, PublishOutcome, Published};
use prepull_domain::{Decision, Manifest, Pointer, StageError};
use prepull_testing::{FakeAws, builder, planned_at, target};
use publish_snapshot::handle;
use serde_json::json;

const OURS: &str = "snap-0123456789abcdef0";
const BEFORE: &str = "snap-00000000000000001";
const POINTER: &str = "/prepull/web/x86_64/snapshot-id";
const CANDIDATE: &str = "/prepull/web/x86_64/candidate-snapshot-id";
const STATE: &str = "/prepull/web/x86_64/pointer";
const DECISION: &str = "/prepull/web/x86_64/decisions/1";

fn input() -> PublishInput {
    serde_json::from_value(json!({
        "target": target(),
        "builder": builder(),
        "node": {
            "bottlerocket_version": "1.57.0",
            "containerd_version": "2.1.4",
            "kernel_version": "6.12.40",
            "snapshotter": "overlayfs",
            "ready_at": planned_at()
        },
        "pulled": {"used": 3000, "pulled_images": 2, "removed_images": 0, "verified_at": planned_at()},
        "snapshot": {
            "snapshot_id": OURS,
            "volume_size": 50,
            "started_at": planned_at(),
            "completed_at": planned_at()
        }
    }))
    .unwrap()
}

/// Returns a snapshot of the target with the tag `prepull:state` = `tagged`. The fake has one Region, so the snapshot has no
/// tag for its execution. Otherwise, it would count as its own copy.
fn snapshot(id: &str, state: SnapshotState, tagged: &str) -> Snapshot {
    Snapshot::builder()
        .snapshot_id(id)
        .state(state)
        .tags(tag("prepull:cache", "web"))
        .tags(tag("prepull:architecture", "x86_64"))
        .tags(tag("prepull:state", tagged))
        .build()
}

fn with(snapshots: Vec<Snapshot>) -> FakeAws {
    FakeAws::new()
        .with_parameters(&[])
        .with_snapshots(snapshots)
        .with_event_bus()
}

fn verified() -> FakeAws {
    with(vec![snapshot(OURS, SnapshotState::Completed, "verified")])
}

/// Publishes another snapshot, with a plan `seconds` newer than ours.
fn publish_before(aws: FakeAws, seconds: i64) -> FakeAws {
    let manifest = Manifest {
        snapshot_id: BEFORE.parse().unwrap(),
        planned_at: planned_at() + jiff::SignedDuration::from_secs(seconds),
        ..Manifest::of(&input(), planned_at())
    };
    let json = serde_json::to_string(&manifest).unwrap();
    aws.set_parameter(&manifest_of(BEFORE), &json);
    aws.set_parameter(POINTER, BEFORE);
    aws.with_snapshots([snapshot(BEFORE, SnapshotState::Completed, "published")])
}

fn manifest_of(id: &str) -> String {
    format!("/prepull/web/x86_64/snapshots/{id}")
}

fn publish(
    aws: &FakeAws,
    input: PublishInput,
) -> impl Future<Output = Result<Published, StageError>> {
    Box::pin(async move {
        let home = "eu-west-1".parse().unwrap();
        let deadline = Deadline::after(Duration::ZERO);
        handle(&aws.clients(), &home, input, deadline).await
    })
}

#[tokio::test]
async fn publish_writes_manifest_then_pointer_then_notifies() {
    let aws = publish_before(verified(), -60);
    let published = publish(&aws, input()).await.unwrap();
    assert_eq!(published.outcome, PublishOutcome::Published);
    assert_eq!(aws.parameter(POINTER).as_deref(), Some(OURS));
    assert_eq!(
        aws.writes(),
        [
            format!("ssm:PutParameter {}", manifest_of(OURS)),
            format!("ssm:PutParameter {DECISION}"),
            format!("ssm:PutParameter {STATE}"),
            format!("ssm:PutParameter {CANDIDATE}"),
            format!("ssm:PutParameter {POINTER}"),
            "events:PutEvents Snapshot Published, Snapshot Promoted".to_owned(),
            format!("ssm:PutParameter {DECISION}"),
            format!("ec2:CreateTags {OURS} prepull:state=published"),
            format!("ec2:CreateTags {BEFORE} prepull:state=verified"),
        ]
    );
    for event in aws.emitted_events() {
        assert_eq!(event["previous_snapshot_id"], BEFORE);
    }
    let pointer: Pointer = serde_json::from_str(&aws.parameter(STATE).unwrap()).unwrap();
    let ids = [pointer.stable, pointer.previous].map(|it| it.unwrap().snapshot_id.to_string());
    assert_eq!(ids, [OURS, BEFORE]);
}

#[tokio::test]
async fn candidate_leaves_the_stable_snapshot() {
    let promotions = [
        json!({"mode": "manual"}),
        json!({"mode": "soak", "soak_minutes": 60}),
    ];
    for promotion in promotions {
        let aws = publish_before(verified(), -60);
        let mut input = input();
        input.target.publication.promotion = serde_json::from_value(promotion).unwrap();
        let published = publish(&aws, input).await.unwrap();
        assert_eq!(published.outcome, PublishOutcome::Candidate);
        assert_eq!(aws.parameter(POINTER).as_deref(), Some(BEFORE));
        assert_eq!(aws.parameter(CANDIDATE).as_deref(), Some(OURS));
        assert_eq!(aws.calls("events:PutEvents"), ["Snapshot Published"]);
        let marks = [format!("{OURS} prepull:state=published")];
        assert_eq!(aws.calls("ec2:CreateTags"), marks);
    }
}

#[tokio::test]
async fn pinned_pointer_keeps_its_snapshot() {
    let aws = publish_before(verified(), -60);
    let pin = Decision::Pin {
        reason: "change freeze".parse().unwrap(),
    };
    aws.decide(&pin, planned_at()).await;
    let published = publish(&aws, input()).await.unwrap();
    assert_eq!(published.outcome, PublishOutcome::Candidate);
    assert_eq!(aws.parameter(POINTER).as_deref(), Some(BEFORE));
}

#[tokio::test]
async fn rejected_snapshot_is_not_published_again() {
    let aws = publish_before(verified(), -60);
    publish(&aws, input()).await.unwrap();
    let roll_back = Decision::RollBack {
        reason: "an image is missing".parse().unwrap(),
    };
    aws.decide(&roll_back, planned_at()).await;
    assert_eq!(aws.parameter(POINTER).as_deref(), Some(BEFORE));
    let error = publish(&aws, input()).await.unwrap_err();
    assert_eq!(error.name(), "PublishFailed");
    assert!(error.to_string().contains("rejected"), "{error}");
    assert_eq!(aws.parameter(POINTER).as_deref(), Some(BEFORE));
}

#[tokio::test(start_paused = true)]
async fn manifest_of_200_images_is_written_from_its_last_page() {
    let aws = verified();
    let mut input = input();
    let image = input.target.images[0].clone();
    input.target.images = vec![image; 200];
    publish(&aws, input.clone()).await.unwrap();

    let mut writes = aws.calls("ssm:PutParameter");
    writes.retain(|name| name.starts_with(&manifest_of(OURS)) || name == POINTER);
    let pages = writes.len() - 1;
    assert!(pages > 2, "{writes:?}");
    let mut expected: Vec<_> = (2..=pages)
        .rev()
        .map(|number| format!("{}/{number}", manifest_of(OURS)))
        .collect();
    expected.extend([manifest_of(OURS), POINTER.to_owned()]);
    assert_eq!(writes, expected);

    let json = prepull_aws::parameters::document(&aws.clients(), &manifest_of(OURS))
        .await
        .unwrap()
        .unwrap();
    let manifest: Manifest = serde_json::from_str(&json).unwrap();
    assert_eq!(manifest.images, Manifest::of(&input, planned_at()).images);
}

#[tokio::test(start_paused = true)]
async fn failed_write_of_a_page_leaves_the_pointer() {
    let aws = publish_before(verified(), -60).failing("ssm:PutParameter", "InternalServerError");
    let mut input = input();
    let image = input.target.images[0].clone();
    input.target.images = vec![image; 200];
    publish(&aws, input).await.unwrap_err();
    assert_eq!(aws.parameter(POINTER).as_deref(), Some(BEFORE));
    assert_eq!(aws.parameter(&manifest_of(OURS)), None);
}

#[tokio::test]
async fn repeated_call_emits_no_second_event() {
    let aws = verified();
    let first = publish(&aws, input()).await.unwrap();
    let events = aws.emitted_events().len();
    let marks = aws.calls("ec2:CreateTags").len();
    assert_eq!(publish(&aws, input()).await.unwrap(), first);
    assert_eq!(first.outcome, PublishOutcome::Published);
    assert_eq!(aws.emitted_events().len(), events);
    assert_eq!(aws.calls("ec2:CreateTags").len(), marks);
}

#[tokio::test]
async fn interrupted_call_still_emits_its_events() {
    let interrupted = publish_before(verified(), -60);
    publish(&interrupted, input()).await.unwrap();
    let announced = interrupted.parameter(DECISION).unwrap();
    let unannounced = announced.replace(r#""announced":true"#, r#""announced":false"#);
    assert_ne!(announced, unannounced);
    interrupted.set_parameter(DECISION, &unannounced);
    publish(&interrupted, input()).await.unwrap();
    assert_eq!(interrupted.emitted_events().len(), 4);
    assert_eq!(interrupted.parameter(DECISION), Some(announced));
}

#[tokio::test]
async fn older_plan_does_not_replace_a_newer_one() {
    let aws = publish_before(verified(), 60);
    let published = publish(&aws, input()).await.unwrap();
    assert_eq!(published.outcome, PublishOutcome::Superseded);
    assert_eq!(aws.parameter(POINTER).as_deref(), Some(BEFORE));
    assert!(aws.writes().is_empty());
}

#[tokio::test]
async fn unverified_snapshot_is_not_published() {
    for snapshots in [
        vec![],
        vec![snapshot(OURS, SnapshotState::Pending, "verified")],
        vec![snapshot(OURS, SnapshotState::Completed, "rejected")],
        vec![snapshot(OURS, SnapshotState::Completed, "")],
    ] {
        let aws = with(snapshots);
        let error = publish(&aws, input()).await.unwrap_err();
        assert_eq!(error.name(), "PublishFailed");
        assert!(aws.writes().is_empty());
    }
}

#[tokio::test]
async fn copies_are_published_before_the_home_region() {
    let aws = verified();
    let mut input = input();
    input.target.publication = serde_json::from_value(json!({
        "share_with_accounts": ["210987654321"],
        "copy_to_regions": ["eu-central-1"]
    }))
    .unwrap();
    publish(&aws, input).await.unwrap();

    let copied = &aws.snapshots()[1];
    assert_eq!(tag_value(copied.tags(), "team"), Some("platform"));
    assert_eq!(tag_value(copied.tags(), "prepull:cache"), Some("web"));
    let copy = copied.snapshot_id.clone().unwrap();
    let manifest = aws.parameter(&manifest_of(&copy)).unwrap();
    let manifest: Manifest = serde_json::from_str(&manifest).unwrap();
    assert_eq!(manifest.snapshot_id.as_str(), copy);
    assert_eq!(aws.parameter(POINTER).as_deref(), Some(OURS));
    let event = &aws.emitted_events()[0];
    assert_eq!(event["previous_snapshot_id"], json!(null));
    assert_eq!(event["copies"], json!({"eu-central-1": copy}));
    assert_eq!(
        aws.writes(),
        [
            format!("ec2:CopySnapshot {OURS} eu-west-1"),
            format!("ec2:ModifySnapshotAttribute {copy}"),
            format!("ec2:ModifySnapshotAttribute {OURS}"),
            format!("ssm:PutParameter {}", manifest_of(&copy)),
            format!("ssm:PutParameter {}", manifest_of(OURS)),
            format!("ssm:PutParameter {DECISION}"),
            format!("ssm:PutParameter {STATE}"),
            format!("ssm:PutParameter {CANDIDATE}"),
            format!("ssm:PutParameter {POINTER}"),
            format!("ssm:PutParameter {STATE}"),
            format!("ssm:PutParameter {CANDIDATE}"),
            format!("ssm:PutParameter {POINTER}"),
            "events:PutEvents Snapshot Published, Snapshot Promoted".to_owned(),
            format!("ssm:PutParameter {DECISION}"),
            format!("ec2:CreateTags {OURS} prepull:state=published"),
            // The fake has one Region, so the original counts as an earlier snapshot in the Region of the copy.
            format!("ec2:CreateTags {OURS} prepull:state=verified"),
            format!("ec2:CreateTags {copy} prepull:state=published"),
        ]
    );
}

#[tokio::test]
async fn copy_waits_for_quota_until_the_build_deadline() {
    let mut input = input();
    input.target.publication.copy_to_regions = ["eu-central-1".parse().unwrap()].into();
    for (code, give_up_at, outcome) in [
        ("ResourceLimitExceeded", None, "StillRunning"),
        ("ResourceLimitExceeded", Some(planned_at()), "PublishFailed"),
        ("InvalidParameterValue", None, "PublishFailed"),
    ] {
        let aws = verified().failing("ec2:CopySnapshot", code);
        let mut input = input.clone();
        input.target.give_up_at = give_up_at.unwrap_or(input.target.give_up_at);
        let error = publish(&aws, input).await.unwrap_err();
        assert_eq!(error.name(), outcome, "{error}");
        assert!(aws.calls("ssm:PutParameter").is_empty());
    }
}

#[tokio::test]
async fn failed_share_stops_publication_with_a_remedy() {
    let aws = verified().failing("ec2:ModifySnapshotAttribute", "OperationNotPermitted");
    let mut input = input();
    input.target.publication.share_with_accounts = ["210987654321".parse().unwrap()].into();
    let error = publish(&aws, input).await.unwrap_err();
    assert_eq!(error.name(), "PublishFailed");
    assert!(error.to_string().contains("volume.kms_key_id"), "{error}");
    assert!(aws.calls("ssm:PutParameter").is_empty());
}

#[tokio::test]
async fn failed_event_does_not_fail_the_publication() {
    for (code, outcome) in [
        ("AccessDeniedException", Ok(PublishOutcome::Published)),
        ("ThrottlingException", Err("Throttled")),
    ] {
        let aws = verified().failing("events:PutEvents", code);
        let result = publish(&aws, input()).await;
        let result = result
            .map(|published| published.outcome)
            .map_err(|error| error.name());
        assert_eq!(result, outcome);
        assert_eq!(aws.parameter(POINTER).as_deref(), Some(OURS));
    }
}
