//! Creates a snapshot by hand, as a person or a script would.
//!
//! It follows the steps of aws-samples' `bottlerocket-images-cache`: launch, wait for the agent, stop the kubelet, remove
//! the existing images, pull each image with one command, stop, snapshot, terminate.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use prepull_aws::ec2::types::{Instance, InstanceStateName, Reservation, SnapshotState};
use prepull_aws::ssm::types::{
    CommandInvocationStatus, InstanceInformationStringFilter, PingStatus,
};
use prepull_domain::cache::config::VolumeConfig;
use prepull_domain::{Bytes, InstanceId, SnapshotId, names};
use prepull_tests::World;
use prepull_tests::benchmark::{Measurement, Stage};

use crate::ARCHITECTURE;
use crate::builds::{COUNTED, count};

/// The access key of [`World`]'s clients.
const CALLER: &str = "localcloud";

const TIME_OUT: Duration = Duration::from_secs(1_200);

/// Enables the admin container, through which commands reach the host.
const SETTINGS: &str = "\n[settings.host-containers.admin]\nenabled = true\n";

const HOST: &str = "apiclient exec -T admin sheltie";
const CTR: &str = "ctr --address=/run/containerd/containerd.sock --namespace=k8s.io";

/// Creates a snapshot with `images`, with the poll interval `poll`.
pub async fn measure(
    world: &World,
    images: &[String],
    volume: &VolumeConfig,
    poll: Duration,
) -> Result<(Measurement, SnapshotId)> {
    world.cloud.forget_calls().await?;
    let traffic = world.cloud.traffic().await?;
    let start = Instant::now();
    let mut clock = Clock::start();

    let instance = world
        .launch_node(None, ARCHITECTURE, volume.size_gib, SETTINGS)
        .await?;
    let launched = Instant::now();
    clock.end(Stage::Launch);

    let person = Person {
        world,
        instance,
        poll,
    };
    person.wait(async || person.is_online().await).await?;
    // The agent may be ready before the admin container.
    let stop_kubelet = format!("{HOST} systemctl stop kubelet.service");
    person
        .wait(async || {
            let status = person.command(&stop_kubelet).await?;
            Ok(status == CommandInvocationStatus::Success)
        })
        .await?;
    clock.end(Stage::Ready);

    let remove = format!(
        "for image in $({HOST} {CTR} images ls --quiet </dev/null); do {HOST} {CTR} images rm \"$image\"; done"
    );
    person.succeed(&remove).await?;
    for image in images {
        let command = format!(
            "{HOST} host-ctr --containerd-socket=/run/containerd/containerd.sock --namespace=k8s.io pull-image \
             --source={image} --registry-config=/etc/host-containers/host-ctr.toml"
        );
        person
            .succeed(&command)
            .await
            .with_context(|| format!("pulling {image}"))?;
    }
    clock.end(Stage::Pull);

    person.stop().await?;
    clock.end(Stage::Stop);
    let snapshot = person.snapshot().await?;
    clock.end(Stage::Snapshot);
    person.terminate().await?;
    clock.end(Stage::CleanUp);
    let seconds = start.elapsed().as_secs_f64();
    let instance_seconds = launched.elapsed().as_secs_f64();

    tokio::time::sleep(COUNTED).await;
    let calls = count(world.cloud.calls().await?, |call| call.caller == CALLER);
    let traffic = world.cloud.traffic().await?.since(traffic);
    let measurement = Measurement {
        seconds,
        stages: clock.stages,
        pulled: Bytes(traffic.bytes),
        registry_requests: traffic.requests,
        blocks: world.cloud.changed_blocks(&snapshot, None).await?,
        instances: calls.get("ec2:RunInstances").copied().unwrap_or_default(),
        calls,
        transitions: 0,
        invocations: 0,
        lambda_gb_seconds: 0.0,
        instance_seconds,
        volume: volume.clone(),
    };
    Ok((measurement, snapshot))
}

/// Measures the time of each stage.
struct Clock {
    last: Instant,
    stages: BTreeMap<Stage, f64>,
}

impl Clock {
    fn start() -> Self {
        Self {
            last: Instant::now(),
            stages: BTreeMap::new(),
        }
    }

    fn end(&mut self, stage: Stage) {
        self.stages.insert(stage, self.last.elapsed().as_secs_f64());
        self.last = Instant::now();
    }
}

/// A person with an instance.
struct Person<'a> {
    world: &'a World,
    instance: InstanceId,
    poll: Duration,
}

impl Person<'_> {
    /// Polls until the check succeeds.
    async fn wait(&self, mut check: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
        let start = Instant::now();
        while !check().await? {
            ensure!(
                start.elapsed() < TIME_OUT,
                "{} took longer than {TIME_OUT:?}",
                self.instance
            );
            tokio::time::sleep(self.poll).await;
        }
        Ok(())
    }

    async fn is_online(&self) -> Result<bool> {
        let filter = InstanceInformationStringFilter::builder()
            .key("InstanceIds")
            .values(self.instance.as_str())
            .build()?;
        let describe = self.world.clients.ssm.describe_instance_information();
        let described = describe.filters(filter).send().await?;
        let mut agents = described.instance_information_list().iter();
        Ok(agents.any(|agent| agent.ping_status() == Some(&PingStatus::Online)))
    }

    async fn succeed(&self, script: &str) -> Result<()> {
        let status = self.command(script).await?;
        ensure!(
            status == CommandInvocationStatus::Success,
            "{script} ended {status}"
        );
        Ok(())
    }

    /// Runs a script in the control container and waits for its end.
    async fn command(&self, script: &str) -> Result<CommandInvocationStatus> {
        let ssm = &self.world.clients.ssm;
        let sent = ssm
            .send_command()
            .document_name("AWS-RunShellScript")
            .instance_ids(self.instance.as_str())
            .parameters("commands", vec![script.to_owned()])
            .send()
            .await?;
        let id = sent.command().and_then(|command| command.command_id());
        let id = id.context("every command has an ID")?;
        let mut ended = None;
        self.wait(async || {
            let listed = ssm
                .list_command_invocations()
                .command_id(id)
                .details(true)
                .send()
                .await?;
            // SSM lists a new command with a short delay.
            let status = listed.command_invocations().first();
            ended = status.and_then(|invocation| invocation.status()).cloned();
            ended = ended.take().filter(|status| {
                !matches!(
                    status,
                    CommandInvocationStatus::Pending | CommandInvocationStatus::InProgress
                )
            });
            Ok(ended.is_some())
        })
        .await?;
        ended.context("the wait ends with a status")
    }

    async fn stop(&self) -> Result<()> {
        let stop = self.world.clients.ec2.stop_instances();
        stop.instance_ids(self.instance.as_str()).send().await?;
        self.wait_for(&InstanceStateName::Stopped).await
    }

    async fn terminate(&self) -> Result<()> {
        let terminate = self.world.clients.ec2.terminate_instances();
        let id = self.instance.as_str();
        terminate.instance_ids(id).send().await?;
        self.wait_for(&InstanceStateName::Terminated).await
    }

    async fn wait_for(&self, wanted: &InstanceStateName) -> Result<()> {
        self.wait(async || {
            let describe = self.world.clients.ec2.describe_instances();
            let id = self.instance.as_str();
            let described = describe.instance_ids(id).send().await?;
            let reservations = described.reservations().iter();
            let mut states = reservations
                .flat_map(Reservation::instances)
                .filter_map(|instance| instance.state()?.name());
            Ok(states.next() == Some(wanted))
        })
        .await
    }

    async fn snapshot(&self) -> Result<SnapshotId> {
        let ec2 = &self.world.clients.ec2;
        let id = self.instance.as_str();
        let described = ec2.describe_instances().instance_ids(id).send().await?;
        let reservations = described.reservations().iter();
        let devices = reservations
            .flat_map(Reservation::instances)
            .flat_map(Instance::block_device_mappings);
        let data = devices
            .filter(|device| device.device_name() == Some(names::DATA_DEVICE))
            .find_map(|device| device.ebs()?.volume_id());
        let Some(data) = data else {
            bail!("{} has no data volume", self.instance)
        };
        let created = ec2.create_snapshot().volume_id(data).send().await?;
        let snapshot = created.snapshot_id();
        let snapshot: SnapshotId = snapshot.context("every snapshot has an ID")?.parse()?;
        self.wait(async || {
            let describe = ec2.describe_snapshots();
            let described = describe.snapshot_ids(snapshot.as_str()).send().await?;
            let state = described.snapshots().first();
            let state = state.and_then(|snapshot| snapshot.state());
            Ok(state == Some(&SnapshotState::Completed))
        })
        .await?;
        Ok(snapshot)
    }
}
