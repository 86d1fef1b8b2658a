//! A local cloud with the module deployed to it, and the actions of a user: push, build, inspect, start nodes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use prepull_aws::ec2::types::{
    BlockDeviceMapping, EbsBlockDevice, IamInstanceProfileSpecification, InstanceStateName,
    InstanceType, Reservation, ResourceType, Tag, TagSpecification, VolumeType,
};
use prepull_aws::sfn::types::{ExecutionStatus, HistoryEvent};
use prepull_aws::{AwsError as _, Clients, parameters};
use prepull_domain::pages::{self, MoreImages};
use prepull_domain::{
    Architecture, CacheName, ExecutionArn, GiB, InstanceId, Manifest, Pointer, SnapshotId, names,
};
use serde_json::{Value, json};

use crate::images::{Pusher, sha256};
use crate::localcloud::ContainerRun;
use crate::{Deployment, Environment, LocalCloud};

/// Region of the local cloud.
pub const REGION: &str = "eu-west-1";

/// Time limit of a build in the local cloud.
const BUILD_TIME_OUT: Duration = Duration::from_secs(240);

/// A local cloud and the module deployed to it.
pub struct World {
    /// Programs and files that `cargo xtask` prepared.
    pub environment: Environment,
    /// The local cloud.
    pub cloud: LocalCloud,
    /// The deployed module.
    pub deployment: Deployment,
    /// Clients of the local cloud, with unrestricted permissions.
    pub clients: Clients,
    /// Pushes to private ECR.
    pub ecr: Pusher,
    /// Pushes to the registry that requires a password.
    pub private: Pusher,
}

/// The result of an execution.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Its status.
    pub status: ExecutionStatus,
    /// Its output, if it succeeded.
    pub output: Value,
    /// The name of its error, if it failed.
    pub error: String,
    /// The error's cause.
    pub cause: String,
}

/// Number of images on a page of a configuration, as in `infra/parameters.tf`.
const CONFIG_PAGE_IMAGES: usize = 15;

impl World {
    /// Starts a local cloud with its state in `state`. Once the registries are known, prepares a deployment of `caches`
    /// but does not apply it.
    ///
    /// # Errors
    /// Fails if the local cloud does not start or Terraform cannot be initialized.
    ///
    /// # Panics
    /// Never panics: the region is valid.
    pub async fn start(
        environment: Environment,
        state: &Path,
        debounce_seconds: u32,
        caches: impl FnOnce(&LocalCloud) -> Value,
    ) -> Result<Self> {
        let cloud = LocalCloud::start(&environment, &state.join("cloud"))?;
        let caches = caches(&cloud);
        let deployment = Deployment::prepare(
            &environment,
            &cloud,
            state.join("terraform"),
            &caches,
            debounce_seconds,
        )?;
        let clients = Clients::at_endpoint(
            &cloud.endpoint,
            &REGION.parse().expect("the region is valid"),
        )
        .await;
        let ecr = Pusher::new(&cloud.ready.registries.ecr, &cloud.ready.ca_certificate)?;
        let private = Pusher::new(&cloud.ready.registries.private, &cloud.ready.ca_certificate)?;
        Ok(Self {
            environment,
            cloud,
            deployment,
            clients,
            ecr,
            private,
        })
    }

    /// Returns the `prepull` command, configured for this local cloud.
    #[must_use]
    pub fn cli(&self) -> std::process::Command {
        let mut command = std::process::Command::new(&self.environment.cli);
        command
            .env("AWS_ENDPOINT_URL", &self.cloud.endpoint)
            .env("AWS_REGION", REGION)
            .env("AWS_ACCESS_KEY_ID", "localcloud")
            .env("AWS_SECRET_ACCESS_KEY", "localcloud")
            .env("SSL_CERT_FILE", &self.cloud.ready.ca_certificate);
        command
    }

    /// Creates a repository in private ECR. An existing repository is fine.
    ///
    /// # Errors
    /// Fails if ECR refuses.
    pub async fn create_repository(&self, name: &str) -> Result<()> {
        match self
            .clients
            .ecr
            .create_repository()
            .repository_name(name)
            .send()
            .await
        {
            Err(error) if error.aws_code() != Some("RepositoryAlreadyExistsException") => {
                Err(error.into())
            }
            _ => Ok(()),
        }
    }

    /// Stores the credentials of the private registry in a parameter for caches, and returns the parameter's name.
    ///
    /// # Errors
    /// Fails if Systems Manager refuses.
    pub async fn store_credentials(&self, parameter: &str, password: &str) -> Result<String> {
        let value =
            json!({"username": self.cloud.ready.registries.private.username, "password": password});
        self.clients
            .ssm
            .put_parameter()
            .name(parameter)
            .value(value.to_string())
            .r#type(prepull_aws::ssm::types::ParameterType::SecureString)
            .overwrite(true)
            .send()
            .await?;
        Ok(parameter.to_owned())
    }

    /// Returns the configuration that Terraform stored for `cache`. Tests change it and store it under another name.
    ///
    /// # Errors
    /// Fails if the cache does not exist.
    pub async fn stored_config(&self, cache: &str) -> Result<Value> {
        let json =
            parameters::document(&self.clients, &format!("{}/{cache}", names::CONFIG_PATH)).await?;
        Ok(serde_json::from_str(&json.with_context(|| {
            format!("cache {cache} is not declared")
        })?)?)
    }

    /// Stores `config`, valid or not, as the cache `name`, as Terraform would.
    ///
    /// # Errors
    /// Fails if Systems Manager refuses.
    pub async fn store_config(&self, name: &str, config: &Value) -> Result<()> {
        let first = format!("{}/{name}", names::CONFIG_PATH);
        let images = config["images"].as_array().map_or(&[][..], Vec::as_slice);
        let mut config = config.clone();
        let mut parts = images.chunks(CONFIG_PAGE_IMAGES);
        if images.len() > CONFIG_PAGE_IMAGES {
            config["images"] = json!(parts.next());
            let digest = sha256(json!(images).to_string().as_bytes());
            let folder = digest["sha256:".len()..][..16].to_owned();
            let more = MoreImages {
                pages: parts.len(),
                folder: Some(folder),
            };
            config[pages::FIELD] = json!(more);
            let names = pages::following(&first, &config.to_string())?;
            for (name, page) in names.iter().zip(parts) {
                parameters::put(&self.clients, name, &json!(page).to_string()).await?;
            }
        }
        Ok(parameters::put(&self.clients, &first, &config.to_string()).await?)
    }

    /// Starts a build through the state machine only.
    ///
    /// # Errors
    /// Fails if Step Functions refuses.
    pub async fn start_build(&self, cache: &str) -> Result<ExecutionArn> {
        self.start_execution(&json!({ "cache": cache })).await
    }

    /// Starts an execution of the state machine with `input`.
    ///
    /// # Errors
    /// Fails if Step Functions refuses.
    pub async fn start_execution(&self, input: &Value) -> Result<ExecutionArn> {
        let machine = self.deployment.state_machine_arn()?;
        let started = self
            .clients
            .sfn
            .start_execution()
            .state_machine_arn(machine)
            .input(input.to_string())
            .send()
            .await?;
        Ok(started.execution_arn().parse()?)
    }

    /// Starts a build and waits for its end.
    ///
    /// # Errors
    /// Fails if it cannot be started or does not end in time.
    pub async fn build(&self, cache: &str) -> Result<Outcome> {
        let execution = self.start_build(cache).await?;
        self.await_end(&execution).await
    }

    /// Stops a build, as an operator would.
    ///
    /// # Errors
    /// Fails if Step Functions refuses.
    pub async fn stop_build(&self, execution: &ExecutionArn) -> Result<()> {
        self.clients
            .sfn
            .stop_execution()
            .execution_arn(execution.as_str())
            .send()
            .await?;
        Ok(())
    }

    /// Returns every event of an execution, in order.
    ///
    /// # Errors
    /// Fails if Step Functions does not answer.
    pub async fn history(&self, execution: &ExecutionArn) -> Result<Vec<HistoryEvent>> {
        let history = self.clients.sfn.get_execution_history();
        let history = history.execution_arn(execution.as_str());
        let mut pages = history.into_paginator().send();
        let mut events = Vec::new();
        while let Some(page) = pages.next().await {
            events.extend(page?.events);
        }
        Ok(events)
    }

    /// Waits for the end of an execution.
    ///
    /// # Errors
    /// Fails if it does not end in time.
    pub async fn await_end(&self, execution: &ExecutionArn) -> Result<Outcome> {
        let pause = Duration::from_millis(200);
        self.await_end_within(execution, BUILD_TIME_OUT, pause)
            .await
    }

    /// Waits at most `limit` for the end of an execution, polling every `pause`.
    ///
    /// # Errors
    /// Fails if it does not end in time.
    pub async fn await_end_within(
        &self,
        execution: &ExecutionArn,
        limit: Duration,
        pause: Duration,
    ) -> Result<Outcome> {
        let start = Instant::now();
        loop {
            let described = self
                .clients
                .sfn
                .describe_execution()
                .execution_arn(execution.as_str())
                .send()
                .await?;
            if *described.status() != ExecutionStatus::Running {
                return Ok(Outcome {
                    status: described.status().clone(),
                    output: described
                        .output()
                        .map_or(Ok(Value::Null), serde_json::from_str)?,
                    error: described.error().unwrap_or_default().to_owned(),
                    cause: described.cause().unwrap_or_default().to_owned(),
                });
            }
            ensure!(
                start.elapsed() < limit,
                "{execution} still runs after {limit:?}"
            );
            tokio::time::sleep(pause).await;
        }
    }

    /// Returns the executions of `cache`, newest first.
    ///
    /// # Errors
    /// Fails if Step Functions does not answer.
    pub async fn executions(&self, cache: &str) -> Result<Vec<ExecutionArn>> {
        let machine = self.deployment.state_machine_arn()?;
        let listed = self
            .clients
            .sfn
            .list_executions()
            .state_machine_arn(machine)
            .send()
            .await?;
        let mut found = Vec::new();
        for execution in listed.executions() {
            let arn = execution.execution_arn();
            let described = self
                .clients
                .sfn
                .describe_execution()
                .execution_arn(arn)
                .send()
                .await?;
            let input: Value =
                serde_json::from_str(described.input().unwrap_or("{}")).unwrap_or_default();
            if input["cache"] == cache {
                found.push((described.start_date().to_millis()?, arn.parse()?));
            }
        }
        found.sort_by_key(|(started, _)| std::cmp::Reverse(*started));
        Ok(found.into_iter().map(|(_, arn)| arn).collect())
    }

    /// Waits until `cache` has more than `before` executions, and returns the newest.
    ///
    /// # Errors
    /// Fails if none starts in time.
    pub async fn await_start(&self, cache: &str, before: usize) -> Result<ExecutionArn> {
        let start = Instant::now();
        loop {
            let executions = self.executions(cache).await?;
            if executions.len() > before {
                return Ok(executions[0].clone());
            }
            ensure!(
                start.elapsed() < Duration::from_secs(60),
                "no build of {cache} started within a minute"
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Returns the snapshot that the pointer of `cache` holds, or `None` if there is no pointer.
    ///
    /// # Errors
    /// Fails if the pointer cannot be read or does not hold a snapshot ID.
    pub async fn published(
        &self,
        cache: &str,
        architecture: Architecture,
    ) -> Result<Option<SnapshotId>> {
        let cache: CacheName = cache.parse()?;
        let pointer = parameters::get(
            &self.clients,
            &names::pointer_parameter(&cache, architecture),
        )
        .await?;
        pointer.map(|id| Ok(id.parse()?)).transpose()
    }

    /// Returns the pointer that consumers of `cache` read.
    ///
    /// # Errors
    /// Fails if nothing was published.
    pub async fn pointer(&self, cache: &str, architecture: Architecture) -> Result<Pointer> {
        let parameter = names::state_parameter(&cache.parse()?, architecture);
        let json = parameters::get(&self.clients, &parameter).await?;
        let json = json.with_context(|| format!("{parameter} does not exist"))?;
        Ok(serde_json::from_str(&json)?)
    }

    /// Returns the manifest of a snapshot.
    ///
    /// # Errors
    /// Fails if the manifest does not exist.
    pub async fn manifest(
        &self,
        cache: &str,
        architecture: Architecture,
        snapshot: &SnapshotId,
    ) -> Result<Manifest> {
        let name = names::manifest_parameter(&cache.parse()?, architecture, snapshot);
        let json = parameters::document(&self.clients, &name)
            .await?
            .with_context(|| format!("parameter {name} does not exist"))?;
        Ok(serde_json::from_str(&json)?)
    }

    /// Starts a node as Karpenter would, with an empty data volume or one from `snapshot`, and waits until it runs.
    ///
    /// # Errors
    /// Fails if it does not run in time.
    pub async fn start_node(
        &self,
        snapshot: Option<&SnapshotId>,
        architecture: Architecture,
        size: GiB,
    ) -> Result<InstanceId> {
        let node = self.launch_node(snapshot, architecture, size, "").await?;
        self.await_running(&node).await?;
        Ok(node)
    }

    /// Starts a node like [`Self::start_node`], without waiting, and with additional Bottlerocket settings.
    ///
    /// # Errors
    /// Fails if EC2 refuses.
    ///
    /// # Panics
    /// Never panics: the specifications below are complete.
    pub async fn launch_node(
        &self,
        snapshot: Option<&SnapshotId>,
        architecture: Architecture,
        size: GiB,
        settings: &str,
    ) -> Result<InstanceId> {
        // A kubelet gets the registry's password from image pull secrets. Here the node's settings contain it.
        let private = &self.cloud.ready.registries.private;
        let user_data = format!(
            "[settings.kubernetes]\nhostname-override = \"node\"\n\n[[settings.container-registry.credentials]]\n\
             registry = \"{}\"\nusername = \"{}\"\npassword = \"{}\"\n{settings}",
            private.host, private.username, private.password
        );
        let profile = self.deployment.outputs()?["builder_instance_profile_arn"]["value"]
            .as_str()
            .map(str::to_owned);
        run_instance(
            &self.clients,
            architecture,
            size,
            snapshot,
            profile,
            &user_data,
        )
        .await
    }

    /// Starts a container of each image on a node, one after the other, and returns the runs by image reference.
    ///
    /// # Errors
    /// Fails if a container does not start or exits with an error.
    pub async fn run_containers(
        &self,
        node: &InstanceId,
        references: &[String],
    ) -> Result<BTreeMap<String, ContainerRun>> {
        let mut runs = BTreeMap::new();
        for reference in references {
            let run = self.run_container(node, reference).await?;
            runs.insert(reference.clone(), run);
        }
        Ok(runs)
    }

    /// Runs one container on a node.
    ///
    /// # Errors
    /// Fails if the image cannot be pulled, or the container exits with an error.
    pub async fn run_container(&self, node: &InstanceId, reference: &str) -> Result<ContainerRun> {
        let run = self.cloud.run_container(node, reference).await?;
        ensure!(
            run.exit_code == Some(0),
            "container of {reference} did not end well: {run:?}"
        );
        // The registries count an answer shortly after they send it.
        tokio::time::sleep(Duration::from_millis(100)).await;
        Ok(run)
    }

    /// Terminates a node and waits until it is gone.
    ///
    /// # Errors
    /// Fails if it does not terminate in time.
    pub async fn terminate_node(&self, node: &InstanceId) -> Result<()> {
        self.clients
            .ec2
            .terminate_instances()
            .instance_ids(node.as_str())
            .send()
            .await?;
        await_state(&self.clients, node, &InstanceStateName::Terminated).await
    }

    /// Waits until a node runs.
    ///
    /// # Errors
    /// Fails if it does not run in time.
    pub async fn await_running(&self, node: &InstanceId) -> Result<()> {
        await_state(&self.clients, node, &InstanceStateName::Running).await
    }

    /// Calls the function of a stage and returns its answer. A failure is also an answer: `{"errorType", "errorMessage"}`.
    ///
    /// # Errors
    /// Fails if the function does not exist.
    pub async fn invoke(&self, stage: &str, payload: &Value) -> Result<Value> {
        self.cloud
            .invoke(&format!("prepull-{stage}"), payload)
            .await
    }

    /// Calls the function of a stage asynchronously, as `EventBridge` does.
    ///
    /// # Errors
    /// Fails if the function does not exist.
    pub async fn send_event(&self, stage: &str, payload: &Value) -> Result<()> {
        self.cloud
            .send_event(&format!("prepull-{stage}"), payload)
            .await
    }

    /// Returns the builders of a cache that are not terminated.
    ///
    /// # Errors
    /// Fails if EC2 does not answer.
    pub async fn builders(
        &self,
        cache: &str,
        architecture: Architecture,
    ) -> Result<Vec<InstanceId>> {
        let described = self
            .clients
            .ec2
            .describe_instances()
            .filters(prepull_aws::tag_filter(names::TAG_CACHE, cache))
            .filters(prepull_aws::tag_filter(
                names::TAG_ARCHITECTURE,
                architecture.as_str(),
            ))
            .send()
            .await?;
        let instances = described
            .reservations()
            .iter()
            .flat_map(Reservation::instances);
        instances
            .filter(|instance| {
                let state = instance.state().and_then(|state| state.name());
                !matches!(
                    state,
                    Some(InstanceStateName::Terminated | InstanceStateName::ShuttingDown)
                )
            })
            .map(|instance| {
                Ok(instance
                    .instance_id()
                    .context("EC2 returned an instance without an ID")?
                    .parse()?)
            })
            .collect()
    }

    /// Counts the calls of an action since the log of calls was last cleared.
    ///
    /// # Errors
    /// Fails if the local cloud does not answer.
    pub async fn count_calls(&self, action: &str) -> Result<usize> {
        Ok(self
            .cloud
            .calls()
            .await?
            .iter()
            .filter(|call| call.action == action)
            .count())
    }

    /// Returns the path of the local cloud's log.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.cloud.log().to_owned()
    }
}

/// Launches a node with these user data, and with an empty data volume or one from `snapshot`. Does not wait.
///
/// # Errors
/// Fails if EC2 refuses.
///
/// # Panics
/// Never panics: the specifications below are complete.
pub async fn run_instance(
    clients: &Clients,
    architecture: Architecture,
    size: GiB,
    snapshot: Option<&SnapshotId>,
    profile: Option<String>,
    user_data: &str,
) -> Result<InstanceId> {
    let ami = parameters::get(
        clients,
        &format!("/aws/service/bottlerocket/aws-k8s-1.33/{architecture}/latest/image_id"),
    )
    .await?
    .context("the local cloud does not have the AMI of Bottlerocket")?;
    let instance_type = match architecture {
        Architecture::X86_64 => InstanceType::M6iXlarge,
        Architecture::Arm64 => InstanceType::M6gXlarge,
    };
    let volume = EbsBlockDevice::builder()
        .volume_type(VolumeType::Gp3)
        .volume_size(i32::try_from(size.0)?)
        .set_snapshot_id(snapshot.map(ToString::to_string))
        .delete_on_termination(true)
        .build();
    let tag = Tag::builder().key("Name").value("node").build();
    let run = clients
        .ec2
        .run_instances()
        .image_id(ami)
        .instance_type(instance_type)
        .min_count(1)
        .max_count(1)
        .user_data(BASE64_STANDARD.encode(user_data))
        .set_iam_instance_profile(
            profile.map(|arn| IamInstanceProfileSpecification::builder().arn(arn).build()),
        )
        .block_device_mappings(
            BlockDeviceMapping::builder()
                .device_name(names::DATA_DEVICE)
                .ebs(volume)
                .build(),
        )
        .tag_specifications(
            TagSpecification::builder()
                .resource_type(ResourceType::Instance)
                .tags(tag)
                .build(),
        )
        .send()
        .await?;
    Ok(run.instances()[0]
        .instance_id()
        .context("EC2 returned an instance without an ID")?
        .parse()?)
}

/// Waits for a state of an instance.
///
/// # Errors
/// Fails if it does not reach the state in time.
pub async fn await_state(
    clients: &Clients,
    node: &InstanceId,
    wanted: &InstanceStateName,
) -> Result<()> {
    let start = Instant::now();
    loop {
        let described = clients
            .ec2
            .describe_instances()
            .instance_ids(node.as_str())
            .send()
            .await?;
        let state = described
            .reservations()
            .iter()
            .flat_map(Reservation::instances)
            .next()
            .and_then(|i| i.state()?.name());
        if state == Some(wanted) {
            return Ok(());
        }
        ensure!(
            start.elapsed() < Duration::from_secs(60),
            "the state of {node} is {state:?}, expected {wanted:?}"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
