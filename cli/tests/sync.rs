//! `prepull sync` with several node classes, against the Kubernetes stand-in and a fake AWS.

use std::future::pending;
use std::time::Duration;

use clap::Parser as _;
use jiff::{SignedDuration, Timestamp};
use prepull::sync::{SyncReport, in_cluster};
use prepull::{Args, Command, Exit};
use prepull_domain::{Decision, Promotion, PublishedSnapshot, Reason};
use prepull_kubernetes_standin::{Answer, Karpenter, Server};
use prepull_testing::{FakeAws, manifest};
use serde_json::{Value, json};

const CLASSES: &str = "/apis/karpenter.k8s.aws/v1/ec2nodeclasses";
const OLD: &str = "snap-0123456789abcdef0";
const NEW: &str = "snap-0123456789abcdef1";

fn now() -> Timestamp {
    "2026-01-02T06:10:00Z".parse().unwrap()
}

/// Returns an account whose pointer of the cache `web` went from [`OLD`] to [`NEW`] an hour ago.
async fn account() -> FakeAws {
    let aws = FakeAws::new()
        .with_parameters(&[])
        .with_snapshots([])
        .with_event_bus();
    for (snapshot, planned_at) in [(OLD, "2026-01-01T00:00:00Z"), (NEW, "2026-01-02T00:00:00Z")] {
        let mut manifest = manifest(snapshot);
        manifest["planned_at"] = json!(planned_at);
        let manifest = serde_json::from_value(manifest).unwrap();
        let decision = Decision::Publish {
            snapshot: Box::new(PublishedSnapshot::new(&manifest, [].into())),
            promotion: Promotion::Immediate,
        };
        aws.decide(&decision, now() - SignedDuration::from_hours(1))
            .await;
    }
    aws
}

/// Adds a node class of `cache` that has [`OLD`].
fn add_class(cluster: &Server, name: &str, cache: &str) {
    let class = json!({
        "apiVersion": "karpenter.k8s.aws/v1",
        "kind": "EC2NodeClass",
        "metadata": {
            "name": name,
            "annotations": {"prepull/cache": cache, "prepull/architecture": "x86_64"},
        },
        "spec": {
            "amiFamily": "Bottlerocket",
            "amiSelectorTerms": [{"alias": "bottlerocket@latest"}],
            "role": "KarpenterNodeRole",
            "subnetSelectorTerms": [{"tags": {"karpenter.sh/discovery": "production"}}],
            "securityGroupSelectorTerms": [{"tags": {"karpenter.sh/discovery": "production"}}],
            "blockDeviceMappings": [
                {"deviceName": "/dev/xvda", "ebs": {"volumeSize": "4Gi"}},
                {"deviceName": "/dev/xvdb", "ebs": {"volumeSize": "50Gi", "snapshotID": OLD}},
            ],
        },
    });
    cluster.create(CLASSES, &class);
}

async fn sync(
    aws: &FakeAws,
    cluster: &Server,
    options: &str,
    interrupted: impl Future<Output = ()>,
) -> SyncReport {
    let command = format!("prepull sync --apply {options}");
    let args = Args::try_parse_from(command.split_whitespace()).unwrap();
    let Command::Sync(args) = args.command else {
        panic!("this is not `sync`");
    };
    let config = kube::Config::new(cluster.url().parse().unwrap());
    let client = prepull_kubernetes::connect_with(config).unwrap();
    let name = Some("production".parse().unwrap());
    in_cluster(&aws.clients(), client, name, &args, now(), interrupted)
        .await
        .unwrap()
}

/// Returns the snapshot of a node class, and that of its registration.
fn snapshots(aws: &FakeAws, cluster: &Server, class: &str) -> (String, Option<String>) {
    let object = cluster.get(&format!("{CLASSES}/{class}")).unwrap();
    let snapshot = &object["spec"]["blockDeviceMappings"][1]["ebs"]["snapshotID"];
    let parameter = format!("/prepull/web/x86_64/consumers/production.{class}");
    let registered = aws.parameter(&parameter).map(|json| {
        let consumer: Value = serde_json::from_str(&json).unwrap();
        consumer["snapshot_id"].as_str().unwrap().to_owned()
    });
    (snapshot.as_str().unwrap().to_owned(), registered)
}

fn both(snapshot: &str) -> (String, Option<String>) {
    (snapshot.to_owned(), Some(snapshot.to_owned()))
}

#[tokio::test]
async fn problem_of_one_class_does_not_stop_the_others() {
    let denied = "ssm:GetParameter /prepull/foreign/x86_64/pointer";
    let aws = account().await.failing(denied, "AccessDeniedException");
    let cluster = Server::start().await.unwrap();
    add_class(&cluster, "a-foreign", "foreign");
    add_class(&cluster, "b-unknown", "nothing");
    add_class(&cluster, "c-good", "web");
    let report = sync(&aws, &cluster, "", pending()).await;
    assert_eq!(report.exit(), Exit::Failed, "{report}");
    assert_eq!(snapshots(&aws, &cluster, "c-good"), both(NEW), "{report}");
    let text = report.to_string();
    assert!(
        text.contains("failed: ssm:GetParameter was denied"),
        "{text}"
    );
    assert!(
        text.contains("cache `nothing` has published nothing"),
        "{text}"
    );
}

#[tokio::test]
async fn class_that_waits_is_registered_with_its_own_snapshot() {
    let aws = account().await;
    let cluster = Server::start().await.unwrap();
    add_class(&cluster, "web", "web");
    let report = sync(&aws, &cluster, "--delay 24h", pending()).await;
    assert_eq!(report.exit(), Exit::Done, "{report}");
    assert_eq!(snapshots(&aws, &cluster, "web"), both(OLD));
    assert!(cluster.writes().is_empty());
    let report = sync(&aws, &cluster, "--delay 59m", pending()).await;
    assert_eq!(snapshots(&aws, &cluster, "web"), both(NEW), "{report}");
}

#[tokio::test]
async fn snapshot_that_karpenter_refuses_is_tried_once() {
    let aws = account().await;
    let cluster = Server::start().await.unwrap();
    cluster.set_karpenter(Karpenter::with(
        NEW,
        Answer::NotReady {
            message: "no access to the key".to_owned(),
        },
    ));
    add_class(&cluster, "one", "web");
    add_class(&cluster, "two", "web");
    let report = sync(&aws, &cluster, "", pending()).await;
    assert_eq!(report.exit(), Exit::Failed);
    let text = report.to_string();
    assert!(text.contains("no access to the key"), "{text}");
    assert!(text.contains("for another node class"), "{text}");
    for class in ["one", "two"] {
        assert_eq!(snapshots(&aws, &cluster, class), both(OLD));
    }
    let writes = cluster.writes().len();
    sync(&aws, &cluster, "--ring other", pending()).await;
    assert_eq!(cluster.writes().len(), writes);
}

#[tokio::test]
async fn interruption_reverts_and_leaves_the_others_alone() {
    let aws = account().await;
    let cluster = Server::start().await.unwrap();
    cluster.set_karpenter(Karpenter {
        answer: Answer::Silent,
        ..Karpenter::default()
    });
    add_class(&cluster, "one", "web");
    add_class(&cluster, "two", "web");
    let soon = tokio::time::sleep(Duration::from_millis(500));
    let report = sync(&aws, &cluster, "", soon).await;
    assert_eq!(report.exit(), Exit::Failed, "{report}");
    assert!(
        report
            .to_string()
            .contains("reverted: the command was interrupted"),
        "{report}"
    );
    for class in ["one", "two"] {
        let (snapshot, _) = snapshots(&aws, &cluster, class);
        assert_eq!(snapshot, OLD, "{report}");
    }
}

#[tokio::test]
async fn ring_without_a_class_fails() {
    let aws = account().await;
    let cluster = Server::start().await.unwrap();
    add_class(&cluster, "web", "web");
    let report = sync(&aws, &cluster, "--ring prodution", pending()).await;
    assert_eq!(report.exit(), Exit::Failed);
    assert!(report.to_string().contains("`prepull/ring: prodution`"));
}

#[tokio::test]
async fn rolled_back_class_changes_at_once() {
    let aws = account().await;
    let cluster = Server::start().await.unwrap();
    add_class(&cluster, "web", "web");
    sync(&aws, &cluster, "", pending()).await;
    let reason: Reason = "image api is missing".parse().unwrap();
    aws.decide(&Decision::RollBack { reason }, now()).await;
    let report = sync(&aws, &cluster, "--delay 24h", pending()).await;
    assert_eq!(report.exit(), Exit::Done, "{report}");
    assert_eq!(snapshots(&aws, &cluster, "web"), both(OLD));
}
