//! The tables in `docs/costs.md` match the model.

use std::fmt::Write as _;

use prepull_domain::cache::config::VolumeConfig;
use prepull_domain::{Bytes, GiB, VerificationLevel};
use prepull_estimate::{
    InstanceType, MAX_INITIALIZATION_RATE, Steps, Work, build, initialization, verification,
};

const COSTS: &str = include_str!("../../../docs/costs.md");

/// Content of the finished volume in GB, and size of the volume.
const CACHES: [(u64, GiB); 3] = [(1, GiB(50)), (10, GiB(50)), (50, GiB(100))];

/// Seconds until the instance of aws-samples' stack is ready. Source: users' reports.
const CLOUDFORMATION: u32 = 190;

const TYPES: [&str; 5] = [
    "m7i.xlarge",
    "m7i.2xlarge",
    "m7i.4xlarge",
    "c7i.2xlarge",
    "m7g.2xlarge",
];

fn assert_table(name: &str, table: &str) {
    let begin = format!("<!-- {name}, checked by crates/estimate/tests/costs.rs -->\n");
    let (_, rest) = COSTS
        .split_once(&begin)
        .expect("the page has a marker for the table");
    let end = format!("<!-- end of {name} -->");
    let (written, _) = rest.split_once(&end).expect("the table has an end marker");
    assert!(
        written == table,
        "docs/costs.md must have this as `{name}`:\n{table}"
    );
}

#[test]
fn cold_build_table_matches_the_model() {
    let mut table =
        "| builder | MiB/s | 1 GB | 10 GB | 50 GB |\n| --- | --- | --- | --- | --- |\n".to_owned();
    for name in TYPES {
        let instance = InstanceType::from_name(name).expect("these types have sizes");
        for throughput_mibps in [125, 250, 500, 1_000] {
            write!(table, "| {name} | {throughput_mibps} |").expect("a string accepts every write");
            for (used, size_gib) in CACHES {
                let volume = VolumeConfig {
                    size_gib,
                    iops: (4 * throughput_mibps).max(3_000),
                    throughput_mibps,
                    kms_key_id: None,
                };
                let used = used * 1_000_000_000;
                let work = Work {
                    images: 10,
                    pulled: Bytes(used / 4),
                    largest: Bytes(used / 40),
                    written: Bytes(used),
                };
                let estimate = build(&work, &instance, &volume, None);
                let minutes = f64::from(estimate.seconds.total()) / 60.0;
                let cents = 100.0 * estimate.dollars.build().expect("these types have prices");
                write!(table, " {minutes:.1} min, {cents:.1} ¢ |")
                    .expect("a string accepts every write");
            }
            table.push('\n');
        }
    }
    assert_table("model results", &table);
}

#[test]
fn recipe_comparison_matches_the_model() {
    let instance = InstanceType::from_name("m7i.2xlarge").expect("the default type has a size");
    let mut table =
        "| used | by hand | first build | a twentieth changed |\n| --- | --- | --- | --- |\n"
            .to_owned();
    for (used, size_gib) in CACHES {
        let volume = VolumeConfig {
            size_gib,
            iops: 3_000,
            throughput_mibps: 500,
            kms_key_id: None,
        };
        let steps = |written: u64, images, pulls_at_once| {
            let work = Work {
                images,
                pulled: Bytes(written / 4),
                largest: Bytes(written / 4 / u64::from(images)),
                written: Bytes(written),
            };
            build(&work, &instance, &volume, pulls_at_once).seconds
        };
        let minutes = |steps: Steps| f64::from(steps.total()) / 60.0;
        let all = used * 1_000_000_000;
        let by_hand = minutes(Steps {
            launch: CLOUDFORMATION,
            ..steps(all, 10, Some(1))
        });
        let cold = minutes(steps(all, 10, None));
        let refresh = minutes(steps(all / 20, 1, None));
        writeln!(
            table,
            "| {used} GB | {by_hand:.1} min | {cold:.1} min: {:.1} times faster | {refresh:.1} min: {:.1} times faster than the first |",
            by_hand / cold,
            cold / refresh
        )
        .expect("a string accepts every write");
    }
    assert_table("model results for the recipe", &table);
}

#[test]
fn verification_table_matches_the_model() {
    let instance = InstanceType::from_name("m7i-flex.large").unwrap();
    let mut table = "| used | `records` | `full` |\n| --- | --- | --- |\n".to_owned();
    for (used, size_gib) in CACHES {
        let volume = VolumeConfig {
            size_gib,
            iops: 3_000,
            throughput_mibps: 500,
            kms_key_id: None,
        };
        let cell = |level| {
            let estimate = verification(level, Bytes(used * 1_000_000_000), &instance, &volume, 1);
            let dollars = estimate.dollars.expect("the type has a price");
            format!("{} s, {:.1} ¢", estimate.seconds, 100.0 * dollars)
        };
        writeln!(
            table,
            "| {used} GB of {size_gib} | {} | {} |",
            cell(VerificationLevel::Records),
            cell(VerificationLevel::Full)
        )
        .expect("a string accepts every write");
    }
    assert_table("model results for verification", &table);
}

#[test]
fn node_table_matches_the_model() {
    let mut table = format!(
        "| used | at first access | at {MAX_INITIALIZATION_RATE} MiB/s | Fast Snapshot Restore |\n| --- | --- | --- | --- |\n"
    );
    for (used, volume) in CACHES {
        let nodes = initialization(Bytes(used * 1_000_000_000), volume, None);
        let restore = nodes.fast_snapshot_restore;
        let pays = if restore.pays_from > restore.volumes_per_hour {
            "never cheaper".to_owned()
        } else {
            format!("cheaper from {} nodes an hour", restore.pays_from)
        };
        writeln!(
            table,
            "| {used} GB of {volume} | {} min, free | {} s, {:.1} ¢ | ${} an hour for up to {} nodes: {pays} |",
            nodes.lazy_seconds / 60,
            nodes.fastest_initialization_seconds,
            100.0 * nodes.fastest_initialization_dollars,
            restore.dollars_per_hour,
            restore.volumes_per_hour,
        )
        .expect("a string accepts every write");
    }
    assert_table("model results for nodes", &table);
}
