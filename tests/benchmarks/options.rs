//! The options of `cargo xtask bench`, which has validated them.

use std::fmt::Write as _;

use anyhow::{Context as _, Result, bail, ensure};
use prepull_domain::{Bytes, GiB};

pub struct Options {
    /// Number of runs.
    pub runs: u32,
    /// Small images and unoptimized functions, on simulated nodes if necessary. It checks the benchmark, not prepull.
    pub quick: bool,
    /// The functions of the tests, instead of those of a deployment.
    pub unoptimized: bool,
    /// Also an image of 3 GB.
    pub large: bool,
    /// The data volumes.
    pub volume: GiB,
}

impl Options {
    pub fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = Self {
            runs: 5,
            quick: false,
            unoptimized: false,
            large: false,
            volume: GiB(10),
        };
        while let Some(argument) = arguments.next() {
            let mut number = || -> Result<u32> {
                let value = arguments.next().unwrap_or_default();
                value
                    .parse()
                    .with_context(|| format!("{argument} needs a number, not {value:?}"))
            };
            match argument.as_str() {
                "--runs" => options.runs = number()?,
                "--quick" => options.quick = true,
                "--unoptimized" => options.unoptimized = true,
                "--large" => options.large = true,
                // Cargo's own.
                "--bench" => {}
                other => bail!("unknown option {other}"),
            }
        }
        ensure!(options.runs > 0, "--runs must be at least 1");
        if options.large {
            // Unpacked, the images are more than twice as large, and builds fail if images fill four fifths of the volume.
            options.volume = GiB(30);
        }
        Ok(options)
    }

    /// Returns the command for these options.
    pub fn command(&self) -> String {
        // Writing to a string cannot fail.
        let mut command = "cargo xtask bench".to_owned();
        if self.quick {
            command.push_str(" --quick");
        } else {
            let _ = write!(command, " --runs {}", self.runs);
        }
        if self.unoptimized {
            command.push_str(" --unoptimized");
        }
        if self.large {
            command.push_str(" --large");
        }
        command
    }

    /// Fails if the disk is too small. The images are in the registry, in a snapshot, and on the volume of a builder or node.
    /// Unpacked, they are more than twice as large, and nodes keep both forms.
    pub fn check_space(&self, free: u64) -> Result<()> {
        let needed = match (self.quick, self.large) {
            (_, true) => Bytes(40_000_000_000),
            (true, _) => Bytes(2_000_000_000),
            _ => Bytes(12_000_000_000),
        };
        ensure!(
            free >= needed.0,
            "the benchmark needs {needed} for temporary files, but {} are free. Set TMPDIR to a larger disk",
            Bytes(free)
        );
        Ok(())
    }
}
