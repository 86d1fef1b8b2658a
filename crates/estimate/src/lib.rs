//! What a build takes and costs, and what it takes and costs nodes to load its snapshot.
//!
//! **A model, not measured on AWS.** Its rates come from one measurement, from AWS's documentation and from users'
//! reports; its prices are list prices of us-east-1, without taxes and discounts. Every constant says where it comes
//! from. `docs/costs.md` has a table of what follows.

pub mod prices;

use prepull_domain::Architecture;
use prepull_domain::cache::config::VolumeConfig;
use serde::Serialize;

use prepull_domain::{Bytes, GiB};

// How long a build's steps take, in seconds.

/// Until plan-build has asked the registries, in seconds, without the wait for other triggers. An assumption.
const PLAN: f64 = 5.0;

/// From the launch of an instance until it runs, in seconds; EC2 charges nothing for it. Source: users' reports.
const PENDING: f64 = 16.0;

/// Kernel and user space of Bottlerocket, in seconds. Source: users' reports.
const BOOT: f64 = 32.0;

/// From there until Systems Manager reaches the instance, in seconds. Source: users' reports of the reference script.
const SSM_READY: f64 = 8.0;

/// The scrub, the shutdown, and until EC2 reports it, in seconds. An assumption.
const POWER_OFF: f64 = 30.0;

/// The least that a snapshot takes, in seconds. An assumption.
const SNAPSHOT_LEAST: f64 = 30.0;

/// Bytes a second that EBS stores of a snapshot. Source: users' reports, about 15 minutes for 100 GB.
const SNAPSHOT_RATE: f64 = 100e9 / 900.0;

/// Manifest, pointer and clean-up, in seconds, without copies to other regions. An assumption.
const PUBLISH: f64 = 5.0;

// What a pull is bound by.

/// Packed bytes a second that one core inflates and unpacks, gzip. Source: measured once with containerd 2.1 on two cores
/// and Go's gzip: 506 MB in 28 to 30 CPU seconds. A vCPU is taken for such a core.
const INFLATE_RATE: f64 = 18e6;

/// The part of all cores that pulls side by side keep busy. Source: the same measurement: four at once took 22 s
/// for 28 CPU seconds on two cores.
const BUSY_CORES: f64 = 0.65;

/// Bytes a second from the registry for each vCPU: 0.39 Gbit/s. Source: EC2's `DescribeInstanceTypes`, the baseline of
/// m7i and c7i.
const NETWORK_RATE: f64 = 0.39e9 / 8.0;

/// The most bytes a second through an internet gateway, 5 Gbit/s. Source: EC2 user guide, "Instance network bandwidth",
/// for less than 32 vCPUs.
const NETWORK_MOST: f64 = 5e9 / 8.0;

/// How old unwritten pages become before Linux writes them, in seconds, so that what was unpacked last is left for the
/// final sync. Source: the kernel's `vm.dirty_expire_centisecs`, 3,000 by default.
const UNWRITTEN: f64 = 30.0;

/// For how many seconds an instance has its highest EBS bandwidth. Source: EC2 user guide, "EBS-optimized instances":
/// 30 minutes at least once a day.
const EBS_BURST: f64 = 1_800.0;

const MIB: f64 = 1_048_576.0;
const GIB: f64 = 1_073_741_824.0;

// What prices are applied to.

/// GB of memory of each function. Source: `infra/functions.tf`.
const LAMBDA_GB: f64 = 0.25;
/// How long a function waits before the state machine calls it anew, in seconds. Source: `infra/functions.tf`.
const LAMBDA_SECONDS: f64 = 300.0;
/// Transitions of a build of one architecture in which nothing is retried. Source: `statemachine/build.asl.json`.
const TRANSITIONS: f64 = 14.0;
/// Transitions of a build that finds everything up to date.
const TRANSITIONS_UNCHANGED: f64 = 4.0;
/// The least that AWS charges of an instance or a gp3 volume, in seconds. Source: EC2's and EBS's pricing pages.
const LEAST_CHARGED: f64 = 60.0;

// How nodes load a snapshot.

/// Bytes a second of a volume that loads at first touch. Source: users' reports of single MB/s; this is their middle.
const LAZY_RATE: f64 = 5e6;
/// The lowest initialization rate, in MiB/s. Source: EBS user guide, "Initialize Amazon EBS volumes".
pub const SLOWEST_INITIALIZATION: u32 = 100;
/// The highest initialization rate, in MiB/s. Source: the same.
pub const FASTEST_INITIALIZATION: u32 = 300;
/// A GiB loaded at the highest initialization rate, about. Source: <https://aws.amazon.com/ebs/pricing/>.
const INITIALIZATION_GIB: f64 = 0.0036;
/// An hour of Fast Snapshot Restore for one snapshot in one availability zone. Source: the same.
const FAST_RESTORE_HOUR: f64 = 0.75;
/// Volumes an hour that Fast Snapshot Restore makes at most, and how many GiB it makes of them where that is less.
/// Source: EBS user guide, "Fast snapshot restore volume creation credits".
const FAST_RESTORE_CREDITS: (f64, f64) = (10.0, 1_024.0);
/// Minutes until Fast Snapshot Restore is ready, for each TiB of the snapshot's volume. Source: EBS user guide.
const FAST_RESTORE_MINUTES: f64 = 60.0;
/// How many seconds of loading at first touch are not worth money. An assumption.
const BEARABLE: u32 = 60;

/// Instance types of the same generation and kind, from `xlarge` to `4xlarge`: each size has twice the vCPUs, price and
/// baseline of the one before.
struct Family {
    name: &'static str,
    architecture: Architecture,
    /// Dollars an hour of the `xlarge` on demand.
    ///
    /// Source: the price list of us-east-1 of 19 January 2026, as Karpenter's source has it in
    /// `pkg/providers/pricing/zz_generated.pricing_aws.go`.
    hourly: f64,
    /// Mbit/s to EBS: the baseline of the `xlarge`, and the most of each size.
    ///
    /// Source: EC2's `DescribeInstanceTypes`, `EbsOptimizedInfo`.
    ebs_mbps: (f64, f64),
}

const fn family(
    name: &'static str,
    architecture: Architecture,
    hourly: f64,
    ebs_mbps: (f64, f64),
) -> Family {
    Family {
        name,
        architecture,
        hourly,
        ebs_mbps,
    }
}

const FAMILIES: [Family; 9] = [
    family("c7i", Architecture::X86_64, 0.1785, (1_250.0, 10_000.0)),
    family("m7i", Architecture::X86_64, 0.2016, (1_250.0, 10_000.0)),
    family("m7a", Architecture::X86_64, 0.23184, (1_250.0, 10_000.0)),
    family("m6i", Architecture::X86_64, 0.192, (1_250.0, 10_000.0)),
    family("m6a", Architecture::X86_64, 0.1728, (1_250.0, 10_000.0)),
    family("c7g", Architecture::Arm64, 0.145, (1_250.0, 10_000.0)),
    family("m7g", Architecture::Arm64, 0.1632, (1_250.0, 10_000.0)),
    family("m6g", Architecture::Arm64, 0.154, (1_187.5, 4_750.0)),
    family("m8g", Architecture::Arm64, 0.17952, (1_250.0, 10_000.0)),
];

/// What the model knows of an instance type.
#[derive(Debug, Clone, PartialEq)]
pub struct InstanceType {
    /// Its name.
    pub name: String,
    /// Its vCPUs.
    pub vcpus: u32,
    /// Its architecture, of types that the model has a price of.
    pub architecture: Option<Architecture>,
    /// Dollars an hour on demand, list price.
    pub hourly: Option<f64>,
    /// Bytes a second to EBS: the baseline, and the most for half an hour.
    ebs: Option<(f64, f64)>,
}

impl InstanceType {
    /// The type called `name`. Of a type without a price here the vCPUs are taken from its size; there is none where the
    /// size does not tell them.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
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
            .find(|known| known.name == family && [4, 8, 16].contains(&vcpus));
        let xlarges = f64::from(vcpus) / 4.0;
        Some(Self {
            name: name.to_owned(),
            vcpus,
            architecture: known.map(|known| known.architecture),
            hourly: known.map(|known| known.hourly * xlarges),
            ebs: known.map(|known| {
                let (baseline, most) = known.ebs_mbps;
                (baseline * xlarges * 1e6 / 8.0, most * 1e6 / 8.0)
            }),
        })
    }

    /// The types to compare others of `architecture` with: the cheapest of their generation, in three sizes.
    #[must_use]
    pub fn compared(architecture: Architecture) -> Vec<Self> {
        let names = match architecture {
            Architecture::X86_64 => ["c7i.xlarge", "c7i.2xlarge", "c7i.4xlarge"],
            Architecture::Arm64 => ["c7g.xlarge", "c7g.2xlarge", "c7g.4xlarge"],
        };
        names.into_iter().filter_map(Self::named).collect()
    }
}

/// What a build has to bring onto its volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Work {
    /// How many images are pulled.
    pub images: u32,
    /// What is pulled: packed bytes, each layer once.
    pub pulled: Bytes,
    /// The packed bytes of the largest image, which no other core helps with.
    pub largest: Bytes,
    /// What differs from the base afterwards: the packed and the unpacked bytes.
    pub written: Bytes,
}

/// What a build takes and costs, by the model.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Estimate {
    /// Its steps, in seconds.
    pub seconds: Steps,
    /// Its price, in dollars.
    pub dollars: Dollars,
}

/// The steps of a build of one architecture, each in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Steps {
    /// Until it is known what to build, without the wait for other triggers.
    pub plan: u32,
    /// Until Bottlerocket has booted.
    pub launch: u32,
    /// Until Systems Manager reaches it.
    pub ssm: u32,
    /// The pulls.
    pub pull: u32,
    /// Until what they wrote is on the volume.
    pub sync: u32,
    /// Until the builder is off.
    pub power_off: u32,
    /// Until the snapshot is complete.
    pub snapshot: u32,
    /// Publication and clean-up.
    pub publish: u32,
}

impl Steps {
    /// All of them, in seconds.
    #[must_use]
    pub fn total(&self) -> u32 {
        self.named().into_iter().map(|(_, seconds)| seconds).sum()
    }

    /// The steps with their names, in order.
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

/// The price of a build, in dollars to a hundredth of a cent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Dollars {
    /// The builder; none where the model has no price of its type.
    pub instance: Option<f64>,
    /// Its data volume.
    pub volume: f64,
    /// The functions.
    pub lambda: f64,
    /// Step Functions.
    pub transitions: f64,
    /// What the snapshot costs each month, on top of its base.
    pub snapshot_month: f64,
}

impl Dollars {
    /// The build, without the storage of its snapshot; none where the model has no price of its instance type.
    #[must_use]
    pub fn build(&self) -> Option<f64> {
        self.instance
            .map(|instance| instance + self.volume + self.lambda + self.transitions)
    }
}

/// What a build takes and costs that does `work` on an instance with a volume, with so many pulls at once: one
/// more than there are vCPUs where it is not said.
#[must_use]
pub fn build(
    work: &Work,
    instance: &InstanceType,
    volume: &VolumeConfig,
    pulls_at_once: Option<u8>,
) -> Estimate {
    let written = number(work.written);
    let (pull, sync) = pull_and_sync(work, instance, volume, pulls_at_once);
    let snapshot = SNAPSHOT_LEAST + written / SNAPSHOT_RATE;
    let running = BOOT + SSM_READY + pull + sync + POWER_OFF;
    let attached = PENDING + running + snapshot + PUBLISH;
    let total = PLAN + attached;

    Estimate {
        seconds: Steps {
            plan: whole(PLAN),
            launch: whole(PENDING + BOOT),
            ssm: whole(SSM_READY),
            pull: whole(pull),
            sync: whole(sync),
            power_off: whole(POWER_OFF),
            snapshot: whole(snapshot),
            publish: whole(PUBLISH),
        },
        dollars: Dollars {
            instance: instance
                .hourly
                .map(|hourly| cents(hourly / 3_600.0 * running.max(LEAST_CHARGED))),
            volume: cents(prices::volume_second(volume) * attached.max(LEAST_CHARGED)),
            lambda: cents(LAMBDA_GB * total * prices::LAMBDA_GB_SECOND),
            transitions: cents(
                (TRANSITIONS + (total / LAMBDA_SECONDS).floor()) * prices::TRANSITION,
            ),
            snapshot_month: cents(prices::snapshot_month(work.written)),
        },
    }
}

/// What a build takes and costs that finds everything up to date: no instance is launched.
#[must_use]
pub fn unchanged() -> Estimate {
    Estimate {
        seconds: Steps {
            plan: whole(PLAN),
            ..Steps::default()
        },
        dollars: Dollars {
            instance: Some(0.0),
            volume: 0.0,
            lambda: cents(LAMBDA_GB * PLAN * prices::LAMBDA_GB_SECOND),
            transitions: cents(TRANSITIONS_UNCHANGED * prices::TRANSITION),
            snapshot_month: 0.0,
        },
    }
}

/// Seconds of the pulls, and of the sync after them.
///
/// The kernel starts to write what the pulls unpack only when it is some seconds old, so that the volume works later
/// than the cores: as long as it takes to write what came last, or, where the volume is the slower of both, all that
/// time later.
fn pull_and_sync(
    work: &Work,
    instance: &InstanceType,
    volume: &VolumeConfig,
    pulls_at_once: Option<u8>,
) -> (f64, f64) {
    let vcpus = f64::from(instance.vcpus);
    let (pulled, written) = (number(work.pulled), number(work.written));

    // An image occupies one core, and all of them together less than there are.
    let pulls_at_once = pulls_at_once.map_or(instance.vcpus + 1, u32::from);
    let cores = f64::from(work.images.min(pulls_at_once).max(1));
    let cores = cores.min((vcpus * BUSY_CORES).max(1.0));
    let inflate = (pulled / cores).max(number(work.largest)) / INFLATE_RATE;
    let network = pulled / (vcpus * NETWORK_RATE).min(NETWORK_MOST);

    let provisioned = f64::from(volume.throughput_mibps) * MIB;
    let rate = match instance.ebs {
        None => provisioned,
        Some((_, most)) if written <= provisioned.min(most) * EBS_BURST => provisioned.min(most),
        Some((baseline, _)) => provisioned.min(baseline),
    };
    let writes = written / rate;

    let filling = inflate.max(network);
    let late = filling.min(UNWRITTEN);
    let young = if filling > 0.0 { late / filling } else { 0.0 };
    let end = (filling + writes * young).max(late + writes);
    let pull = filling.max(writes);
    (pull, end - pull)
}

/// What it takes and costs a node until all used bytes of a snapshot are on its volume.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Hydration {
    /// Seconds at first touch, for nothing.
    pub lazy_seconds: u32,
    /// Seconds at the lowest initialization rate. The model has no price of it.
    pub slowest_initialization_seconds: u32,
    /// Seconds at the highest initialization rate.
    pub fastest_initialization_seconds: u32,
    /// Dollars for each node at the highest initialization rate.
    pub fastest_initialization_dollars: f64,
    /// With Fast Snapshot Restore, which leaves nothing to load.
    pub fast_snapshot_restore: FastSnapshotRestore,
    /// What the model would take.
    pub recommended: Loading,
}

/// Fast Snapshot Restore of a snapshot in one availability zone.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct FastSnapshotRestore {
    /// Dollars an hour, however many nodes start.
    pub dollars_per_hour: f64,
    /// Volumes an hour that it makes; further ones load at first touch.
    pub volumes_per_hour: f64,
    /// Node starts an hour from which it is cheaper than the highest initialization rate.
    pub pays_from: f64,
    /// Minutes after each publication until it is ready.
    pub ready_after_minutes: u32,
}

/// How a node's volume gets its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Loading {
    /// At first touch.
    Lazy,
    /// At the highest initialization rate.
    InitializationRate,
    /// Before the node starts.
    FastSnapshotRestore,
}

/// What it takes and costs nodes to load a snapshot with so many `used` bytes of a `volume`. Of the nodes so many start
/// each day in one availability zone, evenly; where that is not known, too few for Fast Snapshot Restore.
#[must_use]
pub fn hydration(used: Bytes, volume: GiB, nodes_per_day: Option<u32>) -> Hydration {
    let (bytes, volume) = (number(used), f64::from(volume.0));
    let at = |rate: u32| whole(bytes / (f64::from(rate) * MIB));
    let price = bytes / GIB * INITIALIZATION_GIB;
    let (most, gib) = FAST_RESTORE_CREDITS;
    let restore = FastSnapshotRestore {
        dollars_per_hour: FAST_RESTORE_HOUR,
        volumes_per_hour: tenth((gib / volume).min(most)),
        pays_from: tenth(FAST_RESTORE_HOUR / price),
        ready_after_minutes: whole((FAST_RESTORE_MINUTES * volume / 1_024.0).ceil()),
    };
    let lazy_seconds = whole(bytes / LAZY_RATE);
    let starts = nodes_per_day.map_or(0.0, |nodes| f64::from(nodes) / 24.0);
    let recommended = if lazy_seconds <= BEARABLE {
        Loading::Lazy
    } else if (restore.pays_from..=restore.volumes_per_hour).contains(&starts) {
        Loading::FastSnapshotRestore
    } else {
        Loading::InitializationRate
    };
    Hydration {
        lazy_seconds,
        slowest_initialization_seconds: at(SLOWEST_INITIALIZATION),
        fastest_initialization_seconds: at(FASTEST_INITIALIZATION),
        fastest_initialization_dollars: cents(price),
        fast_snapshot_restore: restore,
        recommended,
    }
}

#[allow(clippy::cast_precision_loss)] // no volume has 2^53 bytes
fn number(bytes: Bytes) -> f64 {
    bytes.0 as f64
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a float that is too large becomes the largest number
fn whole(number: f64) -> u32 {
    number.round() as u32
}

/// Dollars to a hundredth of a cent.
fn cents(dollars: f64) -> f64 {
    (dollars * 1e4).round() / 1e4
}

fn tenth(number: f64) -> f64 {
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

    /// Eight images on two cores, where about five bytes were written for each that was pulled.
    #[test]
    fn the_model_gives_what_pulls_took_on_the_local_cloud() {
        let work = Work {
            images: 8,
            pulled: Bytes(506_000_000),
            largest: Bytes(100_000_000),
            written: Bytes(2_500_000_000),
        };
        let machine = InstanceType::named("local.large").unwrap();
        for (at_once, unlimited, limited) in [(1, 32.0, 55.0), (4, 22.5, 47.0)] {
            // Next to no time is spent on a volume without limits, and 119 MiB/s are 125 MB/s.
            let (pull, _) = pull_and_sync(&work, &machine, &volume(2_000), Some(at_once));
            assert_near(pull, unlimited);
            let (pull, sync) = pull_and_sync(&work, &machine, &volume(119), Some(at_once));
            assert_near(pull + sync, limited);
        }
    }

    #[test]
    fn more_cores_help_as_long_as_there_are_pulls_for_them() {
        let work = Work {
            images: 10,
            pulled: gb(10),
            largest: gb(1),
            written: gb(40),
        };
        let pull = |name: &str, at_once| {
            let instance = InstanceType::named(name).unwrap();
            build(&work, &instance, &volume(1_000), at_once)
                .seconds
                .pull
        };
        assert!(pull("m7i.2xlarge", Some(4)) < pull("m7i.xlarge", Some(4)));
        assert_eq!(pull("m7i.4xlarge", Some(4)), pull("m7i.2xlarge", Some(4)));
        assert!(pull("m7i.4xlarge", None) < pull("m7i.2xlarge", None));
        // One image, one core.
        let one = Work {
            largest: gb(10),
            ..work
        };
        let instance = InstanceType::named("m7i.4xlarge").unwrap();
        let seconds = build(&one, &instance, &volume(1_000), Some(16))
            .seconds
            .pull;
        assert_eq!(seconds, whole(10e9 / INFLATE_RATE));
    }

    #[test]
    fn a_type_without_a_price_is_known_by_its_size() {
        let known = InstanceType::named("m7i.2xlarge").unwrap();
        assert_eq!((known.vcpus, known.hourly), (8, Some(0.4032)));
        for (name, vcpus) in [("r8i.large", 2), ("m7i.48xlarge", 192), ("x9.3xlarge", 12)] {
            let unknown = InstanceType::named(name).unwrap();
            assert_eq!((unknown.vcpus, unknown.hourly), (vcpus, None), "{name}");
        }
        for wrong in ["m7i.metal", "m7i", "m7i.", "m7i.0xlarge"] {
            assert_eq!(InstanceType::named(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn an_instance_s_baseline_counts_only_for_what_takes_longer_than_its_burst() {
        let instance = InstanceType::named("m7i.xlarge").unwrap();
        let pull = |written| {
            let work = Work {
                images: 1,
                pulled: gb(1),
                largest: gb(1),
                written,
            };
            build(&work, &instance, &volume(500), None).seconds.pull
        };
        assert_eq!(pull(gb(500)), whole(500e9 / (500.0 * MIB)));
        assert_eq!(pull(gb(2_000)), whole(2_000e9 / 156.25e6));
    }

    #[test]
    fn what_has_not_changed_costs_a_hundredth_of_a_cent() {
        let estimate = unchanged();
        assert_eq!(estimate.seconds.total(), 5);
        assert_eq!(estimate.dollars.build(), Some(0.0001));
    }

    #[test]
    fn fast_snapshot_restore_is_taken_only_where_it_pays_and_its_credits_suffice() {
        let recommended = |used, nodes| hydration(used, GiB(100), nodes).recommended;
        assert_eq!(recommended(Bytes(200_000_000), Some(240)), Loading::Lazy);
        assert_eq!(recommended(gb(60), None), Loading::InitializationRate);
        assert_eq!(recommended(gb(60), Some(48)), Loading::InitializationRate);
        assert_eq!(recommended(gb(60), Some(120)), Loading::FastSnapshotRestore);
        assert_eq!(recommended(gb(60), Some(480)), Loading::InitializationRate);
        // 0.75 / 0.0036 GiB are 208 GiB an hour, more than the credits load of a small snapshot.
        assert_eq!(recommended(gb(10), Some(240)), Loading::InitializationRate);
    }
}
