//! Pulls the images of a target on its builder and verifies them.
//!
//! **Before:** the builder is ready.
//! **After:** the builder holds every planned image by digest and by tag, complete and unpacked. It holds no
//! other images, except those of the node itself. The data volume is below its usage limit.
//! **Called again:** inspects the builder and does the missing steps. Each pull is a systemd unit, which outlives the calls
//! of the stage and starts once.
//! **Errors:** `PullFailed`, `DiskFull`, `VerifyFailed`, `BuilderLost`.

mod reconcile;

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use prepull_aws::run_command::{CommandOutput, run_document};
use prepull_aws::{Clients, Deadline};
use prepull_domain::build::payload::{BuilderInput, Pulled};
use prepull_domain::node::{Document, ImageStatus};
use prepull_domain::{StageError, excerpt};

use reconcile::Next;
use tokio::time::Instant;

/// Interval between two requests for the builder's status.
const POLL: Duration = Duration::from_millis(500);

/// Minimum time between two reports of progress. A report is a `StillRunning`, because Step Functions shows nothing else of a
/// stage that runs. The state machine then calls the stage again. There is at most one report for each image.
const REPORT_INTERVAL: Duration = Duration::from_secs(3);

/// Maximum number of times in a row that the stage tries the same changes.
const MAX_ATTEMPTS: u32 = 4;

/// The settings of the function.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Prefix of the names of the SSM documents.
    pub name: String,
}

/// Pulls the missing images, removes the stale ones, and verifies the rest.
///
/// # Errors
/// See the crate's documentation.
pub async fn handle(
    clients: &Clients,
    settings: &Settings,
    input: BuilderInput,
    deadline: Deadline,
) -> Result<Pulled, StageError> {
    let target = &input.target;
    let builder = Node {
        clients,
        settings,
        input: &input,
        deadline,
    };
    let mut removed = BTreeSet::new();
    let mut progress = "starting the pulls".to_owned();
    let start = Instant::now();
    let mut pulled_at_start = None;
    let mut last = Repetition::default();
    loop {
        let status = builder.status().await.map_err(|error| match error {
            // The progress of the pulls explains more than a timeout of the status.
            StageError::StillRunning(_) => StageError::StillRunning(progress.clone()),
            error => error,
        })?;
        let decision = reconcile::next(target, &status)?;
        let pulls = reconcile::progress(target, &status);
        progress = pulls.to_string();
        if decision != Next::Done && Timestamp::now() >= target.give_up_at {
            return Err(reconcile::out_of_time(target, &status));
        }
        match decision {
            Next::Done => {
                let pulled = Pulled {
                    used: status.disk.used,
                    pulled_images: count(status.pulls.len()),
                    removed_images: count(removed.len()),
                    verified_at: Timestamp::now(),
                };
                let images = status.pulls.keys().filter_map(|at| target.images.get(*at));
                let pulled_bytes: u64 = images.map(|image| image.size.0).sum();
                // The dashboard of the Terraform module reads these fields.
                tracing::info!(
                    pulled_images = pulled.pulled_images,
                    removed_images = pulled.removed_images,
                    pulled_bytes,
                    "images verified"
                );
                return Ok(pulled);
            }
            Next::Change(changes) => {
                let changes = reconcile::fitting(changes);
                removed.extend(
                    changes
                        .iter()
                        .filter_map(reconcile::Change::removes)
                        .cloned(),
                );
                let changes: Vec<_> = changes.iter().map(ToString::to_string).collect();
                let changes = changes.join(" ");
                let output = builder
                    .run(Document::PullImages, &[("Changes", changes.clone())])
                    .await?;
                last.of(changes, &output)?;
            }
            Next::Wait => {
                let pulled_at_start = *pulled_at_start.get_or_insert(pulls.pulled);
                if pulls.pulled > pulled_at_start && start.elapsed() >= REPORT_INTERVAL {
                    return Err(StageError::StillRunning(progress));
                }
                deadline.pause(POLL, &progress).await?;
            }
        }
        deadline.check(&progress)?;
    }
}

/// A builder, with the clients to send it commands.
struct Node<'a> {
    clients: &'a Clients,
    settings: &'a Settings,
    input: &'a BuilderInput,
    deadline: Deadline,
}

impl Node<'_> {
    async fn run(
        &self,
        document: Document,
        parameters: &[(&str, String)],
    ) -> Result<CommandOutput, StageError> {
        let document = document.name(&self.settings.name);
        let id = &self.input.builder.instance_id;
        run_document(self.clients, id, &document, parameters, self.deadline).await
    }

    /// Returns the builder's status. A busy host sometimes drops the connection of `apiclient`, so an incomplete answer is
    /// requested again.
    async fn status(&self) -> Result<ImageStatus, StageError> {
        let images = self.input.target.images.iter();
        let names: Vec<_> = images
            .map(|image| image.reference.status_request(&image.digest))
            .collect();
        let names = names.join(" ");
        let mut problem = String::new();
        for _ in 0..MAX_ATTEMPTS {
            let output = self
                .run(Document::ImageStatus, &[("Names", names.clone())])
                .await?;
            match output.stdout.parse() {
                Ok(status) => return Ok(status),
                Err(error) => problem = format!("{error}: {}", output.last_words()),
            }
            tracing::warn!(problem, "incomplete status from the builder");
            self.deadline
                .pause(POLL, "waiting for the builder's status")
                .await?;
        }
        Err(StageError::BuilderLost {
            instance: self.input.builder.instance_id.clone(),
            problem: format!("it returned no status of its images: {problem}"),
        })
    }
}

/// Limits the attempts at a change that has no effect.
#[derive(Default)]
struct Repetition {
    changes: String,
    times: u32,
}

impl Repetition {
    fn of(&mut self, changes: String, output: &CommandOutput) -> Result<(), StageError> {
        if self.changes == changes {
            self.times += 1;
        } else {
            *self = Self { changes, times: 1 };
        }
        if self.times < MAX_ATTEMPTS {
            return Ok(());
        }
        Err(StageError::VerifyFailed(format!(
            "the changes `{}` had no effect: {}",
            excerpt(&self.changes, 300),
            output.last_words()
        )))
    }
}

fn count(images: usize) -> u32 {
    u32::try_from(images).unwrap_or(u32::MAX)
}
