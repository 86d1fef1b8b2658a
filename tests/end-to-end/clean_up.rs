//! Clean-up: a build leaves nothing behind, and the sweep touches no foreign resources.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use prepull_aws::ec2::types::{ResourceType, Tag, TagSpecification};
use prepull_domain::names;
use serde_json::json;

use crate::fixture::{Fixture, X86};

pub async fn aborted_build_leaves_nothing_and_emits_an_event(fixture: Arc<Fixture>) -> Result<()> {
    let world = &fixture.world;
    let cache = fixture
        .cache(&fixture.config(&[&fixture.api]).await?)
        .await?;
    let execution = world.start_build(&cache).await?;
    while world.builders(&cache, X86).await?.is_empty() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    world.cloud.forget_calls().await?;
    world.stop_build(&execution).await?;
    // An aborted execution runs no Catch. The EventBridge rule on its status calls clean-up.
    tokio::time::timeout(Duration::from_secs(60), async {
        while !world.builders(&cache, X86).await?.is_empty() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        while world.count_calls("PutEvents").await? == 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok::<_, anyhow::Error>(())
    })
    .await
    .context("the builder of the aborted build still runs, or no event reports the failure")??;
    ensure!(
        world.published(&cache, X86).await?.is_none(),
        "an aborted build published"
    );
    Ok(())
}

pub async fn sweep_removes_only_orphans(fixture: Arc<Fixture>) -> Result<()> {
    let world = &fixture.world;
    let cache = fixture
        .cache(&fixture.config(&[&fixture.api]).await?)
        .await?;
    let published = fixture.published(&cache).await?;
    let volume = async |tags: Vec<Tag>| -> Result<String> {
        let created = world
            .clients
            .ec2
            .create_volume()
            .availability_zone("eu-west-1a")
            .size(1)
            .tag_specifications(
                TagSpecification::builder()
                    .resource_type(ResourceType::Volume)
                    .set_tags(Some(tags))
                    .build(),
            )
            .send()
            .await?;
        Ok(created
            .volume_id()
            .context("EC2 returned a volume without an ID")?
            .to_owned())
    };
    let tag = |key: &str, value: &str| Tag::builder().key(key).value(value).build();
    let ours = volume(vec![
        tag(names::TAG_CACHE, &cache),
        tag(names::TAG_ARCHITECTURE, "x86_64"),
        tag(names::TAG_EXECUTION, "gone-1"),
    ])
    .await?;
    let foreign = volume(vec![tag("Name", "prepull, but not its own")]).await?;
    let foreign_snapshot = world
        .clients
        .ec2
        .create_snapshot()
        .volume_id(&foreign)
        .send()
        .await?;
    let foreign_snapshot = foreign_snapshot
        .snapshot_id()
        .context("EC2 returned a snapshot without an ID")?
        .to_owned();
    // By default the sweep skips young resources, because a new execution may not be listed yet.
    let swept = world
        .invoke(
            "clean-up",
            &json!({"source": "sweep", "minimum_age_seconds": 0}),
        )
        .await?;
    let left = world.clients.ec2.describe_volumes().send().await?;
    let left: Vec<_> = left
        .volumes()
        .iter()
        .filter_map(|volume| volume.volume_id())
        .collect();
    let result = (
        left.contains(&ours.as_str()),
        left.contains(&foreign.as_str()),
    );
    let snapshots = world
        .clients
        .ec2
        .describe_snapshots()
        .owner_ids("self")
        .send()
        .await?;
    let snapshots: Vec<_> = snapshots
        .snapshots()
        .iter()
        .filter_map(|snapshot| snapshot.snapshot_id())
        .collect();
    let kept =
        snapshots.contains(&published.as_str()) && snapshots.contains(&foreign_snapshot.as_str());
    world
        .clients
        .ec2
        .delete_snapshot()
        .snapshot_id(&foreign_snapshot)
        .send()
        .await?;
    world
        .clients
        .ec2
        .delete_volume()
        .volume_id(&foreign)
        .send()
        .await?;
    ensure!(
        result == (false, true),
        "(orphan exists, foreign volume exists) is {result:?}: {swept}"
    );
    ensure!(
        kept,
        "the sweep deleted a published or a foreign snapshot: {swept}"
    );
    Ok(())
}
