//! Processor architectures of nodes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ids::InvalidId;

/// A processor architecture. The names are EC2's, which Bottlerocket's public parameters also use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Architecture {
    /// 64-bit x86. OCI and Kubernetes call it `amd64`.
    #[serde(rename = "x86_64")]
    X86_64,
    /// 64-bit ARM (Graviton).
    Arm64,
}

impl Architecture {
    /// All architectures.
    pub const ALL: [Self; 2] = [Self::X86_64, Self::Arm64];

    /// Returns EC2's name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Arm64 => "arm64",
        }
    }

    /// Returns the name in OCI image indexes and in the label `kubernetes.io/arch`.
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
