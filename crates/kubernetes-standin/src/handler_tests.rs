//! Tests of the rules that the real server has.

use serde_json::json;

use super::*;

const CLASSES: &str = "/apis/karpenter.k8s.aws/v1/ec2nodeclasses";
const WEB: &str = "/apis/karpenter.k8s.aws/v1/ec2nodeclasses/web";
const STATUS: &str = "/apis/karpenter.k8s.aws/v1/ec2nodeclasses/web/status";
const MERGE: &str = "application/merge-patch+json";
const JSON_PATCH: &str = "application/json-patch+json";

fn class() -> Value {
    json!({
        "apiVersion": "karpenter.k8s.aws/v1",
        "kind": "EC2NodeClass",
        "metadata": {"name": "web", "labels": {"team": "web"}},
        "spec": {
            "role": "node",
            "amiSelectorTerms": [{"alias": "bottlerocket@v1.57.0"}],
            "subnetSelectorTerms": [{"tags": {"a": "b"}}],
            "securityGroupSelectorTerms": [{"tags": {"a": "b"}}],
        },
    })
}

fn with_class() -> State {
    let state = State::default();
    assert_eq!(send(&state, "POST", CLASSES, "", &class()).0, 201);
    state
}

fn send(state: &State, method: &str, path: &str, content_type: &str, body: &Value) -> (u16, Value) {
    let body = body.to_string();
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let call = Call {
        method,
        path,
        query,
        content_type,
        body: body.as_bytes(),
    };
    match state.answer(&call) {
        Answered::Json(code, value) => (code, value),
        Answered::Text(code, text) => (code, json!(text)),
    }
}

fn get(state: &State, path: &str) -> Value {
    let (code, object) = send(state, "GET", path, "", &Value::Null);
    assert_eq!(code, 200, "{object}");
    object
}

fn generation_and_version(object: &Value) -> (u64, String) {
    let metadata = &object["metadata"];
    (
        metadata["generation"]
            .as_u64()
            .expect("custom resources have a generation"),
        metadata["resourceVersion"]
            .as_str()
            .expect("all objects have a version")
            .to_owned(),
    )
}

#[test]
fn created_object_has_system_fields_and_no_status() {
    let state = State::default();
    let mut object = class();
    object["status"] = json!({"conditions": []});
    let (code, created) = send(&state, "POST", CLASSES, "", &object);
    assert_eq!(code, 201);
    assert_eq!(created["status"], Value::Null);
    assert_eq!(created["metadata"]["generation"], 1);
    for field in ["uid", "creationTimestamp", "resourceVersion"] {
        assert!(created["metadata"][field].is_string(), "{field}");
    }
    let (code, answer) = send(&state, "POST", CLASSES, "", &object);
    assert_eq!((code, &answer["reason"]), (409, &json!("AlreadyExists")));
}

#[test]
fn only_changes_outside_of_metadata_bump_the_generation() {
    let state = with_class();
    let first = get(&state, WEB);
    send(
        &state,
        "PATCH",
        WEB,
        MERGE,
        &json!({"metadata": {"annotations": {"a": "b"}}}),
    );
    let annotated = get(&state, WEB);
    assert_eq!(generation_and_version(&annotated).0, 1);
    assert_ne!(
        generation_and_version(&annotated).1,
        generation_and_version(&first).1
    );
    send(
        &state,
        "PATCH",
        WEB,
        MERGE,
        &json!({"spec": {"tags": {"a": "b"}}}),
    );
    assert_eq!(get(&state, WEB)["metadata"]["generation"], 2);
}

#[test]
fn change_without_effect_keeps_the_resource_version() {
    let state = with_class();
    let before = get(&state, WEB);
    let (code, answer) = send(
        &state,
        "PATCH",
        WEB,
        MERGE,
        &json!({"spec": {"role": "node"}}),
    );
    assert_eq!((code, &answer), (200, &before));
    assert_eq!(get(&state, WEB), before);
}

#[test]
fn status_has_its_own_subresource() {
    let state = with_class();
    let change = json!({"spec": {"role": "other"}, "status": {"conditions": []}});
    send(&state, "PATCH", STATUS, MERGE, &change);
    let object = get(&state, WEB);
    assert_eq!(object["status"], json!({"conditions": []}));
    assert_eq!(
        (&object["spec"]["role"], &object["metadata"]["generation"]),
        (&json!("node"), &json!(1))
    );
    send(
        &state,
        "PATCH",
        WEB,
        MERGE,
        &json!({"status": {"conditions": [1]}}),
    );
    assert_eq!(get(&state, WEB), object);
}

#[test]
fn put_needs_the_current_resource_version() {
    let state = with_class();
    let mut object = get(&state, WEB);
    object["spec"]["tags"] = json!({"a": "b"});
    let mut outdated = object.clone();
    outdated["metadata"]["resourceVersion"] = json!("0815");
    let (code, answer) = send(&state, "PUT", WEB, "", &outdated);
    assert_eq!(code, 409);
    assert_eq!(
        answer["message"],
        "Operation cannot be fulfilled on ec2nodeclasses.karpenter.k8s.aws \"web\": the object has been modified; please \
         apply your changes to the latest version and try again"
    );
    outdated["metadata"]
        .as_object_mut()
        .unwrap()
        .remove("resourceVersion");
    assert_eq!(send(&state, "PUT", WEB, "", &outdated).0, 422);
    assert_eq!(send(&state, "PUT", WEB, "", &object).0, 200);
    assert_eq!(get(&state, WEB)["metadata"]["generation"], 2);
}

#[test]
fn failed_test_of_a_json_patch_changes_nothing() {
    let state = with_class();
    let before = get(&state, WEB);
    let patch = json!([
        {"op": "replace", "path": "/spec/role", "value": "other"},
        {"op": "test", "path": "/metadata/name", "value": "api"},
    ]);
    let (code, answer) = send(&state, "PATCH", WEB, JSON_PATCH, &patch);
    assert_eq!(code, 422);
    assert_eq!(answer["reason"], "Invalid");
    assert_eq!(answer["details"], json!({}));
    assert_eq!(
        answer["message"],
        "the server rejected our request due to an error in our request"
    );
    assert_eq!(get(&state, WEB), before);
}

#[test]
fn broken_rule_of_the_crd_is_invalid_with_a_cause() {
    let state = with_class();
    let patch = json!([{"op": "add", "path": "/spec/blockDeviceMappings", "value": [{"deviceName": "/dev/xvdb", "ebs": {}}]}]);
    let (code, answer) = send(&state, "PATCH", WEB, JSON_PATCH, &patch);
    assert_eq!(code, 422);
    assert_eq!(
        answer["message"],
        "EC2NodeClass.karpenter.k8s.aws \"web\" is invalid: spec.blockDeviceMappings[0].ebs: Invalid value: snapshotID or \
         volumeSize must be defined"
    );
    assert_eq!(
        answer["details"]["causes"][0]["field"],
        "spec.blockDeviceMappings[0].ebs"
    );
}

#[test]
fn dry_run_changes_nothing() {
    let state = with_class();
    let before = get(&state, WEB);
    let path = format!("{WEB}?dryRun=All");
    let (code, answer) = send(
        &state,
        "PATCH",
        &path,
        MERGE,
        &json!({"spec": {"role": "other"}}),
    );
    assert_eq!((code, &answer["metadata"]["generation"]), (200, &json!(2)));
    assert_eq!(get(&state, WEB), before);
}

#[test]
fn finalizer_delays_the_deletion() {
    let state = with_class();
    let finalizers = |finalizers: Value| json!({"metadata": {"finalizers": finalizers}});
    send(
        &state,
        "PATCH",
        WEB,
        MERGE,
        &finalizers(json!(["karpenter.k8s.aws/termination"])),
    );
    send(&state, "DELETE", WEB, "", &Value::Null);
    let object = get(&state, WEB);
    assert!(object["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(object["metadata"]["generation"], 2);
    send(&state, "PATCH", WEB, MERGE, &finalizers(json!([])));
    assert_eq!(send(&state, "GET", WEB, "", &Value::Null).0, 404);
}

#[test]
fn list_has_the_version_and_follows_selectors() {
    let state = with_class();
    let list = get(&state, CLASSES);
    assert_eq!(list["kind"], "EC2NodeClassList");
    assert_eq!(list["metadata"]["resourceVersion"], "1");
    for (query, count) in [
        ("labelSelector=team%3Dweb", 1),
        ("labelSelector=team%3Dapi", 0),
        ("fieldSelector=metadata.name%3Dweb", 1),
        ("fieldSelector=metadata.name%21%3Dweb", 0),
    ] {
        let list = get(&state, &format!("{CLASSES}?{query}"));
        assert_eq!(
            list["items"].as_array().map(Vec::len),
            Some(count),
            "{query}"
        );
    }
}

#[test]
fn namespaces_separate_objects() {
    let state = State::default();
    let pod = |name: &str| json!({"metadata": {"name": name}, "spec": {"nodeName": name}});
    for namespace in ["a", "b"] {
        let path = format!("/api/v1/namespaces/{namespace}/pods");
        assert_eq!(send(&state, "POST", &path, "", &pod("one")).0, 201);
    }
    let count = |path: &str| get(&state, path)["items"].as_array().map(Vec::len);
    assert_eq!(count("/api/v1/pods"), Some(2));
    assert_eq!(count("/api/v1/namespaces/a/pods"), Some(1));
    assert_eq!(
        count("/api/v1/pods?fieldSelector=spec.nodeName%3Dtwo"),
        Some(0)
    );
    assert_eq!(
        get(&state, "/api/v1/namespaces/b/pods/one")["metadata"]["namespace"],
        "b"
    );
}

#[test]
fn unknown_request_fails_like_the_real_server() {
    let state = with_class();
    let unknown = (404, json!("404 page not found\n"));
    assert_eq!(
        send(
            &state,
            "GET",
            "/apis/example.com/v1/things",
            "",
            &Value::Null
        ),
        unknown
    );
    assert_eq!(
        send(&state, "GET", "/api/v1/nodes/a/b/c", "", &Value::Null),
        unknown
    );
    let (code, answer) = send(&state, "GET", &WEB.replace("web", "api"), "", &Value::Null);
    assert_eq!(code, 404);
    assert_eq!(
        answer["message"],
        "ec2nodeclasses.karpenter.k8s.aws \"api\" not found"
    );
    let strategic = "application/strategic-merge-patch+json";
    assert_eq!(send(&state, "PATCH", WEB, strategic, &json!({})).0, 415);
    assert_eq!(send(&state, "PATCH", WEB, JSON_PATCH, &json!({})).0, 400);
    assert_eq!(
        send(
            &state,
            "GET",
            &format!("{CLASSES}?watch=1"),
            "",
            &Value::Null
        )
        .0,
        405
    );
    let renamed = json!({"metadata": {"name": "api"}});
    assert_eq!(send(&state, "PATCH", WEB, MERGE, &renamed).0, 400);
    let foreign = json!({"metadata": {"uid": "00000000-0000-4000-8000-999999999999"}});
    assert_eq!(send(&state, "PATCH", WEB, MERGE, &foreign).0, 409);
    assert_eq!(
        send(&state, "POST", CLASSES, "", &json!({"kind": "NodePool"})).0,
        400
    );
}

#[test]
fn discovery_hides_groups_that_are_not_installed() {
    let state = with_class();
    let groups = |state: &State| get(state, "/apis")["groups"].as_array().map(Vec::len);
    assert_eq!(groups(&state), Some(2));
    assert_eq!(
        get(&state, "/apis/karpenter.k8s.aws/v1")["resources"][0]["name"],
        "ec2nodeclasses"
    );
    lock(&state.uninstalled).insert("karpenter.k8s.aws".to_owned());
    assert_eq!(groups(&state), Some(1));
    assert_eq!(send(&state, "GET", CLASSES, "", &Value::Null).0, 404);
}
