//! Rules of the CRD of EC2NodeClass that matter to prepull: the volumes, the AMI family and the required fields.
//!
//! Source: `pkg/apis/crds/karpenter.k8s.aws_ec2nodeclasses.yaml` of aws/karpenter-provider-aws at commit 1d92708
//! (August 2026). Patterns and messages of rules are quoted from there. The form of the messages around them is that of
//! the API server (`staging/src/k8s.io/apimachinery/pkg/util/validation/field/errors.go`).

use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

pub use crate::status::Violation;

/// Pattern of `volumeSize`. It allows only the units Gi, G, Ti and T.
pub const VOLUME_SIZE: &str = "^((?:[1-9][0-9]{0,3}|[1-4][0-9]{4}|[5][0-8][0-9]{3}|59000)Gi|(?:[1-9][0-9]{0,3}|[1-5][0-9]{4}|[6][0-3][0-9]{3}|64000)G|([1-9]||[1-5][0-7]|58)Ti|([1-9]||[1-5][0-9]|6[0-3]|64)T)$";

const AMI_FAMILIES: [&str; 7] = [
    "AL2",
    "AL2023",
    "Bottlerocket",
    "Custom",
    "Windows2019",
    "Windows2022",
    "Windows2025",
];
const VOLUME_TYPES: [&str; 7] = ["standard", "io1", "io2", "gp2", "sc1", "st1", "gp3"];

static VOLUME_SIZES: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(VOLUME_SIZE).expect("this is a pattern"));

/// Returns the rules that an EC2NodeClass violates. As in the real server, the rules in CEL apply only to an object
/// without violations of types, enumerations and required fields (`hasBlockingErr` in
/// `staging/src/k8s.io/apiextensions-apiserver/pkg/registry/customresource/strategy.go`).
#[must_use]
pub fn violations(object: &Value) -> Vec<Violation> {
    let mut found = Violations::default();
    let Some(spec) = object.get("spec") else {
        // `spec` is optional in the CRD.
        return Vec::new();
    };
    found.schema(spec);
    if !found.0.iter().any(|violation| blocks_cel(violation.kind)) {
        found.cel(spec);
    }
    found.0
}

fn blocks_cel(kind: &str) -> bool {
    matches!(
        kind,
        "FieldValueNotSupported"
            | "FieldValueRequired"
            | "FieldValueTooMany"
            | "FieldValueTypeInvalid"
    )
}

#[derive(Debug, Default)]
struct Violations(Vec<Violation>);

impl Violations {
    fn add(&mut self, field: &str, kind: &'static str, message: String) {
        self.0.push(Violation {
            field: field.to_owned(),
            kind,
            message,
        });
    }

    fn schema(&mut self, spec: &Value) {
        for field in [
            "amiSelectorTerms",
            "securityGroupSelectorTerms",
            "subnetSelectorTerms",
        ] {
            let path = format!("spec.{field}");
            match spec.get(field) {
                None => self.add(&path, "FieldValueRequired", "Required value".to_owned()),
                Some(Value::Array(terms)) => {
                    if terms.is_empty() && field == "amiSelectorTerms" {
                        let message = format!(
                            "Invalid value: 0: {path} in body should have at least 1 items"
                        );
                        self.add(&path, "FieldValueInvalid", message);
                    }
                    self.at_most(&path, terms.len(), 30);
                }
                Some(other) => self.type_invalid(&path, other, "array"),
            }
        }
        self.one_of("spec.amiFamily", spec.get("amiFamily"), &AMI_FAMILIES);
        self.one_of(
            "spec.instanceStorePolicy",
            spec.get("instanceStorePolicy"),
            &["RAID0"],
        );
        let path = "spec.blockDeviceMappings";
        match spec.get("blockDeviceMappings") {
            None => {}
            Some(Value::Array(mappings)) => {
                self.at_most(path, mappings.len(), 50);
                for (index, mapping) in mappings.iter().enumerate() {
                    self.mapping(&format!("{path}[{index}]"), mapping);
                }
            }
            Some(other) => self.type_invalid(path, other, "array"),
        }
    }

    fn mapping(&mut self, path: &str, mapping: &Value) {
        self.typed(path, "deviceName", mapping, "string");
        self.typed(path, "rootVolume", mapping, "boolean");
        let Some(ebs) = mapping.get("ebs") else {
            return;
        };
        let path = format!("{path}.ebs");
        if !ebs.is_object() {
            self.type_invalid(&path, ebs, "object");
            return;
        }
        for (field, kind) in [
            ("deleteOnTermination", "boolean"),
            ("encrypted", "boolean"),
            ("iops", "integer"),
            ("kmsKeyID", "string"),
            ("snapshotID", "string"),
            ("throughput", "integer"),
            ("volumeInitializationRate", "integer"),
            ("volumeSize", "string"),
            ("volumeType", "string"),
        ] {
            self.typed(&path, field, ebs, kind);
        }
        if let Some(rate) = ebs.get("volumeInitializationRate").and_then(Value::as_i64) {
            let field = format!("{path}.volumeInitializationRate");
            let bound = match rate {
                ..100 => Some("greater than or equal to 100"),
                100..=300 => None,
                301.. => Some("less than or equal to 300"),
            };
            if let Some(bound) = bound {
                let message = format!("Invalid value: {rate}: {field} in body should be {bound}");
                self.add(&field, "FieldValueInvalid", message);
            }
        }
        if let Some(size) = ebs.get("volumeSize").and_then(Value::as_str)
            && !VOLUME_SIZES.is_match(size)
        {
            let field = format!("{path}.volumeSize");
            let message =
                format!("Invalid value: \"{size}\": {field} in body should match '{VOLUME_SIZE}'");
            self.add(&field, "FieldValueInvalid", message);
        }
        self.one_of(
            &format!("{path}.volumeType"),
            ebs.get("volumeType"),
            &VOLUME_TYPES,
        );
    }

    fn cel(&mut self, spec: &Value) {
        let mut rule = |field: &str, holds: bool, message: &str| {
            if !holds {
                let message = format!("Invalid value: {message}");
                self.add(field, "FieldValueInvalid", message);
            }
        };
        let mappings = spec["blockDeviceMappings"].as_array();
        for (index, mapping) in mappings.into_iter().flatten().enumerate() {
            let Some(ebs) = mapping.get("ebs") else {
                continue;
            };
            let field = format!("spec.blockDeviceMappings[{index}].ebs");
            rule(
                &field,
                ebs.get("snapshotID").is_some() || ebs.get("volumeSize").is_some(),
                "snapshotID or volumeSize must be defined",
            );
            rule(
                &field,
                ebs.get("volumeInitializationRate").is_none()
                    || ebs["snapshotID"].as_str().is_some_and(|id| !id.is_empty()),
                "snapshotID must be set when volumeInitializationRate is set",
            );
        }
        let roots = mappings
            .into_iter()
            .flatten()
            .filter(|mapping| mapping["rootVolume"] == true)
            .count();
        rule(
            "spec.blockDeviceMappings",
            roots <= 1,
            "must have only one blockDeviceMappings with rootVolume",
        );
        rule(
            "spec",
            spec.get("role").is_some() != spec.get("instanceProfile").is_some(),
            "must specify exactly one of ['role', 'instanceProfile']",
        );
        let alias = spec["amiSelectorTerms"]
            .as_array()
            .into_iter()
            .flatten()
            .find_map(|term| term["alias"].as_str());
        let family = spec["amiFamily"].as_str();
        rule(
            "spec",
            alias.is_some() || family.is_some(),
            "must specify amiFamily if amiSelectorTerms does not contain an alias",
        );
        // The CRD has this rule for each family. Only Bottlerocket matters here.
        let bottlerocket =
            alias.is_some_and(|alias| alias.split('@').next() == Some("bottlerocket"));
        rule(
            "spec",
            !bottlerocket
                || family.is_none_or(|family| ["Custom", "Bottlerocket"].contains(&family)),
            "if set, amiFamily must be 'Bottlerocket' or 'Custom' when using a Bottlerocket alias",
        );
    }

    fn at_most(&mut self, path: &str, items: usize, maximum: usize) {
        if items > maximum {
            let message = format!("Too many: {items}: must have at most {maximum} items");
            self.add(path, "FieldValueTooMany", message);
        }
    }

    fn one_of(&mut self, path: &str, value: Option<&Value>, supported: &[&str]) {
        let Some(value) = value else { return };
        if !value.as_str().is_some_and(|text| supported.contains(&text)) {
            let supported = supported
                .iter()
                .map(|name| format!("\"{name}\""))
                .collect::<Vec<_>>()
                .join(", ");
            let message = format!("Unsupported value: {value}: supported values: {supported}");
            self.add(path, "FieldValueNotSupported", message);
        }
    }

    fn typed(&mut self, path: &str, field: &str, object: &Value, expected: &str) {
        let Some(value) = object.get(field) else {
            return;
        };
        let fits = match expected {
            "string" => value.is_string(),
            "boolean" => value.is_boolean(),
            _ => value.is_i64() || value.is_u64(),
        };
        if !fits {
            self.type_invalid(&format!("{path}.{field}"), value, expected);
        }
    }

    fn type_invalid(&mut self, path: &str, value: &Value, expected: &str) {
        let kind = match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(_) => "number",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        let message = format!(
            "Invalid value: \"{kind}\": {path} in body must be of type {expected}: \"{kind}\""
        );
        self.add(path, "FieldValueTypeInvalid", message);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn class(ebs: &Value) -> Value {
        json!({"spec": {
            "role": "node",
            "amiSelectorTerms": [{"alias": "bottlerocket@v1.57.0"}],
            "subnetSelectorTerms": [{"tags": {"a": "b"}}],
            "securityGroupSelectorTerms": [{"tags": {"a": "b"}}],
            "blockDeviceMappings": [{"deviceName": "/dev/xvdb", "ebs": ebs}],
        }})
    }

    #[test]
    fn volume_rules_are_those_of_the_crd() {
        for (ebs, message) in [
            (json!({"snapshotID": "snap-1"}), ""),
            (json!({"volumeSize": "50Gi"}), ""),
            (json!({"volumeSize": "59000Gi"}), ""),
            (json!({"volumeSize": "1T"}), ""),
            (
                json!({"snapshotID": "snap-1", "volumeInitializationRate": 300}),
                "",
            ),
            (json!({}), "snapshotID or volumeSize must be defined"),
            (
                json!({"iops": 3000}),
                "snapshotID or volumeSize must be defined",
            ),
            (
                json!({"volumeSize": "50Gi", "volumeInitializationRate": 300}),
                "snapshotID must be set when volumeInitializationRate is set",
            ),
            (
                json!({"snapshotID": "s", "volumeInitializationRate": 301}),
                "less than or equal to 300",
            ),
            (
                json!({"snapshotID": "s", "volumeInitializationRate": 99}),
                "greater than or equal to 100",
            ),
            (json!({"volumeSize": "50"}), "should match"),
            (json!({"volumeSize": "500Mi"}), "should match"),
            (json!({"volumeSize": "59001Gi"}), "should match"),
            (json!({"volumeSize": 50}), "must be of type string"),
            (
                json!({"snapshotID": "s", "volumeType": "gp4"}),
                "supported values",
            ),
            (
                json!({"snapshotID": "s", "encrypted": "yes"}),
                "must be of type boolean",
            ),
        ] {
            let found = violations(&class(&ebs));
            let messages: Vec<_> = found.iter().map(|one| one.message.as_str()).collect();
            if message.is_empty() {
                assert_eq!(messages, Vec::<&str>::new(), "{ebs}");
            } else {
                assert_eq!(messages.len(), 1, "{ebs}: {messages:?}");
                assert!(messages[0].contains(message), "{ebs}: {messages:?}");
            }
        }
    }

    #[test]
    fn class_rules_are_those_of_the_crd() {
        for (field, value, message) in [
            (
                "instanceProfile",
                json!("x"),
                "exactly one of ['role', 'instanceProfile']",
            ),
            (
                "amiFamily",
                json!("AL2023"),
                "amiFamily must be 'Bottlerocket' or 'Custom'",
            ),
            ("amiFamily", json!("Ubuntu"), "Unsupported value"),
            ("instanceStorePolicy", json!("RAID1"), "Unsupported value"),
            ("amiSelectorTerms", json!([]), "at least 1 items"),
            (
                "blockDeviceMappings",
                json!([{"rootVolume": true}, {"rootVolume": true}]),
                "only one blockDeviceMappings with rootVolume",
            ),
        ] {
            let mut class = class(&json!({"snapshotID": "snap-1"}));
            class["spec"][field] = value.clone();
            let found = violations(&class);
            assert!(
                found.iter().any(|one| one.message.contains(message)),
                "{field} {value}: {found:?}"
            );
        }
    }
}
