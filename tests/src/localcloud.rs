//! The local cloud: its process and its control routes.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use anyhow::{Context as _, Result, bail, ensure};
use jiff::Timestamp;
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
    /// The role's name for functions, nodes and state machines, else the access key.
    pub caller: String,
    /// What the call names, where it names one thing.
    pub resource: Option<String>,
    /// The ID of the Lambda invocation that made the call, where one did.
    pub invocation: Option<String>,
}

impl Call {
    /// The stage whose function made the call.
    #[must_use]
    pub fn stage(&self) -> Option<&str> {
        let role = self.caller.strip_prefix("prepull-")?;
        role.strip_suffix(&format!("-{}", crate::world::REGION))
    }

    /// The same call as any build of any cache makes it: `{cache}` for `cache`, and `*` for IDs and for the names of its
    /// executions.
    #[must_use]
    pub fn in_terms_of(mut self, cache: &str) -> Self {
        let executions = format!("{cache}-");
        let general = |part: &str| match part {
            part if part == cache => "{cache}".to_owned(),
            part if part.starts_with(&executions) => "{cache}-*".to_owned(),
            part if ["i-", "vol-", "snap-", "subnet-"]
                .iter()
                .any(|id| part.starts_with(id)) =>
            {
                "*".to_owned()
            }
            part => part.to_owned(),
        };
        self.resource = self.resource.map(|resource| {
            let parts = resource.split_inclusive(['/', ':']);
            parts
                .map(|part| match part.strip_suffix(['/', ':']) {
                    Some(name) => general(name) + &part[name.len()..],
                    None => general(part),
                })
                .collect()
        });
        self
    }
}

/// Credentials of a role, as a function of it has them.
#[derive(Debug, Clone, Deserialize)]
pub struct RoleCredentials {
    /// The access key.
    #[serde(rename = "AWS_ACCESS_KEY_ID")]
    pub access_key_id: String,
    /// Its secret part.
    #[serde(rename = "AWS_SECRET_ACCESS_KEY")]
    pub secret_access_key: String,
    /// The session's token.
    #[serde(rename = "AWS_SESSION_TOKEN")]
    pub session_token: String,
}

/// One action of one statement in a role's policies.
#[derive(Debug, Clone, Deserialize)]
pub struct Grant {
    /// The role's name.
    pub role: String,
    /// The statement's ID.
    pub statement: String,
    /// The action, `ec2:RunInstances`.
    pub action: String,
    /// How many calls it allowed.
    pub calls: u64,
}

/// A call that a role's policies did not allow.
#[derive(Debug, Clone, Deserialize)]
pub struct Denial {
    /// The role's name.
    pub role: String,
    /// The action, `ec2:RunInstances`.
    pub action: String,
    /// What AWS says to it.
    pub message: String,
    /// The session of the caller's credentials.
    pub session: String,
}

impl Denial {
    /// Whether the call was made with [`LocalCloud::credentials`], and not by a function or a service.
    #[must_use]
    pub fn is_of_a_test(&self) -> bool {
        self.session == "handed-out"
    }
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
    /// When it ran.
    pub running_at: Timestamp,
    /// What the container printed.
    pub output: String,
    /// The container's exit code.
    pub exit_code: i32,
    /// Whether the node only simulates containers.
    pub simulated: bool,
}

/// What the registries have answered since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Traffic {
    /// How many requests.
    pub requests: u64,
    /// With how many bytes.
    pub bytes: u64,
}

impl Traffic {
    /// What came between `earlier` and this.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            requests: self.requests - earlier.requests,
            bytes: self.bytes - earlier.bytes,
        }
    }
}

impl LocalCloud {
    /// Starts a local cloud that keeps its state in `state`, and waits until it can be used.
    ///
    /// # Errors
    /// Fails if it does not start; the message names its log.
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
    /// Panics if another thread panicked while it held the process.
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
    /// Fails if its process cannot be reached or ends badly.
    ///
    /// # Panics
    /// Panics if another thread panicked while it held the process.
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

    /// Makes calls of an API fail, in the form of its README, and returns the fault's ID.
    ///
    /// # Errors
    /// Fails if the local cloud refuses.
    pub async fn add_fault(&self, fault: Value) -> Result<String> {
        let fault: Fault = self
            .control(reqwest::Method::POST, "faults", Some(fault))
            .await?;
        Ok(fault.id)
    }

    /// How many calls a fault has met.
    ///
    /// # Errors
    /// Fails if there is no such fault.
    pub async fn fault_hits(&self, fault: &str) -> Result<u64> {
        let fault: Fault = self
            .control(reqwest::Method::GET, &format!("faults/{fault}"), None)
            .await?;
        Ok(fault.hits)
    }

    /// Takes a fault back.
    ///
    /// # Errors
    /// Fails if there is no such fault.
    pub async fn remove_fault(&self, fault: &str) -> Result<()> {
        self.control::<Value>(reqwest::Method::DELETE, &format!("faults/{fault}"), None)
            .await
            .map(drop)
    }

    /// Changes settings for the builders of one cache.
    ///
    /// # Errors
    /// Fails if the local cloud refuses.
    pub async fn set_for(&self, cache: &str, settings: Value) -> Result<()> {
        let route = format!("settings?cache={cache}");
        self.control::<Value>(reqwest::Method::POST, &route, Some(settings))
            .await
            .map(drop)
    }

    /// Takes back what was set for one cache.
    ///
    /// # Errors
    /// Fails if the local cloud does not answer.
    pub async fn unset_for(&self, cache: &str) -> Result<()> {
        let route = format!("settings?cache={cache}");
        self.control::<Value>(reqwest::Method::DELETE, &route, None)
            .await
            .map(drop)
    }

    /// Lets the registry that wants a password break off after so many more bytes of a repository, or work again.
    ///
    /// # Errors
    /// Fails if the local cloud refuses.
    pub async fn break_registry(&self, repository: &str, after_bytes: Option<u64>) -> Result<()> {
        let body = json!({"fail_after_bytes": after_bytes, "repositories": repository});
        self.control::<Value>(reqwest::Method::POST, "registries/private", Some(body))
            .await
            .map(drop)
    }

    /// Changes settings: timings and the speed of the schedules' clock.
    ///
    /// # Errors
    /// Fails if the local cloud refuses.
    pub async fn set(&self, settings: Value) -> Result<()> {
        self.control::<Value>(reqwest::Method::POST, "settings", Some(settings))
            .await
            .map(drop)
    }

    /// The settings that hold now, by the names of its README.
    ///
    /// # Errors
    /// Fails if the local cloud does not answer.
    pub async fn settings(&self) -> Result<Value> {
        self.control(reqwest::Method::GET, "settings", None).await
    }

    /// What the registries have answered so far.
    ///
    /// # Errors
    /// Fails if the local cloud does not answer.
    pub async fn traffic(&self) -> Result<Traffic> {
        self.control(reqwest::Method::GET, "registries/traffic", None)
            .await
    }

    /// Takes back every fault and every changed setting, and forgets the calls.
    ///
    /// # Errors
    /// Fails if the local cloud refuses.
    pub async fn reset(&self) -> Result<()> {
        self.control::<Value>(reqwest::Method::POST, "reset", None)
            .await
            .map(drop)
    }

    /// Calls a Lambda function and waits for its answer, which may be an error: `{"errorType", "errorMessage"}`.
    ///
    /// # Errors
    /// Fails if there is no such function.
    pub async fn invoke(&self, function: &str, payload: &Value) -> Result<Value> {
        let request = self.invocation(function, "RequestResponse", payload);
        let text = request.send().await?.text().await?;
        serde_json::from_str(&text).with_context(|| format!("{function} answered {text}"))
    }

    /// Calls a Lambda function and waits for nothing, as EventBridge does.
    ///
    /// # Errors
    /// Fails if there is no such function.
    pub async fn send_event(&self, function: &str, payload: &Value) -> Result<()> {
        let request = self.invocation(function, "Event", payload);
        request.send().await?.error_for_status()?;
        Ok(())
    }

    fn invocation(&self, function: &str, kind: &str, payload: &Value) -> reqwest::RequestBuilder {
        let route = format!("2015-03-31/functions/{function}/invocations");
        self.signed("lambda", &route)
            .header("x-amz-invocation-type", kind)
            .json(payload)
    }

    /// The messages of a queue, as many as SQS shows at once. They stay there.
    ///
    /// # Errors
    /// Fails if there is no such queue.
    pub async fn messages(&self, queue: &str) -> Result<Vec<String>> {
        let request = self
            .signed("sqs", "")
            .header("x-amz-target", "AmazonSQS.ReceiveMessage")
            .header("content-type", "application/x-amz-json-1.0")
            .json(&json!({"QueueUrl": queue, "MaxNumberOfMessages": 10, "VisibilityTimeout": 0}));
        let answer: Value = request.send().await?.error_for_status()?.json().await?;
        let messages = answer["Messages"].as_array();
        Ok(messages
            .into_iter()
            .flatten()
            .filter_map(|message| message["Body"].as_str().map(str::to_owned))
            .collect())
    }

    /// Calls a Lambda function with credentials of a role, and returns the code by which that is refused.
    ///
    /// # Errors
    /// Fails if it is not refused.
    pub async fn refused_invocation(
        &self,
        function: &str,
        credentials: &RoleCredentials,
    ) -> Result<String> {
        let route = format!("2015-03-31/functions/{function}/invocations");
        let request = self.signed_by(&credentials.access_key_id, "lambda", &route);
        let answer = request.json(&json!({})).send().await?;
        let code = answer.headers().get("x-amzn-errortype");
        let code = code.and_then(|code| code.to_str().ok());
        Ok(code
            .with_context(|| format!("{function} answered {}", answer.status()))?
            .to_owned())
    }

    /// Calls an action of IAM, for which prepull has no client.
    ///
    /// # Errors
    /// Fails if IAM refuses.
    pub async fn iam(&self, action: &str, parameters: &[(&str, &str)]) -> Result<()> {
        let mut form = vec![("Action", action), ("Version", "2010-05-08")];
        form.extend(parameters);
        let url = reqwest::Url::parse_with_params(&self.endpoint, form)?;
        let query = url.query().unwrap_or_default();
        let request = self.signed("iam", &format!("?{query}"));
        request.send().await?.error_for_status()?;
        Ok(())
    }

    /// A call of a service for which prepull has no client.
    fn signed(&self, service: &str, route: &str) -> reqwest::RequestBuilder {
        self.signed_by("localcloud", service, route)
    }

    fn signed_by(&self, access_key: &str, service: &str, route: &str) -> reqwest::RequestBuilder {
        // The local cloud tells services apart by the scope of the signature, which it does not check.
        let signature = format!(
            "AWS4-HMAC-SHA256 Credential={access_key}/20260101/eu-west-1/{service}/aws4_request, \
             SignedHeaders=host, Signature=none"
        );
        self.http
            .post(format!("{}/{route}", self.endpoint))
            .header("authorization", signature)
    }

    /// Every AWS call since the last [`LocalCloud::forget_calls`].
    ///
    /// # Errors
    /// Fails if the local cloud does not answer.
    pub async fn calls(&self) -> Result<Vec<Call>> {
        self.control(reqwest::Method::GET, "calls", None).await
    }

    /// Those calls that were made by invocations of functions whose input contains `text`.
    ///
    /// # Errors
    /// Fails if the local cloud does not answer.
    pub async fn calls_for(&self, text: &str) -> Result<Vec<Call>> {
        let text = text.replace('"', "%22");
        self.control(
            reqwest::Method::GET,
            &format!("calls?invocation={text}"),
            None,
        )
        .await
    }

    /// Empties the log of calls.
    ///
    /// # Errors
    /// Fails if the local cloud does not answer.
    pub async fn forget_calls(&self) -> Result<()> {
        self.control::<Value>(reqwest::Method::DELETE, "calls", None)
            .await
            .map(drop)
    }

    /// Credentials of a role.
    ///
    /// # Errors
    /// Fails if there is no such role.
    pub async fn credentials(&self, role: &str) -> Result<RoleCredentials> {
        self.control(reqwest::Method::GET, &format!("credentials/{role}"), None)
            .await
    }

    /// What the policies of all roles allow, and how often that was used since the start.
    ///
    /// # Errors
    /// Fails if the local cloud does not answer.
    pub async fn grants(&self) -> Result<Vec<Grant>> {
        self.control(reqwest::Method::GET, "grants", None).await
    }

    /// Every call since the start that its caller's policies did not allow.
    ///
    /// # Errors
    /// Fails if the local cloud does not answer.
    pub async fn denials(&self) -> Result<Vec<Denial>> {
        self.control(reqwest::Method::GET, "denials", None).await
    }

    /// Instances, volumes, pending snapshots, processes, mounts and loop devices that are there now, by kind.
    ///
    /// # Errors
    /// Fails if the local cloud does not answer.
    pub async fn leftovers(&self) -> Result<Value> {
        self.control(reqwest::Method::GET, "leftovers", None).await
    }

    /// Starts a container from `reference` on a node as a kubelet would: pulls the image only when it is absent.
    ///
    /// # Errors
    /// Fails if the image cannot be pulled or the container not be started.
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
    /// Fails if there is no such node.
    pub async fn cut_power(&self, node: &InstanceId) -> Result<()> {
        self.control::<Value>(
            reqwest::Method::POST,
            &format!("nodes/{node}/power-cut"),
            None,
        )
        .await
        .map(drop)
    }

    /// How many blocks of 512 KiB of a snapshot differ from those of `base`, or from zeros: what EBS would store. None on
    /// simulated nodes, whose volumes have no blocks.
    ///
    /// # Errors
    /// Fails if there is no such snapshot.
    pub async fn changed_blocks(
        &self,
        snapshot: &SnapshotId,
        base: Option<&SnapshotId>,
    ) -> Result<Option<u64>> {
        #[derive(Deserialize)]
        struct Changed {
            blocks: Option<u64>,
        }
        let base = base.map(|base| format!("?base={base}"));
        let route = format!("snapshots/{snapshot}/blocks{}", base.unwrap_or_default());
        Ok(self
            .control::<Changed>(reqwest::Method::GET, &route, None)
            .await?
            .blocks)
    }

    /// The files on a snapshot's volume below `directory`.
    ///
    /// # Errors
    /// Fails if there is no such snapshot.
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

    /// Damages a snapshot: removes the file on its volume whose path ends with `name`.
    ///
    /// # Errors
    /// Fails if there is no such file.
    pub async fn damage_snapshot(&self, snapshot: &SnapshotId, name: &str) -> Result<()> {
        let files = self.snapshot_files(snapshot, "/local").await?;
        let path = files
            .iter()
            .find(|path| path.ends_with(name))
            .with_context(|| format!("{snapshot} has no file {name}"))?;
        let route = format!("snapshots/{snapshot}/files?path={path}");
        self.control::<Value>(reqwest::Method::DELETE, &route, None)
            .await
            .map(drop)
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
struct Fault {
    id: String,
    #[serde(default)]
    hits: u64,
}

#[derive(Deserialize)]
struct ReadyMessage {
    ready: Ready,
}
