//! Programs and files that `cargo xtask` prepares before it starts anything in this crate.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

/// Paths of the programs and files that a local cloud needs. `cargo xtask` passes them in variables.
#[derive(Debug, Clone)]
pub struct Environment {
    /// The Python interpreter with the requirements of localcloud.
    pub python: PathBuf,
    /// `terraform` or `tofu`.
    pub terraform: PathBuf,
    /// The directory with the zip files of the functions.
    pub functions: PathBuf,
    /// The `prepull` command.
    pub cli: PathBuf,
    /// The root of the repository.
    pub repository: PathBuf,
}

impl Environment {
    /// Reads the variables that `cargo xtask` sets.
    ///
    /// # Errors
    /// Fails if a variable is missing because `cargo xtask` did not start this process.
    pub fn read() -> Result<Self> {
        let path = |name: &str| {
            std::env::var_os(name).map(PathBuf::from).with_context(|| {
                format!(
                    "{name} is not set. Start this with `cargo xtask demo` or `cargo xtask test`"
                )
            })
        };
        Ok(Self {
            python: path("PREPULL_PYTHON")?,
            terraform: path("PREPULL_TERRAFORM")?,
            functions: path("PREPULL_FUNCTIONS")?,
            cli: path("PREPULL_CLI")?,
            repository: path("PREPULL_REPOSITORY")?,
        })
    }
}
