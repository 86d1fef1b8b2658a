//! Checks the AMI of builders and the images of a cache, in the same way as plan-build.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt as _, future::join_all, join, stream};
use prepull_aws::ami;
use prepull_domain::{CacheConfig, CacheName, ImageReference, StageError};
use prepull_registry::{Registries, RegistryCredentials, read_credentials};

use super::account::Account;
use super::docker_hub::{DOCKER_HUB, DockerHub};
use super::{Caches, Check, Finding, found};
use crate::render::count;

/// Number of images that are resolved concurrently.
const AT_ONCE: usize = 8;

/// Host of Docker Hub in references.
const DOCKER_HUB_HOST: &str = "docker.io";

/// Checks the AMI and the images of each cache.
pub async fn check(account: &Account, caches: &Caches) -> Vec<Finding> {
    let checks = caches.iter().map(async |(cache, config)| {
        let (ami, images) = join!(
            of_ami(account, cache, config),
            of_images(account, cache, config)
        );
        let findings = [found(Check::Ami, ami)].into_iter().chain(images);
        findings
            .map(|finding| finding.of(cache))
            .collect::<Vec<_>>()
    });
    join_all(checks).await.concat()
}

async fn of_ami(
    account: &Account,
    cache: &CacheName,
    config: &CacheConfig,
) -> Result<Finding, StageError> {
    let mut found = Vec::new();
    for &architecture in &config.architectures {
        match ami::find(&account.clients, cache, architecture, config).await {
            Ok(ami) => found.push(format!(
                "{} with Bottlerocket {} for {architecture}",
                ami.id, ami.version
            )),
            Err(error @ StageError::InvalidConfig(_)) => {
                return Ok(Finding::wrong(
                    Check::Ami,
                    error.to_string(),
                    "Set `variant` and `bottlerocket_version` to a release of Bottlerocket in this Region, and apply",
                ));
            }
            Err(error) => return Err(error),
        }
    }
    let message = format!("builders start from {}", found.join(" and "));
    Ok(Finding::fine(Check::Ami, message))
}

async fn of_images(account: &Account, cache: &CacheName, config: &CacheConfig) -> Vec<Finding> {
    let hosts: BTreeSet<_> = config.images.iter().map(ImageReference::registry).collect();
    let mut findings = Vec::new();
    let mut credentials = BTreeMap::new();
    for (host, source) in &config.registry_credentials {
        if !hosts.contains(host.as_str()) {
            continue;
        }
        match read_credentials(&account.clients, cache.as_str(), host, source).await {
            Ok(read) => {
                credentials.insert(host.clone(), read);
            }
            Err(error @ StageError::InvalidConfig(_)) => findings.push(Finding::wrong(
                Check::Images,
                error.to_string(),
                format!("Store the credentials of `{host}`, or correct `registry_credentials`"),
            )),
            // Without a permission to read the credentials, the operator's answer would differ from plan-build's.
            Err(error) => findings.push(Finding::unchecked(Check::Images, &error)),
        }
    }
    if !findings.is_empty() {
        return findings;
    }
    let hub = async {
        let images = config.images.iter();
        let pulls = images.filter(|image| image.registry() == DOCKER_HUB_HOST);
        match pulls.count() {
            0 => None,
            pulls => Some(of_docker_hub(DOCKER_HUB, pulls, credentials.get(DOCKER_HUB_HOST)).await),
        }
    };
    let registries = match Registries::new(cache, credentials.clone(), &config.builder.settings) {
        Ok(registries) => registries,
        Err(error) => {
            return vec![Finding::wrong(
                Check::Images,
                error.to_string(),
                "Correct the certificates in `builder_settings`, and apply",
            )];
        }
    };
    let images = stream::iter(&config.images)
        .map(async |image| {
            let architectures = &config.architectures;
            let resolved = registries.resolve(&account.clients, image, architectures);
            Some(of_image(image, resolved.await.err()?))
        })
        .buffered(AT_ONCE)
        .filter_map(std::future::ready)
        .collect::<Vec<_>>();
    let (hub, mut findings) = join!(hub, images);
    if findings.is_empty() {
        let images = count(config.images.len(), "image");
        findings.push(Finding::fine(Check::Images, format!("{images} resolved")));
    }
    findings.extend(hub);
    findings
}

/// Returns the finding of an image that does not resolve.
fn of_image(image: &ImageReference, error: StageError) -> Finding {
    let check = Check::Images;
    let text = error.to_string();
    match error {
        // The operator has other permissions than plan-build's role, whose own are simulated.
        StageError::RegistryDenied { .. } if image.ecr().is_some() => Finding::unknown(
            check,
            text,
            "Allow ecr:BatchGetImage on the repository to your credentials, and check again",
        ),
        StageError::RegistryDenied { .. } => Finding::wrong(
            check,
            text,
            "Correct the cache's `registry_credentials`, or allow its user to pull",
        ),
        StageError::ImageNotFound { .. } => Finding::wrong(
            check,
            text,
            "Push the image for every architecture of the cache, correct the reference, or remove it",
        ),
        // The operator's machine may have another network than the functions.
        StageError::RegistryUnavailable { .. } => Finding::unknown(
            check,
            text,
            "Check again from a machine that reaches the registry",
        ),
        error => Finding::unchecked(check, &error),
    }
}

/// Compares the remaining pulls with the images of a first build.
async fn of_docker_hub(
    hub: DockerHub,
    needed: usize,
    credentials: Option<&RegistryCredentials>,
) -> Finding {
    let check = Check::DockerHub;
    let who = match credentials {
        Some(credentials) => format!("user `{}`", credentials.username),
        None => "this machine's address, without credentials; builders have their own address"
            .to_owned(),
    };
    match hub.remaining(credentials).await {
        Ok(None) => Finding::fine(check, format!("no limit of pulls for {who}")),
        Ok(Some(remaining)) => {
            let hours = remaining.window.as_secs() / 3600;
            let message = format!(
                "{} left in {hours} h for {who}; the cache has {} of Docker Hub",
                count(
                    usize::try_from(remaining.pulls).unwrap_or(usize::MAX),
                    "pull"
                ),
                count(needed, "image"),
            );
            let is_enough = usize::try_from(remaining.pulls).map_or(true, |pulls| pulls >= needed);
            match credentials {
                _ if is_enough => Finding::fine(check, message),
                Some(_) => Finding::wrong(
                    check,
                    message,
                    "Wait for the end of the window, use a user with more pulls, or a pull-through cache in ECR",
                ),
                // The builder may have pulls left, because the limit applies to its own address.
                None => Finding::unknown(
                    check,
                    message,
                    "Add credentials for `docker.io` to `registry_credentials`, or use a pull-through cache in ECR",
                ),
            }
        }
        Err(problem) => Finding::unknown(
            check,
            format!("Docker Hub did not report the remaining pulls: {problem}"),
            "Check again from a machine that reaches Docker Hub",
        ),
    }
}
