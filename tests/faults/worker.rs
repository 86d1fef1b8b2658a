//! A worker: one cache in one local cloud. It runs one case after the other and checks the invariants after each.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use jiff::{SignedDuration, Timestamp};
use prepull_aws::ec2::types::{Instance, Reservation};
use prepull_aws::sfn::types::ExecutionStatus;
use prepull_aws::{AwsError as _, Clients, parameters, pointers, snapshots, tag_filter, tag_value};
use prepull_domain::{
    Architecture, CacheName, Digest, ExecutionArn, ExecutionName, InstanceId, Pointer, RegionName,
    SnapshotId, VerificationLevel, names,
};
use prepull_tests::localcloud::Call;
use prepull_tests::world::Outcome;
use prepull_tests::{Environment, Image, Layer, World, invariants};
use serde_json::{Value, json};
use tempfile::TempDir;

pub const ARCHITECTURE: Architecture = Architecture::X86_64;

/// Region that every snapshot is copied to.
const COPY_REGION: &str = "eu-central-1";

/// Customer-managed key of the snapshots. Snapshots under an AWS managed key cannot be shared.
const KEY: &str = "arn:aws:kms:eu-west-1:123456789012:key/mrk-0123456789abcdef0123456789abcdef";

/// Number of local clouds. Each is one process that answers one call at a time.
const WORLDS: usize = 2;

/// Number of workers per local cloud. Builds spend most of their time waiting.
const WORKERS_PER_WORLD: usize = 8;

/// Maximum number of workers: the maximum images of a cache, minus the image that all workers share. One declared cache
/// lists the images of all workers, because each role may read only declared repositories.
const MAX_WORKERS: usize = 49;

/// Debounce window.
const DEBOUNCE: SignedDuration = SignedDuration::from_secs(1);

/// Speed-up factor of the state machine's retry intervals.
const RETRY_SPEED: u32 = 30;

/// Time limit from a trigger to an execution or a dead letter. It covers three attempts of start-build.
const START_TIME_LIMIT: Duration = Duration::from_mins(4);

/// Time limit of a build: the longest wait for a builder plus a margin.
const BUILD_TIME_LIMIT: Duration = Duration::from_mins(15);

const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Number of cases that run concurrently.
pub const WORKERS: usize = WORLDS * WORKERS_PER_WORLD;

/// The local clouds and their idle workers.
pub struct Workers {
    worlds: Vec<Arc<World>>,
    idle: Mutex<Vec<Worker>>,
    opened: AtomicUsize,
    _state: TempDir,
}

/// Number of further tags of the image that all workers share.
const ALIASES: usize = 15;

/// Returns one of these tags. It has the maximum length.
fn alias(number: usize) -> String {
    format!("{number:0>128}")
}

/// Returns the name of a worker's cache.
fn name(number: usize) -> String {
    format!("worker-{number:02}")
}

/// Returns the repository of the cache's own image.
fn repository(cache: &str) -> String {
    format!("matrix/{cache}")
}

impl Workers {
    /// Starts the local clouds. Each worker is prepared when a case first takes it.
    pub async fn open(environment: &Environment) -> Result<Self> {
        let state = tempfile::Builder::new()
            .prefix("prepull-faults-")
            .tempdir()?;
        let mut worlds = Vec::new();
        for number in 0..WORLDS {
            let state = state.path().join(number.to_string());
            let world = World::start(environment.clone(), &state, 1, |cloud| {
                let registries = &cloud.ready.registries;
                let images: Vec<_> = (0..MAX_WORKERS)
                    .map(|number| format!("{}/{}:v1", registries.ecr.host, repository(&name(number))))
                    .chain([format!("{}/tools/report:v1", registries.private.host)])
                    .collect();
                json!({"template": {
                    "images": images,
                    "variant": "aws-k8s-1.33",
                    "volume": {"size_gib": 4, "kms_key_id": KEY},
                    "builder": {"instance_types": {"x86_64": ["m7i.xlarge", "m6i.xlarge"]}},
                    "registry_credentials": {&registries.private.host: {"parameter_name": "/team/registry"}},
                    "publication": {"copy_to_regions": [COPY_REGION], "share_with_accounts": ["210987654321"]},
                    "retain_snapshots": 1,
                    "retain_days": 0,
                    "schedule": {"enabled": false},
                    // The workers send their push events to start-build themselves.
                    "rebuild_on_push": false,
                }})
            })
            .await?;
            worlds.push(Arc::new(world));
        }
        // Terraform spends most of its time waiting.
        tokio::task::block_in_place(|| {
            std::thread::scope(|scope| {
                let applied: Vec<_> = worlds
                    .iter()
                    .map(|world| scope.spawn(|| world.deployment.apply()))
                    .collect();
                applied.into_iter().try_for_each(|applied| {
                    applied
                        .join()
                        .expect("the thread that applies does not panic")
                })
            })
        })?;
        for world in &worlds {
            let password = &world.cloud.ready.registries.private.password;
            world.store_credentials("/team/registry", password).await?;
            let base = [Layer::filler("report", 0)?];
            let report = Image::new(ARCHITECTURE, &base, "report")?;
            world.private.push("tools/report", "v1", &report).await?;
            for number in 0..ALIASES {
                let tag = alias(number);
                world.private.push("tools/report", &tag, &report).await?;
            }
            world.cloud.shorten_delays().await?;
            world.cloud.set(json!({"retry_speed": RETRY_SPEED})).await?;
        }
        let opened = AtomicUsize::new(0);
        let idle = (0..WORKERS_PER_WORLD)
            .flat_map(|_| &worlds)
            .map(|world| Worker::new(world, &opened))
            .collect();
        Ok(Self {
            worlds,
            idle: Mutex::new(idle),
            opened,
            _state: state,
        })
    }

    /// Takes a worker for one case.
    pub fn take(&self) -> Worker {
        let mut idle = self
            .idle
            .lock()
            .expect("no thread panics while it holds the workers");
        idle.pop()
            .expect("there is one worker for each test thread")
    }

    /// Returns a worker to the pool. If an invariant was violated on it, a new worker replaces it.
    pub fn give_back(&self, worker: Worker, holds_invariants: bool) {
        let worker = if holds_invariants {
            worker
        } else {
            Worker::new(&worker.world, &self.opened)
        };
        let mut idle = self
            .idle
            .lock()
            .expect("no thread panics while it holds the workers");
        idle.push(worker);
    }

    /// Returns every call of a function in a clean build, which starts from a base and replaces a published snapshot.
    pub async fn record(&self) -> Result<Vec<Call>> {
        let mut worker = self.take();
        worker.prepare().await?;
        worker.push().await?;
        worker.world.cloud.forget_calls().await?;
        let execution = worker.trigger().await?;
        worker.succeeds(&execution).await?;
        let calls = worker.world.cloud.calls_for(&worker.matcher()).await?;
        let recorded = calls
            .into_iter()
            .map(|call| call.in_terms_of(&worker.cache))
            .collect();
        self.give_back(worker, true);
        Ok(recorded)
    }

    /// Stops the local clouds. Fails if one cannot stop.
    pub async fn close(&self) -> Result<()> {
        for world in &self.worlds {
            world.nothing_is_left().await?;
            world.cloud.stop()?;
        }
        Ok(())
    }
}

/// One cache in one local cloud.
pub struct Worker {
    pub world: Arc<World>,
    pub cache: String,
    /// Number and digest of the last push, which may not be published yet.
    version: u32,
    pushed: Option<Digest>,
    faults: Vec<String>,
    /// Level at which its builds verify their snapshots.
    pub verification: VerificationLevel,
}

impl Worker {
    fn new(world: &Arc<World>, opened: &AtomicUsize) -> Self {
        Self {
            world: Arc::clone(world),
            cache: name(opened.fetch_add(1, Ordering::Relaxed) % MAX_WORKERS),
            version: 0,
            pushed: None,
            faults: Vec::new(),
            verification: VerificationLevel::Records,
        }
    }

    /// Declares the cache and builds it once, if this is its first case.
    pub async fn prepare(&mut self) -> Result<()> {
        if self.pushed.is_some() {
            return Ok(());
        }
        self.world
            .create_repository(&repository(&self.cache))
            .await?;
        self.configure(|_| ()).await?;
        self.push().await?;
        let execution = self.world.start_build(&self.cache).await?;
        self.succeeds(&execution).await
    }

    /// Declares the cache with the configuration of every case, modified by `change`.
    pub async fn configure(&mut self, change: impl FnOnce(&mut Value)) -> Result<()> {
        let mut config = self.world.stored_config("template").await?;
        let images = [self.image(), self.report()].into_iter();
        let images: Vec<_> = images.chain(self.aliases()).collect();
        config["images"] = json!(images);
        config["rebuild_on_push"] = json!(true);
        config["verification"] = json!({"level": self.verification.to_string()});
        change(&mut config);
        self.world.store_config(&self.cache, &config).await
    }

    /// Checks the invariants after a case: nothing is left behind, the pointer is valid, and the next build succeeds.
    pub async fn check_invariants(&mut self, after: Expectation) -> Result<()> {
        self.remove_all_faults().await?;
        if after == Expectation::Swept {
            self.world
                .invoke(
                    "clean-up",
                    &json!({"source": "sweep", "minimum_age_seconds": 0}),
                )
                .await?;
        }
        self.nothing_is_left().await?;
        self.pointer_is_valid().await?;
        if !self.last_push_is_published().await? {
            let execution = self.world.start_build(&self.cache).await?;
            self.succeeds(&execution).await.context("the next build")?;
            self.nothing_is_left().await.context("the next build")?;
            self.pointer_is_valid().await.context("the next build")?;
            ensure!(
                self.last_push_is_published().await?,
                "the next build succeeded, but the last push is not published"
            );
        }
        Ok(())
    }

    /// Returns the reference of the image that every case pushes.
    fn image(&self) -> String {
        let host = &self.world.cloud.ready.registries.ecr.host;
        format!("{host}/{}:v1", repository(&self.cache))
    }

    fn report(&self) -> String {
        let host = &self.world.cloud.ready.registries.private.host;
        format!("{host}/tools/report:v1")
    }

    /// Returns further references to the report. They fill the first pages of the configuration and of the manifest, so
    /// every case reads and writes further pages.
    fn aliases(&self) -> impl Iterator<Item = String> {
        let host = self.world.cloud.ready.registries.private.host.clone();
        (0..ALIASES).map(move |number| format!("{host}/tools/report:{}", alias(number)))
    }

    /// Returns a text that is part of the input of every invocation for this cache, and of no other.
    pub fn matcher(&self) -> String {
        format!("{}\"", self.cache)
    }

    /// Pushes new content to the same tag.
    pub async fn push(&mut self) -> Result<()> {
        self.version += 1;
        let layers = [Layer::filler("matrix", 0)?];
        let message = format!("{} {}", self.cache, self.version);
        let image = Image::new(ARCHITECTURE, &layers, &message)?;
        self.world
            .ecr
            .push(&repository(&self.cache), "v1", &image)
            .await?;
        self.pushed = Some(image.digest());
        Ok(())
    }

    /// Returns ECR's event for the last push, and the execution that it should start.
    pub fn event(&self) -> Result<(Value, ExecutionArn)> {
        let now = Timestamp::now();
        let at = Timestamp::from_second(now.as_second())?;
        let event = json!({
            "version": "0", "id": "13cde686-328b-6117-af20-0e5566167482", "detail-type": "ECR Image Action",
            "source": "aws.ecr", "account": "123456789012", "time": at, "region": "eu-west-1", "resources": [],
            "detail": {"result": "SUCCESS", "repository-name": repository(&self.cache), "action-type": "PUSH",
                "image-digest": self.pushed, "image-tag": "v1"},
        });
        let cache: CacheName = self.cache.parse()?;
        let name = ExecutionName::for_trigger(&cache, at, DEBOUNCE);
        let machine = self.world.deployment.state_machine_arn()?;
        let machine = machine.replace(":stateMachine:", ":execution:");
        Ok((event, format!("{machine}:{name}").parse()?))
    }

    /// Sends the push event to start-build asynchronously, as EventBridge does.
    pub async fn trigger(&self) -> Result<ExecutionArn> {
        let (event, execution) = self.event()?;
        self.world.send_event("start-build", &event).await?;
        Ok(execution)
    }

    /// Waits until an execution has started and ended.
    pub async fn end(&self, execution: &ExecutionArn) -> Result<Outcome> {
        let start = Instant::now();
        while !self.is_started(execution).await? {
            ensure!(start.elapsed() < START_TIME_LIMIT, "no build was started");
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        self.world
            .await_end_within(execution, BUILD_TIME_LIMIT, POLL_INTERVAL)
            .await
    }

    pub async fn is_started(&self, execution: &ExecutionArn) -> Result<bool> {
        let described = self
            .world
            .clients
            .sfn
            .describe_execution()
            .execution_arn(execution.as_str())
            .send()
            .await;
        match described {
            Ok(_) => Ok(true),
            Err(error) if error.aws_code() == Some("ExecutionDoesNotExist") => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Asserts that an execution succeeds with at most one builder.
    pub async fn succeeds(&self, execution: &ExecutionArn) -> Result<()> {
        let outcome = self.end(execution).await?;
        ensure!(
            outcome.status == ExecutionStatus::Succeeded,
            "the build ended with {}: {}: {}",
            outcome.status,
            outcome.error,
            outcome.cause
        );
        self.builders_at_most(1, execution).await
    }

    /// Asserts that an execution succeeds and publishes the last push.
    pub async fn publishes(&self, execution: &ExecutionArn) -> Result<()> {
        self.succeeds(execution).await?;
        ensure!(
            self.last_push_is_published().await?,
            "the build succeeded, but the last push is not published"
        );
        Ok(())
    }

    /// Asserts that an execution fails with one of `errors`. It may launch one builder, or two if it is retried without its
    /// base.
    pub async fn fails(&self, execution: &ExecutionArn, errors: &[&str]) -> Result<Outcome> {
        let outcome = self.end(execution).await?;
        ensure!(
            outcome.status == ExecutionStatus::Failed,
            "the build ended with {}, expected one of {errors:?}: {}",
            outcome.status,
            outcome.output
        );
        ensure!(
            errors.contains(&outcome.error.as_str()),
            "the build failed with {}, expected one of {errors:?}: {}",
            outcome.error,
            outcome.cause
        );
        ensure!(!outcome.cause.is_empty(), "{} has no cause", outcome.error);
        let without_base = ["DiskFull", "VerifyFailed"].contains(&outcome.error.as_str());
        self.builders_at_most(if without_base { 2 } else { 1 }, execution)
            .await?;
        self.emits_event(execution).await?;
        Ok(outcome)
    }

    /// Waits until clean-up has emitted the event for an execution that did not succeed.
    pub async fn emits_event(&self, execution: &ExecutionArn) -> Result<()> {
        let start = Instant::now();
        let marker = names::announced_parameter(&execution.name());
        loop {
            let calls = self.world.cloud.calls_for(execution.as_str()).await?;
            let emits_event = calls
                .iter()
                .any(|call| call.resource.as_deref() == Some(names::EVENT_FAILED));
            // The sweep of another worker may have emitted it first. The marker follows the event.
            if emits_event
                || parameters::get(&self.world.clients, &marker)
                    .await?
                    .is_some()
            {
                return Ok(());
            }
            ensure!(
                start.elapsed() < START_TIME_LIMIT,
                "no event reports the end of the build"
            );
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Asserts that a stage was invoked at least twice with an input that contains `text`.
    pub async fn is_invoked_twice(&self, stage: &str, text: &str) -> Result<()> {
        let calls = self.world.cloud.calls_for(text).await?;
        let invocations: BTreeSet<_> = calls
            .iter()
            .filter(|call| call.stage() == Some(stage))
            .filter_map(|call| call.invocation.as_deref())
            .collect();
        ensure!(
            invocations.len() >= 2,
            "{stage} was invoked {} times",
            invocations.len()
        );
        Ok(())
    }

    /// Asserts that the event of the last push ends in the dead-letter queue and starts nothing.
    pub async fn ends_in_dead_letter_queue(&self, execution: &ExecutionArn) -> Result<()> {
        let start = Instant::now();
        let queue = self.dead_letter_queue()?;
        // Earlier dead letters of this worker do not count.
        let pushed = self.pushed.as_ref().context("nothing was pushed")?.as_str();
        while !self
            .world
            .cloud
            .messages(&queue)
            .await?
            .iter()
            .any(|message| message.contains(pushed))
        {
            ensure!(
                start.elapsed() < START_TIME_LIMIT,
                "the event is not in the dead-letter queue"
            );
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        ensure!(
            !self.is_started(execution).await?,
            "a build was started although the event is a dead letter"
        );
        Ok(())
    }

    fn dead_letter_queue(&self) -> Result<String> {
        let outputs = self.world.deployment.outputs()?;
        let queue = outputs["dead_letter_queue_url"]["value"].as_str();
        Ok(queue
            .context("the module does not have this output")?
            .to_owned())
    }

    /// Adds a fault that affects only the invocations for this cache.
    pub async fn inject(&mut self, mut fault: Value) -> Result<String> {
        if fault.get("invocation").is_none() {
            fault["invocation"] = json!(self.matcher());
        }
        let id = self.world.cloud.add_fault(fault).await?;
        self.faults.push(id.clone());
        Ok(id)
    }

    /// Returns the number of calls that a fault has hit.
    pub async fn hits(&self, fault: &str) -> Result<u64> {
        self.world.cloud.fault_hits(fault).await
    }

    /// Removes a fault, and returns the number of calls that it has hit.
    pub async fn remove_fault(&mut self, fault: &str) -> Result<u64> {
        let hits = self.hits(fault).await?;
        self.faults.retain(|other| other != fault);
        self.world.cloud.remove_fault(fault).await?;
        Ok(hits)
    }

    /// Changes settings for the builders of this cache only.
    pub async fn set(&self, settings: Value) -> Result<()> {
        self.world.cloud.set_for(&self.cache, settings).await
    }

    async fn remove_all_faults(&mut self) -> Result<()> {
        for fault in std::mem::take(&mut self.faults) {
            self.world.cloud.remove_fault(&fault).await?;
        }
        self.world.cloud.unset_for(&self.cache).await?;
        self.configure(|_| ()).await
    }

    /// Returns the builders of an execution in any state. EC2 lists terminated instances for a while. Verifiers do not count.
    pub async fn builders(&self, execution: &ExecutionArn) -> Result<Vec<Instance>> {
        let execution = execution.name();
        let mut instances = self
            .instances(names::TAG_EXECUTION, execution.as_str())
            .await?;
        instances.retain(|instance| tag_value(instance.tags(), names::TAG_LAUNCH_KEY).is_some());
        Ok(instances)
    }

    /// Waits for the builder of an execution.
    pub async fn builder(&self, execution: &ExecutionArn) -> Result<InstanceId> {
        let start = Instant::now();
        loop {
            let builders = self.builders(execution).await?;
            if let Some(id) = builders.first().and_then(Instance::instance_id) {
                return Ok(id.parse()?);
            }
            ensure!(
                start.elapsed() < START_TIME_LIMIT,
                "no builder was launched"
            );
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    async fn builders_at_most(&self, most: usize, execution: &ExecutionArn) -> Result<()> {
        let builders = self.builders(execution).await?;
        ensure!(
            builders.len() <= most,
            "{} builders were launched",
            builders.len()
        );
        Ok(())
    }

    async fn instances(&self, tag: &str, value: &str) -> Result<Vec<Instance>> {
        let described = self
            .world
            .clients
            .ec2
            .describe_instances()
            .filters(tag_filter(tag, value))
            .send()
            .await?;
        Ok(described
            .reservations
            .unwrap_or_default()
            .into_iter()
            .flat_map(|reservation: Reservation| reservation.instances.unwrap_or_default())
            .collect())
    }

    /// Returns the pointer that consumers read.
    pub async fn pointer(&self) -> Result<Pointer> {
        let parameter = names::state_parameter(&self.cache.parse()?, ARCHITECTURE);
        let json = parameters::get(&self.world.clients, &parameter).await?;
        Ok(serde_json::from_str(&json.context("there is no pointer")?)?)
    }

    /// Returns the snapshot that nodes use.
    pub async fn stable(&self) -> Result<Option<SnapshotId>> {
        self.world.published(&self.cache, ARCHITECTURE).await
    }

    /// Asserts that the tags of the snapshots show the pointer.
    pub async fn tags_show_the_pointer(&self) -> Result<()> {
        let pointer = self.pointer().await?;
        let of_cache = vec![tag_filter(names::TAG_CACHE, &self.cache)];
        for snapshot in snapshots::find(&self.world.clients, of_cache).await? {
            let state = snapshot.state();
            let state = state.with_context(|| format!("{} is unfinished", snapshot.id))?;
            let wanted = pointers::state_of(&snapshot.id, state, &pointer);
            ensure!(state == wanted, "{} is {state:?}", snapshot.id);
        }
        Ok(())
    }

    /// Runs a command of the CLI. Returns whether it succeeded.
    pub fn command(&self, arguments: &[String]) -> Result<bool> {
        let mut command = self.world.cli();
        let output = tokio::task::block_in_place(|| command.args(arguments).output())?;
        Ok(output.status.success())
    }

    fn regions(&self) -> Result<[Clients; 2]> {
        let elsewhere: RegionName = COPY_REGION.parse()?;
        Ok([
            self.world.clients.clone(),
            self.world.clients.in_region(&elsewhere),
        ])
    }

    /// Waits until the cache has no instance, no volume and no unusable snapshot.
    pub async fn nothing_is_left(&self) -> Result<()> {
        invariants::cache_leaves_nothing_behind(&self.regions()?, &self.cache).await
    }

    pub async fn remaining_resources(&self) -> Result<BTreeSet<String>> {
        invariants::remaining_resources(&self.regions()?, &self.cache).await
    }

    /// Asserts that in every region the pointer holds a complete and verified snapshot that has a manifest.
    async fn pointer_is_valid(&self) -> Result<()> {
        let cache: CacheName = self.cache.parse()?;
        for clients in self.regions()? {
            let region = clients.region().context("the clients have no region")?;
            invariants::pointer_is_valid(&clients, &cache, ARCHITECTURE)
                .await
                .with_context(|| format!("in {region}"))?;
        }
        Ok(())
    }

    /// Returns whether the published snapshot of every region contains the last push.
    pub async fn last_push_is_published(&self) -> Result<bool> {
        let cache: CacheName = self.cache.parse()?;
        for clients in self.regions()? {
            let (_, manifest) = invariants::published(&clients, &cache, ARCHITECTURE).await?;
            let holds = manifest
                .images
                .iter()
                .any(|image| Some(&image.digest) == self.pushed.as_ref());
            if !holds {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// The clean-up that a case needs before its invariants hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expectation {
    /// The build itself cleans up.
    Clean,
    /// The hourly sweep must clean up, because clean-up was the failing stage.
    Swept,
}
