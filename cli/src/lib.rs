//! The operator's command-line tool. It checks the account, starts and follows builds, shows snapshots, decides which one
//! nodes use, estimates costs, prints node classes, checks them, and gives them and launch templates new snapshots.
//!
//! Each command is a module with its name. The commands for decisions are in [`decide`]. Each returns a report, printed as
//! text or as JSON. Nothing here reads the clock or the environment, so tests can run all of it.

mod args;
pub mod build;
pub mod check;
pub mod decide;
pub mod doctor;
mod error;
pub mod estimate;
mod executions;
pub mod history;
pub mod launch_templates;
pub mod nodeclass;
pub mod nodes;
mod opt_in;
pub mod progress;
mod render;
pub mod snapshots;
pub mod status;
mod store;
pub mod sync;
pub mod verify;

use std::fmt::Display;

use jiff::Timestamp;
use prepull_aws::Clients;
use serde::Serialize;

pub use args::{Args, Command, Decide, Output};
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
            Output::Text | Output::Github | Output::Prometheus => {
                report.to_string().trim_end().to_owned()
            }
            Output::Json => serde_json::to_string_pretty(report)
                .expect("reports have string keys and numbers that JSON knows"),
        };
        Self { text, exit }
    }
}

/// Runs the command of `args` if it needs no AWS client: `check` with `--manifest` or `--explain`. Otherwise returns `None`.
///
/// Creating clients can ask the instance metadata service for a region, which takes seconds on a laptop.
#[must_use]
pub fn run_offline(args: &Args) -> Option<Result<Answer, Error>> {
    let Command::Check(check) = &args.command else {
        return None;
    };
    if let Some(number) = check.explain {
        let explained = check::explain(number).map_err(Error::from);
        return Some(explained.map(|text| Answer::new(&text, args.output, Exit::Done)));
    }
    let (cache, file) = (check.cache.as_ref()?, check.manifest.as_deref()?);
    let checked = check::cache_from_file(cache, file, check.architecture)
        .and_then(|cache| check::run(check, &cache));
    Some(
        checked
            .map(|report| check_answer(&report, check, args.output))
            .map_err(Error::from),
    )
}

fn check_answer(report: &check::CheckReport, args: &check::CheckArgs, output: Output) -> Answer {
    let exit = if report.fails(args.fail_on) {
        Exit::Unsound
    } else {
        Exit::Done
    };
    match output {
        Output::Github => Answer {
            text: report.github(),
            exit,
        },
        _ => Answer::new(report, output, exit),
    }
}

async fn check_cache(
    args: &check::CheckArgs,
    clients: &Clients,
    now: Timestamp,
    output: Output,
) -> Result<Answer, Error> {
    let Some(cache) = &args.cache else {
        return Err(Error::Usage(
            "cannot check nodes: no cache was given. Name a cache".to_owned(),
        ));
    };
    let known = store::known(clients, cache, args.architecture).await?;
    let report = if args.live {
        let context = args.context.as_deref();
        let (objects, hit_rate) =
            Box::pin(nodes::live(clients, cache, context, &args.namespace, now)).await?;
        check::run_live(args, &known, &objects, &hit_rate)?
    } else {
        check::run(args, &known)?
    };
    Ok(check_answer(&report, args, output))
}

/// Fails if the command of `args` does not have the format of `args`.
fn check_format(args: &Args) -> Result<(), Error> {
    let problem = match args.output {
        Output::Github if !matches!(args.command, Command::Check(_)) => {
            "`--output github` is not available: only `check` has annotations"
        }
        Output::Prometheus if !matches!(args.command, Command::Nodes(_)) => {
            "`--output prometheus` is not available: only `nodes` has metrics"
        }
        _ => return Ok(()),
    };
    Err(Error::Usage(format!("{problem}. Use `text` or `json`")))
}

/// Runs the command of `args`. It follows a build until the build ends or `interrupted` resolves. An interrupted `sync` reverts
/// a change that Karpenter has not accepted.
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
    check_format(args)?;
    if let Some(answer) = run_offline(args) {
        return answer;
    }
    match &args.command {
        Command::Doctor { cache } => {
            let cache = cache.as_ref();
            let diagnosis = doctor::diagnose(clients, &machine, &args.name, cache);
            Ok(doctor::answer(&Box::pin(diagnosis).await?, output))
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
                let progress = Progress::on_stderr(output);
                follow(clients, cache, execution, progress, interrupted).await?
            };
            Ok(build::answer(build, output, *no_follow))
        }
        Command::Follow { cache } => {
            let execution = build::newest(clients, &machine, cache).await?;
            let progress = Progress::on_stderr(output);
            let build = follow(clients, cache, execution, progress, interrupted).await?;
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
        Command::Decide(command) => {
            let report = decide::run(clients, command, now).await?;
            Ok(Answer::new(&report, output, report.exit()))
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
        Command::Nodeclass(args) => {
            let report = nodeclass::report(clients, args).await?;
            Ok(Answer::new(&report, output, done))
        }
        Command::Verify(verify) => {
            let report = verify::run(clients, verify, &args.name, now, interrupted);
            let report = Box::pin(report).await?;
            Ok(Answer::new(&report, output, report.exit()))
        }
        Command::Sync(args) => {
            let report = Box::pin(sync::run(clients, args, now, interrupted)).await?;
            Ok(Answer::new(&report, output, report.exit()))
        }
        Command::LaunchTemplates(args) => {
            let report = Box::pin(launch_templates::run(clients, args, now)).await?;
            Ok(Answer::new(&report, output, report.exit()))
        }
        Command::Nodes(args) => {
            let report = Box::pin(nodes::report(clients, args, now)).await?;
            let mut answer = Answer::new(&report, output, done);
            if output == Output::Prometheus {
                report.prometheus().trim_end().clone_into(&mut answer.text);
            }
            Ok(answer)
        }
        Command::Check(check) => check_cache(check, clients, now, output).await,
    }
}
