//! Tests of publish-snapshot: the order of its steps, and the conditions that prevent them.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_smithy_mocks::{MockResponse, Rule, mock};
use prepull_aws::ec2::operation::copy_snapshot::{CopySnapshotError, CopySnapshotOutput};
use prepull_aws::ec2::operation::create_tags::CreateTagsOutput;
use prepull_aws::ec2::operation::describe_snapshots::{
    DescribeSnapshotsError, DescribeSnapshotsOutput,
};
use prepull_aws::ec2::operation::modify_snapshot_attribute::{
    ModifySnapshotAttributeError, ModifySnapshotAttributeOutput,
};
use prepull_aws::ec2::types::{Snapshot, SnapshotState};
use prepull_aws::eventbridge::operation::put_events::{PutEventsError, PutEventsOutput};
use prepull_aws::{Deadline, ec2, eventbridge, tag, tag_value};
use prepull_domain::build::payload::{PublishInput, PublishOutcome, Published};
use prepull_domain::{Manifest, StageError};
use prepull_testing::{Mocks, ParameterStore, builder, planned_at, target};
use publish_snapshot::handle;
use serde_json::{Value, json};

const OURS: &str = "snap-0123456789abcdef0";
const BEFORE: &str = "snap-00000000000000001";
const COPY: &str = "snap-00000000000000002";
const POINTER: &str = "/prepull/web/x86_64/snapshot-id";

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

/// The tags, events, shares and copies, in order.
type Log = Arc<Mutex<Vec<String>>>;

/// EC2 and `EventBridge` for publish-snapshot.
struct World {
    store: ParameterStore,
    /// The snapshots.
    snapshots: Arc<Mutex<Vec<Snapshot>>>,
    log: Log,
    copies: Result<(), &'static str>,
    shares: Result<(), &'static str>,
    events: Result<(), &'static str>,
}

fn snapshot(id: &str, state: SnapshotState, tagged: &str) -> Snapshot {
    Snapshot::builder()
        .snapshot_id(id)
        .state(state)
        .tags(tag("prepull:state", tagged))
        .build()
}

impl World {
    fn with(snapshots: Vec<Snapshot>) -> Self {
        Self {
            store: ParameterStore::default(),
            snapshots: Arc::new(Mutex::new(snapshots)),
            log: Log::default(),
            copies: Ok(()),
            shares: Ok(()),
            events: Ok(()),
        }
    }

    fn verified() -> Self {
        Self::with(vec![snapshot(OURS, SnapshotState::Completed, "verified")])
    }

    /// Publishes another snapshot, with a plan `seconds` newer than ours.
    fn and_before(self, seconds: i64) -> Self {
        self.snapshots.lock().unwrap().push(snapshot(
            BEFORE,
            SnapshotState::Completed,
            "published",
        ));
        let manifest = Manifest {
            snapshot_id: BEFORE.parse().unwrap(),
            planned_at: planned_at() + jiff::SignedDuration::from_secs(seconds),
            ..Manifest::of(&input(), planned_at())
        };
        let parameter = format!("/prepull/web/x86_64/snapshots/{BEFORE}");
        self.store
            .set(&parameter, &serde_json::to_string(&manifest).unwrap());
        self.store.set(POINTER, BEFORE);
        self
    }

    async fn publish(&self, input: PublishInput) -> Result<Published, StageError> {
        let clients = Mocks::new()
            .ssm(self.store.rules())
            .ec2(self.ec2())
            .events([self.event_bus()])
            .clients();
        let home = "eu-west-1".parse().unwrap();
        handle(&clients, &home, input, Deadline::after(Duration::ZERO)).await
    }

    fn ec2(&self) -> Vec<Rule> {
        let described = Arc::clone(&self.snapshots);
        let with_copy = Arc::clone(&self.snapshots);
        let (copies, tags, shares) = (
            Arc::clone(&self.log),
            Arc::clone(&self.log),
            Arc::clone(&self.log),
        );
        let (copying, sharing) = (self.copies, self.shares);
        vec![
            mock!(ec2::Client::describe_snapshots).then_compute_response(move |request| {
                let found = described.lock().unwrap().clone();
                let found = matching(found, request);
                if found.is_empty() && request.owner_ids().is_empty() {
                    MockResponse::Error(DescribeSnapshotsError::generic(error(
                        "InvalidSnapshot.NotFound",
                    )))
                } else {
                    MockResponse::Output(
                        DescribeSnapshotsOutput::builder()
                            .set_snapshots(Some(found))
                            .build(),
                    )
                }
            }),
            mock!(ec2::Client::copy_snapshot).then_compute_response(move |request| {
                if let Err(code) = copying {
                    return MockResponse::Error(CopySnapshotError::generic(error(code)));
                }
                assert_eq!(request.source_region(), Some("eu-west-1"));
                copies.lock().unwrap().push("copy".to_owned());
                let tags = request.tag_specifications()[0].tags().to_vec();
                with_copy.lock().unwrap().push(
                    Snapshot::builder()
                        .snapshot_id(COPY)
                        .state(SnapshotState::Completed)
                        .set_tags(Some(tags))
                        .build(),
                );
                MockResponse::Output(CopySnapshotOutput::builder().snapshot_id(COPY).build())
            }),
            mock!(ec2::Client::modify_snapshot_attribute).then_compute_response(move |request| {
                shares
                    .lock()
                    .unwrap()
                    .push(format!("share {}", request.snapshot_id().unwrap()));
                match sharing {
                    Ok(()) => {
                        MockResponse::Output(ModifySnapshotAttributeOutput::builder().build())
                    }
                    Err(code) => {
                        MockResponse::Error(ModifySnapshotAttributeError::generic(error(code)))
                    }
                }
            }),
            mock!(ec2::Client::create_tags).then_compute_output(move |request| {
                let state = tag_value(request.tags(), "prepull:state").unwrap();
                tags.lock()
                    .unwrap()
                    .push(format!("{} is {state}", request.resources()[0]));
                CreateTagsOutput::builder().build()
            }),
        ]
    }

    fn event_bus(&self) -> Rule {
        let (log, events) = (Arc::clone(&self.log), self.events);
        mock!(eventbridge::Client::put_events).then_compute_response(move |request| {
            let entry = &request.entries()[0];
            let detail: Value = serde_json::from_str(entry.detail().unwrap()).unwrap();
            log.lock().unwrap().push(format!(
                "{} after {}",
                entry.detail_type().unwrap(),
                detail["previous_snapshot_id"]
            ));
            match events {
                Ok(()) => MockResponse::Output(PutEventsOutput::builder().build()),
                Err(code) => MockResponse::Error(PutEventsError::generic(
                    eventbridge::error::ErrorMetadata::builder()
                        .code(code)
                        .build(),
                )),
            }
        })
    }

    fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }
}

fn error(code: &str) -> ec2::error::ErrorMetadata {
    ec2::error::ErrorMetadata::builder().code(code).build()
}

/// Returns the snapshots that match the request's IDs and its filters for `prepull:state` and `prepull:execution`.
fn matching(
    snapshots: Vec<Snapshot>,
    request: &ec2::operation::describe_snapshots::DescribeSnapshotsInput,
) -> Vec<Snapshot> {
    let has = |snapshot: &Snapshot, name: &str| {
        let filter = request
            .filters()
            .iter()
            .find(|filter| filter.name() == Some(&format!("tag:{name}")));
        filter.is_none_or(|filter| {
            tag_value(snapshot.tags(), name).is_some_and(|tag| filter.values() == [tag])
        })
    };
    snapshots
        .into_iter()
        .filter(|snapshot| {
            let id = snapshot.snapshot_id().unwrap_or_default();
            request.snapshot_ids().is_empty() || request.snapshot_ids() == [id]
        })
        .filter(|snapshot| has(snapshot, "prepull:state") && has(snapshot, "prepull:execution"))
        .collect()
}

#[tokio::test]
async fn publish_writes_manifest_then_pointer_then_notifies() {
    let world = World::verified().and_before(-60);
    let published = world.publish(input()).await.unwrap();
    assert_eq!(published.outcome, PublishOutcome::Published);
    assert_eq!(world.store.get(POINTER).as_deref(), Some(OURS));
    let manifest = format!("/prepull/web/x86_64/snapshots/{OURS}");
    assert_eq!(world.store.written(), [manifest.as_str(), POINTER]);
    assert_eq!(
        world.log(),
        [
            format!("Snapshot Published after \"{BEFORE}\""),
            format!("{BEFORE} is verified"),
            format!("{OURS} is published"),
        ]
    );
}

#[tokio::test]
async fn repeated_call_emits_no_second_event() {
    let world = World::with(vec![snapshot(OURS, SnapshotState::Completed, "published")]);
    world.store.set(POINTER, OURS);
    let published = world.publish(input()).await.unwrap();
    assert_eq!(published.outcome, PublishOutcome::Published);
    assert!(world.log().is_empty());
}

#[tokio::test]
async fn interrupted_call_still_reports_the_previous_snapshot() {
    let world = World::verified().and_before(-60);
    world.store.set(POINTER, OURS);
    world.publish(input()).await.unwrap();
    assert_eq!(
        world.log()[0],
        format!("Snapshot Published after \"{BEFORE}\"")
    );
}

#[tokio::test]
async fn older_plan_does_not_replace_a_newer_one() {
    let world = World::verified().and_before(60);
    let published = world.publish(input()).await.unwrap();
    assert_eq!(published.outcome, PublishOutcome::Superseded);
    assert_eq!(world.store.get(POINTER).as_deref(), Some(BEFORE));
    assert!(world.store.written().is_empty() && world.log().is_empty());
}

#[tokio::test]
async fn deleted_newer_snapshot_is_replaced() {
    let world = World::verified().and_before(60);
    world
        .snapshots
        .lock()
        .unwrap()
        .retain(|snapshot| snapshot.snapshot_id() == Some(OURS));
    let published = world.publish(input()).await.unwrap();
    assert_eq!(published.outcome, PublishOutcome::Published);
}

#[tokio::test]
async fn unverified_snapshot_is_not_published() {
    for snapshots in [
        vec![],
        vec![snapshot(OURS, SnapshotState::Pending, "verified")],
        vec![snapshot(OURS, SnapshotState::Completed, "rejected")],
        vec![snapshot(OURS, SnapshotState::Completed, "")],
    ] {
        let world = World::with(snapshots);
        let error = world.publish(input()).await.unwrap_err();
        assert_eq!(error.name(), "PublishFailed");
        assert!(world.store.written().is_empty());
    }
}

#[tokio::test]
async fn copies_are_published_before_the_home_region() {
    let world = World::verified();
    let mut input = input();
    input.target.publication = serde_json::from_value(json!({
        "share_with_accounts": ["210987654321"],
        "copy_to_regions": ["eu-central-1"]
    }))
    .unwrap();
    world.publish(input).await.unwrap();
    // The mocked regions share one store, so the pointer is written twice.
    let manifest = |id: &str| format!("/prepull/web/x86_64/snapshots/{id}");
    assert_eq!(
        world.store.written(),
        [
            manifest(COPY),
            POINTER.to_owned(),
            manifest(OURS),
            POINTER.to_owned()
        ]
    );
    assert_eq!(world.store.get(POINTER).as_deref(), Some(OURS));
    let copy: Manifest = serde_json::from_str(&world.store.get(&manifest(COPY)).unwrap()).unwrap();
    assert_eq!(copy.snapshot_id.as_str(), COPY);
    assert_eq!(
        world.log(),
        [
            "copy".to_owned(),
            format!("share {COPY}"),
            format!("share {OURS}"),
            "Snapshot Published after null".to_owned(),
            format!("{COPY} is published"),
            format!("{OURS} is published"),
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
        let world = World {
            copies: Err(code),
            ..World::verified()
        };
        let mut input = input.clone();
        input.target.give_up_at = give_up_at.unwrap_or(input.target.give_up_at);
        let error = world.publish(input).await.unwrap_err();
        assert_eq!(error.name(), outcome, "{error}");
        assert!(world.store.written().is_empty());
    }
}

#[tokio::test]
async fn failed_share_stops_publication_with_a_remedy() {
    let world = World {
        shares: Err("OperationNotPermitted"),
        ..World::verified()
    };
    let mut input = input();
    input.target.publication.share_with_accounts = ["210987654321".parse().unwrap()].into();
    let error = world.publish(input).await.unwrap_err();
    assert_eq!(error.name(), "PublishFailed");
    assert!(error.to_string().contains("volume.kms_key_id"), "{error}");
    assert!(world.store.written().is_empty());
}

#[tokio::test]
async fn failed_event_does_not_fail_the_publication() {
    for (code, outcome) in [
        ("AccessDeniedException", Ok(PublishOutcome::Published)),
        ("ThrottlingException", Err("Throttled")),
    ] {
        let world = World {
            events: Err(code),
            ..World::verified()
        };
        let result = world.publish(input()).await;
        let result = result
            .map(|published| published.outcome)
            .map_err(|error| error.name());
        assert_eq!(result, outcome);
        assert_eq!(world.store.get(POINTER).as_deref(), Some(OURS));
    }
}
