//! Property tests of the sweep in random accounts: it removes every orphan and nothing else.
//!
//! To run more accounts than the default: `PROPTEST_CASES=5000 cargo test -p clean-up --test sweep_properties`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use aws_smithy_mocks::{MockResponse, Rule, mock};
use clean_up::{Removed, handle};
use prepull_aws::ec2::operation::delete_snapshot::{DeleteSnapshotError, DeleteSnapshotOutput};
use prepull_aws::ec2::operation::delete_volume::{DeleteVolumeError, DeleteVolumeOutput};
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
use prepull_aws::sfn::operation::describe_execution::{
    DescribeExecutionError, DescribeExecutionOutput,
};
use prepull_aws::sfn::types::ExecutionStatus;
use prepull_aws::{Clients, DateTime, Deadline, ec2, sfn, tag};
use prepull_domain::StageError;
use prepull_testing::{Mocks, ParameterStore, configuration};
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::json;

const MACHINE: &str = "arn:aws:states:eu-west-1:123456789012:stateMachine:prepull-build";
const TEMPLATE: &str = "lt-0123456789abcdef0";

/// Default minimum age of an orphan, in seconds.
const DEFAULT_MINIMUM_AGE: i64 = 300;

/// The owner of a resource, by its tags.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Owner {
    cache: Option<&'static str>,
    architecture: Option<&'static str>,
    execution: Option<&'static str>,
}

impl Owner {
    fn tags(&self) -> Vec<Tag> {
        [
            ("prepull:cache", self.cache),
            ("prepull:architecture", self.architecture),
            ("prepull:execution", self.execution),
            ("Name", Some("prepull web x86_64")),
        ]
        .into_iter()
        .filter_map(|(key, value)| Some(tag(key, value?)))
        .collect()
    }

    /// Returns whether the resource belongs to an execution that has ended.
    fn has_ended(&self) -> bool {
        self.cache.is_some()
            && matches!(
                self.execution,
                Some("succeeded" | "failed" | "stopped" | "forgotten")
            )
    }

    fn runs(&self) -> bool {
        self.execution == Some("running")
    }
}

/// A resource. Its ID contains its position.
#[derive(Debug, Clone)]
struct Resource<Kind> {
    owner: Owner,
    age: i64,
    /// Whether EC2 denies its removal.
    denied_removal: bool,
    kind: Kind,
}

/// The details of a snapshot.
#[derive(Debug, Clone)]
struct Stored {
    state: SnapshotState,
    tagged: Option<&'static str>,
    /// Whether it is published. If several snapshots of a target are, the last one counts.
    wants_pointer: bool,
    in_image: bool,
    /// The version of the launch template that uses it. Version 2 is the latest.
    in_template: Option<i64>,
    has_manifest: bool,
}

/// An account before the sweep.
#[derive(Debug, Clone)]
struct Account {
    instances: Vec<Resource<InstanceStateName>>,
    volumes: Vec<Resource<VolumeState>>,
    snapshots: Vec<Resource<Stored>>,
    /// The retention of the declared caches. The cache `gone` is not declared.
    retain: BTreeMap<&'static str, u8>,
    /// The minimum age in the call.
    minimum_age: Option<i64>,
}

/// The expected result for a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    Kept,
    Removed,
    /// Removal is allowed and not required.
    Either,
}

fn instance_id(n: usize) -> String {
    format!("i-{n:08x}")
}

fn volume_id(n: usize) -> String {
    format!("vol-{n:08x}")
}

fn snapshot_id(n: usize) -> String {
    format!("snap-{n:08x}")
}

fn manifest((cache, architecture): (&str, &str), n: usize) -> String {
    format!(
        "/prepull/{cache}/{architecture}/snapshots/{}",
        snapshot_id(n)
    )
}

impl Resource<Stored> {
    /// Returns its cache and architecture. `None` if the tags are invalid.
    fn target(&self) -> Option<(&'static str, &'static str)> {
        let cache = self.owner.cache.filter(|name| *name != "Not A Cache");
        let architecture = self.owner.architecture.filter(|name| *name != "sparc");
        Some((cache?, architecture?))
    }

    /// Returns whether its images were verified. An error in EBS overrides the tag.
    fn is_good(&self) -> bool {
        self.kind.state != SnapshotState::Error
            && matches!(self.kind.tagged, Some("verified" | "published"))
    }

    fn is_rejected(&self) -> bool {
        self.kind.state == SnapshotState::Error || self.kind.tagged == Some("rejected")
    }
}

impl Account {
    /// Returns the expectation for a resource of an execution.
    fn expected_of_resource<Kind>(&self, resource: &Resource<Kind>) -> Expected {
        let minimum_age = self.minimum_age.unwrap_or(DEFAULT_MINIMUM_AGE);
        if resource.owner.has_ended() && resource.age >= minimum_age {
            Expected::Removed
        } else {
            Expected::Kept
        }
    }

    fn expected_of_instance(&self, n: usize) -> Expected {
        match &self.instances[n].kind {
            InstanceStateName::ShuttingDown | InstanceStateName::Terminated => Expected::Kept,
            _ => self.expected_of_resource(&self.instances[n]),
        }
    }

    fn expected_of_volume(&self, n: usize) -> Expected {
        match &self.volumes[n].kind {
            VolumeState::Available | VolumeState::Error => {
                self.expected_of_resource(&self.volumes[n])
            }
            _ => Expected::Kept,
        }
    }

    fn expected_of_snapshot(&self, n: usize) -> Expected {
        let snapshot = &self.snapshots[n];
        let stored = &snapshot.kind;
        if snapshot.owner.cache.is_none() || self.is_published(n) || stored.in_image {
            return Expected::Kept;
        }
        if snapshot.is_good() {
            if stored.in_template.is_some() || !self.is_beyond_retention(n) {
                return Expected::Kept;
            }
            return if snapshot.owner.runs() {
                Expected::Either
            } else {
                Expected::Removed
            };
        }
        if self.expected_of_resource(snapshot) == Expected::Removed {
            // A template should not use an unverified snapshot.
            return if stored.in_template.is_some() {
                Expected::Either
            } else {
                Expected::Removed
            };
        }
        if snapshot.is_rejected() && self.retained(n).is_some() && stored.in_template.is_none() {
            // No stage reads it again.
            return Expected::Either;
        }
        Expected::Kept
    }

    /// Returns whether EC2 denies a required removal.
    fn denies_a_required_removal(&self) -> bool {
        let instances = self
            .instances
            .iter()
            .map(|resource| resource.denied_removal);
        let volumes = self.volumes.iter().map(|resource| resource.denied_removal);
        let snapshots = self
            .snapshots
            .iter()
            .map(|resource| resource.denied_removal);
        let goes = |(n, denied_removal), expected_at: &dyn Fn(usize) -> Expected| {
            denied_removal && expected_at(n) == Expected::Removed
        };
        instances
            .enumerate()
            .any(|it| goes(it, &|n| self.expected_of_instance(n)))
            || volumes
                .enumerate()
                .any(|it| goes(it, &|n| self.expected_of_volume(n)))
            || snapshots
                .enumerate()
                .any(|it| goes(it, &|n| self.expected_of_snapshot(n)))
    }

    /// Returns the retention of its cache. `None` if the cache is not declared.
    fn retained(&self, n: usize) -> Option<u8> {
        let (cache, _) = self.snapshots[n].target()?;
        self.retain.get(cache).copied()
    }

    fn is_beyond_retention(&self, n: usize) -> bool {
        let own = &self.snapshots[n];
        let newer = self
            .snapshots
            .iter()
            .enumerate()
            .filter(|(other, snapshot)| {
                snapshot.is_good()
                    && snapshot.target() == own.target()
                    && (snapshot.age, std::cmp::Reverse(*other)) < (own.age, std::cmp::Reverse(n))
            });
        self.retained(n)
            .is_some_and(|retained| newer.count() >= usize::from(retained))
    }

    /// Returns the snapshot of each pointer.
    fn pointers(&self) -> BTreeMap<(&'static str, &'static str), usize> {
        let wanting = self.snapshots.iter().enumerate();
        wanting
            .filter(|(_, snapshot)| snapshot.kind.wants_pointer)
            .filter_map(|(n, snapshot)| Some((snapshot.target()?, n)))
            .collect()
    }

    fn is_published(&self, n: usize) -> bool {
        self.pointers().values().any(|published| *published == n)
    }

    /// Returns the manifests with the positions of their snapshots. One manifest has no snapshot.
    fn manifests(&self) -> BTreeMap<String, Option<usize>> {
        let described = self.snapshots.iter().enumerate();
        described
            .filter(|(_, snapshot)| snapshot.kind.has_manifest)
            .filter_map(|(n, snapshot)| Some((manifest(snapshot.target()?, n), Some(n))))
            .chain([(manifest(("web", "x86_64"), 0xdead), None)])
            .collect()
    }

    fn parameters(&self) -> ParameterStore {
        let store = ParameterStore::default();
        for (cache, retain) in &self.retain {
            let mut config = configuration();
            config["retain_snapshots"] = json!(retain);
            store.set(&format!("/prepull/config/{cache}"), &config.to_string());
        }
        store.set("/prepull/config/broken", "{}");
        store.set("/prepull/web/notes/snapshots", "not prepull's");
        for ((cache, architecture), n) in self.pointers() {
            let pointer = format!("/prepull/{cache}/{architecture}/snapshot-id");
            store.set(&pointer, &snapshot_id(n));
        }
        for parameter in self.manifests().keys() {
            store.set(parameter, "{}");
        }
        store
    }
}

/// EC2 and Step Functions with the resources of an account.
#[derive(Clone)]
struct World(Arc<Mutex<State>>);

struct State {
    instances: Vec<Instance>,
    volumes: Vec<Volume>,
    snapshots: Vec<Snapshot>,
    in_images: BTreeSet<String>,
    in_templates: BTreeMap<String, i64>,
    denied_removal: BTreeSet<String>,
}

impl World {
    fn of(account: &Account) -> Self {
        let now = jiff::Timestamp::now().as_second();
        let instances = account.instances.iter().enumerate().map(|(n, resource)| {
            Instance::builder()
                .instance_id(instance_id(n))
                .state(InstanceState::builder().name(resource.kind.clone()).build())
                .launch_time(DateTime::from_secs(now - resource.age))
                .set_tags(Some(resource.owner.tags()))
                .build()
        });
        let volumes = account.volumes.iter().enumerate().map(|(n, resource)| {
            Volume::builder()
                .volume_id(volume_id(n))
                .state(resource.kind.clone())
                .create_time(DateTime::from_secs(now - resource.age))
                .set_tags(Some(resource.owner.tags()))
                .build()
        });
        let snapshots = account.snapshots.iter().enumerate().map(|(n, resource)| {
            let mut tags = resource.owner.tags();
            tags.extend(
                resource
                    .kind
                    .tagged
                    .map(|state| tag("prepull:state", state)),
            );
            Snapshot::builder()
                .snapshot_id(snapshot_id(n))
                .state(resource.kind.state.clone())
                .start_time(DateTime::from_secs(now - resource.age))
                .set_tags(Some(tags))
                .build()
        });
        let stored = || {
            account
                .snapshots
                .iter()
                .map(|resource| &resource.kind)
                .enumerate()
        };
        let denied_removal = [
            ids_of_denied(&account.instances, instance_id),
            ids_of_denied(&account.volumes, volume_id),
            ids_of_denied(&account.snapshots, snapshot_id),
        ];
        Self(Arc::new(Mutex::new(State {
            instances: instances.collect(),
            volumes: volumes.collect(),
            snapshots: snapshots.collect(),
            in_images: stored()
                .filter(|(_, stored)| stored.in_image)
                .map(|(n, _)| snapshot_id(n))
                .collect(),
            in_templates: stored()
                .filter_map(|(n, stored)| Some((snapshot_id(n), stored.in_template?)))
                .collect(),
            denied_removal: denied_removal.into_iter().flatten().collect(),
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    fn clients(&self, parameters: &ParameterStore) -> Clients {
        Mocks::new()
            .ssm(parameters.rules())
            .ec2([self.resources(), self.removals(), self.users()].concat())
            .sfn([executions()])
            .clients()
    }

    /// Returns the removed resources, and the instances that shut down.
    fn removed_ids(&self, account: &Account) -> RemovedIds {
        let state = self.state();
        let instances = account.instances.iter().enumerate().filter(|(n, before)| {
            let now = state.instances[*n].state().and_then(InstanceState::name);
            now != Some(&before.kind)
        });
        let volumes = (0..account.volumes.len()).map(volume_id).filter(|id| {
            let is_it = |volume: &Volume| volume.volume_id() == Some(id);
            !state.volumes.iter().any(is_it)
        });
        let snapshots = (0..account.snapshots.len()).map(snapshot_id).filter(|id| {
            let is_it = |snapshot: &Snapshot| snapshot.snapshot_id() == Some(id);
            !state.snapshots.iter().any(is_it)
        });
        RemovedIds {
            instances: instances.map(|(n, _)| instance_id(n)).collect(),
            volumes: volumes.collect(),
            snapshots: snapshots.collect(),
        }
    }

    /// Returns rules that list resources.
    fn resources(&self) -> Vec<Rule> {
        let (instances, volumes, snapshots) = (self.clone(), self.clone(), self.clone());
        vec![
            mock!(ec2::Client::describe_instances).then_compute_output(move |request| {
                let found = instances.state().instances.clone();
                let found = found
                    .into_iter()
                    .filter(|it| matches(it.tags(), request.filters()));
                DescribeInstancesOutput::builder()
                    .reservations(
                        Reservation::builder()
                            .set_instances(Some(found.collect()))
                            .build(),
                    )
                    .build()
            }),
            mock!(ec2::Client::describe_volumes).then_compute_output(move |request| {
                let found = volumes.state().volumes.clone();
                let found = found
                    .into_iter()
                    .filter(|it| matches(it.tags(), request.filters()));
                DescribeVolumesOutput::builder()
                    .set_volumes(Some(found.collect()))
                    .build()
            }),
            mock!(ec2::Client::describe_snapshots).then_compute_output(move |request| {
                assert_eq!(request.owner_ids(), ["self"]);
                let found = snapshots.state().snapshots.clone();
                let found = found
                    .into_iter()
                    .filter(|it| matches(it.tags(), request.filters()));
                DescribeSnapshotsOutput::builder()
                    .set_snapshots(Some(found.collect()))
                    .build()
            }),
        ]
    }

    /// Returns rules that remove resources. EC2 keeps a snapshot that a machine image uses.
    fn removals(&self) -> Vec<Rule> {
        let (terminated, deleted, dropped) = (self.clone(), self.clone(), self.clone());
        vec![
            mock!(ec2::Client::terminate_instances).then_compute_response(move |request| {
                let mut world = terminated.state();
                let id = &request.instance_ids()[0];
                if world.denied_removal.contains(id) {
                    return MockResponse::Error(TerminateInstancesError::generic(denied()));
                }
                for instance in &mut world.instances {
                    if instance.instance_id() == Some(id) {
                        let ending = InstanceState::builder().name(InstanceStateName::ShuttingDown);
                        instance.state = Some(ending.build());
                    }
                }
                MockResponse::Output(TerminateInstancesOutput::builder().build())
            }),
            mock!(ec2::Client::delete_volume).then_compute_response(move |request| {
                let mut world = deleted.state();
                if world.denied_removal.contains(request.volume_id().unwrap()) {
                    return MockResponse::Error(DeleteVolumeError::generic(denied()));
                }
                world
                    .volumes
                    .retain(|volume| volume.volume_id() != request.volume_id());
                MockResponse::Output(DeleteVolumeOutput::builder().build())
            }),
            mock!(ec2::Client::delete_snapshot).then_compute_response(move |request| {
                let mut world = dropped.state();
                let id = request.snapshot_id().unwrap();
                if world.in_images.contains(id) {
                    let in_use = code("InvalidSnapshot.InUse");
                    return MockResponse::Error(DeleteSnapshotError::generic(in_use));
                }
                if world.denied_removal.contains(id) {
                    return MockResponse::Error(DeleteSnapshotError::generic(denied()));
                }
                world
                    .snapshots
                    .retain(|snapshot| snapshot.snapshot_id() != Some(id));
                MockResponse::Output(DeleteSnapshotOutput::builder().build())
            }),
        ]
    }

    /// Returns rules for machine images and launch templates.
    fn users(&self) -> Vec<Rule> {
        let (images, templates) = (self.clone(), self.clone());
        vec![
            mock!(ec2::Client::describe_images).then_compute_output(move |request| {
                assert_eq!(request.owners(), ["self"]);
                let filter = &request.filters()[0];
                assert_eq!(filter.name(), Some("block-device-mapping.snapshot-id"));
                let named = images.state().in_images.clone().into_iter();
                let found = named.filter(|id| filter.values().contains(id)).map(|id| {
                    let disk = EbsBlockDevice::builder().snapshot_id(id).build();
                    let mapping = BlockDeviceMapping::builder().ebs(disk).build();
                    Image::builder().block_device_mappings(mapping).build()
                });
                DescribeImagesOutput::builder()
                    .set_images(Some(found.collect()))
                    .build()
            }),
            mock!(ec2::Client::describe_launch_template_versions).then_compute_output(
                move |request| {
                    let of_template = request.launch_template_id() == Some(TEMPLATE);
                    let latest = request.versions().contains(&"$Latest".to_owned());
                    let versions = [1, 2]
                        .into_iter()
                        .filter(|version| of_template || (latest && *version == 2));
                    let versions = versions.map(|version| templates.version(version));
                    DescribeLaunchTemplateVersionsOutput::builder()
                        .set_launch_template_versions(Some(versions.collect()))
                        .build()
                },
            ),
        ]
    }

    /// Returns a version of the launch template with a disk for each of its snapshots.
    fn version(&self, number: i64) -> LaunchTemplateVersion {
        let named = self.state().in_templates.clone().into_iter();
        let mappings = named
            .filter(|(_, version)| *version == number)
            .map(|(id, _)| {
                let disk = LaunchTemplateEbsBlockDevice::builder()
                    .snapshot_id(id)
                    .build();
                LaunchTemplateBlockDeviceMapping::builder()
                    .ebs(disk)
                    .build()
            });
        let data = ResponseLaunchTemplateData::builder()
            .set_block_device_mappings(Some(mappings.collect()))
            .build();
        LaunchTemplateVersion::builder()
            .launch_template_id(TEMPLATE)
            .version_number(number)
            .launch_template_data(data)
            .build()
    }
}

/// The IDs of the removed resources.
#[derive(Debug, PartialEq, Eq)]
struct RemovedIds {
    instances: Vec<String>,
    volumes: Vec<String>,
    snapshots: Vec<String>,
}

fn sweep(clients: &Clients, minimum_age: Option<i64>) -> Result<Removed, StageError> {
    let input = match minimum_age {
        Some(seconds) => json!({"source": "sweep", "least_age_seconds": seconds}),
        None => json!({"source": "sweep"}),
    };
    let deadline = Deadline::after(Duration::from_secs(60));
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime needs nothing")
        .block_on(handle(clients, MACHINE, input, deadline))
}

fn ids_of_denied<Kind>(resources: &[Resource<Kind>], id: fn(usize) -> String) -> Vec<String> {
    let denied_removal = resources
        .iter()
        .enumerate()
        .filter(|(_, resource)| resource.denied_removal);
    denied_removal.map(|(n, _)| id(n)).collect()
}

/// Returns a rule for executions. The name of an execution is its status.
fn executions() -> Rule {
    mock!(sfn::Client::describe_execution).then_compute_response(|request| {
        let arn = request.execution_arn().unwrap();
        let status = match arn.rsplit_once(':').unwrap().1 {
            "running" => ExecutionStatus::Running,
            "succeeded" => ExecutionStatus::Succeeded,
            "failed" => ExecutionStatus::Failed,
            "stopped" => ExecutionStatus::Aborted,
            _ => {
                let unknown = sfn::error::ErrorMetadata::builder().code("ExecutionDoesNotExist");
                return MockResponse::Error(DescribeExecutionError::generic(unknown.build()));
            }
        };
        MockResponse::Output(
            DescribeExecutionOutput::builder()
                .execution_arn(arn)
                .state_machine_arn(MACHINE)
                .status(status)
                .start_date(DateTime::from_secs(0))
                .build()
                .unwrap(),
        )
    })
}

fn code(code: &str) -> ec2::error::ErrorMetadata {
    ec2::error::ErrorMetadata::builder().code(code).build()
}

fn denied() -> ec2::error::ErrorMetadata {
    code("UnauthorizedOperation")
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

fn any_owner() -> impl Strategy<Value = Owner> {
    let cache = prop_oneof![
        1 => Just(None),
        6 => Just(Some("web")),
        3 => select(vec![Some("batch"), Some("gone"), Some("broken"), Some("Not A Cache")]),
    ];
    let architecture = prop_oneof![
        6 => Just(Some("x86_64")),
        2 => Just(Some("arm64")),
        1 => select(vec![None, Some("sparc")]),
    ];
    let execution = prop_oneof![
        3 => Just(Some("running")),
        4 => select(vec![Some("succeeded"), Some("failed"), Some("stopped"), Some("forgotten")]),
        1 => select(vec![None, Some("no name: of an execution")]),
    ];
    (cache, architecture, execution).prop_map(|(cache, architecture, execution)| Owner {
        cache,
        architecture,
        execution,
    })
}

/// Generates ages in seconds. None is close to a limit, because the test itself takes some seconds.
fn any_age() -> impl Strategy<Value = i64> {
    prop_oneof![
        1 => 0..DEFAULT_MINIMUM_AGE - 60,
        2 => DEFAULT_MINIMUM_AGE..3_000,
        3 => 4_000..10_000_000i64,
        1 => Just(5_000),
    ]
}

fn any_resource<Kind: std::fmt::Debug>(
    kind: impl Strategy<Value = Kind>,
) -> impl Strategy<Value = Resource<Kind>> {
    let denied_removal = prop::bool::weighted(0.05);
    (any_owner(), any_age(), denied_removal, kind).prop_map(|(owner, age, denied_removal, kind)| {
        Resource {
            owner,
            age,
            denied_removal,
            kind,
        }
    })
}

fn any_instance_state() -> impl Strategy<Value = InstanceStateName> {
    use InstanceStateName::{Pending, Running, ShuttingDown, Stopped, Stopping, Terminated};
    select(vec![
        Pending,
        Running,
        ShuttingDown,
        Stopped,
        Stopping,
        Terminated,
    ])
}

fn any_volume_state() -> impl Strategy<Value = VolumeState> {
    use VolumeState::{Available, Creating, Deleting, Error, InUse};
    select(vec![Available, Creating, Deleting, Error, InUse])
}

fn any_stored() -> impl Strategy<Value = Stored> {
    let state = prop_oneof![
        6 => Just(SnapshotState::Completed),
        1 => Just(SnapshotState::Pending),
        1 => Just(SnapshotState::Error),
    ];
    let tagged = prop_oneof![
        4 => Just(Some("verified")),
        1 => Just(Some("published")),
        1 => Just(Some("rejected")),
        2 => select(vec![None, Some("bananas")]),
    ];
    let often = || prop::bool::weighted(0.15);
    let in_template = prop_oneof![6 => Just(None), 1 => (1..=2i64).prop_map(Some)];
    (state, tagged, often(), often(), in_template, any::<bool>()).prop_map(
        |(state, tagged, wants_pointer, in_image, in_template, has_manifest)| Stored {
            state,
            tagged,
            wants_pointer,
            in_image,
            in_template,
            has_manifest,
        },
    )
}

fn any_account() -> impl Strategy<Value = Account> {
    (
        prop::collection::vec(any_resource(any_instance_state()), 0..6),
        prop::collection::vec(any_resource(any_volume_state()), 0..6),
        prop::collection::vec(any_resource(any_stored()), 0..14),
        (1..4u8, 1..4u8),
        select(vec![None, None, Some(0), Some(3_600)]),
    )
        .prop_map(
            |(instances, volumes, snapshots, (web, batch), minimum_age)| Account {
                instances,
                volumes,
                snapshots,
                retain: [("web", web), ("batch", batch)].into(),
                minimum_age,
            },
        )
}

/// Compares the removed resources with the expected ones.
fn check<Kind: std::fmt::Debug>(
    resources: &[Resource<Kind>],
    removed: &[String],
    id: fn(usize) -> String,
    expected_at: impl Fn(usize) -> Expected,
) -> Result<(), TestCaseError> {
    for (n, resource) in resources.iter().enumerate() {
        let expected = if resource.denied_removal {
            Expected::Kept
        } else {
            expected_at(n)
        };
        let actual = if removed.contains(&id(n)) {
            Expected::Removed
        } else {
            Expected::Kept
        };
        prop_assert!(
            expected == actual || expected == Expected::Either,
            "{}: {actual:?}, expected {expected:?}: {resource:?}",
            id(n)
        );
    }
    Ok(())
}

fn sorted<T: ToString>(ids: &[T]) -> Vec<String> {
    let ids: BTreeSet<_> = ids.iter().map(ToString::to_string).collect();
    ids.into_iter().collect()
}

proptest! {
    // Half the usual number of cases: each has two sweeps with at least a dozen calls.
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.div_ceil(2), ..ProptestConfig::default() })]

    #[test]
    fn sweep_removes_all_orphans_and_nothing_else(account in any_account()) {
        let world = World::of(&account);
        let parameters = account.parameters();
        let clients = world.clients(&parameters);
        let result = sweep(&clients, account.minimum_age);

        let removed_ids = world.removed_ids(&account);
        check(&account.instances, &removed_ids.instances, instance_id, |n| account.expected_of_instance(n))?;
        check(&account.volumes, &removed_ids.volumes, volume_id, |n| account.expected_of_volume(n))?;
        check(&account.snapshots, &removed_ids.snapshots, snapshot_id, |n| account.expected_of_snapshot(n))?;
        for (parameter, snapshot) in account.manifests() {
            let is_there = parameters.get(&parameter).is_some();
            match snapshot {
                // The next sweep removes its manifest at the latest.
                Some(n) if removed_ids.snapshots.contains(&snapshot_id(n)) => {}
                Some(_) => prop_assert!(is_there, "{parameter} has a snapshot and was removed"),
                None => prop_assert!(!is_there, "{parameter} has no snapshot and was kept"),
            }
        }
        prop_assert!(parameters.get("/prepull/web/notes/snapshots").is_some());
        for ((cache, architecture), n) in account.pointers() {
            let pointer = parameters.get(&format!("/prepull/{cache}/{architecture}/snapshot-id"));
            prop_assert_eq!(pointer, Some(snapshot_id(n)));
        }

        match result {
            Ok(removed) => {
                prop_assert!(!account.denies_a_required_removal(), "a removal was denied, and the sweep succeeded");
                prop_assert_eq!(sorted(&removed.terminated), removed_ids.instances.clone());
                prop_assert_eq!(sorted(&removed.deleted_volumes), removed_ids.volumes.clone());
                prop_assert_eq!(sorted(&removed.deleted_snapshots), removed_ids.snapshots.clone());
            }
            Err(error) => prop_assert_eq!(error.name(), "AccessDenied"),
        }

        // The next sweep removes only manifests of removed snapshots.
        let _ = sweep(&clients, account.minimum_age);
        prop_assert_eq!(&world.removed_ids(&account), &removed_ids);
        for (parameter, snapshot) in account.manifests() {
            let describes = snapshot.is_some_and(|n| !removed_ids.snapshots.contains(&snapshot_id(n)));
            prop_assert_eq!(parameters.get(&parameter).is_some(), describes, "{}", parameter);
        }
    }
}
