//! What a measurement would cost on AWS: list prices of us-east-1, on demand, without free tiers. They are those of "What it
//! costs" in README.md.
//!
//! Durations are those that were measured on the local cloud, where instances start and snapshots complete within
//! seconds. EC2's least charge of a minute is left out: no build on AWS is shorter than that.

use crate::benchmark::{Measurement, Volume};

/// Dollars an hour of an m7i.2xlarge, the first of the module's instance types.
///
/// Source: <https://aws.amazon.com/ec2/pricing/on-demand/>, rounded as in README.md.
pub const INSTANCE_HOUR: f64 = 0.40;

/// Dollars a month of a GiB of gp3.
///
/// Source, for the next two as well: <https://aws.amazon.com/ebs/pricing/>.
pub const VOLUME_GIB_MONTH: f64 = 0.08;
/// Dollars a month of an I/O operation a second above [`FREE_IOPS`].
pub const VOLUME_IOPS_MONTH: f64 = 0.005;
/// Dollars a month of a MiB/s above [`FREE_MIBPS`].
pub const VOLUME_MIBPS_MONTH: f64 = 0.04;
/// What every gp3 volume has.
pub const FREE_IOPS: u32 = 3_000;
/// What every gp3 volume has, in MiB/s.
pub const FREE_MIBPS: u32 = 125;

/// Dollars a month of a GB of changed blocks.
///
/// Source: <https://aws.amazon.com/ebs/pricing/>.
pub const SNAPSHOT_GB_MONTH: f64 = 0.05;

/// Dollars of a state transition of a standard workflow.
///
/// Source: <https://aws.amazon.com/step-functions/pricing/>.
pub const TRANSITION: f64 = 0.025 / 1_000.0;

/// Dollars of a GB-second on arm64.
///
/// Source, for the next as well: <https://aws.amazon.com/lambda/pricing/>.
pub const LAMBDA_GB_SECOND: f64 = 0.000_013_333_4;
/// Dollars of an invocation.
pub const LAMBDA_INVOCATION: f64 = 0.20 / 1_000_000.0;

const SECONDS_PER_MONTH: f64 = 730.0 * 3_600.0;

/// The size of the blocks in which EBS stores snapshots.
pub const BLOCK_BYTES: u64 = 512 << 10;

/// What making it costs.
#[must_use]
#[expect(
    clippy::cast_precision_loss,
    reason = "thousands of calls are far from the limit of a float"
)]
pub fn dollars(measurement: &Measurement) -> f64 {
    let seconds = measurement.instance_seconds;
    seconds * (INSTANCE_HOUR / 3_600.0 + volume_month(measurement.volume) / SECONDS_PER_MONTH)
        + measurement.transitions as f64 * TRANSITION
        + measurement.lambda_gb_seconds * LAMBDA_GB_SECOND
        + measurement.invocations as f64 * LAMBDA_INVOCATION
}

/// What keeping its snapshot costs a month, beside the snapshots before it.
#[must_use]
#[expect(
    clippy::cast_precision_loss,
    reason = "thousands of blocks are far from the limit of a float"
)]
pub fn dollars_a_month(measurement: &Measurement) -> Option<f64> {
    let bytes = measurement.blocks? * BLOCK_BYTES;
    // Taken for the unit that EBS counts volumes in, 2^30 bytes.
    Some(bytes as f64 / f64::from(1 << 30) * SNAPSHOT_GB_MONTH)
}

fn volume_month(volume: Volume) -> f64 {
    f64::from(volume.size.0) * VOLUME_GIB_MONTH
        + f64::from(volume.iops.saturating_sub(FREE_IOPS)) * VOLUME_IOPS_MONTH
        + f64::from(volume.throughput_mibps.saturating_sub(FREE_MIBPS)) * VOLUME_MIBPS_MONTH
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use prepull_domain::{Bytes, GiB};

    use super::*;

    pub fn nothing() -> Measurement {
        Measurement {
            seconds: 0.0,
            stages: BTreeMap::new(),
            pulled: Bytes(0),
            registry_requests: 0,
            blocks: None,
            calls: BTreeMap::new(),
            transitions: 0,
            invocations: 0,
            lambda_gb_seconds: 0.0,
            instances: 0,
            instance_seconds: 0.0,
            volume: Volume {
                size: GiB(50),
                iops: 3_000,
                throughput_mibps: 500,
            },
        }
    }

    #[test]
    fn ten_minutes_cost_what_the_readme_estimates() {
        let build = Measurement {
            instance_seconds: 600.0,
            transitions: 60,
            lambda_gb_seconds: 0.25 * 600.0,
            ..nothing()
        };
        // $0.07 of instance, $0.004 of volume, $0.0015 of transitions, $0.002 of Lambda.
        let expected = 0.0667 + 0.0043 + 0.0015 + 0.002;
        assert!(
            (dollars(&build) - expected).abs() < 0.0005,
            "{}",
            dollars(&build)
        );
    }

    #[test]
    fn what_gp3_has_anyway_is_free() {
        let volume = Volume {
            size: GiB(100),
            iops: 3_000,
            throughput_mibps: 125,
        };
        assert!((volume_month(volume) - 8.0).abs() < 1e-9);
    }

    #[test]
    fn a_snapshot_costs_its_changed_blocks() {
        let blocks = |blocks| Measurement {
            blocks,
            ..nothing()
        };
        assert_eq!(dollars_a_month(&blocks(None)), None);
        let month = dollars_a_month(&blocks(Some(2_048))).unwrap();
        assert!((month - 0.05).abs() < 1e-9, "{month}");
    }
}
