//! Observations after the burst, read from the records of AWS.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result};
use jiff::{SignedDuration, Timestamp};
use prepull_aws::ec2::types::Reservation;
use prepull_aws::sfn::types::{ExecutionListItem, ExecutionStatus, HistoryEvent};
use prepull_aws::{tag_filter, timestamp};
use prepull_domain::{Digest, ExecutionName, SnapshotId, Stage, names};
use prepull_tests::{World, invariants};
use serde_json::Value;

use crate::burst::{self, ARCHITECTURE, Burst, IMAGES};

/// Input of the tests and of the report.
pub struct Observations {
    /// Time from the first push until the registry accepted the last one.
    pub push_duration: Duration,
    /// Time from the first push until ECR sent the event of the last one. The local ECR learns of pushes from its registry;
    /// on AWS, ECR is the registry.
    pub event_duration: SignedDuration,
    /// Number of `StartExecution` calls of start-build.
    pub handled_pushes: usize,
    pub executions: Vec<Execution>,
    pub caches: Vec<Cache>,
    pub dead_letters: Vec<String>,
    /// Remaining resources, if there are any.
    pub left_behind: Option<String>,
}

/// An execution that was started by a push.
pub struct Execution {
    pub cache: String,
    pub name: ExecutionName,
    pub status: ExecutionStatus,
    pub cause: String,
    /// Result in its output: `published`, `up-to-date` or `superseded`.
    pub outcome: String,
    /// End of its debounce window.
    pub debounce_ends_at: Timestamp,
    pub ended_at: Timestamp,
    /// Its builder, if it launched one.
    pub builder: Option<Builder>,
}

/// The builder of an execution.
pub struct Builder {
    /// Start of launch-builder.
    pub launched_at: Timestamp,
    /// End of clean-up, which waits until the builder is terminated.
    pub terminated_at: Timestamp,
    /// Number of instances with the execution's tag.
    pub instances: usize,
}

/// A cache after the burst.
pub struct Cache {
    pub name: String,
    /// Last pushed digest of each image.
    pub pushed: BTreeSet<Digest>,
    /// Digests in the published snapshot.
    pub published: BTreeSet<Digest>,
    /// Time of the last push by ECR's clock.
    pub last_push_at: Timestamp,
    /// Every snapshot that the pointer has held, oldest first.
    pub publications: Vec<Publication>,
}

/// A change of the pointer.
pub struct Publication {
    pub at: Timestamp,
    pub planned_at: Timestamp,
    pub execution: ExecutionName,
}

/// Time from a cache's last push to the pointer, by part.
#[derive(Clone, Copy)]
pub struct Delay {
    /// From ECR to start-build, plus the debounce window.
    pub debouncing: SignedDuration,
    /// In the queue behind an older build of the cache.
    pub queueing: SignedDuration,
    /// Plan, build and publication.
    pub building: SignedDuration,
}

impl Delay {
    pub fn total(self) -> SignedDuration {
        self.debouncing + self.queueing + self.building
    }
}

impl Observations {
    pub async fn read(world: &World, burst: Burst) -> Result<Self> {
        let left_behind = world.nothing_is_left().await.err();
        let mut caches = Vec::new();
        for (name, pushed) in burst.pushed {
            let pushed = pushed.into_values().collect();
            caches.push(Cache::read(world, name, pushed).await?);
        }
        let last_push_at = caches.iter().map(|cache| cache.last_push_at).max();
        let last_push_at = last_push_at.context("there are no caches")?;
        let outputs = world.deployment.outputs()?;
        let queue = outputs["dead_letter_queue_url"]["value"].as_str();
        let queue = queue.context("the module does not have this output")?;
        Ok(Self {
            push_duration: burst.duration,
            event_duration: last_push_at.duration_since(burst.began_at),
            handled_pushes: burst::handled_pushes(world).await?,
            executions: executions(world, &caches).await?,
            caches,
            dead_letters: world.cloud.messages(queue).await?,
            left_behind: left_behind.map(|error| format!("{error:#}")),
        })
    }

    /// Returns the executions that launched a builder.
    pub fn builds(&self) -> impl Iterator<Item = (&Execution, &Builder)> {
        let executions = self.executions.iter();
        executions.filter_map(|execution| Some((execution, execution.builder.as_ref()?)))
    }

    /// Returns the delay of the last push of each cache, if it was published.
    pub fn delays(&self) -> Vec<Delay> {
        self.caches
            .iter()
            .filter(|cache| cache.published == cache.pushed)
            .filter_map(|cache| {
                let last = cache.publications.last()?;
                let mut executions = self.executions.iter();
                let execution = executions.find(|execution| execution.name == last.execution)?;
                // The debounce window did not delay a push that arrived when the execution was already in the queue.
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
        let mut newest: Option<SnapshotId> = None;
        let pointer = names::pointer_parameter(&name.parse()?, ARCHITECTURE);
        let history = world.clients.ssm.get_parameter_history().name(pointer);
        let mut pages = history.into_paginator().send();
        while let Some(page) = pages.next().await {
            for version in page?.parameters.unwrap_or_default() {
                let snapshot = version
                    .value()
                    .context("the pointer has no value")?
                    .parse()?;
                let manifest = world.manifest(&name, ARCHITECTURE, &snapshot).await?;
                // A stage that is called again may write the same value again.
                if newest.as_ref() == Some(&snapshot) {
                    continue;
                }
                publications.push(Publication {
                    at: timestamp(
                        version
                            .last_modified_date()
                            .context("the pointer has no date")?,
                    ),
                    planned_at: manifest.planned_at,
                    execution: manifest.execution,
                });
                newest = Some(snapshot);
            }
        }
        let clients = &world.clients;
        let (_, published) =
            invariants::pointer_is_valid(clients, &name.parse()?, ARCHITECTURE).await?;
        Ok(Self {
            pushed,
            published: published
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

/// Returns the time when ECR accepted the last push to any image of a cache.
async fn last_push_at(world: &World, cache: &str) -> Result<Timestamp> {
    let mut last = Timestamp::MIN;
    for image in IMAGES {
        let repository = burst::repository(cache, image);
        let describe = world.clients.ecr.describe_images();
        let mut pages = describe.repository_name(repository).into_paginator().send();
        while let Some(page) = pages.next().await {
            for image in page?.image_details() {
                let pushed_at = image.image_pushed_at().context("the image has no date")?;
                last = last.max(timestamp(pushed_at));
            }
        }
    }
    Ok(last)
}

/// Returns the executions that were started by pushes. Their names contain the cache; those of the first builds do not.
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
        Some(timestamp(event.timestamp()))
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
    let ended_at = timestamp(described.stop_date().context("the execution still runs")?);
    let builder = match entered(Stage::LaunchBuilder.as_str()) {
        Some(launched_at) => Some(Builder {
            launched_at,
            terminated_at: exited(Stage::CleanUp.as_str()).unwrap_or(ended_at),
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

/// Counts the instances that an execution launched, in any state. EC2 lists terminated instances for a while.
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
