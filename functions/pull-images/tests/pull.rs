//! Tests of pull-images with a builder that consists of Systems Manager's answers.

use std::time::Duration;

use prepull_aws::Deadline;
use prepull_aws::ec2::types::InstanceStateName;
use prepull_aws::ssm::types::CommandInvocationStatus;
use prepull_domain::build::payload::{BuilderInput, Pulled, Target};
use prepull_domain::{PullProgress, StageError};
use prepull_testing::{FakeAws, builder, command_output, ec2_instance, target};
use pull_images::{Settings, handle};
use tokio::time::Instant;

/// Status line of a builder with all images of [`target`].
const COMPLETE: &str = "NAMES uuuu\n";

/// Returns AWS with a builder that answers each `image-status` with the next of `statuses` and then repeats the last one.
fn node(statuses: Vec<String>) -> FakeAws {
    let mut next = 0;
    FakeAws::new()
        .with_instances([ec2_instance(InstanceStateName::Running)])
        .with_agent(move |document| {
            let done = |stdout: &str| command_output(CommandInvocationStatus::Success, 0, stdout);
            if document == "prepull-pull-images" {
                return done("");
            }
            let status = &statuses[next.min(statuses.len() - 1)];
            next += 1;
            done(&format!("{status}\nDISK 1000 300\nCPUS 8\nEND\n"))
        })
}

/// Returns the changes that the builder was told to make.
fn changes(aws: &FakeAws) -> Vec<String> {
    let commands = aws.commands().into_iter();
    let changes = commands.filter_map(|command| command.parameters?.remove("Changes"));
    changes.map(|changes| changes.join(",")).collect()
}

async fn pull(aws: &FakeAws) -> Result<Pulled, StageError> {
    pull_of(target(), aws).await
}

async fn pull_of(target: Target, aws: &FakeAws) -> Result<Pulled, StageError> {
    let input = BuilderInput {
        target,
        builder: builder(),
    };
    let settings = Settings {
        name: "prepull".into(),
    };
    let deadline = Deadline::after(Duration::from_mins(1));
    handle(&aws.clients(), &settings, input, deadline).await
}

#[tokio::test(start_paused = true)]
async fn builder_pulls_tags_and_removes_stale_images() {
    let old = format!("OTHER docker.io/library/old:1 sha256:{}\n", "9".repeat(64));
    let units = "UNIT 0 1 active exited\nUNIT 1 1 active exited\n";
    let aws = node(vec![
        old.clone(),
        format!("UNIT 0 1 active running\nUNIT 1 1 active running\n{old}"),
        format!("{units}NAMES uuu-\n{old}"),
        format!("{units}{COMPLETE}{old}"),
        format!("{units}{COMPLETE}"),
    ]);
    let pulled = pull(&aws).await.unwrap();
    assert_eq!((pulled.pulled_images, pulled.removed_images), (2, 1));

    let verbs: Vec<_> = changes(&aws)
        .iter()
        .map(|changes| changes.split(',').next().unwrap().to_owned())
        .collect();
    assert_eq!(verbs, ["pull", "tag", "remove"]);
}

#[tokio::test(start_paused = true)]
async fn complete_builder_changes_nothing() {
    let aws = node(vec![COMPLETE.into()]);
    let pulled = pull(&aws).await.unwrap();
    assert_eq!(pulled.pulled_images, 0);
    assert!(changes(&aws).is_empty());
}

#[tokio::test(start_paused = true)]
async fn long_pulls_continue_after_the_call() {
    let aws = node(vec![
        "UNIT 0 1 active running\nUNIT 1 1 active running".into(),
    ]);
    let error = pull(&aws).await.unwrap_err();
    assert_eq!(error.name(), "StillRunning");
    assert!(error.to_string().contains("0 of 2"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn still_running_contains_the_pull_progress() {
    let half = "UNIT 0 1 active exited\nUNIT 1 1 active running\nNAMES uu--".to_owned();
    let aws = node(vec![half]);
    let StageError::StillRunning(text) = pull(&aws).await.unwrap_err() else {
        panic!("the pulls are still running");
    };
    let progress = PullProgress {
        pulled: 1,
        total: 2,
    };
    assert_eq!(text.parse(), Ok(progress));
}

#[tokio::test(start_paused = true)]
async fn pulled_image_is_reported_before_the_deadline() {
    let both = "UNIT 0 1 active running\nUNIT 1 1 active running".to_owned();
    let one = "UNIT 0 1 active exited\nUNIT 1 1 active running\nNAMES uu--".to_owned();
    let start = Instant::now();
    let error = pull(&node(vec![both, one])).await.unwrap_err();
    assert_eq!(
        error,
        StageError::StillRunning("1 of 2 images pulled".to_owned())
    );
    let seconds = start.elapsed().as_secs();
    assert!((3..10).contains(&seconds), "{seconds}");
}

#[tokio::test(start_paused = true)]
async fn change_without_effect_fails_after_four_attempts() {
    let aws = node(vec![String::new()]);
    let error = pull(&aws).await.unwrap_err();
    assert_eq!(error.name(), "VerifyFailed");
    assert_eq!(changes(&aws).len(), 4);
}

#[tokio::test(start_paused = true)]
async fn no_change_starts_after_the_build_deadline() {
    let mut late = target();
    late.give_up_at = late.planned_at;
    for status in ["", "UNIT 0 1 active running\nUNIT 1 1 active running"] {
        let aws = node(vec![status.into()]);
        let error = pull_of(late.clone(), &aws).await.unwrap_err();
        assert_eq!(error.name(), "PullFailed");
        assert!(changes(&aws).is_empty());
    }
    let aws = node(vec![COMPLETE.into()]);
    assert!(pull_of(late, &aws).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn truncated_status_is_requested_again() {
    let cut = "NAMES ux";
    let aws = node(vec![cut.into(), COMPLETE.into()]);
    assert!(pull(&aws).await.is_ok());

    let aws = node(vec![cut.into()]);
    assert_eq!(pull(&aws).await.unwrap_err().name(), "BuilderLost");
}
