//! The starts of images, as events and pods tell.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Event, Node, Pod};

use super::pulled_event::{self, Outcome};
use super::{ClusterState, IgnoredEvents, ImageName, PullPolicy, Seconds};

/// Annotation of a static pod's mirror with the UID that the kubelet's events use.
const STATIC_POD_UID: &str = "kubernetes.io/config.hash";

/// A container of a pod. Image volumes have the pod's UID and no path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct ContainerKey {
    pod: String,
    path: String,
}

/// A container in the specification of a pod.
struct Container {
    node: String,
    image: ImageName,
    policy: PullPolicy,
    /// Restarts. `None` if the container has not started.
    restarts: Option<usize>,
}

/// The first start of a container with an image.
#[derive(Clone)]
pub(super) struct Start {
    at: Option<Timestamp>,
    pub(super) outcome: Outcome,
    pub(super) policy: PullPolicy,
}

/// The starts of an image on a node.
#[derive(Default)]
pub(super) struct Starts {
    /// Starts with an event, oldest first.
    pub(super) known: Vec<Start>,
    /// Number of starts without an event.
    pub(super) unknown: usize,
}

/// The starts of the images on a node.
pub(super) type StartsByImage = BTreeMap<ImageName, Starts>;

impl Starts {
    /// Whether the first start found the image. It did not if its event has expired.
    pub(super) fn began_with_a_find(&self) -> bool {
        let first = self.known.first();
        self.unknown == 0 && first.is_some_and(|start| start.outcome == Outcome::Found)
    }
}

/// Returns the starts of each image on each node, oldest first, and the number of ignored events.
pub(super) fn of(state: &ClusterState) -> (BTreeMap<String, StartsByImage>, IgnoredEvents) {
    let containers = containers(&state.pods);
    let nodes: BTreeMap<_, _> = state.nodes.iter().map(registration).collect();
    let mut ignored = IgnoredEvents::default();
    let mut firsts: BTreeMap<(String, ContainerKey, ImageName), Start> = BTreeMap::new();
    let mut occurrences: BTreeMap<ContainerKey, BTreeMap<String, usize>> = BTreeMap::new();
    for event in state.events.iter().filter(|event| is_pulled(event)) {
        let message = event.message.as_deref().unwrap_or_default();
        if message.starts_with("(combined from similar events): ") {
            ignored.combined += 1;
            continue;
        }
        let Some(report) = pulled_event::parse(message) else {
            ignored.unreadable += 1;
            continue;
        };
        let key = key(event);
        let container = containers.get(&key);
        let node = node_of(event).or_else(|| container.map(|container| container.node.clone()));
        let at = first_seen(event);
        // An older event is of a previous node with the same name, because EC2 reuses addresses.
        let exists = |node: &String| nodes.get(node).is_some_and(|since| at >= *since);
        let Some(node) = node.filter(exists) else {
            ignored.without_node += 1;
            continue;
        };
        let count = occurrences_of(event);
        let id = event.metadata.uid.as_ref().or(event.metadata.name.as_ref());
        occurrences
            .entry(key.clone())
            .or_default()
            .insert(id.cloned().unwrap_or_default(), count);
        let start = Start {
            at,
            outcome: report.outcome,
            policy: container.map_or(PullPolicy::Unknown, |container| container.policy),
        };
        firsts
            .entry((node, key, report.image))
            .and_modify(|first| {
                if start.order() < first.order() {
                    *first = start.clone();
                }
            })
            .or_insert(start);
    }

    let mut starts: BTreeMap<String, StartsByImage> = BTreeMap::new();
    let mut with_event = BTreeSet::new();
    for ((node, key, image), start) in firsts {
        let restarts = containers
            .get(&key)
            .and_then(|container| container.restarts);
        let seen: usize = occurrences.get(&key).map_or(0, |seen| seen.values().sum());
        with_event.insert(key);
        let starts = starts.entry(node).or_default().entry(image).or_default();
        // Each restart has an event too. If some are gone, the oldest one may be of a restart.
        if restarts.is_some_and(|restarts| seen <= restarts) {
            starts.unknown += 1;
        } else {
            starts.known.push(start);
        }
    }
    for (key, container) in containers {
        let has_started = container.restarts.is_some();
        if has_started && !with_event.contains(&key) && nodes.contains_key(&container.node) {
            let images = starts.entry(container.node).or_default();
            images.entry(container.image).or_default().unknown += 1;
        }
    }
    for starts in starts.values_mut().flat_map(BTreeMap::values_mut) {
        starts.known.sort_by_key(Start::order);
    }
    (starts, ignored)
}

impl Start {
    /// Returns the order of two starts. The times of events have a resolution of one second. In the same second, a pull
    /// comes before a find, and the longest pull first: the others waited for it and found the image.
    fn order(&self) -> (Option<Timestamp>, bool, Reverse<Option<Seconds>>) {
        let (is_found, seconds) = match self.outcome {
            Outcome::Found => (true, None),
            Outcome::Pulled { seconds, .. } => (false, seconds),
        };
        (self.at, is_found, Reverse(seconds))
    }
}

/// Returns the name of a node, and the time of its registration.
fn registration(node: &Node) -> (String, Option<Timestamp>) {
    let since = node.metadata.creation_timestamp.as_ref().map(|time| time.0);
    (node.metadata.name.clone().unwrap_or_default(), since)
}

/// Whether the kubelet wrote the event about an image of a pod.
fn is_pulled(event: &Event) -> bool {
    let source = event.source.as_ref();
    let components = [
        source.and_then(|source| source.component.as_deref()),
        event.reporting_component.as_deref(),
    ];
    event.reason.as_deref() == Some("Pulled")
        && event.involved_object.kind.as_deref() == Some("Pod")
        && components.contains(&Some("kubelet"))
}

fn key(event: &Event) -> ContainerKey {
    let object = &event.involved_object;
    ContainerKey {
        pod: object.uid.clone().unwrap_or_default(),
        path: object.field_path.clone().unwrap_or_default(),
    }
}

fn occurrences_of(event: &Event) -> usize {
    let series = event.series.as_ref().and_then(|series| series.count);
    let count = event.count.or(series).unwrap_or_default();
    usize::try_from(count).unwrap_or_default().max(1)
}

fn node_of(event: &Event) -> Option<String> {
    let source = event.source.as_ref();
    let hosts = [
        source.and_then(|source| source.host.as_ref()),
        event.reporting_instance.as_ref(),
    ];
    let mut hosts = hosts.into_iter().flatten();
    hosts.find(|host| !host.is_empty()).cloned()
}

fn first_seen(event: &Event) -> Option<Timestamp> {
    let first = event.first_timestamp.as_ref().map(|time| time.0);
    first
        .or_else(|| event.event_time.as_ref().map(|time| time.0))
        .or_else(|| {
            event
                .metadata
                .creation_timestamp
                .as_ref()
                .map(|time| time.0)
        })
}

/// Returns the containers of pods that are on a node, init and ephemeral containers included.
fn containers(pods: &[Pod]) -> BTreeMap<ContainerKey, Container> {
    let mut containers = BTreeMap::new();
    for pod in pods {
        let Some(spec) = &pod.spec else { continue };
        let Some(node) = &spec.node_name else {
            continue;
        };
        let annotations = pod.metadata.annotations.as_ref();
        let uid = annotations
            .and_then(|annotations| annotations.get(STATIC_POD_UID))
            .or(pod.metadata.uid.as_ref());
        let Some(uid) = uid else { continue };
        let status = pod.status.as_ref();
        let regular = spec.containers.iter().map(|container| {
            (
                "containers",
                &container.name,
                container.image.as_ref(),
                container.image_pull_policy.as_deref(),
                status.and_then(|status| status.container_statuses.as_ref()),
            )
        });
        let init = spec.init_containers.iter().flatten().map(|container| {
            (
                "initContainers",
                &container.name,
                container.image.as_ref(),
                container.image_pull_policy.as_deref(),
                status.and_then(|status| status.init_container_statuses.as_ref()),
            )
        });
        let ephemeral = spec.ephemeral_containers.iter().flatten().map(|container| {
            (
                "ephemeralContainers",
                &container.name,
                container.image.as_ref(),
                container.image_pull_policy.as_deref(),
                status.and_then(|status| status.ephemeral_container_statuses.as_ref()),
            )
        });
        for (field, name, image, policy, statuses) in regular.chain(init).chain(ephemeral) {
            // Without a valid name, the container never starts.
            let Some(Ok(image)) = image.map(|image| image.parse()) else {
                continue;
            };
            let status = statuses.and_then(|all| all.iter().find(|status| status.name == *name));
            let key = ContainerKey {
                pod: uid.clone(),
                path: format!("spec.{field}{{{name}}}"),
            };
            let container = Container {
                node: node.clone(),
                image,
                policy: match policy {
                    Some("Always") => PullPolicy::Always,
                    Some("IfNotPresent" | "Never") => PullPolicy::IfNotPresent,
                    _ => PullPolicy::Unknown,
                },
                restarts: status.and_then(restarts),
            };
            containers.insert(key, container);
        }
    }
    containers
}

/// Returns the restarts of a container, or `None` if it has not started.
fn restarts(status: &ContainerStatus) -> Option<usize> {
    let state = status.state.as_ref();
    let has_started = !status.image_id.is_empty()
        || status.restart_count > 0
        || state.is_some_and(|state| state.running.is_some() || state.terminated.is_some());
    has_started.then(|| usize::try_from(status.restart_count).unwrap_or_default())
}
