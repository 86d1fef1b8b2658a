//! The operator's command-line tool. It checks the account, starts and follows builds, shows snapshots, estimates costs, and
//! prints node classes.
//!
//! The commands are in the modules [`doctor`], [`build`], [`status`], [`snapshots`], [`estimate`], [`nodeclass`]. Each returns a
//! report, printed as text or as JSON. Nothing here reads the clock or the environment, so tests can run all of it.

mod args;
pub mod build;
pub mod doctor;
mod error;
pub mod estimate;
mod executions;
pub mod history;
pub mod nodeclass;
pub mod progress;
mod render;
pub mod snapshots;
pub mod status;
mod store;

use std::fmt::Display;

use jiff::Timestamp;
use prepull_aws::Clients;
use serde::Serialize;

pub use args::{Args, Command, Output};
pub use build::follow;
pub use error::{Error, Exit};
pub use executions::StateMachine;

use progress::Progress;

/// The result of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The text for standard output, without its last line break.
    pub text: String,
    /// The exit code.
    pub exit: Exit,
}

impl Answer {
    fn new(report: &(impl Display + Serialize), output: Output, exit: Exit) -> Self {
        let text = match output {
            Output::Text => report.to_string().trim_end().to_owned(),
            Output::Json => serde_json::to_string_pretty(report)
                .expect("reports have string keys and numbers that JSON knows"),
        };
        Self { text, exit }
    }
}

/// Runs the command of `args`. It follows a build until the build ends or `interrupted` resolves.
///
/// # Errors
/// See [`Error`]. A failed build is an [`Answer`], not an error.
pub async fn run(
    args: &Args,
    clients: &Clients,
    now: Timestamp,
    interrupted: impl Future<Output = ()>,
) -> Result<Answer, Error> {
    let machine = StateMachine::named(&args.name, args.state_machine.as_deref());
    let (output, done) = (args.output, Exit::Done);
    match &args.command {
        Command::Doctor { cache } => {
            let diagnosis = Box::pin(doctor::diagnose(
                clients,
                &machine,
                &args.name,
                cache.as_ref(),
            ))
            .await?;
            Ok(doctor::answer(&diagnosis, output))
        }
        Command::Build {
            cache,
            no_follow,
            no_doctor,
        } => {
            if !no_doctor {
                Box::pin(doctor::before_first_build(
                    clients, &machine, &args.name, cache,
                ))
                .await?;
            }
            let execution = build::start(clients, &machine, cache, now).await?;
            let build = if *no_follow {
                history::Build::new(cache.clone(), execution)
            } else {
                follow(
                    clients,
                    cache,
                    execution,
                    Progress::on_stderr(output),
                    interrupted,
                )
                .await?
            };
            Ok(build::answer(build, output, *no_follow))
        }
        Command::Follow { cache } => {
            let execution = build::newest(clients, &machine, cache).await?;
            let build = follow(
                clients,
                cache,
                execution,
                Progress::on_stderr(output),
                interrupted,
            )
            .await?;
            Ok(build::answer(build, output, false))
        }
        Command::Status { cache } => {
            let report = status::report(clients, &machine, cache.as_ref(), now).await?;
            Ok(Answer::new(&report, output, done))
        }
        Command::Snapshots { cache, details } => {
            let report = snapshots::report(clients, cache, *details).await?;
            Ok(Answer::new(&report, output, done))
        }
        Command::Estimate {
            cache,
            instance_type,
            architecture,
            nodes_per_day,
        } => {
            let beside = instance_type.as_deref();
            let report =
                estimate::report(clients, cache, *architecture, beside, *nodes_per_day).await?;
            Ok(Answer::new(&report, output, done))
        }
        Command::Nodeclass {
            cache,
            architecture,
        } => {
            let report = nodeclass::report(clients, cache, *architecture).await?;
            Ok(Answer::new(&report, output, done))
        }
    }
}
