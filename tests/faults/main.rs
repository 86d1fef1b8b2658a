//! The fault matrix: after any fault at any call, nothing is left behind and nothing incorrect is published.
//!
//! The suite records a clean build. Then it makes each AWS call of its functions fail in every possible way
//! ([`matrix`]). Other faults are not tied to a call ([`domain`]). Each case is a build with one fault, on its own
//! cache. After each case [`worker`] checks the same invariants, whether the build succeeded or failed.
//!
//! Nodes are simulated and the retries of the state machine wait only briefly, so that many builds run concurrently.
//! The suite tests everything except the nodes.

mod domain;
mod matrix;
mod report;
mod worker;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use libtest_mimic::{Arguments, Failed, Trial};
use prepull_domain::VerificationLevel;
use prepull_tests::Environment;
use prepull_tests::suite::report_as_ignored;
use tokio::runtime::Runtime;

use crate::report::Report;
use crate::worker::{WORKERS, Worker, Workers};

/// A build with one fault.
struct Case {
    name: String,
    run: CaseRun,
}

enum CaseRun {
    Call(matrix::CallFault),
    Domain(domain::Fault),
}

impl CaseRun {
    /// Returns whether the builds of the case verify their snapshots. A verification on a simulated node takes as long as
    /// the rest of the build, so only the cases that need one have it.
    fn verifies(&self) -> bool {
        match self {
            Self::Call(fault) => fault.needs_verification(),
            Self::Domain(fault) => fault.needs_verification(),
        }
    }

    async fn run(&self, worker: &mut Worker) -> Result<()> {
        worker.verification = if self.verifies() {
            VerificationLevel::Records
        } else {
            VerificationLevel::Off
        };
        worker.configure(|_| ()).await?;
        let after = match self {
            Self::Call(fault) => fault.run(worker).await?,
            Self::Domain(fault) => fault.run(worker).await?,
        };
        worker.check_invariants(after).await
    }
}

/// Environment variable with a sampling step N. If it is set, the suite runs the cases of every Nth call and every third
/// of the others, and skips cases that wait for minutes. `cargo xtask test` sets it, except for a full run.
const SAMPLE: &str = "PREPULL_FAULTS_SAMPLE";

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    let environment = match Environment::read() {
        Ok(environment) => environment,
        // Plain `cargo test` also starts this suite. `cargo xtask test` sets the missing variables.
        Err(error) => {
            eprintln!("the fault matrix is skipped: {error}");
            // The cases are unknown before a clean build.
            return report_as_ignored(&arguments, ["fault_matrix"]).exit_code();
        }
    };
    let runtime = Arc::new(Runtime::new().expect("the runtime can start its threads"));
    let (workers, cases) = match runtime.block_on(set_up(environment)) {
        Ok(set_up) => set_up,
        Err(error) => {
            eprintln!("set-up: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let (workers, report) = (Arc::new(workers), Arc::new(Report::default()));
    let trials = cases
        .into_iter()
        .map(|case| trial(case, &runtime, &workers, &report));
    arguments.test_threads = Some(WORKERS);
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    if let Err(error) = report.finish() {
        eprintln!("{error:#}");
        return ExitCode::FAILURE;
    }
    if let Err(error) = runtime.block_on(workers.close()) {
        eprintln!("{error:#}");
        return ExitCode::FAILURE;
    }
    conclusion.exit_code()
}

/// Starts the worlds and records a clean build, which determines the cases.
async fn set_up(environment: Environment) -> Result<(Workers, Vec<Case>)> {
    let workers = Workers::open(&environment).await?;
    let calls = workers.record().await.context("the clean build")?;
    let step = std::env::var(SAMPLE).map_or(Ok(1), |step| {
        step.parse()
            .with_context(|| format!("{SAMPLE}={step} is not a number"))
    })?;
    let calls = matrix::cases(&calls);
    let domain = domain::Fault::all();
    let all = calls.len() + domain.len();
    let calls = calls.into_iter().map(|fault| Case {
        name: fault.to_string(),
        run: CaseRun::Call(fault),
    });
    let domain = domain
        .into_iter()
        .filter(|fault| step == 1 || !fault.takes_minutes())
        .map(|fault| Case {
            name: format!("domain/{fault}"),
            run: CaseRun::Domain(fault),
        });
    // They are fewer, and each takes longer.
    let domain = domain.step_by(step.min(3));
    let cases: Vec<_> = domain.chain(calls.step_by(step)).collect();
    println!("{} of {all} cases", cases.len());
    Ok((workers, cases))
}

fn trial(
    case: Case,
    runtime: &Arc<Runtime>,
    workers: &Arc<Workers>,
    report: &Arc<Report>,
) -> Trial {
    let (runtime, workers, report) = (Arc::clone(runtime), Arc::clone(workers), Arc::clone(report));
    Trial::test(case.name.clone(), move || {
        let mut worker = workers.take();
        let result = runtime.block_on(case.run.run(&mut worker));
        report.add(&case.name, &result);
        workers.give_back(worker, result.is_ok());
        result.map_err(|error| Failed::from(format!("{error:#}")))
    })
}
