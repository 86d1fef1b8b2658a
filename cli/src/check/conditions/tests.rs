//! One input that triggers each condition, and one that does not, as changes of an input without findings.

use std::collections::BTreeSet;

use prepull_kubernetes::nodes::{
    CacheSnapshot, ClusterState, DataVolume, Initialization, SnapshotStage,
};
use serde_json::json;

use super::*;
use crate::check::input::Inputs;
use crate::check::known::Key;
use crate::check::tests::{ARM, KARPENTER, LAUNCH_TEMPLATE, PUBLISHED, cache};

/// Replacements of text in an input.
type Edits = &'static [(&'static str, &'static str)];

/// The two inputs of a condition.
struct Case {
    condition: u8,
    /// Input without findings.
    base: &'static str,
    /// Changes that trigger the condition.
    triggers: Edits,
    /// Changes that are close to it and do not trigger it.
    passes: Edits,
}

/// Karpenter's controller, in a version without the rate.
const KARPENTER_1_4: &str = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: karpenter}\nspec: {template: {spec: {containers: \
     [{name: controller, image: 'public.ecr.aws/karpenter/controller:1.4.0@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'}]}}}\n---";
/// The first version with it.
const KARPENTER_1_5: &str = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: karpenter}\nspec: {template: {spec: {containers: \
     [{name: controller, image: 'public.ecr.aws/karpenter/controller:v1.5.0'}]}}}\n---";

/// First line of the Karpenter input.
const FIRST_LINE: &str = "# Nodes of the cache `web`.";

/// Conditions with a test of their own, because no text triggers them.
const OTHERS: [u8; 3] = [6, 31, 32];

const CASES: [Case; 27] = [
    Case {
        condition: 1,
        base: KARPENTER,
        triggers: &[(
            "        snapshotID: snap-0123456789abcdef1\n        volumeInitializationRate: 300\n",
            "",
        )],
        passes: &[("snap-0123456789abcdef1", "${SNAPSHOT_ID}")],
    },
    Case {
        condition: 2,
        base: KARPENTER,
        triggers: &[("deviceName: /dev/xvdb", "deviceName: /dev/xvdc")],
        passes: &[("deviceName: /dev/xvdb", "deviceName: \"/dev/xvdb\"")],
    },
    Case {
        condition: 3,
        base: KARPENTER,
        triggers: &[("        volumeSize: 50Gi\n", "")],
        passes: &[(
            "- deviceName: /dev/xvdb",
            "- rootVolume: true\n      deviceName: /dev/xvdb",
        )],
    },
    Case {
        condition: 4,
        base: KARPENTER,
        triggers: &[("volumeSize: 50Gi", "volumeSize: 50G")],
        passes: &[("volumeSize: 50Gi", "volumeSize: 1Ti")],
    },
    Case {
        condition: 5,
        base: KARPENTER,
        triggers: &[("        volumeInitializationRate: 300\n", "")],
        passes: &[(
            "volumeInitializationRate: 300",
            "volumeInitializationRate: 100",
        )],
    },
    Case {
        condition: 7,
        base: KARPENTER,
        triggers: &[("volumeSize: 4Gi", "volumeSize: 2Gi")],
        passes: &[("volumeSize: 4Gi", "volumeSize: 20G")],
    },
    Case {
        condition: 8,
        base: KARPENTER,
        triggers: &[(
            "amiFamily: Bottlerocket",
            "amiFamily: Bottlerocket\n  instanceStorePolicy: RAID0",
        )],
        passes: &[(
            "amiFamily: Bottlerocket",
            "amiFamily: Bottlerocket\n  instanceStorePolicy: null",
        )],
    },
    Case {
        condition: 9,
        base: KARPENTER,
        // 40 GiB of images are 80 % of 50 GiB.
        triggers: &[(
            "amiFamily: Bottlerocket",
            "amiFamily: Bottlerocket\n  kubelet:\n    imageGCHighThresholdPercent: 80",
        )],
        passes: &[(
            "amiFamily: Bottlerocket",
            "amiFamily: Bottlerocket\n  kubelet:\n    imageGCHighThresholdPercent: 81",
        )],
    },
    Case {
        condition: 10,
        base: KARPENTER,
        triggers: &[(
            "userData: |",
            "userData: |\n    [settings.container-runtime]\n    snapshotter = \"soci\"",
        )],
        passes: &[(
            "userData: |",
            "userData: |\n    [settings.container-runtime]\n    snapshotter = \"overlayfs\"",
        )],
    },
    Case {
        condition: 11,
        base: KARPENTER,
        triggers: &[(
            "userData: |",
            "userData: |\n    [settings.bootstrap-commands.disks]\n    commands = [[\"apiclient\", \"ephemeral-storage\", \"bind\"]]",
        )],
        passes: &[(
            "userData: |",
            "userData: |\n    [settings.bootstrap-commands.disks]\n    commands = [[\"apiclient\", \"ephemeral-storage\", \"bind\", \"--dirs\", \"/var/lib/kubelet\"]]",
        )],
    },
    Case {
        condition: 12,
        base: LAUNCH_TEMPLATE,
        // [settings.kubernetes] with image-maximum-gc-age = "24h", and with "0s".
        triggers: &[(
            "\"ImageId\"",
            "\"UserData\": \"W3NldHRpbmdzLmt1YmVybmV0ZXNdCmltYWdlLW1heGltdW0tZ2MtYWdlID0gIjI0aCIK\", \"ImageId\"",
        )],
        passes: &[(
            "\"ImageId\"",
            "\"UserData\": \"W3NldHRpbmdzLmt1YmVybmV0ZXNdCmltYWdlLW1heGltdW0tZ2MtYWdlID0gIjBzIgo=\", \"ImageId\"",
        )],
    },
    Case {
        condition: 13,
        base: KARPENTER,
        triggers: &[("amiFamily: Bottlerocket", "amiFamily: AL2023")],
        passes: &[("  amiFamily: Bottlerocket\n", "")],
    },
    Case {
        condition: 14,
        base: KARPENTER,
        triggers: &[(
            "            values: [amd64]",
            "            values: [amd64, arm64]",
        )],
        passes: &[(
            "            operator: In\n            values: [amd64]",
            "            operator: NotIn\n            values: [arm64]",
        )],
    },
    Case {
        condition: 15,
        base: KARPENTER,
        triggers: &[("bottlerocket@v1.57.0", "bottlerocket@v1.56.9")],
        passes: &[("bottlerocket@v1.57.0", "bottlerocket@latest")],
    },
    Case {
        condition: 16,
        base: KARPENTER,
        triggers: &[(
            "alias: bottlerocket@v1.57.0",
            "ssmParameter: /aws/service/bottlerocket/aws-k8s-1.33-fips/x86_64/1.57.0/image_id",
        )],
        passes: &[(
            "alias: bottlerocket@v1.57.0",
            "ssmParameter: /aws/service/bottlerocket/aws-k8s-1.33-nvidia/x86_64/1.57.0/image_id",
        )],
    },
    Case {
        condition: 17,
        base: KARPENTER,
        triggers: &[(
            "snapshotID:",
            "kmsKeyID: 11111111-2222-3333-4444-555555555555\n        snapshotID:",
        )],
        passes: &[("snapshotID:", "kmsKeyID: alias/nodes\n        snapshotID:")],
    },
    Case {
        condition: 18,
        base: KARPENTER,
        triggers: &[("encrypted: true # data", "encrypted: false")],
        passes: &[("        encrypted: true # data\n", "")],
    },
    Case {
        condition: 19,
        base: KARPENTER,
        triggers: &[("snap-0123456789abcdef1", "snap-0fedcba9876543210")],
        passes: &[("snap-0123456789abcdef1", "snap-0123456789abcdef0")],
    },
    Case {
        condition: 20,
        base: KARPENTER,
        triggers: &[("snap-0123456789abcdef1", "snap-0123456789abcdef0")],
        passes: &[("snap-0123456789abcdef1", "'snap-0123456789abcdef1'")],
    },
    Case {
        condition: 21,
        base: KARPENTER,
        triggers: &[("observedGeneration: 4", "observedGeneration: 3")],
        passes: &[("observedGeneration: 4", "observedGeneration: 5")],
    },
    Case {
        condition: 22,
        base: KARPENTER,
        triggers: &[(FIRST_LINE, KARPENTER_1_4)],
        passes: &[(FIRST_LINE, KARPENTER_1_5)],
    },
    Case {
        condition: 23,
        base: KARPENTER,
        triggers: &[(
            "image: redis:8",
            "image: redis:8\n          imagePullPolicy: Always",
        )],
        passes: &[(
            "image: redis:8",
            "image: redis:8\n          imagePullPolicy: IfNotPresent",
        )],
    },
    Case {
        condition: 24,
        base: KARPENTER,
        triggers: &[(
            "image: redis:8",
            "image: redis:8\n        - name: other\n          image: redis:7",
        )],
        passes: &[(
            "image: redis:8",
            "image: docker.io/redis:8@sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb",
        )],
    },
    Case {
        condition: 26,
        base: KARPENTER,
        triggers: &[(
            "      taints:\n        - {key: web, effect: NoSchedule}\n",
            "",
        )],
        passes: &[(
            "{key: web, effect: NoSchedule}",
            "{key: web, effect: NoExecute}",
        )],
    },
    Case {
        condition: 27,
        base: KARPENTER,
        triggers: &[
            ("kind: EC2NodeClass # plain", "kind: ConfigMap"),
            ("kind: NodePool # plain", "kind: ConfigMap"),
        ],
        passes: &[("weight: 10", "weight: 1")],
    },
    Case {
        condition: 28,
        base: LAUNCH_TEMPLATE,
        triggers: &[(PUBLISHED, "snap-0123456789abcdef0")],
        passes: &[(PUBLISHED, "${SNAPSHOT}")],
    },
    Case {
        condition: 30,
        base: KARPENTER,
        triggers: &[(
            FIRST_LINE,
            "apiVersion: eks.amazonaws.com/v1\nkind: NodeClass\nmetadata: {name: auto}\n---",
        )],
        // Another group has a kind with the same name.
        passes: &[(
            FIRST_LINE,
            "apiVersion: example.com/v1\nkind: NodeClass\nmetadata: {name: auto}\n---",
        )],
    },
];

/// Returns the numbers of the conditions in `text`.
fn numbers(text: &str, kubernetes: Option<&str>) -> Vec<u8> {
    let mut cache = cache();
    cache.targets[0].key = Key::Id("arn:aws:kms:eu-west-1:123456789012:key/ab12".to_owned());
    let mut inputs = Inputs::default();
    inputs.read("input", text).unwrap();
    let subject = Subject {
        cache: &cache,
        inputs: &inputs,
        kubernetes,
        burst: None,
        hit_rate: None,
    };
    let numbers: BTreeSet<_> = subject
        .problems()
        .map(|(condition, _)| condition.number)
        .collect();
    numbers.into_iter().collect()
}

fn edited(base: &str, edits: Edits) -> String {
    edits.iter().fold(base.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "`{from}` is not in the input");
        text.replace(from, to)
    })
}

#[test]
fn every_condition_has_a_case() {
    let metadata: Vec<_> = CONDITIONS
        .iter()
        .map(|condition| condition.number)
        .collect();
    let cases = CASES.iter().map(|case| case.condition);
    let cases: BTreeSet<_> = cases.chain(OTHERS).collect();
    assert_eq!(metadata, Vec::from_iter(cases));
    assert!(metadata.is_sorted());
    let unique: BTreeSet<_> = metadata.iter().collect();
    assert_eq!(unique.len(), metadata.len());
}

#[test]
fn good_input_has_no_finding() {
    for base in [KARPENTER, LAUNCH_TEMPLATE, ARM] {
        let found = numbers(base, Some("1.33"));
        assert!(found.is_empty(), "{found:?} in {base}");
    }
}

#[test]
fn every_condition_is_found_alone() {
    for case in &CASES {
        let found = numbers(&edited(case.base, case.triggers), None);
        assert_eq!(found, [case.condition], "condition {}", case.condition);
    }
}

#[test]
fn every_condition_passes_a_similar_input() {
    for case in &CASES {
        let found = numbers(&edited(case.base, case.passes), None);
        assert!(
            !found.contains(&case.condition),
            "condition {}: {found:?}",
            case.condition
        );
    }
}

#[test]
fn burst_above_the_quota_is_condition_6() {
    let cache = cache();
    let mut inputs = Inputs::default();
    inputs.read("input", KARPENTER).unwrap();
    // The rate is 300 MiB/s, and the quota 5,000.
    for (burst, found) in [(None, 0), (Some(16), 0), (Some(17), 1)] {
        let subject = Subject {
            cache: &cache,
            inputs: &inputs,
            kubernetes: None,
            burst,
            hit_rate: None,
        };
        let numbers = subject.problems().map(|(condition, _)| condition.number);
        assert_eq!(numbers.filter(|number| *number == 6).count(), found);
    }
}

/// Returns the numbers of the conditions that a node has, whose snapshot contains nginx and redis. Its pod has nginx.
fn numbers_of_node(pulled: bool, listed: bool, percent: i64) -> Vec<u8> {
    let cache = cache();
    let manifest = &cache.targets[0].manifest;
    let images = manifest
        .images
        .iter()
        .map(|image| image.reference.to_string());
    let images: Vec<_> = images.collect();
    let instance = "i-0123456789abcdef0";
    let node = json!({
        "metadata": {"name": "node"},
        "spec": {"providerID": format!("aws:///eu-west-1a/{instance}")},
        "status": {"images": if listed { json!([{"names": images}]) } else { json!([{"names": ["pause:3"]}]) }},
    });
    let pod = json!({
        "metadata": {"name": "pod", "namespace": "default", "uid": "1"},
        "spec": {"nodeName": "node", "containers": [{"name": "main", "image": images[0],
            "imagePullPolicy": "IfNotPresent"}]},
    });
    let message = if pulled {
        format!(
            "Successfully pulled image \"{}\" in 8.3s (8.3s including waiting). Image size: 1 bytes.",
            images[0]
        )
    } else {
        format!(
            "Container image \"{}\" already present on machine",
            images[0]
        )
    };
    let event = json!({
        "metadata": {"name": "event", "namespace": "default"},
        "reason": "Pulled",
        "message": message,
        "source": {"component": "kubelet", "host": "node"},
        "involvedObject": {"kind": "Pod", "name": "pod", "namespace": "default", "uid": "1",
            "fieldPath": "spec.containers{main}"},
        "firstTimestamp": "2026-01-02T03:08:00Z",
        "lastTimestamp": "2026-01-02T03:08:00Z",
        "count": 1,
    });
    let volume = DataVolume {
        snapshot: Some(manifest.snapshot_id.clone()),
        initialization: Initialization::new(percent, None),
    };
    let hit_rate = HitRate::new(&ClusterState {
        cache: cache.name.clone(),
        as_of: "2026-01-02T03:09:00Z".parse().unwrap(),
        snapshots: vec![CacheSnapshot::new(manifest, [], SnapshotStage::Stable)],
        volumes: [(instance.parse().unwrap(), volume)].into(),
        nodes: vec![serde_json::from_value(node).unwrap()],
        pods: vec![serde_json::from_value(pod).unwrap()],
        events: vec![serde_json::from_value(event).unwrap()],
    });
    let inputs = Inputs::default();
    let subject = Subject {
        cache: &cache,
        inputs: &inputs,
        kubernetes: None,
        burst: None,
        hit_rate: Some(&hit_rate),
    };
    let numbers = subject.problems().map(|(condition, _)| condition.number);
    numbers.collect::<BTreeSet<_>>().into_iter().collect()
}

#[test]
fn nodes_that_miss_cached_images_are_condition_31() {
    assert_eq!(numbers_of_node(false, true, 100), [] as [u8; 0]);
    assert_eq!(numbers_of_node(true, true, 100), [31]);
    assert_eq!(numbers_of_node(false, false, 100), [31]);
}

#[test]
fn volume_that_initializes_is_condition_32() {
    assert_eq!(numbers_of_node(false, true, 40), [32]);
}

#[test]
fn architecture_requirements_evaluate_like_kubernetes() {
    let requirement = "          - key: kubernetes.io/arch\n            operator: In\n            values: [amd64]";
    for (operator, values, found) in [
        ("In", "[amd64]", false),
        ("In", "[arm64]", true),
        ("In", "[amd64, arm64]", true),
        ("In", "[s390x]", true),
        ("NotIn", "[arm64]", false),
        ("NotIn", "[s390x]", true),
        ("Exists", "[]", true),
        ("DoesNotExist", "[]", true),
    ] {
        let other = format!(
            "          - key: kubernetes.io/arch\n            operator: {operator}\n            values: {values}"
        );
        let found_numbers = numbers(&KARPENTER.replacen(requirement, &other, 1), None);
        assert_eq!(found_numbers.contains(&14), found, "{operator} {values}");
    }
    let without = "          - {key: karpenter.sh/capacity-type, operator: Exists}";
    assert!(numbers(&KARPENTER.replacen(requirement, without, 1), None).contains(&14));
    let both = format!("{requirement}\n          - {{key: kubernetes.io/arch, operator: Exists}}");
    assert!(!numbers(&KARPENTER.replacen(requirement, &both, 1), None).contains(&14));
}

#[test]
fn old_bind_without_directories_leaves_containerd() {
    let bind = "userData: |\n    [settings.bootstrap-commands.disks]\n    commands = [[\"apiclient\", \"ephemeral-storage\", \"bind\"]]";
    let input = KARPENTER.replace("userData: |", bind);
    assert_eq!(numbers(&input, None), [11]);
    assert_eq!(numbers(&input.replace("v1.57.0", "v1.45.0"), None), [15]);
    let listed = input.replace("\"bind\"", "\"bind\", \"--dirs\", \"/var/lib/containerd\"");
    assert_eq!(
        numbers(&listed.replace("v1.57.0", "v1.45.0"), None),
        [11, 15]
    );
}

#[test]
fn root_volume_on_another_device_is_condition_3() {
    let input = KARPENTER.replace(
        "- deviceName: /dev/xvda",
        "- rootVolume: true\n      deviceName: /dev/xvda",
    );
    assert_eq!(numbers(&input, None), [3]);
}

#[test]
fn cluster_version_determines_the_severity_of_16() {
    let cache = cache();
    let mut inputs = Inputs::default();
    inputs.read("input", KARPENTER).unwrap();
    for (kubernetes, severity) in [("1.32", Severity::Error), ("1.34", Severity::Warning)] {
        let subject = Subject {
            cache: &cache,
            inputs: &inputs,
            kubernetes: Some(kubernetes),
            burst: None,
            hit_rate: None,
        };
        let found: Vec<_> = subject.problems().collect();
        // The plain fall-back class does not use the cache.
        let [(condition, problem)] = &found[..] else {
            panic!("{found:?}", found = found.len());
        };
        assert_eq!((condition.number, problem.severity), (16, Some(severity)));
    }
}

#[test]
fn unencrypted_terraform_volume_is_found_in_text_form() {
    let input = r#"{"terraform_version": "1.9.0", "values": {"root_module": {"child_modules": [{"resources": [
        {"address": "module.nodes.aws_launch_template.this", "type": "aws_launch_template", "values": {
            "block_device_mappings": [{"device_name": "/dev/xvdb", "ebs": [{
                "encrypted": "false", "snapshot_id": "snap-0123456789abcdef1", "volume_size": 0,
                "volume_initialization_rate": 300}]},
                {"device_name": "/dev/xvda", "ebs": [{"volume_size": 4, "encrypted": ""}]}],
            "user_data": "", "image_id": null}}]}]}}}"#;
    assert_eq!(numbers(input, None), [18]);
}

#[test]
fn unknown_value_of_a_plan_is_not_missing() {
    let plan = |marks: &str| {
        format!(
            r#"{{"terraform_version": "1.9.0", "planned_values": {{"root_module": {{"resources": [
            {{"address": "aws_launch_template.this", "type": "aws_launch_template", "values": {{
                "block_device_mappings": [{{"device_name": "/dev/xvdb", "ebs": [{{
                    "volume_size": 50, "volume_initialization_rate": 300}}]}},
                    {{"device_name": "/dev/xvda", "ebs": [{{"volume_size": 4}}]}}]}}}}]}}}},
            "resource_changes": [{{"address": "aws_launch_template.this", "change": {{"after_unknown": {marks}}}}}]}}"#
        )
    };
    let snapshot = r#"{"id": true, "user_data": true, "block_device_mappings": [{"ebs": [{"snapshot_id": true}]}, {"ebs": [{}]}]}"#;
    assert_eq!(numbers(&plan(snapshot), None), [] as [u8; 0]);
    assert_eq!(numbers(&plan(r#"{"id": true}"#), None), [1]);
    let mut inputs = Inputs::default();
    inputs
        .read("plan.json", &plan(r#"{"block_device_mappings": true}"#))
        .unwrap();
    assert!(inputs.templates.is_empty());
}
