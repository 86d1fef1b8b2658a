//! The Terraform module. The fixture applies it; these tests plan it again and destroy it.

use std::sync::Arc;

use anyhow::{Result, ensure};
use prepull_domain::CacheConfig;
use prepull_tests::deployment::Changes;

use crate::fixture::Fixture;

pub async fn second_plan_finds_no_changes(fixture: Arc<Fixture>) -> Result<()> {
    let (changes, plan) =
        tokio::task::spawn_blocking(move || fixture.world.deployment.plan()).await??;
    ensure!(changes == Changes::None, "{plan}");
    Ok(())
}

pub async fn functions_read_every_field_terraform_stores(fixture: Arc<Fixture>) -> Result<()> {
    for name in ["pushed", "nightly", "template"] {
        let stored = fixture.world.stored_config(name).await?;
        let config = CacheConfig::parse(&name.parse()?, &stored.to_string())?;
        // Compares every field, because parsing replaces a missing field by its default.
        let read = serde_json::to_value(&config)?;
        ensure!(
            read == stored,
            "{name} is stored as {stored}, but parsed as {read}"
        );
    }
    Ok(())
}

pub async fn destroy_leaves_nothing(fixture: Arc<Fixture>) -> Result<()> {
    let world = &fixture.world;
    tokio::task::block_in_place(|| world.deployment.destroy())?;
    let machines = world.clients.sfn.list_state_machines().send().await?;
    ensure!(
        machines.state_machines().is_empty(),
        "destroy left state machines behind: {machines:?}"
    );
    let documents = world
        .clients
        .ssm
        .list_documents()
        .filters(
            prepull_aws::ssm::types::DocumentKeyValuesFilter::builder()
                .key("Owner")
                .values("Self")
                .build(),
        )
        .send()
        .await?;
    ensure!(
        documents.document_identifiers().is_empty(),
        "destroy left documents behind: {documents:?}"
    );
    let groups = world.clients.ec2.describe_security_groups().send().await?;
    let ours: Vec<_> = groups
        .security_groups()
        .iter()
        .filter(|g| g.group_name() != Some("default"))
        .collect();
    ensure!(
        ours.is_empty(),
        "destroy left security groups behind: {ours:?}"
    );
    Ok(())
}
