//! Tests of pull-images with a builder that consists of Systems Manager's answers.

use std::time::Duration;

use prepull_aws::Deadline;
use prepull_aws::ec2::types::InstanceStateName;
use prepull_aws::ssm::types::CommandInvocationStatus;
use prepull_domain::build::payload::{Base, DiskUsage, PullInput, Pulled, Target};
use prepull_domain::{PullProgress, StageError};
use prepull_testing::{FakeAws, builder, command_output, ec2_instance, ready_builder, target};
use pull_images::{Settings, handle};
use tokio::time::Instant;

/// Status line of a builder with all images of [`target`].
const COMPLETE: &str = "NAMES uuuu\n";

/// Returns AWS with a builder that answers each command with the next of `statuses` and then repeats the last one.
fn node(statuses: Vec<String>) -> FakeAws {
    let mut next = 0;
    FakeAws::new()
        .with_instances([ec2_instance(InstanceStateName::Running)])
        .with_agent(move |_| {
            let status = &statuses[next.min(statuses.len() - 1)];
            next += 1;
            let status = if let Some(cut) = status.strip_suffix(CUT) {
                cut.to_owned()
            } else {
                let stale = if status.contains("STALE") {
                    ""
                } else {
                    "REMOVED 0\nSTALE 0"
                };
                format!("FINISHED 0\n{status}\n{stale}\nDISK 1000 300\nEND\n")
            };
            command_output(CommandInvocationStatus::Success, 0, &status)
        })
}

/// Marks a status whose end is missing.
const CUT: &str = "<cut>";

/// Returns the target on a base that has the second image.
fn refresh() -> Target {
    let mut refresh = Target {
        base: Base::Snapshot {
            snapshot_id: "snap-0123456789abcdef0".parse().unwrap(),
            fresh: DiskUsage::default(),
        },
        ..target()
    };
    refresh.images[1].on_base = true;
    refresh
}

/// Returns the changes that the builder was told to make.
fn changes(aws: &FakeAws) -> Vec<String> {
    sent(aws, "Changes")
}

/// Returns the values of a parameter of all commands.
fn sent(aws: &FakeAws, parameter: &str) -> Vec<String> {
    let commands = aws.commands().into_iter();
    let values = commands.filter_map(|command| command.parameters?.remove(parameter));
    values.map(|values| values.join(",")).collect()
}

async fn pull(aws: &FakeAws) -> Result<Pulled, StageError> {
    pull_of(target(), aws).await
}

async fn pull_of(target: Target, aws: &FakeAws) -> Result<Pulled, StageError> {
    let input = PullInput {
        target,
        builder: builder(),
        node: ready_builder(),
    };
    let settings = Settings {
        name: "prepull".into(),
    };
    let deadline = Deadline::after(Duration::from_mins(1));
    handle(&aws.clients(), &settings, input, deadline).await
}

#[tokio::test(start_paused = true)]
async fn empty_builder_is_complete_after_one_command() {
    let units = "UNIT 0 1 active exited\nUNIT 1 1 active exited\n";
    let aws = node(vec![format!("{units}{COMPLETE}")]);
    let pulled = pull(&aws).await.unwrap();
    assert_eq!((pulled.pulled_images, pulled.removed_images), (2, 0));
    assert_eq!(changes(&aws), ["pull,1-1 pull,0-1"]);
}

#[tokio::test(start_paused = true)]
async fn refresh_pulls_and_removes_in_one_command() {
    let aws = node(vec![format!(
        "UNIT 0 1 active exited\n{COMPLETE}REMOVED 1\nSTALE 0"
    )]);
    let pulled = pull_of(refresh(), &aws).await.unwrap();
    assert_eq!((pulled.pulled_images, pulled.removed_images), (1, 1));
    assert_eq!(changes(&aws), ["pull,0-1 remove-stale"]);
}

#[tokio::test(start_paused = true)]
async fn image_that_the_base_lacks_after_all_is_pulled() {
    let aws = node(vec![
        "UNIT 0 1 active exited\nNAMES uu--\nREMOVED 0\nSTALE 3".into(),
        format!("UNIT 0 1 active exited\nUNIT 1 1 active exited\n{COMPLETE}REMOVED 3\nSTALE 0"),
    ]);
    let pulled = pull_of(refresh(), &aws).await.unwrap();
    assert_eq!((pulled.pulled_images, pulled.removed_images), (2, 3));
    assert_eq!(
        changes(&aws),
        ["pull,0-1 remove-stale", "pull,1-1 remove-stale"]
    );
}

#[tokio::test(start_paused = true)]
async fn failed_tag_is_repeated() {
    let units = "UNIT 0 1 active exited\nUNIT 1 1 active exited\n";
    let aws = node(vec![
        format!("{units}NAMES u-uu"),
        format!("{units}{COMPLETE}"),
    ]);
    assert_eq!(pull(&aws).await.unwrap().pulled_images, 2);
    assert_eq!(changes(&aws), ["pull,1-1 pull,0-1", "tag,0"]);
}

#[tokio::test(start_paused = true)]
async fn complete_base_changes_nothing() {
    let aws = node(vec![COMPLETE.into()]);
    let mut complete = refresh();
    complete.images[0].on_base = true;
    let pulled = pull_of(complete, &aws).await.unwrap();
    assert_eq!(pulled.pulled_images, 0);
    assert_eq!(changes(&aws), ["remove-stale"]);
}

#[tokio::test(start_paused = true)]
async fn moved_tag_is_set_before_its_old_image_is_removed() {
    let aws = node(vec![
        "NAMES umuu\nREMOVED 0\nSTALE 1".into(),
        format!("{COMPLETE}REMOVED 1\nSTALE 0"),
    ]);
    let mut retagged = refresh();
    retagged.images[0].on_base = true;
    assert_eq!(pull_of(retagged, &aws).await.unwrap().removed_images, 1);
    assert_eq!(changes(&aws), ["remove-stale", "tag,0 remove-stale"]);
}

#[tokio::test(start_paused = true)]
async fn long_pulls_continue_after_the_call() {
    let aws = node(vec![
        "UNIT 0 1 activating start\nUNIT 1 1 queued dead".into(),
    ]);
    let error = pull(&aws).await.unwrap_err();
    assert_eq!(error.name(), "StillRunning");
    assert!(error.to_string().contains("0 of 2"), "{error}");
    // Only the first command starts pulls. The others wait.
    let changes = changes(&aws);
    assert_eq!(changes[0], "pull,1-1 pull,0-1");
    assert!(changes[1..].iter().all(|changes| changes == "none"));
}

#[tokio::test(start_paused = true)]
async fn removal_of_stale_images_waits_for_long_pulls() {
    let running = "UNIT 0 1 activating start\nNAMES --uu\nREMOVED 0\nSTALE 1".to_owned();
    let mut statuses = vec![running; 6];
    statuses.push(format!("UNIT 0 1 active exited\n{COMPLETE}"));
    let aws = node(statuses);
    // The repeated removal does not count as a change without effect.
    assert!(pull_of(refresh(), &aws).await.is_ok());
    assert_eq!(changes(&aws).len(), 7);
}

#[tokio::test(start_paused = true)]
async fn still_running_contains_the_pull_progress() {
    let half = "UNIT 0 1 active exited\nUNIT 1 1 activating start\nNAMES uu--".to_owned();
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
    let both = "UNIT 0 1 activating start\nUNIT 1 1 activating start".to_owned();
    let one = "UNIT 0 1 active exited\nUNIT 1 1 activating start\nNAMES uu--".to_owned();
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
    let aws = node(vec!["FAILED tag,0 ctr: no space".into()]);
    let error = pull(&aws).await.unwrap_err().to_string();
    assert!(
        error.ends_with("had no effect: tag,0 ctr: no space"),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn no_change_starts_after_the_build_deadline() {
    let mut late = target();
    late.give_up_at = late.planned_at;
    for status in ["", "UNIT 0 1 activating start\nUNIT 1 1 activating start"] {
        let aws = node(vec![status.into()]);
        let error = pull_of(late.clone(), &aws).await.unwrap_err();
        assert_eq!(error.name(), "PullFailed");
        assert_eq!(changes(&aws), ["none"]);
    }
    late.base = refresh().base;
    let aws = node(vec![COMPLETE.into()]);
    assert!(pull_of(late, &aws).await.is_ok());
    assert_eq!(changes(&aws), ["none"]);
}

#[tokio::test(start_paused = true)]
async fn truncated_status_is_requested_again_without_another_wait() {
    let cut = format!("FINISHED 0\nNAMES ux{CUT}");
    let aws = node(vec![cut.clone(), COMPLETE.into()]);
    assert!(pull(&aws).await.is_ok());
    assert_eq!(sent(&aws, "WaitSeconds"), ["15", "0"]);

    let aws = node(vec![cut]);
    assert_eq!(pull(&aws).await.unwrap_err().name(), "BuilderLost");
}
