//! Whatever comes from outside is refused or understood: nothing panics, what is taken is written as it was read, and
//! nothing that is taken means more than itself to a shell.
//!
//! More cases than by default: `PROPTEST_CASES=200000 cargo test -p prepull-domain --test outside`.

use std::fmt::{Debug, Display};
use std::str::FromStr;

use prepull_domain::build::trigger::ExecutionInput;
use prepull_domain::cache::config::CacheConfig;
use prepull_domain::cache::variant::WantedVersion;
use prepull_domain::node::{ImageName, ImageStatus, ReadyNode};
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

/// Whether `text` is one word to every shell, in quotation marks of any kind and without, is no option, and is one name
/// in the documents' lists, which are separated by spaces and commas.
fn is_one_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "._:/@-".contains(c))
}

/// What is taken is written as it was read.
fn is_written_as_read<T>(given: &str) -> Result<Option<T>, TestCaseError>
where
    T: FromStr + Display + Debug + PartialEq + serde::Serialize + serde::de::DeserializeOwned,
{
    let Ok(taken) = given.parse::<T>() else {
        prop_assert!(serde_json::from_value::<T>(given.into()).is_err());
        return Ok(None);
    };
    prop_assert_eq!(taken.to_string(), given);
    prop_assert_eq!(serde_json::to_value(&taken).unwrap(), Value::from(given));
    prop_assert_eq!(serde_json::from_value::<T>(given.into()).unwrap(), taken);
    Ok(given.parse().ok())
}

/// The same of something that names one thing.
fn is_one_name<T>(given: &str) -> Result<(), TestCaseError>
where
    T: FromStr + Display + Debug + PartialEq + serde::Serialize + serde::de::DeserializeOwned,
{
    let taken = is_written_as_read::<T>(given)?;
    prop_assert!(taken.is_none() || is_one_word(given), "{given:?} was taken");
    Ok(())
}

/// The outputs of the corpus, which blank lines separate.
fn node_outputs() -> impl Iterator<Item = &'static str> {
    NODE_OUTPUTS.split("\n\n")
}

#[test]
fn the_corpus_is_taken() {
    for reference in IMAGE_REFERENCES.lines() {
        assert!(reference.parse::<ImageReference>().is_ok(), "{reference}");
    }
    let configurations: Vec<Value> = serde_json::from_str(CONFIGURATIONS).unwrap();
    for config in configurations {
        CacheConfig::parse(&"web".parse().unwrap(), &config.to_string()).unwrap();
    }
    for output in node_outputs() {
        let is_read = output.parse::<ReadyNode>().is_ok()
            || output.parse::<ImageStatus>().is_ok()
            || ReadyNode::waiting_for(output).is_some();
        assert!(is_read, "{output}");
    }
}

proptest! {
    #[test]
    fn an_image_reference_that_is_taken_is_one_word_and_so_are_all_its_names(
        given in mutated(IMAGE_REFERENCES.lines()),
        digest in mutated(IDENTIFIERS.lines().filter(|line| line.starts_with("sha256:"))),
    ) {
        is_one_name::<Digest>(&digest)?;
        if let Some(reference) = is_written_as_read::<ImageReference>(&given)? {
            prop_assert!(is_one_word(&given), "{given:?} was taken");
            let digest = format!("sha256:{}", "f".repeat(64)).parse().unwrap();
            for name in reference.names_on_node(&digest) {
                prop_assert!(is_one_word(&name), "{name:?} names {given:?}");
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
    fn an_identifier_that_is_taken_is_one_word(given in mutated(IDENTIFIERS.lines())) {
        is_one_name::<AccountId>(&given)?;
        is_one_name::<AmiId>(&given)?;
        is_one_name::<CacheName>(&given)?;
        is_one_name::<ContentKey>(&given)?;
        is_one_name::<Digest>(&given)?;
        is_one_name::<ImageName>(&given)?;
        is_one_name::<InstanceId>(&given)?;
        is_one_name::<RegionName>(&given)?;
        is_one_name::<SecurityGroupId>(&given)?;
        is_one_name::<SnapshotId>(&given)?;
        is_one_name::<SubnetId>(&given)?;
        is_one_name::<Variant>(&given)?;
        is_one_name::<VolumeId>(&given)?;
        is_one_name::<WantedVersion>(&given)?;
        prop_assert!(given.parse::<Architecture>().is_ok_and(|it| it.as_str() == given) || given.parse::<Architecture>().is_err());
        // Step Functions names executions, and people do: theirs may begin with what they like. No shell hears of them.
        is_written_as_read::<ExecutionName>(&given)?;
        if let Some(arn) = is_written_as_read::<ExecutionArn>(&given)? {
            prop_assert!(given.ends_with(arn.name().as_str()));
        }
    }

    #[test]
    fn a_version_that_is_read_is_written_so_that_it_can_be_read_again(given in mutated(["1.57.0", "1.57.0-0a1b2c3d"])) {
        if let Ok(version) = given.parse::<BottlerocketVersion>() {
            let written = version.to_string();
            prop_assert!(given.starts_with(&written), "{given:?} was read as {written}");
            prop_assert_eq!(written.parse::<BottlerocketVersion>(), Ok(version));
            prop_assert!(written.parse::<WantedVersion>().is_ok());
        }
    }

    #[test]
    fn a_configuration_is_refused_or_written_as_it_was_read(json in mutated_json(CONFIGURATIONS)) {
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
    fn a_configuration_that_is_no_json_is_refused(text in mutated([CONFIGURATIONS, "[]", "{}", "null", ""])) {
        let _ = CacheConfig::parse(&"web".parse().unwrap(), &text);
        let _ = ExecutionInput::cache_in(&text);
    }

    #[test]
    fn what_a_builder_prints_is_refused_or_understood(output in mutated(node_outputs())) {
        if let Ok(status) = output.parse::<ImageStatus>() {
            for other in &status.others {
                prop_assert!(is_one_word(other.name.as_str()), "{other:?}");
                let _ = (other.name.is_sandbox(), other.name.is_image_id());
            }
            let _ = status.disk.is_too_full();
            let wanted = status.disk.wanted_size(Bytes(u64::MAX));
            prop_assert!(wanted >= status.disk.wanted_size(Bytes(0)));
        }
        if let Ok(node) = output.parse::<ReadyNode>() {
            // They go into the manifest, and with it into events and onto people's terminals.
            for said in [&node.containerd_version, &node.kernel_version, &node.snapshotter] {
                prop_assert!((1..=64).contains(&said.len()) && !said.contains(char::is_control), "{said:?}");
            }
        }
        let _ = ReadyNode::waiting_for(&output);
    }
}
