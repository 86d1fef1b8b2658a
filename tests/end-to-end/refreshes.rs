//! Builds that start from the snapshot of the previous build.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use prepull_domain::build::payload::Base;
use prepull_domain::{GiB, Manifest};
use prepull_tests::{Image, Layer};
use serde_json::json;

use crate::builds::holds_no_secret;
use crate::fixture::{Fixture, X86};
use crate::{NEWEST_CONTAINERD, OLDER_CONTAINERD};

const VOLUME: GiB = GiB(4);

/// Number of refreshes after the cold build, each based on the previous snapshot.
const REFRESHES: u32 = 10;

/// Maximum extra disk usage of the last refresh compared with a cold build, in percent.
const MAX_EXTRA_PERCENT: u64 = 20;

/// Pseudo-random numbers that are the same in every run, so that failures are reproducible.
struct Numbers(u64);

impl Numbers {
    /// Returns a number below `end`.
    fn below(&mut self, end: usize) -> usize {
        // Knuth's linear congruential generator (MMIX). Its high bits are more random than its low bits.
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap_or_default() % end
    }
}

/// An image and the message that its containers print.
struct Pushed {
    image: Image,
    message: String,
}

/// Content of the cache: the last pushed content of each tag in one repository.
#[derive(Default)]
struct Images {
    contents: BTreeMap<usize, Pushed>,
    pushed: usize,
    removed: BTreeSet<usize>,
}

impl Images {
    fn reference(fixture: &Fixture, tag: usize) -> String {
        format!(
            "{}/team/changing:chain-{tag}",
            fixture.world.cloud.ready.registries.ecr.host
        )
    }

    /// Pushes new content to a tag, on the base that all tests share or on a base of this test.
    async fn push(&mut self, fixture: &Fixture, tag: usize) -> Result<()> {
        self.pushed += 1;
        let base = match tag % 2 {
            0 => fixture.base.clone(),
            _ => vec![Layer::busybox()?, Layer::filler("chain", 8)?],
        };
        let message = format!("content {}", self.pushed);
        let layers = [base, vec![Layer::filler(&message, 2)?]].concat();
        let image = Image::new(X86, &layers, &message)?;
        let tag_name = format!("chain-{tag}");
        fixture
            .world
            .ecr
            .push("team/changing", &tag_name, &image)
            .await?;
        self.contents.insert(tag, Pushed { image, message });
        self.removed.remove(&tag);
        Ok(())
    }

    fn remove(&mut self, tag: usize) {
        self.contents.remove(&tag);
        self.removed.insert(tag);
    }

    fn any(&self, numbers: &mut Numbers) -> usize {
        *self
            .contents
            .keys()
            .nth(numbers.below(self.contents.len()))
            .expect("the index is below their number")
    }

    fn references(&self, fixture: &Fixture) -> Vec<String> {
        self.contents
            .keys()
            .map(|tag| Self::reference(fixture, *tag))
            .collect()
    }
}

pub async fn chain_of_refreshes_matches_a_cold_build(fixture: Arc<Fixture>) -> Result<()> {
    let world = &fixture.world;
    let (mut images, mut numbers) = (Images::default(), Numbers(4));
    for tag in 0..4 {
        images.push(&fixture, tag).await?;
    }
    let mut config = fixture.config(&[]).await?;
    config["images"] = json!(images.references(&fixture));
    let cache = fixture.cache(&config).await?;
    let mut last = fixture.published(&cache).await?;
    let mut manifest = world.manifest(&cache, X86, &last).await?;
    for number in 0..REFRESHES {
        // Each round changes one image. Every second round adds an image and every third removes one, possibly the image that
        // was just added or changed.
        let changed = images.any(&mut numbers);
        images.push(&fixture, changed).await?;
        if number % 2 == 1 {
            let tag = 4 + numbers.below(4);
            images.push(&fixture, tag).await?;
        }
        if number % 3 == 2 {
            let tag = images.any(&mut numbers);
            images.remove(tag);
        }
        config["images"] = json!(images.references(&fixture));
        world.store_config(&cache, &config).await?;
        let snapshot = fixture.published(&cache).await?;
        manifest = world.manifest(&cache, X86, &snapshot).await?;
        ensure!(
            matches!(&manifest.base, Base::Snapshot { snapshot_id, .. } if *snapshot_id == last),
            "refresh {number} started from {:?}, expected {last}",
            manifest.base
        );
        holds(&fixture, &images, &manifest).await?;
        last = snapshot;
    }

    let fresh = fixture.cache(&config).await?;
    let snapshot = fixture.published(&fresh).await?;
    let fresh = world.manifest(&fresh, X86, &snapshot).await?;
    ensure!(
        manifest.content_key == fresh.content_key,
        "the content of the last refresh differs from that of a cold build"
    );
    ensure!(
        manifest.used.0 * 100 <= fresh.used.0 * (100 + MAX_EXTRA_PERCENT),
        "after {REFRESHES} refreshes {} are in use, but only {} after a cold build",
        manifest.used,
        fresh.used
    );
    Ok(())
}

pub async fn chain_crosses_containerd_versions(fixture: Arc<Fixture>) -> Result<()> {
    let cloud = &fixture.world.cloud;
    let mut images = Images::default();
    for tag in 0..3 {
        images.push(&fixture, tag).await?;
    }
    let mut config = fixture.config(&[]).await?;
    config["images"] = json!(images.references(&fixture));
    let cache = fixture.cache(&config).await?;
    let mut last = None;
    // containerd supports metadata of an older version. A node with an older version than its builder is not documented.
    for (number, builder) in [
        OLDER_CONTAINERD,
        NEWEST_CONTAINERD,
        OLDER_CONTAINERD,
        NEWEST_CONTAINERD,
    ]
    .into_iter()
    .enumerate()
    {
        cloud.set(json!({"containerd": builder})).await?;
        if last.is_some() {
            images.push(&fixture, number % 3).await?;
        }
        let snapshot = fixture.published(&cache).await?;
        let manifest = fixture.world.manifest(&cache, X86, &snapshot).await?;
        let base = match &manifest.base {
            Base::Snapshot { snapshot_id, .. } => Some(snapshot_id.clone()),
            Base::Empty { .. } => None,
        };
        ensure!(
            base == last,
            "the build on containerd {builder} started from {:?}, expected {last:?}",
            manifest.base
        );
        for node in [OLDER_CONTAINERD, NEWEST_CONTAINERD] {
            cloud.set(json!({"containerd": node})).await?;
            holds(&fixture, &images, &manifest).await.with_context(|| {
                format!("a snapshot of containerd {builder} on a node with {node}")
            })?;
        }
        last = Some(snapshot);
    }
    Ok(())
}

/// Asserts that a snapshot contains every image with its digest, no image that left the cache, and no secret.
async fn holds(fixture: &Fixture, images: &Images, manifest: &Manifest) -> Result<()> {
    let world = &fixture.world;
    let snapshot = &manifest.snapshot_id;
    let node = world.start_node(Some(snapshot), X86, VOLUME).await?;
    for (tag, Pushed { image, message }) in &images.contents {
        let reference = Images::reference(fixture, *tag);
        ensure!(
            manifest.images.iter().any(
                |held| held.reference.to_string() == reference && held.digest == image.digest()
            ),
            "the manifest of {snapshot} does not contain {reference} with {}",
            image.digest()
        );
        let run = world.cloud.run_container(&node, &reference).await?;
        ensure!(
            run.present && run.requests == 0 && run.pulled_bytes == 0 && run.exit_code == Some(0),
            "the container of {reference} did not start from {snapshot}: {run:?}"
        );
        ensure!(
            run.simulated || run.output.trim() == message,
            "{reference} on {snapshot} is not the last push: {run:?}"
        );
    }
    for tag in &images.removed {
        let reference = Images::reference(fixture, *tag);
        let run = world.cloud.run_container(&node, &reference).await?;
        ensure!(!run.present, "{snapshot} still contains {reference}");
    }
    world.terminate_node(&node).await?;
    holds_no_secret(&world.cloud.snapshot_files(snapshot, "/").await?)
}

/// Builds on a release whose images of ECR have a second name. CRI treats an image as pinned if one of its names is.
pub async fn unpinned_images_lose_their_pins(fixture: Arc<Fixture>) -> Result<()> {
    let world = &fixture.world;
    let mut config = fixture.config(&[&fixture.api, &fixture.report]).await?;
    config["bottlerocket_version"] = json!("1.53.0");
    config["pin_images"] = json!(true);
    let cache = fixture.cache(&config).await?;
    for pinned in [true, false] {
        config["pin_images"] = json!(pinned);
        world.store_config(&cache, &config).await?;
        let snapshot = fixture.published(&cache).await?;
        let node = world.start_node(Some(&snapshot), X86, GiB(4)).await?;
        for image in [&fixture.api, &fixture.report] {
            let run = world.cloud.run_container(&node, image).await?;
            ensure!(
                run.simulated || run.pinned == pinned,
                "with pin_images = {pinned}, {image} is different: {run:?}"
            );
        }
        world.terminate_node(&node).await?;
    }
    Ok(())
}

pub async fn damaged_base_is_replaced_by_an_empty_volume(fixture: Arc<Fixture>) -> Result<()> {
    let world = &fixture.world;
    let kept = fixture.image(X86, "kept")?;
    let staying = world.ecr.push("team/changing", "kept", &kept).await?;
    let push = async |content: &str| {
        let image = fixture.image(X86, content)?;
        world.ecr.push("team/changing", "changed", &image).await
    };
    let changing = push("changed 1").await?;
    let cache = fixture
        .cache(&fixture.config(&[&staying, &changing]).await?)
        .await?;
    let first = fixture.published(&cache).await?;
    // containerd stores a blob in a file named after its digest.
    let digest = kept.digest();
    let name = digest.as_str().trim_start_matches("sha256:");
    world.cloud.damage_snapshot(&first, name).await?;
    push("changed 2").await?;
    world.cloud.forget_calls().await?;

    let second = fixture.published(&cache).await?;
    let manifest = world.manifest(&cache, X86, &second).await?;
    let Base::Empty { reason } = &manifest.base else {
        anyhow::bail!("{second} was built on the damaged base");
    };
    ensure!(
        reason.contains(first.as_str()) && reason.contains("VerifyFailed"),
        "the manifest gives another reason: {reason}"
    );
    ensure!(
        world.count_calls("RunInstances").await? == 2,
        "expected two builders, one from the base and one without"
    );
    let node = world.start_node(Some(&second), X86, VOLUME).await?;
    for reference in [&staying, &changing] {
        let run = world.cloud.run_container(&node, reference).await?;
        ensure!(
            run.present && run.pulled_bytes == 0 && run.exit_code == Some(0),
            "{reference}: {run:?}"
        );
    }
    world.terminate_node(&node).await
}
