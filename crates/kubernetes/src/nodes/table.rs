//! The report as a table.

use std::fmt;

use jiff::Timestamp;

use super::{
    HitRate, IgnoredEvents, ImageUse, InSnapshot, Initialization, NodeReport, Origin, Pull,
    PullPolicy, Totals,
};

impl fmt::Display for HitRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nodes.is_empty() {
            return writeln!(f, "The cluster has no nodes.");
        }
        let head = [
            "NODE",
            "SNAPSHOT",
            "AGE",
            "STARTED",
            "FOUND",
            "PULLED",
            "UNKNOWN",
            "PULL TIME",
            "SAVED",
        ];
        let mut rows = vec![head.map(String::from).to_vec()];
        rows.extend(self.nodes.iter().map(|node| self.row(node)));
        let table_of_nodes = table("", &rows);
        let mut lines = table_of_nodes.lines();
        writeln!(f, "{}", lines.next().unwrap_or_default())?;
        for (line, node) in lines.zip(&self.nodes) {
            writeln!(f, "{line}")?;
            f.write_str(&table("      ", &node.details()))?;
        }
        writeln!(f)?;
        for line in self.summary() {
            writeln!(f, "{line}")?;
        }
        Ok(())
    }
}

impl HitRate {
    fn row(&self, node: &NodeReport) -> Vec<String> {
        let unknown = || "-".to_owned();
        let (snapshot, age) = match &node.origin {
            Origin::Cache {
                snapshot_id,
                stage,
                completed_at,
                ..
            } => (
                format!("{snapshot_id} ({})", stage.as_str()),
                ago(*completed_at, self.as_of),
            ),
            Origin::AnotherSnapshot { snapshot_id } => {
                (format!("{snapshot_id} (not of the cache)"), unknown())
            }
            Origin::NoSnapshot => ("none".to_owned(), unknown()),
            Origin::Unknown => ("unknown".to_owned(), unknown()),
        };
        let totals = &node.totals;
        vec![
            node.name.clone(),
            snapshot,
            age,
            node.started_at
                .map_or_else(unknown, |time| ago(time, self.as_of)),
            totals.found.to_string(),
            totals.pulled.to_string(),
            totals.unknown.to_string(),
            totals.pull_seconds.to_string(),
            match (totals.images_saved, totals.images_saved_unmeasured) {
                (0, 0) => unknown(),
                (0, _) => "unknown".to_owned(),
                _ => totals.saved_seconds.to_string(),
            },
        ]
    }

    /// Returns the sentences below the table.
    fn summary(&self) -> Vec<String> {
        let Totals { found, pulled, .. } = self.totals;
        let from_cache = self.nodes.iter().filter(|node| node.is_from_cache());
        let mut lines = vec![format!(
            "{} of {} started from a snapshot of `{}`.",
            from_cache.count(),
            count(self.nodes.len(), "node"),
            self.cache
        )];
        if found + pulled > 0 {
            lines.push(format!(
                "On them, {found} of {} found their image.",
                count(found + pulled, "start")
            ));
        }
        if pulled > 0 {
            let time = self.totals.pull_seconds;
            let without_time = match self.totals.pulls_without_time {
                0 => String::new(),
                number => format!(", and {} of unknown time", count(number, "pull")),
            };
            lines.push(format!("The others pulled for {time}{without_time}."));
        }
        if self.totals.images_saved > 0 {
            lines.push(format!(
                "The snapshots saved {} of pulls, as measured on nodes without them.",
                self.totals.saved_seconds
            ));
        }
        let unmeasured = self.totals.images_saved_unmeasured;
        if unmeasured > 0 {
            lines.push(format!(
                "They also saved {} of unknown time. No node without them pulled the image.",
                count(unmeasured, "pull")
            ));
        }
        let unknown = self.totals.unknown + self.other_nodes.unknown;
        if unknown > 0 {
            lines.push(format!(
                "{} without an event: unknown. Clusters keep events for an hour by default.",
                count(unknown, "start")
            ));
        }
        let IgnoredEvents {
            unreadable,
            combined,
            without_node,
        } = self.ignored_events;
        if unreadable > 0 {
            lines.push(format!(
                "Ignored {} of unknown form. Report it if prepull is up to date.",
                count(unreadable, "event")
            ));
        }
        if combined > 0 {
            lines.push(format!(
                "Ignored {} that the kubelet combined from several.",
                count(combined, "event")
            ));
        }
        if without_node > 0 {
            lines.push(format!(
                "Ignored {} of other nodes.",
                count(without_node, "event")
            ));
        }
        lines
    }
}

impl NodeReport {
    /// Returns the lines below the node in the table.
    fn details(&self) -> Vec<Vec<String>> {
        let mut rows = Vec::new();
        if let Some(Initialization { percent, .. }) = self.initialization
            && percent < 100
        {
            let text = format!("{percent} % of the volume. The first read of the rest is slow");
            rows.push(vec!["initialized".to_owned(), text]);
        }
        // Nodes without the snapshot pull every image, so the lines would only repeat the images of the pods.
        let images = self.images.iter().filter(|_| self.is_from_cache());
        for image in images.filter(|image| !image.pulls.is_empty()) {
            rows.push(vec![
                "pulled".to_owned(),
                image.image.to_string(),
                image.pull_times(),
                image.remark(),
            ]);
        }
        let missing = self.cached.iter().flat_map(|cached| &cached.missing);
        rows.extend(missing.map(|image| {
            vec![
                "missing".to_owned(),
                image.to_string(),
                String::new(),
                "in the snapshot, but the node does not list it".to_owned(),
            ]
        }));
        rows
    }
}

impl ImageUse {
    fn pull_times(&self) -> String {
        let times = self.pulls.iter().map(|pull| {
            let seconds = pull.seconds.map(|seconds| seconds.to_string());
            seconds.unwrap_or_else(|| "unknown time".to_owned())
        });
        times.collect::<Vec<_>>().join(", ")
    }

    /// Returns the probable reason of a pull.
    fn remark(&self) -> String {
        let always = |pull: &Pull| pull.policy == PullPolicy::Always;
        match self.in_snapshot {
            InSnapshot::Yes if self.pulls.iter().all(always) => {
                "in the snapshot, but the pod has imagePullPolicy Always".to_owned()
            }
            InSnapshot::Yes => "in the snapshot, but the node did not find it".to_owned(),
            InSnapshot::No if self.similar.is_empty() => "not in the snapshot".to_owned(),
            InSnapshot::No => {
                let similar: Vec<_> = self.similar.iter().map(ToString::to_string).collect();
                format!("the snapshot has {}", similar.join(", "))
            }
            InSnapshot::Unknown => String::new(),
        }
    }
}

/// Formats the cells of a table. Each column is as wide as its widest cell. Every line starts with `indent` and ends
/// with its last cell.
fn table(indent: &str, rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            let cells = rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        })
        .collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths);
        let cells: Vec<_> = cells
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        format!("{}\n", format!("{indent}{}", cells.join("  ")).trim_end())
    };
    rows.iter().map(line).collect()
}

/// Formats an age before `now` in its largest unit: `3 h ago`.
fn ago(then: Timestamp, now: Timestamp) -> String {
    match now.duration_since(then).as_secs().max(0) {
        0..60 => "just now".to_owned(),
        seconds @ 60..3_600 => format!("{} min ago", seconds / 60),
        seconds @ 3_600..172_800 => format!("{} h ago", seconds / 3_600),
        seconds => format!("{} days ago", seconds / 86_400),
    }
}

/// Formats a count: `1 image`, `2 images`.
fn count(number: usize, thing: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {thing}{plural}")
}
