//! The repository's own commands. Each one does its own set-up.

mod bench;
mod containerd;
mod functions;
mod picture;
mod record;
mod run;
mod setup;
mod supply_chain;
mod test;

use std::process::ExitCode;

use clap::Parser;

use crate::run::Step;

/// Try and test prepull from its repository.
#[derive(Parser)]
#[command(name = "cargo xtask")]
enum Arguments {
    /// Deploy to a local cloud, push images, build, start nodes.
    Demo(Demo),
    /// Run every check and every test.
    Test(test::Options),
    /// Measure builds by hand and by prepull, and the gain of nodes.
    Bench(bench::Options),
    /// Run prepull in a real account, or in a local cloud with `--local`.
    #[command(disable_help_flag = true)]
    Live(Live),
    /// Draw the state machine into docs/architecture.md.
    Picture,
    /// Install the local cloud's tools and build the functions' zips.
    Setup,
}

/// Options of `cargo xtask demo`.
#[derive(clap::Args)]
struct Demo {
    /// Record the terminal into docs/demo.svg.
    #[arg(long)]
    record: bool,
}

/// Options of `cargo xtask live`.
#[derive(clap::Args)]
struct Live {
    /// Options of the suite.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    options: Vec<std::ffi::OsString>,
}

fn main() -> ExitCode {
    let result = match Arguments::parse() {
        Arguments::Demo(options) => demo(&options),
        Arguments::Test(options) => test::run(&options),
        Arguments::Bench(options) => bench::run(&options),
        Arguments::Live(suite) => live(suite),
        Arguments::Picture => picture::write(),
        Arguments::Setup => setup::local_cloud()
            .and_then(|tools| functions::build(&tools))
            .map(drop),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn demo(options: &Demo) -> anyhow::Result<()> {
    let tools = setup::local_cloud()?;
    let built = functions::build(&tools)?;
    if options.record {
        return record::demo(&tools, &built);
    }
    Step::new("demo", built.binary("demo"))
        .envs(built.environment(&tools))
        .run()
}

fn live(suite: Live) -> anyhow::Result<()> {
    let tools = setup::local_cloud()?;
    let built = functions::build(&tools)?;
    Step::new("live suite", built.binary("live"))
        // Later options override these.
        .args(["--functions".into(), run::target()?.join("lambda")])
        .args(["--output".into(), run::scratch()?.join("live")])
        .args(suite.options)
        .envs(built.environment(&tools))
        .replace_this_process()
}
