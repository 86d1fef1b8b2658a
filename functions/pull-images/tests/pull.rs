//! Tests of pull-images with a builder that consists of Systems Manager's answers.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_smithy_mocks::{Rule, mock};
use prepull_aws::Deadline;
use prepull_aws::ec2::types::InstanceStateName;
use prepull_aws::ssm::Client;
use prepull_aws::ssm::operation::get_command_invocation::GetCommandInvocationOutput;
use prepull_aws::ssm::operation::send_command::SendCommandOutput;
use prepull_aws::ssm::types::{Command, CommandInvocationStatus};
use prepull_domain::build::payload::{BuilderInput, Pulled, Target};
use prepull_domain::{PullProgress, StageError};
use prepull_testing::{Mocks, builder, described, ec2_instance, target};
use pull_images::{Settings, handle};

/// Returns the builder's status if all images of [`target`] are complete.
fn complete() -> String {
    [(0, "a"), (1, "a"), (2, "d"), (3, "d")]
        .map(|(name, digit)| {
            format!(
                "NAME {name} sha256:{} complete unpacked unpinned\n",
                digit.repeat(64)
            )
        })
        .concat()
}

/// Returns mocks of a builder that answers each `image-status` with the next of `statuses` and then repeats the last one,
/// and the requested changes.
fn node(statuses: Vec<String>) -> (Mocks, Arc<Mutex<Vec<String>>>) {
    let changes = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&changes);
    let command = |id: &'static str| {
        move || {
            SendCommandOutput::builder()
                .command(Command::builder().command_id(id).build())
                .build()
        }
    };
    let asks = mock!(Client::send_command)
        .match_requests(|request| request.document_name() == Some("prepull-image-status"))
        .then_output(command("status"));
    let tells = mock!(Client::send_command)
        .match_requests(move |request| {
            let is_change = request.document_name() == Some("prepull-pull-images");
            if is_change {
                let changes = &request.parameters().unwrap()["Changes"];
                kept.lock().unwrap().push(changes.join(","));
            }
            is_change
        })
        .then_output(command("change"));
    let next = Mutex::new(0);
    let answers = mock!(Client::get_command_invocation)
        .match_requests(|request| request.command_id() == Some("status"))
        .then_output(move || {
            let mut next = next.lock().unwrap();
            let status = &statuses[(*next).min(statuses.len() - 1)];
            *next += 1;
            done(&format!("{status}\nDISK 1000 300\nCPUS 8\nEND\n"))
        });
    let made = mock!(Client::get_command_invocation)
        .match_requests(|request| request.command_id() == Some("change"))
        .then_output(|| done(""));
    let runs: Rule = mock!(prepull_aws::ec2::Client::describe_instances)
        .then_output(|| described([ec2_instance(InstanceStateName::Running)]));
    let mocks = Mocks::new().ec2([runs]).ssm([asks, tells, answers, made]);
    (mocks, changes)
}

fn done(stdout: &str) -> GetCommandInvocationOutput {
    GetCommandInvocationOutput::builder()
        .status(CommandInvocationStatus::Success)
        .standard_output_content(stdout)
        .build()
}

async fn pull(mocks: Mocks) -> Result<Pulled, StageError> {
    pull_of(target(), mocks).await
}

async fn pull_of(target: Target, mocks: Mocks) -> Result<Pulled, StageError> {
    let input = BuilderInput {
        target,
        builder: builder(),
    };
    let settings = Settings {
        name: "prepull".into(),
    };
    let deadline = Deadline::after(Duration::from_mins(1));
    handle(&mocks.clients(), &settings, input, deadline).await
}

#[tokio::test(start_paused = true)]
async fn builder_pulls_tags_and_removes_stale_images() {
    let old = format!("OTHER docker.io/library/old:1 sha256:{}\n", "9".repeat(64));
    let units = "UNIT 0 active exited\nUNIT 1 active exited\n";
    let (mocks, changes) = node(vec![
        old.clone(),
        format!("UNIT 0 active running\nUNIT 1 active running\n{old}"),
        format!("{units}{}{old}", complete().replace("NAME 3", "NAME 9")),
        format!("{units}{}{old}", complete()),
        format!("{units}{}", complete()),
    ]);
    let pulled = pull(mocks).await.unwrap();
    assert_eq!((pulled.pulled_images, pulled.removed_images), (2, 1));

    let verbs: Vec<_> = changes
        .lock()
        .unwrap()
        .iter()
        .map(|changes| changes.split(',').next().unwrap().to_owned())
        .collect();
    assert_eq!(verbs, ["pull", "tag", "remove"]);
}

#[tokio::test(start_paused = true)]
async fn complete_builder_changes_nothing() {
    let (mocks, changes) = node(vec![complete()]);
    let pulled = pull(mocks).await.unwrap();
    assert_eq!(pulled.pulled_images, 0);
    assert!(changes.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn long_pulls_continue_after_the_call() {
    let (mocks, _) = node(vec!["UNIT 0 active running\nUNIT 1 active running".into()]);
    let error = pull(mocks).await.unwrap_err();
    assert_eq!(error.name(), "StillRunning");
    assert!(error.to_string().contains("0 of 2"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn still_running_contains_the_pull_progress() {
    let half = format!(
        "UNIT 0 active exited\nUNIT 1 active running\n{}",
        complete().lines().take(2).collect::<Vec<_>>().join("\n")
    );
    let (mocks, _) = node(vec![half]);
    let StageError::StillRunning(text) = pull(mocks).await.unwrap_err() else {
        panic!("the pulls are still running");
    };
    let progress = PullProgress {
        pulled: 1,
        total: 2,
    };
    assert_eq!(text.parse(), Ok(progress));
}

#[tokio::test(start_paused = true)]
async fn change_without_effect_fails_after_four_attempts() {
    let (mocks, changes) = node(vec![String::new()]);
    let error = pull(mocks).await.unwrap_err();
    assert_eq!(error.name(), "VerifyFailed");
    assert_eq!(changes.lock().unwrap().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn no_change_starts_after_the_build_deadline() {
    let mut late = target();
    late.give_up_at = late.planned_at;
    for status in ["", "UNIT 0 active running\nUNIT 1 active running"] {
        let (mocks, changes) = node(vec![status.into()]);
        let error = pull_of(late.clone(), mocks).await.unwrap_err();
        assert_eq!(error.name(), "PullFailed");
        assert!(changes.lock().unwrap().is_empty());
    }
    let (mocks, _) = node(vec![complete()]);
    assert!(pull_of(late, mocks).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn truncated_status_is_requested_again() {
    let cut = "NAME 0 sha256:12";
    let (mocks, _) = node(vec![cut.into(), complete()]);
    assert!(pull(mocks).await.is_ok());

    let (mocks, _) = node(vec![cut.into()]);
    assert_eq!(pull(mocks).await.unwrap_err().name(), "BuilderLost");
}
