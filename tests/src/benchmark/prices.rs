//! The price of a measurement on AWS, by [`prepull_estimate::prices`].
//!
//! The durations come from the local cloud, where instances start and snapshots complete within seconds. EC2's minimum
//! charge of one minute is left out, because every build on AWS takes longer.

use prepull_domain::Bytes;
use prepull_estimate::InstanceType;
use prepull_estimate::prices::{
    LAMBDA_GB_SECOND, LAMBDA_INVOCATION, TRANSITION, snapshot_month, volume_second,
};

use crate::benchmark::Measurement;

/// The first instance type of the module's default.
const INSTANCE_TYPE: &str = "m7i.2xlarge";

/// Size of the blocks in which EBS stores snapshots.
const BLOCK_BYTES: u64 = 512 << 10;

/// Returns the cost of the build.
///
/// # Panics
/// Never. The default instance type has a price.
#[must_use]
#[expect(
    clippy::cast_precision_loss,
    reason = "thousands of calls are far from the limit of a float"
)]
pub fn dollars(measurement: &Measurement) -> f64 {
    let hourly = InstanceType::from_name(INSTANCE_TYPE).and_then(|known| known.hourly);
    let hourly = hourly.expect("the default instance type has a price");
    measurement.instance_seconds * (hourly / 3_600.0 + volume_second(&measurement.volume))
        + measurement.transitions as f64 * TRANSITION
        + measurement.lambda_gb_seconds * LAMBDA_GB_SECOND
        + measurement.invocations as f64 * LAMBDA_INVOCATION
}

/// Returns the monthly cost of the snapshot in addition to the earlier snapshots.
#[must_use]
pub fn dollars_a_month(measurement: &Measurement) -> Option<f64> {
    let blocks = measurement.blocks?;
    Some(snapshot_month(Bytes(blocks * BLOCK_BYTES)))
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use prepull_domain::GiB;
    use prepull_domain::cache::config::VolumeConfig;

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
            volume: VolumeConfig {
                size_gib: GiB(50),
                iops: 3_000,
                throughput_mibps: 500,
                kms_key_id: None,
            },
        }
    }

    #[test]
    fn build_of_ten_minutes_costs_the_documented_price() {
        let build = Measurement {
            instance_seconds: 600.0,
            transitions: 60,
            lambda_gb_seconds: 0.25 * 600.0,
            ..nothing()
        };
        // $0.07 of instance, $0.004 of volume, $0.0015 of transitions, $0.002 of Lambda.
        let expected = 0.0672 + 0.0043 + 0.0015 + 0.002;
        assert!(
            (dollars(&build) - expected).abs() < 0.0005,
            "{}",
            dollars(&build)
        );
    }

    #[test]
    fn snapshot_costs_its_changed_blocks() {
        let blocks = |blocks| Measurement {
            blocks,
            ..nothing()
        };
        assert_eq!(dollars_a_month(&blocks(None)), None);
        let month = dollars_a_month(&blocks(Some(2_048))).unwrap();
        assert!((month - 0.05).abs() < 1e-9, "{month}");
    }
}
