//! List prices of us-east-1 in dollars: on demand, without free tiers, taxes and discounts.
//!
//! `docs/costs.md` has them under "List prices". [`crate::InstanceType`] has the prices of instance types.

use prepull_domain::cache::config::VolumeConfig;
use prepull_domain::{Bytes, GiB};

/// Price of one GiB of gp3 for a month. Source: <https://aws.amazon.com/ebs/pricing/>, like the next four.
pub const VOLUME_GIB: f64 = 0.08;
/// Price of one MiB/s of gp3 above [`FREE_MIBPS`] for a month.
pub const VOLUME_MIBPS: f64 = 0.04;
/// Price of one I/O operation per second of gp3 above [`FREE_IOPS`] for a month.
pub const VOLUME_IOPS: f64 = 0.005;
/// Throughput included in every gp3 volume, in MiB/s.
pub const FREE_MIBPS: u32 = 125;
/// I/O operations per second included in every gp3 volume.
pub const FREE_IOPS: u32 = 3_000;
/// Price of one GiB of changed blocks in a snapshot for a month. AWS lists the price per GB, which the model reads as
/// GiB, EBS's unit of volume size. Source: <https://aws.amazon.com/ebs/pricing/>.
pub const SNAPSHOT_GIB: f64 = 0.05;
/// Price of one GB-second of Lambda on arm64. Source: <https://aws.amazon.com/lambda/pricing/>, like the next.
pub const LAMBDA_GB_SECOND: f64 = 0.000_013_333_4;
/// Price of one invocation of a function.
pub const LAMBDA_INVOCATION: f64 = 0.20 / 1_000_000.0;
/// Price of one state transition of a standard workflow. Source: <https://aws.amazon.com/step-functions/pricing/>.
pub const TRANSITION: f64 = 0.025 / 1_000.0;

/// Seconds of a month. AWS counts 730 hours.
const MONTH: f64 = 730.0 * 3_600.0;

/// Returns the price of a gp3 volume for one second.
#[must_use]
pub fn volume_second(volume: &VolumeConfig) -> f64 {
    let month = f64::from(volume.size_gib.0) * VOLUME_GIB
        + f64::from(volume.throughput_mibps.saturating_sub(FREE_MIBPS)) * VOLUME_MIBPS
        + f64::from(volume.iops.saturating_sub(FREE_IOPS)) * VOLUME_IOPS;
    month / MONTH
}

/// Returns the price of a snapshot for one month. `changed` counts the stored bytes that differ from its base.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "no snapshot has 2^53 bytes")]
pub fn snapshot_month(changed: Bytes) -> f64 {
    changed.0 as f64 / GiB(1).bytes().0 as f64 * SNAPSHOT_GIB
}

#[cfg(test)]
mod tests {
    use super::*;

    fn month(size_gib: u32, iops: u32, throughput_mibps: u32) -> f64 {
        let volume = VolumeConfig {
            size_gib: GiB(size_gib),
            iops,
            throughput_mibps,
            kms_key_id: None,
        };
        (volume_second(&volume) * MONTH * 100.0).round() / 100.0
    }

    #[test]
    fn volume_price_adds_only_performance_above_baseline() {
        let months = [
            month(100, 3_000, 125),
            month(50, 3_000, 500),
            month(0, 4_000, 125),
        ];
        assert!(
            months
                .iter()
                .zip([8.0, 19.0, 5.0])
                .all(|(month, wanted)| (month - wanted).abs() < 1e-9),
            "{months:?}"
        );
    }

    #[test]
    fn snapshot_price_covers_changed_bytes() {
        assert!((snapshot_month(GiB(20).bytes()) - 1.0).abs() < 1e-9);
    }
}
