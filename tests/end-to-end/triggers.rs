//! Triggers that start a build, and events that do not.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use prepull_aws::ecr::types::ImageIdentifier;
use prepull_domain::{Digest, ExecutionArn, GiB, InstanceId};
use serde_json::{Value, json};

use crate::fixture::{DEBOUNCE_SECONDS, Fixture, X86, ensure_succeeded};

/// Wait after a push until the build that it triggers must have started.
const DEBOUNCED: Duration = Duration::from_secs(2 * DEBOUNCE_SECONDS as u64 + 1);

/// Debounce in seconds from which the state machine launches builders early.
const LONG_DEBOUNCE: u64 = 20;

pub async fn push_to_ecr_starts_a_build(fixture: Arc<Fixture>) -> Result<()> {
    let world = &fixture.world;
    let before = world.executions("pushed").await?.len();
    world
        .ecr
        .push("team/pushed", "v1", &fixture.image(X86, "pushed")?)
        .await?;
    let execution = world.await_start("pushed", before).await?;
    ensure_succeeded(&world.await_end(&execution).await?)?;
    world
        .published("pushed", X86)
        .await?
        .context("the build published no snapshot")?;
    Ok(())
}

pub async fn burst_of_pushes_starts_one_build(fixture: Arc<Fixture>) -> Result<()> {
    let world = &fixture.world;
    let before = world.executions("pushed").await?.len();
    let images = (0..5)
        .map(|number| fixture.image(X86, &format!("burst {number}")))
        .collect::<Result<Vec<_>>>()?;
    let start = Instant::now();
    for image in &images {
        world.ecr.push("team/pushed", "v1", image).await?;
    }
    // Five quick pushes fall into one debounce window, or into two if a window ends between them.
    let windows = 2 + usize::try_from(start.elapsed().as_secs() / u64::from(DEBOUNCE_SECONDS))?;
    let execution = world.await_start("pushed", before).await?;
    ensure_succeeded(&world.await_end(&execution).await?)?;
    tokio::time::sleep(DEBOUNCED).await;
    let executions = world.executions("pushed").await?;
    for execution in &executions {
        ensure_succeeded(&world.await_end(execution).await?)?;
    }
    ensure!(
        executions.len() - before <= windows.min(4),
        "five pushes started {} builds",
        executions.len() - before
    );
    let published = world
        .published("pushed", X86)
        .await?
        .context("no snapshot is published")?;
    let manifest = world.manifest("pushed", X86, &published).await?;
    ensure!(
        manifest.images.iter().any(|image| images
            .last()
            .is_some_and(|last| image.digest == last.digest())),
        "the published snapshot does not contain the last push: {manifest:?}"
    );
    Ok(())
}

/// Starts an execution as start-build does after a push, with a debounce that is long enough for an early launch.
async fn start_after_push(fixture: &Fixture, cache: &str, image: &str) -> Result<ExecutionArn> {
    let trigger = json!({"source": "push", "image": image, "at": Timestamp::now()});
    let input = json!({"cache": cache, "debounce_seconds": LONG_DEBOUNCE, "trigger": trigger});
    fixture.world.start_execution(&input).await
}

/// Waits for the builder of an execution in its debounce.
async fn early_builder(fixture: &Fixture, cache: &str) -> Result<InstanceId> {
    let start = Instant::now();
    loop {
        if let Some(builder) = fixture.world.builders(cache, X86).await?.pop() {
            return Ok(builder);
        }
        ensure!(
            start.elapsed() < Duration::from_secs(LONG_DEBOUNCE),
            "no builder was launched during the debounce"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

pub async fn builder_boots_during_the_debounce_of_a_push(fixture: Arc<Fixture>) -> Result<()> {
    let world = &fixture.world;
    let config = fixture.config(&[&fixture.api]).await?;
    let cache = fixture.cache(&config).await?;
    let execution = start_after_push(&fixture, &cache, &fixture.api).await?;
    let builder = early_builder(&fixture, &cache).await?;
    ensure_succeeded(&world.await_end(&execution).await?)?;
    let published = world.published(&cache, X86).await?;
    let published = published.context("no snapshot is published")?;
    let manifest = world.manifest(&cache, X86, &published).await?;
    ensure!(
        manifest.launched_at < manifest.planned_at,
        "the build did not use {builder}, which was launched before the plan: {manifest:?}"
    );
    // The next push changes nothing.
    let execution = start_after_push(&fixture, &cache, &fixture.api).await?;
    let outcome = world.await_end(&execution).await?;
    ensure!(outcome.output["status"] == "up-to-date", "{outcome:?}");
    Ok(())
}

pub async fn early_builder_with_old_settings_is_replaced(fixture: Arc<Fixture>) -> Result<()> {
    let world = &fixture.world;
    let mut config = fixture.config(&[&fixture.api]).await?;
    let cache = fixture.cache(&config).await?;
    let execution = start_after_push(&fixture, &cache, &fixture.api).await?;
    early_builder(&fixture, &cache).await?;
    // The volume grows before the debounce ends.
    config["volume"]["size_gib"] = json!(5);
    world.store_config(&cache, &config).await?;
    ensure_succeeded(&world.await_end(&execution).await?)?;
    let published = world.published(&cache, X86).await?;
    let published = published.context("no snapshot is published")?;
    let manifest = world.manifest(&cache, X86, &published).await?;
    ensure!(
        manifest.volume_size == GiB(5),
        "the build used the early builder: {manifest:?}"
    );
    Ok(())
}

pub async fn early_builder_without_a_build_is_removed(fixture: Arc<Fixture>) -> Result<()> {
    let world = &fixture.world;
    let mut config = fixture.config(&[&fixture.api]).await?;
    let cache = fixture.cache(&config).await?;
    let published = fixture.published(&cache).await?;
    let unchanged = config.clone();
    config["images"] = json!([fixture.api, fixture.multi]);
    world.store_config(&cache, &config).await?;
    let execution = start_after_push(&fixture, &cache, &fixture.multi).await?;
    early_builder(&fixture, &cache).await?;
    // The change is taken back before the debounce ends.
    world.store_config(&cache, &unchanged).await?;
    let outcome = world.await_end(&execution).await?;
    ensure!(outcome.output["status"] == "up-to-date", "{outcome:?}");
    ensure!(
        world.builders(&cache, X86).await?.is_empty(),
        "the early builder still runs"
    );
    ensure!(
        world.published(&cache, X86).await? == Some(published),
        "the published snapshot changed"
    );
    Ok(())
}

pub async fn image_of_a_pull_through_cache_is_imported_and_rebuilt(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let world = &fixture.world;
    let upstream = async |name: &str| -> Result<Digest> {
        let image = fixture.image(X86, name)?;
        world.private.push("team/imported", "v1", &image).await?;
        Ok(image.digest())
    };
    let published = async || -> Result<Digest> {
        let snapshot = world.published("cached", X86).await?;
        let snapshot = snapshot.context("no snapshot is published")?;
        let manifest = world.manifest("cached", X86, &snapshot).await?;
        Ok(manifest.images[0].digest.clone())
    };
    let first = upstream("imported").await?;
    ensure_succeeded(&world.build("cached").await?)?;
    ensure!(published().await? == first, "another image is published");
    // The event of the import starts a build that has nothing to do.
    let second = world.await_start("cached", 1).await?;
    ensure_succeeded(&world.await_end(&second).await?)?;

    let moved = upstream("imported again").await?;
    let cloud = &world.cloud;
    cloud.set(json!({"upstream_check_seconds": 0})).await?;
    // ECR looks for a new image of the tag when somebody pulls it.
    let pulled = world
        .clients
        .ecr
        .batch_get_image()
        .repository_name("cached/team/imported")
        .image_ids(ImageIdentifier::builder().image_tag("v1").build())
        .send()
        .await?;
    cloud.set(json!({"upstream_check_seconds": 86_400})).await?;
    ensure!(pulled.images().len() == 1, "the pull failed: {pulled:?}");
    let third = world.await_start("cached", 2).await?;
    ensure_succeeded(&world.await_end(&third).await?)?;
    ensure!(published().await? == moved, "the old image is published");
    Ok(())
}

pub async fn dual_stack_host_of_ecr_builds_like_the_other(fixture: Arc<Fixture>) -> Result<()> {
    let world = &fixture.world;
    ensure_succeeded(&world.build("dual-stack").await?)?;
    let snapshot = world.published("dual-stack", X86).await?;
    let snapshot = snapshot.context("no snapshot is published")?;
    let manifest = world.manifest("dual-stack", X86, &snapshot).await?;
    let reference = &manifest.images[0].reference;
    let node = world.start_node(Some(&snapshot), X86, GiB(4)).await?;
    let run = world
        .cloud
        .run_container(&node, &reference.to_string())
        .await?;
    world.terminate_node(&node).await?;
    ensure!(
        run.present && run.exit_code == Some(0) && run.requests == 0,
        "{reference} did not start from the snapshot: {run:?}"
    );
    Ok(())
}

pub async fn schedule_starts_a_build(fixture: Arc<Fixture>) -> Result<()> {
    let world = &fixture.world;
    let before = world.executions("nightly").await?.len();
    // The schedule's clock is accelerated: one night takes about four seconds.
    world.cloud.set(json!({"schedule_speed": 20_000})).await?;
    let execution = world.await_start("nightly", before).await?;
    world.cloud.set(json!({"schedule_speed": 1})).await?;
    ensure_succeeded(&world.await_end(&execution).await?)?;
    world
        .published("nightly", X86)
        .await?
        .context("the build published no snapshot")?;
    tokio::time::sleep(DEBOUNCED).await;
    for execution in world.executions("nightly").await? {
        ensure_succeeded(&world.await_end(&execution).await?)?;
    }
    Ok(())
}

pub async fn plain_execution_builds_its_cache(fixture: Arc<Fixture>) -> Result<()> {
    let config = fixture.config(&[&fixture.api]).await?;
    let cache = fixture.cache(&config).await?;
    fixture.published(&cache).await?;
    Ok(())
}

pub async fn invalid_event_is_refused_with_its_reason(fixture: Arc<Fixture>) -> Result<()> {
    let event = |detail: Value| {
        json!({
            "version": "0", "id": "12345678-1234-1234-1234-123456789012", "detail-type": "ECR Image Action",
            "source": "aws.ecr", "account": "123456789012", "time": "2026-01-02T03:04:05Z", "region": "eu-west-1",
            "resources": [], "detail": detail,
        })
    };
    let detail = json!({"action-type": "PUSH", "result": "SUCCESS", "repository-name": "team/api", "image-tag": "v1",
        "image-digest": format!("sha256:{}", "a".repeat(64))});
    let with = |field: &str, value: Value| {
        let mut detail = detail.clone();
        detail[field] = value;
        event(detail)
    };
    let mut tagless = detail.clone();
    tagless
        .as_object_mut()
        .context("the input is not an object")?
        .remove("image-tag");
    let before = fixture.world.executions("pushed").await?.len();
    for (input, word) in [
        (json!("nonsense"), "nonsense"),
        (json!({}), "cache"),
        (json!([1, 2]), ""),
        (event(json!({"colour": "blue"})), ""),
        (with("result", json!("FAILURE")), "FAILURE"),
        (with("action-type", json!("DELETE")), "DELETE"),
        (event(tagless), "tag"),
        (json!({"source": "schedule", "cache": "No Name"}), "No Name"),
    ] {
        let answer = fixture.world.invoke("start-build", &input).await?;
        ensure!(
            answer["errorType"] == "InvalidEvent" || answer["errorType"] == "InvalidConfig",
            "{input}: {answer}"
        );
        let message = answer["errorMessage"].as_str().unwrap_or_default();
        ensure!(
            message.contains(word),
            "the refusal of {input} does not contain {word:?}: {message}"
        );
    }
    ensure!(
        fixture.world.executions("pushed").await?.len() == before,
        "a refused event started a build"
    );
    Ok(())
}

pub async fn push_of_unused_image_starts_nothing(fixture: Arc<Fixture>) -> Result<()> {
    let world = &fixture.world;
    world.cloud.forget_calls().await?;
    world
        .ecr
        .push(
            "team/pushed",
            "another-tag",
            &fixture.image(X86, "another")?,
        )
        .await?;
    tokio::time::sleep(DEBOUNCED).await;
    ensure!(
        world.count_calls("GetParametersByPath").await? > 0,
        "start-build was not called"
    );
    ensure!(
        world.count_calls("StartExecution").await? == 0,
        "a build was started"
    );
    Ok(())
}
