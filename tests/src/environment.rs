//! What `cargo xtask` prepared before it starts anything of this crate.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

/// Where the programs and files lie that a local cloud needs. `cargo xtask` sets the variables.
#[derive(Debug, Clone)]
pub struct Environment {
    /// The Python interpreter that has localcloud's requirements.
    pub python: PathBuf,
    /// `terraform` or `tofu`.
    pub terraform: PathBuf,
    /// The directory of the functions' zips.
    pub functions: PathBuf,
    /// The command `prepull`.
    pub cli: PathBuf,
    /// The root of the repository.
    pub repository: PathBuf,
}

impl Environment {
    /// Reads what `cargo xtask` set.
    ///
    /// # Errors
    /// Fails if a variable is missing: this was not started by `cargo xtask`.
    pub fn read() -> Result<Self> {
        let path = |name: &str| {
            std::env::var_os(name).map(PathBuf::from).with_context(|| {
                format!(
                    "{name} is not set: start this through `cargo xtask demo` or `cargo xtask test`"
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
