//! The progress of a build on standard error: bars on a terminal, plain lines elsewhere, nothing with `--output json`.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use prepull_domain::build::payload::{Base, Plan, PlannedImage, Target};
use prepull_domain::{Architecture, Stage};

use crate::Output;
use crate::history::{BuildEvent, Update};
use crate::render::{clock, count, short};

/// The form of the progress.
#[derive(Debug)]
pub enum Progress {
    /// No progress.
    Hidden,
    /// Lines on standard error.
    Lines,
    /// Lines above moving bars.
    Bars(Bars),
}

impl Progress {
    /// Returns the form that suits standard error and the output format.
    #[must_use]
    pub fn on_stderr(output: Output) -> Self {
        match output {
            Output::Json | Output::Github | Output::Prometheus => Self::Hidden,
            Output::Text if std::io::stderr().is_terminal() => {
                Self::Bars(Bars::new(ProgressDrawTarget::stderr()))
            }
            Output::Text => Self::Lines,
        }
    }

    /// Shows an update.
    pub fn show(&mut self, update: &Update) {
        match self {
            Self::Hidden => {}
            Self::Lines => lines(update).iter().for_each(|line| eprintln!("{line}")),
            Self::Bars(bars) => bars.show(update),
        }
    }
}

/// Returns the lines for an update. Each line can be read alone.
#[must_use]
pub fn lines(update: &Update) -> Vec<String> {
    let head = match update.architecture {
        Some(architecture) => {
            format!("{:>7}  {:6}  ", clock(update.after), architecture.as_str())
        }
        None => format!("{:>7}  ", clock(update.after)),
    };
    let line = |text: String| vec![format!("{head}{text}")];
    match &update.event {
        BuildEvent::Began(_) | BuildEvent::Ended => Vec::new(),
        BuildEvent::Debouncing => line("waiting for other triggers".to_owned()),
        BuildEvent::Planned(Plan::UpToDate { .. }) => line("everything is up to date".to_owned()),
        BuildEvent::Planned(Plan::Superseded { by }) => line(format!("superseded by {by}")),
        BuildEvent::Planned(Plan::Queued { behind }) => line(format!("waiting for {behind}")),
        BuildEvent::Planned(Plan::Build { targets }) => targets
            .iter()
            .flat_map(|target| planned(&head, target))
            .collect(),
        BuildEvent::Progress(stage, progress) => line(format!("{}: {progress}", stage.as_str())),
        BuildEvent::CallFailed {
            stage,
            error,
            cause,
        } => line(format!(
            "{} call failed with {error}: {cause}",
            stage.as_str()
        )),
        BuildEvent::Finished { stage, took, did } => {
            let did = did.as_ref().map(|did| format!(": {did}"));
            line(format!(
                "{} took {}{}",
                stage.as_str(),
                clock(*took),
                did.unwrap_or_default()
            ))
        }
    }
}

fn planned(head: &str, target: &Target) -> Vec<String> {
    let base = match &target.base {
        Base::Empty { reason } => format!("from an empty volume: {reason}"),
        Base::Snapshot { snapshot_id, .. } => format!("from {snapshot_id}"),
    };
    let architecture = target.architecture.as_str();
    let images = count(target.images.len(), "image");
    let mut lines = vec![format!("{head}{architecture:6}  building {images} {base}")];
    lines.extend(target.images.iter().map(|image| {
        let PlannedImage {
            reference,
            platform_digest,
            size,
            ..
        } = image;
        let digest = short(platform_digest);
        format!("{head}{architecture:6}    {reference}  {digest}  {size}")
    }));
    lines
}

/// Bars on a terminal. Each architecture has one for its stages and, during the pull, one for its images.
#[derive(Debug)]
pub struct Bars {
    all: MultiProgress,
    plan: ProgressBar,
    targets: BTreeMap<Architecture, TargetBars>,
}

#[derive(Debug)]
struct TargetBars {
    stages: ProgressBar,
    images: ProgressBar,
}

impl Bars {
    /// Creates the bars, to be drawn on `target`.
    #[must_use]
    pub fn new(target: ProgressDrawTarget) -> Self {
        let all = MultiProgress::with_draw_target(target);
        let plan = all.add(ProgressBar::new_spinner());
        let plan = moving(plan, "{spinner} {msg}  {elapsed}");
        plan.set_message("starting");
        Self {
            all,
            plan,
            targets: BTreeMap::new(),
        }
    }

    fn show(&mut self, update: &Update) {
        for line in lines(update) {
            // If the terminal is gone, the process ends with it.
            let _ = self.all.println(line);
        }
        match (&update.event, update.architecture) {
            (BuildEvent::Debouncing, _) => self.plan.set_message("waiting for other triggers"),
            (BuildEvent::Planned(Plan::Build { targets }), _) => {
                self.plan.finish_and_clear();
                for target in targets {
                    self.targets
                        .insert(target.architecture, TargetBars::new(&self.all, target));
                }
            }
            (BuildEvent::Ended, _) => {
                // If clearing fails, the result is still printed next.
                let _ = self.all.clear();
            }
            (event, Some(architecture)) => {
                if let Some(bars) = self.targets.get(&architecture) {
                    bars.show(event);
                }
            }
            (BuildEvent::Began(stage), None) => self.plan.set_message(stage.as_str()),
            (_, None) => {}
        }
    }
}

impl TargetBars {
    fn new(all: &MultiProgress, target: &Target) -> Self {
        let stages = all.add(ProgressBar::new(Stage::OF_TARGET.len() as u64));
        let stages = moving(stages, "{prefix:6}  {bar:24} {pos}/{len}  {msg}  {elapsed}");
        stages.set_prefix(target.architecture.to_string());
        let images = all.add(
            ProgressBar::new(target.images.len() as u64)
                .with_style(style("        {bar:24} {pos}/{len} images")),
        );
        Self { stages, images }
    }

    fn show(&self, event: &BuildEvent) {
        match event {
            BuildEvent::Began(stage) => {
                let position = Stage::OF_TARGET.iter().position(|one| one == stage);
                self.stages
                    .set_position(position.unwrap_or_default() as u64);
                self.stages.set_message(stage.as_str());
                if *stage == Stage::PullImages {
                    self.images.set_position(0);
                }
            }
            BuildEvent::Progress(
                Stage::PullImages,
                crate::history::StageProgress::Images(progress),
            ) => {
                self.images.set_length(progress.total as u64);
                self.images.set_position(progress.pulled as u64);
            }
            BuildEvent::Finished { stage, .. } => {
                self.stages.inc(1);
                if *stage == Stage::PullImages {
                    self.images.finish_and_clear();
                }
            }
            _ => {}
        }
    }
}

/// Styles a bar and lets it move. The bar must already be one of `Bars::all`: otherwise its first tick leaves a line on the
/// terminal.
fn moving(bar: ProgressBar, template: &str) -> ProgressBar {
    let bar = bar.with_style(style(template));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates above are well-formed")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Build;
    use aws_smithy_mocks::mock;
    use prepull_aws::sfn;
    use prepull_aws::smithy::client::orchestrator::HttpResponse;
    use prepull_domain::{PullProgress, StageError};
    use prepull_testing::FakeAws;
    use serde_json::{Value, json};

    const HISTORY: &str = include_str!("../tests/histories/one_of_two_architectures_fails.json");
    const EXECUTION: &str = "arn:aws:states:eu-west-1:123456789012:execution:prepull-build:web-1";

    /// Returns the message with which pull-images reports `progress`.
    fn message(progress: &impl ToString) -> String {
        StageError::StillRunning(progress.to_string()).to_string()
    }

    /// Returns the updates of the recorded build, in which pull-images reports `progress` on arm64.
    async fn updates(progress: &impl ToString) -> Vec<Update> {
        let recorded = message(&PullProgress {
            pulled: 1,
            total: 2,
        });
        assert_eq!(HISTORY.matches(&recorded).count(), 1);
        let history = HISTORY.replace(&recorded, &message(progress));
        let events: Value = serde_json::from_str(&history).unwrap();
        let page = json!({ "events": events }).to_string();
        let rule = mock!(sfn::Client::get_execution_history).then_http_response(move || {
            HttpResponse::new(200.try_into().unwrap(), page.clone().into())
        });
        let clients = FakeAws::new().sfn([rule]).clients();
        let request = clients.sfn.get_execution_history().execution_arn(EXECUTION);
        let events = request.send().await.unwrap().events;
        let mut build = Build::new("web".parse().unwrap(), EXECUTION.parse().unwrap());
        events
            .iter()
            .filter_map(|event| build.apply(event))
            .collect()
    }

    /// Returns each position and length of arm64's image bar, in order.
    fn image_bar(updates: &[Update]) -> Vec<(u64, Option<u64>)> {
        let mut bars = Bars::new(ProgressDrawTarget::hidden());
        let mut seen = Vec::new();
        for update in updates {
            bars.show(update);
            if let Some(bars) = bars.targets.get(&Architecture::Arm64) {
                seen.push((bars.images.position(), bars.images.length()));
            }
        }
        seen.dedup();
        seen
    }

    #[tokio::test]
    async fn image_bar_moves_with_the_pull_progress() {
        let updates = updates(&PullProgress {
            pulled: 5,
            total: 8,
        })
        .await;
        assert_eq!(image_bar(&updates), [(0, Some(2)), (5, Some(8))]);
    }

    #[tokio::test]
    async fn unknown_pull_progress_is_shown_as_text() {
        let updates = updates(&"5 images, 3 to go").await;
        assert_eq!(image_bar(&updates), [(0, Some(2))]);
        let lines: Vec<_> = updates.iter().flat_map(lines).collect();
        let shown = |line: &String| line.ends_with("arm64   pull-images: 5 images, 3 to go");
        assert!(lines.iter().any(shown), "{lines:#?}");
    }
}
