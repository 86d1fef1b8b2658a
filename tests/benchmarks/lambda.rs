//! Measures the start time, the memory and the size of each function.
//!
//! Every start is a new process, as in a new execution environment of Lambda. The local cloud measures it from the launch
//! of the process to its first requests to the Runtime API. The times include about a millisecond of the local cloud's own
//! work, but not the download of the zip and the start of the virtual machine. The file is in the page cache, because
//! uncounted starts come first.
//!
//! Every function rejects the input before its first AWS call, so time and memory contain no TLS handshake.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use prepull_domain::Bytes;
use prepull_tests::World;
use prepull_tests::benchmark::{Section, Spread};
use prepull_tests::localcloud::ColdStart;
use serde::Serialize;
use serde_json::json;

use crate::options::Options;

/// Goal for the time from the start of the process to its first answer.
const AIM_ANSWER: Duration = Duration::from_millis(15);

/// Goal for the peak of resident memory.
const AIM_MEMORY: Bytes = Bytes(30_000_000);

/// Goal for the size of the zip.
const AIM_ZIP: Bytes = Bytes(4_000_000);

/// Number of starts of each function.
const STARTS: usize = 20;

/// Measures the cold starts of all functions. It disables warm reuse, so later calls are cold starts too.
///
/// # Errors
/// Fails if a function does not start.
pub async fn section(world: &World, options: &Options) -> Result<Section> {
    let starts = if options.quick { 1 } else { STARTS };
    let profile = if options.quick || options.unoptimized {
        "dev"
    } else {
        "release"
    };
    let report = measure(world, profile, starts).await?;
    Ok(Section {
        name: "lambda",
        markdown: report.markdown(),
        data: serde_json::to_value(&report)?,
    })
}

/// The measurements.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Build profile of the functions.
    pub profile: &'static str,
    /// Number of starts of each function.
    pub starts: usize,
    /// The goals.
    pub aims: Aims,
    /// The functions, by name.
    pub functions: BTreeMap<String, Function>,
}

/// The goals for an optimized build.
#[derive(Debug, Serialize)]
pub struct Aims {
    /// Time from the start of the process to its first answer, in milliseconds.
    pub answer_ms: f64,
    /// Peak of resident memory.
    pub memory: Bytes,
    /// Size of the zip.
    pub zip: Bytes,
}

/// One function.
#[derive(Debug, Serialize)]
pub struct Function {
    /// Time from the start of the process until it asks for an invocation, in milliseconds.
    pub init_ms: Spread,
    /// Time from the start of the process until it has answered the first invocation, in milliseconds.
    pub answer_ms: Spread,
    /// Peak of resident memory until then, in bytes.
    pub memory: Spread,
    /// Size of the executable.
    pub executable: Bytes,
    /// Size of the zip.
    pub zip: Bytes,
}

/// Measures every function.
///
/// Each round starts every function once, so that other load on the machine affects all of them.
async fn measure(world: &World, profile: &'static str, starts: usize) -> Result<Report> {
    world.cloud.set(json!({"idle_processes": 0})).await?;
    let mut measured = BTreeMap::new();
    for stage in world.deployment.function_memory()?.into_keys() {
        // Processes of the earlier measurements answer first, and end.
        while start(world, &stage).await?.is_none() {}
        measured.insert(stage, Vec::new());
    }
    for _ in 0..starts {
        for (stage, starts) in &mut measured {
            let start = start(world, stage).await?;
            starts.push(start.with_context(|| format!("{stage} did not start"))?);
        }
    }
    let functions = measured
        .into_iter()
        .map(|(stage, starts)| {
            let directory = world.environment.functions.join(&stage);
            let zip = directory.join("bootstrap.zip");
            let function = Function::new(&starts, &zip, &world.environment.python)?;
            Ok((stage, function))
        })
        .collect::<Result<_>>()?;
    Ok(Report {
        profile,
        starts,
        aims: Aims {
            answer_ms: milliseconds(AIM_ANSWER),
            memory: AIM_MEMORY,
            zip: AIM_ZIP,
        },
        functions,
    })
}

/// Calls a function with an input that it rejects. Returns `None` if an idle process answered.
async fn start(world: &World, stage: &str) -> Result<Option<ColdStart>> {
    let function = format!("prepull-{stage}");
    world.cloud.start_function(&function, &json!({})).await
}

impl Report {
    /// Returns the report as Markdown: one sentence about the conditions, and a table.
    pub fn markdown(&self) -> String {
        let Aims {
            answer_ms,
            memory,
            zip,
        } = &self.aims;
        let tenths = |value: f64| format!("{value:.1}");
        let megabytes = |value: f64| format!("{:.1} MB", value / 1e6);
        let mut text = format!(
            "Functions of profile `{}`, {} starts each: median (minimum–maximum), measured by the local cloud, whose own work \
             is about 1 ms of each time. Goals for an optimized build: first answer {answer_ms} ms, peak memory {memory}, zip \
             {zip}.\n\n\
             | function | init, ms | first answer, ms | peak memory | executable | zip |\n\
             | --- | --- | --- | --- | --- | --- |\n",
            self.profile, self.starts
        );
        for (name, function) in &self.functions {
            let Function {
                init_ms,
                answer_ms,
                memory,
                executable,
                zip,
            } = function;
            writeln!(
                text,
                "| {name} | {} | {} | {} | {executable} | {zip} |",
                init_ms.show(tenths),
                answer_ms.show(tenths),
                memory.show(megabytes),
            )
            .expect("writing to a string cannot fail");
        }
        text
    }
}

impl Function {
    #[expect(
        clippy::cast_precision_loss,
        reason = "a function's memory is far from the limit of a float"
    )]
    fn new(starts: &[ColdStart], zip: &Path, python: &Path) -> Result<Self> {
        Ok(Self {
            init_ms: spread(starts, |start| milliseconds(start.init))?,
            answer_ms: spread(starts, |start| milliseconds(start.init + start.answer))?,
            memory: spread(starts, |start| start.memory.0 as f64)?,
            executable: unpacked_size(zip, python)?,
            zip: Bytes(fs::metadata(zip)?.len()),
        })
    }
}

fn spread(starts: &[ColdStart], value: impl Fn(&ColdStart) -> f64) -> Result<Spread> {
    Spread::of(starts.iter().map(value)).context("no function was started")
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Returns the unpacked size of the only file in a zip.
fn unpacked_size(zip: &Path, python: &Path) -> Result<Bytes> {
    let listed = Command::new(python)
        .args(["-m", "zipfile", "--list"])
        .arg(zip)
        .output()?;
    ensure!(
        listed.status.success(),
        "listing {} failed: {}",
        zip.display(),
        String::from_utf8_lossy(&listed.stderr)
    );
    // The last column of the last line.
    let text = String::from_utf8(listed.stdout)?;
    let size = text.split_whitespace().next_back().unwrap_or_default();
    let bytes = size.parse();
    Ok(Bytes(bytes.with_context(|| {
        format!("{} is listed as {text:?}", zip.display())
    })?))
}
