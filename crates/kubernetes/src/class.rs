//! Node classes as the API returns them.

use std::collections::BTreeMap;
use std::fmt;

use kube::core::DynamicObject;
use prepull_domain::names::DATA_DEVICE;
use prepull_domain::{BottlerocketVersion, SnapshotId};
use serde::Serialize;
use serde_json::Value;

use crate::annotations::{self, InvalidAnnotation, OptIn, Ring};

/// A node class with annotations of prepull.
#[derive(Debug, Clone, PartialEq)]
pub enum Listed {
    /// The annotations are valid.
    OptedIn(Box<NodeClass>),
    /// An annotation is invalid. The class is left alone.
    Invalid {
        /// Name of the class.
        name: String,
        /// The problem.
        problem: InvalidAnnotation,
    },
}

/// A node class that opted in.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeClass {
    /// Name.
    pub name: String,
    /// Its annotations.
    pub opt_in: OptIn,
    /// Karpenter's verdict.
    pub readiness: Readiness,
    /// All annotations.
    pub(crate) annotations: BTreeMap<String, String>,
    /// Whether the class is being deleted. Karpenter's finalizer keeps it until its nodes are gone.
    pub(crate) deleting: bool,
    /// The spec.
    pub(crate) spec: Value,
}

/// Karpenter's verdict about the current generation of a class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "status", rename_all = "kebab-case")]
pub enum Readiness {
    /// Ready is True.
    Ready,
    /// Ready is False.
    NotReady {
        /// Cause.
        message: String,
    },
    /// Ready is Unknown or absent, or belongs to an earlier generation.
    Unknown {
        /// Cause.
        message: String,
    },
}

impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready => f.write_str("ready"),
            Self::NotReady { message } => write!(f, "not ready: {message}"),
            Self::Unknown { message } => write!(f, "not ready yet: {message}"),
        }
    }
}

impl Listed {
    /// Parses a class. `None` if it has no annotation of prepull, or belongs to another ring than `ring`.
    #[must_use]
    pub fn parse(object: &DynamicObject, ring: Option<&Ring>) -> Option<Self> {
        let name = object.metadata.name.clone().unwrap_or_default();
        let annotations = object.metadata.annotations.clone().unwrap_or_default();
        if !annotations::is_in_ring(&annotations, ring) {
            return None;
        }
        match OptIn::parse(&annotations) {
            Ok(opt_in) => Some(Self::OptedIn(Box::new(NodeClass {
                name,
                opt_in: opt_in?,
                readiness: readiness(object),
                annotations,
                deleting: object.metadata.deletion_timestamp.is_some(),
                spec: object.data["spec"].clone(),
            }))),
            Err(problem) => Some(Self::Invalid { name, problem }),
        }
    }

    /// Returns the name of the class.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::OptedIn(class) => &class.name,
            Self::Invalid { name, .. } => name,
        }
    }
}

impl NodeClass {
    /// Returns the snapshot that the class has now, also if its pointer has another one. `None` if it has no snapshot, an
    /// invalid ID, or several data volumes.
    #[must_use]
    pub fn snapshot(&self) -> Option<SnapshotId> {
        let mut volumes = self.data_volumes();
        match (volumes.next(), volumes.next()) {
            (Some((_, mapping)), None) => mapping["ebs"]["snapshotID"].as_str()?.parse().ok(),
            _ => None,
        }
    }

    /// Returns the data volumes with their indexes in `blockDeviceMappings`. A usable class has one.
    pub(crate) fn data_volumes(&self) -> impl Iterator<Item = (usize, &Value)> {
        let mappings = self.spec["blockDeviceMappings"].as_array();
        mappings
            .into_iter()
            .flatten()
            .enumerate()
            .filter(|(_, mapping)| mapping["deviceName"] == DATA_DEVICE)
    }

    /// Returns the AMI family: the field, or the family of the alias. Source: `EC2NodeClass.AMIFamily` in
    /// `pkg/apis/v1/ec2nodeclass.go` of aws/karpenter-provider-aws.
    pub(crate) fn ami_family(&self) -> &str {
        let alias = || {
            let terms = self.spec["amiSelectorTerms"].as_array()?;
            let alias = terms.iter().find_map(|term| term["alias"].as_str())?;
            alias.split('@').next()
        };
        match self.spec["amiFamily"].as_str().or_else(alias) {
            Some("bottlerocket") => "Bottlerocket",
            Some(family) => family,
            None => "Custom",
        }
    }

    /// Returns the oldest Bottlerocket release that an AMI term pins. `@latest`, names, IDs and tags do not show their
    /// release.
    pub(crate) fn oldest_release(&self) -> Option<BottlerocketVersion> {
        let terms = self.spec["amiSelectorTerms"].as_array();
        terms.into_iter().flatten().filter_map(pinned_release).min()
    }
}

/// Returns the Bottlerocket release of an AMI term with an alias or a public parameter. `ssmParameter` is a name or an
/// ARN (`SSMParameter` in `pkg/apis/v1/ec2nodeclass.go` of aws/karpenter-provider-aws).
fn pinned_release(term: &Value) -> Option<BottlerocketVersion> {
    let of_alias = || {
        let release = term["alias"].as_str()?.strip_prefix("bottlerocket@")?;
        release.trim_start_matches('v').parse().ok()
    };
    let of_parameter = || {
        let parameter = term["ssmParameter"].as_str()?;
        let (arn, path) = parameter.split_once("/aws/service/bottlerocket/")?;
        if !arn.is_empty() && !arn.ends_with(":parameter") {
            return None;
        }
        // The path continues with variant, architecture, release and `image_id`.
        path.split('/').nth(2)?.parse().ok()
    };
    of_alias().or_else(of_parameter)
}

/// Returns Karpenter's verdict about the current generation. A condition of an earlier generation says nothing about
/// it. Karpenter sets `observedGeneration` in each condition.
pub(crate) fn readiness(object: &DynamicObject) -> Readiness {
    let generation = object.metadata.generation.unwrap_or_default();
    let conditions = object.data["status"]["conditions"].as_array();
    let ready = conditions
        .into_iter()
        .flatten()
        .find(|condition| condition["type"] == "Ready");
    let Some(ready) = ready else {
        return Readiness::Unknown {
            message: "Karpenter has not set the condition Ready".to_owned(),
        };
    };
    if ready["observedGeneration"].as_i64() != Some(generation) {
        return Readiness::Unknown {
            message: format!("Karpenter has not processed generation {generation}"),
        };
    }
    let text = |field: &str| ready[field].as_str().filter(|text| !text.is_empty());
    let message = text("message")
        .or_else(|| text("reason"))
        .unwrap_or("Karpenter gives no cause")
        .to_owned();
    match ready["status"].as_str() {
        Some("True") => Readiness::Ready,
        Some("False") => Readiness::NotReady { message },
        _ => Readiness::Unknown { message },
    }
}
