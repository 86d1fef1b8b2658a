//! How thoroughly a cache's snapshots are verified before their publication.

use serde::{Deserialize, Serialize};
use strum::{Display, EnumString, IntoStaticStr};

use crate::cache::variant::BottlerocketVersion;
use crate::size::Bytes;

/// How thoroughly a second machine verifies a snapshot.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    Display,
    EnumString,
    IntoStaticStr,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum VerificationLevel {
    /// No second machine. Targets of earlier versions have this level.
    #[default]
    Off,
    /// A node boots from the snapshot, and containerd's records, the sizes of layers and the metadata of trees are
    /// checked. It reads few blocks.
    Records,
    /// In addition, the bytes of every layer and every file are checked. It reads the whole snapshot.
    Full,
}

/// Maximum used bytes of a snapshot that is fully verified by default.
///
/// A verification should take about a minute and cost about one cent. The boot takes 56 s. At 300 MiB/s, 2 GiB load in 7 s
/// for 2 × $0.0036. 75 s of an `m7i-flex.large`, at $0.09576 per hour, add $0.0020. That is $0.0092 together.
///
/// Source: <https://aws.amazon.com/ebs/pricing/>: about $0.0036 per GiB at 300 MiB/s. `docs/costs.md` has the boot.
pub const FULL_BY_DEFAULT: Bytes = Bytes(2 << 30);

/// Expected used bytes on a volume, in multiples of the compressed layers. containerd keeps the compressed layer, and
/// programs and libraries unpack to about three times its size.
const USED_FOR_PACKED: u64 = 4;

/// Initialization rate of a verifier's volume in MiB/s. This is the maximum of EBS, and the only one whose price is known.
///
/// Up to 16 verifiers of an account and Region stay within the default quota of 5,000 MiB/s. Source: EBS user guide,
/// "Initialize Amazon EBS volumes" and "Quotas for Amazon EBS".
const INITIALIZATION_RATE: u32 = 300;

impl VerificationLevel {
    /// Returns the level of a cache without a setting, whose layers have `packed` bytes.
    #[must_use]
    pub fn default_for(packed: Bytes) -> Self {
        if packed.0.saturating_mul(USED_FOR_PACKED) <= FULL_BY_DEFAULT.0 {
            Self::Full
        } else {
            Self::Records
        }
    }

    /// Returns the rate in MiB/s at which EBS loads the volume of a verifier. `None` if its blocks load when they are read.
    #[must_use]
    pub fn initialization_rate(self) -> Option<u32> {
        match self {
            Self::Off | Self::Records => None,
            Self::Full => Some(INITIALIZATION_RATE),
        }
    }

    /// Returns the name of the level.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// The verification of a cache's snapshots, as a person declares it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerificationConfig {
    /// How thorough it is. The default is [`VerificationLevel::default_for`].
    #[serde(default)]
    pub level: Option<VerificationLevel>,
    /// Bottlerocket releases that boot from a snapshot: the oldest and the newest release among the nodes. The default is
    /// the builder's release.
    #[serde(default)]
    pub releases: Vec<BottlerocketVersion>,
}

/// Maximum number of releases. Each needs an instance, at the same time.
pub const MAX_RELEASES: usize = 4;

impl VerificationConfig {
    /// Returns the level for layers of `packed` bytes.
    #[must_use]
    pub fn level_for(&self, packed: Bytes) -> VerificationLevel {
        self.level
            .unwrap_or_else(|| VerificationLevel::default_for(packed))
    }

    pub(super) fn check(&self) -> Result<(), String> {
        let count = self.releases.len();
        if count > MAX_RELEASES {
            return Err(format!(
                "`verification.releases` has {count} releases, more than {MAX_RELEASES}. Keep the oldest and the newest \
                 release of the cache's nodes"
            ));
        }
        let mut releases = self.releases.iter().enumerate();
        if let Some((_, twice)) = releases.find(|(n, one)| self.releases[..*n].contains(one)) {
            return Err(format!(
                "`verification.releases` lists `{twice}` twice. Remove one"
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_level_is_full_up_to_the_limit() {
        let limit = FULL_BY_DEFAULT.0 / USED_FOR_PACKED;
        assert_eq!(
            VerificationLevel::default_for(Bytes(limit)),
            VerificationLevel::Full
        );
        assert_eq!(
            VerificationLevel::default_for(Bytes(limit + 1)),
            VerificationLevel::Records
        );
    }
}
