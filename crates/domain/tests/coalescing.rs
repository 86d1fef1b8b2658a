//! A model of debounce window and queue: pushes, events, executions and faults in any order. The domain crate makes
//! every decision.
//!
//! The model of Step Functions, EventBridge and the stages is minimal. A case is a list of operations. A failed case
//! prints the shortest list that proptest found, and its log.
//!
//! Run more cases with `PROPTEST_CASES=20000 cargo test -p prepull-domain --test coalescing`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use jiff::{SignedDuration, Timestamp};
use prepull_domain::build::payload::Pinning;
use prepull_domain::build::queue::{Position, Queued, is_superseded, position};
use prepull_domain::build::trigger::Push;
use prepull_domain::cache::config::CacheConfig;
use prepull_domain::cache::image::EcrRepository;
use prepull_domain::{Architecture, CacheName, ContentKey, Digest, ExecutionName};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use serde_json::json;

const DEBOUNCE: SignedDuration = SignedDuration::from_secs(60);

/// Maximum lag of `ListExecutions`.
const MAX_LAG: SignedDuration = SignedDuration::from_secs(2);

/// Number of calls between plan and publication of a build: launch, wait, pull, snapshot.
const BUILD_STEPS: u8 = 4;

/// Maximum rounds of steps before an execution counts as stuck.
const MAX_ROUNDS: usize = 200;

const HOST: &str = "123456789012.dkr.ecr.eu-west-1.amazonaws.com";

/// Repositories. Each cache uses two of them, and both caches use the second.
const REPOSITORIES: [&str; 3] = ["team/api", "team/worker", "team/job"];
const CACHES: [(&str, [usize; 2]); 2] = [("web", [0, 1]), ("batch", [1, 2])];

/// One operation. A number selects an entry of a list, modulo its length. So an operation stays valid when proptest
/// removes others.
#[derive(Debug, Clone, Copy)]
enum Op {
    /// Moves the tag of a repository to `content`, which can be new or its previous content.
    Push { repository: usize, content: u8 },
    /// Delivers an event from EventBridge, possibly with another delivery later.
    Deliver { event: usize, redeliver: bool },
    /// Fires a cache's schedule.
    Schedule { cache: usize },
    /// Starts a build by hand, without a debounce.
    Manual { cache: usize },
    /// Performs the next step of an execution. Its view of other executions is `lag` milliseconds old.
    Step { execution: usize, lag: i64 },
    /// Fails the current step of an execution permanently.
    Fail { execution: usize },
    /// Stops an execution by hand. Its function does not notice and finishes its call.
    Stop { execution: usize },
    /// Advances the clock.
    Advance { milliseconds: i64 },
}

/// The progress of an execution.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    /// Waiting for the end of the debounce, then in the queue.
    Queued,
    /// First in the queue, resolving images.
    Planning,
    /// Building the plan.
    Building { key: ContentKey, steps_left: u8 },
    /// Publishing a verified snapshot.
    Publishing { key: ContentKey },
    /// Ended.
    Ended,
}

#[derive(Debug)]
struct Execution {
    queued: Queued,
    cache: CacheName,
    debounce_ends_at: Timestamp,
    planned_at: Option<Timestamp>,
    phase: Phase,
    /// End time in Step Functions.
    ended_at: Option<Timestamp>,
}

impl Execution {
    fn is_running(&self) -> bool {
        self.ended_at.is_none()
    }

    /// Whether any part of it still runs, such as the function of a stopped execution.
    fn is_active(&self) -> bool {
        self.phase != Phase::Ended
    }

    /// Whether one of its stages can fail.
    fn can_fail(&self, now: Timestamp) -> bool {
        self.is_running() && now >= self.debounce_ends_at
    }

    /// Whether it has planned and not ended.
    fn is_building(&self) -> bool {
        self.is_running() && self.planned_at.is_some()
    }
}

/// A push event on its way to start-build.
#[derive(Debug, Clone)]
struct Event {
    push: Push,
    /// Time at which the tag moved.
    pushed_at: Timestamp,
}

/// The published snapshot.
#[derive(Debug, Clone)]
struct Published {
    key: ContentKey,
    planned_at: Timestamp,
}

/// The parts of AWS that affect window and queue.
#[derive(Debug)]
struct World {
    now: Timestamp,
    /// Current content of each repository's tag.
    contents: [u8; REPOSITORIES.len()],
    events: Vec<Event>,
    executions: Vec<Execution>,
    published: BTreeMap<CacheName, Published>,
    /// Times of the last push to a cache, and of its last failed or stopped build.
    last_push: BTreeMap<CacheName, Timestamp>,
    last_fault: BTreeMap<CacheName, Timestamp>,
    /// Number of launched builders.
    builders: usize,
    /// Whether overlapping builds of a cache violate an invariant.
    exclusive_builds: bool,
    events_log: Vec<String>,
}

fn cache(n: usize) -> CacheName {
    CACHES[n].0.parse().unwrap()
}

fn repositories(cache: &CacheName) -> [usize; 2] {
    let named = CACHES.iter().find(|(name, _)| *name == cache.as_str());
    named.expect("every cache is in the list").1
}

fn reference(repository: usize) -> String {
    format!("{HOST}/{}:v1", REPOSITORIES[repository])
}

/// Configuration of every cache.
static CONFIGS: LazyLock<BTreeMap<CacheName, CacheConfig>> = LazyLock::new(|| {
    let config = |cache: &CacheName| {
        json!({
            "images": repositories(cache).map(reference),
            "architectures": ["x86_64"],
            "variant": "aws-k8s-1.33",
            "bottlerocket_version": "latest",
            "volume": {"size_gib": 50, "iops": 3000, "throughput_mibps": 500},
            "builder": {
                "instance_types": {"x86_64": ["m7i.2xlarge"]},
                "subnet_ids": ["subnet-0123456789abcdef0"],
                "security_group_ids": []
            },
            "parallel_pulls": 4,
            "retain_snapshots": 3,
            "timeout_minutes": 60,
            "rebuild_on_push": true
        })
    };
    (0..CACHES.len())
        .map(cache)
        .map(|cache| {
            let config = CacheConfig::parse(&cache, &config(&cache).to_string()).unwrap();
            (cache, config)
        })
        .collect()
});

/// Returns the caches that a push affects.
fn affected_by(push: &Push) -> impl Iterator<Item = &'static CacheName> {
    let affected = CONFIGS.iter().filter(|(_, config)| push.triggers(config));
    affected.map(|(cache, _)| cache)
}

fn pick(count: usize, n: usize) -> Option<usize> {
    (count > 0).then(|| n % count)
}

impl World {
    fn new() -> Self {
        Self {
            // The time is inside a window, not at its start.
            now: Timestamp::from_second(1_767_323_045).unwrap(),
            contents: [0; REPOSITORIES.len()],
            events: Vec::new(),
            executions: Vec::new(),
            published: BTreeMap::new(),
            last_push: BTreeMap::new(),
            last_fault: BTreeMap::new(),
            builders: 0,
            exclusive_builds: true,
            events_log: Vec::new(),
        }
    }

    /// Applies an operation.
    ///
    /// # Errors
    /// The violated invariant and the log, if there is a violation.
    fn apply(&mut self, op: Op) -> Result<(), String> {
        match op {
            Op::Push {
                repository,
                content,
            } => self.push(repository, content),
            Op::Deliver { event, redeliver } => {
                if let Some(event) = pick(self.events.len(), event) {
                    let delivered = self.events[event].clone();
                    if !redeliver {
                        self.events.remove(event);
                    }
                    self.deliver(&delivered)?;
                }
            }
            Op::Schedule { cache: n } => self.schedule(&cache(n))?,
            Op::Manual { cache: n } => self.manual(&cache(n)),
            Op::Step { execution, lag } => {
                if let Some(n) = self.pick(Execution::is_active, execution) {
                    self.step(n, SignedDuration::from_millis(lag))?;
                }
            }
            Op::Fail { execution } => {
                let now = self.now;
                if let Some(n) = self.pick(|execution| execution.can_fail(now), execution) {
                    self.fault(n, "fails");
                    self.end(n);
                }
            }
            Op::Stop { execution } => {
                if let Some(n) = self.pick(Execution::is_running, execution) {
                    self.stop(n);
                }
            }
            Op::Advance { milliseconds } => self.advance(SignedDuration::from_millis(milliseconds)),
        }
        self.check_builds_do_not_overlap()
    }

    /// Returns the `n`th execution that matches `predicate`.
    fn pick(&self, predicate: impl Fn(&Execution) -> bool, n: usize) -> Option<usize> {
        let found: Vec<_> = (0..self.executions.len())
            .filter(|n| predicate(&self.executions[*n]))
            .collect();
        pick(found.len(), n).map(|n| found[n])
    }

    fn advance(&mut self, duration: SignedDuration) {
        self.now += duration;
    }

    fn push(&mut self, repository: usize, content: u8) {
        let name = REPOSITORIES[repository];
        self.log(&format!("{name} is pushed with content {content}"));
        self.contents[repository] = content;
        let push = Push {
            repository: EcrRepository {
                account: "123456789012".parse().unwrap(),
                region: "eu-west-1".parse().unwrap(),
                repository: name.to_owned(),
            },
            tag: "v1".to_owned(),
        };
        for cache in affected_by(&push) {
            self.last_push.insert(cache.clone(), self.now);
        }
        self.events.push(Event {
            push,
            pushed_at: self.now,
        });
    }

    /// Runs start-build with an event from ECR.
    fn deliver(&mut self, event: &Event) -> Result<(), String> {
        // ECR's events have a resolution of one second.
        let at = Timestamp::from_second(event.pushed_at.as_second()).unwrap();
        for cache in affected_by(&event.push) {
            let existing = self.start(
                cache,
                ExecutionName::for_trigger(cache, at, DEBOUNCE),
                DEBOUNCE,
            );
            self.check_plan_is_later(existing, event.pushed_at)?;
        }
        Ok(())
    }

    fn push_and_deliver(&mut self, content: u8) -> Result<(), String> {
        self.push(0, content);
        let event = self.events.pop().expect("a push creates an event");
        self.deliver(&event)
    }

    /// Runs start-build with a schedule's call.
    fn schedule(&mut self, cache: &CacheName) -> Result<(), String> {
        let existing = self.start(
            cache,
            ExecutionName::for_trigger(cache, self.now, DEBOUNCE),
            DEBOUNCE,
        );
        self.check_plan_is_later(existing, self.now)
    }

    /// Runs `prepull build`.
    fn manual(&mut self, cache: &CacheName) {
        let name = ExecutionName::manual(cache, self.now);
        self.start(cache, name, SignedDuration::ZERO);
    }

    /// Models `StartExecution`: starts an execution, or returns the existing one with this name, even if it has ended.
    fn start(&mut self, cache: &CacheName, name: ExecutionName, debounce: SignedDuration) -> usize {
        let existing = self
            .executions
            .iter()
            .position(|execution| execution.queued.name == name);
        if let Some(existing) = existing {
            self.log_execution(existing, "exists already");
            return existing;
        }
        self.executions.push(Execution {
            queued: Queued {
                started_at: self.now,
                name,
            },
            cache: cache.clone(),
            debounce_ends_at: self.now + debounce,
            planned_at: None,
            phase: Phase::Queued,
            ended_at: None,
        });
        let started = self.executions.len() - 1;
        self.log_execution(started, "starts");
        started
    }

    fn step(&mut self, n: usize, lag: SignedDuration) -> Result<(), String> {
        // Two calls never return in the same millisecond.
        self.advance(SignedDuration::from_millis(1));
        let execution = &self.executions[n];
        let cache = execution.cache.clone();
        match execution.phase.clone() {
            Phase::Queued if self.now < execution.debounce_ends_at => {}
            Phase::Queued => match position(&execution.queued, &self.running(&cache, lag)) {
                Position::First => {
                    self.log_execution(n, "is first in the queue");
                    self.executions[n].planned_at = Some(self.now);
                    self.executions[n].phase = Phase::Planning;
                }
                Position::Waiting { behind } => {
                    self.log_execution(n, &format!("waits for {behind}"));
                }
                Position::Superseded { by } => {
                    self.log_execution(n, &format!("is superseded by {by}"));
                    self.end(n);
                }
            },
            Phase::Planning => {
                let key = self.wanted(&cache);
                if self.is_published(&cache) {
                    self.log_execution(n, "finds everything up to date");
                    self.end(n);
                } else {
                    self.log_execution(n, &format!("builds contents {:?}", self.contents));
                    self.builders += 1;
                    self.executions[n].phase = Phase::Building {
                        key,
                        steps_left: BUILD_STEPS,
                    };
                }
            }
            Phase::Building { key, steps_left: 1 } => {
                self.executions[n].phase = Phase::Publishing { key };
            }
            Phase::Building { key, steps_left } => {
                let steps_left = steps_left - 1;
                self.executions[n].phase = Phase::Building { key, steps_left };
            }
            Phase::Publishing { key } => self.publish(n, &cache, key)?,
            Phase::Ended => {}
        }
        Ok(())
    }

    fn publish(&mut self, n: usize, cache: &CacheName, key: ContentKey) -> Result<(), String> {
        let planned_at = self.executions[n]
            .planned_at
            .expect("an execution plans before it publishes");
        let before = self.published.get(cache).map(|before| before.planned_at);
        if before.is_some_and(|before| is_superseded(planned_at, before)) {
            self.log_execution(n, "was superseded");
        } else {
            self.log_execution(n, "publishes");
            let published = Published { key, planned_at };
            self.published.insert(cache.clone(), published);
        }
        if !self.executions[n].is_running() {
            self.fault(n, "had been stopped");
        }
        self.end(n);
        match before {
            Some(before) if before > self.published[cache].planned_at => {
                Err(self.violation("publication went backwards"))
            }
            _ => Ok(()),
        }
    }

    fn stop(&mut self, n: usize) {
        self.fault(n, "is stopped");
        let publishes = matches!(self.executions[n].phase, Phase::Publishing { .. });
        if publishes {
            self.executions[n].ended_at = Some(self.now);
        } else {
            self.end(n);
        }
    }

    fn end(&mut self, n: usize) {
        self.executions[n].phase = Phase::Ended;
        self.executions[n].ended_at.get_or_insert(self.now);
    }

    /// Records a failure that a `Build Failed` event reports.
    ///
    /// An execution that is stopped during its debounce keeps its name. Pushes in the rest of its window are therefore
    /// lost with it.
    fn fault(&mut self, n: usize, what: &str) {
        self.log_execution(n, what);
        let execution = &self.executions[n];
        let until = self.now.max(execution.debounce_ends_at);
        let last = self
            .last_fault
            .entry(execution.cache.clone())
            .or_insert(until);
        *last = until.max(*last);
    }

    /// Returns the result of `ListExecutions` from `lag` ago.
    fn running(&self, cache: &CacheName, lag: SignedDuration) -> Vec<Queued> {
        let then = self.now - lag;
        self.executions
            .iter()
            .filter(|execution| execution.queued.started_at <= then)
            .filter(|execution| execution.ended_at.is_none_or(|ended_at| ended_at > then))
            .filter(|execution| execution.cache == *cache)
            .map(|execution| execution.queued.clone())
            .collect()
    }

    /// Returns the content key for a plan of the cache at this time.
    fn wanted(&self, cache: &CacheName) -> ContentKey {
        let config = &CONFIGS[cache];
        let repositories = repositories(cache).into_iter();
        let images: Vec<_> = repositories
            .zip(&config.images)
            .map(|(repository, reference)| {
                let digest = format!("sha256:{:064x}", self.contents[repository]);
                (reference, digest.parse::<Digest>().unwrap())
            })
            .collect();
        let architecture = Architecture::X86_64;
        let images = images
            .iter()
            .map(|(reference, digest)| (*reference, digest));
        ContentKey::of(&config.variant, architecture, Pinning::Unpinned, images)
    }

    fn is_published(&self, cache: &CacheName) -> bool {
        let published = self.published.get(cache);
        published.is_some_and(|published| published.key == self.wanted(cache))
    }

    /// Delivers every event and runs every execution to its end.
    fn run_to_end(&mut self) -> Result<(), String> {
        while !self.events.is_empty() {
            self.apply(Op::Deliver {
                event: 0,
                redeliver: false,
            })?;
        }
        for _ in 0..MAX_ROUNDS {
            if !self.executions.iter().any(Execution::is_active) {
                return Ok(());
            }
            self.advance(DEBOUNCE);
            self.step_all()?;
        }
        Err(self.violation("an execution is stuck"))
    }

    fn step_all(&mut self) -> Result<(), String> {
        for n in 0..self.executions.len() {
            self.step(n, SignedDuration::ZERO)?;
            self.check_builds_do_not_overlap()?;
        }
        Ok(())
    }

    fn check_plan_is_later(&self, existing: usize, trigger: Timestamp) -> Result<(), String> {
        match self.executions[existing].planned_at {
            Some(planned_at) if planned_at <= trigger => {
                Err(self.violation("a trigger joined an execution that had planned before it"))
            }
            _ => Ok(()),
        }
    }

    fn check_builds_do_not_overlap(&self) -> Result<(), String> {
        let building = |cache: &CacheName| {
            let builds = self
                .executions
                .iter()
                .filter(|execution| execution.is_building());
            builds.filter(|execution| execution.cache == *cache).count()
        };
        if self.exclusive_builds && CONFIGS.keys().any(|cache| building(cache) > 1) {
            return Err(self.violation("builds of a cache overlap"));
        }
        Ok(())
    }

    /// Checks that the last push to each cache is published, or that a failure was reported since.
    fn check_no_push_is_lost(&self) -> Result<(), String> {
        for (cache, push) in &self.last_push {
            let reported = self
                .last_fault
                .get(cache)
                .is_some_and(|fault| fault >= push);
            if !self.is_published(cache) && !reported {
                return Err(self.violation("the last push is not published"));
            }
        }
        Ok(())
    }

    fn check_next_schedule_publishes(&mut self) -> Result<(), String> {
        // A failed execution is not started again, so the schedule needs a new window.
        self.advance(DEBOUNCE);
        for cache in CONFIGS.keys() {
            self.schedule(cache)?;
        }
        self.run_to_end()?;
        if CONFIGS.keys().all(|cache| self.is_published(cache)) {
            Ok(())
        } else {
            Err(self.violation("a schedule did not publish the current content"))
        }
    }

    fn log_execution(&mut self, n: usize, what: &str) {
        self.log(&format!("{} {what}", self.executions[n].queued.name));
    }

    fn log(&mut self, what: &str) {
        let time = self.now.strftime("%T%.3f");
        self.events_log.push(format!("{time} {what}"));
    }

    fn violation(&self, invariant: &str) -> String {
        format!("{invariant}:\n{}", self.events_log.join("\n"))
    }
}

/// Generates the lag of a consistent `ListExecutions`.
fn consistent() -> BoxedStrategy<i64> {
    Just(0).boxed()
}

fn lagging() -> BoxedStrategy<i64> {
    (0..=i64::try_from(MAX_LAG.as_millis()).unwrap()).boxed()
}

/// Generates an operation that is neither a fault nor a manual build.
fn any_op(lag: BoxedStrategy<i64>) -> BoxedStrategy<Op> {
    // The number of contents is small, so a push often restores an earlier content.
    let push = (0..REPOSITORIES.len(), 0..3u8);
    let milliseconds = vec![1, 400, 1_000, 20_000, 59_000, 60_000, 61_000, 300_000];
    prop_oneof![
        3 => push.prop_map(|(repository, content)| Op::Push { repository, content }),
        4 => (0..8usize, prop::bool::weighted(0.2))
            .prop_map(|(event, redeliver)| Op::Deliver { event, redeliver }),
        1 => (0..CACHES.len()).prop_map(|cache| Op::Schedule { cache }),
        12 => (0..8usize, lag).prop_map(|(execution, lag)| Op::Step { execution, lag }),
        4 => prop::sample::select(milliseconds).prop_map(|milliseconds| Op::Advance { milliseconds }),
    ]
    .boxed()
}

fn manual() -> impl Strategy<Value = Op> {
    (0..CACHES.len()).prop_map(|cache| Op::Manual { cache })
}

fn any_fault() -> impl Strategy<Value = Op> {
    prop_oneof![
        (0..8usize).prop_map(|execution| Op::Fail { execution }),
        (0..8usize).prop_map(|execution| Op::Stop { execution }),
    ]
}

fn many(op: impl Strategy<Value = Op>) -> impl Strategy<Value = Vec<Op>> {
    prop::collection::vec(op, 0..120)
}

/// Applies `ops` and then runs everything to its end.
fn world_after(mut world: World, ops: &[Op]) -> Result<World, String> {
    for op in ops {
        world.apply(*op)?;
    }
    world.run_to_end()?;
    Ok(world)
}

fn test_result(result: Result<(), String>) -> Result<(), TestCaseError> {
    result.map_err(TestCaseError::fail)
}

/// Starts two manual builds, with `between` in the middle. The second starts within the lag and does not see the first.
/// Both have planned.
fn two_manual_builds(mut world: World, between: impl FnOnce(&mut World)) -> Result<World, String> {
    let moment = SignedDuration::from_millis(100);
    world.manual(&cache(0));
    world.advance(moment);
    between(&mut world);
    world.manual(&cache(0));
    world.advance(moment);
    let (first, second) = (0, world.executions.len() - 1);
    for _ in 0..2 {
        world.step(first, SignedDuration::ZERO)?;
        world.step(second, MAX_LAG)?;
    }
    world.check_builds_do_not_overlap()?;
    Ok(world)
}

/// The cost is one builder, because one of the two builds is redundant.
#[test]
fn manual_builds_within_the_lag_overlap() {
    let violation = two_manual_builds(World::new(), |_| {}).unwrap_err();
    assert!(
        violation.starts_with("builds of a cache overlap"),
        "{violation}"
    );
}

/// The cost is a delay until the next trigger. The trigger between the two builds is superseded by the second build,
/// which planned long before because it did not wait.
#[test]
fn push_after_overlapping_builds_waits_for_the_next_trigger() {
    let tolerant = World {
        exclusive_builds: false,
        ..World::new()
    };
    let triggered = |world: &mut World| world.push_and_deliver(1).unwrap();
    let mut world = two_manual_builds(tolerant, triggered).unwrap();
    world.push_and_deliver(2).unwrap();
    world.run_to_end().unwrap();
    let violation = world.check_no_push_is_lost().unwrap_err();
    assert!(
        violation.starts_with("the last push is not published"),
        "{violation}"
    );
    world.check_next_schedule_publishes().unwrap();
}

proptest! {
    #[test]
    fn last_push_is_published_without_overlapping_builds(
        ops in many(prop_oneof![9 => any_op(consistent()), 1 => manual()]),
    ) {
        test_result(world_after(World::new(), &ops).and_then(|world| world.check_no_push_is_lost()))?;
    }

    /// prepull reports a failed build and does not repeat it. The next trigger builds the missing content, at the
    /// latest a schedule.
    #[test]
    fn failed_build_is_reported_and_the_next_schedule_repairs_it(
        ops in many(prop_oneof![9 => any_op(consistent()), 1 => manual(), 2 => any_fault()]),
    ) {
        test_result(world_after(World::new(), &ops).and_then(|mut world| {
            world.check_no_push_is_lost()?;
            world.check_next_schedule_publishes()
        }))?;
    }

    /// Triggered executions tolerate eventual consistency of `ListExecutions` if its lag is shorter than the debounce.
    /// An execution reads the list after its debounce, and every older execution has run for longer.
    #[test]
    fn lag_below_the_debounce_changes_nothing(
        ops in many(prop_oneof![10 => any_op(lagging()), 2 => any_fault()]),
    ) {
        test_result(world_after(World::new(), &ops).and_then(|mut world| {
            world.check_no_push_is_lost()?;
            world.check_next_schedule_publishes()
        }))?;
    }

    /// A manual execution has no debounce, so it can miss an execution that started within the lag before it. The tests
    /// above show the cost. Publication still never goes back, no execution gets stuck, and the next schedule publishes
    /// the current content.
    #[test]
    fn manual_builds_within_the_lag_do_no_lasting_harm(
        ops in many(prop_oneof![9 => any_op(lagging()), 2 => manual(), 2 => any_fault()]),
    ) {
        let world = World { exclusive_builds: false, ..World::new() };
        test_result(world_after(world, &ops).and_then(|mut world| world.check_next_schedule_publishes()))?;
    }

    /// All pushes of a burst join one execution, or two if the burst crosses the end of a window. This includes late
    /// and duplicate events.
    #[test]
    fn burst_within_one_window_builds_at_most_twice(
        seconds in prop::collection::vec(0..DEBOUNCE.as_secs(), 1..40),
        begin in 0..DEBOUNCE.as_secs(),
        twice in any::<bool>(),
    ) {
        let mut world = World::new();
        world.advance(SignedDuration::from_secs(begin));
        let begin = world.now;
        let mut windows = BTreeSet::new();
        for (content, second) in (1..).zip(seconds) {
            world.now = begin + SignedDuration::from_secs(second);
            windows.insert(world.now.as_second() / DEBOUNCE.as_secs());
            world.push(0, content);
            if twice {
                world.events.extend(world.events.last().cloned());
            }
        }
        world.now = begin + DEBOUNCE;
        test_result(world.run_to_end())?;
        prop_assert!(windows.len() <= 2);
        prop_assert_eq!(world.executions.len(), windows.len());
        prop_assert!((1..=2).contains(&world.builders), "{} builders", world.builders);
    }

    /// Builds of a cache run one after the other, and at most one waits. A burst causes no more builds than fit into
    /// its duration one after the other. It does not starve a build, and the last push waits for at most two builds.
    #[test]
    fn long_burst_builds_one_after_the_other(
        pushes in prop::collection::vec(0..3u8, 30..120),
    ) {
        // The plan, each step of the build and the publication take one window each. The next execution starts in the
        // last window.
        let build = usize::from(BUILD_STEPS) + 2;
        let windows = pushes.len();
        let mut world = World::new();
        for content in pushes {
            test_result(world.push_and_deliver(content))?;
            test_result(world.step_all())?;
            world.advance(DEBOUNCE);
        }
        let planned = world.executions.iter().filter(|execution| execution.planned_at.is_some()).count();
        prop_assert!(planned + 1 >= windows / build, "{planned} plans in {windows} windows");
        let last_push = world.now - DEBOUNCE;
        test_result(world.run_to_end())?;
        test_result(world.check_no_push_is_lost())?;
        prop_assert!(world.builders <= windows / build + 2, "{} builders in {windows} windows", world.builders);
        let ended = world.executions.iter().filter_map(|execution| execution.ended_at).max();
        let waited = ended.expect("at least one execution ended").duration_since(last_push);
        let maximum = DEBOUNCE * i32::try_from(2 * build + 1).unwrap();
        prop_assert!(waited <= maximum, "the last push waited {waited:#}");
    }
}
