//! `cargo xtask live`: the whole life of a deployment, in a real account.
//!
//! It deploys prepull, builds and refreshes a small cache, forces a failure, starts nodes from the snapshot, and destroys
//! everything, also after an error or Ctrl-C. On the way it answers open questions about AWS. It uses only AWS's APIs,
//! Terraform and the `prepull` command, so the same code runs against a local cloud.

mod account;
mod build;
mod cost;
mod deploy;
mod destroy;
mod failure;
mod local;
mod node;
mod options;
mod questions;
mod refresh;
mod sheet;

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, anyhow, bail, ensure};
use clap::Parser as _;
use futures::StreamExt as _;
use futures::channel::mpsc;
use prepull_aws::Clients;
use prepull_domain::{CacheName, Manifest, SnapshotId};
use prepull_tests::{Deployment, Environment};

use crate::build::BuildRecord;
use crate::cost::Cost;
use crate::node::NodeRecord;
use crate::options::Options;
use crate::sheet::AnswerSheet;

/// Prefix of the names of all resources. Another deployment cannot have it, because the suite refuses to start beside one.
const NAME: &str = "prepull-live";

/// Cache that is built and refreshed.
const CACHE: &str = "prepull-live";

/// Cache with an image that does not exist.
const MISSING: &str = "prepull-live-missing";

/// Tag of nodes, their volumes and their launch template. Only builds have prepull's own tags.
const NODE_TAG: &str = "prepull-live";

fn main() -> ExitCode {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("the runtime can start its threads");
    let (sender, interrupted) = mpsc::unbounded();
    ctrlc::set_handler(move || {
        eprintln!("\ninterrupted: the suite destroys its resources and then ends");
        // If the suite is already over, no receiver is left and the error does not matter.
        let _ = sender.unbounded_send(());
    })
    .expect("no other handler is set");
    let result = runtime.block_on(async {
        if options.local {
            return local::run(&options).await;
        }
        // Boxed, because the futures of the SDK are large.
        let run = Box::pin(run(options, interrupted));
        run.await.map(|()| ExitCode::SUCCESS)
    });
    // A followed build may still run in a thread, so the runtime does not wait for its threads.
    runtime.shutdown_background();
    result.unwrap_or_else(|error| {
        eprintln!("\nlive suite failed: {error:#}");
        ExitCode::FAILURE
    })
}

async fn run(options: Options, mut interrupted: mpsc::UnboundedReceiver<()>) -> Result<()> {
    let expected = cost::expected(&options)?;
    println!("{expected}");
    let Some(account) = options.account.clone() else {
        bail!("nothing was started: no account is given. Consent to the cost with --account <ID>");
    };
    let clients = Clients::from_environment().await.in_region(&options.region);
    account::ensure_account(&clients, &account).await?;
    let mut suite = Suite {
        environment: Environment::read()?,
        headings: Headings(Instant::now()),
        sheet: AnswerSheet::default(),
        cost: Cost::default(),
        builds: Vec::new(),
        nodes: Vec::new(),
        published: None,
        deployment: None,
        clients,
        account,
        options,
    };
    if suite.options.destroy {
        return suite.destroy().await;
    }
    account::ensure_unoccupied(&suite).await?;

    let result = tokio::select! {
        result = suite.phases() => result,
        _ = interrupted.next() => Err(anyhow!("interrupted")),
    };
    // Nothing stops this: a further Ctrl-C only prints the message of the handler.
    let destroyed = suite.destroy().await;
    if let Err(error) = &destroyed {
        // The first error ends up as the result of the suite, and this one must not get lost.
        eprintln!("{error:#}");
    }
    let reported = suite.report();
    result.and(destroyed).and(reported)
}

/// The state of a run.
struct Suite {
    options: Options,
    account: String,
    environment: Environment,
    clients: Clients,
    headings: Headings,
    sheet: AnswerSheet,
    cost: Cost,
    deployment: Option<Deployment>,
    builds: Vec<BuildRecord>,
    nodes: Vec<NodeRecord>,
    /// The newest snapshot of [`CACHE`].
    published: Option<(SnapshotId, Manifest)>,
}

impl Suite {
    async fn phases(&mut self) -> Result<()> {
        self.headings.print("Ask questions about the account");
        questions::about_the_account(self).await;
        questions::that_are_not_asked(&mut self.sheet);

        self.headings.print("Deploy: terraform apply");
        deploy::apply(self)?;

        self.headings.print("Build the cache");
        build::cold(self).await?;

        self.headings
            .print("Refresh: add an image, and build again");
        refresh::refresh(self).await?;

        self.headings
            .print("Failure: build a cache with an image that does not exist");
        failure::missing_image(self).await?;

        self.headings.print("Ask questions about the builds");
        questions::about_builds(self).await;

        self.headings
            .print("Nodes: start from the snapshot and list the images");
        node::start_all(self).await
    }

    /// Removes every resource of the suite and proves it.
    async fn destroy(&mut self) -> Result<()> {
        self.headings.print("Destroy everything");
        let left = destroy::everything(self).await?;
        ensure!(
            left.is_empty(),
            "resources are left: {}. Run the command again with --destroy",
            left.join(", ")
        );
        println!("Nothing is left.");
        Ok(())
    }

    /// Prints the cost and writes the answer sheet.
    fn report(&mut self) -> Result<()> {
        self.headings.print("Report");
        self.cost.add_builds(&self.builds);
        self.cost.add_nodes(&self.nodes, self.published.as_ref());
        let cost = self.cost.to_string();
        println!("{cost}");
        let (answered, failed, not_asked) = self.sheet.counts();
        let heading = format!(
            "prepull {} in {} on {}, {} questions answered, {failed} failed, {not_asked} not asked.\n\n{cost}",
            env!("CARGO_PKG_VERSION"),
            self.options.region,
            place(),
            answered
        );
        self.sheet.write(&self.options.output, &heading)?;
        println!(
            "Questions: {answered} answered, {failed} failed, {not_asked} not asked. See {}.",
            self.options.output.join("answers.md").display()
        );
        Ok(())
    }

    fn cache() -> CacheName {
        CACHE.parse().expect("the name of the cache is valid")
    }
}

/// Returns the cloud that the suite runs in.
fn place() -> String {
    std::env::var("AWS_ENDPOINT_URL").map_or_else(
        |_| "AWS".to_owned(),
        |endpoint| format!("a stand-in of AWS at {endpoint}"),
    )
}

/// Prints headings with the time since the start.
struct Headings(Instant);

impl Headings {
    fn print(&self, text: &str) {
        println!("\n[{:>4} s] {text}", self.0.elapsed().as_secs());
        // The programs that the suite starts print to the same terminal.
        let _ = std::io::stdout().flush();
    }
}
