//! Time and cost of builds, and of loading a snapshot on nodes.
//!
//! **A model, not measured on AWS.** The rates come from one measurement, from AWS's documentation and from users'
//! reports. The prices are list prices of us-east-1 without taxes and discounts. Every constant has its source.
//! `docs/costs.md` has tables of the results.

pub mod prices;

use prepull_domain::Architecture;
use prepull_domain::cache::config::VolumeConfig;
use serde::Serialize;

use prepull_domain::{Bytes, GiB, VerificationLevel};

// Durations of a build's steps, in seconds.

/// Time of plan-build to query the registries, in seconds, without the debounce. An assumption.
const PLAN: f64 = 5.0;

/// Time from the launch of an instance until its state is running, in seconds. EC2 does not charge for it. Source:
/// users' reports.
const PENDING: f64 = 16.0;

/// Boot time of Bottlerocket's kernel and user space, in seconds. Source: users' reports.
const BOOT: f64 = 32.0;

/// Time from the end of the boot until Systems Manager reaches the instance, in seconds. Source: users' reports of the
/// reference script.
const SSM_READY: f64 = 8.0;

/// Time for the scrub, the shutdown, and EC2's report of it, in seconds. An assumption.
const POWER_OFF: f64 = 30.0;

/// Minimum time of a snapshot, in seconds. An assumption.
const MIN_SNAPSHOT: f64 = 30.0;

/// Rate at which EBS stores a snapshot, in bytes per second. Source: users' reports, about 15 minutes for 100 GB.
const SNAPSHOT_RATE: f64 = 100e9 / 900.0;

/// Time to check containerd's records and the metadata of files on a volume that loads its blocks on first access, in
/// seconds. An assumption.
const CHECK_RECORDS: f64 = 20.0;

/// Time for manifest, pointer and clean-up, in seconds, without copies to other regions. An assumption.
const PUBLISH: f64 = 5.0;

// Limits of a pull.

/// Compressed bytes per second that one core decompresses (gzip) and unpacks, and the fraction of all cores that parallel
/// pulls keep busy. The model counts a vCPU as such a core.
///
/// Source for arm64: one measurement with containerd 2.1 on two cores and Go's gzip, 506 MB in 28 to 30 CPU seconds, and
/// four parallel pulls in 22 s. Bottlerocket decompresses with `unpigz` there, which was not measured.
///
/// Source for `x86_64`: Bottlerocket decompresses with `igzip`. On the same machine, it shortened the pull of one large image
/// by 34 %, and three parallel pulls by 17 %.
const INFLATE: [(Architecture, f64, f64); 2] = [
    (Architecture::X86_64, 27e6, 0.52),
    (Architecture::Arm64, 18e6, 0.65),
];

/// Bytes per second from the registry for each vCPU: 0.39 Gbit/s. Source: EC2's `DescribeInstanceTypes`, the baseline
/// of m7i and c7i.
const NETWORK_RATE: f64 = 0.39e9 / 8.0;

/// Maximum bytes per second through an internet gateway, 5 Gbit/s. Source: EC2 user guide, "Instance network
/// bandwidth", for fewer than 32 vCPUs.
const MAX_NETWORK_RATE: f64 = 5e9 / 8.0;

/// Age at which Linux writes dirty pages, in seconds. The final sync writes all younger pages. Source: the kernel's
/// `vm.dirty_expire_centisecs`, 3,000 by default.
const DIRTY_PAGE_AGE: f64 = 30.0;

/// Time for which an instance has its maximum EBS bandwidth, in seconds. Source: EC2 user guide, "EBS-optimized
/// instances": at least 30 minutes, once a day.
const EBS_BURST: f64 = 1_800.0;

const MIB: f64 = 1_048_576.0;
const GIB: f64 = 1_073_741_824.0;

// Quantities that prices apply to.

/// Memory of each function, in GB. Source: `infra/functions.tf`.
const LAMBDA_GB: f64 = 0.25;
/// Time that a function waits before the state machine calls it again, in seconds. Source: `infra/functions.tf`.
const LAMBDA_SECONDS: f64 = 300.0;
/// State transitions of a build of one architecture without retries. Source: `statemachine/build.asl.json`.
const TRANSITIONS: f64 = 17.0;
/// State transitions of a build that is up to date.
const TRANSITIONS_UNCHANGED: f64 = 6.0;
/// Minimum time that AWS charges for an instance or a gp3 volume, in seconds. Source: the pricing pages of EC2 and EBS.
const MIN_CHARGED: f64 = 60.0;

// Loading of a snapshot on nodes.

/// Bytes per second of a volume that loads its blocks on first access. Source: users' reports of single MB/s, of which
/// this is the middle.
const LAZY_RATE: f64 = 5e6;
/// Minimum volume initialization rate, in MiB/s. Source: EBS user guide, "Initialize Amazon EBS volumes".
pub const MIN_INITIALIZATION_RATE: u32 = 100;
/// Maximum volume initialization rate, in MiB/s. Source: the same.
pub const MAX_INITIALIZATION_RATE: u32 = 300;
/// Default quota of an account and Region for the rates of all volumes that initialize at the same time, in MiB/s.
///
/// Source: EBS user guide, "Quotas for Amazon EBS".
pub const INITIALIZATION_RATE_QUOTA: u32 = 5_000;
/// Approximate price in dollars of one GiB at the maximum initialization rate. Source:
/// <https://aws.amazon.com/ebs/pricing/>.
const INITIALIZATION_GIB: f64 = 0.0036;
/// Price in dollars of one hour of Fast Snapshot Restore for one snapshot in one availability zone. Source: the same.
const FAST_RESTORE_HOUR: f64 = 0.75;
/// Maximum volumes per hour from Fast Snapshot Restore, and maximum GiB per hour. The lower limit applies. Source: EBS
/// user guide, "Fast snapshot restore volume creation credits".
const FAST_RESTORE_CREDITS: (f64, f64) = (10.0, 1_024.0);
/// Minutes until Fast Snapshot Restore is ready, for each TiB of volume size. Source: EBS user guide.
const FAST_RESTORE_MINUTES: f64 = 60.0;
/// Maximum loading time in seconds for which the model recommends the free option. An assumption.
const MAX_LAZY_SECONDS: u32 = 60;

/// Instance types of one generation and kind, from `large` to `4xlarge`. vCPUs and price double with each size, and the
/// baseline does from the `xlarge` on.
struct Family {
    name: &'static str,
    architecture: Architecture,
    /// On-demand price of the `xlarge`, in dollars per hour.
    ///
    /// Source: the price list of us-east-1 of 19 January 2026, from Karpenter's source,
    /// `pkg/providers/pricing/zz_generated.pricing_aws.go`.
    hourly: f64,
    /// EBS bandwidth in Mbit/s: the baseline of the `xlarge`, and the maximum of every size. `None` if it does not double
    /// with the size.
    ///
    /// Source: EC2's `DescribeInstanceTypes`, `EbsOptimizedInfo`.
    ebs_mbps: Option<(f64, f64)>,
}

const fn family(
    name: &'static str,
    architecture: Architecture,
    hourly: f64,
    ebs_mbps: Option<(f64, f64)>,
) -> Family {
    Family {
        name,
        architecture,
        hourly,
        ebs_mbps,
    }
}

/// EBS bandwidth of most families, in Mbit/s.
const USUAL_EBS: Option<(f64, f64)> = Some((1_250.0, 10_000.0));

const FAMILIES: [Family; 10] = [
    family("c7i", Architecture::X86_64, 0.1785, USUAL_EBS),
    family("m7i", Architecture::X86_64, 0.2016, USUAL_EBS),
    family("m7i-flex", Architecture::X86_64, 0.191_52, None),
    family("m7a", Architecture::X86_64, 0.23184, USUAL_EBS),
    family("m6i", Architecture::X86_64, 0.192, USUAL_EBS),
    family("m6a", Architecture::X86_64, 0.1728, USUAL_EBS),
    family("c7g", Architecture::Arm64, 0.145, USUAL_EBS),
    family("m7g", Architecture::Arm64, 0.1632, USUAL_EBS),
    family("m6g", Architecture::Arm64, 0.154, Some((1_187.5, 4_750.0))),
    family("m8g", Architecture::Arm64, 0.17952, USUAL_EBS),
];

/// The properties of an instance type that the model uses.
#[derive(Debug, Clone, PartialEq)]
pub struct InstanceType {
    /// Name of the type.
    pub name: String,
    /// Number of vCPUs.
    pub vcpus: u32,
    /// Architecture. `None` if the model has no price for the type.
    pub architecture: Option<Architecture>,
    /// On-demand list price in dollars per hour. `None` if the model has no price for the type.
    pub hourly: Option<f64>,
    /// EBS bandwidth in bytes per second: the baseline, and the maximum, which lasts half an hour.
    ebs: Option<(f64, f64)>,
}

impl InstanceType {
    /// Returns the instance type `name`. If the model has no price for it, the vCPUs follow from its size. Returns
    /// `None` if the size does not determine them.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let (family, size) = name.split_once('.')?;
        let vcpus = match size {
            "medium" => 1,
            "large" => 2,
            "xlarge" => 4,
            _ => size
                .strip_suffix("xlarge")?
                .parse::<u32>()
                .ok()
                .filter(|xlarges| *xlarges > 0)?
                .checked_mul(4)?,
        };
        let known = FAMILIES
            .iter()
            .find(|known| known.name == family && [2, 4, 8, 16].contains(&vcpus));
        let xlarges = f64::from(vcpus) / 4.0;
        Some(Self {
            name: name.to_owned(),
            vcpus,
            architecture: known.map(|known| known.architecture),
            hourly: known.map(|known| known.hourly * xlarges),
            // The baseline of a `large` is not half of that of the `xlarge`.
            ebs: known.filter(|_| vcpus > 2).and_then(|known| {
                let (baseline, most) = known.ebs_mbps?;
                Some((baseline * xlarges * 1e6 / 8.0, most * 1e6 / 8.0))
            }),
        })
    }

    /// Returns the types to compare others of `architecture` with: the cheapest of their generation, in three sizes.
    #[must_use]
    pub fn compared(architecture: Architecture) -> Vec<Self> {
        let names = match architecture {
            Architecture::X86_64 => ["c7i.xlarge", "c7i.2xlarge", "c7i.4xlarge"],
            Architecture::Arm64 => ["c7g.xlarge", "c7g.2xlarge", "c7g.4xlarge"],
        };
        names.into_iter().filter_map(Self::from_name).collect()
    }
}

/// The work of a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Work {
    /// Number of images to pull.
    pub images: u32,
    /// Compressed bytes to pull. Shared layers count once.
    pub pulled: Bytes,
    /// Compressed bytes of the largest image. Only one core unpacks an image.
    pub largest: Bytes,
    /// Bytes that differ from the base after the pull, compressed and unpacked together.
    pub written: Bytes,
}

/// Estimated time and cost of a build.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Estimate {
    /// Duration of each step, in seconds.
    pub seconds: Steps,
    /// Cost in dollars.
    pub dollars: Dollars,
}

/// The steps of a build of one architecture, each in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Steps {
    /// Plan, without the debounce.
    pub plan: u32,
    /// Launch, and boot of Bottlerocket.
    pub launch: u32,
    /// Registration with Systems Manager.
    pub ssm: u32,
    /// Pulls.
    pub pull: u32,
    /// Sync of the pulled data to the volume.
    pub sync: u32,
    /// Power-off of the builder.
    pub power_off: u32,
    /// Completion of the snapshot.
    pub snapshot: u32,
    /// Publication and clean-up.
    pub publish: u32,
}

impl Steps {
    /// Returns the sum of all steps, in seconds.
    #[must_use]
    pub fn total(&self) -> u32 {
        self.named().into_iter().map(|(_, seconds)| seconds).sum()
    }

    /// Returns the steps in order, with their names.
    #[must_use]
    pub fn named(&self) -> [(&'static str, u32); 8] {
        [
            ("plan", self.plan),
            ("launch and boot", self.launch),
            ("SSM", self.ssm),
            ("pull", self.pull),
            ("sync", self.sync),
            ("power off", self.power_off),
            ("snapshot", self.snapshot),
            ("publish and clean up", self.publish),
        ]
    }
}

/// The cost of a build, in dollars to a hundredth of a cent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Dollars {
    /// Builder. `None` if the model has no price for its type.
    pub instance: Option<f64>,
    /// Data volume.
    pub volume: f64,
    /// Functions.
    pub lambda: f64,
    /// State transitions of Step Functions.
    pub transitions: f64,
    /// Storage of the snapshot per month, on top of its base.
    pub snapshot_month: f64,
}

impl Dollars {
    /// Returns the cost of the build without storage of the snapshot. `None` if the model has no price for the instance
    /// type.
    #[must_use]
    pub fn build(&self) -> Option<f64> {
        self.instance
            .map(|instance| instance + self.volume + self.lambda + self.transitions)
    }
}

/// Returns the estimate for a build that does `work` on an instance with a volume. The default of `pulls_at_once` is
/// the instance's vCPUs plus one.
#[must_use]
pub fn build(
    work: &Work,
    instance: &InstanceType,
    volume: &VolumeConfig,
    pulls_at_once: Option<u8>,
) -> Estimate {
    let written = to_f64(work.written);
    let (pull, sync) = pull_and_sync(work, instance, volume, pulls_at_once);
    let snapshot = MIN_SNAPSHOT + written / SNAPSHOT_RATE;
    let running = BOOT + SSM_READY + pull + sync + POWER_OFF;
    let attached = PENDING + running + snapshot + PUBLISH;
    let total = PLAN + attached;

    Estimate {
        seconds: Steps {
            plan: round(PLAN),
            launch: round(PENDING + BOOT),
            ssm: round(SSM_READY),
            pull: round(pull),
            sync: round(sync),
            power_off: round(POWER_OFF),
            snapshot: round(snapshot),
            publish: round(PUBLISH),
        },
        dollars: Dollars {
            instance: instance
                .hourly
                .map(|hourly| round_dollars(hourly / 3_600.0 * running.max(MIN_CHARGED))),
            volume: round_dollars(prices::volume_second(volume) * attached.max(MIN_CHARGED)),
            lambda: round_dollars(LAMBDA_GB * total * prices::LAMBDA_GB_SECOND),
            transitions: round_dollars(
                (TRANSITIONS + (total / LAMBDA_SECONDS).floor()) * prices::TRANSITION,
            ),
            snapshot_month: round_dollars(prices::snapshot_month(work.written)),
        },
    }
}

/// Seconds by which a debounce of `debounce` seconds delays the build after a push.
///
/// From 20 to 120 seconds, the builder boots during the debounce. The plan after the debounce is the only part that does
/// not overlap. Source: `statemachine/build.asl.json`.
#[must_use]
pub fn debounce_delay(debounce: u32) -> u32 {
    if !(20..=120).contains(&debounce) {
        return debounce;
    }
    let ready = PLAN + PENDING + BOOT + SSM_READY;
    round((f64::from(debounce) + PLAN - ready).max(0.0))
}

/// Returns the used bytes of a cache, in whole GB, from which on a refresh of a twentieth takes at most half the time of a
/// cold build. The cache has ten images, of which a quarter of the used bytes is pulled. `None` if no size up to 1,000 GB
/// reaches it.
#[must_use]
pub fn refresh_pays_from(
    instance: &InstanceType,
    volume: &VolumeConfig,
    pulls_at_once: Option<u8>,
) -> Option<Bytes> {
    let seconds = |written: u64, images: u32| {
        let work = Work {
            images,
            pulled: Bytes(written / 4),
            largest: Bytes(written / 4 / u64::from(images)),
            written: Bytes(written),
        };
        let estimate = build(&work, instance, volume, pulls_at_once);
        estimate.seconds.total()
    };
    let sizes = (1..=1_000).map(|gigabytes| gigabytes * 1_000_000_000);
    let mut long_enough = sizes.filter(|used| seconds(*used, 10) >= 2 * seconds(used / 20, 1));
    long_enough.next().map(Bytes)
}

/// Time and cost of the verification of a new snapshot. They come on top of those of its build.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verification {
    /// How thorough it is.
    pub level: VerificationLevel,
    /// Instance type of the verifiers.
    pub instance_type: String,
    /// Number of verifiers, which run at the same time.
    pub verifiers: u32,
    /// Seconds from the launch to the result.
    pub seconds: u32,
    /// Dollars of all verifiers. `None` if the model has no price for the instance type.
    pub dollars: Option<f64>,
}

/// Returns the estimate for a verification at `level` of a snapshot with `used` bytes, on one of `verifiers` instances for
/// each release.
#[must_use]
pub fn verification(
    level: VerificationLevel,
    used: Bytes,
    instance: &InstanceType,
    volume: &VolumeConfig,
    verifiers: u32,
) -> Verification {
    let bytes = to_f64(used);
    let loading = level
        .initialization_rate()
        .map(|rate| bytes / (f64::from(rate) * MIB));
    let (seconds, loaded) = match (level, loading) {
        (VerificationLevel::Off, _) => (0.0, 0.0),
        (_, None) => (BOOT + SSM_READY + CHECK_RECORDS, 0.0),
        // EBS loads the volume from its creation on, also during the boot.
        (_, Some(loading)) => (
            (BOOT + SSM_READY + CHECK_RECORDS).max(loading),
            bytes / GIB * INITIALIZATION_GIB,
        ),
    };
    let verifiers = if level == VerificationLevel::Off {
        0
    } else {
        verifiers
    };
    let attached = if verifiers == 0 {
        0.0
    } else {
        PENDING + seconds
    };
    let each = instance.hourly.map(|hourly| {
        hourly / 3_600.0 * seconds.max(MIN_CHARGED)
            + prices::volume_second(volume) * attached.max(MIN_CHARGED)
            + loaded
    });
    let function = LAMBDA_GB * attached * prices::LAMBDA_GB_SECOND + prices::TRANSITION;
    Verification {
        level,
        instance_type: instance.name.clone(),
        verifiers,
        seconds: round(attached),
        dollars: if verifiers == 0 {
            Some(0.0)
        } else {
            each.map(|each| round_dollars(f64::from(verifiers) * each + function))
        },
    }
}

/// Returns the estimate for a build that is up to date. It launches no instance.
#[must_use]
pub fn unchanged() -> Estimate {
    Estimate {
        seconds: Steps {
            plan: round(PLAN),
            ..Steps::default()
        },
        dollars: Dollars {
            instance: Some(0.0),
            volume: 0.0,
            lambda: round_dollars(LAMBDA_GB * PLAN * prices::LAMBDA_GB_SECOND),
            transitions: round_dollars(TRANSITIONS_UNCHANGED * prices::TRANSITION),
            snapshot_month: 0.0,
        },
    }
}

/// Returns the seconds of the pulls, and of the sync after them.
///
/// The kernel writes dirty pages only after some seconds, so the volume finishes later than the cores. If the cores are
/// slower, the delay is the time to write the last pages. If the volume is slower, the delay is the full age of the
/// pages.
/// Returns the rate of a core and the busy fraction of all cores. A type without a known architecture counts as the slower
/// one.
fn inflate(instance: &InstanceType) -> (f64, f64) {
    let known = INFLATE
        .iter()
        .find(|(architecture, ..)| Some(*architecture) == instance.architecture);
    let (_, rate, busy) = known.unwrap_or(&INFLATE[1]);
    (*rate, *busy)
}

fn pull_and_sync(
    work: &Work,
    instance: &InstanceType,
    volume: &VolumeConfig,
    pulls_at_once: Option<u8>,
) -> (f64, f64) {
    let vcpus = f64::from(instance.vcpus);
    let (pulled, written) = (to_f64(work.pulled), to_f64(work.written));

    // An image keeps one core busy. Parallel pulls keep only a fraction of all cores busy.
    let pulls_at_once = pulls_at_once.map_or(instance.vcpus + 1, u32::from);
    let cores = f64::from(work.images.min(pulls_at_once).max(1));
    let (inflate_rate, busy_cores) = inflate(instance);
    let cores = cores.min((vcpus * busy_cores).max(1.0));
    let inflate = (pulled / cores).max(to_f64(work.largest)) / inflate_rate;
    let network = pulled / (vcpus * NETWORK_RATE).min(MAX_NETWORK_RATE);

    let provisioned = f64::from(volume.throughput_mibps) * MIB;
    let rate = match instance.ebs {
        None => provisioned,
        Some((_, most)) if written <= provisioned.min(most) * EBS_BURST => provisioned.min(most),
        Some((baseline, _)) => provisioned.min(baseline),
    };
    let writes = written / rate;

    let transfer = inflate.max(network);
    let dirty_seconds = transfer.min(DIRTY_PAGE_AGE);
    let dirty_fraction = if transfer > 0.0 {
        dirty_seconds / transfer
    } else {
        0.0
    };
    let end = (transfer + writes * dirty_fraction).max(dirty_seconds + writes);
    let pull = transfer.max(writes);
    (pull, end - pull)
}

/// Time and cost for a node until all used bytes of a snapshot are on its volume.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Initialization {
    /// Seconds if blocks load on first access, which is free.
    pub lazy_seconds: u32,
    /// Seconds at the minimum initialization rate. The model has no price for it.
    pub slowest_initialization_seconds: u32,
    /// Seconds at the maximum initialization rate.
    pub fastest_initialization_seconds: u32,
    /// Dollars per node at the maximum initialization rate.
    pub fastest_initialization_dollars: f64,
    /// Fast Snapshot Restore. Its volumes need no loading.
    pub fast_snapshot_restore: FastSnapshotRestore,
    /// Recommendation of the model.
    pub recommended: Loading,
}

/// Fast Snapshot Restore of a snapshot in one availability zone.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct FastSnapshotRestore {
    /// Dollars per hour, independent of the number of nodes.
    pub dollars_per_hour: f64,
    /// Maximum volumes per hour. Further volumes load on first access.
    pub volumes_per_hour: f64,
    /// Node starts per hour from which it is cheaper than the maximum initialization rate.
    pub pays_from: f64,
    /// Minutes from publication until it is ready.
    pub ready_after_minutes: u32,
}

/// The method by which a node's volume gets its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Loading {
    /// On first access.
    Lazy,
    /// At the maximum initialization rate.
    InitializationRate,
    /// Before the node starts.
    FastSnapshotRestore,
}

/// Returns time and cost for nodes to load a snapshot with `used` bytes of a `volume`.
///
/// `nodes_per_day` counts evenly spread node starts in one availability zone. `None` means too few for Fast Snapshot
/// Restore.
#[must_use]
pub fn initialization(used: Bytes, volume: GiB, nodes_per_day: Option<u32>) -> Initialization {
    let (bytes, volume) = (to_f64(used), f64::from(volume.0));
    let at = |rate: u32| round(bytes / (f64::from(rate) * MIB));
    let price = bytes / GIB * INITIALIZATION_GIB;
    let (most, gib) = FAST_RESTORE_CREDITS;
    let restore = FastSnapshotRestore {
        dollars_per_hour: FAST_RESTORE_HOUR,
        volumes_per_hour: round_to_tenth((gib / volume).min(most)),
        pays_from: round_to_tenth(FAST_RESTORE_HOUR / price),
        ready_after_minutes: round((FAST_RESTORE_MINUTES * volume / 1_024.0).ceil()),
    };
    let lazy_seconds = round(bytes / LAZY_RATE);
    let starts = nodes_per_day.map_or(0.0, |nodes| f64::from(nodes) / 24.0);
    let recommended = if lazy_seconds <= MAX_LAZY_SECONDS {
        Loading::Lazy
    } else if (restore.pays_from..=restore.volumes_per_hour).contains(&starts) {
        Loading::FastSnapshotRestore
    } else {
        Loading::InitializationRate
    };
    Initialization {
        lazy_seconds,
        slowest_initialization_seconds: at(MIN_INITIALIZATION_RATE),
        fastest_initialization_seconds: at(MAX_INITIALIZATION_RATE),
        fastest_initialization_dollars: round_dollars(price),
        fast_snapshot_restore: restore,
        recommended,
    }
}

#[allow(clippy::cast_precision_loss)] // no volume has 2^53 bytes
fn to_f64(bytes: Bytes) -> f64 {
    bytes.0 as f64
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a float that is too large becomes the largest number
fn round(number: f64) -> u32 {
    number.round() as u32
}

/// Rounds dollars to a hundredth of a cent.
fn round_dollars(dollars: f64) -> f64 {
    (dollars * 1e4).round() / 1e4
}

fn round_to_tenth(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(throughput_mibps: u32) -> VolumeConfig {
        VolumeConfig {
            size_gib: GiB(50),
            iops: 3_000,
            throughput_mibps,
            kms_key_id: None,
        }
    }

    fn gb(gigabytes: u64) -> Bytes {
        Bytes(gigabytes * 1_000_000_000)
    }

    fn assert_near(seconds: f64, measured: f64) {
        assert!(
            (seconds / measured - 1.0).abs() < 0.15,
            "{seconds:.0} s by the model, {measured} s measured"
        );
    }

    /// Eight images on two cores. The volume received about five bytes for each pulled byte.
    #[test]
    fn model_matches_pulls_on_the_local_cloud() {
        let work = Work {
            images: 8,
            pulled: Bytes(506_000_000),
            largest: Bytes(100_000_000),
            written: Bytes(2_500_000_000),
        };
        let machine = InstanceType::from_name("local.large").unwrap();
        for (at_once, unlimited, limited) in [(1, 32.0, 55.0), (4, 22.5, 47.0)] {
            // A volume without limits adds almost no time. 119 MiB/s are 125 MB/s.
            let (pull, _) = pull_and_sync(&work, &machine, &volume(2_000), Some(at_once));
            assert_near(pull, unlimited);
            let (pull, sync) = pull_and_sync(&work, &machine, &volume(119), Some(at_once));
            assert_near(pull + sync, limited);
        }
    }

    #[test]
    fn more_cores_speed_up_only_parallel_pulls() {
        let work = Work {
            images: 10,
            pulled: gb(10),
            largest: gb(1),
            written: gb(40),
        };
        let pull = |name: &str, at_once| {
            let instance = InstanceType::from_name(name).unwrap();
            build(&work, &instance, &volume(1_000), at_once)
                .seconds
                .pull
        };
        assert!(pull("m7i.2xlarge", Some(4)) < pull("m7i.xlarge", Some(4)));
        assert_eq!(pull("m7i.4xlarge", Some(4)), pull("m7i.2xlarge", Some(4)));
        assert!(pull("m7i.4xlarge", None) < pull("m7i.2xlarge", None));
        // A single image uses one core.
        let one = Work {
            largest: gb(10),
            ..work
        };
        let instance = InstanceType::from_name("m7i.4xlarge").unwrap();
        let seconds = build(&one, &instance, &volume(1_000), Some(16))
            .seconds
            .pull;
        let (rate, _) = inflate(&instance);
        assert_eq!(seconds, round(10e9 / rate));
    }

    #[test]
    fn debounce_overlaps_the_boot_between_its_limits() {
        assert_eq!(debounce_delay(2), 2);
        assert_eq!(debounce_delay(20), 0);
        assert_eq!(debounce_delay(60), 4);
        assert_eq!(debounce_delay(120), 64);
        assert_eq!(debounce_delay(121), 121);
    }

    #[test]
    fn refresh_pays_for_large_caches() {
        let instance = InstanceType::from_name("m7i.2xlarge").unwrap();
        let from = refresh_pays_from(&instance, &volume(500), None).unwrap();
        assert!((gb(5)..gb(30)).contains(&from), "{from}");
    }

    #[test]
    fn instance_type_without_a_price_has_vcpus() {
        let known = InstanceType::from_name("m7i.2xlarge").unwrap();
        assert_eq!((known.vcpus, known.hourly), (8, Some(0.4032)));
        for (name, vcpus) in [("r8i.large", 2), ("m7i.48xlarge", 192), ("x9.3xlarge", 12)] {
            let unknown = InstanceType::from_name(name).unwrap();
            assert_eq!((unknown.vcpus, unknown.hourly), (vcpus, None), "{name}");
        }
        for wrong in ["m7i.metal", "m7i", "m7i.", "m7i.0xlarge"] {
            assert_eq!(InstanceType::from_name(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn ebs_baseline_limits_only_pulls_beyond_the_burst() {
        let instance = InstanceType::from_name("m7i.xlarge").unwrap();
        let pull = |written| {
            let work = Work {
                images: 1,
                pulled: gb(1),
                largest: gb(1),
                written,
            };
            build(&work, &instance, &volume(500), None).seconds.pull
        };
        assert_eq!(pull(gb(500)), round(500e9 / (500.0 * MIB)));
        assert_eq!(pull(gb(2_000)), round(2_000e9 / 156.25e6));
    }

    #[test]
    fn unchanged_build_costs_two_hundredths_of_a_cent() {
        let estimate = unchanged();
        assert_eq!(estimate.seconds.total(), 5);
        assert_eq!(estimate.dollars.build(), Some(0.0002));
    }

    #[test]
    fn fast_restore_needs_a_lower_price_and_enough_credits() {
        let recommended = |used, nodes| initialization(used, GiB(100), nodes).recommended;
        assert_eq!(recommended(Bytes(200_000_000), Some(240)), Loading::Lazy);
        assert_eq!(recommended(gb(60), None), Loading::InitializationRate);
        assert_eq!(recommended(gb(60), Some(48)), Loading::InitializationRate);
        assert_eq!(recommended(gb(60), Some(120)), Loading::FastSnapshotRestore);
        assert_eq!(recommended(gb(60), Some(480)), Loading::InitializationRate);
        // 0.75 / 0.0036 GiB are 208 GiB per hour, more than the credits allow for a small snapshot.
        assert_eq!(recommended(gb(10), Some(240)), Loading::InitializationRate);
    }
}
