//! The repository's own commands. Each does all of its own set-up.

mod bench;
mod functions;
mod picture;
mod run;
mod setup;
mod supply_chain;
mod test;

use std::process::ExitCode;

use clap::Parser;

use crate::run::Step;

/// prepull's repository: see it work, test it.
#[derive(Parser)]
#[command(name = "cargo xtask")]
enum Arguments {
    /// Deploy to a local cloud on this machine, push images, and watch a build from the push to the first cached pod.
    Demo,
    /// Run every check and every test.
    Test(test::Options),
    /// Measure what snapshots take, by hand and by prepull, and what they save nodes.
    Bench(bench::Options),
    /// Draw the state machine into docs/architecture.md.
    Picture,
    /// Only install what a local cloud needs, and build the functions' zips.
    Setup,
}

fn main() -> ExitCode {
    let result = match Arguments::parse() {
        Arguments::Demo => demo(),
        Arguments::Test(options) => test::run(&options),
        Arguments::Bench(options) => bench::run(&options),
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

fn demo() -> anyhow::Result<()> {
    let tools = setup::local_cloud()?;
    let built = functions::build(&tools)?;
    Step::new("demo", built.binary("demo"))
        .envs(built.environment(&tools))
        .run()
}
