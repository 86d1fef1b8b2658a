//! Triggers that start a build, and events that do not.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use prepull_aws::ecr::types::ImageIdentifier;
use prepull_domain::{Digest, GiB};
use serde_json::{Value, json};

use crate::fixture::{DEBOUNCE_SECONDS, Fixture, X86, ensure_succeeded};

/// Wait after a push until the build that it triggers must have started.
const DEBOUNCED: Duration = Duration::from_secs(2 * DEBOUNCE_SECONDS as u64 + 1);

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
        run.present && run.exit_code == 0 && run.requests == 0,
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
