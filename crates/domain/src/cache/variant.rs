//! Variants and versions of Bottlerocket.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ids::{InvalidId, identifier};

/// prepull cannot build on a variant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidVariant {
    /// A builder with an NVIDIA variant never registers with SSM if its instance has no GPU.
    #[error(
        "variant `{given}` cannot be built: builders have no GPU, and an NVIDIA variant does not boot without one. \
         Use `{plain}`, because NVIDIA nodes can use its snapshots"
    )]
    Nvidia {
        /// The variant.
        given: String,
        /// The variant to use instead.
        plain: String,
    },
    /// `aws-mantle` binds its storage to the instance's TPM.
    #[error(
        "variant `{0}` cannot be built: its data volume is bound to one instance's TPM, so other nodes cannot use a \
         snapshot of it. Use an `aws-k8s` variant"
    )]
    TpmBound(String),
    /// The variant is unknown or too old.
    #[error(
        "variant `{0}` is not supported: prepull builds `aws-k8s-1.NN` with NN from {oldest}, and the same with \
         `-fips`. Use one of these",
        oldest = OLDEST_MINOR
    )]
    Unknown(String),
}

/// Oldest Kubernetes minor version whose variant is still published and uses XFS for the data volume.
///
/// Source: Bottlerocket's release notes. `aws-k8s-1.28` moved from ext4 to XFS.
const OLDEST_MINOR: u16 = 28;

/// A Bottlerocket variant for EKS: its Kubernetes minor version and flavor.
///
/// A snapshot serves only nodes of its own variant, because the variant determines containerd's metadata and the XFS
/// features.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Variant {
    minor: u16,
    fips: bool,
}

impl Variant {
    /// Returns the Kubernetes version, `1.NN`.
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

/// Parses a number without sign and leading zeros. `u16::from_str` accepts both.
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

    /// Parses `1.57.0` or `1.57.0-0a1b2c3d`. The public parameter `image_version` uses the second form.
    fn from_str(given: &str) -> Result<Self, InvalidId> {
        let wrong = || InvalidId {
            given: given.to_owned(),
            kind: "a Bottlerocket version",
            expected: "`X.Y.Z`",
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

/// Nodes run an older release than the builder of a snapshot. Their older kernel may not mount its file system.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("has Bottlerocket {release}, and the snapshot needs {needed} or newer")]
pub struct OldRelease {
    release: BottlerocketVersion,
    needed: BottlerocketVersion,
}

/// A release on which every build fails.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Bottlerocket {version} cannot be used: {reason}. Set `bottlerocket_version` to {instead}")]
pub struct UnusableRelease {
    version: BottlerocketVersion,
    reason: &'static str,
    instead: &'static str,
}

/// Releases on which every build fails: the first one, the first later one without the problem, the problem, and the
/// remedy.
///
/// Source: the changelog of bottlerocket-core-kit. Its 10.0.0 is in Bottlerocket 1.44.0, and its 14.0.1 in 1.59.0.
const UNUSABLE_RELEASES: [([u16; 3], [u16; 3], &str, &str); 2] = [
    (
        [0, 0, 0],
        [1, 44, 0],
        "its SELinux policy does not let the builder delete the files of host containers from the snapshot",
        "1.44.0 or later. If the variant has no such release, use a newer `variant`",
    ),
    (
        [1, 58, 0],
        [1, 59, 0],
        "its SELinux policy prevents the unpacking of images that contain named pipes, such as mysql",
        "1.57.0, 1.59.0 or later",
    ),
];

impl BottlerocketVersion {
    /// Returns major, minor and patch.
    pub(crate) fn numbers(&self) -> [u16; 3] {
        [self.major, self.minor, self.patch]
    }

    /// Checks that nodes of the release can use a snapshot whose builder had the release `needed`.
    ///
    /// # Errors
    /// If the release is older than the builder's.
    pub fn check_snapshot(&self, needed: &Self) -> Result<(), OldRelease> {
        if self < needed {
            return Err(OldRelease {
                release: self.clone(),
                needed: needed.clone(),
            });
        }
        Ok(())
    }

    /// Checks that builds can work on the release.
    ///
    /// # Errors
    /// If every build on the release fails.
    pub fn check_usable(&self) -> Result<(), UnusableRelease> {
        let version = self.numbers();
        match UNUSABLE_RELEASES
            .into_iter()
            .find(|(first, fixed, ..)| (*first..*fixed).contains(&version))
        {
            Some((_, _, reason, instead)) => Err(UnusableRelease {
                version: self.clone(),
                reason,
                instead,
            }),
            None => Ok(()),
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
    /// The Bottlerocket release to build on: `latest`, or one version.
    WantedVersion, "a Bottlerocket version", "`X.Y.Z` or `latest`",
    |s| s == "latest" || (!s.contains('-') && s.parse::<BottlerocketVersion>().is_ok())
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variant_survives_a_round_trip() {
        for name in ["aws-k8s-1.28", "aws-k8s-1.33", "aws-k8s-1.33-fips"] {
            assert_eq!(name.parse::<Variant>().unwrap().to_string(), name);
        }
    }

    #[test]
    fn nodes_need_the_release_of_the_builder_or_a_newer_one() {
        let release = |text: &str| text.parse::<BottlerocketVersion>().unwrap();
        let builder = release("1.57.0");
        for nodes in ["1.57.0", "1.57.1", "1.100.0-0a1b2c3d"] {
            assert_eq!(release(nodes).check_snapshot(&builder), Ok(()), "{nodes}");
        }
        let refusal = release("1.56.3").check_snapshot(&builder).unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "has Bottlerocket 1.56.3, and the snapshot needs 1.57.0 or newer"
        );
    }

    #[test]
    fn nvidia_variant_error_suggests_the_plain_variant() {
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
    fn unknown_variant_does_not_parse() {
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
    fn bottlerocket_versions_compare_as_numbers() {
        let old: BottlerocketVersion = "1.9.2".parse().unwrap();
        let new: BottlerocketVersion = "1.57.0-ab12cd34".parse().unwrap();
        assert!(old < new);
        assert_eq!(new.to_string(), "1.57.0");
    }

    #[test]
    fn error_of_a_release_does_not_expect_latest() {
        let error = "latest".parse::<BottlerocketVersion>().unwrap_err();
        assert_eq!(error.expected, "`X.Y.Z`");
        let error = "newest".parse::<WantedVersion>().unwrap_err();
        assert_eq!(error.expected, "`X.Y.Z` or `latest`");
    }

    #[test]
    fn unusable_releases_have_a_reason_and_a_remedy() {
        let check = |version: &str| {
            version
                .parse::<BottlerocketVersion>()
                .unwrap()
                .check_usable()
        };
        for usable in ["1.44.0", "1.57.9", "1.59.0", "2.0.0"] {
            assert_eq!(check(usable), Ok(()));
        }
        for (unusable, remedy) in [
            ("0.9.0", "to 1.44.0 or later"),
            ("1.43.9", "to 1.44.0 or later"),
            ("1.58.0", "to 1.57.0, 1.59.0 or later"),
            ("1.58.1", "to 1.57.0, 1.59.0 or later"),
        ] {
            let error = check(unusable).unwrap_err().to_string();
            assert!(
                error.contains(unusable) && error.contains(remedy),
                "{error}"
            );
        }
    }

    #[test]
    fn wanted_version_accepts_latest_or_one_release() {
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
