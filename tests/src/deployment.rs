//! The Terraform module, deployed to a local cloud.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Output};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{Environment, LocalCloud};

/// A deployment. Its state is next to the local cloud's state, so Terraform writes nothing into the repository.
#[derive(Debug)]
pub struct Deployment {
    terraform: PathBuf,
    module: PathBuf,
    state: PathBuf,
    variables: PathBuf,
}

/// Result of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changes {
    /// The deployment matches the declaration.
    None,
    /// Applying would change something.
    Some,
}

impl Deployment {
    /// Prepares a deployment of `caches`, which has the form of the module's variable, to `cloud`.
    ///
    /// # Errors
    /// Fails if Terraform cannot download its providers.
    pub fn prepare(
        environment: &Environment,
        cloud: &LocalCloud,
        state: PathBuf,
        caches: &Value,
        debounce_seconds: u32,
    ) -> Result<Self> {
        let values = serde_json::json!({
            "endpoint": cloud.endpoint,
            "functions_directory": environment.functions,
            "caches": caches,
            "debounce_seconds": debounce_seconds,
            "function_environment": {"RUST_LOG": "info"},
        });
        Self::of_module(environment, "localcloud/deploy", state, &values)
    }

    /// Prepares a deployment of a root module in the repository. The endpoint and the credentials come from the module or
    /// from the environment.
    ///
    /// # Errors
    /// Fails if Terraform cannot download its providers.
    pub fn of_module(
        environment: &Environment,
        module: &str,
        state: PathBuf,
        values: &Value,
    ) -> Result<Self> {
        std::fs::create_dir_all(&state)?;
        let variables = state.join("variables.tfvars.json");
        std::fs::write(&variables, serde_json::to_vec_pretty(values)?)?;
        let deployment = Self {
            terraform: environment.terraform.clone(),
            module: environment.repository.join(module),
            state,
            variables,
        };
        deployment.run(&["init", "-input=false"])?;
        Ok(deployment)
    }

    /// Replaces the declared caches without applying them.
    ///
    /// # Errors
    /// Fails if the variables cannot be written.
    pub fn declare(&self, caches: &Value) -> Result<()> {
        let mut values: Value = serde_json::from_slice(&std::fs::read(&self.variables)?)?;
        values["caches"] = caches.clone();
        Ok(std::fs::write(
            &self.variables,
            serde_json::to_vec_pretty(&values)?,
        )?)
    }

    /// Applies the declared caches.
    ///
    /// # Errors
    /// Fails with Terraform's own output.
    pub fn apply(&self) -> Result<()> {
        self.run_with_state(&["apply", "-auto-approve", "-input=false"])
            .map(drop)
    }

    /// Plans, and returns whether anything would change, with Terraform's output.
    ///
    /// # Errors
    /// Fails with Terraform's own output.
    pub fn plan(&self) -> Result<(Changes, String)> {
        let output = self
            .command(&["plan", "-detailed-exitcode", "-input=false"], true)
            .output()?;
        let text = text(&output);
        match output.status.code() {
            Some(0) => Ok((Changes::None, text)),
            Some(2) => Ok((Changes::Some, text)),
            _ => anyhow::bail!("terraform plan failed:\n{text}"),
        }
    }

    /// Destroys everything.
    ///
    /// # Errors
    /// Fails with Terraform's own output.
    pub fn destroy(&self) -> Result<()> {
        self.run_with_state(&["destroy", "-auto-approve", "-input=false"])
            .map(drop)
    }

    /// Returns the outputs of the module.
    ///
    /// # Errors
    /// Fails if nothing is applied.
    pub fn outputs(&self) -> Result<Value> {
        Ok(self.applied()?["outputs"].clone())
    }

    /// Returns the memory of each stage's function, in MB.
    ///
    /// # Errors
    /// Fails if nothing is applied.
    pub fn function_memory(&self) -> Result<BTreeMap<String, u32>> {
        self.instances("aws_lambda_function")?
            .iter()
            .map(|function| {
                let stage = function["index_key"].as_str();
                let memory = function["attributes"]["memory_size"].as_u64();
                Ok((
                    stage
                        .context("a function has no stage as its index")?
                        .to_owned(),
                    memory
                        .and_then(|memory| memory.try_into().ok())
                        .context("a function has no memory size")?,
                ))
            })
            .collect()
    }

    /// Returns the ARN of the state machine.
    ///
    /// # Errors
    /// Fails if nothing is applied.
    pub fn state_machine_arn(&self) -> Result<String> {
        Ok(self.outputs()?["state_machine_arn"]["value"]
            .as_str()
            .context("the module does not have this output")?
            .to_owned())
    }

    /// Returns the body of the dashboard.
    ///
    /// # Errors
    /// Fails if nothing is applied.
    pub fn dashboard(&self) -> Result<Value> {
        let dashboards = self.instances("aws_cloudwatch_dashboard")?;
        let body = dashboards
            .first()
            .and_then(|dashboard| dashboard["attributes"]["dashboard_body"].as_str())
            .context("the module has no dashboard")?;
        Ok(serde_json::from_str(body)?)
    }

    /// Returns the instances of every resource of a type.
    fn instances(&self, resource_type: &str) -> Result<Vec<Value>> {
        let applied = self.applied()?;
        let resources = applied["resources"].as_array().into_iter().flatten();
        Ok(resources
            .filter(|resource| resource["type"] == resource_type)
            .filter_map(|resource| resource["instances"].as_array())
            .flatten()
            .cloned()
            .collect())
    }

    /// Reads Terraform's state.
    fn applied(&self) -> Result<Value> {
        let path = self.state.join("terraform.tfstate");
        let json = std::fs::read(path)
            .context("reading Terraform's state failed. Apply the module first")?;
        Ok(serde_json::from_slice(&json)?)
    }

    fn run_with_state(&self, arguments: &[&str]) -> Result<Output> {
        Self::finish(arguments, self.command(arguments, true).output()?)
    }

    fn run(&self, arguments: &[&str]) -> Result<Output> {
        Self::finish(arguments, self.command(arguments, false).output()?)
    }

    fn command(&self, arguments: &[&str], with_state: bool) -> Command {
        let mut command = Command::new(&self.terraform);
        command
            .arg(format!("-chdir={}", self.module.display()))
            .args(arguments)
            .arg("-no-color");
        if with_state {
            command
                .arg(format!(
                    "-state={}",
                    self.state.join("terraform.tfstate").display()
                ))
                .arg(format!("-var-file={}", self.variables.display()));
        }
        command
            .env("TF_DATA_DIR", self.state.join("data"))
            .env("TF_IN_AUTOMATION", "1");
        command
    }

    fn finish(arguments: &[&str], output: Output) -> Result<Output> {
        ensure!(
            output.status.success(),
            "terraform {} failed:\n{}",
            arguments[0],
            text(&output)
        );
        Ok(output)
    }
}

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}
