//! `prepull sync`, `nodes` and `check --live`: node classes follow the pointer, and pods find their images.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use prepull_aws::parameters;
use prepull_domain::snapshot::retention::Consumer;
use prepull_domain::{SnapshotId, names};
use prepull_kubernetes_standin::{Answer, Karpenter};
use prepull_tests::cluster::Cluster;
use serde_json::Value;

use crate::fixture::{Fixture, X86};

/// Runs the CLI for a cluster, and asserts its exit code and words of its output.
fn ensure_run(
    fixture: &Fixture,
    cluster: &Cluster,
    arguments: &[&str],
    code: i32,
    words: &[&str],
) -> Result<String> {
    let mut command = cluster.cli(&fixture.world);
    let output = tokio::task::block_in_place(|| command.args(arguments).output())?;
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    let all = format!("{out}{err}");
    ensure!(
        output.status.code() == Some(code) && words.iter().all(|word| all.contains(word)),
        "{arguments:?} ended with {:?}, expected {code} and {words:?}: {all}",
        output.status.code()
    );
    Ok(out.into_owned())
}

async fn registered(fixture: &Fixture, cache: &str, class: &str) -> Result<SnapshotId> {
    let path = names::consumers_path(&cache.parse()?, X86);
    let name = format!("{path}/standin.{class}");
    let json = parameters::get(&fixture.world.clients, &name).await?;
    let json = json.with_context(|| format!("{name} does not exist"))?;
    Ok(serde_json::from_str::<Consumer>(&json)?.snapshot_id)
}

pub async fn node_class_follows_promotions_and_roll_backs(fixture: Arc<Fixture>) -> Result<()> {
    let world = &fixture.world;
    let cluster = Cluster::start().await?;
    let run = |arguments: &[&str], code, words: &[&str]| {
        ensure_run(&fixture, &cluster, arguments, code, words)
    };
    run(&["sync"], 0, &["No node class"])?;

    let mut config = fixture.config(&[&fixture.api, &fixture.multi]).await?;
    let cache = fixture.cache(&config).await?;
    let first = fixture.published(&cache).await?;
    let printed = run(&["nodeclass", &cache, "--output", "json"], 0, &[])?;
    let printed: Value = serde_json::from_str(&printed)?;
    let class = cluster.create_class(printed, &cache, X86)?;
    let sync = ["sync", "--apply"];
    run(&sync, 0, &[&format!("has {first}")])?;
    ensure!(cluster.writes() == 0, "an up-to-date class was written");
    ensure!(registered(&fixture, &cache, &class).await? == first);

    config["images"] = serde_json::json!([&fixture.api]);
    world.store_config(&cache, &config).await?;
    let second = fixture.published(&cache).await?;
    let change = format!("snapshotID: {first} -> {second}");
    run(&["sync"], 0, &["would change", &change, "--apply"])?;
    run(
        &["sync", "--apply", "--delay", "24h"],
        0,
        &[&format!("gets {second} at")],
    )?;
    ensure!(cluster.data_volume(&class)?.0 == first && cluster.writes() == 0);

    // Karpenter does not accept the snapshot, so the class gets its old one back.
    cluster.set_karpenter(Karpenter::with(second.as_str(), Answer::Unknown));
    run(&["sync", "--apply", "--wait", "3s"], 1, &["reverted"])?;
    ensure!(cluster.data_volume(&class)?.0 == first);
    ensure!(registered(&fixture, &cache, &class).await? == first);

    // It tries the snapshot again only after someone has removed the annotation.
    cluster.set_karpenter(Karpenter::default());
    run(&sync, 1, &["did not accept", second.as_str()])?;
    ensure!(cluster.data_volume(&class)?.0 == first);
    cluster.remove_annotation(&class, "prepull/reverted-snapshot");
    run(&sync, 0, &["synced", &change])?;
    let writes = cluster.writes();
    run(&sync, 0, &[&format!("has {second}")])?;
    ensure!(cluster.writes() == writes, "a second sync wrote again");
    ensure!(registered(&fixture, &cache, &class).await? == second);
    let annotations = &cluster.class(&class)?["metadata"]["annotations"];
    ensure!(annotations["prepull/synced-snapshot"] == second.as_str());
    let (snapshot, size) = cluster.data_volume(&class)?;
    let node = world.start_node(Some(&snapshot), X86, size).await?;
    let run_of_api = world.run_container(&node, &fixture.api).await?;
    ensure!(
        run_of_api.present && run_of_api.requests == 0,
        "{run_of_api:?}"
    );
    cluster.add_pod(&node, &fixture.api);
    let nodes = run(&["nodes", &cache, "--output", "json"], 0, &[])?;
    let nodes: Value = serde_json::from_str(&nodes)?;
    ensure!(nodes["totals"]["found"] == 1, "{nodes}");
    ensure!(
        nodes["nodes"][0]["origin"]["snapshot_id"] == second.as_str(),
        "{nodes}"
    );
    let metrics = run(&["nodes", &cache, "--output", "prometheus"], 0, &["# TYPE"])?;
    ensure!(metrics.contains("prepull_"), "{metrics}");
    let check = [
        "check",
        &cache,
        "--live",
        "--burst",
        "17",
        "--namespace",
        "default",
    ];
    run(&check, 0, &["so 17 nodes need 5100 MiB/s", "0 errors"])?;
    world.terminate_node(&node).await?;

    // A roll-back does not wait for the delay.
    let roll_back = ["rollback", &cache, "--reason", "image multi is missing"];
    run(&roll_back, 0, &[first.as_str()])?;
    let back = format!("snapshotID: {second} -> {first}");
    run(
        &["sync", "--apply", "--delay", "24h"],
        0,
        &["synced", &back],
    )?;
    ensure!(cluster.data_volume(&class)?.0 == first);
    Ok(())
}
