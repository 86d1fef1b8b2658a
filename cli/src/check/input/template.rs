//! Descriptions of nodes: Karpenter's `EC2NodeClass` and EC2's launch templates.

use prepull_domain::{Architecture, BottlerocketVersion, Bytes, GiB, SnapshotId};

use super::Object;
use super::quantity;
use super::tree::{At, Cursor, Place};
use super::user_data::UserData;

/// The description of nodes that start from a snapshot.
#[derive(Debug, Clone)]
pub struct NodeTemplate {
    /// The object.
    pub object: Object,
    /// The fields' names.
    pub dialect: Dialect,
    /// The list of volumes.
    pub mappings_place: Place,
    /// The volumes.
    pub mappings: Vec<Mapping>,
    /// The AMI.
    pub ami: Ami,
    /// The user data.
    pub user_data: Option<At<UserData>>,
    /// Karpenter's policy for the instance store.
    pub instance_store_policy: Option<At<String>>,
    /// Karpenter's `imageGCHighThresholdPercent`.
    pub image_gc_high_percent: Option<At<u64>>,
}

/// The API that a description is written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Karpenter's `EC2NodeClass`.
    Karpenter,
    /// EC2's JSON.
    Ec2,
    /// Terraform's `aws_launch_template`.
    Terraform,
}

/// The names of the fields of an API.
pub struct Fields {
    /// List of volumes.
    pub mappings: &'static str,
    device: &'static str,
    ebs: &'static str,
    /// Snapshot of a volume.
    pub snapshot: &'static str,
    /// Size of a volume.
    pub size: &'static str,
    /// Initialization rate of a volume.
    pub rate: &'static str,
    encrypted: &'static str,
    key: &'static str,
}

impl Dialect {
    /// Returns the names of the fields.
    pub fn fields(self) -> Fields {
        match self {
            Self::Karpenter => Fields {
                mappings: "blockDeviceMappings",
                device: "deviceName",
                ebs: "ebs",
                snapshot: "snapshotID",
                size: "volumeSize",
                rate: "volumeInitializationRate",
                encrypted: "encrypted",
                key: "kmsKeyID",
            },
            Self::Ec2 => Fields {
                mappings: "BlockDeviceMappings",
                device: "DeviceName",
                ebs: "Ebs",
                snapshot: "SnapshotId",
                size: "VolumeSize",
                rate: "VolumeInitializationRate",
                encrypted: "Encrypted",
                key: "KmsKeyId",
            },
            Self::Terraform => Fields {
                mappings: "block_device_mappings",
                device: "device_name",
                ebs: "ebs",
                snapshot: "snapshot_id",
                size: "volume_size",
                rate: "volume_initialization_rate",
                encrypted: "encrypted",
                key: "kms_key_id",
            },
        }
    }
}

/// A volume of a node.
#[derive(Debug, Clone)]
pub struct Mapping {
    /// Place of the volume's EBS fields.
    pub place: Place,
    /// Device name.
    pub device: Option<At<String>>,
    /// Place of Karpenter's `rootVolume`, if it is true.
    pub root_volume: Option<Place>,
    /// Snapshot of the volume.
    pub snapshot: Option<At<SnapshotText>>,
    /// Size of the volume.
    pub size: Option<At<Bytes>>,
    /// Initialization rate in MiB/s.
    pub rate: Option<At<u64>>,
    /// Whether the volume is encrypted.
    pub encrypted: Option<At<bool>>,
    /// KMS key.
    pub key: Option<At<String>>,
}

impl Mapping {
    /// Whether the volume is the device `name`. EC2 also accepts names without `/dev/`, but Bottlerocket's AMI has full ones.
    pub fn is(&self, name: &str) -> bool {
        self.device
            .as_ref()
            .is_some_and(|device| device.value == name)
    }
}

/// The text in the field of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotText {
    /// An ID.
    Id(SnapshotId),
    /// A variable that another tool replaces, for example `${SNAPSHOT_ID}`, or a value of Terraform after the apply.
    Variable,
    /// Other text.
    Invalid(String),
}

impl SnapshotText {
    fn parse(text: &str) -> Self {
        match text.parse() {
            Ok(id) => Self::Id(id),
            Err(_) if text.contains(['$', '{', '<']) => Self::Variable,
            Err(_) => Self::Invalid(text.to_owned()),
        }
    }

    /// Returns the ID, if it is known.
    pub fn id(&self) -> Option<&SnapshotId> {
        match self {
            Self::Id(id) => Some(id),
            _ => None,
        }
    }
}

/// The AMI of nodes, as far as its reference shows.
#[derive(Debug, Clone)]
pub struct Ami {
    /// Place of the first reference, or of the missing one.
    pub place: Place,
    /// Family in lower case: Karpenter's `amiFamily`, or the family of the alias. Launch templates have none.
    pub family: Option<At<String>>,
    /// References to AMIs.
    pub references: Vec<At<AmiReference>>,
}

/// A reference to an AMI.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AmiReference {
    /// Text of the reference.
    pub text: String,
    /// Release of Bottlerocket, if it is pinned.
    pub release: Option<BottlerocketVersion>,
    /// Kubernetes minor version.
    pub minor: Option<u16>,
    /// Whether the variant is a FIPS variant, if the reference shows it.
    pub fips: Option<bool>,
    /// Architecture.
    pub architecture: Option<Architecture>,
}

impl AmiReference {
    /// Parses Karpenter's alias, such as `bottlerocket@v1.57.0`. An alias gives AMIs of both architectures and never FIPS.
    ///
    /// Source: `DescribeImageQuery` in `pkg/providers/amifamily/bottlerocket.go` of karpenter-provider-aws.
    fn alias(text: &str) -> Self {
        let version = text.split_once('@').map_or("", |(_, version)| version);
        Self {
            text: text.to_owned(),
            release: version.trim_start_matches('v').parse().ok(),
            fips: Some(false),
            ..Self::default()
        }
    }

    /// Parses the name of an AMI or of Bottlerocket's public parameter.
    fn name(text: &str) -> Self {
        let minor = text.split_once("aws-k8s-1.").and_then(|(_, rest)| {
            let end = rest
                .find(|c: char| !c.is_ascii_digit())
                .unwrap_or(rest.len());
            rest[..end].parse().ok()
        });
        let mut parts = text.split(['/', '-']);
        Self {
            text: text.to_owned(),
            release: parts.find_map(|part| part.trim_start_matches('v').parse().ok()),
            minor,
            fips: minor.map(|_| text.contains("-fips")),
            architecture: if text.contains("x86_64") {
                Some(Architecture::X86_64)
            } else if text.contains("arm64") || text.contains("aarch64") {
                Some(Architecture::Arm64)
            } else {
                None
            },
        }
    }
}

impl NodeTemplate {
    /// Reads an `EC2NodeClass`.
    pub fn karpenter(object: Object, root: &Cursor) -> Result<Self, (Place, String)> {
        let spec = root.get("spec").unwrap_or_else(|| root.clone());
        let dialect = Dialect::Karpenter;
        let mut references = Vec::new();
        let mut family = spec.text_at("amiFamily");
        for term in spec.list("amiSelectorTerms") {
            if let Some(At { value, place }) = term.text_at("alias") {
                if family.is_none() {
                    let name = value.split('@').next().unwrap_or_default();
                    family = Some(At {
                        value: name.to_owned(),
                        place: place.clone(),
                    });
                }
                references.push(At {
                    value: AmiReference::alias(&value),
                    place,
                });
            }
            for field in ["ssmParameter", "name"] {
                references.extend(term.text_at(field).map(|at| At {
                    value: AmiReference::name(&at.value),
                    place: at.place,
                }));
            }
        }
        let terms = spec.get("amiSelectorTerms");
        Ok(Self {
            mappings_place: list_place(&spec, dialect),
            mappings: mappings(&spec, dialect)?,
            ami: Ami {
                place: terms.map_or_else(|| spec.place().join("amiFamily"), |terms| terms.place()),
                family: family.map(|at| At {
                    value: at.value.to_lowercase(),
                    ..at
                }),
                references,
            },
            user_data: spec.text_at("userData").map(|at| At {
                value: UserData::parse(&at.value),
                place: at.place,
            }),
            instance_store_policy: spec.text_at("instanceStorePolicy"),
            image_gc_high_percent: spec
                .get("kubelet")
                .and_then(|kubelet| kubelet.number_at("imageGCHighThresholdPercent")),
            object,
            dialect,
        })
    }

    /// Reads the data of a launch template.
    pub fn launch_template(
        object: Object,
        data: &Cursor,
        dialect: Dialect,
    ) -> Result<Self, (Place, String)> {
        let (image, user_data) = match dialect {
            Dialect::Terraform => ("image_id", "user_data"),
            _ => ("ImageId", "UserData"),
        };
        let reference = data.text_at(image).map(|at| At {
            value: AmiReference::name(&at.value),
            place: at.place,
        });
        Ok(Self {
            mappings_place: list_place(data, dialect),
            mappings: mappings(data, dialect)?,
            ami: Ami {
                place: data.place().join(image),
                family: None,
                references: reference.into_iter().collect(),
            },
            user_data: data.text_at(user_data).map(|at| At {
                value: UserData::parse_base64(&at.value),
                place: at.place,
            }),
            instance_store_policy: None,
            image_gc_high_percent: None,
            object,
            dialect,
        })
    }

    /// Returns the volume with the device name `name`.
    pub fn volume(&self, name: &str) -> Option<&Mapping> {
        self.mappings.iter().find(|mapping| mapping.is(name))
    }
}

fn list_place(data: &Cursor, dialect: Dialect) -> Place {
    let name = dialect.fields().mappings;
    data.get(name)
        .map_or_else(|| data.place().join(name), |list| list.place())
}

fn mappings(data: &Cursor, dialect: Dialect) -> Result<Vec<Mapping>, (Place, String)> {
    let fields = dialect.fields();
    data.list(fields.mappings)
        .iter()
        .map(|mapping| {
            let ebs = mapping.block(fields.ebs);
            let ebs = ebs.as_ref().unwrap_or(mapping);
            Ok(Mapping {
                place: ebs.place(),
                device: mapping.text_at(fields.device),
                root_volume: mapping
                    .bool_at("rootVolume")
                    .filter(|root| root.value)
                    .map(|root| root.place),
                snapshot: snapshot(ebs, fields.snapshot),
                size: size(ebs, dialect)?,
                rate: ebs.number_at(fields.rate).filter(|rate| rate.value > 0),
                encrypted: ebs.bool_at(fields.encrypted),
                key: ebs.text_at(fields.key),
            })
        })
        .collect()
}

fn snapshot(ebs: &Cursor, field: &str) -> Option<At<SnapshotText>> {
    if let Some(unknown) = ebs.get(field).filter(Cursor::is_unknown) {
        return Some(At {
            value: SnapshotText::Variable,
            place: unknown.place(),
        });
    }
    let At { value, place } = ebs.text_at(field)?;
    let value = SnapshotText::parse(&value);
    Some(At { value, place })
}

/// Returns the size of a volume: a quantity in Karpenter, a number of GiB in EC2. Terraform's state has 0 for no size.
fn size(ebs: &Cursor, dialect: Dialect) -> Result<Option<At<Bytes>>, (Place, String)> {
    let Some(At { value, place }) = ebs.text_at(dialect.fields().size) else {
        return Ok(None);
    };
    let size = match dialect {
        _ if value.contains('$') => return Ok(None),
        Dialect::Karpenter => quantity::bytes(&value),
        _ => value
            .parse()
            .map(|size| GiB(size).bytes())
            .map_err(|_| format!("`{value}` is not a number of GiB. Write a number such as `50`")),
    };
    match size {
        Ok(Bytes(0)) => Ok(None),
        Ok(value) => Ok(Some(At { value, place })),
        Err(problem) => Err((place, problem)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ami_reference_shows_release_variant_and_architecture() {
        let path = "/aws/service/bottlerocket/aws-k8s-1.33-fips/arm64/1.57.0/image_id";
        let name = "bottlerocket-aws-k8s-1.31-nvidia-x86_64-v1.40.1-ab12cd34";
        for (text, minor, fips, release, architecture) in [
            (path, 33, true, "1.57.0", Architecture::Arm64),
            (name, 31, false, "1.40.1", Architecture::X86_64),
        ] {
            let expected = AmiReference {
                text: text.to_owned(),
                release: release.parse().ok(),
                minor: Some(minor),
                fips: Some(fips),
                architecture: Some(architecture),
            };
            assert_eq!(AmiReference::name(text), expected);
        }
        assert_eq!(AmiReference::name("ami-0123456789abcdef0").minor, None);
        let alias = AmiReference::alias("bottlerocket@v1.57.0");
        assert_eq!(alias.release, "1.57.0".parse().ok());
        assert_eq!(AmiReference::alias("bottlerocket@latest").release, None);
    }
}
