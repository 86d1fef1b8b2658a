//! Karpenter's `NodePool`.

use std::collections::BTreeSet;

use prepull_domain::Architecture;

use super::Object;
use super::tree::{At, Cursor, Place};

/// The label with the architecture of a node.
const ARCH_LABEL: &str = "kubernetes.io/arch";

/// A pool of nodes.
#[derive(Debug, Clone)]
pub struct NodePool {
    /// The object.
    pub object: Object,
    /// Name of its `EC2NodeClass`. `None` if it uses another kind of class.
    pub class: Option<String>,
    /// Architectures of its nodes. `None` without a requirement.
    pub architectures: Option<At<BTreeSet<Architecture>>>,
    /// Place of its requirements.
    pub requirements: Place,
    /// Number of taints.
    pub taints: usize,
    /// Place of its taints.
    pub taints_place: Place,
    /// Weight. Karpenter prefers pools of higher weight.
    pub weight: u64,
}

impl NodePool {
    /// Reads a `NodePool`.
    pub fn read(object: Object, root: &Cursor) -> Self {
        let spec = root.at(&["spec", "template", "spec"]);
        let missing = root.place().join("spec.template.spec");
        let place = |key: &str| match spec.as_ref() {
            Some(spec) => spec
                .get(key)
                .map_or_else(|| spec.place().join(key), |field| field.place()),
            None => missing.join(key),
        };
        let list = |key: &str| spec.as_ref().map(|spec| spec.list(key)).unwrap_or_default();
        let class = spec.as_ref().and_then(|spec| spec.get("nodeClassRef"));
        let karpenter = |class: &Cursor| {
            class
                .text_of("kind")
                .is_none_or(|kind| kind == "EC2NodeClass")
                && class
                    .text_of("group")
                    .is_none_or(|group| group == "karpenter.k8s.aws")
        };
        let label = root.at(&["spec", "template", "metadata", "labels"]);
        Self {
            class: class
                .filter(karpenter)
                .and_then(|class| class.text_of("name")),
            architectures: architectures(&list("requirements"), label.as_ref()),
            requirements: place("requirements"),
            taints: list("taints").len(),
            taints_place: place("taints"),
            weight: root
                .get("spec")
                .and_then(|spec| spec.number_at("weight"))
                .map_or(0, |weight| weight.value),
            object,
        }
    }
}

/// Evaluates the requirements for the architecture. All of them must hold, and a label is a requirement, too.
fn architectures(
    requirements: &[Cursor],
    labels: Option<&Cursor>,
) -> Option<At<BTreeSet<Architecture>>> {
    let mut allowed: BTreeSet<_> = Architecture::ALL.into();
    let mut first: Option<Place> = None;
    let mut keep = |place: Place, matches: &dyn Fn(&str) -> bool| {
        allowed.retain(|architecture| matches(architecture.oci_name()));
        first.get_or_insert(place);
    };
    for requirement in requirements {
        if requirement.text_of("key").as_deref() != Some(ARCH_LABEL) {
            continue;
        }
        let values: Vec<_> = requirement
            .list("values")
            .iter()
            .filter_map(Cursor::text)
            .collect();
        let listed = |name: &str| values.iter().any(|value| value == name);
        match requirement.text_of("operator").as_deref() {
            Some("In") => keep(requirement.place(), &listed),
            Some("NotIn") => keep(requirement.place(), &|name| !listed(name)),
            Some("DoesNotExist") => keep(requirement.place(), &|_| false),
            // `Exists` allows every architecture.
            _ => keep(requirement.place(), &|_| true),
        }
    }
    if let Some(label) = labels.and_then(|labels| labels.text_at(ARCH_LABEL)) {
        keep(label.place.clone(), &|name| name == label.value);
    }
    first.map(|place| At {
        value: allowed,
        place,
    })
}
