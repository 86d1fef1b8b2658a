//! The suite against a local cloud.
//!
//! This process starts the cloud and pushes the images. The suite runs in a process of its own, which gets only what it
//! would get on AWS: an endpoint, credentials and options.

use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};
use prepull_aws::Clients;
use prepull_domain::{Architecture, RegionName};
use prepull_tests::images::Pusher;
use prepull_tests::world::REGION;
use prepull_tests::{Environment, Image, Layer, LocalCloud};

use crate::Options;

/// Account of the local cloud.
const ACCOUNT: &str = "123456789012";

/// Repositories of the images: two of the cache, and the one that the refresh adds.
const REPOSITORIES: [&str; 3] = ["live/web", "live/worker", "live/added"];

/// Starts a local cloud, runs the suite against it, and returns the exit code of the suite.
///
/// # Errors
/// Fails if the local cloud does not start or does not accept the images.
pub async fn run(options: &Options) -> Result<ExitCode> {
    let environment = Environment::read()?;
    let state = tempfile::Builder::new().prefix("prepull-live-").tempdir()?;
    let cloud = LocalCloud::start(&environment, &state.path().join("cloud"))?;
    let region: RegionName = REGION.parse()?;
    let clients = Clients::at_endpoint(&cloud.endpoint, &region).await;
    let [web, worker, added] = push_images(&clients, &cloud, options.architecture).await?;

    let mut suite = Command::new(std::env::current_exe()?);
    suite
        .args(["--account", ACCOUNT, "--region", REGION])
        .args(["--image", &web, "--image", &worker, "--added-image", &added])
        .args(["--architecture", options.architecture.as_str()])
        .args(["--variant", &options.variant])
        // The functions run on this machine.
        .args(["--function-architecture", this_machine()?.as_str()])
        .arg("--functions")
        .arg(&environment.functions)
        .arg("--output")
        .arg(&options.output)
        .env("AWS_ENDPOINT_URL", &cloud.endpoint)
        .env("AWS_ACCESS_KEY_ID", "localcloud")
        .env("AWS_SECRET_ACCESS_KEY", "localcloud");
    for variant in &options.node_variants {
        suite.args(["--node-variant", variant]);
    }
    let status = tokio::task::block_in_place(|| suite.status())?;
    cloud.stop()?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

/// Pushes an image to each repository of private ECR, and returns their references.
async fn push_images(
    clients: &Clients,
    cloud: &LocalCloud,
    architecture: Architecture,
) -> Result<[String; 3]> {
    let pusher = Pusher::new(&cloud.ready.registries.ecr, &cloud.ready.ca_certificate)?;
    let base = [Layer::busybox()?, Layer::filler("base", 16)?];
    let mut references = Vec::new();
    for repository in REPOSITORIES {
        let create = clients.ecr.create_repository();
        create.repository_name(repository).send().await?;
        let layers = [base.as_slice(), &[Layer::filler(repository, 8)?]].concat();
        let image = Image::new(architecture, &layers, repository)?;
        references.push(pusher.push(repository, "v1", &image).await?);
    }
    references
        .try_into()
        .ok()
        .context("one reference for each repository")
}

fn this_machine() -> Result<Architecture> {
    match std::env::consts::ARCH {
        "x86_64" => Ok(Architecture::X86_64),
        "aarch64" => Ok(Architecture::Arm64),
        other => anyhow::bail!("the functions do not run on {other}. Use x86_64 or arm64"),
    }
}
