//! Reads the objects that `prepull check` compares with a cache.

use kube::api::ListParams;
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::error::Error;

/// Node classes and node pools. A cluster has only the kinds of its Karpenter.
const NODE_KINDS: [(&str, &str, &str, &str); 3] = [
    ("karpenter.k8s.aws", "v1", "EC2NodeClass", "ec2nodeclasses"),
    ("karpenter.sh", "v1", "NodePool", "nodepools"),
    ("eks.amazonaws.com", "v1", "NodeClass", "nodeclasses"),
];

/// Objects that create pods, and pods.
const WORKLOAD_KINDS: [(&str, &str, &str, &str); 6] = [
    ("apps", "v1", "Deployment", "deployments"),
    ("apps", "v1", "StatefulSet", "statefulsets"),
    ("apps", "v1", "DaemonSet", "daemonsets"),
    ("batch", "v1", "Job", "jobs"),
    ("batch", "v1", "CronJob", "cronjobs"),
    ("", "v1", "Pod", "pods"),
];

/// Label of Karpenter's `Deployment`. Source: the Helm chart in aws/karpenter-provider-aws, `karpenter.selectorLabels`.
const KARPENTER: &str = "app.kubernetes.io/name=karpenter";

/// Returns the node classes and node pools of a cluster, Karpenter's `Deployment`, and the workloads of `namespaces`, as one
/// `List`. Pods that another object controls are left out, because that object has their images.
///
/// # Errors
/// [`Error`]. A kind that the cluster does not have is no error.
pub async fn objects(client: &Client, namespaces: &[String]) -> Result<Value, Error> {
    let mut items = Vec::new();
    for kind in NODE_KINDS {
        items.extend(list(client, kind, None, &ListParams::default()).await?);
    }
    let karpenter = ListParams::default().labels(KARPENTER);
    items.extend(list(client, WORKLOAD_KINDS[0], None, &karpenter).await?);
    for namespace in namespaces {
        for kind in WORKLOAD_KINDS {
            let found = list(client, kind, Some(namespace), &ListParams::default()).await?;
            let controlled = |object: &Value| object["metadata"]["ownerReferences"].is_array();
            items.extend(found.into_iter().filter(|object| !controlled(object)));
        }
    }
    Ok(json!({"apiVersion": "v1", "kind": "List", "items": items}))
}

async fn list(
    client: &Client,
    (group, version, kind, plural): (&str, &str, &str, &'static str),
    namespace: Option<&String>,
    parameters: &ListParams,
) -> Result<Vec<Value>, Error> {
    let gvk = GroupVersionKind::gvk(group, version, kind);
    let resource = ApiResource::from_gvk_with_plural(&gvk, plural);
    let api: Api<DynamicObject> = match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    let found = match api.list(parameters).await {
        Ok(found) => found.items,
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(Vec::new()),
        Err(error) => return Err(Error::of_list(plural, &error)),
    };
    let with_type = |object: DynamicObject| {
        let mut object = serde_json::to_value(object).expect("an object has string keys");
        // The items of a list have no type.
        object["apiVersion"] = json!(resource.api_version);
        object["kind"] = json!(kind);
        object
    };
    Ok(found.into_iter().map(with_type).collect())
}
