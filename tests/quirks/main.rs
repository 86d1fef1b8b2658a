//! Compares the resolution of images with containerd: each row of [`table`] is a registry with one quirk. plan-build's
//! resolution and a real containerd on a node must both accept its image, with the same manifest, or both refuse it.
//!
//! Nodes pull through CRI. They have mirrors, because CRI then pulls with containerd's client library, like host-ctr on a
//! builder. Without mirrors, CRI of containerd 2 uses the transfer service. Source: `CheckLocalImagePullConfigs` in
//! containerd's `internal/cri/config/config.go`.
//!
//! The registries run in this process behind a proxy, so each has a host name of its own. The comparison runs in a child
//! process, because the proxy must be in its environment from the start.

mod comparison;
mod content;
mod host;
mod server;
mod table;

use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};
use libtest_mimic::Arguments;
use prepull_tests::Environment;
use prepull_tests::suite::report_as_ignored;
use tokio::runtime::Runtime;

/// Environment variable of the child process, with the file of the certificate authority.
const AUTHORITY: &str = "PREPULL_QUIRKS_AUTHORITY";

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let quirks = table::all();
    if let Err(error) = Environment::read() {
        eprintln!("quirks of registries are skipped: {error}");
        let names = quirks.iter().map(|quirk| quirk.name);
        return report_as_ignored(&arguments, names).exit_code();
    }
    let result = match std::env::var_os(AUTHORITY) {
        Some(authority) => comparison::run(&arguments, quirks, authority.as_ref()),
        None => start_registries(&quirks),
    };
    result.unwrap_or_else(|error| {
        eprintln!("quirks of registries failed: {error:#}");
        ExitCode::FAILURE
    })
}

/// Starts the registries, and runs the comparison in a child process.
fn start_registries(quirks: &[table::Quirk]) -> Result<ExitCode> {
    let directory = tempfile::Builder::new()
        .prefix("prepull-quirks-")
        .tempdir()?;
    let runtime = Runtime::new()?;
    let hosts = quirks.iter().map(table::Quirk::hosts).collect();
    let server = runtime.block_on(server::start(hosts, directory.path()))?;
    let proxy = format!("http://{}", server.address);
    let status = Command::new(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(AUTHORITY, &server.authority)
        .envs([("HTTPS_PROXY", &proxy), ("https_proxy", &proxy)])
        .env_remove("NO_PROXY")
        .env_remove("no_proxy")
        .status()
        .context("starting the comparison")?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
