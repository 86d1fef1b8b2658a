//! `prepull nodeclass`: an `EC2NodeClass` with which Karpenter starts nodes from the published snapshot.

use std::fmt;

use prepull_aws::{Clients, parameters};
use prepull_domain::{Architecture, CacheConfig, CacheName, Manifest};
use prepull_estimate::MAX_INITIALIZATION_RATE;
use serde::Serialize;
use serde_json::{Value, json};

use crate::{Error, store};

/// One `EC2NodeClass` for each architecture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeClasses(Vec<NodeClass>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct NodeClass {
    config: CacheConfig,
    manifest: Manifest,
}

/// Returns the node classes of `cache` for `architecture`, or for all its architectures.
///
/// # Errors
/// If the cache does not exist, does not declare the architecture, has no published snapshot, or AWS refuses a call.
pub async fn report(
    clients: &Clients,
    cache: &CacheName,
    architecture: Option<Architecture>,
) -> Result<NodeClasses, Error> {
    let (_, config) = parameters::cache(clients, cache.as_str()).await?;
    let architectures = store::architectures(cache, &config, architecture)?;
    let mut classes = Vec::new();
    for architecture in architectures {
        let missing = |what: &str| {
            Error::Missing(format!(
                "cannot print the node class of cache `{cache}`: it has no {what} for {architecture}. {}",
                store::publish_one(cache)
            ))
        };
        let snapshot = store::published(clients, cache, architecture)
            .await?
            .ok_or_else(|| missing("published snapshot"))?;
        let manifest = store::manifest(clients, cache, architecture, &snapshot)
            .await?
            .ok_or_else(|| missing("manifest"))?;
        classes.push(NodeClass {
            config: config.clone(),
            manifest,
        });
    }
    Ok(NodeClasses(classes))
}

impl NodeClass {
    /// Kubernetes forbids `_` in names, so the name has Kubernetes' word for the architecture.
    fn name(&self) -> String {
        format!(
            "{}-{}",
            self.manifest.cache,
            self.manifest.architecture.oci_name()
        )
    }

    /// The AMI: an alias, or a public parameter if the AMI has no alias.
    fn ami(&self) -> (&'static str, String) {
        let Manifest {
            variant,
            architecture,
            node,
            ..
        } = &self.manifest;
        let version = &node.bottlerocket_version;
        if variant.to_string().ends_with("-fips") {
            (
                "ssmParameter",
                format!("/aws/service/bottlerocket/{variant}/{architecture}/{version}/image_id"),
            )
        } else {
            ("alias", format!("bottlerocket@v{version}"))
        }
    }
}

impl Serialize for NodeClasses {
    /// Returns the objects for Kubernetes, as a list if there are several.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let items: Vec<Value> = self.0.iter().map(NodeClass::object).collect();
        match &items[..] {
            [only] => only.serialize(serializer),
            _ => json!({"apiVersion": "v1", "kind": "List", "items": items}).serialize(serializer),
        }
    }
}

impl NodeClass {
    fn object(&self) -> Value {
        let volume = &self.config.volume;
        let (selector, ami) = self.ami();
        let mut data = json!({
            "snapshotID": self.manifest.snapshot_id,
            "volumeSize": format!("{}Gi", self.manifest.volume_size.0),
            "volumeType": "gp3",
            "iops": volume.iops,
            "throughput": volume.throughput_mibps,
            "volumeInitializationRate": MAX_INITIALIZATION_RATE,
            "encrypted": true,
            "deleteOnTermination": true,
        });
        if let Some(key) = &volume.kms_key_id {
            data["kmsKeyID"] = json!(key);
        }
        json!({
            "apiVersion": "karpenter.k8s.aws/v1",
            "kind": "EC2NodeClass",
            "metadata": {"name": self.name()},
            "spec": {
                "amiFamily": "Bottlerocket",
                "amiSelectorTerms": [{selector: ami}],
                "role": "KarpenterNodeRole-CLUSTER",
                "subnetSelectorTerms": [{"tags": {"karpenter.sh/discovery": "CLUSTER"}}],
                "securityGroupSelectorTerms": [{"tags": {"karpenter.sh/discovery": "CLUSTER"}}],
                "blockDeviceMappings": [
                    {"deviceName": "/dev/xvda", "ebs": {
                        "volumeSize": "4Gi", "volumeType": "gp3", "encrypted": true, "deleteOnTermination": true,
                    }},
                    {"deviceName": "/dev/xvdb", "ebs": data},
                ],
            },
        })
    }
}

impl fmt::Display for NodeClasses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, class) in self.0.iter().enumerate() {
            if index > 0 {
                writeln!(f, "---")?;
            }
            class.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for NodeClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Manifest {
            cache,
            architecture,
            snapshot_id,
            volume_size,
            variant,
            node,
            images,
            completed_at,
            ..
        } = &self.manifest;
        let volume = &self.config.volume;
        let (selector, ami) = self.ami();
        writeln!(
            f,
            "\
# Snapshot of cache {cache} for {architecture}: {images} images, completed {completed_at}.
# Nodes of another architecture need their own node class and node pool.
apiVersion: karpenter.k8s.aws/v1
kind: EC2NodeClass
metadata:
  name: {name}
spec:
  amiFamily: Bottlerocket
  amiSelectorTerms:
    # Built on {variant} {version} for Kubernetes {kubernetes}. Nodes can run this release or a later one.
    - {selector}: {ami}
  # Adapt to your cluster: the nodes' role, subnets and security groups.
  role: KarpenterNodeRole-CLUSTER
  subnetSelectorTerms:
    - tags:
        karpenter.sh/discovery: CLUSTER
  securityGroupSelectorTerms:
    - tags:
        karpenter.sh/discovery: CLUSTER
  # Leave `instanceStorePolicy` unset: with RAID0, containerd does not use this volume and its images.
  blockDeviceMappings:
    - deviceName: /dev/xvda
      ebs:
        volumeSize: 4Gi
        volumeType: gp3
        encrypted: true
        deleteOnTermination: true
    - deviceName: /dev/xvdb
      ebs:
        snapshotID: {snapshot_id}
        # At least the snapshot's size. The kubelet removes images above 85 % usage, so leave room for the pods' data.
        volumeSize: {size}Gi
        volumeType: gp3
        iops: {iops}
        throughput: {throughput}
        # In MiB/s. Needs Karpenter 1.5; AWS charges per GiB of snapshot. Without it, EBS loads each block on first read,
        # and a large image can start later than after a pull.
        volumeInitializationRate: {MAX_INITIALIZATION_RATE}
        encrypted: true",
            images = images.len(),
            name = self.name(),
            version = node.bottlerocket_version,
            kubernetes = variant.kubernetes_version(),
            size = volume_size.0,
            iops = volume.iops,
            throughput = volume.throughput_mibps,
        )?;
        if let Some(key) = &volume.kms_key_id {
            writeln!(f, "        kmsKeyID: {key}")?;
        }
        writeln!(f, "        deleteOnTermination: true")
    }
}
