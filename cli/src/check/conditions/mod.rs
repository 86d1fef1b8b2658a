//! The conditions: their numbers, severities and explanations, and the functions that find them.
//!
//! Numbers are stable. 25 and 29 are unused.

mod cluster;
mod runtime;
#[cfg(test)]
mod tests;
mod volume;

use prepull_domain::{Architecture, Manifest, names};
use prepull_kubernetes::nodes::HitRate;

use super::Severity;
use super::input::pool::NodePool;
use super::input::template::{Dialect, Mapping, NodeTemplate, SnapshotText};
use super::input::tree::Place;
use super::input::user_data::UserData;
use super::input::{Inputs, Object};
use super::known::{Cache, Target};

/// A condition under which nodes do not use the snapshot of a cache well.
pub struct Condition {
    /// Stable number.
    pub number: u8,
    /// Severity. A finding can have another one.
    pub severity: Severity,
    /// Title.
    pub title: &'static str,
    /// Reason why it matters.
    pub reason: &'static str,
    /// Remedy in general.
    pub remedy: &'static str,
    /// Source of the fact.
    pub source: &'static str,
    /// Finds the condition.
    find: for<'a> fn(&Subject<'a>) -> Vec<Problem<'a>>,
}

/// An occurrence of a condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem<'a> {
    /// Object. `None` is the cache.
    pub object: Option<&'a Object>,
    /// Place in the object.
    pub place: Place,
    /// Predicate of the place: `is missing, so …`.
    pub message: String,
    /// Severity, if it differs from the condition's.
    pub severity: Option<Severity>,
    /// Remedy, if it is more exact than the condition's.
    pub remedy: Option<String>,
}

impl<'a> Problem<'a> {
    fn new(object: &'a Object, place: &Place, message: impl Into<String>) -> Self {
        Self {
            object: Some(object),
            place: place.clone(),
            message: message.into(),
            severity: None,
            remedy: None,
        }
    }

    pub(super) fn of_cache(path: &str, message: impl Into<String>) -> Self {
        Self {
            object: None,
            place: Place {
                path: path.to_owned(),
                line: 0,
            },
            message: message.into(),
            severity: None,
            remedy: None,
        }
    }

    fn with_severity(self, severity: Severity) -> Self {
        Self {
            severity: Some(severity),
            ..self
        }
    }

    fn with_remedy(self, remedy: impl Into<String>) -> Self {
        Self {
            remedy: Some(remedy.into()),
            ..self
        }
    }
}

/// Everything that a condition can compare.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The cache.
    pub cache: &'a Cache,
    /// The objects.
    pub inputs: &'a Inputs,
    /// Kubernetes version of the cluster, `1.NN`.
    pub kubernetes: Option<&'a str>,
    /// Number of nodes that start at the same time.
    pub burst: Option<u32>,
    /// The nodes of the cluster.
    pub hit_rate: Option<&'a HitRate>,
}

impl<'a> Subject<'a> {
    /// Returns the findings of every condition.
    pub fn problems(&self) -> impl Iterator<Item = (&'static Condition, Problem<'a>)> {
        CONDITIONS.iter().flat_map(|condition| {
            let problems = (condition.find)(self).into_iter();
            problems.map(move |problem| (condition, problem))
        })
    }

    /// Returns every node class and launch template that should use the cache.
    fn all_templates(&self) -> impl Iterator<Item = &'a NodeTemplate> + use<'a> {
        let subject = *self;
        subject
            .inputs
            .templates
            .iter()
            .filter(move |template| !subject.is_plain_fallback(template))
    }

    /// Returns those of them that run Bottlerocket. Condition 13 reports the others.
    fn templates(&self) -> impl Iterator<Item = &'a NodeTemplate> + use<'a> {
        self.all_templates().filter(|template| {
            let user_data = template.user_data.as_ref().map(|at| &at.value);
            let family = template.ami.family.as_ref();
            family.is_none_or(|family| family.value == "bottlerocket")
                && !matches!(user_data, Some(UserData::Unreadable(_)))
        })
    }

    /// Returns the data volumes that start from a snapshot.
    fn data_volumes(&self) -> impl Iterator<Item = (&'a NodeTemplate, &'a Mapping)> + use<'a> {
        self.templates().filter_map(|template| {
            let data = template.volume(names::DATA_DEVICE)?;
            let snapshot = data.snapshot.as_ref()?;
            (!matches!(snapshot.value, SnapshotText::Invalid(_))).then_some((template, data))
        })
    }

    /// Returns the Karpenter pools.
    fn pools(&self) -> impl Iterator<Item = &'a NodePool> + use<'a> {
        self.inputs.pools.iter()
    }

    /// Returns the pools whose node class has a snapshot.
    fn cached_pools(&self) -> impl Iterator<Item = (&'a NodeTemplate, &'a NodePool)> + use<'a> {
        let inputs = self.inputs;
        let templates = self.templates().filter(|template| has_snapshot(template));
        templates
            .flat_map(move |template| inputs.pools_of(template).map(move |pool| (template, pool)))
    }

    /// Whether a node class deliberately has no snapshot: all its pools take pods only if a pool with a snapshot fails.
    fn is_plain_fallback(&self, template: &NodeTemplate) -> bool {
        let cached = |pool: &&NodePool| {
            let mut templates = self.inputs.templates.iter();
            templates.any(|other| {
                has_snapshot(other)
                    && other.dialect == Dialect::Karpenter
                    && pool.class.as_ref() == Some(&other.object.name)
            })
        };
        let mut pools = self.inputs.pools_of(template).peekable();
        !has_snapshot(template)
            && pools.peek().is_some()
            && pools.all(|pool| {
                self.pools()
                    .filter(cached)
                    .any(|main| cluster::is_fallback(pool, main))
            })
    }

    /// Returns the target of a template: by its snapshot, its AMI, its pools, or because there is only one.
    fn target(&self, template: &NodeTemplate) -> Option<&'a Target> {
        let targets = &self.cache.targets;
        let of = |architecture| {
            targets
                .iter()
                .find(|target| target.architecture() == architecture)
        };
        if let Some(architecture) = self.architecture_of_snapshot(template) {
            return of(architecture);
        }
        let pools = self
            .inputs
            .pools_of(template)
            .filter_map(|pool| pool.architectures.as_ref());
        let allowed: Vec<Architecture> = pools.flat_map(|at| at.value.iter().copied()).collect();
        match (&allowed[..], &targets[..]) {
            ([first, rest @ ..], _) if rest.iter().all(|other| other == first) => of(*first),
            (_, [only]) => Some(only),
            _ => None,
        }
    }

    /// Returns the architecture of a template, if its snapshot or its AMI shows it.
    fn architecture_of_snapshot(&self, template: &NodeTemplate) -> Option<Architecture> {
        let by_id = snapshot(template).and_then(|id| {
            let target = self
                .cache
                .targets
                .iter()
                .find(|target| target.manifest_of(id).is_some())?;
            Some(target.architecture())
        });
        by_id.or_else(|| {
            let mut references = template.ami.references.iter();
            references.find_map(|reference| reference.value.architecture)
        })
    }

    /// Returns the manifest of the template's snapshot. If it is unknown, returns that of the pointer.
    fn manifest(&self, template: &NodeTemplate) -> Option<&'a Manifest> {
        let target = self.target(template)?;
        let own = snapshot(template).and_then(|id| target.manifest_of(id));
        Some(own.unwrap_or(&target.manifest))
    }

    /// Returns the remedy that sets the snapshot of the pointer.
    fn use_pointer(&self, template: &NodeTemplate) -> String {
        match self.target(template) {
            Some(target) => format!("Set it to `{}`", target.manifest.snapshot_id),
            None => format!(
                "Set it to the snapshot in `prepull nodeclass {}`",
                self.cache.name
            ),
        }
    }
}

fn snapshot(template: &NodeTemplate) -> Option<&prepull_domain::SnapshotId> {
    template
        .volume(names::DATA_DEVICE)?
        .snapshot
        .as_ref()?
        .value
        .id()
}

fn has_snapshot(template: &NodeTemplate) -> bool {
    template
        .mappings
        .iter()
        .any(|mapping| mapping.snapshot.is_some())
}

/// Returns the condition with `number`.
pub fn condition(number: u8) -> Option<&'static Condition> {
    CONDITIONS
        .iter()
        .find(|condition| condition.number == number)
}

/// All conditions, by number. docs/check.md has the same table.
pub const CONDITIONS: [Condition; 30] = [
    Condition {
        number: 1,
        severity: Severity::Error,
        title: "no snapshot for the data volume",
        reason: "Bottlerocket keeps images on /dev/xvdb. Without a snapshot, the volume is empty and nodes pull every image.",
        remedy: "Add /dev/xvdb with the snapshot, as `prepull nodeclass` prints it",
        source: "Bottlerocket, README.md, \"Default volumes\"",
        find: volume::snapshot_missing,
    },
    Condition {
        number: 2,
        severity: Severity::Error,
        title: "snapshot under another device name",
        reason: "Bottlerocket mounts only /dev/xvdb as its data volume. A snapshot under another name is a volume that nothing reads.",
        remedy: "Set the device name to `/dev/xvdb`",
        source: "Bottlerocket, README.md, \"Default volumes\"",
        find: volume::wrong_device,
    },
    Condition {
        number: 3,
        severity: Severity::Warning,
        title: "ephemeral storage of another size",
        reason: "Karpenter computes a node's ephemeral storage from `volumeSize` of /dev/xvdb, or from the volume with \
                 `rootVolume`. Without a size it assumes 20 GiB, so it places too few pods.",
        remedy: "Set `volumeSize` of /dev/xvdb",
        source: "karpenter-provider-aws 1.14, pkg/providers/instancetype/types.go, `ephemeralStorage`",
        find: volume::size_missing,
    },
    Condition {
        number: 4,
        severity: Severity::Error,
        title: "volume smaller than the snapshot",
        reason: "EC2 refuses a volume that is smaller than its snapshot, with `InvalidBlockDeviceMapping`. No node launches.",
        remedy: "Set the size to at least the size of the snapshot",
        source: "karpenter-provider-aws, issue 7928",
        find: volume::too_small,
    },
    Condition {
        number: 5,
        severity: Severity::Warning,
        title: "no initialization rate",
        reason: "EBS loads the blocks of a new volume from S3 at their first read. Large images then start later than after a \
                 pull. A rate loads them in the background, and Fast Snapshot Restore does so in advance.",
        remedy: "Set an initialization rate from 100 to 300 MiB/s, unless the snapshot has Fast Snapshot Restore",
        source: "EBS user guide, \"Initialize Amazon EBS volumes\"",
        find: volume::rate_missing,
    },
    Condition {
        number: 6,
        severity: Severity::Warning,
        title: "rates above the quota",
        reason: "An account has a quota for the rates of all volumes that initialize at the same time in a Region. A launch \
                 beyond it fails.",
        remedy: "Set a lower rate, or request a higher quota for the cumulative volume initialization rate",
        source: "EBS user guide, \"Quotas for Amazon EBS\"",
        find: volume::rate_quota,
    },
    Condition {
        number: 7,
        severity: Severity::Warning,
        title: "root volume missing or small",
        reason: "A list of volumes replaces Karpenter's defaults. Without /dev/xvda, the root volume has 2 GiB, is gp2, and \
                 has only the account's default encryption.",
        remedy: "Add /dev/xvda with at least 4 GiB, gp3 and `encrypted`",
        source: "karpenter-provider-aws, issue 8747",
        find: volume::root_volume,
    },
    Condition {
        number: 8,
        severity: Severity::Error,
        title: "RAID0 of the instance store",
        reason: "With `instanceStorePolicy: RAID0`, Karpenter mounts the instance store over containerd's directory. The \
                 images of the snapshot are hidden.",
        remedy: "Remove `instanceStorePolicy`",
        source: "karpenter-provider-aws 1.14, pkg/providers/amifamily/bootstrap/bottlerocket.go",
        find: runtime::raid0,
    },
    Condition {
        number: 9,
        severity: Severity::Error,
        title: "images above the kubelet's limit",
        reason: "The kubelet removes unused images from `imageGCHighThresholdPercent` (85) of the volume on. It rounds the \
                 free part down, so 84.1 % counts as 85. The file system is slightly smaller than the volume.",
        remedy: "Increase the size of the volume, or remove images from the cache",
        source: "Kubernetes, pkg/kubelet/images/image_gc_manager.go, `GarbageCollect`",
        find: volume::image_gc,
    },
    Condition {
        number: 10,
        severity: Severity::Error,
        title: "another snapshotter",
        reason: "Bottlerocket removes all images if the snapshotter is not the one that unpacked them.",
        remedy: "Remove `settings.container-runtime.snapshotter`",
        source: "Bottlerocket documentation, settings.container-runtime.snapshotter",
        find: runtime::snapshotter,
    },
    Condition {
        number: 11,
        severity: Severity::Error,
        title: "containerd on the instance store",
        reason: "`apiclient ephemeral-storage bind` mounts the instance store over directories. Over /var/lib/containerd, it \
                 hides the images. Since 1.46.0, this is a default directory.",
        remedy: "Bind only other directories: `--dirs /var/lib/kubelet /var/log/pods`",
        source: "karpenter-provider-aws 1.14, pkg/providers/version/version.go, `SupportsDefaultBind`",
        find: runtime::bind,
    },
    Condition {
        number: 12,
        severity: Severity::Warning,
        title: "removal of images by age",
        reason: "The kubelet removes images that no pod has used for `image-maximum-gc-age`. The age starts with the kubelet. \
                 Karpenter drops the setting, so only launch templates can have it.",
        remedy: "Remove `image-maximum-gc-age`, or set it above the lifetime of a node",
        source: "Kubernetes documentation, \"Garbage collection for unused container images\"",
        find: runtime::maximum_age,
    },
    Condition {
        number: 13,
        severity: Severity::Error,
        title: "not Bottlerocket",
        reason: "The snapshot is the data volume of Bottlerocket. Other systems keep images on their root volume.",
        remedy: "Use Bottlerocket: an alias `bottlerocket@…`, or `amiFamily: Bottlerocket` with its settings as TOML",
        source: "karpenter-provider-aws 1.14, pkg/apis/v1/ec2nodeclass.go",
        find: runtime::family,
    },
    Condition {
        number: 14,
        severity: Severity::Error,
        title: "pool without the architecture",
        reason: "An alias gives AMIs of both architectures, and a snapshot has images of one. A node of the other one has \
                 images that it cannot run.",
        remedy: "Add the requirement `kubernetes.io/arch` with `In` and the architecture of the snapshot",
        source: "karpenter-provider-aws 1.14, pkg/providers/amifamily/bottlerocket.go",
        find: cluster::architecture,
    },
    Condition {
        number: 15,
        severity: Severity::Error,
        title: "Bottlerocket older than the builder's",
        reason: "An older kernel may not mount the XFS of a newer one, and an older containerd may not read its metadata.",
        remedy: "Use the builder's release or a later one",
        source: "prepull, `bottlerocket_version` in infra/README.md",
        find: runtime::older_release,
    },
    Condition {
        number: 16,
        severity: Severity::Error,
        title: "another Kubernetes version or flavor",
        reason: "The variant determines containerd's metadata and the features of XFS. Nodes older than the builder may not \
                 read the volume. Newer ones usually do (a warning), and FIPS variants have a kernel of their own.",
        remedy: "Set the cache's `variant` to that of the nodes, and build",
        source: "prepull, docs/limits.md",
        find: runtime::other_variant,
    },
    Condition {
        number: 17,
        severity: Severity::Warning,
        title: "another KMS key",
        reason: "EBS encrypts the volume again with the other key. The launch needs the rights of both keys.",
        remedy: "Remove the key, or use the key of the cache",
        source: "EBS user guide, \"How Amazon EBS encryption works\"",
        find: volume::other_key,
    },
    Condition {
        number: 18,
        severity: Severity::Error,
        title: "encryption turned off",
        reason: "A volume from an encrypted snapshot is always encrypted. EC2 refuses a request that says otherwise.",
        remedy: "Remove `encrypted` from the data volume, or set it to true in a node class",
        source: "EBS user guide, \"How Amazon EBS encryption works\"",
        find: volume::unencrypted,
    },
    Condition {
        number: 19,
        severity: Severity::Error,
        title: "unknown or unusable snapshot",
        reason: "No node launches from a deleted snapshot. An unfinished or rejected one can have incomplete images, and one \
                 of another cache has other images.",
        remedy: "Use the snapshot of the pointer",
        source: "karpenter-provider-aws, issue 8148",
        find: volume::unusable_snapshot,
    },
    Condition {
        number: 20,
        severity: Severity::Warning,
        title: "node class behind the pointer",
        reason: "The snapshot has older images, and retention deletes it in the end. Retention sees the snapshot of a \
                 node class only if `prepull sync` registers it.",
        remedy: "Use the snapshot of the pointer",
        source: "prepull, docs/nodes.md",
        find: volume::other_snapshot,
    },
    Condition {
        number: 21,
        severity: Severity::Error,
        title: "class or pool not ready",
        reason: "Karpenter launches no nodes from a class that is not ready. Until its conditions describe the newest \
                 generation, the newest change is not in effect.",
        remedy: "Read the reason with `kubectl describe`, and the log of Karpenter's controller",
        source: "karpenter-provider-aws 1.14, pkg/apis/v1/ec2nodeclass_status.go",
        find: cluster::status,
    },
    Condition {
        number: 22,
        severity: Severity::Error,
        title: "Karpenter too old",
        reason: "Karpenter has `volumeInitializationRate` since 1.5, and `ssmParameter` of an AMI since 1.4. An older one refuses \
                 the node class, or ignores the field.",
        remedy: "Update Karpenter, or remove the field",
        source: "karpenter-provider-aws, releases 1.4.0 and 1.5.0",
        find: cluster::old_karpenter,
    },
    Condition {
        number: 23,
        severity: Severity::Note,
        title: "image is pulled always",
        reason: "With `imagePullPolicy: Always`, each start of a container asks the registry for the digest. Cached layers \
                 are not pulled again, but a registry that is out of reach stops the pod.",
        remedy: "Set `imagePullPolicy: IfNotPresent`, and use a tag other than `latest`",
        source: "Kubernetes documentation, \"Images\"",
        find: cluster::pull_always,
    },
    Condition {
        number: 24,
        severity: Severity::Error,
        title: "image not in the snapshot",
        reason: "containerd finds an image only by its full name. A pod with another tag, registry or digest pulls it, even \
                 if the layers are the same. Cached images without a workload are a note.",
        remedy: "Add the image to the cache's `images`, or correct the name in the pod",
        source: "github.com/distribution/reference, `ParseDockerRef`, which containerd uses",
        find: cluster::images,
    },
    Condition {
        number: 26,
        severity: Severity::Warning,
        title: "pool without a taint",
        reason: "Without a taint, pods with other images run on the nodes. Their images fill the volume until the kubelet \
                 removes images.",
        remedy: "Add a taint, and a toleration to the pods of the cache",
        source: "Kubernetes, pkg/kubelet/images/image_gc_manager.go",
        find: cluster::taint,
    },
    Condition {
        number: 27,
        severity: Severity::Note,
        title: "no fall-back pool",
        reason: "If the node class is not ready, pods wait. A pool of lower weight with a class without a snapshot takes them. \
                 It does not help if the launches fail.",
        remedy: "Add a pool of lower weight with a plain node class",
        source: "karpenter-provider-aws, issue 7967",
        find: cluster::fallback,
    },
    Condition {
        number: 28,
        severity: Severity::Warning,
        title: "launch template behind the pointer",
        reason: "A node group copies a version of the template. It starts nodes from a newer snapshot only after a new \
                 version and an update.",
        remedy: "Create a version with the snapshot of the pointer, and update the node group",
        source: "prepull, docs/nodes.md",
        find: volume::other_template_snapshot,
    },
    Condition {
        number: 30,
        severity: Severity::Error,
        title: "EKS Auto Mode",
        reason: "The NodeClass of EKS Auto Mode has no field for a snapshot. Its nodes cannot start from one.",
        remedy: "Use Karpenter's EC2NodeClass or a managed node group",
        source: "aws/containers-roadmap, issue 2524",
        find: cluster::auto_mode,
    },
    Condition {
        number: 31,
        severity: Severity::Warning,
        title: "nodes without their cached images",
        reason: "The node started from a snapshot of the cache, and pulled an image of the snapshot, or does not list it. \
                 Something removed or hid the images.",
        remedy: "See `prepull nodes`, and conditions 8 to 12",
        source: "the kubelet's events, and `status.images` of the node",
        find: cluster::missed_images,
    },
    Condition {
        number: 32,
        severity: Severity::Note,
        title: "volume still initializes",
        reason: "EBS has not loaded all blocks of the snapshot yet. Until then, the first read of a block is slow.",
        remedy: "Wait, or set a higher initialization rate",
        source: "EC2 API reference, `DescribeVolumeStatus`",
        find: cluster::initialization,
    },
];
