//! `prepull nodeclass`: an `EC2NodeClass` with which Karpenter starts nodes from the published snapshot, and a `NodePool`
//! for it.

use std::fmt;

use clap::ValueEnum;
use prepull_aws::{Clients, parameters};
use prepull_domain::{Architecture, CacheConfig, CacheName, GiB, Manifest};
use prepull_estimate::{
    INITIALIZATION_RATE_QUOTA, MAX_INITIALIZATION_RATE, MIN_INITIALIZATION_RATE,
};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{Error, store};

/// The arguments of `prepull nodeclass`.
#[derive(Debug, Clone, clap::Args)]
pub struct NodeclassArgs {
    /// Use the published snapshot of this cache.
    pub cache: CacheName,
    /// Print only `x86_64` or `arm64`.
    #[arg(long)]
    pub architecture: Option<Architecture>,
    /// Set this volume initialization rate in MiB/s; 0 sets none.
    #[arg(long, value_name = "100-300", value_parser = rate, default_value_t = MAX_INITIALIZATION_RATE)]
    pub rate: u32,
    /// Add this many GiB to the data volume for the pods' data.
    #[arg(long, value_name = "GIB", default_value_t = 0)]
    pub headroom: u32,
    /// Print a `NodePool` for the node class, too.
    #[arg(long)]
    pub node_pool: bool,
    /// Replace nodes after a new snapshot, or leave them.
    #[arg(long, value_enum, default_value_t, requires = "node_pool")]
    pub replacement: Replacement,
    /// Print a class and a pool without the snapshot, too.
    ///
    /// They start the pods while the first node class is not ready.
    #[arg(long, requires = "node_pool")]
    pub fallback: bool,
}

/// Treatment of nodes with an older snapshot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Replacement {
    /// It replaces them within the budget.
    #[default]
    Rolling,
    /// It leaves them, also after any other drift.
    NewNodesOnly,
}

fn rate(given: &str) -> Result<u32, String> {
    match given.parse() {
        Ok(rate @ (0 | MIN_INITIALIZATION_RATE..=MAX_INITIALIZATION_RATE)) => Ok(rate),
        _ => Err(format!(
            "expected {MIN_INITIALIZATION_RATE} to {MAX_INITIALIZATION_RATE}, or 0 for none"
        )),
    }
}

/// The objects of one or several architectures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeClasses(Vec<Object>);

/// An object for Kubernetes.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Object {
    Class(Box<NodeClass>),
    Pool(NodePool),
}

/// A node class with the snapshot, or without it for the fall-back.
#[derive(Debug, Clone, PartialEq, Eq)]
struct NodeClass {
    config: CacheConfig,
    manifest: Manifest,
    rate: u32,
    size: GiB,
    is_fallback: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct NodePool {
    cache: CacheName,
    architecture: Architecture,
    replacement: Replacement,
    has_fallback: bool,
    is_fallback: bool,
}

/// Returns the objects for the arguments.
///
/// # Errors
/// If the cache does not exist, does not declare the architecture, has no published snapshot, or AWS refuses a call.
pub async fn report(clients: &Clients, args: &NodeclassArgs) -> Result<NodeClasses, Error> {
    let cache = &args.cache;
    let (_, config) = parameters::cache(clients, cache.as_str()).await?;
    let architectures = store::architectures(cache, &config, args.architecture)?;
    let mut objects = Vec::new();
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
        objects.extend(args.objects(&config, &manifest));
    }
    Ok(NodeClasses(objects))
}

impl NodeclassArgs {
    fn objects(&self, config: &CacheConfig, manifest: &Manifest) -> Vec<Object> {
        let fallbacks: &[bool] = if self.fallback {
            &[false, true]
        } else {
            &[false]
        };
        let classes = fallbacks.iter().map(|is_fallback| {
            Object::Class(Box::new(NodeClass {
                config: config.clone(),
                manifest: manifest.clone(),
                rate: self.rate,
                size: GiB(manifest.volume_size.0.saturating_add(self.headroom)),
                is_fallback: *is_fallback,
            }))
        });
        let pools = fallbacks.iter().filter(|_| self.node_pool);
        let pools = pools.map(|is_fallback| {
            Object::Pool(NodePool {
                cache: manifest.cache.clone(),
                architecture: manifest.architecture,
                replacement: self.replacement,
                has_fallback: self.fallback,
                is_fallback: *is_fallback,
            })
        });
        classes.chain(pools).collect()
    }
}

/// Returns the name of a class and of its pool. Kubernetes forbids `_` in names, so the name has Kubernetes' word for the
/// architecture.
fn name(cache: &CacheName, architecture: Architecture, is_fallback: bool) -> String {
    let suffix = if is_fallback { "-fallback" } else { "" };
    format!("{cache}-{}{suffix}", architecture.oci_name())
}

impl NodeClass {
    fn name(&self) -> String {
        name(
            &self.manifest.cache,
            self.manifest.architecture,
            self.is_fallback,
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

    /// Whether Karpenter sets a rate. It refuses one without a snapshot.
    fn has_rate(&self) -> bool {
        self.rate > 0 && !self.is_fallback
    }

    fn object(&self) -> Value {
        let volume = &self.config.volume;
        let (selector, ami) = self.ami();
        let mut data = json!({
            "volumeSize": format!("{}Gi", self.size.0),
            "volumeType": "gp3",
            "iops": volume.iops,
            "throughput": volume.throughput_mibps,
            "encrypted": true,
            "deleteOnTermination": true,
        });
        if !self.is_fallback {
            data["snapshotID"] = json!(self.manifest.snapshot_id);
        }
        if self.has_rate() {
            data["volumeInitializationRate"] = json!(self.rate);
        }
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

impl NodePool {
    /// Karpenter tries pools of a higher weight first. The fall-back has the lowest weight, which is the default.
    fn weight(&self) -> Option<u8> {
        (self.has_fallback && !self.is_fallback).then_some(10)
    }

    fn object(&self) -> Value {
        let name = name(&self.cache, self.architecture, self.is_fallback);
        let mut budgets = vec![json!({"nodes": "10%"})];
        if self.replacement == Replacement::NewNodesOnly {
            budgets.push(json!({"nodes": "0", "reasons": ["Drifted"]}));
        }
        let mut object = json!({
            "apiVersion": "karpenter.sh/v1",
            "kind": "NodePool",
            "metadata": {"name": name},
            "spec": {
                "disruption": {
                    "consolidationPolicy": "WhenEmptyOrUnderutilized",
                    "consolidateAfter": "0s",
                    "budgets": budgets,
                },
                "template": {"spec": {
                    "nodeClassRef": {"group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": name},
                    "requirements": [{
                        "key": "kubernetes.io/arch", "operator": "In", "values": [self.architecture.oci_name()],
                    }],
                    "taints": [{"key": "prepull/cache", "value": self.cache, "effect": "NoSchedule"}],
                }},
            },
        });
        if let Some(weight) = self.weight() {
            object["spec"]["weight"] = json!(weight);
        }
        object
    }
}

impl Serialize for NodeClasses {
    /// Returns the objects for Kubernetes, as a list if there are several.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let items = self.0.iter().map(|object| match object {
            Object::Class(class) => class.object(),
            Object::Pool(pool) => pool.object(),
        });
        let items: Vec<Value> = items.collect();
        match &items[..] {
            [only] => only.serialize(serializer),
            _ => json!({"apiVersion": "v1", "kind": "List", "items": items}).serialize(serializer),
        }
    }
}

impl fmt::Display for NodeClasses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, object) in self.0.iter().enumerate() {
            if index > 0 {
                writeln!(f, "---")?;
            }
            match object {
                Object::Class(class) => class.fmt(f)?,
                Object::Pool(pool) => pool.fmt(f)?,
            }
        }
        Ok(())
    }
}

impl NodeClass {
    fn introduction(&self) -> String {
        let Manifest {
            cache,
            architecture,
            images,
            completed_at,
            ..
        } = &self.manifest;
        if self.is_fallback {
            return "# The same node class without the snapshot, for the fall-back pool."
                .to_owned();
        }
        format!(
            "\
# Snapshot of cache {cache} for {architecture}: {} images, completed {completed_at}.
# Nodes of another architecture need their own node class and node pool.",
            images.len()
        )
    }
}

impl fmt::Display for NodeClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Manifest { variant, node, .. } = &self.manifest;
        let volume = &self.config.volume;
        let (selector, ami) = self.ami();
        writeln!(
            f,
            "\
{introduction}
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
      ebs:",
            introduction = self.introduction(),
            name = self.name(),
            version = node.bottlerocket_version,
            kubernetes = variant.kubernetes_version(),
        )?;
        if !self.is_fallback {
            writeln!(f, "        snapshotID: {}", self.manifest.snapshot_id)?;
        }
        writeln!(
            f,
            "        # At least the snapshot's size. The kubelet removes images above 85 % usage, so leave room for the pods' data.
        volumeSize: {size}Gi
        volumeType: gp3
        iops: {iops}
        throughput: {throughput}",
            size = self.size.0,
            iops = volume.iops,
            throughput = volume.throughput_mibps,
        )?;
        if self.has_rate() {
            writeln!(
                f,
                "        # In MiB/s. Needs Karpenter 1.5; AWS charges per GiB of snapshot. Without it, EBS loads each block on first read,
        # and a large image can start later than after a pull. The default quota of {INITIALIZATION_RATE_QUOTA} MiB/s is enough for {nodes} nodes
        # that start at the same time. The launch of another node fails.
        volumeInitializationRate: {rate}",
                nodes = INITIALIZATION_RATE_QUOTA / self.rate,
                rate = self.rate,
            )?;
        }
        writeln!(f, "        encrypted: true")?;
        if let Some(key) = &volume.kms_key_id {
            writeln!(
                f,
                "        # Karpenter's controller needs kms:CreateGrant, kms:Decrypt, kms:DescribeKey and
        # kms:GenerateDataKeyWithoutPlaintext for this key.
        kmsKeyID: {key}"
            )?;
        }
        writeln!(f, "        deleteOnTermination: true")
    }
}

impl fmt::Display for NodePool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = name(&self.cache, self.architecture, self.is_fallback);
        writeln!(
            f,
            "\
apiVersion: karpenter.sh/v1
kind: NodePool
metadata:
  name: {name}
spec:"
        )?;
        if let Some(weight) = self.weight() {
            writeln!(
                f,
                "  # Karpenter tries this pool before the fall-back.\n  weight: {weight}"
            )?;
        }
        writeln!(
            f,
            "  disruption:
    consolidationPolicy: WhenEmptyOrUnderutilized
    consolidateAfter: 0s
    budgets:
      - nodes: 10%"
        )?;
        match self.replacement {
            Replacement::Rolling => writeln!(
                f,
                "      # A new snapshot makes nodes drift. Karpenter replaces them within this budget."
            )?,
            Replacement::NewNodesOnly => writeln!(
                f,
                "      # A new snapshot makes nodes drift. They stay, and so do nodes with an older AMI.
      - nodes: \"0\"
        reasons:
          - Drifted"
            )?,
        }
        writeln!(
            f,
            "  template:
    spec:
      nodeClassRef:
        group: karpenter.k8s.aws
        kind: EC2NodeClass
        name: {name}
      requirements:
        # The alias of the AMI has both architectures, and the snapshot only this one.
        - key: kubernetes.io/arch
          operator: In
          values:
            - {architecture}
      # Without a taint, other pods fill the data volume with their images.
      taints:
        - key: prepull/cache
          value: {cache}
          effect: NoSchedule",
            architecture = self.architecture.oci_name(),
            cache = self.cache,
        )
    }
}
