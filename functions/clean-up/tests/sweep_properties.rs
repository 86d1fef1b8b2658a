//! Property tests of the sweep in random accounts: it removes every orphan and nothing else.
//!
//! To run more accounts than the default: `PROPTEST_CASES=5000 cargo test -p clean-up --test sweep_properties`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use clean_up::{Removed, handle};
use prepull_aws::ec2::types::{
    Instance, InstanceState, InstanceStateName, Snapshot, SnapshotState, Tag, Volume, VolumeState,
};
use prepull_aws::sfn::types::ExecutionStatus;
use prepull_aws::{Clients, DateTime, Deadline, tag};
use prepull_domain::StageError;
use prepull_testing::{FakeAws, STATE_MACHINE_ARN, configuration, execution};
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::json;

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
    user: Option<User>,
    /// Whether the announced time of its deletion has passed.
    has_expired: Option<bool>,
    has_manifest: bool,
}

/// The user of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum User {
    Image,
    Volume,
    /// A version of a launch template. Version 2 is the latest.
    Template(i64),
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
    fn is_verified(&self) -> bool {
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
        if snapshot.owner.cache.is_none()
            || self.is_published(n)
            || stored.user == Some(User::Image)
        {
            return Expected::Kept;
        }
        if snapshot.is_verified() {
            if stored.user.is_some()
                || stored.has_expired == Some(false)
                || !self.is_beyond_retention(n)
            {
                return Expected::Kept;
            }
            return if snapshot.owner.runs() {
                Expected::Either
            } else {
                Expected::Removed
            };
        }
        let is_used = stored.user.is_some();
        if snapshot.is_rejected() && stored.has_manifest && snapshot.target().is_some() {
            // It was published and then rejected. Retention decides about it.
            let waits = is_used || stored.has_expired == Some(false);
            return if waits || self.retained(n).is_none() {
                Expected::Kept
            } else {
                Expected::Removed
            };
        }
        if self.expected_of_resource(snapshot) == Expected::Removed {
            // Nodes should not use an unverified snapshot.
            return if is_used {
                Expected::Either
            } else {
                Expected::Removed
            };
        }
        let waits = is_used || stored.has_expired == Some(false);
        if snapshot.is_rejected() && self.retained(n).is_some() && !waits {
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
                snapshot.is_verified()
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

    fn set_parameters(&self, aws: &FakeAws) {
        for (cache, retain) in &self.retain {
            let mut config = configuration();
            config["retain_snapshots"] = json!(retain);
            config["retain_days"] = json!(0);
            aws.set_parameter(&format!("/prepull/config/{cache}"), &config.to_string());
        }
        aws.set_parameter("/prepull/config/broken", "{}");
        aws.set_parameter("/prepull/web/notes/snapshots", "not prepull's");
        for ((cache, architecture), n) in self.pointers() {
            let pointer = format!("/prepull/{cache}/{architecture}/snapshot-id");
            aws.set_parameter(&pointer, &snapshot_id(n));
        }
        for parameter in self.manifests().keys() {
            aws.set_parameter(parameter, "{}");
        }
    }

    /// Returns a fake AWS with the resources of the account. Each execution has its status as its name.
    fn aws(&self) -> FakeAws {
        let now = jiff::Timestamp::now().as_second();
        let started = |age| DateTime::from_secs(now - age);
        let instances = self.instances.iter().enumerate().map(|(n, resource)| {
            Instance::builder()
                .instance_id(instance_id(n))
                .state(InstanceState::builder().name(resource.kind.clone()).build())
                .launch_time(started(resource.age))
                .set_tags(Some(resource.owner.tags()))
                .build()
        });
        let volumes = self.volumes.iter().enumerate().map(|(n, resource)| {
            Volume::builder()
                .volume_id(volume_id(n))
                .state(resource.kind.clone())
                .create_time(started(resource.age))
                .set_tags(Some(resource.owner.tags()))
                .build()
        });
        let snapshots = self.snapshots.iter().enumerate().map(|(n, resource)| {
            let mut tags = resource.owner.tags();
            tags.extend(
                resource
                    .kind
                    .tagged
                    .map(|state| tag("prepull:state", state)),
            );
            tags.extend(resource.kind.has_expired.map(|expired| {
                let year = if expired { 2020 } else { 2999 };
                tag("prepull:expires-at", &format!("{year}-01-01T00:00:00Z"))
            }));
            Snapshot::builder()
                .snapshot_id(snapshot_id(n))
                .state(resource.kind.state.clone())
                .start_time(started(resource.age))
                .set_tags(Some(tags))
                .build()
        });
        let stored = self.snapshots.iter().map(|resource| &resource.kind);
        let stored = stored.enumerate();
        let of_nodes = stored
            .clone()
            .filter(|(_, stored)| stored.user == Some(User::Volume));
        let of_nodes = of_nodes.map(|(n, _)| Volume::builder().snapshot_id(snapshot_id(n)).build());
        let in_images = stored
            .clone()
            .filter(|(_, stored)| stored.user == Some(User::Image));
        let in_images: Vec<_> = in_images.map(|(n, _)| snapshot_id(n)).collect();
        let in_templates: Vec<_> = stored
            .filter_map(|(n, stored)| match stored.user {
                Some(User::Template(version)) => Some((snapshot_id(n), version)),
                _ => None,
            })
            .collect();
        let executions = [
            ("running", ExecutionStatus::Running),
            ("succeeded", ExecutionStatus::Succeeded),
            ("failed", ExecutionStatus::Failed),
            ("stopped", ExecutionStatus::Aborted),
        ];
        let mut aws = FakeAws::new()
            .with_parameters(&[])
            .with_instances(instances)
            .with_volumes(volumes.chain(of_nodes))
            .with_snapshots(snapshots)
            .with_snapshot_users(&in_images, &in_templates)
            .with_executions(executions.map(|(name, status)| execution(name, "web", status, 0)));
        for removal in [
            denied("ec2:TerminateInstances", &self.instances, instance_id),
            denied("ec2:DeleteVolume", &self.volumes, volume_id),
            denied("ec2:DeleteSnapshot", &self.snapshots, snapshot_id),
        ]
        .concat()
        {
            aws = aws.failing(&removal, "UnauthorizedOperation");
        }
        self.set_parameters(&aws);
        aws
    }

    /// Returns the removed resources, and the instances that shut down.
    fn removed_ids(&self, aws: &FakeAws) -> RemovedIds {
        use InstanceStateName::{ShuttingDown, Terminated};
        let ends = |state: &InstanceStateName| matches!(state, ShuttingDown | Terminated);
        let instances = self.instances.iter().zip(aws.instances()).enumerate();
        let instances = instances.filter(|(_, (before, now))| {
            let now = now.state().and_then(InstanceState::name);
            !ends(&before.kind) && now.is_some_and(ends)
        });
        let (volumes, snapshots) = (aws.volumes(), aws.snapshots());
        let left: BTreeSet<_> = volumes
            .iter()
            .filter_map(Volume::volume_id)
            .chain(snapshots.iter().filter_map(Snapshot::snapshot_id))
            .collect();
        let removed = |count: usize, id: fn(usize) -> String| {
            let ids = (0..count).map(id);
            ids.filter(|id| !left.contains(id.as_str())).collect()
        };
        RemovedIds {
            instances: instances.map(|(n, _)| instance_id(n)).collect(),
            volumes: removed(self.volumes.len(), volume_id),
            snapshots: removed(self.snapshots.len(), snapshot_id),
        }
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
        Some(seconds) => json!({"source": "sweep", "minimum_age_seconds": seconds}),
        None => json!({"source": "sweep"}),
    };
    let deadline = Deadline::after(Duration::from_secs(60));
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime needs nothing")
        .block_on(handle(clients, STATE_MACHINE_ARN, input, deadline))
}

/// Returns the calls of `action` that EC2 denies.
fn denied<Kind>(
    action: &str,
    resources: &[Resource<Kind>],
    id: fn(usize) -> String,
) -> Vec<String> {
    let resources = resources.iter().enumerate();
    let denied = resources.filter(|(_, resource)| resource.denied_removal);
    denied.map(|(n, _)| format!("{action} {}", id(n))).collect()
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
    let user = prop_oneof![
        4 => Just(None),
        1 => select(vec![User::Image, User::Volume, User::Template(1), User::Template(2)]).prop_map(Some),
    ];
    let has_expired = prop_oneof![4 => Just(None), 1 => any::<bool>().prop_map(Some)];
    let wants_pointer = prop::bool::weighted(0.15);
    (
        state,
        tagged,
        wants_pointer,
        user,
        has_expired,
        any::<bool>(),
    )
        .prop_map(
            |(state, tagged, wants_pointer, user, has_expired, has_manifest)| Stored {
                state,
                tagged,
                wants_pointer,
                user,
                has_expired,
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
        let aws = account.aws();
        let clients = aws.clients();
        let result = sweep(&clients, account.minimum_age);

        let removed_ids = account.removed_ids(&aws);
        check(&account.instances, &removed_ids.instances, instance_id, |n| account.expected_of_instance(n))?;
        check(&account.volumes, &removed_ids.volumes, volume_id, |n| account.expected_of_volume(n))?;
        check(&account.snapshots, &removed_ids.snapshots, snapshot_id, |n| account.expected_of_snapshot(n))?;
        for (parameter, snapshot) in account.manifests() {
            let is_there = aws.parameter(&parameter).is_some();
            match snapshot {
                // The next sweep removes its manifest at the latest.
                Some(n) if removed_ids.snapshots.contains(&snapshot_id(n)) => {}
                Some(_) => prop_assert!(is_there, "{parameter} has a snapshot and was removed"),
                None => prop_assert!(!is_there, "{parameter} has no snapshot and was kept"),
            }
        }
        prop_assert!(aws.parameter("/prepull/web/notes/snapshots").is_some());
        for ((cache, architecture), n) in account.pointers() {
            let pointer = aws.parameter(&format!("/prepull/{cache}/{architecture}/snapshot-id"));
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
        prop_assert_eq!(&account.removed_ids(&aws), &removed_ids);
        for (parameter, snapshot) in account.manifests() {
            let describes = snapshot.is_some_and(|n| !removed_ids.snapshots.contains(&snapshot_id(n)));
            prop_assert_eq!(aws.parameter(&parameter).is_some(), describes, "{}", parameter);
        }
    }
}
