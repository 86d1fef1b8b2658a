//! Results of a build: the snapshot, its content and its publication.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use prepull_aws::ec2::types::SnapshotState as EbsState;
use prepull_aws::{parameters, snapshots};
use prepull_domain::build::payload::Base;
use prepull_domain::{GiB, SnapshotId, names};
use prepull_tests::World;
use serde_json::json;

use crate::fixture::{ARM, Fixture, X86, ensure_failed, ensure_succeeded};

const VOLUME: GiB = GiB(4);

pub async fn containers_start_from_the_snapshot_without_pulling(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let world = &fixture.world;
    let images = [fixture.api.as_str(), &fixture.multi, &fixture.report];
    let mut config = fixture.config(&images).await?;
    config["verification"] = json!({});
    let cache = fixture.cache(&config).await?;
    let snapshot = fixture.published(&cache).await?;
    let manifest = world.manifest(&cache, X86, &snapshot).await?;
    let empty = world.start_node(None, X86, VOLUME).await?;
    let cached = world.start_node(Some(&snapshot), X86, VOLUME).await?;
    for image in &manifest.images {
        let by_tag = image.reference.to_string();
        let by_digest = image.reference.by_digest(&image.digest);
        let run = world.cloud.run_container(&empty, &by_tag).await?;
        ensure!(
            !run.present && run.pulled_bytes > 0,
            "the empty node also has {by_tag}, so the comparison is meaningless"
        );
        for reference in [by_tag, by_digest] {
            let run = world.cloud.run_container(&cached, &reference).await?;
            ensure!(
                run.present && run.requests == 0 && run.pulled_bytes == 0,
                "{reference} was pulled: {run:?}"
            );
            ensure!(
                run.exit_code == Some(0),
                "container of {reference} failed: {run:?}"
            );
        }
    }
    world.terminate_node(&empty).await?;
    world.terminate_node(&cached).await
}

pub async fn images_come_from_a_mirror(fixture: Arc<Fixture>) -> Result<()> {
    let world = &fixture.world;
    // No such registry exists, so only the mirror can have the image.
    let registry = "mirrored.example.com";
    let image = format!("{registry}/tools/report:v1");
    let mut config = fixture.config(&[&image]).await?;
    config["registry_credentials"] = json!({registry: {"parameter_name": "/team/registry"}});
    let mirror = format!("https://{}", world.cloud.ready.registries.private.host);
    config["builder"]["settings"] = json!({"registry_mirrors": {registry: [mirror]}});
    let cache = fixture.cache(&config).await?;
    let snapshot = fixture.published(&cache).await?;
    let node = world.start_node(Some(&snapshot), X86, VOLUME).await?;
    let run = world.cloud.run_container(&node, &image).await?;
    ensure!(
        run.present && run.requests == 0 && run.exit_code == Some(0),
        "{image} was not in the cache: {run:?}"
    );
    world.terminate_node(&node).await
}

pub async fn snapshot_contains_the_images_and_no_secret(fixture: Arc<Fixture>) -> Result<()> {
    let cache = fixture
        .cache(&fixture.config(&[&fixture.api, &fixture.report]).await?)
        .await?;
    let snapshot = fixture.published(&cache).await?;
    let cloud = &fixture.world.cloud;
    holds_no_secret(&cloud.snapshot_files(&snapshot, "/").await?)?;
    // EBS copies every block that was ever written, also those of deleted files.
    for secret in [NODE_SECRET, &cloud.ready.registries.private.password] {
        let found = cloud.occurrences(&snapshot, secret).await?;
        ensure!(
            found == 0,
            "{found} blocks of the snapshot contain a secret"
        );
    }
    Ok(())
}

/// Organizations demand tags by service control policies, which look at the request that creates a resource.
pub async fn every_resource_of_a_build_has_the_users_tags(fixture: Arc<Fixture>) -> Result<()> {
    let world = &fixture.world;
    let mut config = fixture.config(&[&fixture.api]).await?;
    config["tags"]["cost-center"] = json!("1234");
    let cache = fixture.cache(&config).await?;
    fixture.published(&cache).await?;
    let decisions = world.cloud.decisions().await?.decisions;
    for (action, resource) in [
        ("ec2:RunInstances", ":instance/"),
        ("ec2:RunInstances", ":volume/"),
        ("ec2:RunInstances", ":network-interface/"),
        ("ec2:CreateSnapshot", ":snapshot/"),
    ] {
        let request = |key: &str, value: &str| {
            decisions.iter().any(|decision| {
                let tag = |key: &str| decision.context.get(&format!("aws:RequestTag/{key}"));
                decision.action == action
                    && decision.resource.contains(resource)
                    && tag(names::TAG_CACHE) == Some(&json!(cache))
                    && tag(key) == Some(&json!(value))
            })
        };
        // Terraform's tag, and one of the cache.
        for (key, value) in [("team", "platform"), ("cost-center", "1234")] {
            ensure!(
                request(key, value),
                "{action} of {resource} has no tag {key}"
            );
        }
    }
    Ok(())
}

/// Text in every key and every other secret that a node of the local cloud writes.
const NODE_SECRET: &str = "localcloud-secret";

pub async fn failed_scrub_reports_its_reason(fixture: Arc<Fixture>) -> Result<()> {
    let world = &fixture.world;
    let cache = fixture
        .cache(&fixture.config(&[&fixture.api]).await?)
        .await?;
    world.cloud.set(json!({"stuck_mount": true})).await?;
    let outcome = world.build(&cache).await?;
    ensure_failed(
        &outcome,
        "SnapshotFailed",
        &["did not power itself off", "/var/lib/kubelet/stuck", "busy"],
    )?;
    ensure!(
        world.published(&cache, X86).await?.is_none(),
        "the failed build has a pointer"
    );
    Ok(())
}

pub async fn references_to_one_image_are_all_present(fixture: Arc<Fixture>) -> Result<()> {
    let world = &fixture.world;
    let image = fixture.image(X86, "twice")?;
    let first = world.ecr.push("team/changing", "1", &image).await?;
    let second = world.ecr.push("team/changing", "1.0", &image).await?;
    let (repository, _) = first.rsplit_once(':').context("the reference has a tag")?;
    let by_digest = format!("{repository}@{}", image.digest());
    let images = [first.as_str(), &second, &by_digest];
    let cache = fixture.cache(&fixture.config(&images).await?).await?;
    let snapshot = fixture.published(&cache).await?;
    let node = world.start_node(Some(&snapshot), X86, VOLUME).await?;
    for reference in images {
        let run = world.cloud.run_container(&node, reference).await?;
        ensure!(
            run.present && run.requests == 0,
            "{reference} was pulled: {run:?}"
        );
    }
    world.terminate_node(&node).await
}

/// A sample of a large cache: the configuration and the manifest have several pages.
pub async fn images_with_long_names_fill_several_pages(fixture: Arc<Fixture>) -> Result<()> {
    let world = &fixture.world;
    let host = &world.cloud.ready.registries.private.host;
    let repository = |number: usize| {
        let rest = format!("{host}/long//{number:02}:v1").len();
        format!("long/{}/{number:02}", "p".repeat(125 - rest))
    };
    let mut references = Vec::new();
    for number in 0..16 {
        let image = fixture.image(X86, &format!("long {number}"))?;
        let reference = world
            .private
            .push(&repository(number), "v1", &image)
            .await?;
        ensure!(
            reference.len() == 125,
            "{reference} does not have 125 characters"
        );
        references.push(reference);
    }
    let images: Vec<_> = references.iter().map(String::as_str).collect();
    let cache = fixture.cache(&fixture.config(&images).await?).await?;
    let config = names::config_parameter(&cache.parse()?);
    let pages = parameters::below(&world.clients, &config).await?;
    ensure!(pages.len() == 1, "the configuration has pages {pages:?}");
    fixture.published(&cache).await?;

    let changed = fixture.image(X86, "long 7, changed")?;
    world.private.push(&repository(7), "v1", &changed).await?;
    let snapshot = fixture.published(&cache).await?;
    let manifest = world.manifest(&cache, X86, &snapshot).await?;
    let listed: Vec<_> = manifest
        .images
        .iter()
        .map(|image| image.reference.to_string())
        .collect();
    ensure!(listed == references, "the manifest has {listed:?}");
    ensure!(
        manifest.images[7].digest == changed.digest(),
        "the manifest has the old digest"
    );
    ensure!(
        matches!(manifest.base, Base::Snapshot { .. }),
        "the refresh started from {:?}",
        manifest.base
    );
    let first = names::manifest_parameter(&cache.parse()?, X86, &snapshot);
    let pages = parameters::below(&world.clients, &first).await?;
    ensure!(!pages.is_empty(), "the manifest has one page");

    let node = world.start_node(Some(&snapshot), X86, VOLUME).await?;
    for reference in &references {
        let run = world.cloud.run_container(&node, reference).await?;
        ensure!(
            run.present && run.requests == 0 && run.exit_code == Some(0),
            "{reference} did not start without a pull: {run:?}"
        );
    }
    world.terminate_node(&node).await
}

/// Asserts that a snapshot contains no files that identify its builder, and that it contains the files that make the
/// images usable.
pub fn holds_no_secret(files: &[String]) -> Result<()> {
    let has = |path: &str| files.iter().any(|file| file.contains(path));
    for secret in [
        "/host-containers/",
        "/bootstrap-containers/",
        "/var/lib/kubelet/",
        "/var/log/journal/",
        "/var/lib/systemd/random-seed",
        "/var/lib/netdog/",
        "/var/lib/host-containerd/",
        // The ID of the builder's containerd.
        "/io.containerd.grpc.v1.introspection/uuid",
        "ssh_host_",
    ] {
        let found: Vec<_> = files.iter().filter(|file| file.contains(secret)).collect();
        ensure!(found.is_empty(), "the snapshot contains secrets: {found:?}");
    }
    for kept in [
        "/var/lib/containerd/",
        "/var/cache/containerd/active-snapshotter",
    ] {
        ensure!(
            has(kept),
            "the snapshot does not contain {kept}, but {} other files",
            files.len()
        );
    }
    Ok(())
}

pub async fn unchanged_cache_launches_no_builder(fixture: Arc<Fixture>) -> Result<()> {
    let world = &fixture.world;
    let cache = fixture
        .cache(&fixture.config(&[&fixture.api]).await?)
        .await?;
    let first = fixture.published(&cache).await?;
    world.cloud.forget_calls().await?;
    let outcome = world.build(&cache).await?;
    ensure_succeeded(&outcome)?;
    ensure!(
        outcome.output["status"] == "up-to-date",
        "{}",
        outcome.output
    );
    ensure!(
        outcome.output["snapshots"]["x86_64"] == first.as_str(),
        "{}",
        outcome.output
    );
    ensure!(
        world.count_calls("RunInstances").await? == 0,
        "a builder was launched"
    );
    Ok(())
}

pub async fn refresh_starts_from_last_snapshot_and_pulls_changes(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let world = &fixture.world;
    let changing = world
        .ecr
        .push("team/changing", "v1", &fixture.image(X86, "changing 1")?)
        .await?;
    let cache = fixture
        .cache(&fixture.config(&[&fixture.api, &changing]).await?)
        .await?;
    let first = fixture.published(&cache).await?;
    let changed = fixture.image(X86, "changing 2")?;
    world.ecr.push("team/changing", "v1", &changed).await?;
    let second = fixture.published(&cache).await?;
    ensure!(
        first != second,
        "the second build did not publish the change"
    );
    let manifest = world.manifest(&cache, X86, &second).await?;
    ensure!(
        matches!(&manifest.base, Base::Snapshot { snapshot_id, .. } if *snapshot_id == first),
        "the base of the second build is {:?}",
        manifest.base
    );
    ensure!(
        manifest
            .images
            .iter()
            .any(|image| image.digest == changed.digest()),
        "the manifest does not contain the change: {manifest:?}"
    );
    let node = world.start_node(Some(&second), X86, VOLUME).await?;
    for reference in [&fixture.api, &changing] {
        let run = world.cloud.run_container(&node, reference).await?;
        ensure!(
            run.present && run.pulled_bytes == 0,
            "{reference} was pulled: {run:?}"
        );
    }
    let run = world.cloud.run_container(&node, &changing).await?;
    ensure!(
        run.simulated || run.output.contains("changing 2"),
        "the node runs the old image: {run:?}"
    );
    world.terminate_node(&node).await
}

pub async fn removed_image_leaves_the_snapshot(fixture: Arc<Fixture>) -> Result<()> {
    let world = &fixture.world;
    let mut config = fixture.config(&[&fixture.api, &fixture.report]).await?;
    let cache = fixture.cache(&config).await?;
    fixture.published(&cache).await?;
    config["images"] = json!([&fixture.api]);
    world.store_config(&cache, &config).await?;
    let second = fixture.published(&cache).await?;
    let node = world.start_node(Some(&second), X86, VOLUME).await?;
    let left = world.cloud.run_container(&node, &fixture.report).await?;
    let kept = world.cloud.run_container(&node, &fixture.api).await?;
    world.terminate_node(&node).await?;
    ensure!(
        !left.present,
        "the snapshot still contains the removed image"
    );
    ensure!(
        kept.present,
        "the snapshot lost the image that stayed in the cache"
    );
    Ok(())
}

pub async fn smaller_volume_is_built_from_empty(fixture: Arc<Fixture>) -> Result<()> {
    let world = &fixture.world;
    let mut config = fixture.config(&[&fixture.api]).await?;
    config["volume"]["size_gib"] = json!(5);
    let cache = fixture.cache(&config).await?;
    let larger = fixture.published(&cache).await?;
    config["volume"]["size_gib"] = json!(4);
    world.store_config(&cache, &config).await?;
    let smaller = fixture.published(&cache).await?;
    ensure!(smaller != larger, "the volume kept its size");
    let manifest = world.manifest(&cache, X86, &smaller).await?;
    ensure!(
        manifest.volume_size == VOLUME && matches!(manifest.base, Base::Empty { .. }),
        "{manifest:?}"
    );
    Ok(())
}

pub async fn two_architectures_publish_their_own_digests(fixture: Arc<Fixture>) -> Result<()> {
    let world = &fixture.world;
    let mut config = fixture.config(&[&fixture.multi]).await?;
    config["architectures"] = json!(["x86_64", "arm64"]);
    let cache = fixture.cache(&config).await?;
    let outcome = world.build(&cache).await?;
    ensure_succeeded(&outcome)?;
    let mut snapshots = Vec::new();
    for architecture in [X86, ARM] {
        let snapshot = world
            .published(&cache, architecture)
            .await?
            .context("the architecture has no published snapshot")?;
        let manifest = world.manifest(&cache, architecture, &snapshot).await?;
        ensure!(
            manifest.architecture == architecture
                && manifest.images[0].digest == fixture.multi_digest
        );
        let node = world
            .start_node(Some(&snapshot), architecture, VOLUME)
            .await?;
        let run = world.cloud.run_container(&node, &fixture.multi).await?;
        world.terminate_node(&node).await?;
        ensure!(
            run.present && run.pulled_bytes == 0,
            "{architecture}: {run:?}"
        );
        snapshots.push(snapshot);
    }
    ensure!(
        snapshots[0] != snapshots[1],
        "both architectures share a snapshot"
    );
    Ok(())
}

pub async fn failed_architecture_does_not_stop_the_other(fixture: Arc<Fixture>) -> Result<()> {
    let world = &fixture.world;
    let mut config = fixture.config(&[&fixture.multi]).await?;
    config["architectures"] = json!(["x86_64", "arm64"]);
    let cache = fixture.cache(&config).await?;
    let execution = world.start_build(&cache).await?;
    let builder = loop {
        if let Some(builder) = world.builders(&cache, ARM).await?.into_iter().next() {
            break builder;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    };
    world
        .clients
        .ec2
        .terminate_instances()
        .instance_ids(builder.as_str())
        .send()
        .await?;
    let outcome = world.await_end(&execution).await?;
    ensure_failed(
        &outcome,
        "BuilderLost",
        &["arm64", builder.as_str(), "x86_64", "published"],
    )?;
    let published = world
        .published(&cache, X86)
        .await?
        .context("the other architecture has no published snapshot")?;
    ensure!(
        outcome.cause.contains(published.as_str()),
        "the cause does not contain {published}: {}",
        outcome.cause
    );
    ensure!(
        world.published(&cache, ARM).await?.is_none(),
        "the failed architecture has a pointer"
    );
    Ok(())
}

pub async fn builder_without_capacity_uses_another_pool(fixture: Arc<Fixture>) -> Result<()> {
    let world = &fixture.world;
    let cache = fixture
        .cache(&fixture.config(&[&fixture.api]).await?)
        .await?;
    let fault = json!({"service": "ec2", "action": "RunInstances", "code": "InsufficientInstanceCapacity",
        "message": "no capacity here", "status": 500, "times": 2});
    world.cloud.add_fault(fault).await?;
    fixture.published(&cache).await?;
    Ok(())
}

pub async fn newest_queued_build_supersedes_the_others(fixture: Arc<Fixture>) -> Result<()> {
    let world = &fixture.world;
    let cache = fixture
        .cache(&fixture.config(&[&fixture.api]).await?)
        .await?;
    let mut executions = Vec::new();
    for _ in 0..3 {
        executions.push(world.start_build(&cache).await?);
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    }
    let mut statuses = Vec::new();
    for execution in &executions {
        let outcome = world.await_end(execution).await?;
        ensure_succeeded(&outcome)?;
        statuses.push(
            outcome.output["status"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
        );
    }
    ensure!(
        statuses == ["published", "superseded", "up-to-date"],
        "the builds ended with {statuses:?}"
    );
    Ok(())
}

/// Returns the finished snapshots of a cache.
async fn kept(world: &World, cache: &str) -> Result<BTreeSet<SnapshotId>> {
    let filters = vec![prepull_aws::tag_filter(names::TAG_CACHE, cache)];
    let found = snapshots::find(&world.clients, filters).await?;
    let finished = found
        .into_iter()
        .filter(|snapshot| snapshot.ebs_state == Some(EbsState::Completed));
    Ok(finished.map(|snapshot| snapshot.id).collect())
}

pub async fn snapshots_beyond_retention_are_announced_and_deleted(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let world = &fixture.world;
    let changing = world
        .ecr
        .push("team/changing", "v2", &fixture.image(X86, "retained 0")?)
        .await?;
    let mut config = fixture.config(&[&changing]).await?;
    config["retain_snapshots"] = json!(2);
    let cache = fixture.cache(&config).await?;
    let mut published = vec![fixture.published(&cache).await?];
    for number in 1..=2 {
        world
            .ecr
            .push(
                "team/changing",
                "v2",
                &fixture.image(X86, &format!("retained {number}"))?,
            )
            .await?;
        published.push(fixture.published(&cache).await?);
    }
    // The third build announced the deletion of the first snapshot.
    let announced = snapshots::get(&world.clients, &published[0]).await?;
    let expires_at = announced.and_then(|found| found.expires_at());
    let expires_at = expires_at.context("the deletion was not announced")?;
    let days = expires_at.duration_since(Timestamp::now()).as_hours() / 24;
    ensure!(days == 6, "{expires_at} is in {days} days");
    fixture.sweep().await?;
    ensure!(kept(world, &cache).await?.len() == 3);

    // A registered consumer keeps it, and the announcement is withdrawn.
    let expire = async || {
        let expired = Some(Timestamp::UNIX_EPOCH);
        snapshots::set_expiry(&world.clients, &published[0], expired).await?;
        fixture.sweep().await
    };
    let consumer = format!(
        "{}/production.web",
        names::consumers_path(&cache.parse()?, X86)
    );
    let registered = |at: Timestamp| json!({"snapshot_id": &published[0], "registered_at": at});
    let registration = registered(Timestamp::now()).to_string();
    parameters::put(&world.clients, &consumer, &registration).await?;
    expire().await?;
    ensure!(kept(world, &cache).await?.len() == 3);
    let withdrawn = snapshots::get(&world.clients, &published[0]).await?;
    ensure!(withdrawn.is_some_and(|found| found.expires_at().is_none()));

    let registration = registered(Timestamp::UNIX_EPOCH).to_string();
    parameters::put(&world.clients, &consumer, &registration).await?;
    expire().await?;
    ensure!(
        parameters::get(&world.clients, &consumer).await?.is_none(),
        "an old registration stays"
    );
    let kept = kept(world, &cache).await?;
    let expected = BTreeSet::from([published[1].clone(), published[2].clone()]);
    ensure!(
        kept == expected,
        "of {published:?}, these were kept: {kept:?}"
    );
    ensure!(
        world.manifest(&cache, X86, &published[0]).await.is_err(),
        "the manifest of the deleted snapshot still exists"
    );
    Ok(())
}
