//! A cluster with Karpenter, as far as `prepull sync` needs one. Its API server is a stand-in.

use std::io::Write as _;
use std::process::Command;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use prepull_domain::names::DATA_DEVICE;
use prepull_domain::{Architecture, GiB, InstanceId, SnapshotId};
use prepull_kubernetes_standin::{Karpenter, Server};
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use crate::World;

/// Path of the node classes.
const CLASSES: &str = "/apis/karpenter.k8s.aws/v1/ec2nodeclasses";

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    server: Server,
    kubeconfig: NamedTempFile,
}

impl Cluster {
    /// Starts the API server, and writes a kubeconfig.
    ///
    /// # Errors
    /// Fails if no port or no file can be opened.
    pub async fn start() -> Result<Self> {
        let server = Server::start().await?;
        let mut kubeconfig = NamedTempFile::new()?;
        kubeconfig.write_all(server.kubeconfig().as_bytes())?;
        Ok(Self { server, kubeconfig })
    }

    /// Returns the `prepull` command, configured for this cluster and the local cloud of `world`.
    #[must_use]
    pub fn cli(&self, world: &World) -> Command {
        let mut command = world.cli();
        command.env("KUBECONFIG", self.kubeconfig.path());
        command
    }

    /// Creates the node class that `prepull nodeclass --output json` has printed, with the annotations that opt in. Returns
    /// its name.
    ///
    /// # Errors
    /// Fails if the object has no name.
    pub fn create_class(
        &self,
        mut printed: Value,
        cache: &str,
        architecture: Architecture,
    ) -> Result<String> {
        printed["metadata"]["annotations"] =
            json!({"prepull/cache": cache, "prepull/architecture": architecture.as_str()});
        self.server.create(CLASSES, &printed);
        let name = printed["metadata"]["name"].as_str();
        Ok(name.context("the node class has no name")?.to_owned())
    }

    /// Adds a node, and a pod that has found `image` on it, with the objects that the kubelet writes.
    pub fn add_pod(&self, node: &InstanceId, image: &str) {
        self.server.create(
            "/api/v1/nodes",
            &json!({
                "apiVersion": "v1", "kind": "Node", "metadata": {"name": "node"},
                "spec": {"providerID": format!("aws:///eu-west-1a/{node}")},
            }),
        );
        self.server.create(
            "/api/v1/namespaces/default/pods",
            &json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": "pod", "namespace": "default"},
                "spec": {"nodeName": "node", "containers": [{"name": "main", "image": image}]},
            }),
        );
        let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let pod = self.server.get("/api/v1/namespaces/default/pods/pod");
        let object = json!({
            "kind": "Pod", "namespace": "default", "name": "pod", "fieldPath": "spec.containers{main}",
            "uid": pod.unwrap_or_default()["metadata"]["uid"],
        });
        self.server.create(
            "/api/v1/namespaces/default/events",
            &json!({
                "apiVersion": "v1", "kind": "Event", "metadata": {"name": "pulled", "namespace": "default"},
                "reason": "Pulled", "type": "Normal", "involvedObject": object,
                "message": format!("Container image \"{image}\" already present on machine"),
                "source": {"component": "kubelet", "host": "node"},
                "firstTimestamp": now, "lastTimestamp": now, "count": 1,
            }),
        );
    }

    /// Returns a node class.
    ///
    /// # Errors
    /// Fails if it does not exist.
    pub fn class(&self, name: &str) -> Result<Value> {
        let class = self.server.get(&format!("{CLASSES}/{name}"));
        class.with_context(|| format!("node class {name} does not exist"))
    }

    /// Returns the snapshot and the size of a node class' data volume, with which Karpenter would start a node.
    ///
    /// # Errors
    /// Fails if the class has no such volume.
    pub fn data_volume(&self, name: &str) -> Result<(SnapshotId, GiB)> {
        let class = self.class(name)?;
        let mappings = class["spec"]["blockDeviceMappings"].as_array();
        let volume = mappings
            .into_iter()
            .flatten()
            .find(|mapping| mapping["deviceName"] == DATA_DEVICE);
        let ebs = &volume.context("the node class has no data volume")?["ebs"];
        let snapshot = ebs["snapshotID"].as_str().context("no snapshotID")?;
        let size = ebs["volumeSize"].as_str().unwrap_or_default();
        let size = size.strip_suffix("Gi").context("volumeSize is not in Gi")?;
        Ok((snapshot.parse()?, GiB(size.parse()?)))
    }

    /// Removes an annotation of a node class, as a person would.
    pub fn remove_annotation(&self, name: &str, annotation: &str) {
        let change = json!({"metadata": {"annotations": {annotation: null}}});
        self.server.merge(&format!("{CLASSES}/{name}"), &change);
    }

    /// Sets the behaviour of Karpenter.
    pub fn set_karpenter(&self, karpenter: Karpenter) {
        self.server.set_karpenter(karpenter);
    }

    /// Returns how many requests have asked for a change.
    #[must_use]
    pub fn writes(&self) -> usize {
        self.server.writes().len()
    }
}
