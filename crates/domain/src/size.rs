//! Sizes with their unit in the type.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The size of a volume in GiB (2^30 bytes), EBS's unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GiB(pub u32);

impl GiB {
    /// Returns the size in bytes.
    #[must_use]
    pub fn bytes(self) -> Bytes {
        Bytes(u64::from(self.0) << 30)
    }
}

impl fmt::Display for GiB {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} GiB", self.0)
    }
}

/// A number of bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bytes(pub u64);

impl std::iter::Sum for Bytes {
    fn sum<I: Iterator<Item = Self>>(sizes: I) -> Self {
        // A registry can report any size. A sum that saturates is too large for every volume.
        Self(sizes.fold(0, |sum, size| sum.saturating_add(size.0)))
    }
}

impl fmt::Display for Bytes {
    /// Writes decimal units, like registries and `docker images`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The output has three digits, so the lost precision does not show.
        #[allow(clippy::cast_precision_loss)]
        let bytes = self.0 as f64;
        match self.0 {
            0..1_000 => write!(f, "{} B", self.0),
            1_000..1_000_000 => write!(f, "{:.1} kB", bytes / 1e3),
            1_000_000..1_000_000_000 => write!(f, "{:.1} MB", bytes / 1e6),
            _ => write!(f, "{:.2} GB", bytes / 1e9),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_displays_with_a_decimal_unit() {
        let shown: Vec<_> = [0, 999, 1_500, 2_340_000, 45_600_000_000]
            .map(|n| Bytes(n).to_string())
            .into();
        assert_eq!(shown, ["0 B", "999 B", "1.5 kB", "2.3 MB", "45.60 GB"]);
        assert_eq!(GiB(2).bytes(), Bytes(2_147_483_648));
    }
}
