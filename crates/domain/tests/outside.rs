//! Parsers accept or refuse external input and never panic. Accepted input is written back unchanged and is safe in a
//! shell.
//!
//! Run more cases with `PROPTEST_CASES=200000 cargo test -p prepull-domain --test outside`.

use std::fmt::{Debug, Display};
use std::str::FromStr;

use prepull_domain::build::trigger::ExecutionInput;
use prepull_domain::cache::config::CacheConfig;
use prepull_domain::cache::variant::WantedVersion;
use prepull_domain::node::{
    FingerprintOutput, ImageName, ImageStatus, ReadyNode, VerificationOutput,
};
use prepull_domain::{
    AccountId, AmiId, Architecture, BottlerocketVersion, Bytes, CacheName, ContentKey, Digest,
    ExecutionArn, ExecutionName, ImageReference, InstanceId, RegionName, SecurityGroupId,
    SnapshotId, SubnetId, Variant, VolumeId,
};
use prepull_fuzzing::{
    CONFIGURATIONS, IDENTIFIERS, IMAGE_REFERENCES, NODE_OUTPUTS, mutated, mutated_json,
};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use serde_json::Value;

/// Whether every shell reads `text` as one word, with quotation marks of any kind or without. It must not look like an
/// option. It must also be one entry in the documents' lists, which separate names by spaces and commas.
fn is_one_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "._:/@-".contains(c))
}

/// Checks that an accepted text is written back unchanged.
fn round_trip<T>(given: &str) -> Result<Option<T>, TestCaseError>
where
    T: FromStr + Display + Debug + PartialEq + serde::Serialize + serde::de::DeserializeOwned,
{
    let Ok(accepted) = given.parse::<T>() else {
        prop_assert!(serde_json::from_value::<T>(given.into()).is_err());
        return Ok(None);
    };
    prop_assert_eq!(accepted.to_string(), given);
    prop_assert_eq!(serde_json::to_value(&accepted).unwrap(), Value::from(given));
    prop_assert_eq!(serde_json::from_value::<T>(given.into()).unwrap(), accepted);
    Ok(given.parse().ok())
}

/// Checks the same, and that the accepted text is one word.
fn round_trip_one_word<T>(given: &str) -> Result<(), TestCaseError>
where
    T: FromStr + Display + Debug + PartialEq + serde::Serialize + serde::de::DeserializeOwned,
{
    let accepted = round_trip::<T>(given)?;
    prop_assert!(
        accepted.is_none() || is_one_word(given),
        "{given:?} was accepted"
    );
    Ok(())
}

/// Returns the outputs in the corpus, which are separated by blank lines.
fn node_outputs() -> impl Iterator<Item = &'static str> {
    NODE_OUTPUTS.split("\n\n")
}

#[test]
fn corpus_parses() {
    for reference in IMAGE_REFERENCES.lines() {
        assert!(reference.parse::<ImageReference>().is_ok(), "{reference}");
    }
    let configurations: Vec<Value> = serde_json::from_str(CONFIGURATIONS).unwrap();
    for config in configurations {
        CacheConfig::parse(&"web".parse().unwrap(), &config.to_string()).unwrap();
    }
    for output in node_outputs() {
        let parses = output.parse::<ReadyNode>().is_ok()
            || output.parse::<ImageStatus>().is_ok()
            || output.parse::<FingerprintOutput>().is_ok()
            || output.parse::<VerificationOutput>().is_ok()
            || ReadyNode::missing_part(output).is_some();
        assert!(parses, "{output}");
    }
}

proptest! {
    #[test]
    fn accepted_image_reference_yields_only_single_words(
        given in mutated(IMAGE_REFERENCES.lines()),
        digest in mutated(IDENTIFIERS.lines().filter(|line| line.starts_with("sha256:"))),
    ) {
        round_trip_one_word::<Digest>(&digest)?;
        if let Some(reference) = round_trip::<ImageReference>(&given)? {
            prop_assert!(is_one_word(&given), "{given:?} was accepted");
            let digest = format!("sha256:{}", "f".repeat(64)).parse().unwrap();
            for name in reference.names_on_node(&digest) {
                prop_assert!(is_one_word(&name), "{name:?} for {given:?}");
                prop_assert_eq!(name.parse::<ImageName>().unwrap().to_string(), name);
            }
            if let Some(ecr) = reference.ecr() {
                prop_assert_eq!(&ecr.repository, reference.repository());
                prop_assert!(reference.registry().contains(ecr.account.as_str()));
                prop_assert!(reference.registry().contains(ecr.region.as_str()));
            }
        }
    }

    #[test]
    fn accepted_identifier_is_one_word(given in mutated(IDENTIFIERS.lines())) {
        round_trip_one_word::<AccountId>(&given)?;
        round_trip_one_word::<AmiId>(&given)?;
        round_trip_one_word::<CacheName>(&given)?;
        round_trip_one_word::<ContentKey>(&given)?;
        round_trip_one_word::<Digest>(&given)?;
        round_trip_one_word::<ImageName>(&given)?;
        round_trip_one_word::<InstanceId>(&given)?;
        round_trip_one_word::<RegionName>(&given)?;
        round_trip_one_word::<SecurityGroupId>(&given)?;
        round_trip_one_word::<SnapshotId>(&given)?;
        round_trip_one_word::<SubnetId>(&given)?;
        round_trip_one_word::<Variant>(&given)?;
        round_trip_one_word::<VolumeId>(&given)?;
        round_trip_one_word::<WantedVersion>(&given)?;
        prop_assert!(given.parse::<Architecture>().is_ok_and(|it| it.as_str() == given) || given.parse::<Architecture>().is_err());
        // Step Functions and people also choose execution names, which can start with any character. No shell receives
        // them.
        round_trip::<ExecutionName>(&given)?;
        if let Some(arn) = round_trip::<ExecutionArn>(&given)? {
            prop_assert!(given.ends_with(arn.name().as_str()));
        }
    }

    #[test]
    fn accepted_version_survives_a_round_trip(given in mutated(["1.57.0", "1.57.0-0a1b2c3d"])) {
        if let Ok(version) = given.parse::<BottlerocketVersion>() {
            let written = version.to_string();
            prop_assert!(given.starts_with(&written), "{given:?} parsed as {written}");
            prop_assert_eq!(written.parse::<BottlerocketVersion>(), Ok(version));
            prop_assert!(written.parse::<WantedVersion>().is_ok());
        }
    }

    #[test]
    fn accepted_configuration_survives_a_round_trip(json in mutated_json(CONFIGURATIONS)) {
        let cache: CacheName = "web".parse().unwrap();
        match CacheConfig::parse(&cache, &json.to_string()) {
            Ok(config) => {
                let written = serde_json::to_string(&config).unwrap();
                prop_assert_eq!(CacheConfig::parse(&cache, &written).unwrap(), config);
            }
            Err(error) => prop_assert!(error.to_string().starts_with("cache `web` has no valid configuration: ")),
        }
    }

    #[test]
    fn malformed_json_does_not_panic(text in mutated([CONFIGURATIONS, "[]", "{}", "null", ""])) {
        let _ = CacheConfig::parse(&"web".parse().unwrap(), &text);
        let _ = ExecutionInput::cache_in(&text);
    }

    #[test]
    fn builder_output_parses_safely_or_is_refused(output in mutated(node_outputs())) {
        if let Ok(status) = output.parse::<ImageStatus>() {
            for name in &status.pinned_aliases {
                prop_assert!(is_one_word(name.as_str()), "{name}");
            }
            let _ = status.disk.is_too_full();
            let wanted = status.disk.wanted_size(Bytes(u64::MAX));
            prop_assert!(wanted >= status.disk.wanted_size(Bytes(0)));
        }
        let _ = output.parse::<FingerprintOutput>();
        if let Ok(VerificationOutput::Finished(verification)) = output.parse() {
            let name: ImageName = "docker.io/library/nginx:1".parse().unwrap();
            for defect in verification.check(&[name], Bytes(u64::MAX), None).err().unwrap_or_default() {
                prop_assert!(!defect.to_string().contains('\n'), "{defect:?}");
            }
        }
        if let Ok(node) = output.parse::<ReadyNode>() {
            // The versions go into the manifest, and from there into events and terminals.
            for version in [&node.containerd_version, &node.kernel_version, &node.snapshotter] {
                prop_assert!((1..=64).contains(&version.len()) && !version.contains(char::is_control), "{version:?}");
            }
        }
        let _ = ReadyNode::missing_part(&output);
    }
}
