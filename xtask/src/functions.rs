//! Builds the workspace and packs the functions for Lambda.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::run::{Step, repository, scratch, target};
use crate::setup::Tools;

/// A built workspace with its packed functions.
pub struct Built {
    binaries: PathBuf,
    zips: PathBuf,
}

impl Built {
    /// Returns the path of a program of the workspace.
    pub fn binary(&self, name: &str) -> PathBuf {
        self.binaries.join(name)
    }

    /// Returns the environment of the demo and the end-to-end tests.
    pub fn environment(&self, tools: &Tools) -> Vec<(&'static str, PathBuf)> {
        let mut environment = vec![
            ("PREPULL_PYTHON", tools.python.clone()),
            ("PREPULL_TERRAFORM", tools.terraform.clone()),
            ("PREPULL_FUNCTIONS", self.zips.clone()),
            ("PREPULL_CLI", self.binary("prepull")),
            ("PREPULL_REPOSITORY", repository()),
            ("PREPULL_CONTAINERD", tools.containerd.clone()),
        ];
        environment.extend(tools.terraform_environment.clone());
        environment
    }
}

/// Returns the names of the functions, which are the folders of `functions/`.
pub fn names() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(repository().join("functions"))? {
        names.push(
            entry?
                .file_name()
                .into_string()
                .map_err(|name| anyhow::anyhow!("{name:?} is not UTF-8"))?,
        );
    }
    names.sort();
    Ok(names)
}

/// Builds the workspace for tests and packs its functions.
pub fn build(tools: &Tools) -> Result<Built> {
    // It builds all targets, so every command has the same SDK features and the SDK compiles once.
    Step::words(
        "cargo build",
        "cargo build --locked --workspace --all-targets",
    )
    .run()?;
    let binaries = target()?.join("debug");
    let zips = scratch()?.join("functions");
    pack_all(tools, &binaries, &zips)?;
    Ok(Built { binaries, zips })
}

/// Builds the workspace like [`build`], and packs functions with the release profile of a deployment, for this machine.
pub fn build_optimized(tools: &Tools) -> Result<Built> {
    let built = build(tools)?;
    let mut packages = Vec::new();
    for name in names()? {
        packages.extend(["--package".to_owned(), name]);
    }
    Step::words("cargo build --release", "cargo build --locked --release")
        .args(packages)
        .run()?;
    let zips = scratch()?.join("functions-optimized");
    pack_all(tools, &target()?.join("release"), &zips)?;
    Ok(Built { zips, ..built })
}

/// Packs each function into `<stage>/bootstrap.zip`, the layout of `cargo lambda build`.
fn pack_all(tools: &Tools, binaries: &Path, zips: &Path) -> Result<()> {
    for name in names()? {
        let zip = zips.join(&name).join("bootstrap.zip");
        pack(tools, &binaries.join(&name), &zip).with_context(|| format!("packing {name}"))?;
    }
    Ok(())
}

fn pack(tools: &Tools, binary: &Path, zip: &Path) -> Result<()> {
    let directory = zip.parent().context("a zip has a parent directory")?;
    fs::create_dir_all(directory)?;
    let modified = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified());
    if modified(zip).is_ok_and(|zipped| modified(binary).is_ok_and(|built| zipped > built)) {
        return Ok(());
    }
    let stripped = directory.join("bootstrap");
    Step::words("strip", "strip -o")
        .args([&stripped, &binary.to_owned()])
        .output()?;
    let unfinished = directory.join("bootstrap.zip.unfinished");
    // Python's module keeps the mode of the file. Lambda needs the executable bit.
    Step::new("zip", &tools.python)
        .args(["-m", "zipfile", "--create"])
        .args([&unfinished])
        .args(["bootstrap"])
        .directory(directory)
        .output()?;
    fs::remove_file(stripped)?;
    Ok(fs::rename(unfinished, zip)?)
}
