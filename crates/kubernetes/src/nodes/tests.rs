use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Event, Node, Pod};
use proptest::prelude::*;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::pulled_event::{Report, parse};
use super::*;

const NOW: &str = "2026-11-27T12:00:00Z";
const API: &str = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/web/api:v7";
const NGINX: &str = "public.ecr.aws/docker/library/nginx:1.27";
const WORKER: &str = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/web/worker:v3";
const STABLE: &str = "snap-0123456789abcdef0";
const COPY: &str = "snap-0fedcba9876543210";
const OF_AMI: &str = "snap-0aaaaaaaaaaaaaaaa";

fn object<T: DeserializeOwned>(json: Value) -> T {
    serde_json::from_value(json).expect("the test writes a valid object")
}

fn digest(number: usize) -> String {
    format!("sha256:{number:064x}")
}

fn time(minutes_ago: i64) -> String {
    let now: Timestamp = NOW.parse().expect("the constant is a time");
    (now - jiff::SignedDuration::from_mins(minutes_ago)).to_string()
}

fn node(name: &str, instance: &str, images: &[&str]) -> Node {
    let images: Vec<_> = images
        .iter()
        .map(|image| json!({ "names": [image] }))
        .collect();
    object(json!({
        "metadata": { "name": name, "creationTimestamp": time(20) },
        "spec": { "providerID": format!("aws:///eu-west-1a/{instance}") },
        "status": { "nodeInfo": { "architecture": "amd64" }, "images": images },
    }))
}

/// Returns a pod whose only container runs `image`, and has restarted `restarts` times.
fn pod(uid: &str, node: &str, image: &str, restarts: usize) -> Pod {
    object(json!({
        "metadata": { "name": uid, "uid": uid },
        "spec": {
            "nodeName": node,
            "containers": [{ "name": "main", "image": image, "imagePullPolicy": "IfNotPresent" }],
        },
        "status": { "containerStatuses": [{
            "name": "main", "image": image, "imageID": "sha256:1", "ready": true, "restartCount": restarts,
        }] },
    }))
}

fn event(pod: &str, node: &str, message: &str, minutes_ago: i64) -> Event {
    object(json!({
        "metadata": { "name": format!("{pod}.{minutes_ago}"), "uid": format!("{pod}.{minutes_ago}.{message}") },
        "involvedObject": { "kind": "Pod", "uid": pod, "fieldPath": "spec.containers{main}" },
        "reason": "Pulled",
        "message": message,
        "source": { "component": "kubelet", "host": node },
        "firstTimestamp": time(minutes_ago),
        "count": 1,
    }))
}

fn found(image: &str) -> String {
    format!("Container image \"{image}\" already present on machine")
}

fn pulled(image: &str, time: &str) -> String {
    format!(
        "Successfully pulled image \"{image}\" in {time} ({time} including waiting). Image size: 1000000 bytes."
    )
}

fn snapshot() -> CacheSnapshot {
    let images = [API, NGINX, WORKER]
        .into_iter()
        .enumerate()
        .map(|(index, reference)| {
            object(json!({ "reference": reference, "digest": digest(index), "size": 1_000_000 }))
        });
    CacheSnapshot {
        ids: [STABLE, COPY]
            .map(|id| id.parse().expect("the constant is an ID"))
            .into(),
        stage: SnapshotStage::Stable,
        completed_at: "2026-11-27T03:00:00Z".parse().expect("a time"),
        images: Some(images.collect()),
    }
}

fn volume(snapshot: Option<&str>) -> DataVolume {
    DataVolume {
        snapshot: snapshot.map(|id| id.parse().expect("the test writes an ID")),
        initialization: None,
    }
}

/// Returns a cluster with `hit`, which started from the snapshot, and `plain`, which did not. Its pods and events are
/// `starts`: the pod, the node, the image, and the message of its event.
fn cluster(starts: &[(&str, &str, &str, Option<String>)]) -> ClusterState {
    let volumes = [
        ("i-00000001", volume(Some(STABLE))),
        ("i-00000002", volume(Some(OF_AMI))),
    ];
    let with_event = |(uid, node, _, message): &(&str, &str, &str, Option<String>)| {
        let message = message.as_ref()?;
        Some(event(uid, node, message, 10))
    };
    ClusterState {
        cache: "web".parse().expect("a cache"),
        as_of: NOW.parse().expect("a time"),
        snapshots: vec![snapshot()],
        volumes: volumes
            .map(|(id, volume)| (id.parse().expect("an instance"), volume))
            .into(),
        nodes: vec![
            node("hit", "i-00000001", &[API, NGINX, WORKER]),
            node("plain", "i-00000002", &[API]),
        ],
        pods: starts
            .iter()
            .map(|(uid, node, image, _)| pod(uid, node, image, 0))
            .collect(),
        events: starts.iter().filter_map(with_event).collect(),
    }
}

fn report_of<'a>(rate: &'a HitRate, node: &str) -> &'a NodeReport {
    let mut nodes = rate.nodes.iter();
    nodes
        .find(|report| report.name == node)
        .expect("the report has every node")
}

fn starts(totals: &Totals) -> [usize; 3] {
    [totals.found, totals.pulled, totals.unknown]
}

/// Three nodes: one finds everything, one uses another name of a cached image, and one has no snapshot of the cache.
fn example() -> ClusterState {
    let docker_nginx = "nginx:1.27";
    let [hit, miss, plain] = [
        "ip-10-0-1-10.eu-west-1.compute.internal",
        "ip-10-0-1-20.eu-west-1.compute.internal",
        "ip-10-0-1-30.eu-west-1.compute.internal",
    ];
    let starts = [
        ("a", hit, API, Some(found(API)), 12),
        (
            "b",
            hit,
            NGINX,
            Some(format!("{} and can be accessed by the pod", found(NGINX))),
            12,
        ),
        ("c", hit, API, Some(found(API)), 3),
        ("d", miss, API, Some(found(API)), 11),
        (
            "e",
            miss,
            docker_nginx,
            Some(pulled(docker_nginx, "8.25s")),
            11,
        ),
        ("f", miss, WORKER, Some(found(WORKER)), 11),
        ("g", plain, API, Some(pulled(API, "1m2.5s")), 15),
        ("h", plain, NGINX, Some(pulled(NGINX, "9.125s")), 15),
        ("i", plain, API, Some(found(API)), 5),
        ("j", plain, WORKER, None, 0),
    ];
    let names = |names: &[&str]| -> Vec<Value> {
        names
            .iter()
            .map(|name| json!({ "names": [name] }))
            .collect()
    };
    let node = |name: &str, id: &str, minutes_ago, images: Vec<Value>| -> Node {
        object(json!({
            "metadata": { "name": name, "creationTimestamp": time(minutes_ago) },
            "spec": { "providerID": format!("aws:///eu-west-1a/{id}") },
            "status": { "nodeInfo": { "architecture": "amd64" }, "images": images },
        }))
    };
    let volumes = [
        ("i-0123456789abcdef1", volume(Some(STABLE))),
        (
            "i-0123456789abcdef2",
            DataVolume {
                initialization: Initialization::new(40, Some(90)),
                ..volume(Some(COPY))
            },
        ),
        ("i-0123456789abcdef3", volume(Some(OF_AMI))),
    ];
    let events = starts
        .iter()
        .filter_map(|(uid, node, _, message, minutes_ago)| {
            Some(event(uid, node, message.as_ref()?, *minutes_ago))
        });
    ClusterState {
        nodes: vec![
            node(
                plain,
                "i-0123456789abcdef3",
                17,
                names(&[API, NGINX, WORKER]),
            ),
            node(hit, "i-0123456789abcdef1", 14, names(&[API, NGINX, WORKER])),
            node(
                miss,
                "i-0123456789abcdef2",
                13,
                names(&[API, NGINX, WORKER, "docker.io/library/nginx:1.27"]),
            ),
        ],
        pods: starts
            .iter()
            .map(|(uid, node, image, ..)| pod(uid, node, image, 0))
            .collect(),
        events: events.collect(),
        volumes: volumes
            .map(|(id, volume)| (id.parse().expect("an instance"), volume))
            .into(),
        ..cluster(&[])
    }
}

#[test]
fn every_form_of_a_message_parses() {
    let pull = |seconds: Option<&str>, with_waiting: Option<&str>| Outcome::Pulled {
        seconds: seconds.map(|text| Seconds::from_go(text).expect("a duration")),
        with_waiting: with_waiting.map(|text| Seconds::from_go(text).expect("a duration")),
    };
    let name = "docker.io/library/nginx:1.27";
    for (message, outcome) in [
        (
            "Container image \"nginx:1.27\" already present on machine",
            Outcome::Found,
        ),
        (
            "Container image \"nginx:1.27\" already present on machine and can be accessed by the pod",
            Outcome::Found,
        ),
        ("Successfully pulled image \"nginx:1.27\"", pull(None, None)),
        (
            "Successfully pulled image \"nginx:1.27\" in 1m21.284220239s",
            pull(Some("81.284220239s"), None),
        ),
        (
            "Successfully pulled image \"nginx:1.27\" in 796ms (1.594s including waiting)",
            pull(Some("0.796s"), Some("1594ms")),
        ),
        (
            "Successfully pulled image \"nginx:1.27\" in 1.234s (2.345s including waiting). Image size: 70 bytes.",
            pull(Some("1234ms"), Some("2345ms")),
        ),
    ] {
        let image = name.parse().expect("a name");
        assert_eq!(parse(message), Some(Report { image, outcome }), "{message}");
    }
}

#[test]
fn unknown_form_of_a_message_does_not_parse() {
    for message in [
        "",
        "Pulling image \"nginx:1.27\"",
        "Container image \"nginx:1.27\" is not present with pull policy of Never",
        "Container image \"nginx:1.27\" already present on machine but too old",
        "Container image \"nginx:1.27",
        "Container image \"\" already present on machine",
        "Successfully pulled image \"nginx:1.27\" in a while",
        "Successfully pulled image \"nginx:1.27\" in 1s (2s waiting)",
        "Successfully pulled image \"nginx:1.27\" from a peer",
        "Successfully pulled image \"NGINX:1.27\" in 1s",
    ] {
        assert_eq!(parse(message), None, "{message}");
    }
}

#[test]
fn durations_of_go_parse() {
    for (text, nanos) in [
        ("0s", 0),
        ("12ns", 12),
        ("1.5µs", 1_500),
        ("313ms", 313_000_000),
        ("1.000000001s", 1_000_000_001),
        ("1m45.457s", 105_457_000_000),
        ("2h3m0s", 7_380_000_000_000),
    ] {
        let time = Seconds::from_go(text).map(Seconds::as_f64);
        let expected = std::time::Duration::from_nanos(nanos).as_secs_f64();
        assert_eq!(time, Some(expected), "{text}");
    }
    for text in [
        "",
        "5",
        "s",
        "1.5",
        "-1s",
        "1x",
        "1..5s",
        "99999999999999999999s",
    ] {
        assert_eq!(Seconds::from_go(text), None, "{text}");
    }
}

#[test]
fn image_names_follow_containerd() {
    let digest = digest(1);
    for (given, name) in [
        ("nginx", "docker.io/library/nginx:latest".to_owned()),
        ("team/api:v1", "docker.io/team/api:v1".to_owned()),
        ("localhost:5000/a:v1", "localhost:5000/a:v1".to_owned()),
        (
            &format!("nginx@{digest}"),
            format!("docker.io/library/nginx@{digest}"),
        ),
        (
            &format!("nginx:1.27@{digest}"),
            format!("docker.io/library/nginx@{digest}"),
        ),
    ] {
        assert_eq!(given.parse::<ImageName>().expect(given).as_str(), name);
    }
}

#[test]
fn snapshot_holds_its_images_by_digest_too() {
    let by_digest = format!("public.ecr.aws/docker/library/nginx@{}", digest(1));
    let tag_and_digest = format!("{NGINX}@{}", digest(1));
    let other = format!("public.ecr.aws/docker/library/nginx@{}", digest(9));
    let rate = HitRate::new(&cluster(&[
        ("a", "hit", &by_digest, Some(found(&by_digest))),
        ("b", "hit", &tag_and_digest, Some(found(&tag_and_digest))),
        ("c", "hit", &other, Some(pulled(&other, "1s"))),
    ]));
    let images = &report_of(&rate, "hit").images;
    let shown: Vec<_> = images
        .iter()
        .map(|image| (image.image.as_str(), image.found, image.in_snapshot))
        .collect();
    assert_eq!(
        shown,
        [
            (by_digest.as_str(), 2, InSnapshot::Yes),
            (other.as_str(), 0, InSnapshot::No)
        ]
    );
    assert_eq!(images[1].similar, [NGINX.parse().expect("a reference")]);
}

#[test]
fn saved_time_is_the_median_on_nodes_without_the_snapshot() {
    let mut state = cluster(&[
        ("a", "hit", API, Some(found(API))),
        ("b", "hit", WORKER, Some(found(WORKER))),
        ("c", "plain", API, Some(pulled(API, "60s"))),
        ("d", "plain-2", API, Some(pulled(API, "30s"))),
    ]);
    state.nodes.push(node("plain-2", "i-00000003", &[]));
    state
        .volumes
        .insert("i-00000003".parse().expect("an ID"), volume(None));
    let totals = HitRate::new(&state).totals;
    assert_eq!(
        totals.saved_seconds,
        Seconds::from_go("45s").expect("a duration")
    );
    assert_eq!(
        (totals.images_saved, totals.images_saved_unmeasured),
        (1, 1)
    );
}

#[test]
fn image_saves_time_once_on_a_node() {
    let rate = HitRate::new(&cluster(&[
        ("a", "hit", API, Some(found(API))),
        ("b", "hit", API, Some(found(API))),
        ("c", "plain", API, Some(pulled(API, "60s"))),
    ]));
    assert_eq!(rate.totals.found, 2);
    assert_eq!(
        rate.totals.saved_seconds,
        Seconds::from_go("60s").expect("a duration")
    );
}

#[test]
fn find_after_a_pull_saves_nothing() {
    let mut state = cluster(&[
        ("a", "hit", API, Some(pulled(API, "5s"))),
        ("b", "plain", API, Some(pulled(API, "60s"))),
    ]);
    state.pods.push(pod("c", "hit", API, 0));
    state.events.push(event("c", "hit", &found(API), 1));
    let totals = HitRate::new(&state).totals;
    assert_eq!(starts(&totals), [1, 1, 0]);
    assert_eq!(
        (totals.images_saved, totals.images_saved_unmeasured),
        (0, 0)
    );
}

#[test]
fn find_after_an_unknown_start_saves_nothing() {
    let totals = HitRate::new(&cluster(&[
        ("a", "hit", API, None),
        ("b", "hit", API, Some(found(API))),
        ("c", "plain", API, Some(pulled(API, "60s"))),
    ]))
    .totals;
    assert_eq!(starts(&totals), [1, 0, 1]);
    assert_eq!(totals.saved_seconds, Seconds::default());
}

#[test]
fn image_that_is_not_in_the_snapshot_saves_nothing() {
    let pause = "registry.k8s.io/pause:3.10";
    let totals = HitRate::new(&cluster(&[
        ("a", "hit", pause, Some(found(pause))),
        ("b", "plain", pause, Some(pulled(pause, "1s"))),
    ]))
    .totals;
    assert_eq!(totals.found, 1);
    assert_eq!(
        (totals.images_saved, totals.images_saved_unmeasured),
        (0, 0)
    );
}

#[test]
fn pull_with_the_policy_always_measures_nothing() {
    let mut state = cluster(&[
        ("a", "hit", API, Some(found(API))),
        ("b", "plain", API, Some(pulled(API, "300ms"))),
    ]);
    let spec = state.pods[1].spec.as_mut().expect("the pod has one");
    spec.containers[0].image_pull_policy = Some("Always".to_owned());
    let rate = HitRate::new(&state);
    assert_eq!(rate.baselines, []);
    assert_eq!(rate.totals.images_saved_unmeasured, 1);
}

#[test]
fn second_pull_on_a_node_measures_nothing() {
    let rate = HitRate::new(&cluster(&[
        ("a", "plain", API, Some(pulled(API, "200ms"))),
        ("b", "plain", API, Some(pulled(API, "60s"))),
    ]));
    assert_eq!(rate.baselines.len(), 1);
    assert_eq!(
        rate.baselines[0].seconds,
        Seconds::from_go("60s").expect("a duration")
    );
    assert_eq!(rate.baselines[0].pulls, 1);
}

#[test]
fn node_with_an_unknown_volume_measures_nothing() {
    let mut state = cluster(&[("a", "plain", API, Some(pulled(API, "60s")))]);
    state.volumes.clear();
    let rate = HitRate::new(&state);
    assert_eq!(rate.baselines, []);
    assert_eq!(report_of(&rate, "plain").origin, Origin::Unknown);
    assert_eq!(
        report_of(&rate, "plain").images[0].in_snapshot,
        InSnapshot::Unknown
    );
}

#[test]
fn other_architecture_measures_nothing() {
    let mut state = cluster(&[
        ("a", "hit", API, Some(found(API))),
        ("b", "plain", API, Some(pulled(API, "60s"))),
    ]);
    let status = state.nodes[1].status.as_mut().expect("the node has one");
    let info = status.node_info.as_mut().expect("the node has one");
    info.architecture = "arm64".to_owned();
    let rate = HitRate::new(&state);
    assert_eq!(rate.baselines[0].architecture, Architecture::Arm64);
    assert_eq!(rate.totals.images_saved_unmeasured, 1);
}

#[test]
fn duplicate_event_counts_once() {
    let mut state = cluster(&[("a", "hit", API, Some(found(API)))]);
    state.events.push(state.events[0].clone());
    // A restarted kubelet writes a new event instead of counting in the old one.
    state.events.push(event("a", "hit", &found(API), 2));
    assert_eq!(starts(&HitRate::new(&state).totals), [1, 0, 0]);
}

#[test]
fn restart_of_a_pod_does_not_count() {
    let mut state = cluster(&[("a", "plain", API, Some(pulled(API, "60s")))]);
    state.pods = vec![pod("a", "plain", API, 3)];
    let mut restarts = event("a", "plain", &found(API), 2);
    restarts.count = Some(3);
    state.events.push(restarts);
    assert_eq!(starts(&HitRate::new(&state).other_nodes), [0, 1, 0]);
}

#[test]
fn restart_without_the_first_event_is_unknown() {
    let mut state = cluster(&[("a", "plain", API, Some(found(API)))]);
    state.pods = vec![pod("a", "plain", API, 1)];
    assert_eq!(starts(&HitRate::new(&state).other_nodes), [0, 0, 1]);
}

#[test]
fn init_and_ephemeral_containers_count() {
    let mut state = cluster(&[]);
    let status = |name| json!({ "name": name, "image": "", "imageID": "x", "ready": true, "restartCount": 0 });
    state.pods = vec![object(json!({
        "metadata": { "name": "a", "uid": "a" },
        "spec": {
            "nodeName": "hit",
            "containers": [{ "name": "main", "image": API, "imagePullPolicy": "IfNotPresent" }],
            "initContainers": [{ "name": "setup", "image": NGINX, "imagePullPolicy": "IfNotPresent" }],
            "ephemeralContainers": [{ "name": "debug", "image": "busybox", "imagePullPolicy": "Always" }],
        },
        "status": {
            "containerStatuses": [{ "name": "main", "image": "", "imageID": "", "ready": false, "restartCount": 0 }],
            "initContainerStatuses": [status("setup")],
            "ephemeralContainerStatuses": [status("debug")],
        },
    }))];
    let mut init = event("a", "hit", &found(NGINX), 5);
    init.involved_object.field_path = Some("spec.initContainers{setup}".to_owned());
    state.events = vec![init];
    let rate = HitRate::new(&state);
    let shown: Vec<_> = report_of(&rate, "hit")
        .images
        .iter()
        .map(|image| (image.image.as_str(), image.found, image.unknown))
        .collect();
    let busybox = "docker.io/library/busybox:latest";
    assert_eq!(shown, [(busybox, 0, 1), (NGINX, 1, 0)]);
}

#[test]
fn events_of_deleted_pods_count() {
    let mut state = cluster(&[("a", "hit", API, Some(found(API)))]);
    state.pods.clear();
    assert_eq!(starts(&HitRate::new(&state).totals), [1, 0, 0]);
}

#[test]
fn event_without_a_host_belongs_to_the_node_of_its_pod() {
    let mut state = cluster(&[("a", "hit", API, Some(found(API)))]);
    let source = state.events[0].source.as_mut().expect("the event has one");
    source.host = Some(String::new());
    assert_eq!(starts(&HitRate::new(&state).totals), [1, 0, 0]);
}

#[test]
fn ignored_events_are_counted_by_reason() {
    let mut state = cluster(&[
        ("a", "hit", API, Some("Found it somewhere".to_owned())),
        (
            "b",
            "hit",
            API,
            Some(format!("(combined from similar events): {}", found(API))),
        ),
        ("c", "gone", API, Some(found(API))),
    ]);
    // A previous node with the same name.
    state.events.push(event("d", "hit", &found(API), 40));
    let mut of_scheduler = event("e", "hit", "Pulled", 1);
    of_scheduler.source = None;
    state.events.push(of_scheduler);
    let ignored = HitRate::new(&state).ignored_events;
    assert_eq!(
        ignored,
        IgnoredEvents {
            unreadable: 1,
            combined: 1,
            without_node: 2
        }
    );
}

#[test]
fn static_pod_has_the_uid_of_its_annotation() {
    let mut state = cluster(&[("hash", "hit", API, Some(found(API)))]);
    let metadata = &mut state.pods[0].metadata;
    metadata.uid = Some("mirror".to_owned());
    metadata.annotations =
        Some([("kubernetes.io/config.hash".to_owned(), "hash".to_owned())].into());
    assert_eq!(starts(&HitRate::new(&state).totals), [1, 0, 0]);
}

#[test]
fn instance_comes_from_the_provider_id() {
    for (id, instance) in [
        (
            Some("aws:///us-east-1a/i-0123456789abcdef0"),
            Some("i-0123456789abcdef0"),
        ),
        (Some("aws:///us-east-1a/0123/fargate-ip-10-0-0-1"), None),
        (Some("gce://project/zone/i-0123456789abcdef0"), None),
        (Some(""), None),
        (None, None),
    ] {
        let node = object(json!({ "spec": { "providerID": id } }));
        let found = instance_of(&node);
        assert_eq!(found.as_ref().map(InstanceId::as_str), instance, "{id:?}");
    }
}

#[test]
fn node_without_a_provider_id_has_an_unknown_volume() {
    let mut state = cluster(&[("a", "hit", API, Some(found(API)))]);
    state.nodes[0].spec = None;
    let rate = HitRate::new(&state);
    assert_eq!(report_of(&rate, "hit").origin, Origin::Unknown);
    assert_eq!(starts(&rate.other_nodes), [1, 0, 0]);
}

#[test]
fn snapshot_without_a_manifest_has_unknown_images() {
    let mut state = cluster(&[("a", "hit", API, Some(found(API)))]);
    state.snapshots[0].images = None;
    let rate = HitRate::new(&state);
    let report = report_of(&rate, "hit");
    assert_eq!(report.cached, None);
    assert_eq!(report.images[0].in_snapshot, InSnapshot::Unknown);
    assert_eq!(report.images[0].saved, None);
}

#[test]
fn cached_images_are_missing_only_in_a_complete_list() {
    let filler: Vec<_> = (0..49)
        .map(|n| format!("docker.io/library/a:{n}"))
        .collect();
    let filler: Vec<_> = filler.iter().map(String::as_str).collect();
    for (listed, expected) in [
        (vec![API], (1, 2, 0)),
        (vec![], (0, 0, 3)),
        ([vec![API], filler].concat(), (1, 0, 2)),
    ] {
        let cached = cached(
            &node("a", "i-00000001", &listed),
            &snapshot().images.expect("images"),
        );
        assert_eq!(
            (cached.present, cached.missing.len(), cached.unknown),
            expected
        );
    }
}

#[test]
fn cached_image_with_a_cut_list_of_names_is_unknown() {
    let by_digest = format!("public.ecr.aws/docker/library/nginx@{}", digest(1));
    let names = [by_digest.as_str(), "a", "b", "c", "d"];
    let node = object(json!({ "status": { "images": [{ "names": names }] } }));
    let cached = cached(&node, &snapshot().images.expect("images"));
    assert_eq!(
        (cached.present, cached.missing.len(), cached.unknown),
        (0, 2, 1)
    );
}

#[test]
fn initialization_out_of_range_is_refused() {
    assert!(Initialization::new(100, None).is_some());
    assert!(Initialization::new(101, None).is_none());
    assert!(Initialization::new(-1, None).is_none());
    assert!(Initialization::new(50, Some(-1)).is_none());
}

#[test]
fn times_display_in_readable_units() {
    let shown = ["0s", "49ms", "12.34s", "59.96s", "1m2.5s", "1h0m0s"]
        .map(|text| Seconds::from_go(text).expect(text).to_string());
    assert_eq!(
        shown,
        [
            "0.0 s",
            "0.0 s",
            "12.3 s",
            "1 min 0 s",
            "1 min 2 s",
            "60 min 0 s"
        ]
    );
}

#[test]
fn example_as_a_table() {
    insta::assert_snapshot!(HitRate::new(&example()));
}

#[test]
fn example_as_json() {
    insta::assert_json_snapshot!(HitRate::new(&example()));
}

#[test]
fn example_as_prometheus() {
    insta::assert_snapshot!(HitRate::new(&example()).prometheus());
}

#[test]
fn table_explains_unusual_results() {
    let mut state = cluster(&[
        ("a", "hit", API, Some(pulled(API, "300ms"))),
        ("b", "hit", NGINX, Some(pulled(NGINX, "12s"))),
        (
            "c",
            "hit",
            "busybox",
            Some("Successfully pulled image \"busybox\"".to_owned()),
        ),
        ("d", "hit", WORKER, Some(found(WORKER))),
        ("e", "hit", WORKER, Some("Something new".to_owned())),
        ("f", "gone", WORKER, Some(found(WORKER))),
        (
            "g",
            "hit",
            "a",
            Some("(combined from similar events): b".to_owned()),
        ),
    ]);
    let spec = state.pods[0].spec.as_mut().expect("the pod has one");
    spec.containers[0].image_pull_policy = Some("Always".to_owned());
    state.nodes[0] = node("hit", "i-00000001", &[API, NGINX]);
    let mut without_instance = node("other", "none", &[]);
    without_instance.metadata.creation_timestamp = None;
    state.nodes.push(without_instance);
    insta::assert_snapshot!(HitRate::new(&state));
}

#[test]
fn cluster_without_nodes_says_so() {
    let mut state = cluster(&[]);
    state.nodes.clear();
    assert_eq!(
        HitRate::new(&state).to_string(),
        "The cluster has no nodes.\n"
    );
}

/// Labels and value of a sample.
type Sample = (BTreeMap<String, String>, f64);

/// Parses the text format of Prometheus, and returns the labels and the value of each sample by metric.
///
/// Source: prometheus/docs, "Exposition formats", text format 0.0.4.
fn parse_prometheus(text: &str) -> BTreeMap<String, Vec<Sample>> {
    let is_name = |name: &str| {
        !name.is_empty()
            && !name.starts_with(|c: char| c.is_ascii_digit())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    assert!(text.is_empty() || text.ends_with('\n'));
    let mut metrics = BTreeMap::new();
    let mut current = String::new();
    let mut helped = String::new();
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            helped = help.split_once(' ').expect("a help text").0.to_owned();
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').expect("a type");
            assert_eq!((name, kind), (helped.as_str(), "gauge"));
            assert!(is_name(name) && name.starts_with("prepull_"), "{name}");
            assert!(
                metrics.insert(name.to_owned(), Vec::new()).is_none(),
                "{name} occurs twice"
            );
            current = name.to_owned();
        } else {
            let rest = line
                .strip_prefix(&current)
                .and_then(|rest| rest.strip_prefix('{'));
            let mut rest = rest.expect("a sample of the current metric");
            let mut labels = BTreeMap::new();
            while !rest.starts_with('}') {
                let (name, after) = rest.split_once("=\"").expect("a label");
                assert!(is_name(name), "{name}");
                let mut value = String::new();
                let mut characters = after.char_indices();
                let end = loop {
                    match characters.next().expect("the label ends") {
                        (end, '"') => break end,
                        (_, '\\') => value.push(match characters.next().expect("an escape").1 {
                            'n' => '\n',
                            escaped @ ('\\' | '"') => escaped,
                            other => panic!("`\\{other}` is no escape"),
                        }),
                        (_, other) => value.push(other),
                    }
                };
                rest = &after[end + 1..];
                rest = rest.strip_prefix(',').unwrap_or(rest);
                assert!(labels.insert(name.to_owned(), value).is_none());
            }
            let value = rest
                .strip_prefix("} ")
                .expect("a value")
                .parse()
                .expect("a number");
            let samples: &mut Vec<Sample> =
                metrics.get_mut(&current).expect("a type before the sample");
            assert!(
                samples.iter().all(|(other, _)| *other != labels),
                "{line} occurs twice"
            );
            samples.push((labels, value));
        }
    }
    metrics
}

#[test]
fn prometheus_text_follows_the_grammar() {
    let metrics = parse_prometheus(&HitRate::new(&example()).prometheus());
    assert_eq!(metrics.len(), 10);
    assert_eq!(metrics["prepull_node_info"].len(), 3);
    let saved: f64 = metrics["prepull_node_saved_seconds"]
        .iter()
        .map(|(_, value)| value)
        .sum();
    assert!((saved - 134.125).abs() < 1e-9, "{saved}");
}

#[test]
fn prometheus_escapes_labels() {
    let mut state = cluster(&[]);
    let name = "a \"quoted\" \\ and\na line";
    state.nodes[0].metadata.name = Some(name.to_owned());
    let text = HitRate::new(&state).prometheus();
    assert!(
        text.contains(r#"node="a \"quoted\" \\ and\na line""#),
        "{text}"
    );
    let metrics = parse_prometheus(&text);
    assert_eq!(metrics["prepull_node_info"][0].0["node"], name);
}

/// Returns a cluster of three nodes with any pods and events.
fn any_cluster() -> impl Strategy<Value = ClusterState> {
    let image = prop::sample::select(vec![API, NGINX, WORKER, "nginx", "busybox:1"]);
    let node = prop::sample::select(vec!["hit", "plain", "other", "gone"]);
    let message = (0..5_usize, 0..100_000_u32);
    let start = (image, node, message, 0..3_usize, 0..30_i64, any::<bool>());
    prop::collection::vec(start, 0..30).prop_map(|starts| {
        let mut state = cluster(&[]);
        state
            .nodes
            .push(super::tests::node("other", "i-00000009", &[]));
        for (index, (image, node, (form, millis), restarts, minutes_ago, has_pod)) in
            starts.into_iter().enumerate()
        {
            let uid = format!("pod-{}", index / 2);
            if has_pod {
                state.pods.push(pod(&uid, node, image, restarts));
            }
            let message = match form {
                0 => found(image),
                1 => pulled(image, &format!("{millis}ms")),
                2 => format!("Successfully pulled image \"{image}\""),
                3 => "Something else".to_owned(),
                _ => continue,
            };
            state.events.push(event(&uid, node, &message, minutes_ago));
        }
        state
    })
}

proptest! {
    #[test]
    fn totals_equal_the_sums(state in any_cluster()) {
        let rate = HitRate::new(&state);
        let mut pulled_seconds = 0.0;
        let mut saved_seconds = 0.0;
        let mut counts = [0; 3];
        for node in &rate.nodes {
            let mut of_node = [0; 3];
            for image in &node.images {
                of_node[0] += image.found;
                of_node[1] += image.pulls.len();
                of_node[2] += image.unknown;
                pulled_seconds += image.pulls.iter().filter_map(|pull| pull.seconds).map(Seconds::as_f64).sum::<f64>();
                if let Some(Saved::Measured { seconds, .. }) = image.saved {
                    prop_assert!(node.is_from_cache());
                    saved_seconds += seconds.as_f64();
                }
            }
            prop_assert_eq!(of_node, starts(&node.totals));
            counts = [0, 1, 2].map(|index| counts[index] + of_node[index]);
        }
        let both = [rate.totals, rate.other_nodes];
        let sums = [0, 1, 2].map(|index| both.iter().map(|totals| starts(totals)[index]).sum::<usize>());
        prop_assert_eq!(sums, counts);
        let sum = |seconds: fn(&Totals) -> Seconds| both.iter().map(seconds).map(Seconds::as_f64).sum::<f64>();
        prop_assert!((sum(|totals| totals.pull_seconds) - pulled_seconds).abs() < 1e-6);
        prop_assert!((sum(|totals| totals.saved_seconds) - saved_seconds).abs() < 1e-6);
    }

    #[test]
    fn order_of_events_does_not_matter(state in any_cluster()) {
        let mut reversed = state.clone();
        reversed.events.reverse();
        prop_assert_eq!(HitRate::new(&state), HitRate::new(&reversed));
    }

    #[test]
    fn prometheus_text_always_parses(state in any_cluster()) {
        parse_prometheus(&HitRate::new(&state).prometheus());
    }

    #[test]
    fn message_never_panics(message in "(Container image|Successfully pulled image) \"[a-z:@/]{0,9}\"[ -~µ]{0,40}") {
        let _ = parse(&message);
    }
}
