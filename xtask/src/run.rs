//! Runs other programs and reports their failures.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

/// Returns the root of the repository.
pub fn repository() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest
        .parent()
        .expect("xtask is a folder of the repository")
        .to_owned()
}

/// Returns Cargo's target directory, two folders above this program.
pub fn target() -> Result<PathBuf> {
    let this = std::env::current_exe()?;
    Ok(this
        .ancestors()
        .nth(2)
        .context("cargo puts programs below its target directory")?
        .to_owned())
}

/// Returns the folder for generated files. It is below the target directory, outside of the repository.
pub fn scratch() -> Result<PathBuf> {
    let scratch = target()?.join("prepull");
    std::fs::create_dir_all(&scratch)?;
    Ok(scratch)
}

/// Lines of a failed suite's output that the summary repeats. libtest lists the failures last.
const END_LINES: usize = 40;

/// A program to run, with a name for messages.
pub struct Step {
    name: String,
    command: Command,
}

impl Step {
    /// Creates a step that runs `program` in the root of the repository.
    pub fn new(name: impl Into<String>, program: impl Into<OsString>) -> Self {
        let mut command = Command::new(program.into());
        command.current_dir(repository());
        Self {
            name: name.into(),
            command,
        }
    }

    /// Creates a step from a command line without quotes.
    pub fn words(name: impl Into<String>, words: &str) -> Self {
        let mut words = words.split_whitespace();
        Self::new(name, words.next().unwrap_or_default()).args(words)
    }

    pub fn args<S: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.command.args(arguments.into_iter().map(Into::into));
        self
    }

    pub fn envs<K: Into<OsString>, V: Into<OsString>>(
        mut self,
        variables: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        self.command.envs(
            variables
                .into_iter()
                .map(|(name, value)| (name.into(), value.into())),
        );
        self
    }

    pub fn directory(mut self, directory: impl AsRef<Path>) -> Self {
        self.command.current_dir(directory);
        self
    }

    /// Runs the step with this process's input and output.
    pub fn run(mut self) -> Result<()> {
        let status = self
            .command
            .status()
            .with_context(|| format!("{}: {:?}", self.name, self.command.get_program()))?;
        ensure!(status.success(), "{} failed with {status}", self.name);
        Ok(())
    }

    /// Runs the step with this process's input and output. The error contains the end of the output, because the output of
    /// later steps follows it.
    pub fn run_tests(mut self) -> Result<()> {
        let mut child = self
            .command
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("{}: {:?}", self.name, self.command.get_program()))?;
        let output = child.stdout.take().expect("the output is piped");
        let mut end = VecDeque::new();
        for line in BufReader::new(output).split(b'\n') {
            let line = String::from_utf8_lossy(&line?).into_owned();
            println!("{line}");
            end.push_back(line);
            if end.len() > END_LINES {
                end.pop_front();
            }
        }
        let status = child.wait()?;
        let end = end.make_contiguous().join("\n");
        ensure!(
            status.success(),
            "{} failed with {status}. Its output ends with:\n{end}",
            self.name
        );
        Ok(())
    }

    /// Runs the step in place of this process, so that Ctrl-C reaches only the step. Returns only on failure.
    pub fn replace_this_process(mut self) -> Result<()> {
        let error = self.command.exec();
        Err(error).with_context(|| format!("{}: {:?}", self.name, self.command.get_program()))
    }

    /// Runs the step and prints its name and time. It prints the output only on failure.
    pub fn quiet(mut self) -> Result<()> {
        let start = Instant::now();
        let output = self
            .command
            .output()
            .with_context(|| format!("{}: {:?}", self.name, self.command.get_program()))?;
        if output.status.success() {
            eprintln!(
                "{:>12} {} ({:.0} s)",
                "done",
                self.name,
                start.elapsed().as_secs_f64()
            );
            return Ok(());
        }
        eprintln!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        anyhow::bail!("{} failed with {}", self.name, output.status);
    }

    /// Runs the step and returns its output.
    pub fn output(mut self) -> Result<String> {
        let output = self
            .command
            .output()
            .with_context(|| format!("{}: {:?}", self.name, self.command.get_program()))?;
        ensure!(
            output.status.success(),
            "{} failed: {}",
            self.name,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?)
    }
}

/// Returns the path of `program` in the first directory of `PATH` that has it.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    // Debian keeps the programs of administrators out of a user's path.
    let directories = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    directories
        .map(|directory| directory.join(program))
        .find(|file| file.is_file())
}
