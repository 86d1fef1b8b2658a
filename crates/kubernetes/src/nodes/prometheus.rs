//! The report in Prometheus' text format.

use std::fmt;

use prepull_domain::{Architecture, InstanceId};

use super::{HitRate, NodeReport, Origin, SnapshotStage};

/// Names and values of labels.
type Labels<'a> = Vec<(&'static str, &'a str)>;

/// A gauge.
struct Gauge {
    name: &'static str,
    help: &'static str,
    samples: Vec<String>,
}

impl Gauge {
    fn new<'a, V: fmt::Display>(
        name: &'static str,
        help: &'static str,
        samples: impl IntoIterator<Item = (Labels<'a>, V)>,
    ) -> Self {
        let sample = |(labels, value): (Labels, V)| {
            let labels: Vec<_> = labels
                .iter()
                .map(|(name, value)| format!("{name}=\"{}\"", escape(value)))
                .collect();
            format!("{name}{{{}}} {value}\n", labels.join(","))
        };
        Self {
            name,
            help,
            samples: samples.into_iter().map(sample).collect(),
        }
    }
}

impl fmt::Display for Gauge {
    /// Writes nothing if there are no samples.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.samples.is_empty() {
            return Ok(());
        }
        writeln!(f, "# HELP {} {}", self.name, self.help)?;
        writeln!(f, "# TYPE {} gauge", self.name)?;
        f.write_str(&self.samples.concat())
    }
}

/// Escapes the value of a label.
fn escape(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

impl HitRate {
    /// Returns the report in Prometheus' text format, version 0.0.4.
    ///
    /// All metrics are gauges. They describe the objects that exist now, so a value decreases when an event expires or
    /// a node leaves.
    #[must_use]
    pub fn prometheus(&self) -> String {
        let gauges = [self.about_nodes(), self.about_starts(), self.about_events()];
        gauges.iter().flatten().map(Gauge::to_string).collect()
    }

    fn about_nodes(&self) -> Vec<Gauge> {
        vec![
            Gauge::new(
                "prepull_node_info",
                "A node and the snapshot that it started from.",
                self.nodes.iter().map(|node| (self.info(node), 1)),
            ),
            Gauge::new(
                "prepull_node_snapshot_age_seconds",
                "Time since EBS completed the snapshot of the node.",
                self.nodes.iter().filter_map(|node| match &node.origin {
                    Origin::Cache { age_seconds, .. } => Some((self.labels(node), age_seconds)),
                    _ => None,
                }),
            ),
            Gauge::new(
                "prepull_node_volume_initialized_ratio",
                "Initialized part of the data volume, 0 to 1.",
                self.nodes.iter().filter_map(|node| {
                    let percent = f64::from(node.initialization?.percent);
                    Some((self.labels(node), percent / 100.0))
                }),
            ),
            Gauge::new(
                "prepull_node_cached_images",
                "Images of the snapshot, by their presence in the status of the node.",
                self.nodes.iter().flat_map(|node| {
                    let samples = node.cached.iter().flat_map(|images| {
                        [
                            ("present", images.present),
                            ("missing", images.missing.len()),
                            ("unknown", images.unknown),
                        ]
                    });
                    samples.map(|(state, value)| (self.labels_with(node, "state", state), value))
                }),
            ),
        ]
    }

    fn about_starts(&self) -> Vec<Gauge> {
        let from_cache = || self.nodes.iter().filter(|node| node.is_from_cache());
        vec![
            Gauge::new(
                "prepull_node_image_starts",
                "First starts of containers, by their result in the retained events.",
                self.nodes.iter().flat_map(|node| {
                    let samples = [
                        ("found", node.totals.found),
                        ("pulled", node.totals.pulled),
                        ("unknown", node.totals.unknown),
                    ];
                    samples.map(|(result, value)| (self.labels_with(node, "result", result), value))
                }),
            ),
            Gauge::new(
                "prepull_node_pull_seconds",
                "Time of the pulls in the retained events, summed over images.",
                self.nodes
                    .iter()
                    .map(|node| (self.labels(node), node.totals.pull_seconds.as_f64())),
            ),
            Gauge::new(
                "prepull_node_saved_seconds",
                "Time that the snapshot saved, as measured on nodes without it.",
                from_cache().map(|node| (self.labels(node), node.totals.saved_seconds.as_f64())),
            ),
            Gauge::new(
                "prepull_node_saved_unmeasured_images",
                "Images whose saved time is unknown.",
                from_cache().map(|node| (self.labels(node), node.totals.images_saved_unmeasured)),
            ),
            Gauge::new(
                "prepull_image_pull_seconds",
                "Median time of the image's pulls on nodes without a snapshot of the cache.",
                self.baselines.iter().map(|baseline| {
                    let labels = vec![
                        ("cache", self.cache.as_str()),
                        ("architecture", baseline.architecture.as_str()),
                        ("image", baseline.image.as_str()),
                    ];
                    (labels, baseline.seconds.as_f64())
                }),
            ),
        ]
    }

    fn about_events(&self) -> Vec<Gauge> {
        let reasons = [
            ("unreadable", self.ignored_events.unreadable),
            ("combined", self.ignored_events.combined),
            ("without_node", self.ignored_events.without_node),
        ];
        vec![Gauge::new(
            "prepull_ignored_events",
            "Retained events that the report ignores.",
            reasons.map(|(reason, value)| {
                let labels = vec![("cache", self.cache.as_str()), ("reason", reason)];
                (labels, value)
            }),
        )]
    }

    fn info<'a>(&'a self, node: &'a NodeReport) -> Labels<'a> {
        let (origin, snapshot) = match &node.origin {
            Origin::Cache {
                snapshot_id, stage, ..
            } => {
                let origin = match stage {
                    SnapshotStage::Stable => "stable",
                    SnapshotStage::Candidate => "candidate",
                    SnapshotStage::Other => "other",
                };
                (origin, snapshot_id.as_str())
            }
            Origin::AnotherSnapshot { snapshot_id } => ("another_snapshot", snapshot_id.as_str()),
            Origin::NoSnapshot => ("no_snapshot", ""),
            Origin::Unknown => ("unknown", ""),
        };
        let mut labels = self.labels(node);
        labels.extend([
            (
                "instance_id",
                node.instance.as_ref().map_or("", InstanceId::as_str),
            ),
            (
                "architecture",
                node.architecture.map_or("", Architecture::as_str),
            ),
            ("origin", origin),
            ("snapshot_id", snapshot),
        ]);
        labels
    }

    fn labels<'a>(&'a self, node: &'a NodeReport) -> Labels<'a> {
        vec![("cache", self.cache.as_str()), ("node", &node.name)]
    }

    fn labels_with<'a>(
        &'a self,
        node: &'a NodeReport,
        name: &'static str,
        value: &'a str,
    ) -> Labels<'a> {
        let mut labels = self.labels(node);
        labels.push((name, value));
        labels
    }
}
