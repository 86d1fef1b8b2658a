//! Measures the floor: the time that the cloud, the node and a puller need for a snapshot, without any decision.
//!
//! It launches, pulls in as many lanes as prepull, powers off and snapshots. It plans, verifies and scrubs
//! nothing, and notices the end of each step at once.

use anyhow::Result;
use prepull_domain::SnapshotId;
use prepull_domain::cache::config::VolumeConfig;
use prepull_tests::World;
use prepull_tests::benchmark::{Measurement, Stage};

use crate::by_hand::{HOSTS_DIRECTORY, host_ctr, trust, user};
use crate::operator::{CTR, HOST, Operator, Waits};

/// The program that pulls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Puller {
    /// containerd's own client. From 2.0 on, it fetches and unpacks at the same time.
    Ctr,
    /// Bottlerocket's puller, which prepull uses. It fetches an image, and then unpacks it.
    HostCtr,
}

/// Creates a snapshot with `images`, on an empty volume or on `base`. Each inner list of `images` starts after the one
/// before, because parallel pulls of a shared base would unpack it twice.
pub async fn measure(
    world: &World,
    base: Option<&SnapshotId>,
    puller: Puller,
    images: &[Vec<String>],
    volume: &VolumeConfig,
) -> Result<(Measurement, SnapshotId)> {
    let mut operator = Operator::launch(world, base, volume, Waits::NONE).await?;
    operator.repeat(&format!("{HOST} {CTR} version")).await?;
    operator.end(Stage::Ready);
    let pull = pull(images, puller, &user(world))?;
    operator.run(&format!("{} && {pull}", trust(world))).await?;
    operator.end(Stage::Pull);
    operator.snapshot(volume).await
}

/// Returns a script that pulls the images in parallel, list by list. xargs gives each free lane the next image.
fn pull(images: &[Vec<String>], puller: Puller, user: &str) -> Result<String> {
    // The default of prepull: one lane more than vCPUs.
    let lanes = std::thread::available_parallelism()?.get() + 1;
    let pull = match puller {
        Puller::Ctr => {
            format!("{CTR} images pull --hosts-dir={HOSTS_DIRECTORY} --user={user} IMAGE")
        }
        Puller::HostCtr => host_ctr("IMAGE"),
    };
    let lists = images.iter().map(|list| {
        format!(
            "printf '%s\\n' {} | xargs -P {lanes} -I IMAGE \
             sheltie {pull} >/dev/null",
            list.join(" ")
        )
    });
    let script = lists.collect::<Vec<_>>().join(" && ");
    Ok(format!(
        "apiclient exec -T admin bash -c \"{script}\" </dev/null"
    ))
}
