//! What is measured.

use std::collections::BTreeMap;

use prepull_domain::Bytes;
use prepull_domain::config::VolumeConfig;
use serde::Serialize;

/// A way to come to a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// A person's procedure, one step after the other.
    ByHand,
    /// prepull, where no snapshot is published yet.
    Cold,
    /// prepull, after one image has changed.
    Refresh,
    /// prepull, where nothing has changed.
    Unchanged,
}

impl Way {
    /// All of them, in the order in which each run goes through them.
    pub const ALL: [Self; 4] = [Self::ByHand, Self::Cold, Self::Refresh, Self::Unchanged];

    /// What a table calls it.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::ByHand => "by hand",
            Self::Cold => "prepull, first build",
            Self::Refresh => "prepull, 1 of 8 changed",
            Self::Unchanged => "prepull, unchanged",
        }
    }
}

/// What the time of every way is divided into. By hand there is no state machine that would wait or publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Waiting for other triggers.
    Debounce,
    /// What to build, on which image.
    Plan,
    /// Until EC2 has taken the launch.
    Launch,
    /// Until the instance takes commands and the kubelet is off.
    Ready,
    /// Until every image is there.
    Pull,
    /// Until the instance has stopped.
    Stop,
    /// Until EBS has completed the snapshot.
    Snapshot,
    /// Until nodes are told of it.
    Publish,
    /// Until the instance is gone.
    CleanUp,
}

impl Stage {
    /// All of them, in the order in which they come.
    pub const ALL: [Self; 9] = [
        Self::Debounce,
        Self::Plan,
        Self::Launch,
        Self::Ready,
        Self::Pull,
        Self::Stop,
        Self::Snapshot,
        Self::Publish,
        Self::CleanUp,
    ];

    /// What a table calls it.
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
            Self::Publish => "publish",
            Self::CleanUp => "clean up",
        }
    }
}

/// One way, gone once.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Measurement {
    /// From the order until everything is cleaned up.
    pub seconds: f64,
    /// The same by stage.
    pub stages: BTreeMap<Stage, f64>,
    /// What the registries sent.
    pub pulled: Bytes,
    /// How many requests they answered.
    pub registry_requests: u64,
    /// How many blocks of 512 KiB EBS stores for the snapshot: those that differ from its base, or from zeros. None where
    /// no snapshot was made, or where nodes are simulated.
    pub blocks: Option<u64>,
    /// How often each action was called, by `service:Action`: by prepull's functions, or by the person's tools.
    pub calls: BTreeMap<String, u64>,
    /// State transitions, retries included.
    pub transitions: u64,
    /// Lambda invocations.
    pub invocations: u64,
    /// Their memory × duration.
    pub lambda_gb_seconds: f64,
    /// How many instances were launched.
    pub instances: u64,
    /// How long the instance lived.
    pub instance_seconds: f64,
    /// Its data volume.
    pub volume: VolumeConfig,
}

impl Measurement {
    /// How many calls there were of all actions.
    #[must_use]
    pub fn all_calls(&self) -> u64 {
        self.calls.values().sum()
    }
}

/// How containers of one image started, each on a node of its own.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ContainerStarts {
    /// The compressed size of the image.
    pub size: Bytes,
    /// On nodes with an empty volume.
    pub empty: Vec<ContainerStart>,
    /// On nodes from the snapshot.
    pub cached: Vec<ContainerStart>,
}

/// How one container started.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ContainerStart {
    /// Seconds from EC2's answer to the node's launch until the container ran.
    pub since_launch: f64,
    /// Seconds from the request for the container, on the node that was up by then, until it ran.
    pub since_request: f64,
    /// What the node pulled for it.
    pub pulled: Bytes,
}
