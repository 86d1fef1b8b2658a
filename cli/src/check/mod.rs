//! `prepull check`: finds the reasons why nodes would not use the snapshot of a cache.
//!
//! It reads node classes, node pools, launch templates and workloads from files, and compares them with the manifest of the
//! snapshot. With `--live` it reads a cluster instead of files. This module calls no API: the caller has read the facts.

mod conditions;
mod input;
mod known;

use std::fmt::{self, Write as _};
use std::io::{IsTerminal as _, Read as _};

use clap::ValueEnum;
use prepull_domain::{Architecture, CacheName};
use prepull_kubernetes::nodes::HitRate;
use serde::Serialize;
use strum::Display;

use crate::render::{count, table};

pub use input::InputError;
pub use known::{Cache, Key, ManifestError, OtherSnapshot, Target};

use conditions::{CONDITIONS, Condition, Subject};
use input::Inputs;

/// Name of standard input on the command line.
const STDIN: &str = "-";

/// Name of standard input in reports.
const STDIN_NAME: &str = "standard input";

/// Name of the cluster in reports.
const CLUSTER: &str = "cluster";

/// The arguments of `prepull check`.
#[derive(Debug, Clone, clap::Args)]
pub struct CheckArgs {
    /// Compare with the snapshots of this cache.
    #[arg(required_unless_present = "explain")]
    pub cache: Option<CacheName>,
    /// Read these YAML or JSON files; `-` is standard input.
    #[arg(value_name = "FILE")]
    pub files: Vec<String>,
    /// Compare only with `x86_64` or `arm64`.
    #[arg(long)]
    pub architecture: Option<Architecture>,
    /// Read the manifest from this file, without calls to AWS.
    ///
    /// Write it with `prepull snapshots CACHE --output json`.
    #[arg(long, value_name = "FILE")]
    pub manifest: Option<String>,
    /// Read the objects from a cluster, and check its nodes too.
    #[arg(long, conflicts_with_all = ["files", "manifest"])]
    pub live: bool,
    /// Use this context of the kubeconfig.
    #[arg(long, value_name = "NAME", requires = "live")]
    pub context: Option<String>,
    /// Read the workloads of this namespace.
    #[arg(long, value_name = "NAME", requires = "live")]
    pub namespace: Vec<String>,
    /// Compare the rate with the quota if this many nodes start.
    #[arg(long, value_name = "NODES", value_parser = clap::value_parser!(u32).range(1..))]
    pub burst: Option<u32>,
    /// Check only node classes and templates with this name.
    #[arg(long, value_name = "NAME")]
    pub only: Vec<String>,
    /// Compare with the Kubernetes version of the cluster.
    #[arg(long, value_name = "1.NN", value_parser = kubernetes_version)]
    pub kubernetes: Option<String>,
    /// Fail from this severity on.
    #[arg(long, value_enum, default_value_t)]
    pub fail_on: FailOn,
    /// Explain the condition with this number.
    #[arg(long, value_name = "NUMBER")]
    pub explain: Option<u8>,
}

fn kubernetes_version(given: &str) -> Result<String, String> {
    match given.strip_prefix("1.").map(str::parse::<u16>) {
        Some(Ok(_)) => Ok(given.to_owned()),
        _ => Err("expected a minor version such as `1.33`".to_owned()),
    }
}

/// The lowest severity that fails the command.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum FailOn {
    /// Only errors.
    #[default]
    Error,
    /// Errors and warnings.
    Warning,
}

/// The severity of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Display)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum Severity {
    /// Nodes fail, or do not use the snapshot.
    Error,
    /// Nodes are slow, or fail later.
    Warning,
    /// There is something to know.
    Note,
}

/// An error of `check`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    /// An input cannot be read.
    #[error("{0}")]
    Input(#[from] InputError),
    /// The file of `--manifest` cannot be used.
    #[error("{0}")]
    Manifest(#[from] ManifestError),
    /// The number of `--explain` is unknown.
    #[error("there is no condition {number}: the conditions are {known}. Give one of them")]
    UnknownCondition {
        /// Number.
        number: u8,
        /// All numbers.
        known: String,
    },
}

/// A finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckFinding {
    /// Number of the condition.
    pub condition: u8,
    /// Severity.
    pub severity: Severity,
    /// Kind and name of the object.
    pub object: String,
    /// Path of the field in the object.
    pub path: String,
    /// Defect, as the predicate of the path.
    pub message: String,
    /// Remedy, in one sentence.
    pub remedy: String,
    /// File, if the object is from one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Line in the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
}

impl CheckFinding {
    fn new(condition: &Condition, problem: conditions::Problem, cache: &CacheName) -> Self {
        let object = problem.object;
        Self {
            condition: condition.number,
            severity: problem.severity.unwrap_or(condition.severity),
            object: object.map_or_else(|| format!("cache {cache}"), ToString::to_string),
            path: problem.place.path,
            message: problem.message,
            remedy: problem
                .remedy
                .unwrap_or_else(|| condition.remedy.to_owned()),
            file: object.map(|object| object.file.clone()),
            line: object
                .filter(|object| object.file != CLUSTER)
                .map(|_| problem.place.line),
        }
    }

    fn sentence(&self) -> String {
        format!("{}: {} {}.", self.object, self.path, self.message)
    }
}

/// The result of a check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckReport {
    /// The cache.
    pub cache: CacheName,
    /// Number of node classes and launch templates.
    pub node_classes: usize,
    /// Number of node pools.
    pub node_pools: usize,
    /// Number of workloads.
    pub workloads: usize,
    /// The findings: errors first, then by file and line.
    pub findings: Vec<CheckFinding>,
}

/// Returns the content of `file`, or of standard input if it is `-`.
///
/// # Errors
/// If it cannot be read as UTF-8.
pub fn read(file: &str) -> Result<String, CheckError> {
    let content = if file == STDIN {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(file)
    };
    content.map_err(|error| {
        let (file, problem) = (file.to_owned(), error.to_string());
        InputError::Unreadable { file, problem }.into()
    })
}

/// Returns the cache from the file of `--manifest`.
///
/// # Errors
/// If the file cannot be used.
pub fn cache_from_file(
    name: &CacheName,
    file: &str,
    only: Option<Architecture>,
) -> Result<Cache, CheckError> {
    Ok(Cache::parse(name, file, &read(file)?, only)?)
}

/// Checks the files of `args` against `cache`.
///
/// # Errors
/// If an input cannot be read, or has nothing to check.
pub fn run(args: &CheckArgs, cache: &Cache) -> Result<CheckReport, CheckError> {
    if args.files.is_empty() && std::io::stdin().is_terminal() {
        return Err(InputError::NoFile.into());
    }
    let stdin = [STDIN.to_owned()];
    let files = if args.files.is_empty() {
        &stdin[..]
    } else {
        &args.files[..]
    };
    let mut texts = Vec::new();
    for file in files {
        texts.push((file.clone(), read(file)?));
    }
    report(args, cache, &texts, None)
}

/// Checks the `objects` and the nodes of a cluster against `cache`.
///
/// # Errors
/// If there is nothing to check.
pub fn run_live(
    args: &CheckArgs,
    cache: &Cache,
    objects: &serde_json::Value,
    hit_rate: &HitRate,
) -> Result<CheckReport, CheckError> {
    let text = objects.to_string();
    report(args, cache, &[(CLUSTER.to_owned(), text)], Some(hit_rate))
}

/// Checks the texts of files against `cache`, and the nodes of a cluster if `hit_rate` has them.
///
/// # Errors
/// If a text cannot be parsed, or none has anything to check.
pub fn report(
    args: &CheckArgs,
    cache: &Cache,
    files: &[(String, String)],
    hit_rate: Option<&HitRate>,
) -> Result<CheckReport, CheckError> {
    let mut inputs = Inputs::default();
    for (file, text) in files {
        let name = if file == STDIN { STDIN_NAME } else { file };
        inputs.read(name, text)?;
    }
    inputs.check_recognised()?;
    inputs.check_selected(&args.only)?;
    // All objects stay in the inputs, because another pool can be the fall-back of a selected one.
    let is_selected = |object: &&input::Object| inputs.selects(object, &args.only);
    let subject = Subject {
        cache,
        inputs: &inputs,
        kubernetes: args.kubernetes.as_deref(),
        burst: args.burst,
        hit_rate,
    };
    let mut findings: Vec<_> = subject
        .problems()
        .filter(|(_, problem)| problem.object.as_ref().is_none_or(is_selected))
        .map(|(condition, problem)| CheckFinding::new(condition, problem, &cache.name))
        .collect();
    findings.sort_by(|a, b| {
        let key = |finding: &CheckFinding| {
            (
                finding.severity,
                finding.file.clone(),
                finding.line,
                finding.condition,
            )
        };
        key(a).cmp(&key(b))
    });
    Ok(CheckReport {
        cache: cache.name.clone(),
        node_classes: inputs.classes().filter(is_selected).count(),
        node_pools: inputs
            .pools
            .iter()
            .map(|pool| &pool.object)
            .filter(is_selected)
            .count(),
        workloads: inputs.workloads.len(),
        findings,
    })
}

impl CheckReport {
    /// Whether the findings fail the command.
    #[must_use]
    pub fn fails(&self, on: FailOn) -> bool {
        let limit = match on {
            FailOn::Error => Severity::Error,
            FailOn::Warning => Severity::Warning,
        };
        self.findings
            .iter()
            .any(|finding| finding.severity <= limit)
    }

    /// Returns the findings as workflow commands of GitHub Actions, which show them at the lines of a pull request.
    #[must_use]
    pub fn github(&self) -> String {
        let mut text = String::new();
        for finding in &self.findings {
            let command = match finding.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
                Severity::Note => "notice",
            };
            let place = match (&finding.file, finding.line) {
                (Some(file), Some(line)) if file != STDIN_NAME => {
                    format!("file={},line={line},", escape_property(file))
                }
                _ => String::new(),
            };
            let title = escape_property(&format!("prepull check {}", finding.condition));
            let message = escape_data(&format!("{} {}.", finding.sentence(), finding.remedy));
            // Writing to a string cannot fail.
            let _ = writeln!(text, "::{command} {place}title={title}::{message}");
        }
        text.push_str(&self.summary());
        text
    }

    fn summary(&self) -> String {
        let number = |severity| {
            self.findings
                .iter()
                .filter(|finding| finding.severity == severity)
                .count()
        };
        format!(
            "Checked {}, {} and {} for cache {}: {}, {} and {}.",
            count_classes(self.node_classes),
            count(self.node_pools, "node pool"),
            count(self.workloads, "workload"),
            self.cache,
            count(number(Severity::Error), "error"),
            count(number(Severity::Warning), "warning"),
            count(number(Severity::Note), "note"),
        )
    }
}

fn count_classes(number: usize) -> String {
    match number {
        1 => "1 node class or template".to_owned(),
        _ => format!("{number} node classes and templates"),
    }
}

/// Escapes the message of a workflow command.
///
/// Source: actions/toolkit, packages/core/src/command.ts, `escapeData` and `escapeProperty`.
fn escape_data(text: &str) -> String {
    text.replace('%', "%25")
        .replace('\r', "%0D")
        .replace('\n', "%0A")
}

/// Escapes a property of a workflow command.
fn escape_property(text: &str) -> String {
    escape_data(text).replace(':', "%3A").replace(',', "%2C")
}

impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut files: Vec<_> = self.findings.iter().map(|finding| &finding.file).collect();
        // Findings of the cache come last.
        files.sort_by_key(|file| (file.is_none(), *file));
        files.dedup();
        for file in files {
            let of_file = self.findings.iter().filter(|finding| &finding.file == file);
            writeln!(f, "{}", file.as_deref().unwrap_or("cache"))?;
            let mut rows = Vec::new();
            for finding in of_file {
                let line = finding
                    .line
                    .map(|line| line.to_string())
                    .unwrap_or_default();
                let number = finding.condition.to_string();
                rows.push(vec![
                    line,
                    finding.severity.to_string(),
                    number,
                    finding.sentence(),
                ]);
                let blank = String::new;
                rows.push(vec![
                    blank(),
                    blank(),
                    blank(),
                    format!("{}.", finding.remedy),
                ]);
            }
            writeln!(f, "{}", table("  ", &rows))?;
        }
        writeln!(f, "{}", self.summary())?;
        if let Some(first) = self.findings.first() {
            writeln!(
                f,
                "`prepull check --explain {}` explains a condition by its number.",
                first.condition
            )?;
        }
        Ok(())
    }
}

/// The explanation of a condition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// Number of the condition.
    pub condition: u8,
    /// Usual severity.
    pub severity: Severity,
    /// Title.
    pub title: &'static str,
    /// Reason why it matters.
    pub reason: &'static str,
    /// Remedy.
    pub remedy: &'static str,
    /// Source.
    pub source: &'static str,
}

/// Explains the condition `number`.
///
/// # Errors
/// If there is no such condition.
pub fn explain(number: u8) -> Result<Explanation, CheckError> {
    let Some(condition) = conditions::condition(number) else {
        let known: Vec<_> = CONDITIONS
            .iter()
            .map(|condition| condition.number.to_string())
            .collect();
        return Err(CheckError::UnknownCondition {
            number,
            known: known.join(", "),
        });
    };
    Ok(Explanation {
        condition: condition.number,
        severity: condition.severity,
        title: condition.title,
        reason: condition.reason,
        remedy: condition.remedy,
        source: condition.source,
    })
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            condition,
            severity,
            title,
            reason,
            remedy,
            source,
        } = self;
        writeln!(f, "Condition {condition} ({severity}): {title}\n")?;
        writeln!(f, "{reason}\n")?;
        writeln!(f, "Remedy: {remedy}.")?;
        writeln!(f, "Source: {source}.")
    }
}

#[cfg(test)]
mod tests;
