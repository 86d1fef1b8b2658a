//! The resources that the server knows.

use serde_json::{Value, json};

use crate::status::Status;

/// A resource of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Resource {
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) plural: &'static str,
    pub(crate) singular: &'static str,
    pub(crate) short_names: &'static [&'static str],
    pub(crate) namespaced: bool,
    /// Whether a CRD defines the resource. Custom resources have a generation and require a resource version in a PUT.
    pub(crate) custom: bool,
    /// Fields for selectors, besides the name and the namespace.
    ///
    /// Source: `ToSelectableFields` in `pkg/registry/core/{pod,event,node}/strategy.go` of kubernetes/kubernetes.
    /// Karpenter's CRDs have no `selectableFields`.
    pub(crate) fields: &'static [&'static str],
}

pub(crate) const RESOURCES: [Resource; 11] = [
    Resource {
        group: "karpenter.k8s.aws",
        version: "v1",
        kind: "EC2NodeClass",
        plural: "ec2nodeclasses",
        singular: "ec2nodeclass",
        short_names: &["ec2nc", "ec2ncs"],
        namespaced: false,
        custom: true,
        fields: &[],
    },
    Resource {
        group: "karpenter.sh",
        version: "v1",
        kind: "NodePool",
        plural: "nodepools",
        singular: "nodepool",
        short_names: &[],
        namespaced: false,
        custom: true,
        fields: &[],
    },
    Resource {
        group: "karpenter.sh",
        version: "v1",
        kind: "NodeClaim",
        plural: "nodeclaims",
        singular: "nodeclaim",
        short_names: &[],
        namespaced: false,
        custom: true,
        fields: &[],
    },
    Resource {
        group: "",
        version: "v1",
        kind: "Node",
        plural: "nodes",
        singular: "node",
        short_names: &["no"],
        namespaced: false,
        custom: false,
        fields: &["spec.unschedulable"],
    },
    Resource {
        group: "",
        version: "v1",
        kind: "Pod",
        plural: "pods",
        singular: "pod",
        short_names: &["po"],
        namespaced: true,
        custom: false,
        fields: &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ],
    },
    Resource {
        group: "",
        version: "v1",
        kind: "Event",
        plural: "events",
        singular: "event",
        short_names: &["ev"],
        namespaced: true,
        custom: false,
        fields: &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "reason",
            "type",
            "source",
        ],
    },
    Resource {
        group: "apps",
        version: "v1",
        kind: "Deployment",
        plural: "deployments",
        singular: "deployment",
        short_names: &["deploy"],
        namespaced: true,
        custom: false,
        fields: &[],
    },
    Resource {
        group: "apps",
        version: "v1",
        kind: "StatefulSet",
        plural: "statefulsets",
        singular: "statefulset",
        short_names: &["sts"],
        namespaced: true,
        custom: false,
        fields: &[],
    },
    Resource {
        group: "apps",
        version: "v1",
        kind: "DaemonSet",
        plural: "daemonsets",
        singular: "daemonset",
        short_names: &["ds"],
        namespaced: true,
        custom: false,
        fields: &[],
    },
    Resource {
        group: "batch",
        version: "v1",
        kind: "Job",
        plural: "jobs",
        singular: "job",
        short_names: &[],
        namespaced: true,
        custom: false,
        fields: &[],
    },
    Resource {
        group: "batch",
        version: "v1",
        kind: "CronJob",
        plural: "cronjobs",
        singular: "cronjob",
        short_names: &["cj"],
        namespaced: true,
        custom: false,
        fields: &[],
    },
];

impl Resource {
    /// Returns the group and version as objects have it in `apiVersion`.
    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// Returns the resource with its group, as messages have it. Source: `GroupResource.String` of apimachinery.
    pub(crate) fn qualified(&self) -> String {
        if self.group.is_empty() {
            self.plural.to_owned()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }

    /// Whether the server updates the status through a subresource. Events have no status.
    pub(crate) fn has_status(&self) -> bool {
        self.kind != "Event"
    }

    fn described(&self) -> Value {
        json!({
            "name": self.plural,
            "singularName": self.singular,
            "namespaced": self.namespaced,
            "kind": self.kind,
            "shortNames": self.short_names,
            "verbs": ["create", "delete", "get", "list", "patch", "update"],
        })
    }
}

/// A path below `/api` or `/apis`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) resource: Resource,
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) status: bool,
}

/// Returns the target of a path, or `None` if no resource has it.
pub(crate) fn target(path: &str) -> Option<Target> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let (group, version, rest) = match parts[..] {
        ["api", version, ref rest @ ..] => ("", version, rest),
        ["apis", group, version, ref rest @ ..] => (group, version, rest),
        _ => return None,
    };
    // `/api/v1/namespaces/<namespace>/pods` is a path of a namespaced resource.
    let (namespace, rest) = match *rest {
        ["namespaces", namespace, _, ..] => (Some(namespace.to_owned()), &rest[2..]),
        _ => (None, rest),
    };
    let (plural, name, status) = match *rest {
        [plural] => (plural, None, false),
        [plural, name] => (plural, Some(name.to_owned()), false),
        [plural, name, "status"] => (plural, Some(name.to_owned()), true),
        _ => return None,
    };
    let resource = *RESOURCES
        .iter()
        .find(|known| (known.group, known.version, known.plural) == (group, version, plural))?;
    let scope_fits =
        resource.namespaced == namespace.is_some() || (resource.namespaced && name.is_none());
    (scope_fits && (!status || resource.has_status())).then_some(Target {
        resource,
        namespace,
        name,
        status,
    })
}

/// Returns the answer to a discovery request, which `kubectl` makes before each command.
///
/// Source: <https://kubernetes.io/docs/concepts/overview/kubernetes-api/#discovery-api>, unaggregated.
pub(crate) fn discovery(path: &str, installed: impl Fn(&str) -> bool) -> Option<Value> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let groups = ["karpenter.k8s.aws", "karpenter.sh"];
    match parts[..] {
        ["version"] => Some(json!({
            "major": "1", "minor": "33", "gitVersion": "v1.33.0-standin", "platform": "linux/amd64",
        })),
        ["api"] => Some(
            json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}),
        ),
        ["apis"] => {
            let groups: Vec<Value> = groups
                .into_iter()
                .filter(|group| installed(group))
                .map(|group| {
                    let version = json!({"groupVersion": format!("{group}/v1"), "version": "v1"});
                    json!({"name": group, "versions": [version], "preferredVersion": version})
                })
                .collect();
            Some(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
        }
        ["api", "v1"] => Some(resource_list("", "v1")),
        ["apis", group, "v1"] if groups.contains(&group) && installed(group) => {
            Some(resource_list(group, &format!("{group}/v1")))
        }
        _ => None,
    }
}

fn resource_list(group: &str, group_version: &str) -> Value {
    let mut resources = Vec::new();
    for resource in RESOURCES.iter().filter(|resource| resource.group == group) {
        resources.push(resource.described());
        if resource.has_status() {
            resources.push(json!({
                "name": format!("{}/status", resource.plural),
                "singularName": "",
                "namespaced": resource.namespaced,
                "kind": resource.kind,
                "verbs": ["get", "patch", "update"],
            }));
        }
    }
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources})
}

impl Target {
    /// Returns the name.
    pub(crate) fn name(&self) -> Result<&str, Status> {
        self.name
            .as_deref()
            .ok_or_else(|| Status::method_not_allowed(&self.resource))
    }
}
