//! Resolves the references of a cache to digests.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, stream};
use prepull_aws::Clients;
use prepull_domain::build::payload::PlannedImage;
use prepull_domain::{
    Architecture, Bytes, CacheConfig, CacheName, Digest, ImageReference, InvalidConfig, RegionName,
    StageError,
};
use prepull_registry::{Layer, Located, PlatformManifest, Registries, read_credentials};

use crate::pull_order;

/// Number of images that are resolved concurrently.
const AT_ONCE: usize = 8;

/// The references of a cache, in its order, with their current digests.
pub(crate) struct References<'a> {
    registries: Registries<'a>,
    located: Vec<(&'a ImageReference, Located)>,
}

/// The images of the cache, in its order.
pub(crate) struct Images(Vec<Image>);

struct Image {
    reference: ImageReference,
    digest: Digest,
    /// Empty if the manifests were not read.
    platforms: BTreeMap<Architecture, PlatformManifest>,
}

impl Image {
    fn layers(&self, architecture: Architecture) -> &[Layer] {
        self.platforms
            .get(&architecture)
            .map_or(&[], |platform| &platform.layers)
    }
}

/// Finds the current digest of every image of a cache.
pub(crate) async fn locate<'a>(
    clients: &Clients,
    cache: &CacheName,
    config: &'a CacheConfig,
) -> Result<References<'a>, StageError> {
    if let Some(region) = clients.region() {
        check_partitions(&region, cache, config)?;
    }
    let mut credentials = BTreeMap::new();
    for (host, source) in &config.registry_credentials {
        let named = config.images.iter().any(|image| image.registry() == host);
        if named {
            let read = read_credentials(clients, cache.as_str(), host, source).await?;
            credentials.insert(host.clone(), read);
        }
    }
    let registries = Registries::new(cache, credentials, &config.builder.settings)?;
    let located = stream::iter(&config.images)
        .map(async |image| {
            let located = registries.locate(clients, image).await?;
            Ok((image, located))
        })
        .buffered(AT_ONCE)
        .collect()
        .await;
    let located = all(located)?;
    Ok(References {
        registries,
        located,
    })
}

/// Returns all results, or one error with all problems.
fn all<T>(results: Vec<Result<T, StageError>>) -> Result<Vec<T>, StageError> {
    let mut errors = Vec::new();
    let mut found = Vec::new();
    for result in results {
        match result {
            Ok(result) => found.push(result),
            Err(error) => errors.push(error),
        }
    }
    joined(errors).map_or(Ok(found), Err)
}

impl References<'_> {
    /// Returns each reference with its digest.
    pub(crate) fn digests(&self) -> impl Iterator<Item = (&ImageReference, &Digest)> {
        self.located
            .iter()
            .map(|(reference, located)| (*reference, &located.digest))
    }

    /// Returns the images without their manifests.
    pub(crate) fn unread(&self) -> Images {
        let images = self.digests().map(|(reference, digest)| Image {
            reference: reference.clone(),
            digest: digest.clone(),
            platforms: BTreeMap::new(),
        });
        Images(images.collect())
    }

    /// Reads the manifests for all `architectures`.
    pub(crate) async fn images(
        &self,
        clients: &Clients,
        architectures: &BTreeSet<Architecture>,
    ) -> Result<Images, StageError> {
        let images = stream::iter(&self.located)
            .map(async |(reference, located)| {
                let platforms =
                    self.registries
                        .platforms(clients, reference, located, architectures);
                Ok(Image {
                    reference: (*reference).clone(),
                    digest: located.digest.clone(),
                    platforms: platforms.await?,
                })
            })
            .buffered(AT_ONCE)
            .collect()
            .await;
        all(images).map(Images)
    }
}

/// Checks that private ECR accepts the roles of this account. An account exists in one partition.
fn check_partitions(
    region: &RegionName,
    cache: &CacheName,
    config: &CacheConfig,
) -> Result<(), InvalidConfig> {
    let own = region.partition();
    for image in &config.images {
        let other = image.ecr().map(|ecr| ecr.region.partition());
        if let Some(other) = other.filter(|other| *other != own) {
            let problem = format!(
                "`{image}` is in the partition {other}, and roles of the partition {own} cannot pull from it. Push the \
                 image to a registry that {region} reaches"
            );
            return Err(InvalidConfig::new(cache.as_str(), problem));
        }
    }
    Ok(())
}

impl Images {
    /// Returns the images of a target of `architecture`.
    pub(crate) fn planned(&self, architecture: Architecture) -> Vec<PlannedImage> {
        let layers: Vec<_> = self
            .0
            .iter()
            .map(|image| image.layers(architecture))
            .collect();
        self.0
            .iter()
            .zip(pull_order::predecessors(&layers))
            .map(|(image, after)| {
                let unread = PlannedImage::unread(image.reference.clone(), image.digest.clone());
                match image.platforms.get(&architecture) {
                    Some(platform) => PlannedImage {
                        platform_digest: platform.digest.clone(),
                        size: pull_order::size(&platform.layers),
                        after,
                        ..unread
                    },
                    None => unread,
                }
            })
            .collect()
    }

    /// Returns the compressed size of all layers, each counted once.
    pub(crate) fn compressed_size(&self, architecture: Architecture) -> Bytes {
        let layers: BTreeSet<_> = self
            .0
            .iter()
            .flat_map(|image| image.layers(architecture))
            .collect();
        layers.into_iter().map(|layer| layer.size).sum()
    }
}

/// Combines all problems of one kind into one error, so that they can be fixed together. Permanent problems come before
/// retryable ones.
fn joined(mut errors: Vec<StageError>) -> Option<StageError> {
    errors.sort_by_key(is_retryable);
    let mut errors = errors.into_iter();
    let mut first = errors.next()?;
    let kind = first.name();
    let others: Vec<_> = errors
        .filter(|error| error.name() == kind)
        .map(|error| error.to_string())
        .collect();
    if let StageError::ImageNotFound { problem, .. }
    | StageError::RegistryDenied { problem, .. }
    | StageError::RegistryUnavailable { problem, .. } = &mut first
    {
        for other in others {
            problem.push_str("; also, ");
            problem.push_str(&other);
        }
    }
    Some(first)
}

fn is_retryable(error: &StageError) -> bool {
    matches!(
        error,
        StageError::Throttled { .. } | StageError::RegistryUnavailable { .. }
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn not_found(image: &str) -> StageError {
        StageError::ImageNotFound {
            image: image.parse().unwrap(),
            problem: "there is none".to_owned(),
        }
    }

    #[test]
    fn private_ecr_of_another_partition_is_refused() {
        let check = |region: &str, image: &str| {
            let mut config = prepull_testing::configuration();
            config["images"] = json!([image]);
            let config = serde_json::from_value(config).unwrap();
            check_partitions(&region.parse().unwrap(), &"tools".parse().unwrap(), &config)
                .map_err(|error| error.to_string())
        };
        let china = "123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn/team/app:1";
        let ireland = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/team/app:1";
        assert_eq!(check("cn-northwest-1", china), Ok(()));
        assert_eq!(check("us-east-1", ireland), Ok(()));
        assert_eq!(check("cn-north-1", "docker.io/library/nginx:1"), Ok(()));
        let problem = check("eu-west-1", china).unwrap_err();
        assert!(
            problem.contains("partition aws-cn, and roles of the partition aws"),
            "{problem}"
        );
        check("us-gov-west-1", ireland).unwrap_err();
    }

    fn throttled() -> StageError {
        StageError::Throttled {
            call: "ecr:BatchGetImage",
            message: String::new(),
        }
    }

    #[test]
    fn missing_images_are_combined_into_one_error() {
        let error = joined(vec![
            throttled(),
            not_found("docker.io/library/a:1"),
            not_found("docker.io/library/b:1"),
        ]);
        assert_eq!(
            error.unwrap().to_string(),
            "image `docker.io/library/a:1` is not available: there is none; also, image `docker.io/library/b:1` is \
             not available: there is none"
        );
    }

    #[test]
    fn retryable_error_alone_is_reported() {
        assert_eq!(joined(vec![throttled()]), Some(throttled()));
        assert_eq!(joined(Vec::new()), None);
    }
}
