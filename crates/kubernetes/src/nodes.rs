//! `prepull nodes`: the snapshot of each node, the images that its pods found or pulled, and the time that this saved.
//!
//! [`HitRate::new`] is a pure function of the cluster's state. The caller reads nodes, pods and events from the
//! Kubernetes API, and data volumes from EC2.
//!
//! # Image starts
//!
//! An image start is the first start of one container of one pod. The kubelet reports it in an event with the reason
//! `Pulled`: it *found* the image on the node, or it *pulled* the image. A restart does not count, because it finds the
//! image on every node.
//!
//! The API server keeps events for one hour by default (`--event-ttl`). A start without an event is *unknown*, so the
//! report is complete only for the pods of the last hour. The kubelet also drops events after a burst of 25 for one
//! pod, and combines similar ones. Source: `events_cache.go` in client-go.
//!
//! # Saved time
//!
//! An image of the snapshot saves time at most once on a node, because a node without the snapshot pulls it once. The
//! saved time is the median pull of the same image on nodes of the same architecture without a snapshot of the cache.
//! Without such a pull, the saved time is unknown. Manifests hold no pull time of an image, so they cannot replace it.
//!
//! Times are sums over images. Pulls can run at the same time, so nodes may have waited less.

mod image_name;
mod prometheus;
mod pulled_event;
mod seconds;
mod starts;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::iter::Sum;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use prepull_domain::snapshot::manifest::ManifestImage;
use prepull_domain::{Architecture, CacheName, ImageReference, InstanceId, Manifest, SnapshotId};
use serde::Serialize;

pub use self::image_name::ImageName;
use self::pulled_event::Outcome;
pub use self::seconds::Seconds;
use self::starts::{Start, StartsByImage};

/// Field selector of the events that [`HitRate::new`] reads.
pub const EVENT_FIELD_SELECTOR: &str = "involvedObject.kind=Pod,reason=Pulled,source=kubelet";

/// Default of the kubelet's `nodeStatusMaxImages`. A node with more images lists only the largest ones.
const MAX_IMAGES_IN_STATUS: usize = 50;

/// Maximum names of an image in the status of a node. Source: `MaxNamesPerImageInNodeStatus` in the kubelet's
/// `nodestatus/setters.go`.
const MAX_NAMES_IN_STATUS: usize = 5;

/// State of a cluster at one moment.
#[derive(Debug, Clone)]
pub struct ClusterState {
    /// The cache.
    pub cache: CacheName,
    /// The moment.
    pub as_of: Timestamp,
    /// Snapshots of the cache.
    pub snapshots: Vec<CacheSnapshot>,
    /// Data volume (`/dev/xvdb`) of each instance.
    pub volumes: BTreeMap<InstanceId, DataVolume>,
    /// Nodes.
    pub nodes: Vec<Node>,
    /// Pods of the nodes.
    pub pods: Vec<Pod>,
    /// Events with the reason `Pulled`. Others are ignored.
    pub events: Vec<Event>,
}

/// A snapshot of the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheSnapshot {
    /// IDs of the snapshot and of its copies in the Region of the nodes.
    pub ids: BTreeSet<SnapshotId>,
    /// Stage of the snapshot.
    pub stage: SnapshotStage,
    /// Time at which EBS completed the snapshot.
    pub completed_at: Timestamp,
    /// Images in the snapshot. `None` if its manifest is missing.
    pub images: Option<Vec<ManifestImage>>,
}

impl CacheSnapshot {
    /// Returns the snapshot of `manifest`, with its copies in the Region of the nodes.
    #[must_use]
    pub fn new(
        manifest: &Manifest,
        copies: impl IntoIterator<Item = SnapshotId>,
        stage: SnapshotStage,
    ) -> Self {
        let mut ids: BTreeSet<_> = copies.into_iter().collect();
        ids.insert(manifest.snapshot_id.clone());
        Self {
            ids,
            stage,
            completed_at: manifest.completed_at,
            images: Some(manifest.images.clone()),
        }
    }

    /// Returns every name under which a node has an image of the snapshot. `None` if the manifest is missing.
    fn names(&self) -> Option<BTreeSet<ImageName>> {
        let images = self.images.as_ref()?;
        let names = images
            .iter()
            .flat_map(|image| image.reference.names_on_node(&image.digest));
        Some(names.filter_map(|name| name.parse().ok()).collect())
    }
}

/// Stage of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotStage {
    /// The snapshot that nodes use.
    Stable,
    /// The snapshot that waits for its promotion.
    Candidate,
    /// An older or a rejected snapshot.
    Other,
}

impl SnapshotStage {
    fn as_str(self) -> &'static str {
        match self {
            Self::Stable => "stable",
            Self::Candidate => "candidate",
            Self::Other => "not stable",
        }
    }
}

/// Data volume of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataVolume {
    /// Snapshot that the volume was created from.
    pub snapshot: Option<SnapshotId>,
    /// Initialization from the snapshot, if EC2 reports it.
    pub initialization: Option<Initialization>,
}

/// Initialization of a volume from its snapshot, as in `DescribeVolumeStatus`. EC2 updates it within five minutes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Initialization {
    percent: u8,
    remaining_seconds: Option<u32>,
}

impl Initialization {
    /// Returns the initialization that EC2 reports, or `None` if the values are out of range. EC2 reports
    /// `remaining_seconds` only for a volume with an initialization rate.
    #[must_use]
    pub fn new(percent: i64, remaining_seconds: Option<i64>) -> Option<Self> {
        let percent = u8::try_from(percent).ok().filter(|&given| given <= 100)?;
        let remaining_seconds = remaining_seconds.map(u32::try_from).transpose().ok()?;
        Some(Self {
            percent,
            remaining_seconds,
        })
    }

    /// Returns the initialized part of the volume in percent.
    #[must_use]
    pub fn percent(self) -> u8 {
        self.percent
    }
}

/// Returns the EC2 instance of a node, or `None` if its provider ID does not have one, for example on Fargate.
#[must_use]
pub fn instance_of(node: &Node) -> Option<InstanceId> {
    let id = node.spec.as_ref()?.provider_id.as_deref()?;
    id.strip_prefix("aws://")?.rsplit('/').next()?.parse().ok()
}

/// `imagePullPolicy` of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PullPolicy {
    /// Asks the registry at each start. The kubelet reports a pull even if the node has the image.
    Always,
    /// `IfNotPresent` or `Never`.
    IfNotPresent,
    /// The pod does not exist any more.
    Unknown,
}

/// The hit rate of a cache on the nodes of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HitRate {
    /// The cache.
    pub cache: CacheName,
    /// The moment.
    pub as_of: Timestamp,
    /// The nodes, by name.
    pub nodes: Vec<NodeReport>,
    /// Sums over the nodes that started from a snapshot of the cache.
    pub totals: Totals,
    /// Sums over the other nodes.
    pub other_nodes: Totals,
    /// Measured pulls without a snapshot of the cache.
    pub baselines: Vec<Baseline>,
    /// Events that the report ignores.
    pub ignored_events: IgnoredEvents,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeReport {
    /// Its name.
    pub name: String,
    /// Its instance. `None` if its provider ID has no EC2 instance.
    pub instance: Option<InstanceId>,
    /// Its architecture.
    pub architecture: Option<Architecture>,
    /// Its data volume.
    pub origin: Origin,
    /// Initialization of its data volume.
    pub initialization: Option<Initialization>,
    /// Time of its registration with the cluster.
    pub started_at: Option<Timestamp>,
    /// Images that its pods use, by name.
    pub images: Vec<ImageUse>,
    /// Images of the snapshot in its status. `None` without a snapshot of known content.
    pub cached: Option<CachedImages>,
    /// Sums over its images.
    pub totals: Totals,
}

/// The origin of a node's data volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Origin {
    /// A snapshot of the cache.
    Cache {
        /// The snapshot, or its copy in the Region of the node.
        snapshot_id: SnapshotId,
        /// Its stage.
        stage: SnapshotStage,
        /// Time at which EBS completed it.
        completed_at: Timestamp,
        /// Its age.
        age_seconds: i64,
    },
    /// Another snapshot, for example the one of the AMI.
    AnotherSnapshot {
        /// The snapshot.
        snapshot_id: SnapshotId,
    },
    /// An empty volume.
    NoSnapshot,
    /// The node has no EC2 instance, or its data volume is not known.
    Unknown,
}

/// Whether the snapshot of a node contains an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum InSnapshot {
    /// The snapshot contains it under this name.
    Yes,
    /// The snapshot does not contain it, or the node has no snapshot of the cache.
    No,
    /// The data volume or the manifest is not known.
    Unknown,
}

/// An image on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ImageUse {
    /// Its name.
    pub image: ImageName,
    /// Whether the snapshot of the node contains it.
    pub in_snapshot: InSnapshot,
    /// Starts that found it on the node.
    pub found: usize,
    /// Starts that pulled it, oldest first.
    pub pulls: Vec<Pull>,
    /// Starts without an event.
    pub unknown: usize,
    /// Time that the snapshot saved. `None` if the image is not in the snapshot, or the first start on the node did not
    /// find it.
    pub saved: Option<Saved>,
    /// References in the snapshot with the same last part of the repository. Only for a pulled image that is not in the
    /// snapshot.
    pub similar: Vec<ImageReference>,
}

/// A pull.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pull {
    /// Time of the pull. Old kubelets include the wait for other pulls, or report no time.
    pub seconds: Option<Seconds>,
    /// Time of the pull and of the wait for other pulls.
    pub seconds_with_waiting: Option<Seconds>,
    /// Pull policy of the container.
    pub policy: PullPolicy,
}

/// Time that an image of the snapshot saved on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "source", rename_all = "snake_case")]
pub enum Saved {
    /// The median of the same image's pulls on nodes without a snapshot of the cache.
    Measured {
        /// The median.
        seconds: Seconds,
        /// Number of pulls, at most one for each node.
        pulls: usize,
    },
    /// No pull was measured.
    Unknown,
}

/// Measured pulls of an image on nodes without a snapshot of the cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Baseline {
    /// The image.
    pub image: ImageName,
    /// Architecture of the nodes.
    pub architecture: Architecture,
    /// Median of the pulls.
    pub seconds: Seconds,
    /// Number of pulls, at most one for each node.
    pub pulls: usize,
}

/// Images of a snapshot in the status of a node. The kubelet lists at most 50 images by default
/// (`nodeStatusMaxImages`), the largest ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CachedImages {
    /// Images that the node lists.
    pub present: usize,
    /// Images that the node does not list, although its list is complete.
    pub missing: Vec<ImageReference>,
    /// Images that the node does not list, and its list is empty or may be incomplete.
    pub unknown: usize,
}

/// Sums over images of nodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Starts that found their image on the node.
    pub found: usize,
    /// Starts that pulled their image.
    pub pulled: usize,
    /// Starts without an event.
    pub unknown: usize,
    /// Time of the pulls.
    pub pull_seconds: Seconds,
    /// Pulls without a time.
    pub pulls_without_time: usize,
    /// Images with a known saved time. An image counts once for each node.
    pub images_saved: usize,
    /// Saved time.
    pub saved_seconds: Seconds,
    /// Images that saved an unknown time.
    pub images_saved_unmeasured: usize,
}

/// Numbers of events that the report ignores.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct IgnoredEvents {
    /// Events with a message of unknown form.
    pub unreadable: usize,
    /// Events into which the kubelet combined others. They lack the images of the others.
    pub combined: usize,
    /// Events of nodes that do not exist, or of no node.
    pub without_node: usize,
}

impl From<&ImageUse> for Totals {
    fn from(image: &ImageUse) -> Self {
        let (images_saved, saved_seconds, images_saved_unmeasured) = match image.saved {
            Some(Saved::Measured { seconds, .. }) => (1, seconds, 0),
            Some(Saved::Unknown) => (0, Seconds::default(), 1),
            None => (0, Seconds::default(), 0),
        };
        let times = image.pulls.iter().filter_map(|pull| pull.seconds);
        Self {
            found: image.found,
            pulled: image.pulls.len(),
            unknown: image.unknown,
            pull_seconds: times.clone().sum(),
            pulls_without_time: image.pulls.len() - times.count(),
            images_saved,
            saved_seconds,
            images_saved_unmeasured,
        }
    }
}

impl Sum for Totals {
    fn sum<I: Iterator<Item = Self>>(totals: I) -> Self {
        totals.fold(Self::default(), |a, b| Self {
            found: a.found + b.found,
            pulled: a.pulled + b.pulled,
            unknown: a.unknown + b.unknown,
            pull_seconds: [a.pull_seconds, b.pull_seconds].into_iter().sum(),
            pulls_without_time: a.pulls_without_time + b.pulls_without_time,
            images_saved: a.images_saved + b.images_saved,
            saved_seconds: [a.saved_seconds, b.saved_seconds].into_iter().sum(),
            images_saved_unmeasured: a.images_saved_unmeasured + b.images_saved_unmeasured,
        })
    }
}

impl HitRate {
    /// Returns the hit rate of the cache.
    #[must_use]
    pub fn new(state: &ClusterState) -> Self {
        let (starts, ignored_events) = starts::of(state);
        let mut nodes: Vec<_> = state.nodes.iter().map(|node| state.report(node)).collect();
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        let baselines = baselines(&nodes, &starts);
        for node in &mut nodes {
            if let Some(starts) = starts.get(&node.name) {
                node.images = state.images(node, starts, &baselines);
            }
            node.totals = node.images.iter().map(Totals::from).sum();
        }
        let sum = |from_cache: bool| {
            let nodes = nodes
                .iter()
                .filter(|node| node.is_from_cache() == from_cache);
            nodes.map(|node| node.totals).sum()
        };
        Self {
            cache: state.cache.clone(),
            as_of: state.as_of,
            totals: sum(true),
            other_nodes: sum(false),
            nodes,
            baselines,
            ignored_events,
        }
    }
}

impl NodeReport {
    /// Returns whether the node started from a snapshot of the cache.
    #[must_use]
    pub fn is_from_cache(&self) -> bool {
        matches!(self.origin, Origin::Cache { .. })
    }
}

impl ClusterState {
    fn snapshot(&self, id: &SnapshotId) -> Option<&CacheSnapshot> {
        self.snapshots
            .iter()
            .find(|snapshot| snapshot.ids.contains(id))
    }

    fn snapshot_of(&self, origin: &Origin) -> Option<&CacheSnapshot> {
        match origin {
            Origin::Cache { snapshot_id, .. } => self.snapshot(snapshot_id),
            _ => None,
        }
    }

    /// Returns the report of a node, without its images.
    fn report(&self, node: &Node) -> NodeReport {
        let instance = instance_of(node);
        let volume = instance.as_ref().and_then(|id| self.volumes.get(id));
        let origin = self.origin(volume);
        let images = self
            .snapshot_of(&origin)
            .and_then(|snapshot| snapshot.images.as_ref());
        NodeReport {
            name: node.metadata.name.clone().unwrap_or_default(),
            architecture: architecture(node),
            initialization: volume.and_then(|volume| volume.initialization),
            started_at: node.metadata.creation_timestamp.as_ref().map(|time| time.0),
            images: Vec::new(),
            cached: images.map(|images| cached(node, images)),
            totals: Totals::default(),
            instance,
            origin,
        }
    }

    fn origin(&self, volume: Option<&DataVolume>) -> Origin {
        let Some(volume) = volume else {
            return Origin::Unknown;
        };
        let Some(id) = &volume.snapshot else {
            return Origin::NoSnapshot;
        };
        let snapshot_id = id.clone();
        match self.snapshot(id) {
            None => Origin::AnotherSnapshot { snapshot_id },
            Some(snapshot) => Origin::Cache {
                snapshot_id,
                stage: snapshot.stage,
                completed_at: snapshot.completed_at,
                age_seconds: self
                    .as_of
                    .duration_since(snapshot.completed_at)
                    .as_secs()
                    .max(0),
            },
        }
    }

    fn images(
        &self,
        node: &NodeReport,
        starts: &StartsByImage,
        baselines: &[Baseline],
    ) -> Vec<ImageUse> {
        let snapshot = self.snapshot_of(&node.origin);
        let names = match (&node.origin, snapshot) {
            (Origin::Unknown, _) => None,
            (_, Some(snapshot)) => snapshot.names(),
            (_, None) => Some(BTreeSet::new()),
        };
        let references = snapshot.iter().flat_map(|snapshot| &snapshot.images);
        let references: Vec<_> = references.flatten().map(|image| &image.reference).collect();
        let image_use = |(image, starts): (&ImageName, &starts::Starts)| {
            let in_snapshot = match &names {
                None => InSnapshot::Unknown,
                Some(names) if names.contains(image) => InSnapshot::Yes,
                Some(_) => InSnapshot::No,
            };
            let pulls: Vec<_> = starts.known.iter().filter_map(pull).collect();
            let similar = if in_snapshot == InSnapshot::No && !pulls.is_empty() {
                let similar = references.iter().filter(|reference| {
                    ImageName::of(reference).short_name() == image.short_name()
                });
                similar.map(|&reference| reference.clone()).collect()
            } else {
                Vec::new()
            };
            ImageUse {
                image: image.clone(),
                in_snapshot,
                found: starts.known.len() - pulls.len(),
                unknown: starts.unknown,
                saved: (in_snapshot == InSnapshot::Yes && starts.began_with_a_find())
                    .then(|| saved(image, node.architecture, baselines)),
                pulls,
                similar,
            }
        };
        starts.iter().map(image_use).collect()
    }
}

fn pull(start: &Start) -> Option<Pull> {
    match start.outcome {
        Outcome::Found => None,
        Outcome::Pulled {
            seconds,
            with_waiting,
        } => Some(Pull {
            seconds,
            seconds_with_waiting: with_waiting,
            policy: start.policy,
        }),
    }
}

fn saved(image: &ImageName, architecture: Option<Architecture>, baselines: &[Baseline]) -> Saved {
    let baseline = baselines
        .iter()
        .find(|baseline| baseline.image == *image && Some(baseline.architecture) == architecture);
    baseline.map_or(Saved::Unknown, |baseline| Saved::Measured {
        seconds: baseline.seconds,
        pulls: baseline.pulls,
    })
}

fn architecture(node: &Node) -> Option<Architecture> {
    let info = node.status.as_ref()?.node_info.as_ref()?;
    Architecture::ALL
        .into_iter()
        .find(|architecture| architecture.oci_name() == info.architecture)
}

fn cached(node: &Node, images: &[ManifestImage]) -> CachedImages {
    let listed = node
        .status
        .iter()
        .flat_map(|status| &status.images)
        .flatten();
    let listed: Vec<_> = listed
        .map(|image| image.names.as_deref().unwrap_or_default())
        .collect();
    let is_complete = (1..MAX_IMAGES_IN_STATUS).contains(&listed.len());
    let mut cached = CachedImages {
        present: 0,
        missing: Vec::new(),
        unknown: 0,
    };
    for image in images {
        let name = ImageName::of(&image.reference).to_string();
        let by_digest = image.reference.by_digest(&image.digest);
        let is_cut =
            |names: &&&[String]| names.len() >= MAX_NAMES_IN_STATUS && names.contains(&by_digest);
        if listed.iter().any(|names| names.contains(&name)) {
            cached.present += 1;
        } else if is_complete && !listed.iter().any(|names| is_cut(&names)) {
            cached.missing.push(image.reference.clone());
        } else {
            cached.unknown += 1;
        }
    }
    cached
}

/// Returns the baselines of the images that nodes without a snapshot of the cache pulled.
///
/// A node measures an image once, by its first pull: later pulls wait for the first one or use its layers. A pull with
/// the policy `Always` measures nothing, because the node may have the image already.
fn baselines(nodes: &[NodeReport], starts: &BTreeMap<String, StartsByImage>) -> Vec<Baseline> {
    let mut times: BTreeMap<(&ImageName, &str), (Architecture, Vec<Seconds>)> = BTreeMap::new();
    for node in nodes {
        let has_no_cache = matches!(
            node.origin,
            Origin::NoSnapshot | Origin::AnotherSnapshot { .. }
        );
        let (Some(architecture), true) = (node.architecture, has_no_cache) else {
            continue;
        };
        for (image, starts) in starts.get(&node.name).into_iter().flatten() {
            let mut pulls = starts.known.iter().filter_map(pull);
            let first = pulls.find(|pull| pull.policy == PullPolicy::IfNotPresent);
            if let Some(seconds) = first.and_then(|pull| pull.seconds) {
                let entry = times.entry((image, architecture.as_str()));
                let (_, times) = entry.or_insert_with(|| (architecture, Vec::new()));
                times.push(seconds);
            }
        }
    }
    let baseline = |((image, _), (architecture, mut times)): ((&ImageName, _), (_, Vec<_>))| {
        Some(Baseline {
            image: image.clone(),
            architecture,
            pulls: times.len(),
            seconds: median(&mut times)?,
        })
    };
    times.into_iter().filter_map(baseline).collect()
}

/// Returns the median of `times`, or `None` if there are none.
fn median(times: &mut [Seconds]) -> Option<Seconds> {
    times.sort_unstable();
    let middle = times.len() / 2;
    let upper = times.get(middle)?;
    let lower = times.get((times.len() - 1) / 2)?;
    Some(lower.midpoint(*upper))
}

#[cfg(test)]
mod tests;
