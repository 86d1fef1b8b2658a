//! The refresh: one more image on the last snapshot.

use anyhow::{Context as _, Result, ensure};
use prepull_domain::build::payload::Base;

use crate::{Suite, build, deploy};

/// Adds an image to the declared cache, builds again, and checks that the new snapshot is based on the last one.
///
/// # Errors
/// Fails if the build fails, starts from another base, or publishes no new snapshot.
pub async fn refresh(suite: &mut Suite) -> Result<()> {
    let published = suite.published.as_ref();
    let before = published.context("the cache is not built")?.0.clone();
    let mut images = suite.options.images.clone();
    images.push(suite.options.added_image.clone());
    let caches = deploy::caches(suite, &images)?;
    let deployment = suite.deployment.as_ref().context("nothing is deployed")?;
    deployment.declare(&caches)?;
    tokio::task::block_in_place(|| deployment.apply())?;

    let manifest = build::publish(suite, "refresh").await?;
    ensure!(
        manifest.snapshot_id != before,
        "the refresh published no new snapshot"
    );
    ensure!(
        matches!(&manifest.base, Base::Snapshot { snapshot_id, .. } if *snapshot_id == before),
        "the base of the refresh is {:?}, expected {before}",
        manifest.base
    );
    ensure!(
        manifest.images.len() == images.len(),
        "the manifest has {} images, expected {}",
        manifest.images.len(),
        images.len()
    );
    Ok(())
}
