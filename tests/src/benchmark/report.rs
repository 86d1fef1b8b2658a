//! The measurements as tables for people and as JSON for programs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};

use prepull_domain::Bytes;
use serde_json::{Value, json};

use crate::benchmark::{ContainerStart, ContainerStarts, Measurement, Spread, Stage, Way, prices};

/// All measurements.
#[derive(Debug, Clone)]
pub struct Report {
    /// The command that measured it.
    pub command: String,
    /// The day.
    pub date: String,
    /// The conditions of the measurement, one sentence each.
    pub setting: Vec<String>,
    /// The runs. Each one measures every way once.
    pub runs: Vec<BTreeMap<Way, Measurement>>,
    /// The starts of containers, smallest image first.
    pub starts: Vec<ContainerStarts>,
    /// Further measurements.
    pub sections: Vec<Section>,
}

/// A measurement of neither builds nor nodes.
#[derive(Debug, Clone)]
pub struct Section {
    /// Its key in the JSON.
    pub name: &'static str,
    /// The text for people.
    pub markdown: String,
    /// The data for programs.
    pub data: Value,
}

/// A goal of the benchmark.
#[derive(Debug, Clone, PartialEq)]
pub struct Goal {
    /// The measured number, usually a ratio of two ways.
    pub what: &'static str,
    /// The limit.
    pub wanted: Limit,
    /// The measured number. `None` if it could not be measured.
    pub measured: Option<Spread>,
}

/// The limit of a goal.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Limit {
    /// The number must not be smaller.
    AtLeast(f64),
    /// The number must not be larger.
    AtMost(f64),
}

impl Limit {
    fn number(self) -> f64 {
        match self {
            Self::AtLeast(number) | Self::AtMost(number) => number,
        }
    }

    /// Returns how far `measured` is on the good side, as a part of the limit. It is negative on the bad side.
    fn margin(self, measured: f64) -> f64 {
        match self {
            Self::AtLeast(limit) => measured / limit - 1.0,
            Self::AtMost(limit) => 1.0 - measured / limit,
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = match self {
            Self::AtLeast(_) => "at least",
            Self::AtMost(_) => "at most",
        };
        write!(f, "{side} {}", self.number())
    }
}

impl Goal {
    /// Returns the margin by which the goal is met or missed, as text.
    #[must_use]
    pub fn verdict(&self) -> String {
        let Some(measured) = self.measured else {
            return "not measured: nodes are simulated".to_owned();
        };
        if self.wanted == Limit::AtMost(0.0) {
            let verdict = if measured.max > 0.0 {
                "**missed**"
            } else {
                "met"
            };
            return verdict.to_owned();
        }
        let percent = self.wanted.margin(measured.median) * 100.0;
        if percent >= 0.0 {
            format!("met, by {percent:.0} %")
        } else {
            format!("**missed, by {:.0} %**", -percent)
        }
    }
}

type Measure = fn(&Measurement) -> Option<f64>;

impl Report {
    /// Returns `measure` of a way over all runs. `None` if no run measured the way.
    pub fn spread(&self, way: Way, measure: impl Fn(&Measurement) -> f64) -> Option<Spread> {
        self.spread_of(way, |measurement| Some(measure(measurement)))
    }

    fn spread_of(&self, way: Way, measure: impl Fn(&Measurement) -> Option<f64>) -> Option<Spread> {
        let measured = self.runs.iter().filter_map(|run| run.get(&way));
        Spread::of(measured.filter_map(measure))
    }

    /// Returns the ratio of two ways, run by run, because noise in a run affects both.
    fn ratio(&self, more: Way, less: Way, measure: Measure) -> Option<Spread> {
        Spread::of(self.runs.iter().filter_map(|run| {
            let (more, less) = (measure(run.get(&more)?)?, measure(run.get(&less)?)?);
            Some(more / less.max(f64::MIN_POSITIVE))
        }))
    }

    /// Returns the goals.
    #[must_use]
    pub fn goals(&self) -> Vec<Goal> {
        let seconds: Measure = |measured| Some(measured.seconds);
        let pull: Measure = |measured| measured.stages.get(&Stage::Pull).copied();
        let pulled: Measure = |measured| Some(float(measured.pulled.0));
        let blocks: Measure = |measured| measured.blocks.map(float);
        let ratio = |what, wanted, more, less, measure| Goal {
            what,
            wanted,
            measured: self.ratio(more, less, measure),
        };
        let number = |what, wanted, way, measure: Measure| Goal {
            what,
            wanted,
            measured: self.spread_of(way, measure),
        };
        vec![
            ratio(
                "pulls of a first build ÷ plain ctr",
                Limit::AtMost(1.2),
                Way::Cold,
                Way::ColdFloor,
                pull,
            ),
            ratio(
                "pulls of a first build ÷ host-ctr",
                Limit::AtMost(1.2),
                Way::Cold,
                Way::PullerFloor,
                pull,
            ),
            ratio(
                "first build ÷ floor",
                Limit::AtMost(1.25),
                Way::Cold,
                Way::ColdFloor,
                seconds,
            ),
            ratio(
                "refresh ÷ floor",
                Limit::AtMost(1.3),
                Way::Refresh,
                Way::RefreshFloor,
                seconds,
            ),
            ratio(
                "script ÷ first build",
                Limit::AtLeast(4.5),
                Way::Script,
                Way::Cold,
                seconds,
            ),
            ratio(
                "bytes pulled, first build ÷ refresh",
                Limit::AtLeast(10.0),
                Way::Cold,
                Way::Refresh,
                pulled,
            ),
            ratio(
                "blocks stored, first build ÷ refresh",
                Limit::AtLeast(10.0),
                Way::Cold,
                Way::Refresh,
                blocks,
            ),
            number(
                "AWS calls of a refresh",
                Limit::AtMost(45.0),
                Way::Refresh,
                |measured| measured.all_calls().map(float),
            ),
            number(
                "instances launched without a change",
                Limit::AtMost(0.0),
                Way::Unchanged,
                |measured| Some(float(measured.instances)),
            ),
        ]
    }

    /// Returns the tables for docs/benchmarks.md.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text = format!(
            "`{}` on {}. Each cell is the median of {}, with minimum and maximum in brackets. {}\n\n{}\n{}",
            self.command,
            self.date,
            counted(self.runs.len(), "run"),
            self.setting.join(" "),
            self.ways(),
            self.verdicts(),
        );
        if !self.starts.is_empty() {
            let _ = write!(text, "\n{}", self.nodes());
        }
        for section in &self.sections {
            let _ = write!(text, "\n{}", section.markdown);
        }
        text
    }

    fn ways(&self) -> String {
        let mut table = String::from("| |");
        for way in Way::ALL {
            let _ = write!(table, " {} |", way.title());
        }
        let _ = writeln!(table, "\n|---|{}", "---:|".repeat(Way::ALL.len()));
        let mut row = |what: &str, measure: &dyn Fn(&Measurement) -> Option<f64>, show: Show| {
            let _ = write!(table, "| {what} |");
            for way in Way::ALL {
                let spread = self.spread_of(way, measure);
                let shown = spread.map_or_else(|| "–".to_owned(), |spread| spread.show(show));
                let _ = write!(table, " {shown} |");
            }
            table.push('\n');
        };
        row("**seconds**", &|m| Some(m.seconds), decimal);
        for stage in Stage::ALL {
            row(
                &format!("… {}", stage.title()),
                &|m| m.stages.get(&stage).copied(),
                decimal,
            );
        }
        row("pulled", &|m| Some(float(m.pulled.0)), bytes);
        row(
            "registry requests",
            &|m| Some(float(m.registry_requests)),
            whole,
        );
        row("512 KiB blocks stored", &|m| m.blocks.map(float), whole);
        row("AWS calls", &|m| m.all_calls().map(float), whole);
        row("state transitions", &|m| Some(float(m.transitions)), whole);
        row("Lambda GB-seconds", &|m| Some(m.lambda_gb_seconds), decimal);
        row("instances", &|m| Some(float(m.instances)), whole);
        row("instance seconds", &|m| Some(m.instance_seconds), decimal);
        row("cost", &|m| Some(prices::dollars(m)), dollars);
        row("snapshot per month", &prices::dollars_a_month, dollars);
        table
    }

    fn verdicts(&self) -> String {
        let mut table = "| goal | wanted | measured | |\n|---|---:|---:|---|\n".to_owned();
        for goal in self.goals() {
            let measured = goal
                .measured
                .map_or_else(|| "–".to_owned(), |spread| spread.show(decimal));
            let _ = writeln!(
                table,
                "| {} | {} | {measured} | {} |",
                goal.what,
                goal.wanted,
                goal.verdict()
            );
        }
        table
    }

    fn nodes(&self) -> String {
        let mut table = "| image | empty node: seconds from launch | … from request | pulled | cached node: seconds \
                         from launch | … from request | pulled | speed-up from launch | … from request |\n\
                         |---|---:|---:|---:|---:|---:|---:|---:|---:|\n"
            .to_owned();
        let since_launch: Seconds = |start| start.since_launch;
        let since_request: Seconds = |start| start.since_request;
        let shown = |spread: Option<Spread>, show: Show| {
            spread.map_or_else(|| "–".to_owned(), |spread| spread.show(show))
        };
        for ContainerStarts {
            size,
            empty,
            cached,
        } in &self.starts
        {
            let _ = write!(table, "| {size} |");
            for starts in [empty, cached] {
                let spread = |of: Seconds| Spread::of(starts.iter().map(of));
                let pulled = Spread::of(starts.iter().map(|start| float(start.pulled.0)));
                let _ = write!(
                    table,
                    " {} | {} | {} |",
                    shown(spread(since_launch), decimal),
                    shown(spread(since_request), hundredths),
                    shown(pulled, bytes),
                );
            }
            for of in [since_launch, since_request] {
                let ratios = empty.iter().zip(cached);
                let ratios =
                    ratios.map(|(empty, cached)| of(empty) / of(cached).max(f64::MIN_POSITIVE));
                let _ = write!(table, " {} |", shown(Spread::of(ratios), decimal));
            }
            table.push('\n');
        }
        table
    }

    /// Returns the median number of calls of each action for each way. It is too long for docs/benchmarks.md.
    #[must_use]
    pub fn calls(&self) -> String {
        let ways = self.runs.iter().flat_map(BTreeMap::values);
        let actions: BTreeSet<_> = ways.flat_map(|measured| measured.calls.keys()).collect();
        let mut table = String::from("| AWS calls |");
        for way in Way::ALL {
            let _ = write!(table, " {} |", way.title());
        }
        let _ = writeln!(table, "\n|---|{}", "---:|".repeat(Way::ALL.len()));
        for action in actions {
            let _ = write!(table, "| {action} |");
            for way in Way::ALL {
                let calls = self.spread(way, |measured| {
                    float(measured.calls.get(action).copied().unwrap_or_default())
                });
                let _ = write!(table, " {} |", calls.map_or(0.0, |calls| calls.median));
            }
            table.push('\n');
        }
        table
    }

    /// Returns every run as JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        let runs = self.runs.iter().map(|run| {
            let ways = run.iter().map(|(way, measured)| {
                let mut value = json!(measured);
                value["dollars"] = json!(prices::dollars(measured));
                value["dollars_a_month"] = json!(prices::dollars_a_month(measured));
                (json!(way).as_str().unwrap_or_default().to_owned(), value)
            });
            Value::Object(ways.collect())
        });
        let goals = self.goals().into_iter().map(|goal| {
            let measured = goal.measured;
            json!({
                "goal": goal.what,
                "wanted": goal.wanted.to_string(),
                "measured": measured.map(|spread| spread.median),
                "min": measured.map(|spread| spread.min),
                "max": measured.map(|spread| spread.max),
            })
        });
        let mut value = json!({
            "command": self.command,
            "date": self.date,
            "setting": self.setting,
            "goals": goals.collect::<Vec<_>>(),
            "runs": runs.collect::<Vec<_>>(),
            "container_starts": self.starts,
        });
        for section in &self.sections {
            value[section.name] = section.data.clone();
        }
        value
    }
}

type Show = fn(f64) -> String;

type Seconds = fn(&ContainerStart) -> f64;

fn whole(value: f64) -> String {
    format!("{value:.0}")
}

fn decimal(value: f64) -> String {
    format!("{value:.1}")
}

fn hundredths(value: f64) -> String {
    format!("{value:.2}")
}

fn dollars(value: f64) -> String {
    format!("${value:.4}")
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a median of byte counts is a byte count, except for a half"
)]
fn bytes(value: f64) -> String {
    Bytes(value as u64).to_string()
}

#[expect(
    clippy::cast_precision_loss,
    reason = "these counts are far from the limit of a float"
)]
fn float(count: u64) -> f64 {
    count as f64
}

fn counted(number: usize, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        _ => format!("{number} {what}s"),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::benchmark::prices::tests::nothing;

    /// A run in which only the pull takes time.
    pub fn report() -> Report {
        let measured = |seconds, pulled, blocks, instances| Measurement {
            seconds,
            stages: BTreeMap::from([(Stage::Pull, seconds)]),
            pulled: Bytes(pulled),
            blocks,
            instances,
            calls: BTreeMap::from([("ec2:RunInstances".to_owned(), instances)]),
            ..nothing()
        };
        Report {
            command: "cargo xtask bench".to_owned(),
            date: "2026-01-01".to_owned(),
            setting: vec!["Real nodes.".to_owned()],
            runs: vec![BTreeMap::from([
                (Way::Script, measured(90.0, 300_000_000, Some(2_000), 1)),
                (Way::ByHand, measured(60.0, 300_000_000, Some(2_000), 1)),
                (Way::ColdFloor, measured(16.0, 300_000_000, Some(2_000), 1)),
                (
                    Way::PullerFloor,
                    measured(20.0, 300_000_000, Some(2_000), 1),
                ),
                (Way::RefreshFloor, measured(5.0, 9_000_000, Some(100), 1)),
                (Way::Cold, measured(20.0, 300_000_000, Some(2_000), 1)),
                (Way::Refresh, measured(10.0, 9_000_000, Some(100), 1)),
                (Way::Unchanged, measured(1.0, 0, None, 0)),
            ])],
            starts: vec![ContainerStarts {
                size: Bytes(100_000_000),
                empty: vec![ContainerStart {
                    since_launch: 9.0,
                    since_request: 5.0,
                    pulled: Bytes(100_000_000),
                }],
                cached: vec![ContainerStart {
                    since_launch: 4.5,
                    since_request: 0.2,
                    pulled: Bytes(0),
                }],
            }],
            sections: Vec::new(),
        }
    }

    #[test]
    fn verdicts_contain_the_margin_of_each_goal() {
        let verdicts: Vec<_> = report().goals().iter().map(Goal::verdict).collect();
        assert_eq!(
            verdicts,
            [
                "**missed, by 4 %**",
                "met, by 17 %",
                "met, by 0 %",
                "**missed, by 54 %**",
                "met, by 0 %",
                "met, by 233 %",
                "met, by 100 %",
                "met, by 98 %",
                "met",
            ]
        );
    }

    #[test]
    fn goal_without_a_measurement_has_no_verdict() {
        let mut report = report();
        for measured in report.runs[0].values_mut() {
            measured.blocks = None;
        }
        assert_eq!(
            report.goals()[6].verdict(),
            "not measured: nodes are simulated"
        );
    }

    #[test]
    fn container_starts_are_compared_from_launch_and_request() {
        let markdown = report().markdown();
        let row = "| 100.0 MB | 9.0 | 5.00 | 100.0 MB | 4.5 | 0.20 | 0 B | 2.0 | 25.0 |";
        assert!(markdown.contains(row), "{markdown}");
    }

    #[test]
    fn table_rows_have_a_cell_for_every_column() {
        let markdown = report().markdown();
        let mut columns = 0;
        for line in markdown.lines() {
            let cells = line.matches('|').count();
            if line.starts_with('|') && columns > 0 {
                assert_eq!(cells, columns, "{line}");
            }
            columns = if line.starts_with('|') { cells } else { 0 };
        }
    }

    #[test]
    fn section_appears_in_markdown_and_json() {
        let mut report = report();
        report.sections.push(Section {
            name: "functions",
            markdown: "| function | MB |\n".to_owned(),
            data: json!({"plan-build": 30}),
        });
        assert!(report.markdown().ends_with("\n| function | MB |\n"));
        assert_eq!(report.json()["functions"]["plan-build"], 30);
    }

    #[test]
    fn json_contains_every_run_with_its_cost() {
        let json = report().json();
        assert_eq!(json["runs"][0]["by-hand"]["seconds"], 60.0);
        assert!(json["runs"][0]["unchanged"]["dollars"].is_number());
        assert_eq!(json["runs"][0]["cold"]["stages"]["pull"], 20.0);
    }

    #[test]
    fn uncalled_actions_count_as_zero() {
        let calls = report().calls();
        assert!(
            calls.contains("| ec2:RunInstances | 1 | 1 | 1 | 1 | 1 | 1 | 1 | 0 | 0 | 0 |"),
            "{calls}"
        );
    }
}
