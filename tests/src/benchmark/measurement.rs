//! The types of the measurements.

use std::collections::BTreeMap;
use std::fmt;

use prepull_domain::Bytes;
use prepull_domain::cache::config::VolumeConfig;
use serde::Serialize;

/// A way to create a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// The script of aws-samples, with its waits.
    Script,
    /// A person's procedure, one step after the other, without any wait.
    ByHand,
    /// The cloud, the node and plain `ctr` alone, for a cold build.
    ColdFloor,
    /// The same with Bottlerocket's puller in place of `ctr`.
    PullerFloor,
    /// prepull, without a published snapshot.
    Cold,
    /// The cloud, the node and plain `ctr` alone, after one image has changed.
    RefreshFloor,
    /// prepull, after one image has changed.
    Refresh,
    /// prepull, without a change.
    Unchanged,
    /// prepull, without a published snapshot, with full verification.
    VerifiedCold,
    /// prepull, after one image has changed, with full verification.
    VerifiedRefresh,
}

impl Way {
    /// All ways, in the order of a run.
    pub const ALL: [Self; 10] = [
        Self::Script,
        Self::ByHand,
        Self::ColdFloor,
        Self::PullerFloor,
        Self::Cold,
        Self::RefreshFloor,
        Self::Refresh,
        Self::Unchanged,
        Self::VerifiedCold,
        Self::VerifiedRefresh,
    ];

    /// Returns its label in tables.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Script => "script",
            Self::ByHand => "by hand, no waits",
            Self::ColdFloor => "floor, first build",
            Self::PullerFloor => "floor with host-ctr",
            Self::Cold => "prepull, first build",
            Self::RefreshFloor => "floor, 1 of 8 changed",
            Self::Refresh => "prepull, 1 of 8 changed",
            Self::Unchanged => "prepull, unchanged",
            Self::VerifiedCold => "verified, first build",
            Self::VerifiedRefresh => "verified, 1 of 8 changed",
        }
    }
}

/// The parts of a way's time. Only prepull has a debounce, a plan and a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Waiting for other triggers.
    Debounce,
    /// Decide what to build, on which AMI.
    Plan,
    /// Until EC2 accepts the launch.
    Launch,
    /// Until the instance accepts commands and the kubelet is off.
    Ready,
    /// Until the node has every image.
    Pull,
    /// Until the instance has stopped.
    Stop,
    /// Until EBS has completed the snapshot.
    Snapshot,
    /// Until a second machine has checked the snapshot.
    Verify,
    /// Until the pointer is written.
    Publish,
    /// Until the instance has terminated.
    CleanUp,
}

impl Stage {
    /// All stages, in order.
    pub const ALL: [Self; 10] = [
        Self::Debounce,
        Self::Plan,
        Self::Launch,
        Self::Ready,
        Self::Pull,
        Self::Stop,
        Self::Snapshot,
        Self::Verify,
        Self::Publish,
        Self::CleanUp,
    ];

    /// Returns its label in tables.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Debounce => "debounce",
            Self::Plan => "plan",
            Self::Launch => "launch",
            Self::Ready => "until ready",
            Self::Pull => "pull",
            Self::Stop => "power off",
            Self::Snapshot => "snapshot",
            Self::Verify => "verify",
            Self::Publish => "publish",
            Self::CleanUp => "clean up",
        }
    }
}

/// One measurement of one way.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Measurement {
    /// Seconds from the start until the snapshot is complete and, with prepull, published.
    pub seconds: f64,
    /// Seconds of each stage. Clean-up comes after `seconds`.
    pub stages: BTreeMap<Stage, f64>,
    /// Bytes that the registries sent.
    pub pulled: Bytes,
    /// Number of requests that the registries answered.
    pub registry_requests: u64,
    /// Number of 512 KiB blocks that EBS stores for the snapshot: blocks that differ from the base, or are not zero if there
    /// is no base. `None` without a snapshot, or with simulated nodes.
    pub blocks: Option<u64>,
    /// Number of calls by `service:Action`, from prepull's functions or from the script. Empty for a way that polls all the
    /// time.
    pub calls: BTreeMap<String, u64>,
    /// State transitions, retries included.
    pub transitions: u64,
    /// Lambda invocations.
    pub invocations: u64,
    /// Their memory × duration.
    pub lambda_gb_seconds: f64,
    /// Number of launched instances.
    pub instances: u64,
    /// Lifetime of the instance in seconds.
    pub instance_seconds: f64,
    /// Its data volume.
    pub volume: VolumeConfig,
}

impl fmt::Display for Measurement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} s, {} pulled", self.seconds, self.pulled)?;
        for (stage, seconds) in &self.stages {
            write!(f, ", {} {seconds:.1}", stage.title())?;
        }
        Ok(())
    }
}

impl Measurement {
    /// Returns the number of calls of all actions. `None` if they are not counted.
    #[must_use]
    pub fn all_calls(&self) -> Option<u64> {
        (!self.calls.is_empty()).then(|| self.calls.values().sum())
    }
}

/// Start times of the containers of one image, each on its own node.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ContainerStarts {
    /// The compressed size of the image.
    pub size: Bytes,
    /// On nodes with an empty volume.
    pub empty: Vec<ContainerStart>,
    /// On nodes from the snapshot.
    pub cached: Vec<ContainerStart>,
}

/// The start of one container.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ContainerStart {
    /// Seconds from EC2's answer to the launch of the node until the container ran.
    pub since_launch: f64,
    /// Seconds from the request for the container, on a running node, until it ran.
    pub since_request: f64,
    /// Bytes that the node pulled.
    pub pulled: Bytes,
}
