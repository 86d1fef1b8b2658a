//! An operator of one instance: a person, a script, or a program that waits for nothing but the cloud.

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
use prepull_tests::localcloud::Traffic;

use crate::ARCHITECTURE;
use crate::builds::{COUNTED, count};

/// The access key of [`World`]'s clients.
const CALLER: &str = "localcloud";

const TIME_OUT: Duration = Duration::from_secs(1_200);

/// Enables the admin container, through which commands reach the host.
const SETTINGS: &str = "\n[settings.host-containers.admin]\nenabled = true\n";

/// Reaches the host from a command, which runs in the control container.
pub const HOST: &str = "apiclient exec -T admin sheltie";
pub const CTR: &str = "ctr --address=/run/containerd/containerd.sock --namespace=k8s.io";

/// Poll intervals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waits {
    /// For the agent and for commands.
    pub command: Duration,
    /// For the power-off and the snapshot.
    pub resource: Duration,
}

impl Waits {
    /// Intervals that add next to nothing to a measurement.
    pub const NONE: Self = Self {
        command: Duration::from_millis(50),
        resource: Duration::from_millis(50),
    };
}

/// An instance and the measurement of the work on it.
pub struct Operator<'a> {
    world: &'a World,
    instance: InstanceId,
    base: Option<SnapshotId>,
    waits: Waits,
    start: Instant,
    launched: Instant,
    traffic: Traffic,
    last: Instant,
    stages: BTreeMap<Stage, f64>,
}

impl<'a> Operator<'a> {
    /// Launches an instance whose data volume is empty or starts from `base`, and waits for its agent.
    pub async fn launch(
        world: &'a World,
        base: Option<&SnapshotId>,
        volume: &VolumeConfig,
        waits: Waits,
    ) -> Result<Self> {
        world.cloud.forget_calls().await?;
        let traffic = world.cloud.traffic().await?;
        let start = Instant::now();
        let instance = world
            .launch_node(base, ARCHITECTURE, volume.size_gib, SETTINGS)
            .await?;
        let mut operator = Self {
            world,
            instance,
            base: base.cloned(),
            waits,
            start,
            launched: Instant::now(),
            traffic,
            last: start,
            stages: BTreeMap::new(),
        };
        operator.end(Stage::Launch);
        let this = &operator;
        this.wait(waits.command, async || this.is_online().await)
            .await?;
        Ok(operator)
    }

    /// Notes the end of a stage.
    pub fn end(&mut self, stage: Stage) {
        self.stages.insert(stage, self.last.elapsed().as_secs_f64());
        self.last = Instant::now();
    }

    /// Repeats a script until it succeeds.
    pub async fn repeat(&self, script: &str) -> Result<()> {
        self.wait(self.waits.command, async || {
            Ok(self.command(script).await? == CommandInvocationStatus::Success)
        })
        .await
    }

    /// Runs a script once.
    pub async fn run(&self, script: &str) -> Result<()> {
        let status = self.command(script).await?;
        ensure!(
            status == CommandInvocationStatus::Success,
            "{script} ended {status}"
        );
        Ok(())
    }

    /// Runs a script in the control container, and waits for its end.
    pub async fn command(&self, script: &str) -> Result<CommandInvocationStatus> {
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
        self.wait(self.waits.command, async || {
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

    /// Stops the instance, snapshots its data volume and terminates the instance. The measured time ends with the
    /// snapshot, because nothing waits for the termination.
    pub async fn snapshot(mut self, volume: &VolumeConfig) -> Result<(Measurement, SnapshotId)> {
        self.stop().await?;
        self.end(Stage::Stop);
        let snapshot = self.create_snapshot().await?;
        self.end(Stage::Snapshot);
        let seconds = self.start.elapsed().as_secs_f64();
        self.terminate().await?;
        self.end(Stage::CleanUp);
        let instance_seconds = self.launched.elapsed().as_secs_f64();

        tokio::time::sleep(COUNTED).await;
        let cloud = &self.world.cloud;
        let mut calls = count(cloud.calls().await?, |call| call.caller == CALLER);
        let instances = calls.get("ec2:RunInstances").copied().unwrap_or_default();
        if self.waits == Waits::NONE {
            // Almost all of them are polls.
            calls.clear();
        }
        let traffic = cloud.traffic().await?.since(self.traffic);
        let measurement = Measurement {
            seconds,
            stages: self.stages,
            pulled: Bytes(traffic.bytes),
            registry_requests: traffic.requests,
            blocks: cloud.changed_blocks(&snapshot, self.base.as_ref()).await?,
            instances,
            calls,
            transitions: 0,
            invocations: 0,
            lambda_gb_seconds: 0.0,
            instance_seconds,
            volume: volume.clone(),
        };
        Ok((measurement, snapshot))
    }

    /// Polls until the check succeeds.
    async fn wait(
        &self,
        interval: Duration,
        mut check: impl AsyncFnMut() -> Result<bool>,
    ) -> Result<()> {
        let start = Instant::now();
        while !check().await? {
            ensure!(
                start.elapsed() < TIME_OUT,
                "{} took longer than {TIME_OUT:?}",
                self.instance
            );
            tokio::time::sleep(interval).await;
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

    async fn stop(&self) -> Result<()> {
        let stop = self.world.clients.ec2.stop_instances();
        stop.instance_ids(self.instance.as_str()).send().await?;
        self.reach(&InstanceStateName::Stopped).await
    }

    async fn terminate(&self) -> Result<()> {
        let terminate = self.world.clients.ec2.terminate_instances();
        let id = self.instance.as_str();
        terminate.instance_ids(id).send().await?;
        self.reach(&InstanceStateName::Terminated).await
    }

    async fn reach(&self, wanted: &InstanceStateName) -> Result<()> {
        self.wait(self.waits.resource, async || {
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

    async fn create_snapshot(&self) -> Result<SnapshotId> {
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
        self.wait(self.waits.resource, async || {
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
