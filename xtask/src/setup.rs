//! Installing what localcloud and the checks need: nothing of it goes into the repository.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

use crate::run::{Step, find, repository, scratch};

/// Programs that a local cloud runs, and the Debian and Ubuntu packages that bring them.
const LOCAL_CLOUD_PACKAGES: [(&str, &str); 8] = [
    ("containerd", "containerd"),
    ("runc", "runc"),
    ("docker-registry", "docker-registry"),
    ("mkfs.xfs", "xfsprogs"),
    ("busybox", "busybox-static"),
    ("openssl", "openssl"),
    ("unshare", "util-linux"),
    ("mount", "mount"),
];

/// Programs that only the checks run.
const CHECK_PACKAGES: [(&str, &str); 2] = [("shellcheck", "shellcheck"), ("npm", "npm")];

/// A Python environment: its name and the files that say what is in it, each release by its number.
pub type Environment = (&'static str, &'static [&'static str]);

/// What localcloud runs on.
const LOCALCLOUD: Environment = ("localcloud", &["localcloud/requirements.txt"]);
/// The same with what its own tests need.
pub const LOCALCLOUD_DEV: Environment = (
    "localcloud-dev",
    &[
        "localcloud/requirements.txt",
        "localcloud/requirements-dev.txt",
    ],
);
/// What checks the Terraform code.
pub const CHECKOV: Environment = ("checkov", &["infra/requirements-checkov.txt"]);

/// The programs that are not Rust's.
pub struct Tools {
    /// Python with localcloud's requirements.
    pub python: PathBuf,
    /// Terraform or OpenTofu.
    pub terraform: PathBuf,
    /// Variables for every run of Terraform.
    pub terraform_environment: Vec<(&'static str, PathBuf)>,
}

/// What a local cloud needs.
pub fn local_cloud() -> Result<Tools> {
    packages(&LOCAL_CLOUD_PACKAGES)?;
    let python = virtual_environment(LOCALCLOUD)?;
    let terraform = find("terraform").or_else(|| find("tofu")).context(
        "neither terraform nor tofu is on the PATH: install one, see https://developer.hashicorp.com/terraform/install",
    )?;
    let terraform_environment = terraform_environment()?;
    Ok(Tools {
        python,
        terraform,
        terraform_environment,
    })
}

/// What the checks need besides.
pub fn checks() -> Result<()> {
    packages(&CHECK_PACKAGES)
}

/// Installs the packages whose programs are missing, where that is possible.
fn packages(wanted: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<_> = wanted
        .iter()
        .filter(|(program, _)| find(program).is_none())
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if find("apt-get").is_none() || !is_root()? {
        eprintln!("note: not root on Debian or Ubuntu, so these packages stay missing: {list}");
        return Ok(());
    }
    let noninteractive = [("DEBIAN_FRONTEND", "noninteractive")];
    Step::words("apt-get update", "apt-get update")
        .envs(noninteractive)
        .quiet()?;
    Step::words(
        format!("apt-get install {list}"),
        "apt-get install --yes --no-install-recommends",
    )
    .args(missing)
    .envs(noninteractive)
    .quiet()
}

fn is_root() -> Result<bool> {
    Ok(Step::words("id", "id -u").output()?.trim() == "0")
}

/// A Python environment, made anew when its files change. Returns its interpreter.
pub fn virtual_environment((name, requirements): Environment) -> Result<PathBuf> {
    let mut hash = Sha256::new();
    for file in requirements {
        hash.update(fs::read(repository().join(file)).with_context(|| (*file).to_owned())?);
    }
    let digest = format!("{:x}", hash.finalize());
    let directory = scratch()?.join(format!("venv-{name}-{}", &digest[..12]));
    let python = directory.join("bin/python");
    let complete = directory.join("complete");
    if complete.exists() && python.exists() {
        return Ok(python);
    }
    if find("apt-get").is_some() && is_root()? && !can_make_environments() {
        packages(&[("a program that no package has", "python3-venv")])?;
    }
    Step::words(
        format!("python3 -m venv, for {name}"),
        "python3 -m venv --clear",
    )
    .args([&directory])
    .quiet()?;
    let mut install = vec![
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
    ];
    for file in requirements {
        install.extend(["--requirement", file]);
    }
    Step::new(format!("pip install, for {name}"), &python)
        .args(install)
        .quiet()?;
    fs::write(complete, "")?;
    Ok(python)
}

/// Debian keeps the part of Python that makes environments in a package of its own.
fn can_make_environments() -> bool {
    Step::words("python3", "python3 -c")
        .args(["import ensurepip, venv"])
        .output()
        .is_ok()
}

/// Terraform's provider comes from the registry, once for all runs, or from a mirror on this machine where there is one.
fn terraform_environment() -> Result<Vec<(&'static str, PathBuf)>> {
    let cache = scratch()?.join("terraform-plugins");
    fs::create_dir_all(&cache)?;
    let mut environment = vec![("TF_PLUGIN_CACHE_DIR", cache)];
    let configured = std::env::var_os("TF_CLI_CONFIG_FILE").map(PathBuf::from);
    if configured.is_some_and(|file| file.exists()) {
        return Ok(environment);
    }
    let config = scratch()?.join("terraform.rc");
    let text = match provider_mirror() {
        Some(mirror) => {
            // With a mirror the provider needs no cache: Terraform links it from there.
            environment.clear();
            format!(
                "provider_installation {{\n  filesystem_mirror {{\n    path = \"{}\"\n  }}\n}}\n",
                mirror.display()
            )
        }
        None => String::new(),
    };
    fs::write(&config, text)?;
    environment.push(("TF_CLI_CONFIG_FILE", config));
    Ok(environment)
}

/// A directory in Terraform's mirror layout that holds the AWS provider, below the places where systems keep such things.
fn provider_mirror() -> Option<PathBuf> {
    let children = |directory: &Path| {
        fs::read_dir(directory)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .collect::<Vec<_>>()
    };
    ["/opt", "/usr/share/terraform", "/usr/local/share/terraform"]
        .into_iter()
        .flat_map(|root| children(Path::new(root)))
        .find(|directory| {
            directory
                .join("registry.terraform.io/hashicorp/aws")
                .is_dir()
        })
}

/// A command of the npm package that `directory` names and locks, installed once with all that it needs.
pub fn npm_command(directory: &str, command: &str) -> Result<PathBuf> {
    let source = repository().join(directory);
    let installed = scratch()?.join("npm");
    let lock = fs::read(source.join("package-lock.json"))?;
    let complete = installed.join("complete");
    if fs::read(&complete).is_ok_and(|complete| complete == lock) {
        return Ok(installed.join("node_modules/.bin").join(command));
    }
    let Some(npm) = find("npm") else {
        bail!("npm is not on the PATH: it installs {command}")
    };
    fs::create_dir_all(&installed)?;
    for file in ["package.json", "package-lock.json"] {
        fs::copy(source.join(file), installed.join(file))?;
    }
    Step::new(format!("npm ci, for {command}"), npm)
        .args(["ci", "--no-audit", "--no-fund"])
        .directory(&installed)
        .quiet()?;
    fs::write(complete, lock)?;
    Ok(installed.join("node_modules/.bin").join(command))
}

/// A cargo command of crates.io, built once with the dependencies that its authors locked.
pub fn cargo_command(name: &str, version: &str) -> Result<PathBuf> {
    let root = scratch()?.join(format!("{name}-{version}"));
    let command = root.join("bin").join(name);
    if !command.exists() {
        let build = root.join("build");
        // Without optimization it is built in a minute, and what it does takes seconds anyway.
        Step::words(
            format!("cargo install {name}"),
            "cargo install --locked --debug --no-track",
        )
        .args([name, "--version", version])
        .args(["--root".into(), root, "--target-dir".into(), build.clone()])
        .envs([("CARGO_PROFILE_DEV_DEBUG", "0")])
        .quiet()?;
        fs::remove_dir_all(build)?;
    }
    Ok(command)
}
