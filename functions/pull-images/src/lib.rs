//! Pulls the images of a target on its builder and verifies them.
//!
//! **Before:** the builder is ready.
//! **After:** the builder holds every planned image by digest and by tag, complete and unpacked. It holds no
//! other images, except those of the node itself. The data volume is below its usage limit.
//! **Called again:** does the missing steps. Each pull is a systemd unit, which outlives the calls of the stage and starts
//! once. The first command of a call requests every image that the base lacks, and the builder skips the pulls that exist.
//! Each command returns the builder's status. The next command depends on it.
//! **Errors:** `PullFailed`, `DiskFull`, `VerifyFailed`, `BuilderLost`.

mod lanes;
mod reconcile;

use std::time::Duration;

use jiff::Timestamp;
use prepull_aws::run_command::{CommandOutput, run_document};
use prepull_aws::{Clients, Deadline};
use prepull_domain::build::payload::{PullInput, Pulled, Target};
use prepull_domain::node::{Document, ImageStatus, NO_CHANGES, pull_images_parameters};
use prepull_domain::{StageError, excerpt};

use reconcile::{Change, Next};
use tokio::time::Instant;

/// Maximum time for which a command waits for the pulls. A longer wait needs fewer calls, and a shorter one shows the
/// progress sooner.
const WAIT: Duration = Duration::from_secs(15);

/// Pause before an incomplete status is requested again.
const PAUSE: Duration = Duration::from_millis(500);

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
    input: PullInput,
    deadline: Deadline,
) -> Result<Pulled, StageError> {
    let target = &input.target;
    let builder = Node {
        clients,
        settings,
        input: &input,
        deadline,
    };
    let mut removed_images = 0;
    let mut progress = "starting the pulls".to_owned();
    let start = Instant::now();
    let mut pulled_at_start = None;
    let mut last = Repetition::default();
    let mut changes = if Timestamp::now() < target.give_up_at {
        reconcile::first(target, input.node.vcpus)
    } else {
        Vec::new()
    };
    loop {
        let sent = reconcile::fitting(changes, &builder.images());
        let (status, output) = builder.apply(&sent, &progress).await?;
        let at_start =
            *pulled_at_start.get_or_insert_with(|| reconcile::pulled_before(target, &status));
        let pulled = reconcile::progress(target, &status);
        progress = pulled.to_string();
        removed_images += status.removed;
        match reconcile::next(target, input.node.vcpus, &status)? {
            Next::Done => {
                let pulled = Pulled {
                    used: status.disk.used,
                    pulled_images: count(status.pulls.len()),
                    removed_images,
                    verified_at: Timestamp::now(),
                };
                log(target, &status, &pulled);
                return Ok(pulled);
            }
            Next::Continue(next) => changes = next,
        }
        if Timestamp::now() >= target.give_up_at {
            return Err(reconcile::out_of_time(target, &status));
        }
        let is_waiting =
            reconcile::is_pulling(&status) && changes.iter().all(Change::waits_for_pulls);
        if is_waiting && pulled.pulled > at_start && start.elapsed() >= REPORT_INTERVAL {
            return Err(StageError::StillRunning(progress));
        }
        if reconcile::is_pulling(&status) {
            last = Repetition::default();
        } else {
            last.of(parameter(&sent), &status, &output)?;
        }
        deadline.check(&progress)?;
    }
}

/// Logs the result. The dashboard of the Terraform module reads these fields.
fn log(target: &Target, status: &ImageStatus, pulled: &Pulled) {
    let images = status.pulls.keys().filter_map(|at| target.images.get(*at));
    let pulled_bytes: u64 = images.map(|image| image.size.0).sum();
    tracing::info!(
        pulled_images = pulled.pulled_images,
        removed_images = pulled.removed_images,
        pulled_bytes,
        "images verified"
    );
}

/// A builder, with the clients to send it commands.
struct Node<'a> {
    clients: &'a Clients,
    settings: &'a Settings,
    input: &'a PullInput,
    deadline: Deadline,
}

impl Node<'_> {
    /// Returns the parameter `Images`.
    fn images(&self) -> String {
        let images = self.input.target.images.iter();
        let requests: Vec<_> = images
            .map(|image| image.reference.status_request(&image.digest))
            .collect();
        requests.join(" ")
    }

    /// Makes `changes`, waits for the pulls, and returns the builder's status. At the deadline it fails with `progress`.
    ///
    /// A busy host sometimes drops the connection of `apiclient`, so an incomplete answer is requested again, without
    /// another wait. The pulls are units of their own, which go on.
    async fn apply(
        &self,
        changes: &[Change],
        progress: &str,
    ) -> Result<(ImageStatus, CommandOutput), StageError> {
        let document = Document::PullImages.name(&self.settings.name);
        let mut wait = WAIT;
        let id = &self.input.builder.instance_id;
        let mut problem = String::new();
        for _ in 0..MAX_ATTEMPTS {
            let parameters = pull_images_parameters(self.images(), &parameter(changes), wait);
            let output = run_document(self.clients, id, &document, &parameters, self.deadline)
                .await
                .map_err(|error| match error {
                    // The progress of the pulls explains more than a timeout of the command.
                    StageError::StillRunning(_) => StageError::StillRunning(progress.to_owned()),
                    error => error,
                })?;
            match output.stdout.parse() {
                Ok(status) => return Ok((status, output)),
                Err(error) => problem = format!("{error}: {}", output.last_words()),
            }
            tracing::warn!(problem, "incomplete status from the builder");
            wait = Duration::ZERO;
            self.deadline.pause(PAUSE, progress).await?;
        }
        Err(StageError::BuilderLost {
            instance: id.clone(),
            problem: format!("it returned no status of its images: {problem}"),
        })
    }
}

/// Returns the parameter `Changes`.
fn parameter(changes: &[Change]) -> String {
    if changes.is_empty() {
        return NO_CHANGES.to_owned();
    }
    let changes: Vec<_> = changes.iter().map(ToString::to_string).collect();
    changes.join(" ")
}

/// Limits the attempts at a change that has no effect.
#[derive(Default)]
struct Repetition {
    changes: String,
    times: u32,
}

impl Repetition {
    fn of(
        &mut self,
        changes: String,
        status: &ImageStatus,
        output: &CommandOutput,
    ) -> Result<(), StageError> {
        if self.changes == changes {
            self.times += 1;
        } else {
            *self = Self { changes, times: 1 };
        }
        if self.times < MAX_ATTEMPTS {
            return Ok(());
        }
        let said = match status.failures[..] {
            [] => output.last_words(),
            _ => status.failures.join("; "),
        };
        Err(StageError::VerifyFailed(format!(
            "the changes `{}` had no effect: {said}",
            excerpt(&self.changes, 300),
        )))
    }
}

fn count(images: usize) -> u32 {
    u32::try_from(images).unwrap_or(u32::MAX)
}
