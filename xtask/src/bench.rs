//! The benchmarks. Their results go into docs/benchmarks.md.

use std::fs;

use anyhow::{Context as _, Result, bail};

use crate::run::{Step, repository, target};
use crate::{functions, setup};

const BEGIN: &str = "<!-- benchmark -->\n";
const END: &str = "<!-- end of benchmark -->";

/// Options of `cargo xtask bench`.
#[derive(clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag")]
pub struct Options {
    /// Number of runs; one run takes some minutes.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Only check that the benchmark works: one run, small images.
    #[arg(long, conflicts_with_all = ["runs", "large", "write"])]
    quick: bool,
    /// Use the functions of the tests. Their first compilation takes half an hour less.
    #[arg(long, conflicts_with = "quick")]
    unoptimized: bool,
    /// Also start an image of 3 GB on nodes; needs 40 GB of disk.
    #[arg(long)]
    large: bool,
    /// Write the results into docs/benchmarks.md.
    #[arg(long)]
    write: bool,
}

/// Runs the benchmarks.
pub fn run(options: &Options) -> Result<()> {
    let tools = setup::local_cloud()?;
    let runs = if options.quick { 1 } else { options.runs };
    let built = if options.quick || options.unoptimized {
        functions::build(&tools)?
    } else {
        functions::build_optimized(&tools)?
    };
    let mut arguments = vec!["--runs".to_owned(), runs.to_string()];
    for (is_given, option) in [
        (options.quick, "--quick"),
        (options.unoptimized, "--unoptimized"),
        (options.large, "--large"),
    ] {
        if is_given {
            arguments.push(option.to_owned());
        }
    }
    Step::words(
        "benchmarks",
        "cargo test --locked --workspace --bench benchmarks --",
    )
    .args(arguments)
    .envs(built.environment(&tools))
    .run()?;
    if options.write {
        write()?;
    }
    Ok(())
}

/// Copies the results, which the benchmarks write into the target directory, into the page.
fn write() -> Result<()> {
    let results = target()?.join("tmp");
    let table = fs::read_to_string(results.join("benchmarks.md"))?;
    let path = repository().join("docs/benchmarks.md");
    let old = fs::read_to_string(&path)?;
    let Some((before, rest)) = old.split_once(BEGIN) else {
        bail!("docs/benchmarks.md has no begin marker for the results")
    };
    let (_, after) = rest
        .split_once(END)
        .context("docs/benchmarks.md has no end marker for the results")?;
    let chart = "benchmarks.svg";
    fs::copy(results.join(chart), repository().join("docs").join(chart))?;
    let new = format!(
        "{before}{BEGIN}![Wall time by hand, of a first build, of a refresh, and of an unchanged cache]({chart})\n\n{table}{END}{after}"
    );
    Ok(fs::write(path, new)?)
}
