//! The disk usage of a data volume.

use crate::size::{Bytes, GiB};

/// Maximum disk usage of a data volume, in percent. Usage must stay below it.
///
/// The kubelet removes unused images from 85 % on (its default `imageGCHighThresholdPercent`), and a node needs space
/// for other data too.
pub const FILL_LIMIT: u64 = 80;

/// Disk usage of a volume with the recommended size, in percent.
const FILL_TARGET: u64 = 65;

/// Ratio of an unpacked image's disk usage to its compressed size. containerd keeps the compressed layers, and their
/// content takes about two and a half times as much.
const EXPANSION: f64 = 3.5;

/// Size and usage of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    /// Size of the file system.
    pub size: Bytes,
    /// Used bytes.
    pub used: Bytes,
}

impl Disk {
    /// Whether the usage has reached [`FILL_LIMIT`], so that nodes would soon remove images.
    #[must_use]
    pub fn is_too_full(self) -> bool {
        u128::from(self.used.0) * 100 >= u128::from(self.size.0) * u128::from(FILL_LIMIT)
    }

    /// Returns the recommended size for a volume with this content plus `missing` compressed bytes of images.
    #[must_use]
    pub fn wanted_size(self, missing: Bytes) -> GiB {
        // The estimate is rounded up to whole GiB.
        #[allow(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss
        )]
        let unpacked = (missing.0 as f64 * EXPANSION) as u64;
        let wanted =
            (u128::from(self.used.0) + u128::from(unpacked)) * 100 / u128::from(FILL_TARGET);
        GiB(u32::try_from(wanted.div_ceil(1 << 30)).unwrap_or(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disk_is_too_full_at_80_percent_and_grows_to_65() {
        let disk = |used| Disk {
            size: GiB(10).bytes(),
            used,
        };
        assert!(!disk(Bytes((10 << 30) * 79 / 100)).is_too_full());
        assert!(disk(Bytes((10 << 30) * 80 / 100)).is_too_full());
        assert_eq!(disk(GiB(13).bytes()).wanted_size(Bytes(0)), GiB(20));
        assert_eq!(disk(GiB(6).bytes()).wanted_size(GiB(2).bytes()), GiB(20));
    }
}
