//! Resolves the references of a cache to digests.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, stream};
use prepull_aws::Clients;
use prepull_domain::build::payload::PlannedImage;
use prepull_domain::{Architecture, Bytes, CacheConfig, CacheName, ImageReference, StageError};
use prepull_registry::{Registries, ResolvedImage, read_credentials};

use crate::pull_order;

/// Number of images that are resolved concurrently.
const AT_ONCE: usize = 8;

/// The images of the cache, in its order.
pub(crate) struct Images(Vec<(ImageReference, ResolvedImage)>);

/// Resolves every image of a cache once for all architectures.
pub(crate) async fn resolve(
    clients: &Clients,
    cache: &CacheName,
    config: &CacheConfig,
) -> Result<Images, StageError> {
    let mut credentials = BTreeMap::new();
    for (host, source) in &config.registry_credentials {
        let named = config.images.iter().any(|image| image.registry() == host);
        if named {
            let read = read_credentials(clients, cache.as_str(), host, source).await?;
            credentials.insert(host.clone(), read);
        }
    }
    let registries = Registries::new(credentials);
    let results: Vec<_> = stream::iter(&config.images)
        .map(async |image| {
            registries
                .resolve(clients, image, &config.architectures)
                .await
                .map(|resolved| (image.clone(), resolved))
        })
        .buffered(AT_ONCE)
        .collect()
        .await;
    let mut errors = Vec::new();
    let mut images = Vec::new();
    for result in results {
        match result {
            Ok(image) => images.push(image),
            Err(error) => errors.push(error),
        }
    }
    match joined(errors) {
        Some(error) => Err(error),
        None => Ok(Images(images)),
    }
}

impl Images {
    /// Returns the images of a target of `architecture`.
    pub(crate) fn planned(&self, architecture: Architecture) -> Vec<PlannedImage> {
        let layers: Vec<_> = self
            .0
            .iter()
            .map(|(_, resolved)| resolved.platforms[&architecture].layers.as_slice())
            .collect();
        self.0
            .iter()
            .zip(pull_order::predecessors(&layers))
            .map(|((reference, resolved), after)| {
                let platform = &resolved.platforms[&architecture];
                PlannedImage {
                    reference: reference.clone(),
                    digest: resolved.digest.clone(),
                    platform_digest: platform.digest.clone(),
                    size: pull_order::size(&platform.layers),
                    after,
                }
            })
            .collect()
    }

    /// Returns the compressed size of all layers, each counted once.
    pub(crate) fn compressed_size(&self, architecture: Architecture) -> Bytes {
        let layers: BTreeSet<_> = self
            .0
            .iter()
            .flat_map(|(_, resolved)| &resolved.platforms[&architecture].layers)
            .collect();
        layers.into_iter().map(|layer| layer.size).sum()
    }
}

/// Combines all problems of one kind into one error, so that they can be fixed together. Permanent problems come before
/// retryable ones.
fn joined(mut errors: Vec<StageError>) -> Option<StageError> {
    errors.sort_by_key(|error| matches!(error, StageError::Throttled { .. }));
    let mut errors = errors.into_iter();
    let mut first = errors.next()?;
    let kind = first.name();
    let others: Vec<_> = errors
        .filter(|error| error.name() == kind)
        .map(|error| error.to_string())
        .collect();
    if let StageError::ImageNotFound { problem, .. } | StageError::RegistryDenied { problem, .. } =
        &mut first
    {
        for other in others {
            problem.push_str("; also, ");
            problem.push_str(&other);
        }
    }
    Some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn not_found(image: &str) -> StageError {
        StageError::ImageNotFound {
            image: image.parse().unwrap(),
            problem: "there is none".to_owned(),
        }
    }

    fn throttled() -> StageError {
        StageError::Throttled {
            call: "registry:GetManifest",
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
