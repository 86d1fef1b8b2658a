//! Bottlerocket's variants and versions.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ids::{InvalidId, identifier};

/// Why a variant cannot be built on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidVariant {
    /// A builder of an NVIDIA variant on an instance without a GPU never reaches SSM.
    #[error(
        "variant `{given}` cannot be built: builders have no GPU, and an NVIDIA variant does not boot without one. \
         Use `{plain}`, because NVIDIA nodes can use its snapshots"
    )]
    Nvidia {
        /// The variant as it was given.
        given: String,
        /// The variant to name instead.
        plain: String,
    },
    /// `aws-mantle` keeps its storage bound to the instance's TPM.
    #[error(
        "variant `{0}` cannot be built: its data volume is bound to one instance's TPM, so other nodes cannot use a \
         snapshot of it. Use an `aws-k8s` variant"
    )]
    TpmBound(String),
    /// Anything else.
    #[error(
        "variant `{0}` is not supported: prepull builds `aws-k8s-1.NN` with NN from {oldest}, and the same with \
         `-fips`. Use one of these",
        oldest = OLDEST_MINOR
    )]
    Unknown(String),
}

/// The oldest Kubernetes minor whose data volume is XFS and whose variant is still published.
///
/// Source: Bottlerocket's release notes, `aws-k8s-1.28` moved from ext4 to XFS.
const OLDEST_MINOR: u16 = 28;

/// A Bottlerocket variant for EKS: its Kubernetes minor version and flavour.
///
/// A snapshot serves the nodes of its own variant line, because containerd's metadata and XFS's features follow it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Variant {
    minor: u16,
    fips: bool,
}

impl Variant {
    /// The Kubernetes version, `1.NN`.
    #[must_use]
    pub fn kubernetes_version(&self) -> String {
        format!("1.{}", self.minor)
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "aws-k8s-1.{}{}",
            self.minor,
            if self.fips { "-fips" } else { "" }
        )
    }
}

impl FromStr for Variant {
    type Err = InvalidVariant;

    fn from_str(given: &str) -> Result<Self, InvalidVariant> {
        if given.starts_with("aws-mantle") {
            return Err(InvalidVariant::TpmBound(given.to_owned()));
        }
        if given.ends_with("-nvidia") || given.ends_with("-nvidia-fips") {
            return Err(InvalidVariant::Nvidia {
                given: given.to_owned(),
                plain: given.replacen("-nvidia", "", 1),
            });
        }
        let unknown = || InvalidVariant::Unknown(given.to_owned());
        let version = given.strip_prefix("aws-k8s-1.").ok_or_else(unknown)?;
        let (minor, fips) = version
            .strip_suffix("-fips")
            .map_or((version, false), |minor| (minor, true));
        let minor = plain_number(minor)
            .filter(|m| *m >= OLDEST_MINOR)
            .ok_or_else(unknown)?;
        Ok(Self { minor, fips })
    }
}

impl TryFrom<String> for Variant {
    type Error = InvalidVariant;

    fn try_from(given: String) -> Result<Self, InvalidVariant> {
        given.parse()
    }
}

impl From<Variant> for String {
    fn from(variant: Variant) -> String {
        variant.to_string()
    }
}

/// A number as names and versions hold it. `u16::from_str` by itself accepts a sign and leading zeros too.
fn plain_number(given: &str) -> Option<u16> {
    let number: u16 = given.parse().ok()?;
    (number.to_string() == given).then_some(number)
}

/// A released version of Bottlerocket, ordered by age.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BottlerocketVersion {
    major: u16,
    minor: u16,
    patch: u16,
}

impl fmt::Display for BottlerocketVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl FromStr for BottlerocketVersion {
    type Err = InvalidId;

    /// Takes `1.57.0` and, as the public parameter `image_version` writes it, `1.57.0-0a1b2c3d`.
    fn from_str(given: &str) -> Result<Self, InvalidId> {
        let wrong = || InvalidId {
            given: given.to_owned(),
            kind: "a Bottlerocket version",
            expected: "`X.Y.Z` or `latest`",
        };
        let release = given
            .split_once('-')
            .map_or(given, |(release, _commit)| release);
        let parts: Vec<u16> = release
            .split('.')
            .map(|part| plain_number(part).ok_or_else(wrong))
            .collect::<Result<_, _>>()?;
        match parts[..] {
            [major, minor, patch] => Ok(Self {
                major,
                minor,
                patch,
            }),
            _ => Err(wrong()),
        }
    }
}

impl TryFrom<String> for BottlerocketVersion {
    type Error = InvalidId;

    fn try_from(given: String) -> Result<Self, InvalidId> {
        given.parse()
    }
}

impl From<BottlerocketVersion> for String {
    fn from(version: BottlerocketVersion) -> String {
        version.to_string()
    }
}

identifier!(
    /// Which release of a variant to build on: `latest`, or one version.
    WantedVersion, "a Bottlerocket version", "`X.Y.Z` or `latest`",
    |s| s == "latest" || (!s.contains('-') && s.parse::<BottlerocketVersion>().is_ok())
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variant_is_written_as_it_was_read() {
        for name in ["aws-k8s-1.28", "aws-k8s-1.33", "aws-k8s-1.33-fips"] {
            assert_eq!(name.parse::<Variant>().unwrap().to_string(), name);
        }
    }

    #[test]
    fn an_nvidia_variant_is_refused_with_the_one_to_name_instead() {
        for (nvidia, instead) in [
            ("aws-k8s-1.33-nvidia", "aws-k8s-1.33"),
            ("aws-k8s-1.33-nvidia-fips", "aws-k8s-1.33-fips"),
        ] {
            let error = nvidia.parse::<Variant>().unwrap_err();
            assert!(
                matches!(error, InvalidVariant::Nvidia { ref plain, .. } if plain == instead),
                "{error}"
            );
        }
    }

    #[test]
    fn what_is_no_variant_is_refused() {
        for wrong in [
            "",
            "aws-k8s-1.27",
            "aws-k8s-1.033",
            "aws-k8s-1.+33",
            "aws-k8s-2.0",
            "aws-ecs-2",
            "aws-mantle-1",
            "1.33",
        ] {
            assert!(wrong.parse::<Variant>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn versions_are_ordered_by_number_and_not_by_letter() {
        let old: BottlerocketVersion = "1.9.2".parse().unwrap();
        let new: BottlerocketVersion = "1.57.0-ab12cd34".parse().unwrap();
        assert!(old < new);
        assert_eq!(new.to_string(), "1.57.0");
    }

    #[test]
    fn a_wanted_version_is_latest_or_one_release() {
        assert!("latest".parse::<WantedVersion>().is_ok());
        assert!("1.57.0".parse::<WantedVersion>().is_ok());
        for wrong in [
            "",
            "newest",
            "1.57",
            "1.57.0.1",
            "v1.57.0",
            "1.57.0-ab12cd34",
            "1.+57.0",
            "1.057.0",
        ] {
            assert!(wrong.parse::<WantedVersion>().is_err(), "{wrong}");
        }
    }
}
