//! What is shown of a build while it is followed, on standard error: bars on a terminal, plain lines elsewhere, nothing
//! where only the result is wanted.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use prepull_domain::stages::{Base, Plan, PlannedImage, Target};
use prepull_domain::{Architecture, Stage};

use crate::Output;
use crate::history::{BuildEvent, Update};
use crate::render::{clock, count, short};

/// Where and how progress is shown.
#[derive(Debug)]
pub enum Progress {
    /// Nowhere.
    Hidden,
    /// Line by line on standard error.
    Lines,
    /// Lines above bars that move.
    Bars(Bars),
}

impl Progress {
    /// As suits standard error and the wanted output.
    #[must_use]
    pub fn on_stderr(output: Output) -> Self {
        match output {
            Output::Json => Self::Hidden,
            Output::Text if std::io::stderr().is_terminal() => {
                Self::Bars(Bars::new(ProgressDrawTarget::stderr()))
            }
            Output::Text => Self::Lines,
        }
    }

    /// Shows what happened.
    pub fn show(&mut self, update: &Update) {
        match self {
            Self::Hidden => {}
            Self::Lines => lines(update).iter().for_each(|line| eprintln!("{line}")),
            Self::Bars(bars) => bars.show(update),
        }
    }
}

/// What happened, in lines that each stand for themselves.
#[must_use]
pub fn lines(update: &Update) -> Vec<String> {
    let head = match update.architecture {
        Some(architecture) => {
            format!("{:>7}  {:6}  ", clock(update.after), architecture.as_str())
        }
        None => format!("{:>7}  ", clock(update.after)),
    };
    let line = |text: String| vec![format!("{head}{text}")];
    match &update.news {
        BuildEvent::Began(_) | BuildEvent::Ended => Vec::new(),
        BuildEvent::Gathering => line("waits for other triggers before it plans".to_owned()),
        BuildEvent::Planned(Plan::UpToDate { .. }) => line("everything is up to date".to_owned()),
        BuildEvent::Planned(Plan::Superseded { by }) => {
            line(format!("leaves it to the newer {by}"))
        }
        BuildEvent::Planned(Plan::Build { targets }) => targets
            .iter()
            .flat_map(|target| planned(&head, target))
            .collect(),
        BuildEvent::Progress(stage, progress) => line(format!("{}: {progress}", stage.as_str())),
        BuildEvent::CallFailed {
            stage,
            error,
            cause,
        } => line(format!("{} met {error}: {cause}", stage.as_str())),
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
        Base::Snapshot { snapshot_id, .. } => format!("on {snapshot_id}"),
    };
    let architecture = target.architecture.as_str();
    let images = count(target.images.len(), "image");
    let mut lines = vec![format!("{head}{architecture:6}  builds {images} {base}")];
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

/// Bars on a terminal: for each architecture one over its stages, and one over its images while they are pulled.
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
    /// No bars yet, to be drawn on `target`.
    #[must_use]
    pub fn new(target: ProgressDrawTarget) -> Self {
        let all = MultiProgress::with_draw_target(target);
        let plan = all.add(moving(
            ProgressBar::new_spinner(),
            "{spinner} {msg}  {elapsed}",
        ));
        plan.set_message("starts");
        Self {
            all,
            plan,
            targets: BTreeMap::new(),
        }
    }

    fn show(&mut self, update: &Update) {
        for line in lines(update) {
            // A terminal that is gone takes the process with it.
            let _ = self.all.println(line);
        }
        match (&update.news, update.architecture) {
            (BuildEvent::Gathering, _) => self.plan.set_message("waits for other triggers"),
            (BuildEvent::Planned(Plan::Build { targets }), _) => {
                self.plan.finish_and_clear();
                for target in targets {
                    self.targets
                        .insert(target.architecture, TargetBars::new(&self.all, target));
                }
            }
            (BuildEvent::Ended, _) => {
                // Whatever clearing fails on, the result is printed next.
                let _ = self.all.clear();
            }
            (news, Some(architecture)) => {
                if let Some(bars) = self.targets.get(&architecture) {
                    bars.show(news);
                }
            }
            (BuildEvent::Began(stage), None) => self.plan.set_message(stage.as_str()),
            (_, None) => {}
        }
    }
}

impl TargetBars {
    fn new(all: &MultiProgress, target: &Target) -> Self {
        let stages = all.add(moving(
            ProgressBar::new(Stage::OF_TARGET.len() as u64),
            "{prefix:6}  {bar:24} {pos}/{len}  {msg}  {elapsed}",
        ));
        stages.set_prefix(target.architecture.to_string());
        let images = all.add(
            ProgressBar::new(target.images.len() as u64)
                .with_style(style("        {bar:24} {pos}/{len} images")),
        );
        Self { stages, images }
    }

    fn show(&self, news: &BuildEvent) {
        match news {
            BuildEvent::Began(stage) => {
                let position = Stage::OF_TARGET.iter().position(|one| one == stage);
                self.stages
                    .set_position(position.unwrap_or_default() as u64);
                self.stages.set_message(stage.as_str());
                if *stage == Stage::PullImages {
                    self.images.set_position(0);
                }
            }
            BuildEvent::Progress(Stage::PullImages, progress) => {
                if let Some(pulled) = images_pulled(progress) {
                    self.images.set_position(pulled);
                }
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

fn moving(bar: ProgressBar, template: &str) -> ProgressBar {
    bar.enable_steady_tick(Duration::from_millis(200));
    bar.with_style(style(template))
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates above are well-formed")
}

/// The first number in `3 of 8 images`, wherever that stands in what pull-images says.
fn images_pulled(progress: &str) -> Option<u64> {
    let words: Vec<_> = progress.split_whitespace().collect();
    words.windows(4).find_map(|words| match words {
        [pulled, "of", _, images] if images.starts_with("image") => pulled.parse().ok(),
        _ => None,
    })
}
