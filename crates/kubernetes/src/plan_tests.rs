//! Tests of the plan: a table for the decisions, and properties of the patches.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use json_patch::Patch;
use kube::core::DynamicObject;
use prepull_domain::snapshot::pointer::Rejection;
use prepull_domain::{Pointer, PublishedSnapshot};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::class::Listed;

const OLD: &str = "snap-0000000000000000a";
const NEW: &str = "snap-0000000000000000b";
const CANDIDATE: &str = "snap-0000000000000000c";

fn snapshot(id: &str, gib: u32) -> PublishedSnapshot {
    serde_json::from_value(json!({
        "snapshot_id": id,
        "content_key": "c".repeat(64),
        "variant": "aws-k8s-1.33",
        "bottlerocket_version": "1.57.0",
        "volume_size": gib,
        "used": 1,
        "images": 1,
        "execution": "web-1",
        "planned_at": "2026-01-01T00:00:00Z",
        "completed_at": "2026-01-01T00:00:00Z",
    }))
    .expect("this is a published snapshot")
}

fn pointer() -> Pointer {
    Pointer::initial(Some(snapshot(NEW, 50)))
}

/// Returns the rejection of the snapshot that the class has.
fn rejection() -> Rejection {
    Rejection {
        snapshot_id: OLD.parse().expect("this is a snapshot"),
        copies: BTreeMap::new(),
        reason: "broken".parse().expect("this is a reason"),
        at: now(),
    }
}

fn mapping() -> Value {
    json!({"deviceName": "/dev/xvdb", "ebs": {"snapshotID": OLD, "volumeSize": "50Gi"}})
}

fn object() -> Value {
    json!({
        "apiVersion": "karpenter.k8s.aws/v1",
        "kind": "EC2NodeClass",
        "metadata": {
            "name": "web-amd64",
            "generation": 3,
            "annotations": {"prepull/cache": "web", "prepull/architecture": "x86_64"},
        },
        "spec": {
            "amiSelectorTerms": [{"alias": "bottlerocket@v1.57.0"}],
            "blockDeviceMappings": [{"deviceName": "/dev/xvda", "ebs": {"volumeSize": "4Gi"}}, mapping()],
        },
        "status": {"conditions": [{"type": "Ready", "status": "True", "observedGeneration": 3}]},
    })
}

fn class(object: &Value) -> NodeClass {
    let object: DynamicObject =
        serde_json::from_value(object.clone()).expect("this is an object of Kubernetes");
    match Listed::parse(&object, None) {
        Some(Listed::OptedIn(class)) => *class,
        other => panic!("the class did not opt in: {other:?}"),
    }
}

fn now() -> Timestamp {
    "2026-01-10T00:00:00Z".parse().expect("this is a timestamp")
}

fn at_once() -> Timing {
    Timing {
        now: now(),
        delay: SignedDuration::ZERO,
        since: None,
    }
}

/// Returns the plan of an object after `edit`, with a stable snapshot of 50 GiB.
fn planned(edit: impl FnOnce(&mut Value)) -> Plan {
    let mut object = object();
    edit(&mut object);
    plan(&class(&object), Some(&pointer()), at_once())
}

fn change(plan: Plan) -> Change {
    match plan {
        Plan::Patch(change) => *change,
        other => panic!("the plan is not a patch: {other:?}"),
    }
}

fn refusal(plan: Plan) -> String {
    match plan {
        Plan::Refused(refusal) => refusal.to_string(),
        other => panic!("the plan is not a refusal: {other:?}"),
    }
}

fn applied(object: &Value, patch: &Patch) -> Result<Value, json_patch::PatchError> {
    let mut object = object.clone();
    json_patch::patch(&mut object, patch)?;
    Ok(object)
}

#[test]
fn patch_tests_everything_it_relies_on() {
    let change = change(planned(|_| {}));
    assert_eq!(change.kind, ChangeKind::Update);
    assert_eq!(change.to_string(), format!("snapshotID: {OLD} -> {NEW}"));
    assert_eq!(
        serde_json::to_value(&change.patch).unwrap(),
        json!([
            {"op": "test", "path": "/metadata/annotations/prepull~1cache", "value": "web"},
            {"op": "test", "path": "/metadata/annotations/prepull~1architecture", "value": "x86_64"},
            {"op": "test", "path": "/spec/blockDeviceMappings/1/deviceName", "value": "/dev/xvdb"},
            {"op": "test", "path": "/spec/blockDeviceMappings/1/ebs/snapshotID", "value": OLD},
            {"op": "replace", "path": "/spec/blockDeviceMappings/1/ebs/snapshotID", "value": NEW},
        ])
    );
    assert_eq!(
        serde_json::to_value(&change.inverse).unwrap(),
        json!([
            {"op": "test", "path": "/spec/blockDeviceMappings/1/deviceName", "value": "/dev/xvdb"},
            {"op": "test", "path": "/spec/blockDeviceMappings/1/ebs/snapshotID", "value": NEW},
            {"op": "replace", "path": "/spec/blockDeviceMappings/1/ebs/snapshotID", "value": OLD},
        ])
    );
}

#[test]
fn patch_fails_if_a_tested_value_has_changed() {
    let before = object();
    let change = change(planned(|_| {}));
    for (path, value) in [
        ("/metadata/annotations/prepull~1cache", json!("api")),
        (
            "/metadata/annotations/prepull~1architecture",
            json!("arm64"),
        ),
        ("/spec/blockDeviceMappings/1/deviceName", json!("/dev/xvdc")),
        (
            "/spec/blockDeviceMappings/1/ebs/snapshotID",
            json!(CANDIDATE),
        ),
        ("/spec/blockDeviceMappings", json!([mapping()])),
    ] {
        let mut changed = before.clone();
        *changed.pointer_mut(path).expect("the path exists") = value;
        assert!(applied(&changed, &change.patch).is_err(), "{path}");
    }
}

#[test]
fn patch_fails_if_channel_or_ring_has_changed() {
    let mut before = object();
    before["metadata"]["annotations"]["prepull/channel"] = json!("stable");
    before["metadata"]["annotations"]["prepull/ring"] = json!("canary");
    let change = change(plan(&class(&before), Some(&pointer()), at_once()));
    assert!(applied(&before, &change.patch).is_ok());
    for (name, value) in [
        ("prepull/channel", Some("candidate")),
        ("prepull/channel", None),
        ("prepull/ring", Some("production")),
        ("prepull/ring", None),
    ] {
        let mut changed = before.clone();
        let annotations = changed["metadata"]["annotations"].as_object_mut().unwrap();
        match value {
            Some(value) => annotations.insert(name.to_owned(), json!(value)),
            None => annotations.remove(name),
        };
        assert!(
            applied(&changed, &change.patch).is_err(),
            "{name}: {value:?}"
        );
    }
}

#[test]
fn absent_field_is_tested_with_the_whole_volume() {
    let mut before = object();
    before["spec"]["blockDeviceMappings"][1]["ebs"] = json!({"volumeSize": "80Gi"});
    let change = change(plan(&class(&before), Some(&pointer()), at_once()));
    assert_eq!(change.to_string(), format!("snapshotID: none -> {NEW}"));
    assert!(applied(&before, &change.patch).is_ok());
    // Another client has added a snapshot since the plan.
    before["spec"]["blockDeviceMappings"][1]["ebs"]["snapshotID"] = json!(CANDIDATE);
    assert!(applied(&before, &change.patch).is_err());
}

#[test]
fn volume_without_ebs_receives_snapshot_and_size() {
    let before = {
        let mut object = object();
        object["spec"]["blockDeviceMappings"][1] = json!({"deviceName": "/dev/xvdb"});
        object
    };
    let change = change(plan(&class(&before), Some(&pointer()), at_once()));
    let after = applied(&before, &change.patch).unwrap();
    assert_eq!(
        after["spec"]["blockDeviceMappings"][1],
        json!({"deviceName": "/dev/xvdb", "ebs": {"snapshotID": NEW, "volumeSize": "50Gi"}})
    );
    assert_eq!(applied(&after, &change.inverse).unwrap(), before);
    // After the patch of another client, both patches fail.
    let mut foreign = after;
    foreign["spec"]["blockDeviceMappings"][1]["ebs"]["iops"] = json!(3000);
    assert!(applied(&foreign, &change.patch).is_err());
    assert!(applied(&foreign, &change.inverse).is_err());
}

#[test]
fn volume_grows_if_it_is_smaller_than_the_snapshot() {
    for (size, grown) in [
        (json!("50Gi"), false),
        (json!("80Gi"), false),
        (json!("54G"), false),
        (json!("49Gi"), true),
        (json!("50G"), true),
        (Value::Null, true),
    ] {
        let plan = planned(|object| {
            let ebs = &mut object["spec"]["blockDeviceMappings"][1]["ebs"];
            if size.is_null() {
                ebs.as_object_mut().unwrap().remove("volumeSize");
            } else {
                ebs["volumeSize"] = size.clone();
            }
        });
        let fields = change(plan).fields;
        let new = fields.iter().find(|field| field.field == "volumeSize");
        assert_eq!(
            new.map(|field| field.to.as_str()),
            grown.then_some("50Gi"),
            "{size}"
        );
    }
}

#[test]
fn up_to_date_class_with_a_small_volume_only_grows() {
    let change = change(planned(|object| {
        object["spec"]["blockDeviceMappings"][1]["ebs"] =
            json!({"snapshotID": NEW, "volumeSize": "20Gi"});
    }));
    assert_eq!(change.to_string(), "volumeSize: 20Gi -> 50Gi");
}

#[test]
fn up_to_date_class_needs_no_patch() {
    let plan = planned(|object| {
        object["spec"]["blockDeviceMappings"][1]["ebs"]["snapshotID"] = json!(NEW);
        object["status"]["conditions"][0]["observedGeneration"] = json!(2);
    });
    assert_eq!(
        plan,
        Plan::UpToDate {
            snapshot: NEW.parse().unwrap(),
            readiness: Readiness::Unknown {
                message: "Karpenter has not processed generation 3".into()
            }
        }
    );
}

#[test]
fn channel_selects_the_snapshot() {
    let mut pointer = pointer();
    let mut object = object();
    object["metadata"]["annotations"]["prepull/channel"] = json!("candidate");
    let without = change(plan(&class(&object), Some(&pointer), at_once()));
    assert_eq!(without.to.as_str(), NEW);
    pointer.candidate = Some(snapshot(CANDIDATE, 50));
    let with = change(plan(&class(&object), Some(&pointer), at_once()));
    assert_eq!(with.to.as_str(), CANDIDATE);
    object["metadata"]["annotations"]["prepull/channel"] = json!("stable");
    let stable = change(plan(&class(&object), Some(&pointer), at_once()));
    assert_eq!(stable.to.as_str(), NEW);
}

#[test]
fn delay_counts_from_the_promotion() {
    let promoted: Timestamp = "2026-01-09T00:00:00Z".parse().unwrap();
    for (delay_hours, since, due) in [
        (0, Some(promoted), true),
        (24, Some(promoted), true),
        (25, Some(promoted), false),
        (25, None, true),
        (i64::MAX / 3600, Some(promoted), false),
    ] {
        let timing = Timing {
            delay: SignedDuration::from_hours(delay_hours),
            since,
            ..at_once()
        };
        let plan = plan(&class(&object()), Some(&pointer()), timing);
        match plan {
            Plan::Patch(_) => assert!(due, "{delay_hours} h since {since:?}"),
            Plan::NotDue { snapshot, at } => {
                assert!(!due, "{delay_hours} h since {since:?}");
                assert_eq!(snapshot.as_str(), NEW);
                assert!(at > now());
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn roll_back_ignores_the_delay_and_the_readiness() {
    let mut pointer = pointer();
    pointer.rejected = vec![rejection()];
    let mut object = object();
    object["status"]["conditions"][0]["status"] = json!("False");
    let timing = Timing {
        delay: SignedDuration::from_hours(100),
        since: Some(now()),
        ..at_once()
    };
    let change = change(plan(&class(&object), Some(&pointer), timing));
    assert_eq!(change.kind, ChangeKind::RollBack);
    assert_eq!(change.to.as_str(), NEW);
}

#[test]
fn class_that_is_unknown_is_patched() {
    for condition in [
        json!({"type": "Ready", "status": "Unknown", "observedGeneration": 3}),
        json!({"type": "Ready", "status": "False", "observedGeneration": 2}),
        json!({"type": "AMIsReady", "status": "False", "observedGeneration": 3}),
    ] {
        let plan = planned(|object| object["status"]["conditions"] = json!([condition]));
        assert!(matches!(plan, Plan::Patch(_)), "{condition}: {plan:?}");
    }
}

#[test]
fn class_has_its_snapshot_if_the_id_is_valid() {
    let with = |ebs: Value| json!({"deviceName": "/dev/xvdb", "ebs": ebs});
    let other = json!({"deviceName": "/dev/xvdc", "ebs": {"snapshotID": NEW}});
    for (mappings, expected) in [
        (json!([other, mapping()]), Some(OLD)),
        (json!([with(json!({"snapshotID": "snap-x"}))]), None),
        (json!([with(json!({"volumeSize": "50Gi"}))]), None),
        (json!([{"deviceName": "/dev/xvdb"}]), None),
        (json!([other]), None),
        (json!([mapping(), mapping()]), None),
    ] {
        let mut object = object();
        object["spec"]["blockDeviceMappings"] = mappings.clone();
        let snapshot = class(&object).snapshot();
        let snapshot = snapshot.as_ref().map(SnapshotId::as_str);
        assert_eq!(snapshot, expected, "{mappings}");
    }
}

#[test]
fn class_that_is_being_deleted_is_left_alone() {
    let plan = planned(|object| {
        object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        // Other problems do not matter any more.
        object["spec"]["instanceStorePolicy"] = json!("RAID0");
    });
    assert_eq!(plan, Plan::Deleting);
}

#[test]
fn unusable_class_is_refused_with_a_remedy() {
    let volume =
        |object: &mut Value, ebs: Value| object["spec"]["blockDeviceMappings"][1]["ebs"] = ebs;
    let cases: Vec<(Plan, &str)> = vec![
        (
            planned(|object| object["spec"]["blockDeviceMappings"] = json!([])),
            "the node class has no volume at /dev/xvdb. Add it to `blockDeviceMappings`, as `prepull nodeclass` prints it",
        ),
        (
            planned(|object| object["spec"] = json!({"amiFamily": "Bottlerocket"})),
            "the node class has no volume at /dev/xvdb. Add it to `blockDeviceMappings`, as `prepull nodeclass` prints it",
        ),
        (
            planned(|object| object["spec"]["blockDeviceMappings"] = json!([mapping(), mapping()])),
            "the node class has several volumes at /dev/xvdb. Remove all but one from `blockDeviceMappings`",
        ),
        (
            planned(|object| object["spec"]["instanceStorePolicy"] = json!("RAID0")),
            "the node class has `instanceStorePolicy: RAID0`, so containerd does not use the volume with the images. Remove \
             the policy",
        ),
        (
            planned(|object| object["spec"]["amiFamily"] = json!("Custom")),
            "the node class has the AMI family Custom, and only Bottlerocket uses the snapshot. Use an alias like \
             `bottlerocket@v1.57.0`",
        ),
        (
            planned(|object| {
                object["spec"]["amiSelectorTerms"] = json!([{"alias": "al2023@latest"}]);
            }),
            "the node class has the AMI family al2023, and only Bottlerocket uses the snapshot. Use an alias like \
             `bottlerocket@v1.57.0`",
        ),
        (
            planned(|object| volume(object, json!({"snapshotID": OLD, "encrypted": false}))),
            "the node class has `encrypted: false` at /dev/xvdb, but the snapshot is encrypted, so no node would start. \
             Remove the field",
        ),
        (
            planned(|object| volume(object, json!({"volumeSize": "big"}))),
            "the node class has the size `big` at /dev/xvdb, which is not a quantity. Write a size like `50Gi`",
        ),
        (
            planned(|object| {
                object["status"]["conditions"][0] = json!({
                    "type": "Ready", "status": "False", "observedGeneration": 3, "message": "SubnetSelector did not match any Subnets",
                });
            }),
            "the node class was not ready before the sync: SubnetSelector did not match any Subnets. Correct the cause first",
        ),
        (
            planned(|object| {
                object["metadata"]["annotations"]["prepull/reverted-snapshot"] = json!(NEW);
            }),
            "Karpenter did not accept snap-0000000000000000b before. Correct the cause, and remove the annotation \
             `prepull/reverted-snapshot`",
        ),
        (
            plan(&class(&object()), None, at_once()),
            "cache `web` has published nothing for x86_64 in this Region. Correct `prepull/cache` and `prepull/architecture`, \
             or build the cache with `prepull build web`",
        ),
        (
            plan(&class(&object()), Some(&Pointer::initial(None)), at_once()),
            "cache `web` has no stable snapshot for x86_64 in this Region. Promote one with `prepull promote web`, or add \
             the Region to `copy_to_regions` of the cache",
        ),
        (
            // The pointer of another Region, without a copy there.
            plan(
                &class(&object()),
                Some(&pointer().in_region(&"eu-central-1".parse().unwrap())),
                at_once(),
            ),
            "cache `web` has no stable snapshot for x86_64 in this Region. Promote one with `prepull promote web`, or add \
             the Region to `copy_to_regions` of the cache",
        ),
    ];
    for (plan, expected) in cases {
        assert_eq!(refusal(plan), expected);
    }
}

#[test]
fn older_bottlerocket_release_is_refused() {
    let parameter = |release: &str| json!({"ssmParameter": format!("/aws/service/bottlerocket/aws-k8s-1.33/x86_64/{release}/image_id")});
    for terms in [
        json!([{"alias": "bottlerocket@v1.56.3"}]),
        json!([{"alias": "bottlerocket@1.56.3"}]),
        json!([parameter("1.56.3")]),
        json!([parameter("1.56.3-0a1b2c3d")]),
        json!([{"ssmParameter": "arn:aws:ssm:eu-west-1::parameter/aws/service/bottlerocket/aws-k8s-1.33/arm64/1.56.3/image_id"}]),
        json!([parameter("1.58.0"), {"id": "ami-12345678"}, parameter("1.56.3")]),
    ] {
        let plan = planned(|object| {
            object["spec"]["amiFamily"] = json!("Bottlerocket");
            object["spec"]["amiSelectorTerms"] = terms;
        });
        assert_eq!(
            refusal(plan),
            "the node class has Bottlerocket 1.56.3, and the snapshot needs 1.57.0 or newer. Change it in \
             `amiSelectorTerms`"
        );
    }
}

#[test]
fn newer_or_invisible_bottlerocket_release_is_accepted() {
    for term in [
        json!({"alias": "bottlerocket@v1.57.0"}),
        json!({"alias": "bottlerocket@v1.100.0"}),
        json!({"alias": "bottlerocket@latest"}),
        json!({"ssmParameter": "/aws/service/bottlerocket/aws-k8s-1.33/x86_64/latest/image_id"}),
        json!({"ssmParameter": "/aws/service/bottlerocket/aws-k8s-1.33/x86_64/1.57.0/image_id"}),
        json!({"ssmParameter": "/ours/1.56.3/image_id"}),
        json!({"name": "bottlerocket-aws-k8s-1.33-x86_64-v1.56.3-0a1b2c3d"}),
        json!({"id": "ami-12345678"}),
        json!({"tags": {"release": "1.56.3"}}),
    ] {
        let plan = planned(|object| {
            object["spec"]["amiFamily"] = json!("Bottlerocket");
            object["spec"]["amiSelectorTerms"] = json!([term]);
        });
        assert!(matches!(plan, Plan::Patch(_)), "{term}: {plan:?}");
    }
}

#[test]
fn roll_back_checks_the_bottlerocket_release_too() {
    let mut pointer = pointer();
    pointer.rejected = vec![rejection()];
    let mut object = object();
    object["spec"]["amiSelectorTerms"] = json!([{"alias": "bottlerocket@v1.56.3"}]);
    let plan = plan(&class(&object), Some(&pointer), at_once());
    assert!(refusal(plan).starts_with("the node class has Bottlerocket 1.56.3"));
}

#[test]
fn reverted_snapshot_prevents_only_an_update_to_it() {
    for (reverted, rejected, patched) in [
        (NEW, false, false),
        (CANDIDATE, false, true),
        ("unreadable", false, true),
        // A roll-back must happen.
        (NEW, true, true),
    ] {
        let mut pointer = pointer();
        if rejected {
            pointer.rejected = vec![rejection()];
        }
        let mut object = object();
        object["metadata"]["annotations"]["prepull/reverted-snapshot"] = json!(reverted);
        let plan = plan(&class(&object), Some(&pointer), at_once());
        let is_patch = matches!(plan, Plan::Patch(_));
        assert_eq!(is_patch, patched, "{reverted}: {plan:?}");
    }
    // The owner has set the snapshot since.
    let plan = planned(|object| {
        object["metadata"]["annotations"]["prepull/reverted-snapshot"] = json!(NEW);
        object["spec"]["blockDeviceMappings"][1]["ebs"]["snapshotID"] = json!(NEW);
    });
    assert!(matches!(plan, Plan::UpToDate { .. }), "{plan:?}");
}

/// Fields of `ebs` besides those that a patch can change.
fn other_fields() -> impl Strategy<Value = Value> {
    (
        prop::option::of(100..=300_u32),
        prop::option::of(Just(true)),
        prop::option::of("[a-z]{1,8}"),
    )
        .prop_map(|(rate, encrypted, key)| {
            let mut ebs = json!({});
            if let Some(rate) = rate {
                ebs["volumeInitializationRate"] = json!(rate);
            }
            if let Some(encrypted) = encrypted {
                ebs["encrypted"] = json!(encrypted);
            }
            if let Some(key) = key {
                ebs["kmsKeyID"] = json!(key);
            }
            ebs
        })
}

fn data_mapping() -> impl Strategy<Value = Value> {
    let snapshots = prop::option::of(prop::sample::select(vec![
        OLD, NEW, CANDIDATE, "", "snap-x",
    ]));
    let sizes = prop::option::of(prop::sample::select(vec![
        "20Gi", "50Gi", "100Gi", "50G", "1Ti",
    ]));
    (
        prop::option::weighted(0.9, other_fields()),
        snapshots,
        sizes,
    )
        .prop_map(|(ebs, snapshot, size)| {
            let mut mapping = json!({"deviceName": "/dev/xvdb"});
            let Some(mut ebs) = ebs else { return mapping };
            if let Some(snapshot) = snapshot {
                ebs["snapshotID"] = json!(snapshot);
            }
            if let Some(size) = size {
                ebs["volumeSize"] = json!(size);
            }
            mapping["ebs"] = ebs;
            mapping
        })
}

fn other_mapping() -> impl Strategy<Value = Value> {
    ("/dev/xvd[ac-z]", other_fields()).prop_map(|(device, mut ebs)| {
        ebs["volumeSize"] = json!("4Gi");
        json!({"deviceName": device, "ebs": ebs})
    })
}

proptest! {
    #[test]
    fn patch_changes_only_the_volume_and_its_inverse_undoes_it(
        data in data_mapping(),
        before in prop::collection::vec(other_mapping(), 0..4),
        after in prop::collection::vec(other_mapping(), 0..4),
        needed in 1..200_u32,
    ) {
        let index = before.len();
        let mut object = object();
        object["spec"]["blockDeviceMappings"] = before.into_iter().chain([data]).chain(after).collect();
        let pointer = Pointer::initial(Some(snapshot(NEW, needed)));
        let plan_of = |object: &Value| plan(&class(object), Some(&pointer), at_once());
        match plan_of(&object) {
            Plan::UpToDate { .. } => {
                prop_assert_eq!(&object["spec"]["blockDeviceMappings"][index]["ebs"]["snapshotID"], NEW);
            }
            Plan::Patch(change) => {
                let patched = applied(&object, &change.patch).expect("the tests hold");
                prop_assert_eq!(applied(&patched, &change.inverse).expect("the tests hold"), object.clone());
                // A second sync changes nothing.
                let second = plan_of(&patched);
                prop_assert!(matches!(second, Plan::UpToDate { .. }), "{:?}", second);
                // Without the two fields, the objects are equal.
                let mut stripped = [object, patched];
                for object in &mut stripped {
                    let mapping = &mut object["spec"]["blockDeviceMappings"][index];
                    if mapping.get("ebs").is_none() {
                        mapping["ebs"] = json!({});
                    }
                    let ebs = mapping["ebs"].as_object_mut().expect("ebs is an object");
                    ebs.remove("snapshotID");
                    ebs.remove("volumeSize");
                }
                prop_assert_eq!(&stripped[0], &stripped[1]);
            }
            other => prop_assert!(false, "{:?}", other),
        }
    }
}
