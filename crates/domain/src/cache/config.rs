//! The configuration of a cache, as declared in Terraform and stored in one SSM parameter.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::architecture::Architecture;
use crate::cache::builder_settings::BuilderSettings;
use crate::cache::image::ImageReference;
use crate::cache::variant::{Variant, WantedVersion};
use crate::cache::verification::VerificationConfig;
use crate::ids::{AccountId, RegionName, SecurityGroupId, SubnetId, identifier};
use crate::names;
use crate::size::GiB;

/// Maximum number of images in a cache.
///
/// The plan and the commands for builders have limits in bytes, which plan-build checks. With names of 125 characters, 228
/// images would fit into a command. The rest is room for longer names.
pub const MAX_IMAGES: usize = 200;

identifier!(
    /// The name of a cache.
    CacheName, "a cache name", "1 to 32 characters of `a-z`, `0-9` and `-`, starting with a letter, and not \
        `config` or `announced`", |s| {
        (1..=32).contains(&s.len())
            && s.starts_with(|c: char| c.is_ascii_lowercase())
            && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            // The paths of the configurations and of the markers of failures begin like that of a cache.
            && !["config", "announced"].contains(&s)
    }
);

/// The configuration of a cache. [`CacheConfig::parse`] reads it and also checks the rules that types cannot express.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CacheConfig {
    /// Images, as fully qualified references.
    pub images: Vec<ImageReference>,
    /// Architectures to build a snapshot for.
    pub architectures: BTreeSet<Architecture>,
    /// Bottlerocket variant of the nodes.
    pub variant: Variant,
    /// Bottlerocket release of the builder. It should be the oldest release among the nodes, because an older kernel
    /// may not mount the XFS of a newer one.
    pub bottlerocket_version: WantedVersion,
    /// Data volume.
    pub volume: VolumeConfig,
    /// Subnets, security groups and instance types of builders.
    pub builder: BuilderConfig,
    /// Sources of credentials by registry host, for registries other than public and private ECR.
    #[serde(default)]
    pub registry_credentials: BTreeMap<String, CredentialSource>,
    /// Whether the kubelet must never remove the images, even under disk pressure.
    #[serde(default)]
    pub pin_images: bool,
    /// Number of parallel pulls. The default is the builder's vCPUs plus one.
    #[serde(default)]
    pub parallel_pulls: Option<u8>,
    /// Verification of a new snapshot on a second machine.
    #[serde(default)]
    pub verification: VerificationConfig,
    /// Number of snapshots to keep for each architecture, including the published one.
    pub retain_snapshots: u8,
    /// Days for which retention keeps a snapshot after its replacement or rejection.
    #[serde(default = "default_retain_days")]
    pub retain_days: u16,
    /// Deadline of a build, in minutes after its start.
    pub timeout_minutes: u16,
    /// Whether a push of one of the images to private ECR starts a build.
    pub rebuild_on_push: bool,
    /// Other accounts and regions that get the snapshots.
    #[serde(default)]
    pub publication: Publication,
    /// Tags of everything that a build creates, besides prepull's own.
    #[serde(default)]
    pub tags: ResourceTags,
}

/// The data volume of builders. Its size is the minimum size of a node's volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeConfig {
    /// Size of the volume.
    pub size_gib: GiB,
    /// gp3 I/O operations per second.
    pub iops: u32,
    /// gp3 throughput in MiB/s.
    pub throughput_mibps: u32,
    /// KMS key for encryption. The default is the account's default key for EBS.
    #[serde(default)]
    pub kms_key_id: Option<String>,
}

/// Subnets, security groups and instance types of builders.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BuilderConfig {
    /// Instance types to try for each architecture, in order of preference.
    pub instance_types: BTreeMap<Architecture, Vec<String>>,
    /// Subnets to try, in order of preference.
    pub subnet_ids: Vec<SubnetId>,
    /// Security groups of a builder.
    pub security_group_ids: Vec<SecurityGroupId>,
    /// Bottlerocket settings that are merged into the user data.
    #[serde(default)]
    pub settings: BuilderSettings,
}

/// Source of a registry's user name and password, as JSON `{"username": …, "password": …}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    deny_unknown_fields,
    untagged,
    expecting = "expected either `secret_arn` (Secrets Manager) or `parameter_name` (SSM SecureString), and nothing else"
)]
pub enum CredentialSource {
    /// A secret in Secrets Manager.
    Secret {
        /// ARN of the secret.
        secret_arn: String,
    },
    /// A `SecureString` in Parameter Store.
    Parameter {
        /// Name of the parameter.
        parameter_name: String,
    },
}

/// Other accounts and regions that get the snapshots.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Publication {
    /// Accounts that may create volumes from the snapshots.
    #[serde(default)]
    pub share_with_accounts: BTreeSet<AccountId>,
    /// Regions that get a copy of every published snapshot and a pointer to it.
    #[serde(default)]
    pub copy_to_regions: BTreeSet<RegionName>,
    /// Time at which a published snapshot becomes the one that nodes use.
    #[serde(default)]
    pub promotion: Promotion,
}

/// Time at which a published snapshot becomes *stable*, the one that nodes use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Promotion {
    /// At publication.
    #[default]
    Immediate,
    /// At `prepull promote`.
    Manual,
    /// After a soak without a rejection. The hourly sweep promotes, so it can take up to an hour longer.
    Soak {
        /// Duration of the soak.
        soak_minutes: SoakMinutes,
    },
}

/// Duration of a soak in minutes, from 1 minute to 30 days.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct SoakMinutes(u32);

impl SoakMinutes {
    const MAX: u32 = 43_200;

    /// Returns the number of minutes.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for SoakMinutes {
    type Error = String;

    fn try_from(minutes: u32) -> Result<Self, String> {
        within("soak_minutes", minutes, 1, Self::MAX).map(|()| Self(minutes))
    }
}

impl From<SoakMinutes> for u32 {
    fn from(minutes: SoakMinutes) -> Self {
        minutes.0
    }
}

/// Maximum number of a user's tags. EC2 allows 50 on a resource. prepull sets `Name` and seven tags of
/// its own on a snapshot.
///
/// Source: EC2 user guide, "Tag your Amazon EC2 resources".
pub const MAX_TAGS: usize = 42;

/// A user's tags of instances, volumes, network interfaces and snapshots. Organizations demand some by policy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>")]
pub struct ResourceTags(BTreeMap<String, String>);

impl ResourceTags {
    /// Returns the tags as pairs of key and value.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
    }
}

impl TryFrom<BTreeMap<String, String>> for ResourceTags {
    type Error = String;

    fn try_from(tags: BTreeMap<String, String>) -> Result<Self, String> {
        if tags.len() > MAX_TAGS {
            let count = tags.len();
            return Err(format!(
                "there are {count} tags, more than {MAX_TAGS}. Remove some"
            ));
        }
        for (key, value) in &tags {
            // EC2 reserves `aws:` in every spelling.
            let reserved = key
                .get(..4)
                .is_some_and(|start| start.eq_ignore_ascii_case("aws:"))
                || key.starts_with("prepull:");
            if reserved {
                return Err(format!(
                    "the tag `{key}` is reserved. Use a key without `aws:` and `prepull:`"
                ));
            }
            if !(1..=128).contains(&key.chars().count()) || value.chars().count() > 256 {
                return Err(format!(
                    "the tag `{key}` is too long or empty. Use a key of 1 to 128 characters and a value of at most 256"
                ));
            }
        }
        Ok(Self(tags))
    }
}

/// A cache whose configuration is missing or invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cache `{cache}` has no valid configuration: {problem}")]
pub struct InvalidConfig {
    /// The name of the cache as it was given, which may be invalid.
    cache: String,
    /// The problem, its place, and the remedy.
    problem: String,
}

impl InvalidConfig {
    /// Creates the error for the cache `cache`.
    pub fn new(cache: &str, problem: impl Into<String>) -> Self {
        Self {
            cache: cache.to_owned(),
            problem: problem.into(),
        }
    }
}

impl CacheConfig {
    /// Parses the configuration of `cache` from the JSON of its parameter.
    ///
    /// # Errors
    /// [`InvalidConfig`], with the path of the offending value, the value, and the remedy.
    pub fn parse(cache: &CacheName, json: &str) -> Result<Self, InvalidConfig> {
        let invalid = |problem| InvalidConfig::new(cache.as_str(), problem);
        let at = names::config_parameter(cache);
        let config: Self =
            serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_str(json))
                .map_err(|error| {
                    let problem = without_position(error.inner());
                    invalid(format!(
                        "in parameter {at}, at `{}`: {problem}",
                        error.path()
                    ))
                })?;
        config
            .check()
            .map_err(|problem| invalid(format!("in parameter {at}, {problem}")))?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        if self.images.is_empty() {
            return Err("`images` is empty. List at least one image".into());
        }
        if self.images.len() > MAX_IMAGES {
            let count = self.images.len();
            return Err(format!(
                "`images` has {count} entries, more than {MAX_IMAGES}. Split the cache"
            ));
        }
        let mut seen = BTreeSet::new();
        if let Some(twice) = self.images.iter().find(|image| !seen.insert(*image)) {
            return Err(format!("`images` lists `{twice}` twice. Remove one"));
        }
        if self.architectures.is_empty() {
            return Err("`architectures` is empty. List `x86_64`, `arm64` or both".into());
        }
        for architecture in &self.architectures {
            if self
                .builder
                .instance_types
                .get(architecture)
                .is_none_or(Vec::is_empty)
            {
                return Err(format!(
                    "`builder.instance_types` has no type for `{architecture}`. List at least one"
                ));
            }
        }
        if self.builder.subnet_ids.is_empty() {
            return Err("`builder.subnet_ids` is empty. List a subnet with a route to the internet or to VPC endpoints".into());
        }
        within("volume.size_gib", self.volume.size_gib.0, 2, 16_384)?;
        // gp3 limits. Source: EBS user guide, "General Purpose SSD volumes".
        within("volume.iops", self.volume.iops, 3_000, 80_000)?;
        within(
            "volume.throughput_mibps",
            self.volume.throughput_mibps,
            125,
            2_000,
        )?;
        // CopySnapshot needs a key in the region of the copy. A copy with the default key there could not be shared.
        if let Some(key) = &self.volume.kms_key_id
            && !self.publication.copy_to_regions.is_empty()
            && !key.contains(":key/mrk-")
        {
            return Err(format!(
                "`volume.kms_key_id` is `{key}`, which exists in one Region only. `publication.copy_to_regions` needs a \
                 multi-Region key (`mrk-…`) with a replica in each of those Regions"
            ));
        }
        if let Some(pulls) = self.parallel_pulls {
            within("parallel_pulls", u32::from(pulls), 1, 64)?;
        }
        self.verification.check()?;
        within("retain_snapshots", u32::from(self.retain_snapshots), 1, 20)?;
        within("retain_days", u32::from(self.retain_days), 0, 365)?;
        within("timeout_minutes", u32::from(self.timeout_minutes), 10, 720)?;
        Ok(())
    }
}

/// Returns the default of [`CacheConfig::retain_days`]. Parameters of earlier versions have no such field.
pub(crate) fn default_retain_days() -> u16 {
    7
}

/// Returns the message of `error`. Omits the line and column if the JSON is well-formed, because the path shows the place.
fn without_position(error: &serde_json::Error) -> String {
    let message = error.to_string();
    let position = format!(" at line {} column {}", error.line(), error.column());
    match message.strip_suffix(&position) {
        Some(message) if error.is_data() => message.to_owned(),
        _ => message,
    }
}

fn within(field: &str, value: u32, least: u32, most: u32) -> Result<(), String> {
    if (least..=most).contains(&value) {
        Ok(())
    } else {
        Err(format!(
            "`{field}` is {value}. Set it to a value from {least} to {most}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn valid() -> Value {
        json!({
            "images": ["docker.io/library/nginx:1.27"],
            "architectures": ["x86_64"],
            "variant": "aws-k8s-1.33",
            "bottlerocket_version": "latest",
            "volume": {"size_gib": 50, "iops": 3000, "throughput_mibps": 500, "kms_key_id": null},
            "builder": {
                "instance_types": {"x86_64": ["m7i.2xlarge"]},
                "subnet_ids": ["subnet-0123456789abcdef0"],
                "security_group_ids": ["sg-0123456789abcdef0"],
                "settings": {
                    "https_proxy": "http://proxy.example.com:3128",
                    "no_proxy": [".example.com"],
                    "pki": {},
                    "registry_mirrors": {"docker.io": ["https://mirror.example.com"]}
                }
            },
            "registry_credentials": {"registry.example.com": {"parameter_name": "/team/registry"}},
            "pin_images": false,
            "parallel_pulls": 4,
            "verification": {"level": "full", "releases": ["1.44.0", "1.57.0"]},
            "retain_snapshots": 3,
            "retain_days": 7,
            "timeout_minutes": 60,
            "rebuild_on_push": true,
            "publication": {
                "share_with_accounts": [],
                "copy_to_regions": [],
                "promotion": {"mode": "soak", "soak_minutes": 1440}
            },
            "tags": {"team": "platform"}
        })
    }

    /// Returns the error for the valid configuration with `value` at `pointer`.
    fn refusal(pointer: &str, value: Value) -> String {
        let mut config = valid();
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        config.pointer_mut(parent).unwrap()[field] = value;
        CacheConfig::parse(&"web".parse().unwrap(), &config.to_string())
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn valid_configuration_survives_a_round_trip() {
        let config = CacheConfig::parse(&"web".parse().unwrap(), &valid().to_string()).unwrap();
        assert_eq!(serde_json::to_value(&config).unwrap(), valid());
    }

    #[test]
    fn invalid_configuration_error_has_location_and_remedy() {
        let many: Vec<_> = (0..=MAX_IMAGES)
            .map(|n| format!("docker.io/library/nginx:{n}"))
            .collect();
        let many_tags = (0..=MAX_TAGS)
            .map(|n| (n.to_string(), json!("a")))
            .collect::<serde_json::Map<_, _>>()
            .into();
        let twice = ["docker.io/library/nginx:1", "docker.io/library/nginx:1"];
        insta::assert_snapshot!(
            [
                refusal("/images", json!([])),
                refusal("/images", json!(many)),
                refusal("/images", json!(twice)),
                refusal("/images", json!(["docker.io/library/nginx:"])),
                refusal("/images", json!(["nginx:1.27"])),
                refusal("/images", json!(["docker.io/library/$(reboot):1"])),
                refusal("/architectures", json!([])),
                refusal("/architectures", json!(["arm64"])),
                refusal("/architectures", json!(["riscv64"])),
                refusal("/variant", json!("aws-k8s-1.33-nvidia")),
                refusal("/variant", json!("aws-mantle-1.0")),
                refusal("/variant", json!("aws-k8s-1.12")),
                refusal("/bottlerocket_version", json!("newest")),
                refusal("/volume/size_gib", json!(1)),
                refusal("/volume/iops", json!(100)),
                refusal("/builder/subnet_ids", json!([])),
                refusal(
                    "/registry_credentials",
                    json!({"registry.example.com": {"password": "hunter2"}})
                ),
                refusal("/parallel_pulls", json!(0)),
                refusal("/verification", json!({"level": "some"})),
                refusal("/verification", json!({"releases": ["latest"]})),
                refusal("/verification", json!({"releases": ["1.57.0", "1.57.0"]})),
                refusal(
                    "/verification",
                    json!({"releases": ["1.1.0", "1.2.0", "1.3.0", "1.4.0", "1.5.0"]})
                ),
                refusal("/builder/settings/https_proxy", json!("a:b@proxy:3128")),
                refusal("/publication/promotion", json!({"mode": "later"})),
                refusal("/publication/promotion", json!({"mode": "soak"})),
                refusal(
                    "/publication/promotion",
                    json!({"mode": "soak", "soak_minutes": 0})
                ),
                refusal("/tags", json!({"AWS:team": "a"})),
                refusal("/tags", json!({"prepull:cache": "other"})),
                refusal("/tags", json!({"": "a"})),
                refusal("/tags", json!({"team": "a".repeat(257)})),
                refusal("/tags", many_tags),
                refusal("/colour", json!("blue")),
            ]
            .join("\n")
        );
    }

    #[test]
    fn copies_require_a_multi_region_key() {
        let parse = |key: &str, regions: Value| {
            let mut config = valid();
            config["volume"]["kms_key_id"] = json!(key);
            config["publication"]["copy_to_regions"] = regions;
            CacheConfig::parse(&"web".parse().unwrap(), &config.to_string())
        };
        let single = "arn:aws:kms:eu-west-1:123456789012:key/01234567-89ab-cdef-0123-456789abcdef";
        let multi = "arn:aws:kms:eu-west-1:123456789012:key/mrk-0123456789abcdef0123456789abcdef";
        assert!(parse(single, json!([])).is_ok());
        assert!(parse(multi, json!(["eu-central-1"])).is_ok());
        let error = parse(single, json!(["eu-central-1"])).unwrap_err();
        assert!(error.to_string().contains("multi-Region key"), "{error}");
    }

    #[test]
    fn cache_name_refuses_unsafe_characters() {
        assert!("web-2".parse::<CacheName>().is_ok());
        for wrong in [
            "",
            "config",
            "announced",
            "Web",
            "2web",
            "a/b",
            "a b",
            "a_b",
            &"a".repeat(33),
        ] {
            assert!(wrong.parse::<CacheName>().is_err(), "{wrong}");
        }
    }
}
