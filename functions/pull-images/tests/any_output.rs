//! Property tests of pull-images with random plans and outputs of builders. The stage never panics, and it sends only
//! parameters that its documents accept.
//!
//! To run more cases than the default: `PROPTEST_CASES=5000 cargo test -p pull-images --test any_output`.

use std::collections::BTreeMap;
use std::fs;
use std::sync::LazyLock;
use std::time::Duration;

use prepull_aws::Deadline;
use prepull_aws::ec2::types::InstanceStateName;
use prepull_aws::ssm::types::CommandInvocationStatus;
use prepull_domain::build::payload::{Base, DiskUsage, Pinning, PlannedImage, PullInput, Target};
use prepull_domain::node::{Document, MAX_NAMES_BYTES, MAX_PARAMETER_BYTES};
use prepull_domain::{Bytes, ImageReference};
use prepull_fuzzing::{IMAGE_REFERENCES, NODE_OUTPUTS, mutated};
use prepull_testing::{FakeAws, builder, command_output, ec2_instance, ready_builder, target};
use proptest::prelude::*;
use pull_images::{Settings, handle};
use regex::Regex;

/// Returns the `allowedPattern` of each parameter of a document.
fn patterns(document: &str) -> BTreeMap<String, Regex> {
    let name = document
        .strip_prefix("prepull-")
        .expect("only our own documents are sent");
    let file = format!(
        "{}/../../infra/documents/{name}.yaml",
        env!("CARGO_MANIFEST_DIR")
    );
    let yaml = fs::read_to_string(file).unwrap();
    // Parameters are indented by two, and their properties by four.
    let mut patterns = BTreeMap::new();
    let mut parameter = None;
    let declared = yaml
        .lines()
        .skip_while(|line| *line != "parameters:")
        .skip(1);
    for line in declared.take_while(|line| line.starts_with(' ')) {
        if let Some(pattern) = line.strip_prefix("    allowedPattern: ") {
            let parameter: &str = parameter.expect("a pattern belongs to a parameter");
            patterns.insert(parameter.to_owned(), Regex::new(pattern).unwrap());
        } else if !line.starts_with("   ") {
            parameter = line.trim().strip_suffix(':');
        }
    }
    patterns
}

/// The patterns of the documents that this stage sends, by the document's name.
static PATTERNS: LazyLock<BTreeMap<String, BTreeMap<String, Regex>>> = LazyLock::new(|| {
    ["prepull-pull-images"]
        .into_iter()
        .map(|document| (document.to_owned(), patterns(document)))
        .collect()
});

/// Returns AWS with a builder that answers each command with the next of `outputs` and then repeats the last one.
fn node(outputs: Vec<String>) -> FakeAws {
    let mut next = 0;
    FakeAws::new()
        .with_instances([ec2_instance(InstanceStateName::Running)])
        .with_agent(move |_| {
            let output = &outputs[next.min(outputs.len() - 1)];
            next += 1;
            command_output(CommandInvocationStatus::Success, 0, output)
        })
}

/// Generates targets with further images that a configuration may contain.
fn any_target() -> impl Strategy<Value = Target> {
    let reference = mutated(IMAGE_REFERENCES.lines())
        .prop_filter_map("no reference", |given| given.parse::<ImageReference>().ok());
    let image = (reference, any::<u64>()).prop_map(|(reference, size)| {
        let digest = target().images[0].digest.clone();
        PlannedImage {
            digest: reference.digest().cloned().unwrap_or(digest),
            reference,
            size: Bytes(size),
            ..target().images[0].clone()
        }
    });
    let pinning = prop_oneof![Just(Pinning::Pinned), Just(Pinning::Unpinned)];
    let others = prop::collection::vec(image, 0..4);
    let width = prop::option::of(1..4u8);
    let base = prop_oneof![
        Just(target().base),
        Just(Base::Snapshot {
            snapshot_id: "snap-0123456789abcdef0".parse().unwrap(),
            fresh: DiskUsage::default(),
        })
    ];
    (others, pinning, width, base).prop_map(|(others, pinning, parallel_pulls, base)| {
        let mut target = target();
        target.base = base;
        target.images.extend(others);
        target.pinning = pinning;
        target.parallel_pulls = parallel_pulls;
        target
    })
}

#[test]
fn document_parameters_have_patterns() {
    let patterns = &PATTERNS["prepull-pull-images"];
    for parameter in ["Images", "Changes", "WaitSeconds"] {
        assert!(patterns.contains_key(parameter), "{parameter}");
    }
}

#[test]
fn documents_leave_room_for_their_parameters() {
    for document in Document::ALL {
        let file = format!(
            "{}/../../infra/documents/{document}.yaml",
            env!("CARGO_MANIFEST_DIR")
        );
        let bytes = fs::read(file).unwrap().len();
        let parameters = match document {
            // Names, a level and a digest.
            Document::Verify => MAX_NAMES_BYTES + 100,
            _ => MAX_PARAMETER_BYTES,
        };
        assert!(bytes + parameters <= 64 * 1024, "{document}");
    }
}

proptest! {
    #[test]
    fn sent_parameters_match_their_patterns(
        target in any_target(),
        outputs in prop::collection::vec(mutated(NODE_OUTPUTS.split("\n\n")), 1..5),
    ) {
        let aws = node(outputs);
        let input = PullInput { target, builder: builder(), node: ready_builder() };
        let settings = Settings { name: "prepull".into() };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        // Any result is fine. The stage must not panic.
        let _ = runtime.block_on(async {
            let deadline = Deadline::after(Duration::from_secs(5));
            handle(&aws.clients(), &settings, input, deadline).await
        });
        for command in aws.commands() {
            let document = command.document_name.unwrap();
            let parameters = command.parameters.unwrap_or_default();
            let patterns = &PATTERNS[&document];
            prop_assert_eq!(parameters.len(), patterns.len());
            for (name, values) in parameters {
                let value = values.join(" ");
                prop_assert!(patterns[&name].is_match(&value), "{document} is sent {name} = {value:?}");
            }
        }
    }
}
