//! Creates a snapshot by hand: with the waits of a script, and without any.

use std::time::Duration;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use prepull_domain::SnapshotId;
use prepull_domain::cache::config::VolumeConfig;
use prepull_tests::World;
use prepull_tests::benchmark::{Measurement, Stage};

use crate::operator::{CTR, HOST, Operator, Waits};

/// The intervals of aws-samples' `snapshot.sh` (commit eaadb77): it sleeps 5 s between two looks at the agent, and the
/// waiters of the AWS CLI look at a command every 5 s and at an instance or a snapshot every 15 s.
///
/// Source of the latter: the waiters `CommandExecuted`, `InstanceStopped` and `SnapshotCompleted` in `botocore`.
const SCRIPT: Waits = Waits {
    command: Duration::from_secs(5),
    resource: Duration::from_secs(15),
};

/// The platforms that the script pulls of each image, one after the other.
const PLATFORMS: [&str; 2] = ["amd64", "arm64"];

/// Creates a snapshot as the script does, except for its stack: it launches an instance, waits for the
/// agent, pulls each image for two platforms with `ctr`, stops the instance and snapshots it.
pub async fn script(
    world: &World,
    images: &[String],
    volume: &VolumeConfig,
) -> Result<(Measurement, SnapshotId)> {
    let (trust, user) = (trust(world), user(world));
    let mut operator = Operator::launch(world, None, volume, SCRIPT).await?;
    operator.end(Stage::Ready);
    for image in images {
        for platform in PLATFORMS {
            // Options of containerd 2.x come before the reference. The script gives them after it, which only 1.x reads.
            let pull = format!(
                "{trust}; {HOST} {CTR} images pull --hosts-dir={HOSTS_DIRECTORY} --platform={platform} --user={user} {image} \
                 >/dev/null </dev/null"
            );
            // The script ignores the result, and the images here have one platform only.
            operator.command(&pull).await?;
        }
    }
    operator.end(Stage::Pull);
    operator.snapshot(volume).await
}

/// Creates a snapshot as a person who notices the end of each step at once: one command for each image.
pub async fn without_waits(
    world: &World,
    images: &[String],
    volume: &VolumeConfig,
) -> Result<(Measurement, SnapshotId)> {
    let mut operator = Operator::launch(world, None, volume, Waits::NONE).await?;
    // The agent may be ready before the admin container.
    let stop_kubelet = format!("{HOST} systemctl stop kubelet.service");
    operator.repeat(&stop_kubelet).await?;
    operator.end(Stage::Ready);
    for image in images {
        operator
            .run(&format!("{HOST} {}", host_ctr(image)))
            .await
            .with_context(|| format!("pulling {image}"))?;
    }
    operator.end(Stage::Pull);
    operator.snapshot(volume).await
}

/// Returns a command that pulls with Bottlerocket's puller.
pub fn host_ctr(image: &str) -> String {
    format!(
        "host-ctr --containerd-socket=/run/containerd/containerd.sock --namespace=k8s.io pull-image --source={image} \
         --registry-config=/etc/host-containers/host-ctr.toml"
    )
}

/// Directory with the registries of `ctr`.
pub const HOSTS_DIRECTORY: &str = "/run/benchmark-hosts";

/// Returns a command that tells `ctr` the address and the certificate of the local cloud's registry. On AWS, none is needed.
pub fn trust(world: &World) -> String {
    let registry = &world.cloud.ready.registries.ecr;
    let (host, address) = (&registry.host, &registry.address);
    let hosts = format!(
        "[host.\"https://{address}\"]\ncapabilities = [\"pull\", \"resolve\"]\nca = \"/run/localcloud/ca.pem\"\n"
    );
    let file = BASE64_STANDARD.encode(hosts);
    format!(
        "apiclient exec -T admin bash -c 'mkdir -p {HOSTS_DIRECTORY}/{host} && \
         echo {file} | base64 -d >{HOSTS_DIRECTORY}/{host}/hosts.toml' </dev/null"
    )
}

/// Returns the option of `ctr` for the credentials of the registry. prepull puts none on a command line.
pub fn user(world: &World) -> String {
    let registry = &world.cloud.ready.registries.ecr;
    format!("{}:{}", registry.username, registry.password)
}
