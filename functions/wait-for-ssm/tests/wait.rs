//! Tests of wait-for-ssm with builders that are ready, late or lost.

use std::time::Duration;

use aws_smithy_mocks::{Rule, mock};
use jiff::{SignedDuration, Timestamp};
use prepull_aws::Deadline;
use prepull_aws::ec2::types::InstanceStateName;
use prepull_aws::ssm::Client;
use prepull_aws::ssm::operation::describe_instance_information::DescribeInstanceInformationOutput;
use prepull_aws::ssm::operation::get_command_invocation::GetCommandInvocationOutput;
use prepull_aws::ssm::types::{CommandInvocationStatus, InstanceInformation, PingStatus};
use prepull_domain::StageError;
use prepull_domain::build::payload::{BuilderInput, ReadyBuilder};
use prepull_testing::{FakeAws, builder, command_output, ec2_instance, target};
use wait_for_ssm::{Settings, handle};

const READY: &str = "OS {\"os\": {\"version_id\": \"1.57.0\"}}\nCONTAINERD 2.1.4\nKERNEL 6.12.40\nSNAPSHOTTER ACTIVE_SNAPSHOTTER=\"overlayfs\"\nCPUS 8\nEND\n";

const LATE: &str = "WAITING the admin container\n";

/// Returns AWS with a builder.
fn with_builder(state: InstanceStateName) -> FakeAws {
    FakeAws::new().with_instances([ec2_instance(state)])
}

/// Returns AWS with a running builder whose agent is online.
fn with_agent(run: impl FnMut(&str) -> GetCommandInvocationOutput + Send + 'static) -> FakeAws {
    with_builder(InstanceStateName::Running)
        .ssm([agent_is(Some(PingStatus::Online))])
        .with_agent(run)
}

fn agent_is(status: Option<PingStatus>) -> Rule {
    mock!(Client::describe_instance_information).then_output(move || {
        let agent = status
            .clone()
            .map(|status| InstanceInformation::builder().ping_status(status).build());
        DescribeInstanceInformationOutput::builder()
            .set_instance_information_list(Some(agent.into_iter().collect()))
            .build()
    })
}

/// Runs wait-for-ssm for a builder with launch time `age` ago.
async fn wait(aws: &FakeAws, age: SignedDuration) -> Result<ReadyBuilder, StageError> {
    let mut builder = builder();
    builder.launched_at = Timestamp::now() - age;
    let input = BuilderInput {
        target: target(),
        builder,
    };
    let settings = Settings {
        name: "prepull".into(),
    };
    let deadline = Deadline::after(Duration::from_mins(1));
    handle(&aws.clients(), &settings, input, deadline).await
}

const YOUNG: SignedDuration = SignedDuration::from_secs(30);
const OLD: SignedDuration = SignedDuration::from_mins(11);

#[tokio::test]
async fn ready_builder_reports_its_versions_and_vcpus() {
    let aws = with_agent(|_| command_output(CommandInvocationStatus::Success, 0, READY));
    let ReadyBuilder { node, vcpus } = wait(&aws, YOUNG).await.unwrap();
    assert_eq!(vcpus, 8);
    assert_eq!(node.containerd_version, "2.1.4");
    assert_eq!(node.bottlerocket_version.to_string(), "1.57.0");
    assert_eq!(aws.calls("ssm:SendCommand"), ["prepull-await-ready"]);
}

#[tokio::test(start_paused = true)]
async fn late_admin_container_is_checked_again() {
    let late = command_output(CommandInvocationStatus::Failed, 75, LATE);
    let mut outputs = vec![
        command_output(CommandInvocationStatus::Success, 0, READY),
        late,
    ];
    let aws = with_agent(move |_| outputs.pop().expect("two commands suffice"));
    wait(&aws, YOUNG).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn young_builder_without_agent_is_still_running() {
    let aws = with_builder(InstanceStateName::Running).ssm([agent_is(None)]);
    let error = wait(&aws, YOUNG).await.unwrap_err();
    assert_eq!(error.name(), "StillRunning");
}

#[tokio::test]
async fn old_builder_fails_with_the_missing_part() {
    let without_agent =
        with_builder(InstanceStateName::Running).ssm([agent_is(Some(PingStatus::ConnectionLost))]);
    let without_admin = with_agent(|_| command_output(CommandInvocationStatus::Failed, 75, LATE));
    for (aws, lacks) in [
        (without_agent, "SSM agent"),
        (without_admin, "the admin container"),
    ] {
        let error = wait(&aws, OLD).await.unwrap_err();
        assert_eq!(error.name(), "NeverReady");
        assert!(error.to_string().contains(lacks), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn denied_command_to_a_new_builder_is_sent_again() {
    let aws = with_agent(|_| command_output(CommandInvocationStatus::Success, 0, READY))
        .failing("ssm:SendCommand", "AccessDeniedException");
    let error = wait(&aws, YOUNG).await.unwrap_err();
    assert_eq!(error.name(), "StillRunning");
    assert!(aws.calls("ssm:SendCommand").len() > 10);
}

#[tokio::test]
async fn denied_command_to_an_older_builder_fails() {
    let aws = with_agent(|_| command_output(CommandInvocationStatus::Success, 0, READY))
        .failing("ssm:SendCommand", "AccessDeniedException");
    let error = wait(&aws, SignedDuration::from_mins(3)).await.unwrap_err();
    assert_eq!(error.name(), "AccessDenied");
    assert!(error.to_string().contains("ssm:SendCommand"), "{error}");
}

#[tokio::test]
async fn agent_on_a_later_page_is_found() {
    let empty = mock!(Client::describe_instance_information)
        .match_requests(|request| request.next_token().is_none())
        .then_output(|| {
            DescribeInstanceInformationOutput::builder()
                .next_token("next")
                .build()
        });
    let aws = with_agent(|_| command_output(CommandInvocationStatus::Success, 0, READY));
    wait(&aws.ssm([empty]), YOUNG).await.unwrap();
}

#[tokio::test]
async fn terminated_builder_is_lost() {
    let aws = with_builder(InstanceStateName::ShuttingDown);
    assert_eq!(wait(&aws, YOUNG).await.unwrap_err().name(), "BuilderLost");
}

#[tokio::test(start_paused = true)]
async fn interrupted_commands_fail_after_three_attempts() {
    for status in [
        CommandInvocationStatus::TimedOut,
        CommandInvocationStatus::Cancelled,
        // Undeliverable and terminated commands have the status `Failed` and no exit code.
        CommandInvocationStatus::Failed,
    ] {
        let ended = command_output(status.clone(), -1, "");
        let aws = with_agent(move |_| ended.clone());
        let error = wait(&aws, YOUNG).await.unwrap_err();
        assert_eq!(error.name(), "BuilderLost");
        assert!(error.to_string().contains(status.as_str()), "{error}");
        assert_eq!(aws.calls("ssm:SendCommand").len(), 3);
    }
}
