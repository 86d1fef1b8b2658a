//! Installs the tools of the local cloud and the checks. It writes nothing into the repository.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

use crate::containerd;
use crate::run::{Step, find, repository, scratch};

/// Programs that the local cloud runs, with their Debian and Ubuntu packages.
const LOCAL_CLOUD_PACKAGES: [(&str, &str); 11] = [
    ("containerd", "containerd"),
    ("runc", "runc"),
    ("docker-registry", "docker-registry"),
    ("mkfs.xfs", "xfsprogs"),
    ("busybox", "busybox-static"),
    ("jq", "jq"),
    // containerd unpacks layers with these if it finds them, as on Bottlerocket.
    ("igzip", "isal"),
    ("unpigz", "pigz"),
    ("openssl", "openssl"),
    ("unshare", "util-linux"),
    ("mount", "mount"),
];

/// Programs that only the checks run, with their packages.
const CHECK_PACKAGES: [(&str, &str); 2] = [("shellcheck", "shellcheck"), ("npm", "npm")];

/// A Python environment: its name, and its requirements files with pinned versions.
pub type Environment = (&'static str, &'static [&'static str]);

/// The environment of localcloud.
const LOCALCLOUD: Environment = ("localcloud", &["localcloud/requirements.txt"]);
/// The same, with the tools for localcloud's tests.
pub const LOCALCLOUD_DEV: Environment = (
    "localcloud-dev",
    &[
        "localcloud/requirements.txt",
        "localcloud/requirements-dev.txt",
    ],
);
/// The environment that checks the Terraform code.
pub const CHECKOV: Environment = ("checkov", &["infra/requirements-checkov.txt"]);
/// The environment that checks the GitHub workflows.
pub const WORKFLOWS: Environment = ("workflows", &[".github/requirements-lint.txt"]);
/// The environment that records the demo.
pub const RECORDING: Environment = ("recording", &["xtask/recording/requirements.txt"]);

/// Tools outside of Rust's toolchain.
pub struct Tools {
    /// Python with the requirements of localcloud.
    pub python: PathBuf,
    /// Terraform or OpenTofu.
    pub terraform: PathBuf,
    /// Environment variables for every run of Terraform.
    pub terraform_environment: Vec<(&'static str, PathBuf)>,
    /// Directory with Debian's versions of containerd.
    pub containerd: PathBuf,
}

/// Installs and returns the tools of a local cloud.
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
        containerd: containerd::versions()?,
    })
}

/// Installs the further tools of the checks.
pub fn checks() -> Result<()> {
    packages(&CHECK_PACKAGES)
}

/// Installs the packages of missing programs, if the machine allows it.
pub fn packages(wanted: &[(&str, &str)]) -> Result<()> {
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

/// Returns whether this process runs as root.
pub fn is_root() -> Result<bool> {
    Ok(Step::words("id", "id -u").output()?.trim() == "0")
}

/// Creates a Python environment, again if its requirements change. Returns its interpreter.
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

/// Returns whether Python can create environments. Debian packages this part separately.
fn can_make_environments() -> bool {
    Step::words("python3", "python3 -c")
        .args(["import ensurepip, venv"])
        .output()
        .is_ok()
}

/// Returns Terraform's settings. The provider comes from a mirror on this machine if there is one, otherwise once from the
/// registry.
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
            // A mirror needs no plugin cache, because Terraform links the provider from there.
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

/// Returns a directory in Terraform's mirror layout with the AWS provider, if one is in a usual place.
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

/// Returns a command of the npm package in `directory`. It installs the locked dependencies once.
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

/// Returns a cargo command from crates.io. It builds the command once, with the dependencies that its authors locked.
pub fn cargo_command(name: &str, version: &str) -> Result<PathBuf> {
    let root = scratch()?.join(format!("{name}-{version}"));
    let command = root.join("bin").join(name);
    if !command.exists() {
        let build = root.join("build");
        // An unoptimized build takes a minute. The command itself runs for seconds.
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
