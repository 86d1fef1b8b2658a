//! Tests of wait-for-ssm with builders that are ready, late or lost.

use std::time::Duration;

use aws_smithy_mocks::{Rule, mock};
use jiff::{SignedDuration, Timestamp};
use prepull_aws::Deadline;
use prepull_aws::ec2::types::InstanceStateName;
use prepull_aws::ssm::Client;
use prepull_aws::ssm::operation::describe_instance_information::DescribeInstanceInformationOutput;
use prepull_aws::ssm::operation::get_command_invocation::GetCommandInvocationOutput;
use prepull_aws::ssm::operation::send_command::SendCommandOutput;
use prepull_aws::ssm::types::{Command, CommandInvocationStatus, InstanceInformation, PingStatus};
use prepull_domain::StageError;
use prepull_domain::build::payload::{BuilderInput, NodeInfo};
use prepull_testing::{Mocks, builder, described, ec2_instance, target};
use wait_for_ssm::{Settings, handle};

const READY: &str = "OS {\"os\": {\"version_id\": \"1.57.0\"}}\nCONTAINERD 2.1.4\nKERNEL 6.12.40\nSNAPSHOTTER overlayfs\nEND\n";

fn instance_is(state: InstanceStateName) -> Rule {
    mock!(prepull_aws::ec2::Client::describe_instances)
        .then_output(move || described([ec2_instance(state.clone())]))
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

fn takes_commands() -> Rule {
    mock!(Client::send_command)
        .match_requests(|request| request.document_name() == Some("prepull-await-ready"))
        .then_output(|| {
            SendCommandOutput::builder()
                .command(Command::builder().command_id("c").build())
                .build()
        })
}

fn ended(status: CommandInvocationStatus, code: i32, stdout: &str) -> GetCommandInvocationOutput {
    GetCommandInvocationOutput::builder()
        .status_details(status.as_str())
        .status(status)
        .response_code(code)
        .standard_output_content(stdout)
        .build()
}

fn every_command_ends(status: CommandInvocationStatus, code: i32, stdout: &'static str) -> Rule {
    mock!(Client::get_command_invocation).then_output(move || ended(status.clone(), code, stdout))
}

/// Runs wait-for-ssm for a builder with launch time `age` ago.
async fn wait(mocks: Mocks, age: SignedDuration) -> Result<NodeInfo, StageError> {
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
    handle(&mocks.clients(), &settings, input, deadline).await
}

const YOUNG: SignedDuration = SignedDuration::from_secs(30);
const OLD: SignedDuration = SignedDuration::from_mins(11);

#[tokio::test]
async fn ready_builder_reports_its_versions() {
    let mocks = Mocks::new()
        .ec2([instance_is(InstanceStateName::Running)])
        .ssm([
            agent_is(Some(PingStatus::Online)),
            takes_commands(),
            every_command_ends(CommandInvocationStatus::Success, 0, READY),
        ]);
    let node = wait(mocks, YOUNG).await.unwrap();
    assert_eq!(node.containerd_version, "2.1.4");
    assert_eq!(node.bottlerocket_version.to_string(), "1.57.0");
}

#[tokio::test(start_paused = true)]
async fn late_admin_container_is_checked_again() {
    let late = mock!(Client::get_command_invocation)
        .sequence()
        .output(|| {
            ended(
                CommandInvocationStatus::Failed,
                75,
                "WAITING the admin container\n",
            )
        })
        .output(|| ended(CommandInvocationStatus::Success, 0, READY))
        .build();
    let mocks = Mocks::new()
        .ec2([instance_is(InstanceStateName::Running)])
        .ssm([agent_is(Some(PingStatus::Online)), takes_commands(), late]);
    wait(mocks, YOUNG).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn young_builder_without_agent_is_still_running() {
    let mocks = Mocks::new()
        .ec2([instance_is(InstanceStateName::Running)])
        .ssm([agent_is(None)]);
    let error = wait(mocks, YOUNG).await.unwrap_err();
    assert_eq!(error.name(), "StillRunning");
}

#[tokio::test]
async fn old_builder_fails_with_the_missing_part() {
    let agent = || Mocks::new().ec2([instance_is(InstanceStateName::Running)]);
    let without_agent = agent().ssm([agent_is(Some(PingStatus::ConnectionLost))]);
    let without_admin = agent().ssm([
        agent_is(Some(PingStatus::Online)),
        takes_commands(),
        every_command_ends(
            CommandInvocationStatus::Failed,
            75,
            "WAITING the admin container\n",
        ),
    ]);
    for (mocks, lacks) in [
        (without_agent, "SSM agent"),
        (without_admin, "the admin container"),
    ] {
        let error = wait(mocks, OLD).await.unwrap_err();
        assert_eq!(error.name(), "NeverReady");
        assert!(error.to_string().contains(lacks), "{error}");
    }
}

#[tokio::test]
async fn terminated_builder_is_lost() {
    let mocks = Mocks::new().ec2([instance_is(InstanceStateName::ShuttingDown)]);
    assert_eq!(wait(mocks, YOUNG).await.unwrap_err().name(), "BuilderLost");
}

#[tokio::test(start_paused = true)]
async fn interrupted_commands_fail_after_three_attempts() {
    for status in [
        CommandInvocationStatus::TimedOut,
        CommandInvocationStatus::Cancelled,
        // Undeliverable and terminated commands have the status `Failed` and no exit code.
        CommandInvocationStatus::Failed,
    ] {
        let sends = takes_commands();
        let mocks = Mocks::new()
            .ec2([instance_is(InstanceStateName::Running)])
            .ssm([
                agent_is(Some(PingStatus::Online)),
                sends.clone(),
                every_command_ends(status.clone(), -1, ""),
            ]);
        let error = wait(mocks, YOUNG).await.unwrap_err();
        assert_eq!(error.name(), "BuilderLost");
        assert!(error.to_string().contains(status.as_str()), "{error}");
        assert_eq!(sends.num_calls(), 3);
    }
}
