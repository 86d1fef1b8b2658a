//! The window and the queue as a model: pushes, events, executions and faults in any order, with the domain's own
//! functions for every decision.
//!
//! What Step Functions, EventBridge and the stages do around them is written down here as small as it can be. A case is a
//! list of operations; a failure shows the shortest list that was found, and what happened in it.
//!
//! More cases than by default: `PROPTEST_CASES=20000 cargo test -p prepull-domain --test coalescing`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use jiff::{SignedDuration, Timestamp};
use prepull_domain::build::payload::{Pinning, PlannedImage};
use prepull_domain::build::queue::{Queued, Turn, is_superseded, turn};
use prepull_domain::build::trigger::Push;
use prepull_domain::cache::config::CacheConfig;
use prepull_domain::cache::image::EcrRepository;
use prepull_domain::{Architecture, Bytes, CacheName, ContentKey, Digest, ExecutionName};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use serde_json::json;

const DEBOUNCE: SignedDuration = SignedDuration::from_secs(60);

/// How far behind `ListExecutions` is at the most, where it is behind at all.
const MOST_LAG: SignedDuration = SignedDuration::from_secs(2);

/// How many calls a build makes between its plan and its publication: launch, wait, pull, snapshot.
const BUILD_STEPS: u8 = 4;

/// How often everything that runs is looked at again before it counts as waiting for ever.
const PATIENCE: usize = 200;

const HOST: &str = "123456789012.dkr.ecr.eu-west-1.amazonaws.com";

/// Repositories, of which each cache holds two: they share the second.
const REPOSITORIES: [&str; 3] = ["team/api", "team/worker", "team/job"];
const CACHES: [(&str, [usize; 2]); 2] = [("web", [0, 1]), ("batch", [1, 2])];

/// One thing that happens. A number picks one of those there are, counted round: so what is left of a list when others
/// are taken out of it can happen too.
#[derive(Debug, Clone, Copy)]
enum Op {
    /// The tag of a repository moves to `content`: new, or what it was before.
    Push { repository: usize, content: u8 },
    /// EventBridge hands over an event, whichever, and perhaps hands it over once more later.
    Deliver { event: usize, once_more: bool },
    /// A cache's schedule fires.
    Schedule { cache: usize },
    /// A person starts a build, which does not debounce.
    Manual { cache: usize },
    /// An execution takes its next step. What it sees of the others is `lag` milliseconds old.
    Step { execution: usize, lag: i64 },
    /// The step that an execution is at fails for good.
    Fail { execution: usize },
    /// A person stops an execution. Its function is not told, and ends what it began.
    Stop { execution: usize },
    /// Time passes.
    Advance { milliseconds: i64 },
}

/// Where an execution stands.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    /// It debounces, and then waits for its turn.
    Queued,
    /// It had its turn and resolves its images.
    Planning,
    /// It builds what it planned.
    Building { key: ContentKey, steps_left: u8 },
    /// Its snapshot is verified.
    PublishOutcome { key: ContentKey },
    /// It ended.
    Ended,
}

#[derive(Debug)]
struct Execution {
    queued: Queued,
    cache: CacheName,
    debounce_ends_at: Timestamp,
    planned_at: Option<Timestamp>,
    stage: Stage,
    /// When it ended for Step Functions.
    ended_at: Option<Timestamp>,
}

impl Execution {
    fn runs(&self) -> bool {
        self.ended_at.is_none()
    }

    /// Whether anything of it goes on, be it the function of one that was stopped.
    fn goes_on(&self) -> bool {
        self.stage != Stage::Ended
    }

    /// Whether a stage of it can fail.
    fn can_fail(&self, now: Timestamp) -> bool {
        self.runs() && now >= self.debounce_ends_at
    }

    /// Whether it is between its plan and its end.
    fn builds(&self) -> bool {
        self.runs() && self.planned_at.is_some()
    }
}

/// A push on its way to start-build.
#[derive(Debug, Clone)]
struct Event {
    push: Push,
    /// When the tag moved.
    pushed_at: Timestamp,
}

/// The snapshot that nodes use.
#[derive(Debug, Clone)]
struct Published {
    key: ContentKey,
    planned_at: Timestamp,
}

/// As much of AWS as the window and the queue are about.
#[derive(Debug)]
struct World {
    now: Timestamp,
    /// What the repositories' tags stand for.
    contents: [u8; REPOSITORIES.len()],
    events: Vec<Event>,
    executions: Vec<Execution>,
    published: BTreeMap<CacheName, Published>,
    /// When an image of a cache was last pushed, and when a build of it last ended badly.
    last_push: BTreeMap<CacheName, Timestamp>,
    last_fault: BTreeMap<CacheName, Timestamp>,
    /// How many builders were launched.
    builders: usize,
    /// Whether two builds of a cache at once break a promise.
    alone: bool,
    story: Vec<String>,
}

fn cache(n: usize) -> CacheName {
    CACHES[n].0.parse().unwrap()
}

fn repositories(cache: &CacheName) -> [usize; 2] {
    let named = CACHES.iter().find(|(name, _)| *name == cache.as_str());
    named.expect("there is no other cache").1
}

fn reference(repository: usize) -> String {
    format!("{HOST}/{}:v1", REPOSITORIES[repository])
}

/// Every cache with its configuration.
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

/// The caches that a push concerns.
fn concerned_by(push: &Push) -> impl Iterator<Item = &'static CacheName> {
    let concerned = CONFIGS.iter().filter(|(_, config)| push.concerns(config));
    concerned.map(|(cache, _)| cache)
}

fn pick(count: usize, n: usize) -> Option<usize> {
    (count > 0).then(|| n % count)
}

impl World {
    fn new() -> Self {
        Self {
            // Within a window, not at its beginning.
            now: Timestamp::from_second(1_767_323_045).unwrap(),
            contents: [0; REPOSITORIES.len()],
            events: Vec::new(),
            executions: Vec::new(),
            published: BTreeMap::new(),
            last_push: BTreeMap::new(),
            last_fault: BTreeMap::new(),
            builders: 0,
            alone: true,
            story: Vec::new(),
        }
    }

    /// Lets an operation happen.
    ///
    /// # Errors
    /// Where it breaks a promise: which one, and all that happened.
    fn apply(&mut self, op: Op) -> Result<(), String> {
        match op {
            Op::Push {
                repository,
                content,
            } => self.push(repository, content),
            Op::Deliver { event, once_more } => {
                if let Some(event) = pick(self.events.len(), event) {
                    let delivered = self.events[event].clone();
                    if !once_more {
                        self.events.remove(event);
                    }
                    self.deliver(&delivered)?;
                }
            }
            Op::Schedule { cache: n } => self.schedule(&cache(n))?,
            Op::Manual { cache: n } => self.manual(&cache(n)),
            Op::Step { execution, lag } => {
                if let Some(n) = self.pick(Execution::goes_on, execution) {
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
                if let Some(n) = self.pick(Execution::runs, execution) {
                    self.stop(n);
                }
            }
            Op::Advance { milliseconds } => self.advance(SignedDuration::from_millis(milliseconds)),
        }
        self.check_one_builds()
    }

    /// The `n`th of the executions that are `such`.
    fn pick(&self, such: impl Fn(&Execution) -> bool, n: usize) -> Option<usize> {
        let found: Vec<_> = (0..self.executions.len())
            .filter(|n| such(&self.executions[*n]))
            .collect();
        pick(found.len(), n).map(|n| found[n])
    }

    fn advance(&mut self, duration: SignedDuration) {
        self.now += duration;
    }

    fn push(&mut self, repository: usize, content: u8) {
        let name = REPOSITORIES[repository];
        self.tell(&format!("{name} is pushed with content {content}"));
        self.contents[repository] = content;
        let push = Push {
            repository: EcrRepository {
                account: "123456789012".parse().unwrap(),
                region: "eu-west-1".parse().unwrap(),
                repository: name.to_owned(),
            },
            tag: "v1".to_owned(),
        };
        for cache in concerned_by(&push) {
            self.last_push.insert(cache.clone(), self.now);
        }
        self.events.push(Event {
            push,
            pushed_at: self.now,
        });
    }

    /// start-build with an event of ECR's.
    fn deliver(&mut self, event: &Event) -> Result<(), String> {
        // It tells the second.
        let at = Timestamp::from_second(event.pushed_at.as_second()).unwrap();
        for cache in concerned_by(&event.push) {
            let bearer = self.start(
                cache,
                ExecutionName::for_trigger(cache, at, DEBOUNCE),
                DEBOUNCE,
            );
            self.check_plan_is_younger(bearer, event.pushed_at)?;
        }
        Ok(())
    }

    fn push_and_deliver(&mut self, content: u8) -> Result<(), String> {
        self.push(0, content);
        let event = self.events.pop().expect("a push makes an event");
        self.deliver(&event)
    }

    /// start-build with the call of a schedule.
    fn schedule(&mut self, cache: &CacheName) -> Result<(), String> {
        let bearer = self.start(
            cache,
            ExecutionName::for_trigger(cache, self.now, DEBOUNCE),
            DEBOUNCE,
        );
        self.check_plan_is_younger(bearer, self.now)
    }

    /// `prepull build`.
    fn manual(&mut self, cache: &CacheName) {
        let name = ExecutionName::manual(cache, self.now);
        self.start(cache, name, SignedDuration::ZERO);
    }

    /// `StartExecution`: a new execution, or the one that bears the name, whether or not that still runs.
    fn start(&mut self, cache: &CacheName, name: ExecutionName, debounce: SignedDuration) -> usize {
        let bearer = self
            .executions
            .iter()
            .position(|execution| execution.queued.name == name);
        if let Some(bearer) = bearer {
            self.tell_of(bearer, "is there already");
            return bearer;
        }
        self.executions.push(Execution {
            queued: Queued {
                started_at: self.now,
                name,
            },
            cache: cache.clone(),
            debounce_ends_at: self.now + debounce,
            planned_at: None,
            stage: Stage::Queued,
            ended_at: None,
        });
        let started = self.executions.len() - 1;
        self.tell_of(started, "starts");
        started
    }

    fn step(&mut self, n: usize, lag: SignedDuration) -> Result<(), String> {
        // No call is answered in the millisecond of the one before it.
        self.advance(SignedDuration::from_millis(1));
        let execution = &self.executions[n];
        let cache = execution.cache.clone();
        match execution.stage.clone() {
            Stage::Queued if self.now < execution.debounce_ends_at => {}
            Stage::Queued => match turn(&execution.queued, &self.running(&cache, lag)) {
                Turn::Go => {
                    self.tell_of(n, "has its turn");
                    self.executions[n].planned_at = Some(self.now);
                    self.executions[n].stage = Stage::Planning;
                }
                Turn::Wait { behind } => self.tell_of(n, &format!("waits for {behind}")),
                Turn::Superseded { by } => {
                    self.tell_of(n, &format!("leaves its work to {by}"));
                    self.end(n);
                }
            },
            Stage::Planning => {
                let key = self.wanted(&cache);
                if self.is_published(&cache) {
                    self.tell_of(n, "finds everything up to date");
                    self.end(n);
                } else {
                    self.tell_of(n, &format!("builds contents {:?}", self.contents));
                    self.builders += 1;
                    self.executions[n].stage = Stage::Building {
                        key,
                        steps_left: BUILD_STEPS,
                    };
                }
            }
            Stage::Building { key, steps_left: 1 } => {
                self.executions[n].stage = Stage::PublishOutcome { key };
            }
            Stage::Building { key, steps_left } => {
                let steps_left = steps_left - 1;
                self.executions[n].stage = Stage::Building { key, steps_left };
            }
            Stage::PublishOutcome { key } => self.publish(n, &cache, key)?,
            Stage::Ended => {}
        }
        Ok(())
    }

    fn publish(&mut self, n: usize, cache: &CacheName, key: ContentKey) -> Result<(), String> {
        let planned_at = self.executions[n]
            .planned_at
            .expect("what publishes was planned");
        let before = self.published.get(cache).map(|before| before.planned_at);
        if before.is_some_and(|before| is_superseded(planned_at, before)) {
            self.tell_of(n, "was superseded");
        } else {
            self.tell_of(n, "publishes");
            let published = Published { key, planned_at };
            self.published.insert(cache.clone(), published);
        }
        if !self.executions[n].runs() {
            self.fault(n, "had been stopped");
        }
        self.end(n);
        match before {
            Some(before) if before > self.published[cache].planned_at => {
                Err(self.broken("publication went backwards"))
            }
            _ => Ok(()),
        }
    }

    fn stop(&mut self, n: usize) {
        self.fault(n, "is stopped");
        let publishes = matches!(self.executions[n].stage, Stage::PublishOutcome { .. });
        if publishes {
            self.executions[n].ended_at = Some(self.now);
        } else {
            self.end(n);
        }
    }

    fn end(&mut self, n: usize) {
        self.executions[n].stage = Stage::Ended;
        self.executions[n].ended_at.get_or_insert(self.now);
    }

    /// Notes what somebody is told of: `Build Failed`.
    ///
    /// An execution that is stopped while it debounces keeps its name, and takes with it what is pushed in the rest of its
    /// window.
    fn fault(&mut self, n: usize, what: &str) {
        self.tell_of(n, what);
        let execution = &self.executions[n];
        let until = self.now.max(execution.debounce_ends_at);
        let last = self
            .last_fault
            .entry(execution.cache.clone())
            .or_insert(until);
        *last = until.max(*last);
    }

    /// `ListExecutions` as it was `lag` ago.
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

    /// What a snapshot of the cache would hold that is planned now.
    fn wanted(&self, cache: &CacheName) -> ContentKey {
        let config = &CONFIGS[cache];
        let repositories = repositories(cache).into_iter();
        let images: Vec<_> = repositories
            .zip(&config.images)
            .map(|(repository, reference)| {
                let digest = format!("sha256:{:064x}", self.contents[repository]);
                let digest: Digest = digest.parse().unwrap();
                PlannedImage {
                    reference: reference.clone(),
                    platform_digest: digest.clone(),
                    digest,
                    size: Bytes(1),
                    after: None,
                }
            })
            .collect();
        let architecture = Architecture::X86_64;
        ContentKey::of(&config.variant, architecture, Pinning::Unpinned, &images)
    }

    fn is_published(&self, cache: &CacheName) -> bool {
        let published = self.published.get(cache);
        published.is_some_and(|published| published.key == self.wanted(cache))
    }

    /// Delivers every event and lets every execution come to its end.
    fn run_to_end(&mut self) -> Result<(), String> {
        while !self.events.is_empty() {
            self.apply(Op::Deliver {
                event: 0,
                once_more: false,
            })?;
        }
        for _ in 0..PATIENCE {
            if !self.executions.iter().any(Execution::goes_on) {
                return Ok(());
            }
            self.advance(DEBOUNCE);
            self.everybody_steps()?;
        }
        Err(self.broken("somebody waits for ever"))
    }

    fn everybody_steps(&mut self) -> Result<(), String> {
        for n in 0..self.executions.len() {
            self.step(n, SignedDuration::ZERO)?;
            self.check_one_builds()?;
        }
        Ok(())
    }

    fn check_plan_is_younger(&self, bearer: usize, trigger: Timestamp) -> Result<(), String> {
        match self.executions[bearer].planned_at {
            Some(planned_at) if planned_at <= trigger => {
                Err(self.broken("a trigger joined an execution that had planned before it"))
            }
            _ => Ok(()),
        }
    }

    fn check_one_builds(&self) -> Result<(), String> {
        let building = |cache: &CacheName| {
            let builds = self
                .executions
                .iter()
                .filter(|execution| execution.builds());
            builds.filter(|execution| execution.cache == *cache).count()
        };
        if self.alone && CONFIGS.keys().any(|cache| building(cache) > 1) {
            return Err(self.broken("two builds of a cache run at once"));
        }
        Ok(())
    }

    /// Where the last push to a cache is not published, somebody was told of a failure since.
    fn check_nothing_is_lost_unsaid(&self) -> Result<(), String> {
        for (cache, push) in &self.last_push {
            let told = self
                .last_fault
                .get(cache)
                .is_some_and(|fault| fault >= push);
            if !self.is_published(cache) && !told {
                return Err(self.broken("the last push is not published"));
            }
        }
        Ok(())
    }

    fn check_the_next_schedule_publishes(&mut self) -> Result<(), String> {
        // In a window of its own: an execution that failed is not started again.
        self.advance(DEBOUNCE);
        for cache in CONFIGS.keys() {
            self.schedule(cache)?;
        }
        self.run_to_end()?;
        if CONFIGS.keys().all(|cache| self.is_published(cache)) {
            Ok(())
        } else {
            Err(self.broken("a schedule did not publish what there is"))
        }
    }

    fn tell_of(&mut self, n: usize, what: &str) {
        self.tell(&format!("{} {what}", self.executions[n].queued.name));
    }

    fn tell(&mut self, what: &str) {
        let time = self.now.strftime("%T%.3f");
        self.story.push(format!("{time} {what}"));
    }

    fn broken(&self, promise: &str) -> String {
        format!("{promise}:\n{}", self.story.join("\n"))
    }
}

/// How long ago the list of executions may have been true.
fn consistent() -> BoxedStrategy<i64> {
    Just(0).boxed()
}

fn lagging() -> BoxedStrategy<i64> {
    (0..=i64::try_from(MOST_LAG.as_millis()).unwrap()).boxed()
}

/// What happens without a fault and without a person.
fn any_op(lag: BoxedStrategy<i64>) -> BoxedStrategy<Op> {
    // Few contents, so that a push often brings back what was there before.
    let push = (0..REPOSITORIES.len(), 0..3u8);
    let milliseconds = vec![1, 400, 1_000, 20_000, 59_000, 60_000, 61_000, 300_000];
    prop_oneof![
        3 => push.prop_map(|(repository, content)| Op::Push { repository, content }),
        4 => (0..8usize, prop::bool::weighted(0.2))
            .prop_map(|(event, once_more)| Op::Deliver { event, once_more }),
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

/// What becomes of a world in which `ops` happen and then nothing more.
fn after(mut world: World, ops: &[Op]) -> Result<World, String> {
    for op in ops {
        world.apply(*op)?;
    }
    world.run_to_end()?;
    Ok(world)
}

fn holds(result: Result<(), String>) -> Result<(), TestCaseError> {
    result.map_err(TestCaseError::fail)
}

/// Two builds by hand, the second so soon after the first that it misses it, with `between` happening between the two.
/// Both have planned.
fn two_builds_by_hand(mut world: World, between: impl FnOnce(&mut World)) -> Result<World, String> {
    let moment = SignedDuration::from_millis(100);
    world.manual(&cache(0));
    world.advance(moment);
    between(&mut world);
    world.manual(&cache(0));
    world.advance(moment);
    let (first, second) = (0, world.executions.len() - 1);
    for _ in 0..2 {
        world.step(first, SignedDuration::ZERO)?;
        world.step(second, MOST_LAG)?;
    }
    world.check_one_builds()?;
    Ok(world)
}

/// This costs a builder: one of the two builds is in vain.
#[test]
fn of_two_builds_by_hand_within_the_lag_both_build() {
    let broken = two_builds_by_hand(World::new(), |_| {}).unwrap_err();
    assert!(
        broken.starts_with("two builds of a cache run at once"),
        "{broken}"
    );
}

/// This costs the time until the next trigger: what was triggered between the two leaves its work to the second, which has
/// planned long before, since it waits for nobody.
#[test]
fn a_push_after_two_builds_by_hand_within_the_lag_can_be_left_to_the_next_trigger() {
    let lenient = World {
        alone: false,
        ..World::new()
    };
    let triggered = |world: &mut World| world.push_and_deliver(1).unwrap();
    let mut world = two_builds_by_hand(lenient, triggered).unwrap();
    world.push_and_deliver(2).unwrap();
    world.run_to_end().unwrap();
    let broken = world.check_nothing_is_lost_unsaid().unwrap_err();
    assert!(
        broken.starts_with("the last push is not published"),
        "{broken}"
    );
    world.check_the_next_schedule_publishes().unwrap();
}

proptest! {
    #[test]
    fn the_last_push_is_published_one_build_runs_and_publication_never_goes_backwards(
        ops in many(prop_oneof![9 => any_op(consistent()), 1 => manual()]),
    ) {
        holds(after(World::new(), &ops).and_then(|world| world.check_nothing_is_lost_unsaid()))?;
    }

    /// A build that failed is announced, not repeated: the next trigger, a schedule at the latest, builds what it did not.
    #[test]
    fn whatever_fails_no_push_is_lost_unsaid_and_the_next_schedule_publishes_it(
        ops in many(prop_oneof![9 => any_op(consistent()), 1 => manual(), 2 => any_fault()]),
    ) {
        holds(after(World::new(), &ops).and_then(|mut world| {
            world.check_nothing_is_lost_unsaid()?;
            world.check_the_next_schedule_publishes()
        }))?;
    }

    /// Triggered executions do not notice that `ListExecutions` is eventually consistent, as long as it lags by less than
    /// they debounce: whoever looks has run for so long, and whoever is older for longer.
    #[test]
    fn a_list_that_lags_by_less_than_triggers_debounce_changes_nothing(
        ops in many(prop_oneof![10 => any_op(lagging()), 2 => any_fault()]),
    ) {
        holds(after(World::new(), &ops).and_then(|mut world| {
            world.check_nothing_is_lost_unsaid()?;
            world.check_the_next_schedule_publishes()
        }))?;
    }

    /// An execution that a person starts does not debounce, so it can miss one that started within the lag before it. What
    /// that costs, the tests below show. What it does not: publication never goes backwards, nobody waits for ever, and
    /// the next schedule publishes what there is.
    #[test]
    fn builds_by_hand_on_a_list_that_lags_do_no_lasting_harm(
        ops in many(prop_oneof![9 => any_op(lagging()), 2 => manual(), 2 => any_fault()]),
    ) {
        let world = World { alone: false, ..World::new() };
        holds(after(world, &ops).and_then(|mut world| world.check_the_next_schedule_publishes()))?;
    }

    /// Each push of a burst, and each of its events that comes late or twice, joins one execution, or two where the burst
    /// lies across the end of a window.
    #[test]
    fn a_burst_no_longer_than_a_window_is_one_build_or_two(
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
        holds(world.run_to_end())?;
        prop_assert!(windows.len() <= 2);
        prop_assert_eq!(world.executions.len(), windows.len());
        prop_assert!((1..=2).contains(&world.builders), "{} builders", world.builders);
    }

    /// Builds of a cache come one after the other, and what waits is never more than the next one: a burst costs no more
    /// builds than follow each other without a pause, nor does it keep a build from its turn, and the last push waits for
    /// two builds at the most.
    #[test]
    fn a_burst_is_the_builds_that_fit_in_one_after_the_other(
        pushes in prop::collection::vec(0..3u8, 30..120),
    ) {
        // The plan, the steps of the build and the publication: each takes a window. The next one's turn comes with the last.
        let build = usize::from(BUILD_STEPS) + 2;
        let windows = pushes.len();
        let mut world = World::new();
        for content in pushes {
            holds(world.push_and_deliver(content))?;
            holds(world.everybody_steps())?;
            world.advance(DEBOUNCE);
        }
        let planned = world.executions.iter().filter(|execution| execution.planned_at.is_some()).count();
        prop_assert!(planned + 1 >= windows / build, "{planned} plans in {windows} windows");
        let last_push = world.now - DEBOUNCE;
        holds(world.run_to_end())?;
        holds(world.check_nothing_is_lost_unsaid())?;
        prop_assert!(world.builders <= windows / build + 2, "{} builders in {windows} windows", world.builders);
        let ended = world.executions.iter().filter_map(|execution| execution.ended_at).max();
        let waited = ended.expect("somebody built").duration_since(last_push);
        let most = DEBOUNCE * i32::try_from(2 * build + 1).unwrap();
        prop_assert!(waited <= most, "the last push waited {waited:#}");
    }
}
