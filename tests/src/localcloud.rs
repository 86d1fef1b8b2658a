//! The local cloud: its process and its control routes.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use anyhow::{Context as _, Result, bail, ensure};
use prepull_domain::{InstanceId, SnapshotId};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::Environment;

/// A running local cloud. It ends, with all that runs in it, when this is dropped.
#[derive(Debug)]
pub struct LocalCloud {
    /// The URL of every AWS API.
    pub endpoint: String,
    /// What it said of itself when it was ready.
    pub ready: Ready,
    process: Mutex<Child>,
    log: PathBuf,
    http: reqwest::Client,
}

/// What a local cloud says of itself.
#[derive(Debug, Clone, Deserialize)]
pub struct Ready {
    /// Whether nodes run a real containerd.
    pub nodes: Nodes,
    /// Why nodes are simulated, where they are.
    #[serde(default)]
    pub why: String,
    /// The certificate authority of the registries.
    pub ca_certificate: PathBuf,
    /// The registries.
    pub registries: Registries,
}

/// How nodes are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Nodes {
    /// Each runs its own containerd on an XFS volume.
    Real,
    /// Each is a directory, because there is no root or no loop device.
    Simulated,
}

/// The registries of a local cloud.
#[derive(Debug, Clone, Deserialize)]
pub struct Registries {
    /// What private ECR stores its images in.
    pub ecr: Registry,
    /// A registry that wants a user name and a password.
    pub private: Registry,
}

/// A registry: the name that references use, and the address that it really has.
#[derive(Debug, Clone, Deserialize)]
pub struct Registry {
    /// The host as references name it.
    pub host: String,
    /// Where it listens.
    pub address: String,
    /// Its user.
    pub username: String,
    /// The user's password.
    pub password: String,
}

/// A call of an AWS API.
#[derive(Debug, Clone, Deserialize)]
pub struct Call {
    /// `ec2`.
    pub service: String,
    /// `RunInstances`.
    pub action: String,
}

/// How a container started on a node.
#[derive(Debug, Clone, Deserialize)]
pub struct ContainerRun {
    /// Whether the image was there before.
    pub present: bool,
    /// Bytes that the registries sent for it.
    pub pulled_bytes: u64,
    /// Requests that the registries answered for it.
    pub requests: u64,
    /// Seconds from the request until the container ran.
    pub seconds: f64,
    /// What the container printed.
    pub output: String,
    /// The container's exit code.
    pub exit_code: i32,
    /// Whether the node only simulates containers.
    pub simulated: bool,
}

impl LocalCloud {
    /// Starts a local cloud that keeps its state in `state`, and waits until it can be used.
    ///
    /// # Errors
    /// Where it does not start; the message names its log.
    pub fn start(environment: &Environment, state: &Path) -> Result<Self> {
        std::fs::create_dir_all(state)?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let log = state.join("localcloud.log");
        let mut process = Command::new(&environment.python)
            .args(["-m", "localcloud", "--port", &port.to_string(), "--state"])
            .arg(state)
            .current_dir(environment.repository.join("localcloud"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&log)?)
            .spawn()
            .with_context(|| format!("starting {}", environment.python.display()))?;
        let mut line = String::new();
        let mut stdout = BufReader::new(process.stdout.take().context("stdout is piped")?);
        stdout.read_line(&mut line)?;
        let Ok(message) = serde_json::from_str::<ReadyMessage>(&line) else {
            let _ = process.kill();
            let _ = process.wait();
            bail!("localcloud did not start: see {}\n{line}", log.display());
        };
        // Whatever it prints later belongs to its log; an unread pipe would stop it.
        std::thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()));
        Ok(Self {
            endpoint: format!("http://127.0.0.1:{port}"),
            ready: message.ready,
            process: Mutex::new(process),
            log,
            http: reqwest::Client::new(),
        })
    }

    /// The file that the local cloud logs to.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The ID of its process.
    ///
    /// # Panics
    /// Where another thread panicked while it held the process.
    #[must_use]
    pub fn process_id(&self) -> u32 {
        self.process
            .lock()
            .expect("nobody panics with the process")
            .id()
    }

    /// Ends the local cloud and all that runs in it.
    ///
    /// # Errors
    /// Where its process cannot be reached or ends badly.
    ///
    /// # Panics
    /// Where another thread panicked while it held the process.
    pub fn stop(&self) -> Result<()> {
        let mut process = self.process.lock().expect("nobody panics with the process");
        if let Some(status) = process.try_wait()? {
            ensure!(
                status.success(),
                "localcloud ended early with {status}: see {}",
                self.log.display()
            );
            return Ok(());
        }
        // `Child::kill` would be SIGKILL, which leaves it no time to stop its nodes.
        Command::new("kill")
            .args(["-TERM", &process.id().to_string()])
            .status()?;
        let status = process.wait()?;
        ensure!(
            status.success(),
            "localcloud ended with {status}: see {}",
            self.log.display()
        );
        Ok(())
    }

    async fn control<T: DeserializeOwned>(
        &self,
        method: reqwest::Method,
        route: &str,
        body: Option<Value>,
    ) -> Result<T> {
        let mut request = self
            .http
            .request(method, format!("{}/localcloud/{route}", self.endpoint));
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await?;
        let status = response.status();
        let text = response.text().await?;
        ensure!(
            status.is_success(),
            "localcloud answered {status} to {route}: {text}"
        );
        serde_json::from_str(&text)
            .with_context(|| format!("localcloud answered {text} to {route}"))
    }

    /// Makes calls of an API fail: `{"service", "action", "code", "message", "status", "times"}`.
    ///
    /// # Errors
    /// Where the local cloud refuses.
    pub async fn add_fault(&self, fault: Value) -> Result<()> {
        self.control::<Value>(reqwest::Method::POST, "faults", Some(fault))
            .await
            .map(drop)
    }

    /// Changes settings: timings and the speed of the schedules' clock.
    ///
    /// # Errors
    /// Where the local cloud refuses.
    pub async fn set(&self, settings: Value) -> Result<()> {
        self.control::<Value>(reqwest::Method::POST, "settings", Some(settings))
            .await
            .map(drop)
    }

    /// Takes back every fault and every changed setting, and forgets the calls.
    ///
    /// # Errors
    /// Where the local cloud refuses.
    pub async fn reset(&self) -> Result<()> {
        self.control::<Value>(reqwest::Method::POST, "reset", None)
            .await
            .map(drop)
    }

    /// Calls a Lambda function and waits for its answer, which may be an error: `{"errorType", "errorMessage"}`.
    ///
    /// # Errors
    /// Where there is no such function.
    pub async fn invoke(&self, function: &str, payload: &Value) -> Result<Value> {
        let url = format!(
            "{}/2015-03-31/functions/{function}/invocations",
            self.endpoint
        );
        // The local cloud tells services apart by the scope of the signature, which it does not check.
        let signature = "AWS4-HMAC-SHA256 Credential=localcloud/20260101/eu-west-1/lambda/aws4_request, \
                         SignedHeaders=host, Signature=none";
        let request = self
            .http
            .post(url)
            .header("authorization", signature)
            .json(payload);
        let text = request.send().await?.text().await?;
        serde_json::from_str(&text).with_context(|| format!("{function} answered {text}"))
    }

    /// Every AWS call since the last [`LocalCloud::forget_calls`].
    ///
    /// # Errors
    /// Where the local cloud does not answer.
    pub async fn calls(&self) -> Result<Vec<Call>> {
        self.control(reqwest::Method::GET, "calls", None).await
    }

    /// Empties the log of calls.
    ///
    /// # Errors
    /// Where the local cloud does not answer.
    pub async fn forget_calls(&self) -> Result<()> {
        self.control::<Value>(reqwest::Method::DELETE, "calls", None)
            .await
            .map(drop)
    }

    /// Instances, volumes, pending snapshots, processes, mounts and loop devices that are there now, by kind.
    ///
    /// # Errors
    /// Where the local cloud does not answer.
    pub async fn leftovers(&self) -> Result<Value> {
        self.control(reqwest::Method::GET, "leftovers", None).await
    }

    /// Starts a container from `reference` on a node as a kubelet would: pulls the image only when it is absent.
    ///
    /// # Errors
    /// Where the image cannot be pulled or the container not be started.
    pub async fn run_container(&self, node: &InstanceId, reference: &str) -> Result<ContainerRun> {
        self.control(
            reqwest::Method::POST,
            &format!("nodes/{node}/run"),
            Some(json!({ "reference": reference })),
        )
        .await
    }

    /// Cuts a node's power.
    ///
    /// # Errors
    /// Where there is no such node.
    pub async fn cut_power(&self, node: &InstanceId) -> Result<()> {
        self.control::<Value>(
            reqwest::Method::POST,
            &format!("nodes/{node}/power-cut"),
            None,
        )
        .await
        .map(drop)
    }

    /// The files on a snapshot's volume below `directory`.
    ///
    /// # Errors
    /// Where there is no such snapshot.
    pub async fn snapshot_files(
        &self,
        snapshot: &SnapshotId,
        directory: &str,
    ) -> Result<Vec<String>> {
        #[derive(Deserialize)]
        struct Files {
            files: Vec<String>,
        }
        let route = format!("snapshots/{snapshot}/files?under={directory}");
        Ok(self
            .control::<Files>(reqwest::Method::GET, &route, None)
            .await?
            .files)
    }
}

impl Drop for LocalCloud {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("{error:#}");
        }
    }
}

#[derive(Deserialize)]
struct ReadyMessage {
    ready: Ready,
}
