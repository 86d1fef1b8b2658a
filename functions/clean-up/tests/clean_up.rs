//! Tests of clean-up among resources of prepull and of others.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_smithy_mocks::{MockResponse, Rule, mock};
use clean_up::{Removed, handle};
use prepull_aws::ec2::operation::delete_snapshot::DeleteSnapshotOutput;
use prepull_aws::ec2::operation::delete_volume::DeleteVolumeOutput;
use prepull_aws::ec2::operation::describe_images::DescribeImagesOutput;
use prepull_aws::ec2::operation::describe_instances::DescribeInstancesOutput;
use prepull_aws::ec2::operation::describe_launch_template_versions::DescribeLaunchTemplateVersionsOutput;
use prepull_aws::ec2::operation::describe_snapshots::DescribeSnapshotsOutput;
use prepull_aws::ec2::operation::describe_volumes::DescribeVolumesOutput;
use prepull_aws::ec2::operation::terminate_instances::{
    TerminateInstancesError, TerminateInstancesOutput,
};
use prepull_aws::ec2::types::{
    BlockDeviceMapping, EbsBlockDevice, Filter, Image, Instance, InstanceState, InstanceStateName,
    LaunchTemplateBlockDeviceMapping, LaunchTemplateEbsBlockDevice, LaunchTemplateVersion,
    Reservation, ResponseLaunchTemplateData, Snapshot, SnapshotState, Tag, Volume, VolumeState,
};
use prepull_aws::eventbridge::operation::put_events::PutEventsOutput;
use prepull_aws::sfn::operation::describe_execution::{
    DescribeExecutionError, DescribeExecutionOutput,
};
use prepull_aws::sfn::types::ExecutionStatus;
use prepull_aws::{DateTime, Deadline, ec2, eventbridge, sfn, tag};
use prepull_domain::StageError;
use prepull_testing::{Mocks, ParameterStore, configuration, target};
use serde_json::{Value, json};

const MACHINE: &str = "arn:aws:states:eu-west-1:123456789012:stateMachine:prepull-build";
/// A time before any test.
const LONG_AGO: i64 = 1_000_000_000;

/// EC2 with some resources. A terminated instance disappears after the next request.
#[derive(Clone, Default)]
struct World(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    instances: Vec<Instance>,
    volumes: Vec<Volume>,
    snapshots: Vec<Snapshot>,
    /// The snapshots of a machine image and of a launch template.
    in_image: Option<String>,
    in_template: Option<String>,
    /// The error code of every termination.
    termination_fails: Option<&'static str>,
    running: Vec<&'static str>,
    events: Vec<Value>,
    /// The number of requests that do not list instances yet.
    blind_looks: u32,
}

fn tags(execution: &str, architecture: &str) -> Vec<Tag> {
    vec![
        tag("prepull:cache", "web"),
        tag("prepull:architecture", architecture),
        tag("prepull:execution", execution),
    ]
}

impl World {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    fn instance(self, id: &str, tags: Vec<Tag>, launched: i64) -> Self {
        let instance = Instance::builder()
            .instance_id(id)
            .state(state(InstanceStateName::Running))
            .launch_time(DateTime::from_secs(launched))
            .set_tags(Some(tags));
        self.state().instances.push(instance.build());
        self
    }

    fn volume(self, id: &str, state: VolumeState, tags: Vec<Tag>) -> Self {
        let volume = Volume::builder()
            .volume_id(id)
            .state(state)
            .create_time(DateTime::from_secs(LONG_AGO))
            .set_tags(Some(tags));
        self.state().volumes.push(volume.build());
        self
    }

    /// Adds a snapshot, started `second` after [`LONG_AGO`]. It has the tag `prepull:state` if `tagged` is not empty.
    fn snapshot(self, id: &str, second: i64, tagged: &str, mut tags: Vec<Tag>) -> Self {
        if !tagged.is_empty() {
            tags.push(tag("prepull:state", tagged));
        }
        let snapshot = Snapshot::builder()
            .snapshot_id(id)
            .state(SnapshotState::Completed)
            .start_time(DateTime::from_secs(LONG_AGO + second))
            .set_tags(Some(tags));
        self.state().snapshots.push(snapshot.build());
        self
    }

    async fn clean_up(&self, store: &ParameterStore, input: Value) -> Result<Removed, StageError> {
        let clients = Mocks::new()
            .ssm(store.rules())
            .ec2(self.ec2())
            .sfn([self.executions()])
            .events([self.event_bus()])
            .clients();
        let deadline = Deadline::after(Duration::from_secs(30));
        handle(&clients, MACHINE, input, deadline).await
    }

    fn ec2(&self) -> Vec<Rule> {
        [self.things(), self.removals(), self.users()].concat()
    }

    /// Returns rules that list resources.
    fn things(&self) -> Vec<Rule> {
        let (instances, volumes, snapshots) = (self.clone(), self.clone(), self.clone());
        vec![
            mock!(ec2::Client::describe_instances).then_compute_output(move |request| {
                let mut state = instances.state();
                if state.blind_looks > 0 {
                    state.blind_looks -= 1;
                    return DescribeInstancesOutput::builder().build();
                }
                let found: Vec<_> = state
                    .instances
                    .iter()
                    .filter(|instance| matches(instance.tags(), request.filters()))
                    .cloned()
                    .collect();
                // An instance that shuts down has terminated by the next request.
                state.instances.retain(|instance| {
                    instance.state().unwrap().name() != Some(&InstanceStateName::ShuttingDown)
                });
                DescribeInstancesOutput::builder()
                    .reservations(Reservation::builder().set_instances(Some(found)).build())
                    .build()
            }),
            mock!(ec2::Client::describe_volumes).then_compute_output(move |request| {
                let state = volumes.state();
                let found = state
                    .volumes
                    .iter()
                    .filter(|volume| matches(volume.tags(), request.filters()));
                DescribeVolumesOutput::builder()
                    .set_volumes(Some(found.cloned().collect()))
                    .build()
            }),
            mock!(ec2::Client::describe_snapshots).then_compute_output(move |request| {
                assert_eq!(request.owner_ids(), ["self"]);
                let state = snapshots.state();
                let found = state
                    .snapshots
                    .iter()
                    .filter(|snapshot| matches(snapshot.tags(), request.filters()));
                DescribeSnapshotsOutput::builder()
                    .set_snapshots(Some(found.cloned().collect()))
                    .build()
            }),
        ]
    }

    /// Returns rules that remove resources.
    fn removals(&self) -> Vec<Rule> {
        let (terminated, deleted, dropped) = (self.clone(), self.clone(), self.clone());
        vec![
            mock!(ec2::Client::terminate_instances).then_compute_response(move |request| {
                let mut world = terminated.state();
                if let Some(code) = world.termination_fails {
                    return MockResponse::Error(TerminateInstancesError::generic(
                        ec2::error::ErrorMetadata::builder().code(code).build(),
                    ));
                }
                let id = &request.instance_ids()[0];
                for instance in &mut world.instances {
                    if instance.instance_id() == Some(id) {
                        instance.state = Some(state(InstanceStateName::ShuttingDown));
                    }
                }
                MockResponse::Output(TerminateInstancesOutput::builder().build())
            }),
            mock!(ec2::Client::delete_volume).then_compute_output(move |request| {
                let mut state = deleted.state();
                state
                    .volumes
                    .retain(|volume| volume.volume_id() != request.volume_id());
                DeleteVolumeOutput::builder().build()
            }),
            mock!(ec2::Client::delete_snapshot).then_compute_output(move |request| {
                let mut state = dropped.state();
                state
                    .snapshots
                    .retain(|snapshot| snapshot.snapshot_id() != request.snapshot_id());
                DeleteSnapshotOutput::builder().build()
            }),
        ]
    }

    /// Returns rules for machine images and launch templates.
    fn users(&self) -> Vec<Rule> {
        let (images, templates) = (self.clone(), self.clone());
        vec![
            mock!(ec2::Client::describe_images).then_compute_output(move |request| {
                assert_eq!(request.owners(), ["self"]);
                let disk = EbsBlockDevice::builder()
                    .set_snapshot_id(images.state().in_image.clone())
                    .build();
                let mapping = BlockDeviceMapping::builder().ebs(disk).build();
                let image = Image::builder().block_device_mappings(mapping).build();
                DescribeImagesOutput::builder().images(image).build()
            }),
            mock!(ec2::Client::describe_launch_template_versions).then_compute_output(
                move |request| {
                    // The version with the snapshot is neither the latest nor the default one.
                    let named = request.launch_template_id().is_some();
                    let snapshot = templates.state().in_template.clone();
                    let disk = LaunchTemplateEbsBlockDevice::builder()
                        .set_snapshot_id(snapshot.filter(|_| named))
                        .build();
                    let mapping = LaunchTemplateBlockDeviceMapping::builder()
                        .ebs(disk)
                        .build();
                    let data = ResponseLaunchTemplateData::builder()
                        .block_device_mappings(mapping)
                        .build();
                    let version = LaunchTemplateVersion::builder()
                        .launch_template_id("lt-0123456789abcdef0")
                        .version_number(2)
                        .launch_template_data(data)
                        .build();
                    DescribeLaunchTemplateVersionsOutput::builder()
                        .launch_template_versions(version)
                        .build()
                },
            ),
        ]
    }

    fn executions(&self) -> Rule {
        let world = self.clone();
        mock!(sfn::Client::describe_execution).then_compute_response(move |request| {
            let arn = request.execution_arn().unwrap();
            let (machine, name) = arn.rsplit_once(':').unwrap();
            assert_eq!(machine, MACHINE.replace("stateMachine", "execution"));
            let status = match name {
                "forgotten" => {
                    return MockResponse::Error(DescribeExecutionError::generic(
                        sfn::error::ErrorMetadata::builder()
                            .code("ExecutionDoesNotExist")
                            .build(),
                    ));
                }
                name if world.state().running.contains(&name) => ExecutionStatus::Running,
                _ => ExecutionStatus::Aborted,
            };
            MockResponse::Output(
                DescribeExecutionOutput::builder()
                    .execution_arn(arn)
                    .state_machine_arn(MACHINE)
                    .status(status)
                    .start_date(DateTime::from_secs(LONG_AGO))
                    .build()
                    .unwrap(),
            )
        })
    }

    fn event_bus(&self) -> Rule {
        let world = self.clone();
        mock!(eventbridge::Client::put_events).then_compute_output(move |request| {
            let entry = &request.entries()[0];
            assert_eq!(entry.detail_type(), Some("Build Failed"));
            let detail = serde_json::from_str(entry.detail().unwrap()).unwrap();
            world.state().events.push(detail);
            PutEventsOutput::builder().build()
        })
    }
}

fn state(name: InstanceStateName) -> InstanceState {
    InstanceState::builder().name(name).build()
}

/// Returns whether tags match the filters.
fn matches(tags: &[Tag], filters: &[Filter]) -> bool {
    assert!(!filters.is_empty(), "nothing may be listed unfiltered");
    filters.iter().all(|filter| match filter.name().unwrap() {
        "tag-key" => tags
            .iter()
            .any(|tag| tag.key() == Some(&filter.values()[0])),
        name => tags.iter().any(|tag| {
            name.strip_prefix("tag:") == tag.key() && tag.value() == Some(&filter.values()[0])
        }),
    })
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
fn after_a_build() -> World {
    World::default()
        .instance("i-00000001", tags("web-10", "x86_64"), LONG_AGO)
        .instance("i-00000002", tags("web-10", "arm64"), LONG_AGO)
        .instance("i-00000003", tags("web-11", "x86_64"), LONG_AGO)
        .volume(
            "vol-00000001",
            VolumeState::Available,
            tags("web-10", "x86_64"),
        )
        .volume("vol-00000002", VolumeState::InUse, tags("web-11", "x86_64"))
        .snapshot("snap-00000001", 1, "", tags("web-10", "x86_64"))
        .snapshot("snap-00000002", 2, "verified", tags("web-10", "x86_64"))
        .snapshot("snap-00000003", 3, "", tags("web-11", "x86_64"))
}

#[tokio::test(start_paused = true)]
async fn target_clean_up_removes_only_its_own_resources() {
    let world = after_a_build();
    let removed = world
        .clean_up(
            &ParameterStore::default(),
            json!({"target": target(), "execution": "web-10"}),
        )
        .await
        .unwrap();
    assert_eq!(ids(&removed.terminated), ["i-00000001"]);
    assert_eq!(ids(&removed.deleted_volumes), ["vol-00000001"]);
    assert_eq!(ids(&removed.deleted_snapshots), ["snap-00000001"]);
}

#[tokio::test(start_paused = true)]
async fn clean_up_waits_for_the_builder_to_terminate() {
    let world = after_a_build();
    world
        .clean_up(&ParameterStore::default(), json!({"target": target()}))
        .await
        .unwrap();
    let left = &world.state().instances;
    assert!(
        left.iter()
            .all(|left| left.instance_id() != Some("i-00000001"))
    );
}

#[tokio::test(start_paused = true)]
async fn builder_with_delayed_listing_is_removed() {
    let world = after_a_build();
    world.state().blind_looks = 5;
    let removed = world
        .clean_up(&ParameterStore::default(), json!({"target": target()}))
        .await
        .unwrap();
    assert_eq!(ids(&removed.terminated), ["i-00000001"]);
}

#[tokio::test(start_paused = true)]
async fn second_call_removes_nothing() {
    let world = after_a_build();
    let (store, input) = (ParameterStore::default(), json!({"target": target()}));
    world.clean_up(&store, input.clone()).await.unwrap();
    let removed = world.clean_up(&store, input).await.unwrap();
    assert_eq!(removed, Removed::default());
}

#[tokio::test(start_paused = true)]
async fn aborted_execution_is_cleaned_up_and_announced_once() {
    let world = after_a_build();
    let event = json!({
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
    });
    let removed = world
        .clean_up(&ParameterStore::default(), event)
        .await
        .unwrap();
    assert_eq!(ids(&removed.terminated), ["i-00000001", "i-00000002"]);
    assert_eq!(
        world.state().events,
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
}

/// Five verified snapshots. The second is published.
fn many_snapshots() -> (World, ParameterStore) {
    let world = (1..=5).fold(World::default(), |world, n| {
        let state = if n == 2 { "published" } else { "verified" };
        let id = format!("snap-0000000{n}");
        world.snapshot(&id, n, state, tags(&format!("web-{n}"), "x86_64"))
    });
    let store = ParameterStore::of([
        ("/prepull/config/web", &configuration().to_string()),
        ("/prepull/web/x86_64/snapshot-id", "snap-00000002"),
        ("/prepull/web/x86_64/snapshots/snap-00000001", "{}"),
        ("/prepull/web/x86_64/snapshots/snap-00000002", "{}"),
    ]);
    (world, store)
}

#[tokio::test(start_paused = true)]
async fn retention_keeps_the_newest_and_the_published_snapshot() {
    let (world, store) = many_snapshots();
    let mut target = target();
    target.retain_snapshots = 2;
    let removed = world
        .clean_up(&store, json!({ "target": target }))
        .await
        .unwrap();
    assert_eq!(
        ids(&removed.deleted_snapshots),
        ["snap-00000003", "snap-00000001"]
    );
    assert_eq!(
        removed.deleted_manifests,
        ["/prepull/web/x86_64/snapshots/snap-00000001"]
    );
}

#[tokio::test(start_paused = true)]
async fn retention_keeps_snapshots_of_images_and_launch_templates() {
    let (world, store) = many_snapshots();
    world.state().in_image = Some("snap-00000001".to_owned());
    world.state().in_template = Some("snap-00000003".to_owned());
    let mut target = target();
    target.retain_snapshots = 1;
    let removed = world
        .clean_up(&store, json!({ "target": target }))
        .await
        .unwrap();
    assert_eq!(ids(&removed.deleted_snapshots), ["snap-00000004"]);
}

#[tokio::test(start_paused = true)]
async fn rejected_snapshot_stays_while_published() {
    let store = ParameterStore::of([
        ("/prepull/config/web", &configuration().to_string()),
        ("/prepull/web/x86_64/snapshot-id", "snap-00000001"),
    ]);
    for input in [json!({"target": target()}), json!({"source": "sweep"})] {
        let world = World::default()
            .snapshot("snap-00000001", 1, "rejected", tags("web-10", "x86_64"))
            .snapshot("snap-00000002", 2, "rejected", tags("web-10", "x86_64"));
        let removed = world.clean_up(&store, input).await.unwrap();
        assert_eq!(ids(&removed.deleted_snapshots), ["snap-00000002"]);
    }
}

#[tokio::test]
async fn sweep_removes_only_orphans() {
    let now = jiff::Timestamp::now().as_second();
    let world = World::default()
        .instance("i-00000001", tags("aborted", "x86_64"), LONG_AGO)
        .instance("i-00000002", tags("forgotten", "x86_64"), LONG_AGO)
        .instance("i-00000003", tags("runs", "x86_64"), LONG_AGO)
        .instance("i-00000004", tags("aborted", "x86_64"), now)
        .instance("i-00000005", foreign(), LONG_AGO)
        .instance("i-00000006", vec![tag("prepull:cache", "web")], LONG_AGO)
        .volume(
            "vol-00000001",
            VolumeState::Available,
            tags("aborted", "x86_64"),
        )
        .volume(
            "vol-00000002",
            VolumeState::InUse,
            tags("aborted", "x86_64"),
        )
        .volume("vol-00000003", VolumeState::Available, foreign())
        .snapshot("snap-00000001", 1, "", tags("aborted", "x86_64"))
        .snapshot("snap-00000002", 2, "", tags("runs", "x86_64"))
        .snapshot("snap-00000003", 3, "", foreign())
        .snapshot("snap-00000004", 4, "verified", tags("aborted", "x86_64"));
    world.state().running.push("runs");
    let store = ParameterStore::of([
        ("/prepull/web/x86_64/snapshots/snap-00000004", "{}"),
        ("/prepull/web/x86_64/snapshots/snap-0000000f", "{}"),
        ("/prepull/web/x86_64/snapshot-id", "snap-00000004"),
    ]);
    let removed = world
        .clean_up(&store, json!({"source": "sweep"}))
        .await
        .unwrap();
    assert_eq!(ids(&removed.terminated), ["i-00000001", "i-00000002"]);
    assert_eq!(ids(&removed.deleted_volumes), ["vol-00000001"]);
    assert_eq!(ids(&removed.deleted_snapshots), ["snap-00000001"]);
    assert_eq!(
        removed.deleted_manifests,
        ["/prepull/web/x86_64/snapshots/snap-0000000f"]
    );
}

#[tokio::test]
async fn sweep_applies_retention_to_declared_caches() {
    let (world, store) = many_snapshots();
    let sweep = json!({"source": "sweep"});
    let removed = world.clean_up(&store, sweep.clone()).await.unwrap();
    assert_eq!(ids(&removed.deleted_snapshots), ["snap-00000001"]);
    let (world, _) = many_snapshots();
    let undeclared = ParameterStore::default();
    let removed = world.clean_up(&undeclared, sweep).await.unwrap();
    assert!(removed.deleted_snapshots.is_empty());
}

#[tokio::test]
async fn failed_removal_does_not_stop_the_sweep() {
    let world = World::default()
        .instance("i-00000001", tags("aborted", "x86_64"), LONG_AGO)
        .volume(
            "vol-00000001",
            VolumeState::Available,
            tags("aborted", "x86_64"),
        );
    world.state().termination_fails = Some("UnauthorizedOperation");
    let error = world
        .clean_up(&ParameterStore::default(), json!({"source": "sweep"}))
        .await
        .unwrap_err();
    assert_eq!(error.name(), "AccessDenied");
    assert!(world.state().volumes.is_empty());
}
