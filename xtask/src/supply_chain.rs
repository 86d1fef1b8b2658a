//! Checks dependencies: deny.toml lists the allowed crates, and every installed package has a pinned version.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};

use crate::run::{Step, repository};
use crate::setup::{self, Environment};

/// Runs the checks. It adds each check that this machine cannot run to `unchecked`.
pub fn check(unchecked: &mut Vec<String>) -> Result<()> {
    let deny = setup::cargo_command("cargo-deny", "0.20.2")?;
    let check = |what: &[&str]| {
        Step::new(format!("cargo deny check {}", what.join(" ")), &deny)
            .args(["--locked", "check", "--hide-inclusion-graph"])
            // An exception that is no longer needed could hide a later finding.
            .args(["--deny=unmatched-skip", "--deny=unnecessary-skip"])
            .args(what.iter().copied())
            .quiet()
    };
    check(&["bans", "licenses", "sources"])?;
    // The advisory database is on GitHub, which some build machines cannot reach.
    match Step::new("fetching RustSec's advisories", &deny)
        .args(["fetch", "db"])
        .output()
    {
        Ok(_) => check(&["advisories"])?,
        Err(error) => {
            let reason = error.to_string();
            let reason = reason.trim().lines().last().unwrap_or_default();
            unchecked.push(format!(
                "RustSec's advisories, because they cannot be fetched: {reason}"
            ));
        }
    }
    pinned(setup::LOCALCLOUD_DEV)?;
    pinned(setup::CHECKOV)?;
    pinned(setup::RECORDING)?;
    pinned(setup::WORKFLOWS)
}

/// Fails if pip chose a version itself, because it could choose another one later.
fn pinned(environment: Environment) -> Result<()> {
    let python = setup::virtual_environment(environment)?;
    let installed = Step::new("pip freeze", python)
        .args(["-m", "pip", "freeze", "--disable-pip-version-check"])
        .output()?;
    let mut pinned = BTreeSet::new();
    for file in environment.1 {
        pinned.extend(releases(&fs::read_to_string(repository().join(file))?));
    }
    let missing: Vec<_> = releases(&installed).difference(&pinned).cloned().collect();
    ensure!(
        missing.is_empty(),
        "{} does not pin these installed packages: {}",
        Path::new(environment.1[0]).display(),
        missing.join(" ")
    );
    Ok(())
}

/// Returns the lines with a pinned version, and the name as `PyPI` compares it.
fn releases(requirements: &str) -> BTreeSet<String> {
    requirements
        .lines()
        .filter_map(|line| line.split_once("=="))
        .map(|(name, release)| {
            let name = name.to_lowercase().replace(['_', '.'], "-");
            format!("{name}=={release}")
        })
        .collect()
}
