//! The verification of snapshots: healthy ones are published, and damaged ones never are.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, stream};
use prepull_aws::{parameters, snapshots};
use prepull_domain::build::payload::{Base, SnapshotState};
use prepull_domain::{VerificationLevel, names};
use prepull_tests::invariants;
use serde_json::{Value, json};

use crate::fixture::{Fixture, X86, ensure_failed, ensure_succeeded};
use crate::hand_over::ensure_run;

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

/// Damages the next snapshot of a cache.
async fn damage(fixture: &Fixture, cache: &str, kind: &str) -> Result<()> {
    let damage = json!({"snapshot_damages": 1, "snapshot_damage": kind});
    fixture.world.cloud.set_for(cache, damage).await
}

/// Returns a configuration whose snapshots are verified at `level`.
async fn verified(fixture: &Fixture, images: &[&str], level: &str) -> Result<Value> {
    let mut config = fixture.config(images).await?;
    config["verification"] = json!({"level": level});
    Ok(config)
}

pub async fn damaged_snapshots_are_never_published(fixture: Arc<Fixture>) -> Result<()> {
    // With another snapshotter or without its database, containerd has no image.
    let damages = [
        ("missing-blob", "records", "is missing"),
        ("short-blob", "records", "another size"),
        ("flipped-byte", "full", "other bytes than its digest"),
        ("zeroed-file", "full", "other bytes than on the builder"),
        (
            "missing-directory",
            "records",
            "other files than on the builder",
        ),
        ("missing-tree", "records", "tree"),
        ("missing-database", "records", "is missing"),
        ("other-snapshotter", "records", "is missing"),
        ("dirty-log", "records", "replayed its log"),
        ("unmountable", "records", "does not mount"),
    ];
    // A build waits most of the time.
    let fixture = &fixture;
    let builds = damages.map(async |(kind, level, words)| {
        let refused = damaged_snapshot_is_not_published(fixture, kind, level, words);
        refused.await.with_context(|| kind.to_owned())
    });
    let builds = stream::iter(builds).buffer_unordered(3);
    let results: Vec<Result<()>> = Box::pin(builds.collect()).await;
    results.into_iter().collect::<Result<()>>()?;
    fixture.world.nothing_is_left().await
}

async fn damaged_snapshot_is_not_published(
    fixture: &Fixture,
    kind: &str,
    level: &str,
    words: &str,
) -> Result<()> {
    let world = &fixture.world;
    let config = verified(fixture, &[&fixture.api], level).await?;
    let cache = fixture.cache(&config).await?;
    damage(fixture, &cache, kind).await?;
    let outcome = world.build(&cache).await?;
    ensure_failed(&outcome, "VerifyFailed", &["verify-snapshot", words])?;
    let pointer = names::pointer_parameter(&cache.parse()?, X86);
    ensure!(
        parameters::get(&world.clients, &pointer).await?.is_none(),
        "the damaged snapshot was published"
    );
    let left = invariants::remaining_resources(std::slice::from_ref(&world.clients), &cache);
    let left = left.await?;
    ensure!(left.is_empty(), "{left:?}");
    Ok(())
}

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
    damage(&fixture, &cache, "missing-blob").await?;

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

pub async fn command_verifies_and_rejects_snapshots(fixture: Arc<Fixture>) -> Result<()> {
    let world = &fixture.world;
    let config = verified(&fixture, &[&fixture.api], "full").await?;
    let cache = fixture.cache(&config).await?;
    let healthy = fixture.published(&cache).await?;
    world.cloud.forget_calls().await?;
    let words = [healthy.as_str(), "has no defect: level full"];
    ensure_run(
        &fixture,
        &["verify", healthy.as_str(), "--reject"],
        0,
        &words,
    )?;
    ensure!(world.count_calls("RunInstances").await? == 1);
    ensure!(world.published(&cache, X86).await? == Some(healthy));
    ensure!(world.builders(&cache, X86).await?.is_empty());

    // Without a verification in the build, the damaged snapshot becomes a candidate.
    let mut config = fixture.config(&[&fixture.api]).await?;
    config["publication"]["promotion"] = json!({"mode": "manual"});
    let cache = fixture.cache(&config).await?;
    damage(&fixture, &cache, "missing-blob").await?;
    ensure_succeeded(&world.build(&cache).await?)?;
    let candidate = world.pointer(&cache, X86).await?.candidate;
    let damaged = candidate.context("the build has no candidate")?.snapshot_id;
    let state = async || -> Result<_> {
        let found = snapshots::get(&world.clients, &damaged).await?;
        Ok(found.and_then(|found| found.state()))
    };
    let verify = ["verify", damaged.as_str(), "--level", "records"];
    ensure_run(&fixture, &verify, 3, &[damaged.as_str(), "is missing"])?;
    ensure!(state().await? != Some(SnapshotState::Rejected));
    let reject = [&verify[..], &["--reject"]].concat();
    let words = ["is missing", &format!("{damaged} is rejected now")];
    ensure_run(&fixture, &reject, 3, &words)?;
    ensure!(state().await? == Some(SnapshotState::Rejected));
    ensure!(world.pointer(&cache, X86).await?.candidate.is_none());
    let words = ["rejected: prepull verify"];
    ensure_run(&fixture, &["snapshots", &cache], 0, &words)?;
    ensure!(world.builders(&cache, X86).await?.is_empty());
    world.nothing_is_left().await
}
