//! Tests of verify-snapshot with healthy, damaged and lost snapshots and verifiers.

use std::time::Duration;

use aws_smithy_mocks::{Rule, mock};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use prepull_aws::ec2::operation::describe_snapshots::DescribeSnapshotsOutput;
use prepull_aws::ec2::operation::get_console_output::GetConsoleOutputOutput;
use prepull_aws::ec2::types::{
    BlockDeviceMapping, Instance, InstanceStateName, InstanceType, ShutdownBehavior, Snapshot,
    SnapshotState, StateReason,
};
use prepull_aws::ssm::operation::describe_instance_information::DescribeInstanceInformationOutput;
use prepull_aws::ssm::operation::get_command_invocation::GetCommandInvocationOutput;
use prepull_aws::ssm::types::{CommandInvocationStatus, InstanceInformation, PingStatus};
use prepull_aws::{DateTime, Deadline, ec2, ssm, tag, tag_value};
use prepull_domain::build::payload::{Ami, VerificationRecord, VerifyInput};
use prepull_domain::node::Trees;
use prepull_domain::{Bytes, GiB, StageError, VerificationLevel, names};
use prepull_testing::{
    FakeAws, builder, command_output, described, ec2_instance, target, target_tags,
};
use verify_snapshot::{Settings, handle};

const SNAPSHOT: &str = "snap-00000000000000001";
const VERIFIER: &str = "i-0123456789abcdef0";

const READY: &str = "OS {\"os\": {\"version_id\": \"1.57.0\"}}\nCONTAINERD 2.1.4\nKERNEL 6.12.40\nSNAPSHOTTER ACTIVE_SNAPSHOTTER=\"overlayfs\"\nCPUS 2\nEND\n";

fn trees() -> Trees {
    Trees {
        trees: 7,
        files: 4321,
        digest: "ab".repeat(32).parse().unwrap(),
    }
}

fn input(level: VerificationLevel) -> VerifyInput {
    let mut target = target();
    target.verification.level = level;
    let time = Timestamp::from_second(900).unwrap();
    VerifyInput {
        target,
        builder: builder(),
        snapshot: prepull_domain::build::payload::Snapshot {
            snapshot_id: SNAPSHOT.parse().unwrap(),
            volume_size: GiB(50),
            started_at: time,
            completed_at: time,
            trees: Some(trees()),
        },
    }
}

/// Returns the snapshot with the tag `prepull:state` = `state`.
fn snapshot(state: Option<&str>) -> Snapshot {
    let mut tags = target_tags();
    tags.extend(state.map(|state| tag(names::TAG_STATE, state)));
    Snapshot::builder()
        .snapshot_id(SNAPSHOT)
        .state(SnapshotState::Completed)
        .start_time(DateTime::from_secs(100))
        .volume_size(50)
        .set_tags(Some(tags))
        .build()
}

/// Returns a verifier that an earlier call has launched.
fn verifier(state: InstanceStateName) -> Instance {
    let mut instance = ec2_instance(state);
    let verifies = format!("{SNAPSHOT} on 1.57.0");
    let tags = instance.tags.get_or_insert_default();
    tags.push(tag(names::TAG_VERIFIES, &verifies));
    instance.launch_time = Some(DateTime::from_secs(Timestamp::now().as_second() - 60));
    instance
}

/// Returns the output of a healthy verifier with `changed` lines instead of those with the same keyword.
fn result(changed: &str) -> String {
    let tree = trees();
    let healthy = [
        "SNAPSHOTTER ACTIVE_SNAPSHOTTER=\"overlayfs\"".to_owned(),
        "MOUNT clean".to_owned(),
        "NAMES uuuu".to_owned(),
        "BLOBS 12 3000".to_owned(),
        format!("TREES {} {} {}", tree.trees, tree.files, tree.digest),
        "STARTED docker.io/library/nginx:1.27".to_owned(),
    ];
    let keyword = |line: &str| line.split(' ').next().unwrap_or_default().to_owned();
    let kept = healthy
        .into_iter()
        .filter(|line| keyword(line) != keyword(changed));
    let changed = (!changed.is_empty()).then(|| changed.to_owned());
    let lines: Vec<_> = kept.chain(changed).collect();
    lines.join("\n") + "\nEND\n"
}

fn agent_is(status: Option<PingStatus>) -> Rule {
    mock!(ssm::Client::describe_instance_information).then_output(move || {
        let agent = status
            .clone()
            .map(|status| InstanceInformation::builder().ping_status(status).build());
        DescribeInstanceInformationOutput::builder()
            .set_instance_information_list(Some(agent.into_iter().collect()))
            .build()
    })
}

fn console_shows(text: &str) -> Rule {
    let output = BASE64.encode(text);
    mock!(ec2::Client::get_console_output).then_output(move || {
        GetConsoleOutputOutput::builder()
            .output(output.clone())
            .build()
    })
}

/// Returns AWS with the snapshot in `state`, capacity, and verifiers with the results `results`, one after another.
fn aws(state: Option<&str>, results: &[&str]) -> FakeAws {
    let mut results: Vec<_> = results.iter().rev().map(|r| (*r).to_owned()).collect();
    let run = move |document: &str| -> GetCommandInvocationOutput {
        let output = match document {
            "prepull-await-ready" => READY.to_owned(),
            "prepull-verify" => results.pop().expect("as many results as commands"),
            other => panic!("verify-snapshot must not run {other}"),
        };
        command_output(CommandInvocationStatus::Success, 0, &output)
    };
    FakeAws::new()
        .with_capacity()
        .with_snapshots([snapshot(state)])
        .with_agent(run)
        .ssm([agent_is(Some(PingStatus::Online))])
}

async fn verify(aws: &FakeAws, input: VerifyInput) -> Result<VerificationRecord, StageError> {
    let settings = Settings {
        name: "prepull".into(),
        instance_profile_arn: "arn:aws:iam::123456789012:instance-profile/prepull-builder".into(),
    };
    let deadline = Deadline::after(Duration::from_mins(1));
    handle(&aws.clients(), &settings, input, deadline).await
}

/// Returns the calls that change the tag `prepull:state`.
fn marks(aws: &FakeAws) -> Vec<String> {
    let writes = aws.writes().into_iter();
    writes
        .filter(|call| call.starts_with("ec2:CreateTags"))
        .collect()
}

fn terminated(aws: &FakeAws) -> bool {
    aws.calls("ec2:TerminateInstances") == [VERIFIER]
}

#[tokio::test(start_paused = true)]
async fn healthy_snapshot_is_verified_with_a_record() {
    let healthy = result("");
    let aws = aws(None, &["RUNNING 3 12\nEND\n", &healthy]);
    let record = verify(&aws, input(VerificationLevel::Full)).await.unwrap();
    assert_eq!(record.level, VerificationLevel::Full);
    assert_eq!(record.bytes, Bytes(3000));
    assert_eq!(record.trees, 7);
    assert_eq!(record.releases.len(), 1);
    let marks = marks(&aws);
    let expected = format!(
        "ec2:CreateTags {SNAPSHOT} {}=verified {}={record}",
        names::TAG_STATE,
        names::TAG_VERIFICATION
    );
    assert_eq!(marks, [expected]);
    assert!(terminated(&aws));
}

#[tokio::test(start_paused = true)]
async fn verifier_is_small_and_starts_from_the_snapshot() {
    for (level, rate) in [
        (VerificationLevel::Full, Some(300)),
        (VerificationLevel::Records, None),
    ] {
        let aws = aws(None, &[&result("")]);
        verify(&aws, input(level)).await.unwrap();
        let request = &aws.launches()[0];
        // The last type of the list.
        let instance_type = request.instance_type().map(InstanceType::as_str);
        assert_eq!(instance_type, Some("m6i.2xlarge"));
        let devices = request.block_device_mappings();
        let data = devices
            .iter()
            .find(|device| device.device_name() == Some("/dev/xvdb"));
        let data = data.and_then(BlockDeviceMapping::ebs).unwrap();
        assert_eq!(data.snapshot_id(), Some(SNAPSHOT));
        assert_eq!(data.volume_size(), Some(50));
        assert_eq!(data.volume_initialization_rate(), rate, "{level}");
        assert_eq!(data.encrypted(), Some(true));
        let shutdown = request.instance_initiated_shutdown_behavior();
        assert_eq!(shutdown.map(ShutdownBehavior::as_str), Some("terminate"));
        let tags = request.tag_specifications()[0].tags();
        let verifies = format!("{SNAPSHOT} on 1.57.0");
        assert_eq!(tag_value(tags, names::TAG_VERIFIES), Some(&*verifies));
        assert_eq!(tag_value(tags, names::TAG_EXECUTION), Some("web-10"));
        // Its execution owns it.
        assert_eq!(tag_value(tags, names::TAG_EXPIRES_AT), None);
        let user_data = BASE64.decode(request.user_data().unwrap()).unwrap();
        let user_data = String::from_utf8(user_data).unwrap();
        assert!(!user_data.contains("registry"), "{user_data}");
    }
}

#[tokio::test(start_paused = true)]
async fn builder_is_never_taken_for_a_verifier() {
    let mut builder = ec2_instance(InstanceStateName::Running);
    builder.instance_id = Some("i-00000000000000009".to_owned());
    let aws = aws(None, &[&result("")]).with_instances([builder]);
    verify(&aws, input(VerificationLevel::Full)).await.unwrap();
    assert_eq!(aws.launches().len(), 1);
    assert!(terminated(&aws));
}

#[tokio::test(start_paused = true)]
async fn existing_verifier_is_reused() {
    let aws = aws(None, &[&result("")]).with_instances([verifier(InstanceStateName::Running)]);
    verify(&aws, input(VerificationLevel::Full)).await.unwrap();
    assert!(aws.launches().is_empty());
    assert!(terminated(&aws));
}

#[tokio::test]
async fn verified_snapshot_returns_its_record_at_once() {
    let record: VerificationRecord =
        "level=full releases=1.57.0 seconds=80 bytes=3000 trees=7 at=2026-01-02T03:04:05Z"
            .parse()
            .unwrap();
    let mut snapshot = snapshot(Some("published"));
    let tags = snapshot.tags.get_or_insert_default();
    tags.push(tag(names::TAG_VERIFICATION, &record.to_string()));
    let aws = FakeAws::new()
        .with_snapshots([snapshot])
        .with_instances([verifier(InstanceStateName::Running)]);
    let verified = verify(&aws, input(VerificationLevel::Full)).await;
    assert_eq!(verified, Ok(record));
    assert!(marks(&aws).is_empty());
    // The call that marked the snapshot ended before it terminated the verifier.
    assert!(terminated(&aws));
}

#[tokio::test(start_paused = true)]
async fn defect_rejects_the_snapshot() {
    let layer = "sha256:".to_owned() + &"b".repeat(64);
    let other = "cd".repeat(32);
    for (line, words) in [
        (
            format!("BAD-BLOB {layer} missing"),
            format!("layer {layer} is missing"),
        ),
        (
            format!("BAD-BLOB {layer} digest"),
            format!("layer {layer} has other bytes than its digest"),
        ),
        (
            "BAD-TREE 3 different 4 files instead of 5".to_owned(),
            "tree 3".to_owned(),
        ),
        ("NAMES uu-u".to_owned(), "missing".to_owned()),
        (
            "BLOBS 0 0".to_owned(),
            "layers alone have 3.0 kB".to_owned(),
        ),
        ("MOUNT recovered".to_owned(), "replayed its log".to_owned()),
        (
            format!("TREES 7 4321 {other}"),
            format!("SHA-256 is {other}"),
        ),
        (
            "SNAPSHOTTER ACTIVE_SNAPSHOTTER=\"soci\"".to_owned(),
            "`soci`".to_owned(),
        ),
    ] {
        let aws = aws(None, &[&result(&line)]);
        let error = verify(&aws, input(VerificationLevel::Full))
            .await
            .unwrap_err();
        assert_eq!(error.name(), "VerifyFailed", "{error}");
        for words in [SNAPSHOT, VERIFIER, &words] {
            assert!(error.to_string().contains(words), "{error}");
        }
        let rejected = format!("ec2:CreateTags {SNAPSHOT} {}=rejected", names::TAG_STATE);
        assert_eq!(marks(&aws), [rejected]);
        // clean-up follows.
        assert!(aws.calls("ec2:TerminateInstances").is_empty());
    }
}

/// Lets the snapshot be in the state `after` from the second look at it, as if a person or a concurrent call had set it.
fn changes_to(after: &'static str) -> Rule {
    let listed = |state: Option<&str>| {
        DescribeSnapshotsOutput::builder()
            .snapshots(snapshot(state))
            .build()
    };
    mock!(ec2::Client::describe_snapshots)
        .sequence()
        .output(move || listed(None))
        .output(move || listed(Some(after)))
        .build()
}

#[tokio::test(start_paused = true)]
async fn rejection_during_the_verification_stays() {
    for output in [result(""), result("NAMES uu-u")] {
        let aws = aws(None, &[&output]).ec2([changes_to("rejected")]);
        let error = verify(&aws, input(VerificationLevel::Full))
            .await
            .unwrap_err();
        assert_eq!(error.name(), "VerifyFailed", "{error}");
        assert_eq!(marks(&aws), [""; 0]);
    }
}

#[tokio::test]
async fn rejected_snapshot_fails_again() {
    let aws = aws(Some("rejected"), &[]);
    let error = verify(&aws, input(VerificationLevel::Full))
        .await
        .unwrap_err();
    assert_eq!(error.name(), "VerifyFailed", "{error}");
    assert!(aws.launches().is_empty());
}

/// Returns AWS with a verifier that is too old to become ready, and whose console shows `console`.
fn never_ready(console: &str) -> FakeAws {
    let mut old = verifier(InstanceStateName::Running);
    old.launch_time = Some(DateTime::from_secs(Timestamp::now().as_second() - 660));
    FakeAws::new()
        .with_snapshots([snapshot(None)])
        .with_instances([old])
        .ssm([agent_is(None)])
        .ec2([console_shows(console)])
}

#[tokio::test]
async fn volume_that_does_not_mount_rejects_the_snapshot() {
    let aws = never_ready("XFS (nvme1n1p1): log mount/recovery failed: error -117\r\n");
    let error = verify(&aws, input(VerificationLevel::Records))
        .await
        .unwrap_err();
    assert_eq!(error.name(), "VerifyFailed", "{error}");
    assert!(error.to_string().contains("recovery failed"), "{error}");
    assert_eq!(marks(&aws).len(), 1);
}

#[tokio::test]
async fn verifier_that_is_never_ready_rejects_nothing() {
    let aws = never_ready("host-ctr: i/o timeout\r\n");
    let error = verify(&aws, input(VerificationLevel::Records))
        .await
        .unwrap_err();
    assert_eq!(error.name(), "NeverReady", "{error}");
    assert!(marks(&aws).is_empty());
}

#[tokio::test(start_paused = true)]
async fn lost_verifier_rejects_nothing() {
    let lost = mock!(ec2::Client::describe_instances)
        .match_requests(|request| !request.instance_ids().is_empty())
        .sequence()
        .output(|| described([verifier(InstanceStateName::Running)]))
        .output(|| described([verifier(InstanceStateName::Terminated)]))
        .build();
    let aws = aws(None, &[]).ec2([lost, console_shows("")]);
    let error = verify(&aws, input(VerificationLevel::Full))
        .await
        .unwrap_err();
    assert_eq!(error.name(), "VerifierLost", "{error}");
    assert!(marks(&aws).is_empty());
}

#[tokio::test(start_paused = true)]
async fn verifier_without_a_result_rejects_nothing() {
    let aws = aws(None, &["", "SNAPSHOTTER", "NAMES u"]);
    let error = verify(&aws, input(VerificationLevel::Full))
        .await
        .unwrap_err();
    assert_eq!(error.name(), "VerifierLost", "{error}");
    assert!(marks(&aws).is_empty());
}

#[tokio::test]
async fn missing_capacity_rejects_nothing() {
    let aws = aws(None, &[]).failing("ec2:RunInstances", "InsufficientInstanceCapacity");
    let error = verify(&aws, input(VerificationLevel::Full))
        .await
        .unwrap_err();
    assert_eq!(error.name(), "CapacityUnavailable", "{error}");
    assert!(marks(&aws).is_empty());
}

#[tokio::test(start_paused = true)]
async fn failed_termination_keeps_the_result() {
    let aws = aws(None, &[&result("")]).failing("ec2:TerminateInstances", "UnauthorizedOperation");
    let record = verify(&aws, input(VerificationLevel::Full)).await.unwrap();
    assert_eq!(record.trees, 7);
    assert!(terminated(&aws));
}

#[tokio::test]
async fn unusable_key_names_the_verifier_and_its_snapshot() {
    let mut ended = verifier(InstanceStateName::Terminated);
    let reason = StateReason::builder().code("Client.InternalError");
    ended.state_reason = Some(reason.build());
    let ended = mock!(ec2::Client::describe_instances)
        .match_requests(|request| !request.instance_ids().is_empty())
        .then_output(move || described([ended.clone()]));
    let aws = aws(None, &[]).ec2([ended]);
    let error = verify(&aws, input(VerificationLevel::Full))
        .await
        .unwrap_err();
    assert_eq!(error.name(), "KeyUnusable", "{error}");
    let subject = format!("verifier {VERIFIER} of {SNAPSHOT} ended");
    assert!(error.to_string().starts_with(&subject), "{error}");
    assert!(marks(&aws).is_empty());
}

fn on_two_releases() -> VerifyInput {
    let mut input = input(VerificationLevel::Records);
    input.target.verification.amis = ["1.44.0", "1.57.0"]
        .map(|version| Ami {
            id: format!("ami-0123456789abcde{}", &version[2..4])
                .parse()
                .unwrap(),
            version: version.parse().unwrap(),
        })
        .to_vec();
    input
}

#[tokio::test(start_paused = true)]
async fn each_release_has_its_verifier() {
    let healthy = result("");
    let aws = aws(None, &[&healthy, &healthy]);
    let record = verify(&aws, on_two_releases()).await.unwrap();
    // Both verifiers check the same blobs.
    assert_eq!(record.bytes, Bytes(3000));
    let releases: Vec<_> = record.releases.iter().map(ToString::to_string).collect();
    assert_eq!(releases, ["1.44.0", "1.57.0"]);
    let images: Vec<_> = aws
        .launches()
        .iter()
        .map(|launch| launch.image_id().unwrap_or_default().to_owned())
        .collect();
    assert_eq!(images.len(), 2);
    assert_ne!(images[0], images[1]);
}
