//! The process of the local cloud, and its control API.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;
use prepull_domain::{Bytes, InstanceId, SnapshotId};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::Environment;

/// A running local cloud. Dropping it stops the process and everything in it.
#[derive(Debug)]
pub struct LocalCloud {
    /// The URL of every AWS API.
    pub endpoint: String,
    /// Its description, printed when it became ready.
    pub ready: Ready,
    process: Mutex<Child>,
    log: PathBuf,
    http: reqwest::Client,
}

/// Description of a local cloud.
#[derive(Debug, Clone, Deserialize)]
pub struct Ready {
    /// Whether nodes run a real containerd.
    pub nodes: Nodes,
    /// The reason if nodes are simulated.
    #[serde(default)]
    pub why: String,
    /// The versions of containerd that real nodes can run, by minor version. Nodes run the newest by default.
    #[serde(default)]
    pub containerd: BTreeMap<String, String>,
    /// The certificate authority of the registries.
    pub ca_certificate: PathBuf,
    /// The registries.
    pub registries: Registries,
}

/// The kind of nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Nodes {
    /// Each node runs its own containerd on an XFS volume.
    Real,
    /// Each node is a directory, because the machine lacks root or loop devices.
    Simulated,
}

/// The registries of a local cloud.
#[derive(Debug, Clone, Deserialize)]
pub struct Registries {
    /// Storage of private ECR.
    pub ecr: Registry,
    /// Registry that requires a user name and a password.
    pub private: Registry,
}

/// A registry: its host in references, and its real address.
#[derive(Debug, Clone, Deserialize)]
pub struct Registry {
    /// Host in references.
    pub host: String,
    /// Address it listens on.
    pub address: String,
    /// User name.
    pub username: String,
    /// Password.
    pub password: String,
}

/// A call of an AWS API.
#[derive(Debug, Clone, Deserialize)]
pub struct Call {
    /// Service, for example `ec2`.
    pub service: String,
    /// Action, for example `RunInstances`.
    pub action: String,
    /// Role name of a function, node or state machine; otherwise the access key.
    pub caller: String,
    /// Resource in the call, if it has exactly one.
    pub resource: Option<String>,
    /// ID of the Lambda invocation, if a function made the call.
    pub invocation: Option<String>,
}

impl Call {
    /// Returns the stage whose function made the call.
    #[must_use]
    pub fn stage(&self) -> Option<&str> {
        let role = self.caller.strip_prefix("prepull-")?;
        role.strip_suffix(&format!("-{}", crate::world::REGION))
    }

    /// Makes the call independent of its build: replaces `cache` by `{cache}`, and IDs and execution names by `*`.
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
            // Folder of a configuration's further pages.
            part if part.len() == 16 && part.bytes().all(|b| b.is_ascii_hexdigit()) => {
                "*".to_owned()
            }
            part => part.to_owned(),
        };
        self.resource = self.resource.map(|resource| {
            // The numbers of decisions differ between runs.
            let resource = match resource.split_once("/decisions/") {
                Some((pointer, _)) => format!("{pointer}/decisions/*"),
                None => resource,
            };
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

/// Credentials of a role, as its function receives them.
#[derive(Debug, Clone, Deserialize)]
pub struct RoleCredentials {
    /// Access key ID.
    #[serde(rename = "AWS_ACCESS_KEY_ID")]
    pub access_key_id: String,
    /// Secret access key.
    #[serde(rename = "AWS_SECRET_ACCESS_KEY")]
    pub secret_access_key: String,
    /// Session token.
    #[serde(rename = "AWS_SESSION_TOKEN")]
    pub session_token: String,
}

/// One action of one statement in a role's policies.
#[derive(Debug, Clone, Deserialize)]
pub struct Grant {
    /// Role name.
    pub role: String,
    /// Statement ID.
    pub statement: String,
    /// Action, for example `ec2:RunInstances`.
    pub action: String,
    /// Number of calls that it allowed.
    pub calls: u64,
}

/// A call that the policies of a role did not allow.
#[derive(Debug, Clone, Deserialize)]
pub struct Denial {
    /// Role name.
    pub role: String,
    /// Action, for example `ec2:RunInstances`.
    pub action: String,
    /// Error message of AWS.
    pub message: String,
    /// Session name of the caller's credentials.
    pub session: String,
}

impl Denial {
    /// Returns whether a test made the call with [`LocalCloud::credentials`], not a function or a service.
    #[must_use]
    pub fn is_of_a_test(&self) -> bool {
        self.session == "handed-out"
    }
}

/// Every decision on a permission since the start, with its inputs.
#[derive(Debug, Clone, Deserialize)]
pub struct Decisions {
    /// Policy documents. Decisions contain their positions.
    pub policies: Vec<String>,
    /// The decisions, without repetitions.
    pub decisions: Vec<Decision>,
}

/// A decision on one permission.
#[derive(Debug, Clone, Deserialize)]
pub struct Decision {
    /// Action, for example `ec2:RunInstances`.
    pub action: String,
    /// ARN, or `*` if the action has no resource types.
    pub resource: String,
    /// Condition keys and their values.
    pub context: BTreeMap<String, Value>,
    /// Positions of the role's identity-based policies.
    pub policies: Vec<usize>,
    /// Position of the role's permissions boundary.
    pub boundary: Option<usize>,
    /// Whether the role has the permission.
    pub allowed: bool,
}

/// Comparison with AWS's Service Authorization Reference.
#[derive(Debug, Clone, Deserialize)]
pub struct ReferenceChecks {
    /// Number of statements in the roles' policies.
    pub statements: usize,
    /// Unknown actions, and resources and condition keys that their action does not support, in the statements.
    pub statement_problems: Vec<String>,
    /// Number of different permissions that calls needed.
    pub permissions: usize,
    /// The same problems in the permissions, which come from the local cloud's table.
    pub permission_problems: Vec<String>,
}

/// Numbers of checks against botocore's models, by service.
#[derive(Debug, Clone, Deserialize)]
pub struct Checks {
    /// Checked requests.
    pub requests: BTreeMap<String, u64>,
    /// Checked responses.
    pub responses: BTreeMap<String, u64>,
    /// Requests for actions that botocore does not have, by `service:action`.
    pub unchecked: BTreeMap<String, u64>,
    /// CPU time of the checks, in seconds: `request` and `response`.
    pub seconds: BTreeMap<String, f64>,
}

/// An image that containerd pulled.
#[derive(Debug, Clone, Deserialize)]
pub struct PulledImage {
    /// Digest of its configuration.
    pub id: String,
    /// Its names with the digest of the index or manifest.
    pub repo_digests: Vec<String>,
    /// Version of the containerd that pulled it.
    pub containerd: String,
}

/// Start of a container on a node.
#[derive(Debug, Clone, Deserialize)]
pub struct ContainerRun {
    /// Whether the image was on the node before.
    pub present: bool,
    /// Whether the kubelet must keep the image. Simulated nodes do not know it.
    #[serde(default)]
    pub pinned: bool,
    /// Bytes that the registries sent for it.
    pub pulled_bytes: u64,
    /// Requests that the registries answered for it.
    pub requests: u64,
    /// Seconds from the request until the container ran.
    pub seconds: f64,
    /// Time when it ran.
    pub running_at: Timestamp,
    /// Output of the container.
    pub output: String,
    /// Exit code of the container. `None` if it still ran at the time limit.
    pub exit_code: Option<i32>,
    /// Whether the node only simulates containers.
    pub simulated: bool,
}

/// The first call of a new process of a function.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ColdStart {
    /// Time from the start of the process until it asks for an invocation.
    pub init: Duration,
    /// Time from the invocation until the answer.
    pub answer: Duration,
    /// Peak of resident memory.
    pub memory: Bytes,
}

impl ColdStart {
    /// Reads the `REPORT` line at the end of a function's log. Returns `None` if an idle process answered.
    fn parse(log: &str) -> Result<Option<Self>> {
        let report = log.lines().rfind(|line| line.starts_with("REPORT "));
        let report = report.with_context(|| format!("the log has no REPORT line: {log}"))?;
        let field = |name: &str| -> Option<f64> {
            let value = report
                .split('\t')
                .find_map(|field| field.strip_prefix(name))?;
            value.split_whitespace().next()?.parse().ok()
        };
        let Some(init) = field("Init Duration: ") else {
            return Ok(None);
        };
        let milliseconds = |value: f64| Duration::from_secs_f64(value / 1e3);
        let incomplete = || format!("the REPORT line is incomplete: {report}");
        let memory = field("Max Memory Used: ").with_context(incomplete)?;
        Ok(Some(Self {
            init: milliseconds(init),
            answer: milliseconds(field("Duration: ").with_context(incomplete)?),
            memory: megabytes(memory),
        }))
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a size is not negative, and fractions of a byte do not count"
)]
fn megabytes(value: f64) -> Bytes {
    Bytes((value * 1e6) as u64)
}

/// Answers of the registries since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Traffic {
    /// Number of requests.
    pub requests: u64,
    /// Number of bytes.
    pub bytes: u64,
}

impl Traffic {
    /// Returns the difference to `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            requests: self.requests - earlier.requests,
            bytes: self.bytes - earlier.bytes,
        }
    }
}

impl LocalCloud {
    /// Starts a local cloud with its state in `state`, and waits until it is ready.
    ///
    /// # Errors
    /// Fails if it does not start. The message contains the path of its log.
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
            bail!("localcloud did not start: {line}\nSee {}.", log.display());
        };
        // Copies all later output to its log, because the process blocks when the pipe is full.
        std::thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()));
        Ok(Self {
            endpoint: format!("http://127.0.0.1:{port}"),
            ready: message.ready,
            process: Mutex::new(process),
            log,
            http: reqwest::Client::new(),
        })
    }

    /// Returns the path of the local cloud's log.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Returns its process ID.
    ///
    /// # Panics
    /// Panics if another thread panicked while it held the process.
    #[must_use]
    pub fn process_id(&self) -> u32 {
        self.process
            .lock()
            .expect("no thread panics while it holds the process")
            .id()
    }

    /// Stops the local cloud and everything in it.
    ///
    /// # Errors
    /// Fails if the process cannot be signalled or exits with an error.
    ///
    /// # Panics
    /// Panics if another thread panicked while it held the process.
    pub fn stop(&self) -> Result<()> {
        let mut process = self
            .process
            .lock()
            .expect("no thread panics while it holds the process");
        if let Some(status) = process.try_wait()? {
            ensure!(
                status.success(),
                "localcloud exited early with {status}. See {}",
                self.log.display()
            );
            return Ok(());
        }
        // `Child::kill` sends SIGKILL, which would give it no time to stop its nodes.
        Command::new("kill")
            .args(["-TERM", &process.id().to_string()])
            .status()?;
        let status = process.wait()?;
        ensure!(
            status.success(),
            "localcloud failed with {status}. See {}",
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

    /// Adds a fault that makes API calls fail, and returns its ID. The README of localcloud describes the format.
    ///
    /// # Errors
    /// Fails if the local cloud refuses.
    pub async fn add_fault(&self, fault: Value) -> Result<String> {
        let fault: Fault = self
            .control(reqwest::Method::POST, "faults", Some(fault))
            .await?;
        Ok(fault.id)
    }

    /// Returns the number of calls that a fault has hit.
    ///
    /// # Errors
    /// Fails if the fault does not exist.
    pub async fn fault_hits(&self, fault: &str) -> Result<u64> {
        let fault: Fault = self
            .control(reqwest::Method::GET, &format!("faults/{fault}"), None)
            .await?;
        Ok(fault.hits)
    }

    /// Removes a fault.
    ///
    /// # Errors
    /// Fails if the fault does not exist.
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

    /// Removes the settings for one cache.
    ///
    /// # Errors
    /// Fails if the local cloud does not answer.
    pub async fn unset_for(&self, cache: &str) -> Result<()> {
        let route = format!("settings?cache={cache}");
        self.control::<Value>(reqwest::Method::DELETE, &route, None)
            .await
            .map(drop)
    }

    /// Makes the password-protected registry fail after `after_bytes` more bytes of a repository, or work again if `None`.
    ///
    /// # Errors
    /// Fails if the local cloud refuses.
    pub async fn break_registry(&self, repository: &str, after_bytes: Option<u64>) -> Result<()> {
        let body = json!({"fail_after_bytes": after_bytes, "repositories": repository});
        self.control::<Value>(reqwest::Method::POST, "registries/private", Some(body))
            .await
            .map(drop)
    }

    /// Changes settings, such as delays and the speed of the schedules' clock.
    ///
    /// # Errors
    /// Fails if the local cloud refuses.
    pub async fn set(&self, settings: Value) -> Result<()> {
        self.control::<Value>(reqwest::Method::POST, "settings", Some(settings))
            .await
            .map(drop)
    }

    /// Shortens the delays of instances and snapshots, which are about a second by default.
    ///
    /// # Errors
    /// Fails if the local cloud refuses.
    pub async fn shorten_delays(&self) -> Result<()> {
        self.set(json!({"pending_seconds": 0.2, "agent_seconds": 0.2, "admin_seconds": 0.2, "stopping_seconds": 0.2,
            "shutting_down_seconds": 0.2, "snapshot_seconds": 0.5}))
            .await
    }

    /// Returns the current settings. The README of localcloud describes them.
    ///
    /// # Errors
    /// Fails if the local cloud does not answer.
    pub async fn settings(&self) -> Result<Value> {
        self.control(reqwest::Method::GET, "settings", None).await
    }

    /// Returns the registries' traffic so far.
    ///
    /// # Errors
    /// Fails if the local cloud does not answer.
    pub async fn traffic(&self) -> Result<Traffic> {
        self.control(reqwest::Method::GET, "registries/traffic", None)
            .await
    }

    /// Removes every fault and changed setting, and clears the log of calls.
    ///
    /// # Errors
    /// Fails if the local cloud refuses.
    pub async fn reset(&self) -> Result<()> {
        self.control::<Value>(reqwest::Method::POST, "reset", None)
            .await
            .map(drop)
    }

    /// Calls a Lambda function and returns its answer. A failure is also an answer: `{"errorType", "errorMessage"}`.
    ///
    /// # Errors
    /// Fails if the function does not exist.
    pub async fn invoke(&self, function: &str, payload: &Value) -> Result<Value> {
        let request = self.invocation(function, "RequestResponse", payload);
        let text = request.send().await?.text().await?;
        serde_json::from_str(&text).with_context(|| format!("{function} answered {text}"))
    }

    /// Calls a Lambda function and returns the times and memory of its new process. Returns `None` if an idle process
    /// answered.
    ///
    /// # Errors
    /// Fails if the function does not exist, or its process ends without an answer.
    pub async fn start_function(
        &self,
        function: &str,
        payload: &Value,
    ) -> Result<Option<ColdStart>> {
        let request = self.invocation(function, "RequestResponse", payload);
        let response = request.header("x-amz-log-type", "Tail").send().await?;
        let log = response.headers().get("x-amz-log-result");
        let log = log.with_context(|| format!("the answer of {function} has no log"))?;
        ColdStart::parse(&String::from_utf8(BASE64_STANDARD.decode(log)?)?)
    }

    /// Calls a Lambda function asynchronously, as EventBridge does.
    ///
    /// # Errors
    /// Fails if the function does not exist.
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

    /// Returns the messages of a queue, up to the limit of one SQS call. The messages stay in the queue.
    ///
    /// # Errors
    /// Fails if the queue does not exist.
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

    /// Returns every line of a log group.
    ///
    /// # Errors
    /// Fails if the log group does not exist.
    pub async fn log_lines(&self, group: &str) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        let mut next = Value::Null;
        loop {
            let mut body = json!({ "logGroupName": group });
            if next.is_string() {
                body["nextToken"] = next;
            }
            let request = self
                .signed("logs", "")
                .header("x-amz-target", "Logs_20140328.FilterLogEvents")
                .header("content-type", "application/x-amz-json-1.1")
                .json(&body);
            let answer: Value = request.send().await?.error_for_status()?.json().await?;
            let events = answer["events"].as_array().into_iter().flatten();
            lines.extend(events.filter_map(|event| event["message"].as_str().map(str::to_owned)));
            next = answer["nextToken"].clone();
            if !next.is_string() {
                return Ok(lines);
            }
        }
    }

    /// Calls a Lambda function with the credentials of a role, and returns the error code of the refusal.
    ///
    /// # Errors
    /// Fails if the call is not refused.
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

    /// Calls an action of IAM. The tests have no client for IAM.
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

    /// Returns a signed request to a service for which the tests have no client.
    fn signed(&self, service: &str, route: &str) -> reqwest::RequestBuilder {
        self.signed_by("localcloud", service, route)
    }

    fn signed_by(&self, access_key: &str, service: &str, route: &str) -> reqwest::RequestBuilder {
        // The local cloud routes by the scope of the signature and does not verify the signature.
        let signature = format!(
            "AWS4-HMAC-SHA256 Credential={access_key}/20260101/eu-west-1/{service}/aws4_request, \
             SignedHeaders=host, Signature=none"
        );
        self.http
            .post(format!("{}/{route}", self.endpoint))
            .header("authorization", signature)
    }

    /// Returns every AWS call since the last [`LocalCloud::forget_calls`].
    ///
    /// # Errors
    /// Fails if the local cloud does not answer.
    pub async fn calls(&self) -> Result<Vec<Call>> {
        self.control(reqwest::Method::GET, "calls", None).await
    }

    /// Returns the calls of function invocations whose input contains `text`.
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

    /// Clears the log of calls.
    ///
    /// # Errors
    /// Fails if the local cloud does not answer.
    pub async fn forget_calls(&self) -> Result<()> {
        self.control::<Value>(reqwest::Method::DELETE, "calls", None)
            .await
            .map(drop)
    }

    /// Returns credentials of a role.
    ///
    /// # Errors
    /// Fails if the role does not exist.
    pub async fn credentials(&self, role: &str) -> Result<RoleCredentials> {
        self.control(reqwest::Method::GET, &format!("credentials/{role}"), None)
            .await
    }

    /// Returns the grants of all roles, and their number of uses since the start.
    ///
    /// # Errors
    /// Fails if the local cloud does not answer.
    pub async fn grants(&self) -> Result<Vec<Grant>> {
        self.control(reqwest::Method::GET, "grants", None).await
    }

    /// Returns every call since the start that the caller's policies did not allow.
    ///
    /// # Errors
    /// Fails if the local cloud does not answer.
    pub async fn denials(&self) -> Result<Vec<Denial>> {
        self.control(reqwest::Method::GET, "denials", None).await
    }

    /// Returns every decision on a permission since the start.
    ///
    /// # Errors
    /// Fails if the local cloud does not answer.
    pub async fn decisions(&self) -> Result<Decisions> {
        self.control(reqwest::Method::GET, "decisions", None).await
    }

    /// Compares the roles' policies and the permissions of all calls with the Service Authorization Reference.
    ///
    /// # Errors
    /// Fails if the local cloud does not answer.
    pub async fn check_reference(&self) -> Result<ReferenceChecks> {
        self.control(reqwest::Method::GET, "reference", None).await
    }

    /// Removes and returns the requests and responses that violate the model of their service.
    ///
    /// # Errors
    /// Fails if the local cloud does not answer.
    pub async fn take_violations(&self) -> Result<Vec<Value>> {
        self.control(reqwest::Method::DELETE, "violations", None)
            .await
    }

    /// Returns the numbers of requests and responses that were checked against botocore's models.
    ///
    /// # Errors
    /// Fails if the local cloud does not answer.
    pub async fn checks(&self) -> Result<Checks> {
        self.control(reqwest::Method::GET, "checks", None).await
    }

    /// Returns the current instances, volumes, pending snapshots, processes, mounts and loop devices, by kind.
    ///
    /// # Errors
    /// Fails if the local cloud does not answer.
    pub async fn leftovers(&self) -> Result<Value> {
        self.control(reqwest::Method::GET, "leftovers", None).await
    }

    /// Starts a container from `reference` on a node. Like a kubelet, pulls the image only if it is absent.
    ///
    /// # Errors
    /// Fails if the image cannot be pulled or the container cannot be started.
    pub async fn run_container(&self, node: &InstanceId, reference: &str) -> Result<ContainerRun> {
        self.control(
            reqwest::Method::POST,
            &format!("nodes/{node}/run"),
            Some(json!({ "reference": reference })),
        )
        .await
    }

    /// Pulls an image on a node through CRI, as a kubelet with image pull secrets does. The inner error is containerd's.
    ///
    /// # Errors
    /// Fails if the node does not exist or is simulated.
    pub async fn pull_image(
        &self,
        node: &InstanceId,
        reference: &str,
        credentials: Option<(&str, &str)>,
    ) -> Result<std::result::Result<PulledImage, String>> {
        #[derive(Deserialize)]
        struct Answer {
            image: Option<PulledImage>,
            #[serde(default)]
            error: String,
        }
        let (username, password) = credentials.unwrap_or_default();
        let body = json!({"reference": reference, "username": username, "password": password});
        let route = format!("nodes/{node}/pull");
        let answer: Answer = self
            .control(reqwest::Method::POST, &route, Some(body))
            .await?;
        Ok(answer.image.ok_or(answer.error))
    }

    /// Cuts a node's power.
    ///
    /// # Errors
    /// Fails if the node does not exist.
    pub async fn cut_power(&self, node: &InstanceId) -> Result<()> {
        self.control::<Value>(
            reqwest::Method::POST,
            &format!("nodes/{node}/power-cut"),
            None,
        )
        .await
        .map(drop)
    }

    /// Returns the number of 512 KiB blocks that differ from `base`, or from zeros if there is no base. EBS would store
    /// these blocks. Returns `None` on simulated nodes, because their volumes have no blocks.
    ///
    /// # Errors
    /// Fails if the snapshot does not exist.
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

    /// Returns the files below `directory` on the volume of a snapshot.
    ///
    /// # Errors
    /// Fails if the snapshot does not exist.
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

    /// Counts the occurrences of `text` in all blocks of a snapshot, also in those that no file uses.
    ///
    /// # Errors
    /// Fails if the snapshot does not exist.
    pub async fn occurrences(&self, snapshot: &SnapshotId, text: &str) -> Result<u64> {
        #[derive(Deserialize)]
        struct Found {
            occurrences: u64,
        }
        let route = format!("snapshots/{snapshot}/search?text={text}");
        Ok(self
            .control::<Found>(reqwest::Method::GET, &route, None)
            .await?
            .occurrences)
    }

    /// Damages a snapshot: deletes the file on its volume whose path ends with `name`.
    ///
    /// # Errors
    /// Fails if the file does not exist.
    pub async fn damage_snapshot(&self, snapshot: &SnapshotId, name: &str) -> Result<()> {
        let files = self.snapshot_files(snapshot, "/local").await?;
        let path = files
            .iter()
            .find(|path| path.ends_with(name))
            .with_context(|| format!("{snapshot} does not contain the file {name}"))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cold_start_is_read_from_the_report_line() {
        let log = "INFO starts\nREPORT RequestId: 1\tDuration: 0.75 ms\tMax Memory Used: 13.5 MB\tInit Duration: 7.25 ms\n";
        let expected = ColdStart {
            init: Duration::from_micros(7_250),
            answer: Duration::from_micros(750),
            memory: Bytes(13_500_000),
        };
        assert_eq!(ColdStart::parse(log).unwrap(), Some(expected));
    }

    #[test]
    fn answer_of_idle_process_is_not_a_cold_start() {
        let log = "REPORT RequestId: 1\tDuration: 0.75 ms\tMax Memory Used: 13.5 MB\n";
        assert_eq!(ColdStart::parse(log).unwrap(), None);
    }
}
