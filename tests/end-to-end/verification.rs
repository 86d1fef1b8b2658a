//! The verification of snapshots: healthy ones are published, and damaged ones never are.

use std::sync::Arc;

use anyhow::{Result, ensure};
use prepull_aws::parameters;
use prepull_domain::build::payload::Base;
use prepull_domain::{VerificationLevel, names};
use prepull_tests::invariants;
use serde_json::{Value, json};

use crate::fixture::{Fixture, X86, ensure_failed};

/// Folder of containerd's layers on the data volume.
const BLOBS: &str = "var/lib/containerd/io.containerd.content.v1.content/blobs/sha256";
/// Folder of the unpacked trees on the data volume.
const TREES: &str = "var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots";

pub async fn small_cache_is_fully_verified_by_default(fixture: Arc<Fixture>) -> Result<()> {
    let world = &fixture.world;
    let mut config = fixture.config(&[&fixture.api, &fixture.report]).await?;
    config["verification"] = json!({});
    let cache = fixture.cache(&config).await?;
    world.cloud.forget_calls().await?;
    let snapshot = fixture.published(&cache).await?;
    let manifest = world.manifest(&cache, X86, &snapshot).await?;
    let Some(record) = manifest.verification else {
        anyhow::bail!("the manifest of {snapshot} has no verification");
    };
    ensure!(record.level == VerificationLevel::Full, "{record}");
    ensure!(record.bytes.0 > 0 && record.trees > 0, "{record}");
    ensure!(manifest.trees.is_some(), "the manifest has no fingerprint");
    ensure!(
        world.count_calls("RunInstances").await? == 2,
        "expected a builder and a verifier"
    );
    world.nothing_is_left().await
}

pub async fn records_are_verified_on_two_releases(fixture: Arc<Fixture>) -> Result<()> {
    let world = &fixture.world;
    let mut config = fixture.config(&[&fixture.api]).await?;
    config["verification"] = json!({"level": "records", "releases": RELEASES});
    let cache = fixture.cache(&config).await?;
    let snapshot = fixture.published(&cache).await?;
    let manifest = world.manifest(&cache, X86, &snapshot).await?;
    let record = manifest.verification;
    ensure!(
        record.as_ref().is_some_and(|record| {
            let releases: Vec<_> = record.releases.iter().map(ToString::to_string).collect();
            record.level == VerificationLevel::Records && releases == RELEASES
        }),
        "{record:?}"
    );
    world.nothing_is_left().await
}

/// The latest release of the local cloud, and an older one.
const RELEASES: [&str; 2] = ["1.56.0", "1.57.0"];

/// Damages the next snapshot of a cache with a shell script.
async fn damage(fixture: &Fixture, script: &str) -> Result<()> {
    let damage = json!({"snapshot_damages": 1, "snapshot_damage": script});
    fixture.world.cloud.set(damage).await
}

/// Returns a configuration whose snapshots are verified at `level`.
async fn verified(fixture: &Fixture, images: &[&str], level: &str) -> Result<Value> {
    let mut config = fixture.config(images).await?;
    config["verification"] = json!({"level": level});
    Ok(config)
}

pub async fn damaged_snapshots_are_never_published(fixture: Arc<Fixture>) -> Result<()> {
    let world = &fixture.world;
    let largest = format!("blob=$(ls -S {BLOBS} | head -n 1)");
    let missing_layer = format!("{largest}; rm {BLOBS}/$blob");
    let flipped_byte = format!(
        "{largest}; printf '\\377\\000\\377' | dd of={BLOBS}/$blob bs=1 seek=1000 conv=notrunc status=none"
    );
    let zeroed_file = format!(
        "file=$(find {TREES}/*/fs -type f -size +1k | head -n 1); size=$(stat -c %s $file); \
         head -c $size /dev/zero | dd of=$file conv=notrunc status=none"
    );
    let missing_tree = format!("tree=$(ls {TREES} | head -n 1); rm -r {TREES}/$tree");
    for (name, level, script, words) in [
        (
            "missing layer",
            "records",
            missing_layer.as_str(),
            "missing",
        ),
        (
            "flipped byte",
            "full",
            &flipped_byte,
            "other bytes than its digest",
        ),
        (
            "zeroed file",
            "full",
            &zeroed_file,
            "other bytes than on the builder",
        ),
        ("missing tree", "records", &missing_tree, "tree"),
        (
            "no database",
            "records",
            "rm var/lib/containerd/io.containerd.metadata.v1.bolt/meta.db",
            "missing",
        ),
        ("broken superblock", "records", RAW_SUPERBLOCK, "mount"),
    ] {
        let config = verified(&fixture, &[&fixture.api], level).await?;
        let cache = fixture.cache(&config).await?;
        damage(&fixture, script).await?;
        let outcome = world.build(&cache).await?;
        ensure_failed(&outcome, "VerifyFailed", &["verify-snapshot", words])
            .map_err(|error| error.context(name))?;
        let pointer = names::pointer_parameter(&cache.parse()?, X86);
        ensure!(
            parameters::get(&world.clients, &pointer).await?.is_none(),
            "{name}: the damaged snapshot was published"
        );
        let left = invariants::remaining_resources(std::slice::from_ref(&world.clients), &cache);
        let left = left.await?;
        ensure!(left.is_empty(), "{name}: {left:?}");
    }
    world.nothing_is_left().await
}

/// Corrupts a field of the superblock of XFS, behind its magic number. Its checksum is then wrong.
const RAW_SUPERBLOCK: &str =
    "#raw\nprintf '\\377\\377' | dd of=\"$1\" bs=1 seek=64 conv=notrunc status=none";

pub async fn damaged_refresh_is_rebuilt_from_an_empty_volume(fixture: Arc<Fixture>) -> Result<()> {
    let world = &fixture.world;
    let push = async |content: &str| {
        let image = fixture.image(X86, content)?;
        world.ecr.push("team/changing", "verified", &image).await
    };
    let changing = push("verified 1").await?;
    let config = verified(&fixture, &[&fixture.api, &changing], "full").await?;
    let cache = fixture.cache(&config).await?;
    let first = fixture.published(&cache).await?;
    push("verified 2").await?;
    let largest = format!("blob=$(ls -S {BLOBS} | head -n 1); rm {BLOBS}/$blob");
    damage(&fixture, &largest).await?;

    let second = fixture.published(&cache).await?;
    let manifest = world.manifest(&cache, X86, &second).await?;
    let Base::Empty { reason } = &manifest.base else {
        anyhow::bail!("{second} was built on {first}, although a build on it failed");
    };
    ensure!(
        reason.contains(first.as_str()) && reason.contains("VerifyFailed"),
        "the manifest gives another reason: {reason}"
    );
    ensure!(manifest.verification.is_some());
    world.nothing_is_left().await
}
