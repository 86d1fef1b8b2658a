//! The sweep in random accounts: what it removes is what may go, and all of it.
//!
//! More accounts than by default: `PROPTEST_CASES=5000 cargo test -p clean-up --test sweep_properties`.

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

/// The age from which the sweep takes a thing for left, where the call does not say, in seconds.
const USUAL_LEAST_AGE: i64 = 300;

/// Whose a thing is, by its tags.
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

    /// Whether an execution made it that is known not to run any more.
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

/// What can be removed. Its number makes its ID.
#[derive(Debug, Clone)]
struct Thing<Kind> {
    owner: Owner,
    age: i64,
    /// Whether EC2 refuses to remove it.
    refused: bool,
    kind: Kind,
}

/// What else is known of a snapshot.
#[derive(Debug, Clone)]
struct Stored {
    state: SnapshotState,
    tagged: Option<&'static str>,
    /// Whether the pointer of its cache and architecture names it, if no other of them does.
    wants_pointer: bool,
    in_image: bool,
    /// The version of a launch template that names it; the second is the latest one.
    in_template: Option<i64>,
    has_manifest: bool,
}

/// An account before the sweep.
#[derive(Debug, Clone)]
struct Account {
    instances: Vec<Thing<InstanceStateName>>,
    volumes: Vec<Thing<VolumeState>>,
    snapshots: Vec<Thing<Stored>>,
    /// How many snapshots the declared caches retain; the cache `gone` is not declared.
    retain: BTreeMap<&'static str, u8>,
    /// What the sweep is called with.
    least_age: Option<i64>,
}

/// What must become of a thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Stays,
    Goes,
    /// It is of no use, and nobody minds when it goes.
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

impl Thing<Stored> {
    /// The cache and architecture that it was made for, where such can be.
    fn target(&self) -> Option<(&'static str, &'static str)> {
        let cache = self.owner.cache.filter(|name| *name != "Not A Cache");
        let architecture = self.owner.architecture.filter(|name| *name != "sparc");
        Some((cache?, architecture?))
    }

    /// Whether its images were verified. EBS' error outdoes the tag.
    fn is_good(&self) -> bool {
        self.kind.state != SnapshotState::Error
            && matches!(self.kind.tagged, Some("verified" | "published"))
    }

    fn is_rejected(&self) -> bool {
        self.kind.state == SnapshotState::Error || self.kind.tagged == Some("rejected")
    }
}

impl Account {
    /// The fate of what an execution made, and what that execution alone decides on.
    fn fate_of_leftover<Kind>(&self, thing: &Thing<Kind>) -> Fate {
        let least_age = self.least_age.unwrap_or(USUAL_LEAST_AGE);
        if thing.owner.has_ended() && thing.age >= least_age {
            Fate::Goes
        } else {
            Fate::Stays
        }
    }

    fn fate_of_instance(&self, n: usize) -> Fate {
        match &self.instances[n].kind {
            InstanceStateName::ShuttingDown | InstanceStateName::Terminated => Fate::Stays,
            _ => self.fate_of_leftover(&self.instances[n]),
        }
    }

    fn fate_of_volume(&self, n: usize) -> Fate {
        match &self.volumes[n].kind {
            VolumeState::Available | VolumeState::Error => self.fate_of_leftover(&self.volumes[n]),
            _ => Fate::Stays,
        }
    }

    fn fate_of_snapshot(&self, n: usize) -> Fate {
        let snapshot = &self.snapshots[n];
        let stored = &snapshot.kind;
        if snapshot.owner.cache.is_none() || self.is_published(n) || stored.in_image {
            return Fate::Stays;
        }
        if snapshot.is_good() {
            if stored.in_template.is_some() || !self.is_beyond_retention(n) {
                return Fate::Stays;
            }
            return if snapshot.owner.runs() {
                Fate::Either
            } else {
                Fate::Goes
            };
        }
        if self.fate_of_leftover(snapshot) == Fate::Goes {
            // Nobody should have named it: its images were never verified.
            return if stored.in_template.is_some() {
                Fate::Either
            } else {
                Fate::Goes
            };
        }
        if snapshot.is_rejected() && self.retained(n).is_some() && stored.in_template.is_none() {
            // No stage looks at it again, whether its execution runs or not.
            return Fate::Either;
        }
        Fate::Stays
    }

    /// Whether EC2 refuses to remove something that must go.
    fn refuses_what_must_go(&self) -> bool {
        let instances = self.instances.iter().map(|thing| thing.refused);
        let volumes = self.volumes.iter().map(|thing| thing.refused);
        let snapshots = self.snapshots.iter().map(|thing| thing.refused);
        let goes = |(n, refused), fate: &dyn Fn(usize) -> Fate| refused && fate(n) == Fate::Goes;
        instances
            .enumerate()
            .any(|it| goes(it, &|n| self.fate_of_instance(n)))
            || volumes
                .enumerate()
                .any(|it| goes(it, &|n| self.fate_of_volume(n)))
            || snapshots
                .enumerate()
                .any(|it| goes(it, &|n| self.fate_of_snapshot(n)))
    }

    /// How many snapshots are retained of its kind; none where its cache is not declared.
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

    /// The snapshot that each pointer names.
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

    /// The manifests in the Parameter Store, with the snapshots that they describe; one describes none that there is.
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
        store.set("/prepull/web/notes/snapshots", "somebody else's");
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

/// EC2 and Step Functions with an account's things in them.
#[derive(Clone)]
struct World(Arc<Mutex<State>>);

struct State {
    instances: Vec<Instance>,
    volumes: Vec<Volume>,
    snapshots: Vec<Snapshot>,
    in_images: BTreeSet<String>,
    in_templates: BTreeMap<String, i64>,
    refused: BTreeSet<String>,
}

impl World {
    fn of(account: &Account) -> Self {
        let now = jiff::Timestamp::now().as_second();
        let instances = account.instances.iter().enumerate().map(|(n, thing)| {
            Instance::builder()
                .instance_id(instance_id(n))
                .state(InstanceState::builder().name(thing.kind.clone()).build())
                .launch_time(DateTime::from_secs(now - thing.age))
                .set_tags(Some(thing.owner.tags()))
                .build()
        });
        let volumes = account.volumes.iter().enumerate().map(|(n, thing)| {
            Volume::builder()
                .volume_id(volume_id(n))
                .state(thing.kind.clone())
                .create_time(DateTime::from_secs(now - thing.age))
                .set_tags(Some(thing.owner.tags()))
                .build()
        });
        let snapshots = account.snapshots.iter().enumerate().map(|(n, thing)| {
            let mut tags = thing.owner.tags();
            tags.extend(thing.kind.tagged.map(|state| tag("prepull:state", state)));
            Snapshot::builder()
                .snapshot_id(snapshot_id(n))
                .state(thing.kind.state.clone())
                .start_time(DateTime::from_secs(now - thing.age))
                .set_tags(Some(tags))
                .build()
        });
        let stored = || {
            account
                .snapshots
                .iter()
                .map(|thing| &thing.kind)
                .enumerate()
        };
        let refused = [
            ids_of_refused(&account.instances, instance_id),
            ids_of_refused(&account.volumes, volume_id),
            ids_of_refused(&account.snapshots, snapshot_id),
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
            refused: refused.into_iter().flatten().collect(),
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    fn clients(&self, parameters: &ParameterStore) -> Clients {
        Mocks::new()
            .ssm(parameters.rules())
            .ec2([self.things(), self.removals(), self.users()].concat())
            .sfn([executions()])
            .clients()
    }

    /// What of the account's things is gone, or going.
    fn gone(&self, account: &Account) -> Gone {
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
        Gone {
            instances: instances.map(|(n, _)| instance_id(n)).collect(),
            volumes: volumes.collect(),
            snapshots: snapshots.collect(),
        }
    }

    /// What there is.
    fn things(&self) -> Vec<Rule> {
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

    /// What can be done to it. EC2 itself keeps what a volume or a machine image needs.
    fn removals(&self) -> Vec<Rule> {
        let (terminated, deleted, dropped) = (self.clone(), self.clone(), self.clone());
        vec![
            mock!(ec2::Client::terminate_instances).then_compute_response(move |request| {
                let mut world = terminated.state();
                let id = &request.instance_ids()[0];
                if world.refused.contains(id) {
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
                if world.refused.contains(request.volume_id().unwrap()) {
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
                if world.refused.contains(id) {
                    return MockResponse::Error(DeleteSnapshotError::generic(denied()));
                }
                world
                    .snapshots
                    .retain(|snapshot| snapshot.snapshot_id() != Some(id));
                MockResponse::Output(DeleteSnapshotOutput::builder().build())
            }),
        ]
    }

    /// Who else uses snapshots.
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

    /// A version of the launch template, with a disk of each snapshot that it names.
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

/// The IDs of what was removed.
#[derive(Debug, PartialEq, Eq)]
struct Gone {
    instances: Vec<String>,
    volumes: Vec<String>,
    snapshots: Vec<String>,
}

fn sweep(clients: &Clients, least_age: Option<i64>) -> Result<Removed, StageError> {
    let input = match least_age {
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

fn ids_of_refused<Kind>(things: &[Thing<Kind>], id: fn(usize) -> String) -> Vec<String> {
    let refused = things.iter().enumerate().filter(|(_, thing)| thing.refused);
    refused.map(|(n, _)| id(n)).collect()
}

/// Step Functions, which knows an execution by its status.
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

/// Whether tags pass the filters by tag.
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

/// Ages in seconds. The test takes some seconds itself, so none is close to a limit.
fn any_age() -> impl Strategy<Value = i64> {
    prop_oneof![
        1 => 0..USUAL_LEAST_AGE - 60,
        2 => USUAL_LEAST_AGE..3_000,
        3 => 4_000..10_000_000i64,
        1 => Just(5_000),
    ]
}

fn any_thing<Kind: std::fmt::Debug>(
    kind: impl Strategy<Value = Kind>,
) -> impl Strategy<Value = Thing<Kind>> {
    let refused = prop::bool::weighted(0.05);
    (any_owner(), any_age(), refused, kind).prop_map(|(owner, age, refused, kind)| Thing {
        owner,
        age,
        refused,
        kind,
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
        prop::collection::vec(any_thing(any_instance_state()), 0..6),
        prop::collection::vec(any_thing(any_volume_state()), 0..6),
        prop::collection::vec(any_thing(any_stored()), 0..14),
        (1..4u8, 1..4u8),
        select(vec![None, None, Some(0), Some(3_600)]),
    )
        .prop_map(
            |(instances, volumes, snapshots, (web, batch), least_age)| Account {
                instances,
                volumes,
                snapshots,
                retain: [("web", web), ("batch", batch)].into(),
                least_age,
            },
        )
}

/// Compares what was removed of `things` with what was to be.
fn check<Kind: std::fmt::Debug>(
    things: &[Thing<Kind>],
    removed: &[String],
    id: fn(usize) -> String,
    fate: impl Fn(usize) -> Fate,
) -> Result<(), TestCaseError> {
    for (n, thing) in things.iter().enumerate() {
        let expected = if thing.refused { Fate::Stays } else { fate(n) };
        let came = if removed.contains(&id(n)) {
            Fate::Goes
        } else {
            Fate::Stays
        };
        prop_assert!(
            expected == came || expected == Fate::Either,
            "{} {came:?}, but {expected:?} is right: {thing:?}",
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
    // Half as many cases as elsewhere: each is two sweeps, with a dozen calls or more.
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.div_ceil(2), ..ProptestConfig::default() })]

    #[test]
    fn sweep_removes_all_orphans_and_nothing_else(account in any_account()) {
        let world = World::of(&account);
        let parameters = account.parameters();
        let clients = world.clients(&parameters);
        let result = sweep(&clients, account.least_age);

        let gone = world.gone(&account);
        check(&account.instances, &gone.instances, instance_id, |n| account.fate_of_instance(n))?;
        check(&account.volumes, &gone.volumes, volume_id, |n| account.fate_of_volume(n))?;
        check(&account.snapshots, &gone.snapshots, snapshot_id, |n| account.fate_of_snapshot(n))?;
        for (parameter, snapshot) in account.manifests() {
            let is_there = parameters.get(&parameter).is_some();
            match snapshot {
                // The next sweep sees to it at the latest.
                Some(n) if gone.snapshots.contains(&snapshot_id(n)) => {}
                Some(_) => prop_assert!(is_there, "{parameter} describes a snapshot and went"),
                None => prop_assert!(!is_there, "{parameter} describes nothing and stayed"),
            }
        }
        prop_assert!(parameters.get("/prepull/web/notes/snapshots").is_some());
        for ((cache, architecture), n) in account.pointers() {
            let pointer = parameters.get(&format!("/prepull/{cache}/{architecture}/snapshot-id"));
            prop_assert_eq!(pointer, Some(snapshot_id(n)));
        }

        match result {
            Ok(removed) => {
                prop_assert!(!account.refuses_what_must_go(), "a removal was refused, and the sweep ended well");
                prop_assert_eq!(sorted(&removed.terminated), gone.instances.clone());
                prop_assert_eq!(sorted(&removed.deleted_volumes), gone.volumes.clone());
                prop_assert_eq!(sorted(&removed.deleted_snapshots), gone.snapshots.clone());
            }
            Err(error) => prop_assert_eq!(error.name(), "AccessDenied"),
        }

        // The next sweep finds nothing but the manifests of what went.
        let _ = sweep(&clients, account.least_age);
        prop_assert_eq!(&world.gone(&account), &gone);
        for (parameter, snapshot) in account.manifests() {
            let describes = snapshot.is_some_and(|n| !gone.snapshots.contains(&snapshot_id(n)));
            prop_assert_eq!(parameters.get(&parameter).is_some(), describes, "{}", parameter);
        }
    }
}
