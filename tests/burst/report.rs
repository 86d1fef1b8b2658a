//! What the burst came to, as tables.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;
use jiff::SignedDuration;

use crate::burst::{CACHES, DEBOUNCE_SECONDS, PUSHES};
use crate::expectation::{Delay, Expectation};

/// What a build takes and costs on AWS, where none was measured yet. One source for all of it: "What it costs" in
/// README.md, which names AWS's price lists. The prices are of us-east-1.
mod on_aws {
    use prepull_domain::prices;

    /// From the builder's launch to its end.
    pub const MINUTES: f64 = 10.0;

    /// An m7i.2xlarge, the first of the module's instance types.
    const INSTANCE_DOLLARS_PER_HOUR: f64 = 0.40;

    /// The module's default volume: 50 GiB, and 500 MiB/s of which 125 are free.
    const VOLUME_DOLLARS_PER_MONTH: f64 =
        50.0 * prices::VOLUME_GIB + (500.0 - 125.0) * prices::VOLUME_MIBPS;

    const MINUTES_PER_MONTH: f64 = 43_800.0;

    /// The builder with its volume. What Step Functions and Lambda cost is a twentieth of it.
    pub const DOLLARS: f64 =
        MINUTES * (INSTANCE_DOLLARS_PER_HOUR / 60.0 + VOLUME_DOLLARS_PER_MONTH / MINUTES_PER_MONTH);
}

/// Prints the tables, and writes them into a file, whose path it prints.
pub fn write(aftermath: &Expectation) -> Result<()> {
    let tables = format!("{}\n{}", builds(aftermath)?, delays(&aftermath.delays())?);
    println!("{tables}");
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("burst.md");
    std::fs::write(&path, format!("# A burst of pushes\n\n{tables}"))?;
    println!("the same as a file: {}", path.display());
    Ok(())
}

/// How many builds the pushes became, beside the way without coalescing: one build for each.
#[expect(
    clippy::cast_precision_loss,
    reason = "thousands of builds are far from the limit of a float"
)]
fn builds(aftermath: &Expectation) -> Result<String> {
    let executions = &aftermath.executions;
    let ended = |outcome: &str| {
        let ended = executions.iter().filter(|e| e.outcome == outcome);
        ended.count()
    };
    let builds = aftermath.builds().count();
    let local: SignedDuration = aftermath
        .builds()
        .map(|(_, builder)| builder.gone_at.duration_since(builder.launched_at))
        .sum();
    let local = local.as_secs_f64();
    let local_each = local / builds.max(1) as f64;
    let joined = aftermath.answered_pushes.saturating_sub(executions.len());
    let mut table = "| | prepull | one build a push |\n|---|---:|---:|\n".to_owned();
    let mut row =
        |what: &str, here: String, each: String| writeln!(table, "| {what} | {here} | {each} |");
    row(
        &format!(
            "pushes, to {CACHES} caches in {:.0} s, announced by ECR within {:.0} s",
            aftermath.burst_took.as_secs_f64(),
            aftermath.announced_within.as_secs_f64()
        ),
        PUSHES.to_string(),
        PUSHES.to_string(),
    )?;
    row(
        "events that reached start-build",
        aftermath.answered_pushes.to_string(),
        PUSHES.to_string(),
    )?;
    row(
        "… that joined an execution of their window",
        joined.to_string(),
        "0".to_owned(),
    )?;
    row(
        "… that started an execution",
        executions.len().to_string(),
        PUSHES.to_string(),
    )?;
    for (what, outcome) in [
        ("executions superseded by a newer one", "superseded"),
        ("executions that found everything up to date", "up-to-date"),
    ] {
        row(what, ended(outcome).to_string(), "0".to_owned())?;
    }
    row(
        "executions that launched a builder",
        builds.to_string(),
        PUSHES.to_string(),
    )?;
    row(
        "builder seconds here, measured",
        format!("{local:.0}"),
        format!("{:.0}", local_each * PUSHES as f64),
    )?;
    row(
        &format!("builder minutes on AWS, at {:.0} a build", on_aws::MINUTES),
        format!("{:.0}", builds as f64 * on_aws::MINUTES),
        format!("{:.0}", PUSHES as f64 * on_aws::MINUTES),
    )?;
    row(
        &format!("cost on AWS, at ${:.3} a build", on_aws::DOLLARS),
        format!("${:.2}", builds as f64 * on_aws::DOLLARS),
        format!("${:.2}", PUSHES as f64 * on_aws::DOLLARS),
    )?;
    writeln!(
        table,
        "\nThe right column is arithmetic: as many builds of the same length. Builder seconds count from the start of \
         launch-builder to the end of clean-up. Minutes and prices of AWS are those of \"What it costs\" in README.md, \
         an estimate."
    )?;
    Ok(table)
}

/// What of a delay a row tells.
type Part = fn(Delay) -> SignedDuration;

/// How long the last push of a cache took to reach the nodes.
fn delays(delays: &[Delay]) -> Result<String> {
    let parts: [(&str, Part); 4] = [
        ("to the pointer that nodes read", Delay::total),
        (
            "… told to start-build, then waiting for more pushes",
            |delay| delay.debouncing,
        ),
        ("… waiting for an older build", |delay| delay.queueing),
        ("… planned, built and published", |delay| delay.building),
    ];
    let mut table =
        "| seconds from a cache's last push | median | worst |\n|---|---:|---:|\n".to_owned();
    for (what, part) in parts {
        let seconds = delays.iter().map(|delay| part(*delay).as_secs_f64());
        let mut seconds: Vec<_> = seconds.collect();
        seconds.sort_by(f64::total_cmp);
        if let Some(worst) = seconds.last() {
            let median = seconds[seconds.len() / 2];
            writeln!(table, "| {what} | {median:.1} | {worst:.1} |")?;
        }
    }
    writeln!(
        table,
        "\nOver the {} of {CACHES} caches whose last push was published; each row has its own median and worst cache. \
         An execution waits {DEBOUNCE_SECONDS} s for more pushes, the module's default; the last push comes somewhere in \
         that time. Instances and snapshots take seconds here and minutes on AWS: the two last rows are longer there.",
        delays.len()
    )?;
    Ok(table)
}
