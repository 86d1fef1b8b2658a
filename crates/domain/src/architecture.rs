//! The processor architectures that nodes come in.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ids::InvalidId;

/// An architecture by EC2's name, which is also how Bottlerocket's public parameters spell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Architecture {
    /// 64-bit x86; OCI and Kubernetes call it `amd64`.
    #[serde(rename = "x86_64")]
    X86_64,
    /// 64-bit ARM, Graviton.
    Arm64,
}

impl Architecture {
    /// Every architecture there is.
    pub const ALL: [Self; 2] = [Self::X86_64, Self::Arm64];

    /// EC2's name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Arm64 => "arm64",
        }
    }

    /// The name in an OCI image index and in the label `kubernetes.io/arch`.
    #[must_use]
    pub fn oci_name(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Architecture {
    type Err = InvalidId;

    fn from_str(given: &str) -> Result<Self, InvalidId> {
        Self::ALL
            .into_iter()
            .find(|a| a.as_str() == given)
            .ok_or_else(|| InvalidId {
                given: given.to_owned(),
                kind: "an architecture",
                expected: "`x86_64` or `arm64`",
            })
    }
}
