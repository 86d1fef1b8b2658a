//! Bad input: the build fails with a clear error and changes nothing.

use std::sync::Arc;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::fixture::{Fixture, X86, ensure_failed};

/// Builds `name` and asserts that it is refused: no builder is launched and the pointer does not change.
async fn ensure_refused(fixture: &Fixture, name: &str, error: &str, words: &[&str]) -> Result<()> {
    let world = &fixture.world;
    let pointer = world.published(name, X86).await.unwrap_or_default();
    world.cloud.forget_calls().await?;
    let outcome = world.build(name).await?;
    ensure_failed(&outcome, error, words)?;
    ensure!(
        world.count_calls("RunInstances").await? == 0,
        "{name}: a builder was launched"
    );
    ensure!(
        world.published(name, X86).await.unwrap_or_default() == pointer,
        "{name}: the pointer changed"
    );
    Ok(())
}

/// Declares a valid cache with the field at `path` changed, and asserts that the build is refused.
async fn ensure_change_is_refused(
    fixture: &Fixture,
    path: &[&str],
    value: Value,
    error: &str,
    words: &[&str],
) -> Result<()> {
    let mut config = fixture.config(&[&fixture.api]).await?;
    let mut field = &mut config;
    for part in path {
        field = &mut field[*part];
    }
    *field = value;
    let cache = fixture.cache(&config).await?;
    ensure_refused(fixture, &cache, error, words).await
}

pub async fn invalid_configuration_is_refused_before_launch(fixture: Arc<Fixture>) -> Result<()> {
    ensure_refused(
        &fixture,
        "nobody-declared-this",
        "InvalidConfig",
        &["nobody-declared-this", "Terraform"],
    )
    .await?;
    ensure_refused(&fixture, "No Name", "InvalidConfig", &["No Name"]).await?;
    let invalid = "InvalidConfig";
    for reference in [
        "docker.io/library/nginx:",
        "docker.io/UPPER/case:1",
        "a b",
        "$(reboot)",
        "x;y",
        "docker.io/library/nginx@sha256:12",
    ] {
        ensure_change_is_refused(
            &fixture,
            &["images"],
            json!([reference]),
            invalid,
            &[reference],
        )
        .await?;
    }
    let long = format!("docker.io/library/{}:1", "a".repeat(300));
    ensure_change_is_refused(&fixture, &["images"], json!([long]), invalid, &["255"]).await?;
    ensure_change_is_refused(
        &fixture,
        &["images"],
        json!([]),
        invalid,
        &["images", "empty"],
    )
    .await?;
    let twice = json!([&fixture.api, &fixture.api]);
    ensure_change_is_refused(
        &fixture,
        &["images"],
        twice,
        invalid,
        &[&fixture.api, "twice"],
    )
    .await?;
    for variant in [
        "aws-k8s-1.33-nvidia",
        "aws-mantle-1.0",
        "aws-k8s-1.12",
        "aws-k8s-1.99",
        "ubuntu",
    ] {
        ensure_change_is_refused(&fixture, &["variant"], json!(variant), invalid, &[variant])
            .await?;
    }
    ensure_change_is_refused(
        &fixture,
        &["bottlerocket_version"],
        json!("0.0.1"),
        invalid,
        &["0.0.1"],
    )
    .await?;
    ensure_change_is_refused(
        &fixture,
        &["volume", "size_gib"],
        json!(1),
        invalid,
        &["size_gib", "2"],
    )
    .await
}

pub async fn unavailable_image_is_refused_before_launch(fixture: Arc<Fixture>) -> Result<()> {
    let (ecr, private) = {
        let registries = &fixture.world.cloud.ready.registries;
        (registries.ecr.host.clone(), registries.private.host.clone())
    };
    for missing in [
        format!("{ecr}/team/api:never-pushed"),
        format!("{ecr}/team/never-made:v1"),
        format!("{private}/tools/report:never-pushed"),
    ] {
        ensure_change_is_refused(
            &fixture,
            &["images"],
            json!([missing]),
            "ImageNotFound",
            &[&missing],
        )
        .await?;
    }
    let mut config = fixture.config(&[&fixture.only_x86]).await?;
    config["architectures"] = json!(["x86_64", "arm64"]);
    let cache = fixture.cache(&config).await?;
    ensure_refused(
        &fixture,
        &cache,
        "ImageNotFound",
        &[&fixture.only_x86, "arm64", "amd64"],
    )
    .await?;
    let mut config = fixture.config(&[&fixture.report]).await?;
    let parameter = fixture
        .world
        .store_credentials("/team/wrong", "not-the-password")
        .await?;
    config["registry_credentials"][&private] = json!({"parameter_name": parameter});
    let cache = fixture.cache(&config).await?;
    ensure_refused(&fixture, &cache, "RegistryDenied", &[&fixture.report]).await?;
    config["registry_credentials"] = json!({});
    let cache = fixture.cache(&config).await?;
    ensure_refused(
        &fixture,
        &cache,
        "RegistryDenied",
        &[&fixture.report, "registry_credentials"],
    )
    .await
}

pub async fn failed_pull_publishes_nothing(fixture: Arc<Fixture>) -> Result<()> {
    let world = &fixture.world;
    let mut config = fixture.config(&[&fixture.api, &fixture.report]).await?;
    let cache = fixture.cache(&config).await?;
    let first = fixture.published(&cache).await?;
    let broken = fixture.broken_image().await?;
    config["images"] = json!([&fixture.api, &broken]);
    world.store_config(&cache, &config).await?;
    let outcome = world.build(&cache).await?;
    ensure_failed(&outcome, "PullFailed", &[&broken, "x86_64"])?;
    ensure!(
        world.published(&cache, X86).await? == Some(first),
        "the pointer changed"
    );
    Ok(())
}
