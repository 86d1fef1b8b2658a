//! Every check and every test, the fastest to fail first.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::run::{Step, find, repository, scratch};
use crate::setup::Tools;
use crate::{containerd, functions, picture, setup, supply_chain};

/// A test suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Suite {
    /// Check the format of the Rust code and run clippy.
    Lint,
    /// Check licences, sources, versions and advisories of dependencies.
    SupplyChain,
    /// Check the state machine and its picture.
    StateMachine,
    /// Run shellcheck on all scripts, including those for nodes.
    Scripts,
    /// Check the GitHub workflows and the issue forms.
    Workflows,
    /// Check the Kubernetes manifests and the image of `prepull sync`.
    Manifests,
    /// Lint and test the local cloud.
    Localcloud,
    /// Check and test the Terraform modules.
    Terraform,
    /// Run unit tests, and the stages against mocked AWS.
    Unit,
    /// Compare the resolution of images with containerd, on registries with quirks.
    Quirks,
    /// Test everything a user does against a local cloud.
    EndToEnd,
    /// Run the fault matrix: a sample, or everything with `--full`.
    Faults,
    /// Build a cache of 200 images with long names. Runs only on request.
    Size,
    /// Send a thousand pushes within a minute. Runs only on request.
    Burst,
}

impl Suite {
    /// Returns the name of the suite in `--only`.
    fn name(self) -> String {
        let value = self.to_possible_value().expect("no suite is hidden");
        value.get_name().to_owned()
    }
}

/// Options of `cargo xtask test`.
#[derive(clap::Args)]
pub struct Options {
    /// Run only these suites.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Suite>,
    /// Run only quirks, end-to-end tests and faults whose name contains this.
    #[arg(long)]
    filter: Option<String>,
    /// Run the whole fault matrix, the large cache and the burst, one hour more.
    #[arg(long)]
    full: bool,
}

/// Sample of the fault matrix: every sixteenth case of a call. Each call has seven effects, so the sample covers all effects.
const SAMPLE: &str = "16";

/// Runs the suites. A failed suite does not stop the later ones.
pub fn run(options: &Options) -> Result<()> {
    let tools = setup::local_cloud()?;
    setup::checks()?;
    let (mut failed, mut unchecked) = (Vec::new(), Vec::new());
    let mut table = "suite          minutes  result\n".to_owned();
    for suite in Suite::value_variants() {
        let is_wanted = match options.only[..] {
            [] => options.full || ![Suite::Size, Suite::Burst].contains(suite),
            _ => options.only.contains(suite),
        };
        if !is_wanted {
            continue;
        }
        let start = Instant::now();
        let name = suite.name();
        eprintln!("\n=== {name}");
        let result = match suite {
            Suite::Lint => lint(),
            Suite::SupplyChain => supply_chain::check(&mut unchecked),
            Suite::StateMachine => state_machine(),
            Suite::Scripts => scripts(&tools),
            Suite::Workflows => workflows(),
            Suite::Manifests => manifests(&tools),
            Suite::Localcloud => localcloud(&tools),
            Suite::Terraform => terraform(&tools),
            Suite::Unit => unit(),
            Suite::Quirks => quirks(&tools, options),
            Suite::EndToEnd => {
                let missing = containerd::missing(&tools.containerd);
                unchecked.extend(missing.map(|(minor, suite)| {
                    format!("containerd {minor}, because Debian {suite} did not provide it")
                }));
                end_to_end(&tools, options)
            }
            Suite::Faults => faults(&tools, options),
            Suite::Size => size(&tools),
            Suite::Burst => burst(&tools),
        };
        let seconds = start.elapsed().as_secs_f64();
        let verdict = if result.is_ok() { "passed" } else { "FAILED" };
        writeln!(table, "{name:<14} {:>7.1}  {verdict}", seconds / 60.0)?;
        match result {
            Ok(()) => eprintln!("=== {name} passed in {seconds:.0} s"),
            Err(error) => {
                let error = format!("=== {name} FAILED in {seconds:.0} s: {error:#}");
                eprintln!("{error}");
                failed.push((name, error));
            }
        }
    }
    eprintln!("\n{table}");
    for what in unchecked {
        eprintln!("=== NOT CHECKED: {what}");
    }
    // The output of later suites may hide the error.
    for (_, error) in &failed {
        eprintln!("\n{error}");
    }
    if !failed.is_empty() {
        let names: Vec<_> = failed.iter().map(|(name, _)| name.as_str()).collect();
        bail!("these failed: {}", names.join(", "));
    }
    Ok(())
}

fn lint() -> Result<()> {
    Step::words("cargo fmt", "cargo fmt --all --check").quiet()?;
    // `cargo clippy` would compile the SDK for itself, which takes ten minutes. As the compiler of a build, clippy uses the SDK
    // of the tests. `cargo clippy` passes its arguments in the same variable.
    Step::words("clippy", "cargo build --locked --workspace --all-targets")
        .envs([
            ("RUSTC_WORKSPACE_WRAPPER", "clippy-driver"),
            ("CLIPPY_ARGS", "--deny__CLIPPY_HACKERY__warnings"),
        ])
        .run()
}

fn unit() -> Result<()> {
    Step::words(
        "cargo test",
        "cargo test --locked --workspace --no-fail-fast",
    )
    .run_tests()
}

fn state_machine() -> Result<()> {
    picture::check()?;
    // Terraform fills in the same values. The validator expects ARNs.
    let file = |name| fs::read_to_string(repository().join("statemachine").join(name));
    let retriers = file("retry.json")?;
    let retriers = retriers
        .trim()
        .strip_prefix('[')
        .and_then(|retriers| retriers.strip_suffix(']'))
        .context("retry.json is not a list")?;
    let mut filled = file("build.asl.json")?
        .replace("\"shared-retry\"", retriers)
        .replace("${partition}", "aws");
    for name in functions::names()? {
        let arn = format!("arn:aws:lambda:eu-west-1:123456789012:function:prepull-{name}");
        filled = filled.replace(&format!("${{{}_arn}}", name.replace('-', "_")), &arn);
    }
    if filled.contains("${") {
        bail!("build.asl.json has a placeholder without a function");
    }
    let file = scratch()?.join("build.asl.json");
    fs::write(&file, filled)?;
    let validator = setup::npm_command("statemachine", "asl-validator")?;
    Step::new("asl-validator", validator)
        .args(["--json-path"])
        .args([file])
        .quiet()
}

fn scripts(tools: &Tools) -> Result<()> {
    let shellcheck = find("shellcheck").unwrap_or_else(|| PathBuf::from("shellcheck"));
    let mut scripts = vec![repository().join(".ci/run")];
    scripts.extend(document_scripts(tools)?);
    Step::new("shellcheck", shellcheck)
        .args(["--shell=bash", "--severity=style"])
        .args(scripts)
        .quiet()
}

fn workflows() -> Result<()> {
    let python = setup::virtual_environment(setup::WORKFLOWS)?;
    let command = |name: &str| Step::new(name, python.with_file_name(name));
    let github = |pattern: &str| repository().join(".github").join(pattern);
    let files = |directory: &str| -> Result<Vec<PathBuf>> {
        let entries = fs::read_dir(github(directory))?;
        Ok(entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<_, _>>()?)
    };
    command("check-jsonschema")
        .args(["--builtin-schema", "vendor.github-workflows"])
        .args(files("workflows")?)
        .quiet()?;
    command("check-jsonschema")
        .args(["--builtin-schema", "vendor.github-issue-forms"])
        .args([github("ISSUE_TEMPLATE/bug.yml")])
        .quiet()?;
    command("zizmor")
        .args(["--offline", "--no-progress", ".github"])
        .quiet()
}

fn manifests(tools: &Tools) -> Result<()> {
    Step::new("manifests of prepull sync", &tools.python)
        .args(["deploy/sync/tests.py"])
        .quiet()
}

/// Writes the script of each SSM document into its own file.
fn document_scripts(tools: &Tools) -> Result<Vec<PathBuf>> {
    let directory = scratch()?.join("documents");
    fs::create_dir_all(&directory)?;
    let extract = "import json, sys, yaml\n\
                   document = yaml.safe_load(open(sys.argv[1]))\n\
                   steps = document['mainSteps']\n\
                   print('\\n'.join(line for step in steps for line in step['inputs']['runCommand']))";
    let mut scripts = Vec::new();
    for entry in fs::read_dir(repository().join("infra/documents"))? {
        let document = entry?.path();
        let script = Step::new("extracting a script", &tools.python)
            .args(["-c", extract])
            .args([&document])
            .output()?;
        let file = directory
            .join(document.file_name().unwrap_or_default())
            .with_extension("sh");
        // SSM inserts the value of a parameter before a shell reads the script. For shellcheck it becomes a word.
        fs::write(&file, script.replace("{{ ", "parameter").replace(" }}", ""))?;
        scripts.push(file);
    }
    Ok(scripts)
}

fn localcloud(tools: &Tools) -> Result<()> {
    let python = setup::virtual_environment(setup::LOCALCLOUD_DEV)?;
    let step = |name: &str| Step::new(name, &python).directory(repository().join("localcloud"));
    step("ruff check")
        .args(["-m", "ruff", "check", "--no-cache"])
        .quiet()?;
    step("ruff format")
        .args(["-m", "ruff", "format", "--check", "--no-cache"])
        .quiet()?;
    step("pytest")
        .args(["-m", "pytest", "-p", "no:cacheprovider", "--quiet"])
        .envs([("PREPULL_CONTAINERD", &tools.containerd)])
        .run()
}

fn terraform(tools: &Tools) -> Result<()> {
    let step = |name: &str, directory: &str, data: &str| -> Result<Step> {
        let data = scratch()?.join("terraform-data").join(data);
        Ok(
            Step::new(format!("terraform {name} {directory}"), &tools.terraform)
                .directory(repository().join(directory))
                .envs(tools.terraform_environment.clone())
                .envs([("TF_DATA_DIR", data)]),
        )
    };
    step("fmt", ".", "fmt")?
        .args(["fmt", "-check", "-recursive"])
        .quiet()?;
    Step::new("table of inputs and outputs", &tools.python)
        .args(["infra/docs-table.py", "--check"])
        .quiet()?;
    for directory in [
        "infra",
        "infra/examples/minimal",
        "infra/examples/complete",
        "infra/examples/karpenter",
        "infra/examples/node-group",
        "infra/modules/nodes",
        "infra/modules/sync",
        "localcloud/deploy",
        "tests/live/deploy",
        "tests/live/leftovers",
    ] {
        let data = directory.replace('/', "-");
        step("init", directory, &data)?
            .args(["init", "-backend=false", "-input=false"])
            .quiet()?;
        step("validate", directory, &data)?
            .args(["validate"])
            .quiet()?;
    }
    // The table of invalid inputs becomes a test, which must be inside the module's directory.
    let generated = "-test-directory=.terraform/validation";
    for module in ["infra", "infra/modules/nodes", "infra/modules/sync"] {
        Step::new("table of invalid inputs", &tools.python)
            .args(["infra/tests/validation.py"])
            .args([
                format!("{module}/tests/validation.toml"),
                format!("{module}/.terraform/validation"),
            ])
            .quiet()?;
        let data = module.replace('/', "-");
        let validation = format!("{data}-validation");
        step("init", module, &validation)?
            .args(["init", "-backend=false", "-input=false", generated])
            .quiet()?;
        step("test", module, &validation)?
            .args(["test", generated])
            .quiet()?;
        step("test", module, &data)?.args(["test"]).run()?;
    }
    let checkov = setup::virtual_environment(setup::CHECKOV)?;
    let checkov = checkov.with_file_name("checkov");
    Step::new("checkov", checkov)
        .args([
            "--directory",
            "infra",
            "--framework",
            "terraform",
            "--quiet",
            "--compact",
            "--skip-download",
        ])
        .quiet()
}

/// Builds everything, and prepares the test `name` of the crate `tests`.
fn suite(tools: &Tools, title: &str, name: &str) -> Result<Step> {
    let built = functions::build(tools)?;
    let step = Step::words(title, "cargo test --locked --workspace --test");
    Ok(step.args([name, "--"]).envs(built.environment(tools)))
}

/// Nodes of suites that do not depend on containerd, or that run many builds at the same time.
const SIMULATED: [(&str, &str); 1] = [("PREPULL_NODES", "simulated")];

fn quirks(tools: &Tools, options: &Options) -> Result<()> {
    suite(tools, "quirks of registries", "quirks")?
        .args(&options.filter)
        .run_tests()
}

fn end_to_end(tools: &Tools, options: &Options) -> Result<()> {
    suite(tools, "end-to-end tests", "end-to-end")?
        .args(&options.filter)
        .run_tests()
}

fn faults(tools: &Tools, options: &Options) -> Result<()> {
    let sample =
        (!options.full && options.filter.is_none()).then_some(("PREPULL_FAULTS_SAMPLE", SAMPLE));
    suite(tools, "fault matrix", "faults")?
        .args(&options.filter)
        .envs(SIMULATED.into_iter().chain(sample))
        .run_tests()
}

fn size(tools: &Tools) -> Result<()> {
    suite(tools, "cache of 200 images", "size")?
        .envs(SIMULATED)
        .run_tests()
}

fn burst(tools: &Tools) -> Result<()> {
    suite(tools, "burst of pushes", "burst")?
        .envs(SIMULATED)
        .run_tests()
}
