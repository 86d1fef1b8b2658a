//! Debian's versions of containerd, for the nodes of the local cloud.
//!
//! A pin holds the minor version, not the exact one: an archive keeps only the newest package of each suite, so an exact pin
//! would break with every update of Debian. apt checks the signature of the suite with Debian's keys, and the SHA-256 of the
//! package with the signed index. The exact version is printed, and localcloud reports it.
//!
//! runc stays the machine's own, because newer packages of it need a newer glibc than older machines have.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::run::{Step, find, scratch};
use crate::setup;

/// Minor versions of containerd, with the suites of Debian that have them.
const VERSIONS: [(&str, &str); 2] = [("1.7", "trixie"), ("2.1", "forky")];

/// Archive of Debian. Signatures make HTTP as safe as HTTPS.
const ARCHIVE: &str = "http://deb.debian.org/debian";

/// Public keys of Debian's archive, from the package of the same name, which Ubuntu also has.
const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Downloads and unpacks the missing versions. Returns the directory with one subdirectory for each version.
///
/// Without root or apt there are only simulated nodes. A version that cannot be downloaded stays missing: nodes run the
/// machine's own, and the tests of the version are reported as `ignored`.
pub fn versions() -> Result<PathBuf> {
    let directory = scratch()?.join("containerd");
    fs::create_dir_all(&directory)?;
    let missing: Vec<_> = missing(&directory).collect();
    if missing.is_empty() || find("apt-get").is_none() || !setup::is_root()? {
        return Ok(directory);
    }
    if !Path::new(KEYS).exists() {
        setup::packages(&[("a program that no package has", "debian-archive-keyring")])?;
    }
    let apt = Apt::new(&directory)?;
    if let Err(error) = apt.update() {
        eprintln!("note: containerd of Debian stays missing: {error:#}");
        return Ok(directory);
    }
    for (minor, suite) in missing {
        if let Err(error) = apt.unpack(minor, &directory.join(minor)) {
            eprintln!(
                "note: containerd {minor} of Debian {suite} stays missing: {error:#}. If the suite has another version now, \
                 replace the version in xtask/src/containerd.rs and in the end-to-end tests. \
                 https://tracker.debian.org/pkg/containerd lists all versions"
            );
        }
    }
    fs::remove_dir_all(apt.directory)?;
    Ok(directory)
}

/// Returns the versions that `directory` lacks, with their suites.
pub fn missing(directory: &Path) -> impl Iterator<Item = (&'static str, &'static str)> {
    let versions = VERSIONS.into_iter();
    versions.filter(|(minor, _)| !directory.join(minor).exists())
}

/// apt with sources, lists and a cache of its own. It changes nothing of the machine's.
struct Apt {
    directory: PathBuf,
    options: Vec<String>,
}

impl Apt {
    fn new(parent: &Path) -> Result<Self> {
        let directory = parent.join(".apt");
        for needed in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(directory.join(needed))?;
        }
        let sources = directory.join("sources.list");
        let lines =
            VERSIONS.map(|(_, suite)| format!("deb [signed-by={KEYS}] {ARCHIVE} {suite} main\n"));
        fs::write(&sources, lines.concat())?;
        let path = |name: &str| directory.join(name).display().to_string();
        let options = [
            format!("Dir::Etc::SourceList={}", path("sources.list")),
            "Dir::Etc::SourceParts=/dev/null".to_owned(),
            format!("Dir::State::Lists={}", path("lists")),
            "Dir::State::Status=/dev/null".to_owned(),
            format!("Dir::Cache={}", path("cache")),
            // The user of apt's downloads cannot write into this directory.
            "APT::Sandbox::User=root".to_owned(),
            "Acquire::Languages=none".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
            "Acquire::Retries=3".to_owned(),
            // Otherwise a failed download is only a warning.
            "APT::Update::Error-Mode=any".to_owned(),
        ];
        Ok(Self {
            directory,
            options: options
                .into_iter()
                .flat_map(|option| ["--option".to_owned(), option])
                .collect(),
        })
    }

    fn update(&self) -> Result<()> {
        Step::words("apt-get update, for containerd", "apt-get update")
            .args(&self.options)
            .quiet()
    }

    /// Unpacks the newest package of a minor version into `target`, without installing it.
    fn unpack(&self, minor: &str, target: &Path) -> Result<()> {
        let packages = self.directory.join(minor);
        let _ = fs::remove_dir_all(&packages);
        fs::create_dir_all(&packages)?;
        Step::words(
            format!("apt-get download containerd {minor}"),
            "apt-get download",
        )
        .args(&self.options)
        .args([format!("containerd={minor}.*")])
        .directory(&packages)
        .quiet()?;
        let package = fs::read_dir(&packages)?
            .next()
            .context("apt-get downloaded no package")??
            .path();
        let unpacked = packages.join("unpacked");
        let name = package.file_name().unwrap_or_default().display();
        Step::words(format!("dpkg --extract {name}"), "dpkg --extract")
            .args([&package, &unpacked])
            .quiet()?;
        Ok(fs::rename(unpacked, target)?)
    }
}
