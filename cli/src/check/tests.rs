//! The report in its formats, from the examples in `cli/tests/check`.

use serde_json::{Value, json};

use super::*;

/// Snapshot that the pointer for `x86_64` names.
pub(super) const PUBLISHED: &str = "snap-0123456789abcdef1";

/// A node class, a pool and a workload of the cache, and a plain fall-back pool.
pub(super) const KARPENTER: &str = include_str!("../../tests/check/karpenter.yaml");
/// A launch template of the cache.
pub(super) const LAUNCH_TEMPLATE: &str = include_str!("../../tests/check/data.json");
/// A node class of the cache for `arm64`.
pub(super) const ARM: &str = include_str!("../../tests/check/arm64.yaml");
const WITHOUT_RATE: &str = "{\"BlockDeviceMappings\": [{\"DeviceName\": \"/dev/xvdb\", \"Ebs\": {\"SnapshotId\": \"snap-0123456789abcdef2\"}}, \
    {\"DeviceName\": \"/dev/xvda\"}]}";
const SNAPSHOTS: &str = include_str!("../../tests/check/snapshots.json");
const DOCS: &str = include_str!("../../../docs/check.md");

/// Returns the cache `web` for both architectures, as in `cli/tests/check/snapshots.json`.
pub(super) fn cache() -> Cache {
    Cache::parse(&"web".parse().unwrap(), "snapshots.json", SNAPSHOTS, None).unwrap()
}

fn args() -> CheckArgs {
    CheckArgs {
        cache: Some("web".parse().unwrap()),
        files: Vec::new(),
        architecture: None,
        manifest: None,
        live: false,
        context: None,
        namespace: Vec::new(),
        burst: None,
        only: Vec::new(),
        kubernetes: None,
        fail_on: FailOn::Error,
        explain: None,
    }
}

fn check(file: &str, text: &str) -> Result<CheckReport, CheckError> {
    report(
        &args(),
        &cache(),
        &[(file.to_owned(), text.to_owned())],
        None,
    )
}

/// Asserts the text of the report on an example, with its name as the name of the snapshot.
macro_rules! example {
    ($name:ident, $file:literal) => {
        #[test]
        fn $name() {
            let report = check($file, include_str!(concat!("../../tests/check/", $file))).unwrap();
            insta::assert_snapshot!(report.to_string());
        }
    };
}

example!(good_class_and_pool_have_no_finding, "karpenter.yaml");
example!(class_without_snapshot_is_found, "no-snapshot.yaml");
example!(wrong_device_name_is_found, "wrong-device.yaml");
example!(raid0_and_moved_containerd_are_found, "raid0.yaml");
example!(undersized_volume_is_found, "undersized.yaml");
example!(auto_mode_class_is_found, "auto-mode.yaml");
example!(
    launch_template_of_a_node_group_is_checked,
    "launch-template.json"
);
example!(terraform_plan_is_checked, "plan.json");
example!(workloads_with_missing_images_are_found, "workloads.yaml");
example!(cluster_dump_with_conditions_is_checked, "cluster.yaml");

#[test]
fn json_has_every_finding() {
    let report = check("raid0.yaml", include_str!("../../tests/check/raid0.yaml")).unwrap();
    insta::assert_json_snapshot!(report);
}

#[test]
fn github_commands_have_file_line_and_title() {
    let text = include_str!("../../tests/check/raid0.yaml");
    let report = check("deploy/nodes, 100%:raid0.yaml", text).unwrap();
    insta::assert_snapshot!(report.github());
}

#[test]
fn github_command_of_standard_input_has_no_file() {
    let github = check(STDIN, WITHOUT_RATE).unwrap().github();
    assert!(
        github.starts_with("::warning title=prepull check 5::"),
        "{github}"
    );
}

#[test]
fn github_text_is_escaped() {
    assert_eq!(escape_data("100 %\r\na:b,c"), "100 %25%0D%0Aa:b,c");
    assert_eq!(escape_property("100 %\r\na:b,c"), "100 %25%0D%0Aa%3Ab%2Cc");
}

#[test]
fn explanation_has_reason_remedy_and_source() {
    let texts: Vec<_> = CONDITIONS
        .iter()
        .map(|c| explain(c.number).unwrap().to_string())
        .collect();
    insta::assert_snapshot!(texts.join("\n"));
    insta::assert_snapshot!(explain(29).unwrap_err());
}

#[test]
fn severity_and_option_determine_failure() {
    let finding = |severity| {
        let mut report = check("karpenter.yaml", KARPENTER).unwrap();
        report.findings = CONDITIONS
            .iter()
            .filter(|condition| condition.severity == severity)
            .map(|condition| {
                let problem = conditions::Problem::of_cache("images", "are wrong");
                CheckFinding::new(condition, problem, &report.cache)
            })
            .collect();
        [report.fails(FailOn::Error), report.fails(FailOn::Warning)]
    };
    assert_eq!(finding(Severity::Error), [true, true]);
    assert_eq!(finding(Severity::Warning), [false, true]);
    assert_eq!(finding(Severity::Note), [false, false]);
}

#[test]
fn only_selects_classes_and_their_pools() {
    let text = include_str!("../../tests/check/cluster.yaml");
    let only = CheckArgs {
        only: vec!["web-arm64".to_owned()],
        ..args()
    };
    let files = [("cluster.yaml".to_owned(), text.to_owned())];
    let report = report(&only, &cache(), &files, None).unwrap();
    assert_eq!((report.node_classes, report.node_pools), (1, 1));
    assert!(
        report
            .findings
            .iter()
            .all(|finding| finding.object.ends_with(" web-arm64"))
    );
    let unknown = CheckArgs {
        only: vec!["api".to_owned()],
        ..args()
    };
    insta::assert_snapshot!(super::report(&unknown, &cache(), &files, None).unwrap_err());
}

#[test]
fn unusable_inputs_fail_with_place_and_remedy() {
    let inputs = [
        (
            "map.yaml",
            "kind: ConfigMap\n---\nkind: ConfigMap\n---\nkind: Secret\n",
        ),
        ("empty.yaml", "# nothing\n"),
        (
            "broken.yaml",
            "kind: List\nitems:\n  - kind: NodePool\n   - kind: NodePool\n",
        ),
        (
            "helm.yaml",
            "kind: EC2NodeClass\nmetadata:\n  name: {{ .Values.name }}\n",
        ),
        ("broken.json", "{\"kind\": \"List\",\n \"items\": [}"),
        (
            "size.yaml",
            "kind: EC2NodeClass\nmetadata: {name: web}\nspec:\n  blockDeviceMappings:\n    - ebs:\n        volumeSize: large\n",
        ),
        ("other.json", "{\"Reservations\": []}"),
    ];
    let texts: Vec<_> = inputs
        .iter()
        .map(|(file, text)| check(file, text).unwrap_err().to_string())
        .collect();
    insta::assert_snapshot!(texts.join("\n"));
}

#[test]
fn unusable_manifests_fail_with_a_remedy() {
    let json: Value = serde_json::from_str(SNAPSHOTS).unwrap();
    let manifest = json["snapshots"][0]["manifest"].to_string();
    let mut first_page = json["snapshots"][0]["manifest"].clone();
    first_page[prepull_domain::pages::FIELD] = json!({"pages": 1});
    let first_page = first_page.to_string();
    let unpublished = json!({"cache": "web", "snapshots": []}).to_string();
    let parse =
        |cache: &str, text: &str, only| Cache::parse(&cache.parse().unwrap(), "m.json", text, only);
    assert!(!parse("web", &manifest, None).unwrap().targets[0].published);
    let texts = [
        parse("api", &manifest, None),
        parse("web", &manifest, Some(Architecture::Arm64)),
        parse("web", &unpublished, None),
        parse("web", &first_page, None),
        parse("web", "{}", None),
        parse("web", "nothing", None),
    ]
    .map(|result| result.unwrap_err().to_string());
    insta::assert_snapshot!(texts.join("\n"));
}

#[test]
fn docs_list_every_condition() {
    let (_, table) = DOCS.split_once("## Conditions").unwrap();
    let is_row = |line: &&str| line.starts_with("| ") && line.as_bytes()[2].is_ascii_digit();
    let rows: Vec<_> = table.lines().filter(is_row).collect();
    let expected = CONDITIONS
        .iter()
        .map(|c| format!("| {} | {} | {} |", c.number, c.severity, c.title));
    assert_eq!(rows, expected.collect::<Vec<_>>());
}
