//! What is found when the burst is over: read from AWS's own records, as an auditor would.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result};
use jiff::{SignedDuration, Timestamp};
use prepull_aws::ec2::types::Reservation;
use prepull_aws::sfn::types::{ExecutionListItem, ExecutionStatus, HistoryEvent};
use prepull_aws::{tag_filter, timestamp};
use prepull_domain::{Digest, ExecutionName, Manifest, names};
use prepull_tests::World;
use serde_json::Value;

use crate::burst::{self, ARCHITECTURE, Burst, IMAGES};

/// Everything that the tests and the report look at.
pub struct Expectation {
    /// Until the registry had taken the last push.
    pub burst_took: Duration,
    /// Until ECR had announced the last push: here it learns of pushes from the registry, on AWS it is the registry.
    pub announced_within: SignedDuration,
    /// How often start-build asked for an execution.
    pub answered_pushes: usize,
    pub executions: Vec<Execution>,
    pub caches: Vec<Cache>,
    pub dead_letters: Vec<String>,
    /// What is left, where something is.
    pub left_behind: Option<String>,
}

/// An execution that a push started.
pub struct Execution {
    pub cache: String,
    pub name: ExecutionName,
    pub status: ExecutionStatus,
    pub cause: String,
    /// The end that its output tells: `published`, `up-to-date`, `superseded`.
    pub outcome: String,
    /// When it had waited for the pushes of its window.
    pub debounce_ends_at: Timestamp,
    pub ended_at: Timestamp,
    /// Where it launched one.
    pub builder: Option<Builder>,
}

/// The builder of an execution.
pub struct Builder {
    /// When the stage that launches it began.
    pub launched_at: Timestamp,
    /// When the stage ended that waits until it is terminated.
    pub gone_at: Timestamp,
    /// How many instances bear the execution's name.
    pub instances: usize,
}

/// A cache after the burst.
pub struct Cache {
    pub name: String,
    /// The last content of each image that the burst pushed.
    pub pushed: BTreeSet<Digest>,
    /// What the published snapshot holds.
    pub held: BTreeSet<Digest>,
    /// By ECR's clock.
    pub last_push_at: Timestamp,
    /// Every snapshot that the pointer ever named, the oldest first.
    pub publications: Vec<Publication>,
}

/// A moment at which the pointer changed.
pub struct Publication {
    pub at: Timestamp,
    pub planned_at: Timestamp,
    pub execution: ExecutionName,
}

/// How long a cache's last push took to reach its nodes, and with what.
#[derive(Clone, Copy)]
pub struct Delay {
    /// From ECR to start-build, and waiting for other pushes of the same window.
    pub debouncing: SignedDuration,
    /// Waiting for an older build of the cache.
    pub queueing: SignedDuration,
    /// Planning, building, publishing.
    pub building: SignedDuration,
}

impl Delay {
    pub fn total(self) -> SignedDuration {
        self.debouncing + self.queueing + self.building
    }
}

impl Expectation {
    pub async fn read(world: &World, burst: Burst) -> Result<Self> {
        let left_behind = world.nothing_is_left().await.err();
        let mut caches = Vec::new();
        for (name, pushed) in burst.pushed {
            let pushed = pushed.into_values().collect();
            caches.push(Cache::read(world, name, pushed).await?);
        }
        let announced_at = caches.iter().map(|cache| cache.last_push_at).max();
        let announced_at = announced_at.context("there are caches")?;
        let outputs = world.deployment.outputs()?;
        let queue = outputs["dead_letter_queue_url"]["value"].as_str();
        let queue = queue.context("the module has this output")?;
        Ok(Self {
            burst_took: burst.took,
            announced_within: announced_at.duration_since(burst.began_at),
            answered_pushes: burst::answered_pushes(world).await?,
            executions: executions(world, &caches).await?,
            caches,
            dead_letters: world.cloud.messages(queue).await?,
            left_behind: left_behind.map(|error| format!("{error:#}")),
        })
    }

    /// The executions that launched a builder.
    pub fn builds(&self) -> impl Iterator<Item = (&Execution, &Builder)> {
        let executions = self.executions.iter();
        executions.filter_map(|execution| Some((execution, execution.builder.as_ref()?)))
    }

    /// How long the last push of each cache took, where it was published.
    pub fn delays(&self) -> Vec<Delay> {
        self.caches
            .iter()
            .filter(|cache| cache.held == cache.pushed)
            .filter_map(|cache| {
                let last = cache.publications.last()?;
                let mut executions = self.executions.iter();
                let execution = executions.find(|execution| execution.name == last.execution)?;
                // A push that came while the execution queued already was not kept waiting by its window.
                let debounce_ends_at = execution.debounce_ends_at.max(cache.last_push_at);
                Some(Delay {
                    debouncing: debounce_ends_at.duration_since(cache.last_push_at),
                    queueing: last.planned_at.duration_since(debounce_ends_at),
                    building: last.at.duration_since(last.planned_at),
                })
            })
            .collect()
    }
}

impl Cache {
    async fn read(world: &World, name: String, pushed: BTreeSet<Digest>) -> Result<Self> {
        let mut publications = Vec::new();
        let mut newest: Option<Manifest> = None;
        let pointer = names::pointer_parameter(&name.parse()?, ARCHITECTURE);
        let history = world.clients.ssm.get_parameter_history().name(pointer);
        let mut pages = history.into_paginator().send();
        while let Some(page) = pages.next().await {
            for version in page?.parameters.unwrap_or_default() {
                let snapshot = version.value().context("a pointer has a value")?.parse()?;
                let manifest = world.manifest(&name, ARCHITECTURE, &snapshot).await?;
                // A stage that is called again may write what is there.
                if newest.as_ref().map(|newest| &newest.snapshot_id) == Some(&snapshot) {
                    continue;
                }
                publications.push(Publication {
                    at: timestamp(version.last_modified_date()),
                    planned_at: manifest.planned_at,
                    execution: manifest.execution.clone(),
                });
                newest = Some(manifest);
            }
        }
        let newest = newest.with_context(|| format!("{name} published nothing"))?;
        Ok(Self {
            pushed,
            held: newest
                .images
                .into_iter()
                .map(|image| image.digest)
                .collect(),
            last_push_at: last_push_at(world, &name).await?,
            publications,
            name,
        })
    }
}

/// When ECR took the last push of any of a cache's images.
async fn last_push_at(world: &World, cache: &str) -> Result<Timestamp> {
    let mut last = Timestamp::MIN;
    for image in IMAGES {
        let repository = burst::repository(cache, image);
        let describe = world.clients.ecr.describe_images();
        let mut pages = describe.repository_name(repository).into_paginator().send();
        while let Some(page) = pages.next().await {
            for image in page?.image_details() {
                last = last.max(timestamp(image.image_pushed_at()));
            }
        }
    }
    Ok(last)
}

/// The executions that pushes started: they bear the name of their cache, which the first builds do not.
async fn executions(world: &World, caches: &[Cache]) -> Result<Vec<Execution>> {
    let mut found = Vec::new();
    let list = world.clients.sfn.list_executions();
    let list = list.state_machine_arn(world.deployment.state_machine_arn()?);
    let mut pages = list.into_paginator().send();
    while let Some(page) = pages.next().await {
        for listed in page?.executions {
            let cache = caches
                .iter()
                .find(|cache| listed.name.starts_with(&format!("{}-", cache.name)));
            if let Some(cache) = cache {
                found.push(execution(world, &cache.name, &listed).await?);
            }
        }
    }
    Ok(found)
}

async fn execution(world: &World, cache: &str, listed: &ExecutionListItem) -> Result<Execution> {
    let arn = &listed.execution_arn;
    let describe = world.clients.sfn.describe_execution().execution_arn(arn);
    let described = describe.send().await?;
    let output: Value = serde_json::from_str(described.output().unwrap_or("null"))?;
    let events = world.history(&arn.parse()?).await?;
    let first = |is_wanted: &dyn Fn(&HistoryEvent) -> bool| {
        let event = events.iter().find(|event| is_wanted(event))?;
        Some(timestamp(Some(event.timestamp())))
    };
    let entered = |state| {
        first(&|event| {
            let details = event.state_entered_event_details();
            details.is_some_and(|details| details.name() == state)
        })
    };
    let exited = |state| {
        first(&|event| {
            let details = event.state_exited_event_details();
            details.is_some_and(|details| details.name() == state)
        })
    };
    let ended_at = timestamp(described.stop_date());
    let builder = match entered("launch-builder") {
        Some(launched_at) => Some(Builder {
            launched_at,
            gone_at: exited("clean-up").unwrap_or(ended_at),
            instances: instances(world, &listed.name).await?,
        }),
        None => None,
    };
    Ok(Execution {
        cache: cache.to_owned(),
        name: listed.name.parse()?,
        status: described.status().clone(),
        cause: described.cause().unwrap_or_default().to_owned(),
        outcome: output["status"].as_str().unwrap_or_default().to_owned(),
        debounce_ends_at: exited("Debounce").unwrap_or(ended_at),
        ended_at,
        builder,
    })
}

/// How many instances an execution launched, whatever became of them: EC2 shows those that ended for a while.
async fn instances(world: &World, execution: &str) -> Result<usize> {
    let described = world
        .clients
        .ec2
        .describe_instances()
        .filters(tag_filter(names::TAG_EXECUTION, execution))
        .send()
        .await?;
    let reservations = described.reservations().iter();
    Ok(reservations.flat_map(Reservation::instances).count())
}
