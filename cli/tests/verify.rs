//! Tests of `prepull verify` with healthy and damaged snapshots.

use std::future::pending;
use std::time::Duration;

use aws_smithy_mocks::mock;
use clap::Parser as _;
use jiff::{SignedDuration, Timestamp};
use prepull::{Answer, Args, Error, Exit};
use prepull_aws::ec2::types::{Snapshot, SnapshotState};
use prepull_aws::ssm::operation::describe_instance_information::DescribeInstanceInformationOutput;
use prepull_aws::ssm::types::{CommandInvocationStatus, InstanceInformation, PingStatus};
use prepull_aws::{DateTime, ssm, tag, tag_value};
use prepull_domain::names;
use prepull_testing::{FakeAws, command_output, configuration, manifest};
use serde_json::{Value, json};

const SNAPSHOT: &str = "snap-0123456789abcdef0";
const VERIFIER: &str = "i-0123456789abcdef0";
const TREES: &str = "abababababababababababababababababababababababababababababababab";
const READY: &str = "OS {\"os\": {\"version_id\": \"1.57.0\"}}\nCONTAINERD 2.1.4\nKERNEL 6.12.40\nSNAPSHOTTER ACTIVE_SNAPSHOTTER=\"overlayfs\"\nCPUS 2\nEND\n";

/// Returns the output of a verifier with `more` lines.
fn verified(more: &str) -> String {
    format!(
        "SNAPSHOTTER ACTIVE_SNAPSHOTTER=\"overlayfs\"\nMOUNT clean\nNAMES uu\nBLOBS 9 110000001\nTREES 7 99 {TREES}\n\
         STARTED docker.io/library/nginx:1.27\n{more}END\n"
    )
}

/// Returns the manifest of a build with verifications at `level`.
fn manifest_at(level: &str) -> Value {
    let mut manifest = manifest(SNAPSHOT);
    manifest["images"] = json!([
        {"reference": "docker.io/library/nginx:1.27", "digest": format!("sha256:{}", "a".repeat(64)), "size": 72_400_000}
    ]);
    manifest["trees"] = json!(TREES);
    manifest["verification"] = json!({
        "level": level, "releases": ["1.57.0"], "seconds": 80, "bytes": 110_000_001, "trees": 7,
        "verified_at": "2026-01-02T03:08:05Z"
    });
    manifest
}

/// Returns an installation with the snapshot and a verifier that prints `output`.
fn aws(level: &str, output: &str) -> FakeAws {
    let output = output.to_owned();
    let snapshot = Snapshot::builder()
        .snapshot_id(SNAPSHOT)
        .state(SnapshotState::Completed)
        .start_time(DateTime::from_secs(100))
        .volume_size(50)
        .tags(tag(names::TAG_CACHE, "web"))
        .tags(tag(names::TAG_ARCHITECTURE, "x86_64"));
    let online = mock!(ssm::Client::describe_instance_information).then_output(|| {
        let agent = InstanceInformation::builder().ping_status(PingStatus::Online);
        DescribeInstanceInformationOutput::builder()
            .instance_information_list(agent.build())
            .build()
    });
    let ami = "/aws/service/bottlerocket/aws-k8s-1.33/x86_64/1.57.0";
    FakeAws::new()
        .with_snapshots([snapshot.build()])
        .with_capacity()
        .with_agent(move |document| {
            let output = match document {
                "prepull-await-ready" => READY,
                "prepull-verify" => &output,
                other => panic!("the command must not run {other}"),
            };
            command_output(CommandInvocationStatus::Success, 0, output)
        })
        .with_parameters(&[
            ("/prepull/config/web", &configuration().to_string()),
            (
                &format!("/prepull/web/x86_64/snapshots/{SNAPSHOT}"),
                &manifest_at(level).to_string(),
            ),
            (&format!("{ami}/image_id"), "ami-0123456789abcdef0"),
            (&format!("{ami}/image_version"), "1.57.0-0a1b2c3d"),
        ])
        .ssm([online])
}

async fn verify(
    aws: &FakeAws,
    options: &[&str],
    interrupted: impl Future<Output = ()>,
) -> Result<Answer, Error> {
    let words = ["prepull", "verify", SNAPSHOT].iter().chain(options);
    let args = Args::try_parse_from(words).unwrap();
    prepull::run(&args, &aws.clients(), Timestamp::now(), interrupted).await
}

fn terminated(aws: &FakeAws) -> Vec<String> {
    aws.calls("ec2:TerminateInstances")
}

#[tokio::test(start_paused = true)]
async fn healthy_snapshot_has_no_defect() {
    let aws = aws("full", &verified(""));
    let before = Timestamp::now();
    let answer = verify(&aws, &[], pending()).await.unwrap();
    assert_eq!(answer.exit, Exit::Done, "{}", answer.text);
    let words = format!("{SNAPSHOT} has no defect: level full on Bottlerocket 1.57.0, 110.0 MB");
    assert!(answer.text.starts_with(&words), "{}", answer.text);
    assert_eq!(terminated(&aws), [VERIFIER]);
    assert!(aws.calls("ec2:CreateTags").is_empty());
    // No execution owns the verifier, so the sweep must know how long it is needed.
    let launches = aws.launches();
    let tags = launches[0].tag_specifications()[0].tags();
    let expires_at = tag_value(tags, names::TAG_EXPIRES_AT).unwrap();
    let expires_at: Timestamp = expires_at.parse().unwrap();
    let length = expires_at.duration_since(before);
    assert!(length >= SignedDuration::from_hours(2), "{length}");
    assert!(length < SignedDuration::from_hours(3), "{length}");
}

#[tokio::test(start_paused = true)]
async fn defect_has_its_own_exit_code() {
    let layer = format!("sha256:{}", "b".repeat(64));
    let aws = aws("full", &verified(&format!("BAD-BLOB {layer} missing\n")));
    let answer = verify(&aws, &[], pending()).await.unwrap();
    assert_eq!(answer.exit, Exit::Unsound, "{}", answer.text);
    for words in [SNAPSHOT, VERIFIER, &format!("layer {layer} is missing")] {
        assert!(answer.text.contains(words), "{}", answer.text);
    }
    assert!(!answer.text.contains("rejected"), "{}", answer.text);
    assert_eq!(terminated(&aws), [VERIFIER]);
    assert!(aws.calls("ec2:CreateTags").is_empty());
}

#[tokio::test(start_paused = true)]
async fn interruption_terminates_the_verifier() {
    let aws = aws("full", "RUNNING 1 9\nEND\n");
    let interrupted = tokio::time::sleep(Duration::from_secs(30));
    let answer = verify(&aws, &[], interrupted).await.unwrap();
    assert_eq!(answer.exit, Exit::Interrupted);
    let words = format!("the verification of {SNAPSHOT} was interrupted");
    assert_eq!(answer.text, words);
    assert_eq!(terminated(&aws), [VERIFIER]);
}

#[tokio::test(start_paused = true)]
async fn failed_termination_keeps_the_result() {
    let aws = aws("full", &verified("")).failing("ec2:TerminateInstances", "Unavailable");
    let answer = verify(&aws, &[], pending()).await.unwrap();
    assert_eq!(answer.exit, Exit::Done, "{}", answer.text);
    assert_eq!(terminated(&aws), [VERIFIER]);
}

#[tokio::test(start_paused = true)]
async fn level_of_the_build_is_the_default_and_the_limit() {
    let aws = aws("records", &verified(""));
    let error = verify(&aws, &["--level", "full"], pending()).await;
    let error = error.unwrap_err();
    assert!(matches!(error, Error::Usage(_)), "{error}");
    assert!(error.to_string().contains("no content of files"), "{error}");
    assert!(aws.launches().is_empty());
    let answer = verify(&aws, &[], pending()).await.unwrap();
    assert!(answer.text.contains("level records"), "{}", answer.text);
}

#[test]
fn level_off_does_not_parse() {
    let parse = |level| Args::try_parse_from(["prepull", "verify", SNAPSHOT, "--level", level]);
    for level in ["off", "most"] {
        let error = parse(level).unwrap_err().to_string();
        assert!(error.contains("use `records` or `full`"), "{error}");
    }
    assert!(parse("records").is_ok());
    // Without the cache, the file has several manifests to choose from.
    let file = [
        "prepull",
        "verify",
        SNAPSHOT,
        "--manifest",
        "snapshots.json",
    ];
    assert!(Args::try_parse_from(file).is_err());
}
