//! Syncs over HTTP against the stand-in of the Kubernetes API.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kube::config::{KubeConfigOptions, Kubeconfig};
use prepull_domain::Pointer;
use prepull_kubernetes::{
    Change, Client, Error, Interruption, Listed, NodeClass, Outcome, Patience, Plan, Readiness,
    Timing, apply, connect_with, get, list, plan,
};
use prepull_kubernetes_standin::{Answer, Fault, FaultReply, Karpenter, Server};
use serde_json::{Value, json};

const OLD: &str = "snap-0000000000000000a";
const NEW: &str = "snap-0000000000000000b";
const NEWER: &str = "snap-0000000000000000c";
const FOREIGN: &str = "snap-0000000000000000f";

const CLASSES: &str = "/apis/karpenter.k8s.aws/v1/ec2nodeclasses";
const WEB: &str = "/apis/karpenter.k8s.aws/v1/ec2nodeclasses/web-amd64";

fn pointer() -> Pointer {
    pointer_to(NEW)
}

fn pointer_to(snapshot: &str) -> Pointer {
    let stable = json!({
        "snapshot_id": snapshot,
        "content_key": "c".repeat(64),
        "variant": "aws-k8s-1.33",
        "bottlerocket_version": "1.57.0",
        "volume_size": 60,
        "used": 1,
        "images": 1,
        "execution": "web-1",
        "planned_at": "2026-01-01T00:00:00Z",
        "completed_at": "2026-01-01T00:00:00Z",
    });
    Pointer::initial(Some(
        serde_json::from_value(stable).expect("this is a published snapshot"),
    ))
}

/// Returns a pointer that has rejected the snapshot of the class.
fn rejecting_pointer() -> Pointer {
    let rejected = json!([{"snapshot_id": OLD, "reason": "broken", "at": "2026-01-09T00:00:00Z"}]);
    Pointer {
        rejected: serde_json::from_value(rejected).expect("this is a rejection"),
        ..pointer()
    }
}

fn node_class(name: &str, annotations: &Value) -> Value {
    json!({
        "apiVersion": "karpenter.k8s.aws/v1",
        "kind": "EC2NodeClass",
        "metadata": {"name": name, "annotations": annotations},
        "spec": {
            "amiSelectorTerms": [{"alias": "bottlerocket@v1.57.0"}],
            "role": "node",
            "subnetSelectorTerms": [{"tags": {"karpenter.sh/discovery": "test"}}],
            "securityGroupSelectorTerms": [{"tags": {"karpenter.sh/discovery": "test"}}],
            "blockDeviceMappings": [
                {"deviceName": "/dev/xvda", "ebs": {"volumeSize": "4Gi"}},
                {"deviceName": "/dev/xvdb", "ebs": {
                    "snapshotID": OLD, "volumeSize": "50Gi", "volumeInitializationRate": 300, "encrypted": true,
                }},
            ],
        },
    })
}

fn opt_in() -> Value {
    json!({"prepull/cache": "web", "prepull/architecture": "x86_64"})
}

fn now() -> Timestamp {
    "2026-01-10T00:00:00Z".parse().expect("this is a timestamp")
}

/// A cluster with the node class `web-amd64`, which has opted in and has the old snapshot.
struct Cluster {
    server: Server,
    client: Client,
}

impl Cluster {
    async fn start() -> Self {
        let server = Server::start()
            .await
            .expect("the loopback interface has free ports");
        server.create(CLASSES, &node_class("web-amd64", &opt_in()));
        let client = client(&server).await;
        Self { server, client }
    }

    async fn with(karpenter: Karpenter) -> Self {
        let cluster = Self::start().await;
        cluster.server.set_karpenter(karpenter);
        cluster
    }

    async fn class(&self) -> NodeClass {
        let listed = list(&self.client, None)
            .await
            .expect("the cluster lists classes");
        match listed
            .into_iter()
            .find(|listed| listed.name() == "web-amd64")
        {
            Some(Listed::OptedIn(class)) => *class,
            other => panic!("the class did not opt in: {other:?}"),
        }
    }

    async fn change(&self) -> (NodeClass, Change) {
        self.change_to(pointer()).await
    }

    async fn change_to(&self, pointer: Pointer) -> (NodeClass, Change) {
        let class = self.class().await;
        match plan(&class, Some(&pointer), at_once()) {
            Plan::Patch(change) => (class, *change),
            other => panic!("the plan is not a patch: {other:?}"),
        }
    }

    async fn sync(&self) -> Result<Outcome, Error> {
        self.sync_with(patience()).await
    }

    async fn sync_with(&self, patience: Patience) -> Result<Outcome, Error> {
        let (class, change) = self.change().await;
        self.apply(&class, &change, patience).await
    }

    async fn sync_to(&self, pointer: Pointer) -> Result<Outcome, Error> {
        let (class, change) = self.change_to(pointer).await;
        self.apply(&class, &change, patience()).await
    }

    /// Waits until the sync has patched the class.
    async fn patched(&self) {
        while self.server.writes().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn apply(
        &self,
        class: &NodeClass,
        change: &Change,
        patience: Patience,
    ) -> Result<Outcome, Error> {
        let never = Interruption::default();
        apply(&self.client, class, change, patience, &never, now()).await
    }

    /// Applies a change, and interrupts it during the wait.
    async fn interrupted(&self, class: &NodeClass, change: &Change) -> Outcome {
        let interruption = Interruption::default();
        let (outcome, ()) = tokio::join!(
            apply(
                &self.client,
                class,
                change,
                patience(),
                &interruption,
                now()
            ),
            async {
                self.patched().await;
                interruption.interrupt();
            }
        );
        assert!(interruption.is_interrupted());
        outcome.expect("the cluster applies the patch")
    }

    fn web(&self) -> Value {
        self.server.get(WEB).expect("the class exists")
    }

    fn volume(&self) -> Value {
        self.web()["spec"]["blockDeviceMappings"][1]["ebs"].clone()
    }

    fn set_snapshot(&self, snapshot: &str) {
        let mut mappings = self.web()["spec"]["blockDeviceMappings"].clone();
        mappings[1]["ebs"]["snapshotID"] = json!(snapshot);
        self.server
            .merge(WEB, &json!({"spec": {"blockDeviceMappings": mappings}}));
    }
}

async fn client(server: &Server) -> Client {
    let kubeconfig = Kubeconfig::from_yaml(&server.kubeconfig()).expect("this is a kubeconfig");
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .expect("the kubeconfig is complete");
    connect_with(config).expect("the configuration is valid")
}

fn at_once() -> Timing {
    Timing {
        now: now(),
        delay: SignedDuration::ZERO,
        since: None,
    }
}

/// A wait that ends with an event, also on a slow machine.
fn patience() -> Patience {
    Patience {
        wait: Duration::from_secs(30),
        interval: Duration::from_millis(10),
    }
}

/// A wait that ends without a verdict.
fn impatience() -> Patience {
    Patience {
        wait: Duration::from_millis(300),
        ..patience()
    }
}

fn volume(snapshot: &str, size: &str) -> Value {
    json!({"snapshotID": snapshot, "volumeSize": size, "volumeInitializationRate": 300, "encrypted": true})
}

#[tokio::test]
async fn sync_sets_snapshot_size_and_annotations() {
    let cluster = Cluster::start().await;
    let before = cluster.web();
    let outcome = cluster.sync().await.unwrap();
    assert_eq!(
        outcome,
        Outcome::Synced {
            not_annotated: None
        }
    );
    assert_eq!(cluster.volume(), volume(NEW, "60Gi"));
    let after = cluster.web();
    assert_eq!(after["metadata"]["generation"], 2);
    assert_eq!(
        after["metadata"]["annotations"],
        json!({
            "prepull/cache": "web",
            "prepull/architecture": "x86_64",
            "prepull/synced-at": "2026-01-10T00:00:00Z",
            "prepull/synced-snapshot": NEW,
        })
    );
    let mut spec = after["spec"].clone();
    spec["blockDeviceMappings"] = before["spec"]["blockDeviceMappings"].clone();
    assert_eq!(spec, before["spec"]);
    let writes = cluster.server.writes();
    assert_eq!(writes.len(), 2);
    for write in writes {
        assert_eq!((write.verb, write.path.as_str()), ("patch", WEB));
        assert!(
            write.query.contains("fieldManager=prepull"),
            "{}",
            write.query
        );
    }
}

#[tokio::test]
async fn second_sync_writes_nothing() {
    let cluster = Cluster::start().await;
    cluster.sync().await.unwrap();
    let (before, writes) = (cluster.web(), cluster.server.writes().len());
    let second = plan(&cluster.class().await, Some(&pointer()), at_once());
    assert_eq!(
        second,
        Plan::UpToDate {
            snapshot: NEW.parse().unwrap(),
            readiness: Readiness::Ready
        }
    );
    assert_eq!(cluster.web(), before);
    assert_eq!(cluster.server.writes().len(), writes);
}

#[tokio::test]
async fn plan_writes_nothing() {
    let cluster = Cluster::start().await;
    let before = cluster.web();
    cluster.change().await;
    assert_eq!(cluster.server.writes(), []);
    assert_eq!(cluster.web(), before);
}

#[tokio::test]
async fn sync_waits_for_a_slow_karpenter() {
    let cluster = Cluster::with(Karpenter {
        delay: Duration::from_millis(100),
        ..Karpenter::default()
    })
    .await;
    let outcome = cluster.sync().await.unwrap();
    assert!(outcome.is_success(), "{outcome}");
}

#[tokio::test]
async fn class_that_is_not_ready_is_reverted() {
    let answer = Answer::NotReady {
        message: "Controller isn't authorized to call ec2:RunInstances.".to_owned(),
    };
    let cluster = Cluster::with(Karpenter::with(NEW, answer)).await;
    let outcome = cluster.sync().await.unwrap();
    assert_eq!(
        outcome.to_string(),
        "reverted: Karpenter did not accept the snapshot: Controller isn't authorized to call ec2:RunInstances. \
         Karpenter's log has the cause"
    );
    assert_eq!(cluster.volume(), volume(OLD, "50Gi"));
    let mut annotations = opt_in();
    annotations["prepull/reverted-snapshot"] = json!(NEW);
    assert_eq!(cluster.web()["metadata"]["annotations"], annotations);
}

#[tokio::test]
async fn reverted_snapshot_is_not_tried_again() {
    let cluster = Cluster::with(Karpenter::with(NEW, Answer::Unknown)).await;
    cluster.sync_with(impatience()).await.unwrap();
    let (before, writes) = (cluster.web(), cluster.server.writes().len());
    match plan(&cluster.class().await, Some(&pointer()), at_once()) {
        Plan::Refused(refusal) => assert_eq!(
            refusal.to_string(),
            format!(
                "Karpenter did not accept {NEW} before. Correct the cause, and remove the annotation \
                 `prepull/reverted-snapshot`"
            )
        ),
        other => panic!("{other:?}"),
    }
    assert_eq!(cluster.web(), before);
    assert_eq!(cluster.server.writes().len(), writes);
}

#[tokio::test]
async fn other_snapshot_is_synced_after_a_revert() {
    let cluster = Cluster::with(Karpenter::with(NEW, Answer::Unknown)).await;
    cluster.sync_with(impatience()).await.unwrap();
    let outcome = cluster.sync_to(pointer_to(NEWER)).await.unwrap();
    assert!(outcome.is_success(), "{outcome}");
    assert_eq!(cluster.volume(), volume(NEWER, "60Gi"));
    let annotations = cluster.web()["metadata"]["annotations"].clone();
    assert_eq!(annotations["prepull/synced-snapshot"], NEWER);
    assert_eq!(annotations.get("prepull/reverted-snapshot"), None);
}

#[tokio::test]
async fn snapshot_is_tried_again_without_the_annotation() {
    let cluster = Cluster::with(Karpenter::with(NEW, Answer::Unknown)).await;
    cluster.sync_with(impatience()).await.unwrap();
    cluster.server.set_karpenter(Karpenter::default());
    cluster.server.merge(
        WEB,
        &json!({"metadata": {"annotations": {"prepull/reverted-snapshot": null}}}),
    );
    assert!(cluster.sync().await.unwrap().is_success());
}

#[tokio::test]
async fn missing_annotation_does_not_hide_the_revert() {
    let cluster = Cluster::with(Karpenter::with(NEW, Answer::Unknown)).await;
    cluster
        .server
        .add_fault(Fault::once("patch", FaultReply::Unavailable).after(2));
    match cluster.sync_with(impatience()).await.unwrap() {
        Outcome::Reverted {
            not_annotated: Some(cause),
            ..
        } => assert!(cause.contains("unable to handle"), "{cause}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(cluster.volume(), volume(OLD, "50Gi"));
    assert_eq!(cluster.web()["metadata"]["annotations"], opt_in());
}

#[tokio::test]
async fn class_without_verdict_is_reverted() {
    for (answer, pending) in [
        (Answer::Unknown, "object is awaiting reconciliation"),
        (Answer::Silent, "Karpenter has not processed generation 2"),
    ] {
        let cluster = Cluster::with(Karpenter::with(NEW, answer)).await;
        let outcome = cluster.sync_with(impatience()).await.unwrap();
        assert_eq!(
            outcome,
            Outcome::Reverted {
                why: format!("no verdict within 0 s: {pending}"),
                not_annotated: None,
            }
        );
        assert_eq!(cluster.volume(), volume(OLD, "50Gi"));
    }
}

#[tokio::test]
async fn roll_back_is_not_reverted() {
    let cluster = Cluster::with(Karpenter::with(NEW, Answer::Unknown)).await;
    let class = cluster.class().await;
    let Plan::Patch(change) = plan(&class, Some(&rejecting_pointer()), at_once()) else {
        panic!("the plan is not a patch");
    };
    let outcome = cluster.apply(&class, &change, impatience()).await.unwrap();
    assert!(matches!(outcome, Outcome::NotReady { .. }), "{outcome}");
    assert!(!outcome.is_success());
    assert_eq!(cluster.volume(), volume(NEW, "60Gi"));
}

#[tokio::test]
async fn interruption_during_the_wait_reverts() {
    let cluster = Cluster::with(Karpenter::with(NEW, Answer::Silent)).await;
    let (class, change) = cluster.change().await;
    assert_eq!(
        cluster.interrupted(&class, &change).await,
        Outcome::Reverted {
            why: "the command was interrupted".to_owned(),
            not_annotated: None,
        }
    );
    assert_eq!(cluster.volume(), volume(OLD, "50Gi"));
    // Karpenter has not refused the snapshot.
    assert_eq!(cluster.web()["metadata"]["annotations"], opt_in());
    cluster.server.set_karpenter(Karpenter::default());
    assert!(cluster.sync().await.unwrap().is_success());
}

#[tokio::test]
async fn interruption_during_a_roll_back_keeps_the_snapshot() {
    let cluster = Cluster::with(Karpenter::with(NEW, Answer::Silent)).await;
    let class = cluster.class().await;
    let Plan::Patch(change) = plan(&class, Some(&rejecting_pointer()), at_once()) else {
        panic!("the plan is not a patch");
    };
    assert_eq!(
        cluster.interrupted(&class, &change).await,
        Outcome::NotReady {
            why: "the command was interrupted".to_owned(),
        }
    );
    assert_eq!(cluster.volume(), volume(NEW, "60Gi"));
}

#[tokio::test]
async fn interruption_reverts_although_reads_fail() {
    let cluster = Cluster::with(Karpenter::with(NEW, Answer::Silent)).await;
    cluster
        .server
        .add_fault(Fault::always("get", FaultReply::Unavailable));
    let (class, change) = cluster.change().await;
    let outcome = cluster.interrupted(&class, &change).await;
    assert!(matches!(outcome, Outcome::Reverted { .. }), "{outcome}");
    assert_eq!(cluster.volume(), volume(OLD, "50Gi"));
}

#[tokio::test]
async fn change_between_plan_and_patch_stays() {
    let cluster = Cluster::start().await;
    let (class, change) = cluster.change().await;
    cluster.set_snapshot(FOREIGN);
    let outcome = cluster.apply(&class, &change, patience()).await;
    assert_eq!(outcome, Ok(Outcome::Changed));
    assert_eq!(cluster.volume(), volume(FOREIGN, "50Gi"));
}

#[tokio::test]
async fn opt_out_between_plan_and_patch_is_respected() {
    let cluster = Cluster::start().await;
    let (class, change) = cluster.change().await;
    cluster.server.merge(
        WEB,
        &json!({"metadata": {"annotations": {"prepull/cache": null}}}),
    );
    let outcome = cluster.apply(&class, &change, patience()).await;
    assert_eq!(outcome, Ok(Outcome::Changed));
    assert_eq!(cluster.volume(), volume(OLD, "50Gi"));
}

#[tokio::test]
async fn changed_ring_between_plan_and_patch_is_respected() {
    let cluster = Cluster::start().await;
    let ring = |name: &str| json!({"metadata": {"annotations": {"prepull/ring": name}}});
    cluster.server.merge(WEB, &ring("canary"));
    let (class, change) = cluster.change().await;
    cluster.server.merge(WEB, &ring("production"));
    let outcome = cluster.apply(&class, &change, patience()).await;
    assert_eq!(outcome, Ok(Outcome::Changed));
    assert_eq!(cluster.volume(), volume(OLD, "50Gi"));
}

#[tokio::test]
async fn conflict_in_the_cluster_changes_nothing() {
    let cluster = Cluster::start().await;
    cluster
        .server
        .add_fault(Fault::once("patch", FaultReply::Conflict));
    assert_eq!(cluster.sync().await, Ok(Outcome::Changed));
    assert_eq!(cluster.volume(), volume(OLD, "50Gi"));
}

#[tokio::test]
async fn change_during_the_wait_stays() {
    let cluster = Cluster::with(Karpenter::with(NEW, Answer::Unknown)).await;
    let (class, change) = cluster.change().await;
    let (outcome, ()) = tokio::join!(cluster.apply(&class, &change, patience()), async {
        cluster.patched().await;
        cluster.set_snapshot(FOREIGN);
    });
    assert_eq!(outcome, Ok(Outcome::Changed));
    assert_eq!(cluster.volume(), volume(FOREIGN, "60Gi"));
}

#[tokio::test]
async fn foreign_snapshot_ends_the_wait_for_a_larger_volume() {
    let cluster = Cluster::start().await;
    cluster.set_snapshot(NEW);
    cluster
        .server
        .set_karpenter(Karpenter::with(NEW, Answer::Silent));
    let (class, change) = cluster.change().await;
    let (outcome, ()) = tokio::join!(cluster.apply(&class, &change, patience()), async {
        cluster.patched().await;
        cluster.set_snapshot(FOREIGN);
    });
    assert_eq!(outcome, Ok(Outcome::Changed));
}

#[tokio::test]
async fn foreign_change_of_other_fields_does_not_disturb() {
    let cluster = Cluster::with(Karpenter {
        delay: Duration::from_millis(100),
        ..Karpenter::default()
    })
    .await;
    let (class, change) = cluster.change().await;
    let (outcome, ()) = tokio::join!(cluster.apply(&class, &change, patience()), async {
        cluster.patched().await;
        cluster
            .server
            .merge(WEB, &json!({"spec": {"tags": {"team": "web"}}}));
    });
    assert_eq!(
        outcome,
        Ok(Outcome::Synced {
            not_annotated: None
        })
    );
    assert_eq!(cluster.web()["spec"]["tags"], json!({"team": "web"}));
}

#[tokio::test]
async fn revert_never_overwrites_a_foreign_change() {
    let cluster = Cluster::with(Karpenter::with(NEW, Answer::Silent)).await;
    // Only the reads during the wait fail, so the sync does not see the foreign change before its revert.
    let (class, change) = cluster.change().await;
    cluster
        .server
        .add_fault(Fault::always("get", FaultReply::Unavailable));
    let (outcome, ()) = tokio::join!(cluster.apply(&class, &change, impatience()), async {
        cluster.patched().await;
        cluster.set_snapshot(FOREIGN);
    });
    match outcome.unwrap() {
        Outcome::RevertFailed { cause, .. } => {
            assert_eq!(cause, "another client changed the volume");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(cluster.volume(), volume(FOREIGN, "60Gi"));
}

#[tokio::test]
async fn class_deleted_before_the_patch_is_reported() {
    let cluster = Cluster::start().await;
    let (class, change) = cluster.change().await;
    cluster.server.delete(WEB);
    let outcome = cluster.apply(&class, &change, patience()).await;
    assert_eq!(outcome, Ok(Outcome::Deleted));
}

#[tokio::test]
async fn class_deleted_during_the_wait_is_reported() {
    for finalizers in [json!([]), json!(["karpenter.k8s.aws/termination"])] {
        let cluster = Cluster::with(Karpenter::with(NEW, Answer::Silent)).await;
        cluster
            .server
            .merge(WEB, &json!({"metadata": {"finalizers": finalizers}}));
        let (class, change) = cluster.change().await;
        let (outcome, ()) = tokio::join!(cluster.apply(&class, &change, patience()), async {
            cluster.patched().await;
            cluster.server.delete(WEB);
        });
        assert_eq!(outcome, Ok(Outcome::Deleted), "{finalizers}");
    }
}

#[tokio::test]
async fn class_that_waits_for_its_finalizer_is_no_failure() {
    let cluster = Cluster::start().await;
    cluster.server.merge(
        WEB,
        &json!({"metadata": {"finalizers": ["karpenter.k8s.aws/termination"]}}),
    );
    cluster.server.delete(WEB);
    let plan = plan(&cluster.class().await, Some(&pointer()), at_once());
    assert_eq!(plan, Plan::Deleting);
}

#[tokio::test]
async fn lost_answer_of_the_patch_is_no_failure() {
    let cluster = Cluster::start().await;
    cluster
        .server
        .add_fault(Fault::once("patch", FaultReply::Lost));
    let outcome = cluster.sync().await.unwrap();
    assert!(outcome.is_success(), "{outcome}");
    assert_eq!(cluster.volume(), volume(NEW, "60Gi"));
}

#[tokio::test]
async fn revert_is_repeated_after_a_lost_answer_and_a_conflict() {
    for reply in [FaultReply::Lost, FaultReply::Conflict] {
        let cluster = Cluster::with(Karpenter::with(NEW, Answer::Unknown)).await;
        let fault = Fault::once("patch", reply).after(1);
        cluster.server.add_fault(fault);
        let outcome = cluster.sync_with(impatience()).await;
        assert!(
            matches!(outcome, Ok(Outcome::Reverted { .. })),
            "{reply:?}: {outcome:?}"
        );
        assert_eq!(cluster.volume(), volume(OLD, "50Gi"), "{reply:?}");
    }
}

#[tokio::test]
async fn lasting_conflict_fails_the_revert() {
    let cluster = Cluster::with(Karpenter::with(NEW, Answer::Unknown)).await;
    cluster
        .server
        .add_fault(Fault::always("patch", FaultReply::Conflict).after(1));
    match cluster.sync_with(impatience()).await.unwrap() {
        Outcome::RevertFailed { cause, .. } => {
            assert!(cause.contains("Operation cannot be fulfilled"), "{cause}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(cluster.server.writes().len(), 4);
}

#[tokio::test]
async fn unavailable_cluster_fails_the_revert() {
    let cluster = Cluster::with(Karpenter::with(NEW, Answer::Unknown)).await;
    cluster
        .server
        .add_fault(Fault::always("patch", FaultReply::Unavailable).after(1));
    match cluster.sync_with(impatience()).await.unwrap() {
        Outcome::RevertFailed { cause, .. } => {
            assert!(cause.contains("unable to handle"), "{cause}");
        }
        other => panic!("{other:?}"),
    }
    // One patch, and the attempts to revert it.
    assert_eq!(cluster.server.writes().len(), 4);
}

#[tokio::test]
async fn unavailable_cluster_fails_the_patch() {
    let cluster = Cluster::start().await;
    cluster
        .server
        .add_fault(Fault::once("patch", FaultReply::Unavailable));
    assert_eq!(
        cluster.sync().await.unwrap_err().to_string(),
        "cannot patch node classes: the server is currently unable to handle the request. Try again later"
    );
    assert_eq!(cluster.volume(), volume(OLD, "50Gi"));
}

#[tokio::test]
async fn rule_of_the_cluster_refuses_the_patch() {
    let cluster = Cluster::start().await;
    let (class, mut change) = cluster.change().await;
    let mut patch = serde_json::to_value(&change.patch).unwrap();
    patch.as_array_mut().unwrap().push(json!(
        {"op": "replace", "path": "/spec/blockDeviceMappings/1/ebs/volumeSize", "value": "60"}
    ));
    change.patch = serde_json::from_value(patch).unwrap();
    let outcome = cluster.apply(&class, &change, patience()).await.unwrap();
    match outcome {
        Outcome::Invalid { why } => assert!(why.contains("in body should match"), "{why}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(cluster.volume(), volume(OLD, "50Gi"));
}

#[tokio::test]
async fn missing_annotations_are_no_failure() {
    let cluster = Cluster::start().await;
    cluster
        .server
        .add_fault(Fault::once("patch", FaultReply::Unavailable).after(1));
    match cluster.sync().await.unwrap() {
        Outcome::Synced {
            not_annotated: Some(cause),
        } => assert!(cause.contains("unable to handle"), "{cause}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(cluster.volume(), volume(NEW, "60Gi"));
}

#[tokio::test]
async fn concurrent_syncs_end_in_one_state() {
    for answer in [Answer::Ready, Answer::Unknown] {
        let cluster = Cluster::with(Karpenter::with(NEW, answer.clone())).await;
        let ((one, first), (two, second)) = (cluster.change().await, cluster.change().await);
        let (first, second) = tokio::join!(
            cluster.apply(&one, &first, impatience()),
            cluster.apply(&two, &second, impatience()),
        );
        let outcomes = [first.unwrap(), second.unwrap()];
        assert!(outcomes.contains(&Outcome::Changed), "{outcomes:?}");
        let (snapshot, size) = if answer == Answer::Ready {
            assert!(outcomes.iter().any(Outcome::is_success), "{outcomes:?}");
            (NEW, "60Gi")
        } else {
            (OLD, "50Gi")
        };
        assert_eq!(cluster.volume(), volume(snapshot, size));
    }
}

#[tokio::test]
async fn list_returns_valid_and_invalid_classes_in_order() {
    let cluster = Cluster::start().await;
    let others = [
        ("api", json!({"prepull/cache": "api"})),
        (
            "canary",
            json!({"prepull/cache": "web", "prepull/architecture": "arm64", "prepull/ring": "canary"}),
        ),
        ("default", json!({})),
    ];
    for (name, annotations) in &others {
        cluster
            .server
            .create(CLASSES, &node_class(name, annotations));
    }
    let all = list(&cluster.client, None).await.unwrap();
    let names: Vec<&str> = all.iter().map(Listed::name).collect();
    assert_eq!(names, ["api", "canary", "web-amd64"]);
    assert!(matches!(all[0], Listed::Invalid { .. }), "{all:?}");
    assert!(matches!(all[2], Listed::OptedIn(_)), "{all:?}");

    let ring = "canary".parse().unwrap();
    let canary = list(&cluster.client, Some(&ring)).await.unwrap();
    let names: Vec<&str> = canary.iter().map(Listed::name).collect();
    assert_eq!(names, ["canary"]);

    // The invalid class does not stop the sync of another.
    assert!(cluster.sync().await.unwrap().is_success());
}

#[tokio::test]
async fn get_returns_the_class_as_it_is_now() {
    let cluster = Cluster::start().await;
    let read = async || get(&cluster.client, "web-amd64").await;
    let snapshot = |listed: Option<Listed>| match listed {
        Some(Listed::OptedIn(class)) => class.snapshot(),
        other => panic!("the class did not opt in: {other:?}"),
    };
    assert_eq!(snapshot(read().await.unwrap()), OLD.parse().ok());
    cluster.sync().await.unwrap();
    assert_eq!(snapshot(read().await.unwrap()), NEW.parse().ok());

    let annotation = |value: Value| json!({"metadata": {"annotations": {"prepull/cache": value}}});
    cluster.server.merge(WEB, &annotation(json!("Web!")));
    let invalid = read().await.unwrap();
    assert!(
        matches!(invalid, Some(Listed::Invalid { .. })),
        "{invalid:?}"
    );
    cluster
        .server
        .merge(WEB, &json!({"metadata": {"annotations": null}}));
    assert_eq!(read().await, Ok(None));
    cluster.server.delete(WEB);
    assert_eq!(read().await, Ok(None));
}

#[tokio::test]
async fn get_reports_errors_of_the_cluster() {
    let cluster = Cluster::start().await;
    cluster
        .server
        .add_fault(Fault::once("get", FaultReply::Unavailable));
    let repeated = get(&cluster.client, "web-amd64").await.unwrap();
    assert!(matches!(repeated, Some(Listed::OptedIn(_))), "{repeated:?}");
    cluster
        .server
        .add_fault(Fault::once("get", FaultReply::Forbidden));
    let error = get(&cluster.client, "web-amd64").await.unwrap_err();
    assert!(
        matches!(error, Error::Forbidden { verb: "get", .. }),
        "{error}"
    );
    cluster.server.uninstall("karpenter.k8s.aws");
    let error = get(&cluster.client, "web-amd64").await.unwrap_err();
    assert_eq!(error, Error::NotInstalled { verb: "get" });
}

#[tokio::test]
async fn error_of_the_cluster_has_a_remedy() {
    let rule = r#"{apiGroups: ["karpenter.k8s.aws"], resources: ["ec2nodeclasses"], verbs: ["get", "list", "patch"]}"#;
    for (reply, expected) in [
        (
            FaultReply::Unauthorized,
            "the cluster refuses the credentials: Unauthorized. Log in to AWS again, and check that the cluster has an access \
             entry for the role"
                .to_owned(),
        ),
        (
            FaultReply::Forbidden,
            format!(
                "cannot list node classes: ec2nodeclasses.karpenter.k8s.aws is forbidden: User \"prepull\" cannot list \
                 resource \"ec2nodeclasses\" in API group \"karpenter.k8s.aws\" at the cluster scope. Give the role a \
                 ClusterRole with the rule {rule}"
            ),
        ),
    ] {
        let cluster = Cluster::start().await;
        cluster.server.add_fault(Fault::once("list", reply));
        let error = list(&cluster.client, None).await.unwrap_err();
        assert_eq!(error.to_string(), expected);
    }

    let cluster = Cluster::start().await;
    cluster.server.uninstall("karpenter.k8s.aws");
    let error = list(&cluster.client, None).await.unwrap_err();
    assert_eq!(error, Error::NotInstalled { verb: "list" });
}

#[tokio::test]
async fn forbidden_patch_changes_nothing() {
    let cluster = Cluster::start().await;
    cluster
        .server
        .add_fault(Fault::always("patch", FaultReply::Forbidden));
    let error = cluster.sync().await.unwrap_err();
    assert!(
        matches!(error, Error::Forbidden { verb: "patch", .. }),
        "{error}"
    );
    assert_eq!(cluster.volume(), volume(OLD, "50Gi"));
}

#[tokio::test]
async fn list_is_repeated_if_the_cluster_is_unavailable() {
    let cluster = Cluster::start().await;
    cluster
        .server
        .add_fault(Fault::once("list", FaultReply::Unavailable));
    assert_eq!(list(&cluster.client, None).await.unwrap().len(), 1);
}

#[tokio::test]
async fn cluster_without_answer_is_unreachable() {
    let cluster = Cluster::start().await;
    let Cluster { server, client } = cluster;
    drop(server);
    let error = list(&client, None).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn client_with_tls_needs_no_set_up() {
    let url = "https://127.0.0.1:1".parse().expect("this is a URL");
    let client = connect_with(kube::Config::new(url)).expect("TLS has a provider");
    let error = list(&client, None).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn failed_credential_command_has_a_remedy() {
    for (command, cause) in [
        ("false", "failed with exit status: 1"),
        (
            "prepull-no-such-command",
            "does not start: No such file or directory (os error 2)",
        ),
    ] {
        let user =
            json!({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": command}});
        let mut config = kube::Config::new("https://127.0.0.1:1".parse().expect("this is a URL"));
        config.auth_info = serde_json::from_value(user).expect("this is a user");
        let Err(error) = connect_with(config) else {
            panic!("{command} gives no credentials");
        };
        assert_eq!(
            error.to_string(),
            format!(
                "cannot get credentials for the cluster: the command of the user in the kubeconfig {cause}. Log in to AWS \
                 again, and try `aws eks get-token --cluster-name CLUSTER`"
            )
        );
    }
}
