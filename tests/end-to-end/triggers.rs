//! Triggers that start a build, and events that do not.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
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
