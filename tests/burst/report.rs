//! The results of the burst as tables.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;
use jiff::SignedDuration;

use crate::burst::{CACHES, DEBOUNCE_SECONDS, PUSHES};
use crate::observations::{Delay, Observations};

/// Duration and cost of a build on AWS. These are estimates, not measurements. The source is "List prices" in
/// docs/costs.md, which links to the price lists of AWS. The prices are those of us-east-1.
mod on_aws {
    use prepull_estimate::prices;

    /// Lifetime of a builder, in minutes.
    pub const MINUTES: f64 = 10.0;

    /// Price of an m7i.2xlarge, the first of the module's instance types.
    const INSTANCE_DOLLARS_PER_HOUR: f64 = 0.40;

    /// Price of the module's default volume: 50 GiB with 500 MiB/s, of which 125 MiB/s are free.
    const VOLUME_DOLLARS_PER_MONTH: f64 =
        50.0 * prices::VOLUME_GIB + (500.0 - 125.0) * prices::VOLUME_MIBPS;

    const MINUTES_PER_MONTH: f64 = 43_800.0;

    /// Cost of a builder with its volume. Step Functions and Lambda add about a twentieth.
    pub const DOLLARS: f64 =
        MINUTES * (INSTANCE_DOLLARS_PER_HOUR / 60.0 + VOLUME_DOLLARS_PER_MONTH / MINUTES_PER_MONTH);
}

/// Prints the tables, writes them to a file, and prints the path of the file.
pub fn write(observed: &Observations) -> Result<()> {
    let tables = format!("{}\n{}", builds(observed)?, delays(&observed.delays())?);
    println!("{tables}");
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("burst.md");
    std::fs::write(&path, format!("# A burst of pushes\n\n{tables}"))?;
    println!("report: {}", path.display());
    Ok(())
}

/// Returns the number of builds, compared with one build per push.
#[expect(
    clippy::cast_precision_loss,
    reason = "thousands of builds are far from the limit of a float"
)]
fn builds(observed: &Observations) -> Result<String> {
    let executions = &observed.executions;
    let ended = |outcome: &str| {
        let ended = executions.iter().filter(|e| e.outcome == outcome);
        ended.count()
    };
    let builds = observed.builds().count();
    let local: SignedDuration = observed
        .builds()
        .map(|(_, builder)| builder.terminated_at.duration_since(builder.launched_at))
        .sum();
    let local = local.as_secs_f64();
    let local_each = local / builds.max(1) as f64;
    let joined = observed.handled_pushes.saturating_sub(executions.len());
    let mut table = "| | prepull | one build per push |\n|---|---:|---:|\n".to_owned();
    let mut row =
        |label: &str, here: String, each: String| writeln!(table, "| {label} | {here} | {each} |");
    row(
        &format!(
            "pushes, to {CACHES} caches in {:.0} s, events sent by ECR within {:.0} s",
            observed.push_duration.as_secs_f64(),
            observed.event_duration.as_secs_f64()
        ),
        PUSHES.to_string(),
        PUSHES.to_string(),
    )?;
    row(
        "events handled by start-build",
        observed.handled_pushes.to_string(),
        PUSHES.to_string(),
    )?;
    row(
        "… merged into the execution of their window",
        joined.to_string(),
        "0".to_owned(),
    )?;
    row(
        "… started an execution",
        executions.len().to_string(),
        PUSHES.to_string(),
    )?;
    for (label, outcome) in [
        ("executions superseded by a newer one", "superseded"),
        ("executions with everything up to date", "up-to-date"),
    ] {
        row(label, ended(outcome).to_string(), "0".to_owned())?;
    }
    row(
        "executions that launched a builder",
        builds.to_string(),
        PUSHES.to_string(),
    )?;
    row(
        "measured builder seconds (local cloud)",
        format!("{local:.0}"),
        format!("{:.0}", local_each * PUSHES as f64),
    )?;
    row(
        &format!(
            "builder minutes on AWS, at {:.0} per build",
            on_aws::MINUTES
        ),
        format!("{:.0}", builds as f64 * on_aws::MINUTES),
        format!("{:.0}", PUSHES as f64 * on_aws::MINUTES),
    )?;
    row(
        &format!("cost on AWS, at ${:.3} per build", on_aws::DOLLARS),
        format!("${:.2}", builds as f64 * on_aws::DOLLARS),
        format!("${:.2}", PUSHES as f64 * on_aws::DOLLARS),
    )?;
    writeln!(
        table,
        "\nThe right column is calculated: it assumes as many builds of the same duration as pushes. Builder seconds count from the start of \
         launch-builder to the end of clean-up. The minutes and prices of AWS are estimates from \"List prices\" in \
         docs/costs.md."
    )?;
    Ok(table)
}

/// Selects the part of a delay for a row.
type Part = fn(Delay) -> SignedDuration;

/// Returns the delays from the last push of a cache to the pointer.
fn delays(delays: &[Delay]) -> Result<String> {
    let parts: [(&str, Part); 4] = [
        ("until the pointer changed", Delay::total),
        ("… event delivery and debounce", |delay| delay.debouncing),
        ("… in the queue behind an older build", |delay| {
            delay.queueing
        }),
        ("… plan, build and publication", |delay| delay.building),
    ];
    let mut table =
        "| seconds from a cache's last push | median | maximum |\n|---|---:|---:|\n".to_owned();
    for (label, part) in parts {
        let seconds = delays.iter().map(|delay| part(*delay).as_secs_f64());
        let mut seconds: Vec<_> = seconds.collect();
        seconds.sort_by(f64::total_cmp);
        if let Some(maximum) = seconds.last() {
            let median = seconds[seconds.len() / 2];
            writeln!(table, "| {label} | {median:.1} | {maximum:.1} |")?;
        }
    }
    writeln!(
        table,
        "\nDelays of {} of {CACHES} caches, whose last push was published. Median and maximum are calculated for each row. \
         An execution waits {DEBOUNCE_SECONDS} s for more pushes (the module's default), and the last push can come at any \
         time in this window. Instances and snapshots take seconds here and minutes on AWS, so the last two rows are \
         longer there.",
        delays.len()
    )?;
    Ok(table)
}
