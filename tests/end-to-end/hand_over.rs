//! Hand-over: candidates, promotion, roll-back, pins and rejections, in all Regions.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use prepull_aws::{parameters, snapshots};
use prepull_domain::build::payload::{Base, SnapshotState};
use prepull_domain::snapshot::decisions::KEPT;
use prepull_domain::snapshot::pointer::PublishedSnapshot;
use prepull_domain::{GiB, SnapshotId, names};
use serde_json::{Value, json};

use crate::fixture::{COPY_REGION, Fixture, KEY, X86, ensure_succeeded};

/// Runs the CLI. Returns its exit code and its output.
fn run(fixture: &Fixture, arguments: &[&str]) -> Result<(Option<i32>, String)> {
    let mut command = fixture.world.cli();
    let output = tokio::task::block_in_place(|| command.args(arguments).output())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((
        output.status.code(),
        text(&output.stdout) + &text(&output.stderr),
    ))
}

/// Runs the CLI and asserts its exit code and words of its output.
pub fn ensure_run(fixture: &Fixture, arguments: &[&str], code: i32, words: &[&str]) -> Result<()> {
    let (actual, output) = run(fixture, arguments)?;
    ensure!(
        actual == Some(code) && words.iter().all(|word| output.contains(word)),
        "{arguments:?} ended with {actual:?}, expected {code} and {words:?}: {output}"
    );
    Ok(())
}

fn id(snapshot: Option<PublishedSnapshot>) -> Result<SnapshotId> {
    Ok(snapshot.context("the role has no snapshot")?.snapshot_id)
}

async fn state(fixture: &Fixture, snapshot: &SnapshotId) -> Result<Option<SnapshotState>> {
    let found = snapshots::get(&fixture.world.clients, snapshot).await?;
    Ok(found.and_then(|found| found.state()))
}

fn with_promotion(mut config: Value, promotion: Value) -> Value {
    config["publication"]["promotion"] = promotion;
    config
}

pub async fn candidate_becomes_stable_after_its_soak(fixture: Arc<Fixture>) -> Result<()> {
    let world = &fixture.world;
    let soak = json!({"mode": "soak", "soak_minutes": 1});
    let config = with_promotion(fixture.config(&[&fixture.api]).await?, soak);
    let cache = fixture.cache(&config).await?;
    ensure_succeeded(&world.build(&cache).await?)?;
    ensure!(
        world.published(&cache, X86).await?.is_none(),
        "a candidate must not reach the nodes before its soak"
    );
    let first = world.pointer(&cache, X86).await?;
    let due = first.promote_at.context("the candidate does not soak")?;
    let candidate = id(first.candidate)?;
    ensure_run(
        &fixture,
        &["status", &cache],
        0,
        &[&format!("candidate {candidate}")],
    )?;
    // A build finds the content of the candidate up to date.
    let again = world.build(&cache).await?;
    ensure_succeeded(&again)?;
    ensure!(again.output.to_string().contains(candidate.as_str()));
    fixture.sweep().await?;
    ensure!(world.published(&cache, X86).await?.is_none());

    let rest = due.duration_since(Timestamp::now());
    tokio::time::sleep(Duration::try_from(rest).unwrap_or_default()).await;
    fixture.sweep().await?;
    ensure!(world.published(&cache, X86).await? == Some(candidate.clone()));
    ensure!(state(&fixture, &candidate).await? == Some(SnapshotState::Published));
    let node = world.start_node(Some(&candidate), X86, GiB(4)).await?;
    let run = world.run_container(&node, &fixture.api).await?;
    ensure!(run.present && run.requests == 0, "{run:?}");
    world.terminate_node(&node).await
}

pub async fn promote_and_reject_decide_about_a_candidate(fixture: Arc<Fixture>) -> Result<()> {
    let world = &fixture.world;
    let manual = json!({"mode": "manual"});
    let config = with_promotion(fixture.config(&[&fixture.api]).await?, manual.clone());
    let cache = fixture.cache(&config).await?;
    ensure_succeeded(&world.build(&cache).await?)?;
    ensure_run(&fixture, &["promote", &cache], 0, &["promoted snap-"])?;
    ensure_run(&fixture, &["promote", &cache], 0, &["unchanged"])?;
    let stable = world.published(&cache, X86).await?;
    let stable = stable.context("nothing is stable")?;

    let images = [fixture.api.as_str(), &fixture.multi];
    let config = with_promotion(fixture.config(&images).await?, manual);
    world.store_config(&cache, &config).await?;
    ensure_succeeded(&world.build(&cache).await?)?;
    let bad = id(world.pointer(&cache, X86).await?.candidate)?;
    let reject = ["reject", &cache, bad.as_str(), "--reason", "old CA bundle"];
    ensure_run(&fixture, &reject, 0, &["rejected", "old CA bundle"])?;
    ensure_run(&fixture, &reject, 0, &["unchanged"])?;
    let promote = ["promote", &cache, "--snapshot", bad.as_str()];
    ensure_run(&fixture, &promote, 1, &["refused", "was rejected"])?;
    ensure_run(
        &fixture,
        &["snapshots", &cache],
        0,
        &["rejected: old CA bundle", "stable"],
    )?;
    let reject = ["reject", &cache, stable.as_str(), "--reason", "slow"];
    ensure_run(&fixture, &reject, 1, &["refused", "prepull rollback"])?;
    ensure!(world.published(&cache, X86).await? == Some(stable.clone()));
    ensure!(state(&fixture, &bad).await? == Some(SnapshotState::Rejected));

    // The next build starts from the stable snapshot. Its clean-up keeps the rejected one for nodes that still use it.
    ensure_succeeded(&world.build(&cache).await?)?;
    let next = id(world.pointer(&cache, X86).await?.candidate)?;
    let manifest = world.manifest(&cache, X86, &next).await?;
    let is_base =
        matches!(&manifest.base, Base::Snapshot { snapshot_id, .. } if *snapshot_id == stable);
    ensure!(next != bad && is_base, "{:?}", manifest.base);
    ensure!(state(&fixture, &bad).await? == Some(SnapshotState::Rejected));
    fixture.sweep().await?;
    ensure!(state(&fixture, &bad).await? == Some(SnapshotState::Rejected));
    Ok(())
}

pub async fn rolled_back_snapshot_does_not_return(fixture: Arc<Fixture>) -> Result<()> {
    let world = &fixture.world;
    let mut config = fixture.config(&[&fixture.api, &fixture.multi]).await?;
    config["volume"]["kms_key_id"] = json!(KEY);
    config["publication"]["copy_to_regions"] = json!([COPY_REGION]);
    let cache = fixture.cache(&config).await?;
    let good = fixture.published(&cache).await?;
    config["images"] = json!([&fixture.api]);
    world.store_config(&cache, &config).await?;
    let bad = fixture.published(&cache).await?;
    let before = world.pointer(&cache, X86).await?;
    let there = COPY_REGION.parse()?;
    let copy = |snapshot: &Option<PublishedSnapshot>| {
        let snapshot = snapshot.as_ref().context("the role has no snapshot")?;
        snapshot.copies.get(&there).cloned().context("no copy")
    };
    let (bad_copy, good_copy) = (copy(&before.stable)?, copy(&before.previous)?);

    let roll_back = ["rollback", &cache, "--reason", "image multi is missing"];
    let words = [bad.as_str(), good.as_str(), "image multi is missing"];
    ensure_run(&fixture, &roll_back, 0, &words)?;
    ensure_run(&fixture, &roll_back, 0, &["unchanged"])?;
    ensure!(world.published(&cache, X86).await? == Some(good.clone()));
    ensure!(state(&fixture, &bad).await? == Some(SnapshotState::Rejected));
    let clients = world.clients.in_region(&there);
    let parameter = names::pointer_parameter(&cache.parse()?, X86);
    let shown = parameters::get(&clients, &parameter).await?;
    ensure!(shown.as_deref() == Some(good_copy.as_str()), "{shown:?}");
    let copy = snapshots::get(&clients, &bad_copy).await?;
    ensure!(copy.and_then(|copy| copy.state()) == Some(SnapshotState::Rejected));
    let words = ["pinned", "rolled back from", "image multi is missing"];
    ensure_run(&fixture, &["status", &cache], 0, &words)?;

    // The next build publishes a candidate, and leaves the nodes alone.
    ensure_succeeded(&world.build(&cache).await?)?;
    let after = world.pointer(&cache, X86).await?;
    let candidate = id(after.candidate)?;
    ensure!(candidate != bad && id(after.stable)? == good);
    let manifest = world.manifest(&cache, X86, &candidate).await?;
    let is_base =
        matches!(&manifest.base, Base::Snapshot { snapshot_id, .. } if *snapshot_id == good);
    ensure!(is_base, "{:?}", manifest.base);
    ensure_run(
        &fixture,
        &["promote", &cache],
        1,
        &["refused", "prepull unpin"],
    )?;
    ensure_run(&fixture, &["unpin", &cache], 0, &["promoted"])?;
    ensure!(world.published(&cache, X86).await? == Some(candidate));
    Ok(())
}

pub async fn pin_holds_and_the_sweep_completes_decisions(fixture: Arc<Fixture>) -> Result<()> {
    let world = &fixture.world;
    let mut config = fixture.config(&[&fixture.api]).await?;
    let cache = fixture.cache(&config).await?;
    let stable = fixture.published(&cache).await?;
    ensure_run(
        &fixture,
        &["pin", &cache, "--reason", "change freeze"],
        0,
        &["pinned: change freeze"],
    )?;
    config["images"] = json!([&fixture.api, &fixture.multi]);
    world.store_config(&cache, &config).await?;
    ensure_succeeded(&world.build(&cache).await?)?;
    ensure!(world.published(&cache, X86).await? == Some(stable));
    ensure_run(&fixture, &["unpin", &cache], 0, &["promoted"])?;
    let promoted = world.published(&cache, X86).await?;

    // Each caller deletes all but the last eight decisions.
    let name = cache.parse()?;
    let first = names::decision_parameter(&name, X86, 1);
    let entry = parameters::get(&world.clients, &first).await?;
    let entry = entry.context("the first decision is gone")?;
    for number in 1..=KEPT {
        let reason = format!("reason {number}");
        ensure_run(
            &fixture,
            &["pin", &cache, "--reason", &reason],
            0,
            &[&reason],
        )?;
    }
    ensure!(parameters::get(&world.clients, &first).await?.is_none());

    // A caller that ends early leaves parameters and tags that show an older pointer. A late one leaves an old decision.
    let stable = promoted.clone().context("nothing is stable")?;
    let parameter = names::pointer_parameter(&name, X86);
    parameters::put(&world.clients, &parameter, "snap-00000000000000000").await?;
    parameters::put(&world.clients, &first, &entry).await?;
    snapshots::set_state(&world.clients, &stable, SnapshotState::Verified).await?;
    fixture.sweep().await?;
    ensure!(world.published(&cache, X86).await? == promoted);
    ensure!(state(&fixture, &stable).await? == Some(SnapshotState::Published));
    ensure!(parameters::get(&world.clients, &first).await?.is_none());
    ensure_run(
        &fixture,
        &["pin", &cache, "--reason", "two\nlines"],
        2,
        &["invalid reason"],
    )
}
