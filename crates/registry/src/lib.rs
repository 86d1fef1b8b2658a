//! Resolves image references to the current digests, for each architecture.
//!
//! The rule: an image resolves exactly if the containerd of a builder pulls and unpacks it, and to the same manifest. So this
//! crate makes the requests of containerd and reads the answers in its way. The suite `quirks` compares both.
//!
//! For images in private ECR it uses ECR's own API with the function's role. For all others it uses the OCI distribution
//! protocol, with the cache's credentials or anonymously.

mod authorization;
mod credentials;
mod distribution;
mod ecr;
mod endpoint;
mod failure;
mod manifest;
mod platform;
mod response;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use prepull_aws::Clients;
use prepull_domain::{
    Architecture, BuilderSettings, Bytes, CacheName, Digest, ImageReference, InvalidConfig,
    StageError,
};

use crate::distribution::parse_digest;
use crate::endpoint::Endpoint;
use crate::failure::Failure;
use crate::manifest::{Config, Descriptor, ImageManifest, Manifest};

pub use credentials::{RegistryCredentials, read_credentials};

/// Maximum depth of indexes within indexes. containerd has no limit, and known images have a depth of two.
const MAX_DEPTH: usize = 8;

/// The digest and the platform manifests of a reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedImage {
    /// The digest of the index, or of the manifest if the image has no index.
    pub digest: Digest,
    /// The manifest for each requested architecture.
    pub platforms: BTreeMap<Architecture, PlatformManifest>,
}

/// The manifest of one platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlatformManifest {
    /// The digest of the manifest.
    pub digest: Digest,
    /// The layers, lowest first.
    pub layers: Vec<Layer>,
}

/// A layer of an image. Images share layers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Layer {
    /// The digest of the compressed layer.
    pub digest: String,
    /// The compressed size.
    pub size: Bytes,
}

/// The current manifest or index of a reference.
#[derive(Debug, Clone)]
pub struct Located {
    /// Its digest.
    pub digest: Digest,
    media_type: String,
    /// Its content, if the registry sent it.
    body: Option<Vec<u8>>,
}

/// The registries of one cache.
pub struct Registries<'a> {
    client: distribution::Client,
    credentials: BTreeMap<String, RegistryCredentials>,
    settings: &'a BuilderSettings,
}

impl<'a> Registries<'a> {
    /// Creates the registry client, with credentials by host. Like a builder, it uses the mirrors and trusts the certificates
    /// of `settings`. The proxy comes from the environment.
    ///
    /// # Errors
    /// Returns [`InvalidConfig`] if a certificate cannot be used.
    pub fn new(
        cache: &CacheName,
        credentials: BTreeMap<String, RegistryCredentials>,
        settings: &'a BuilderSettings,
    ) -> Result<Self, InvalidConfig> {
        let client = distribution::Client::new(settings).map_err(|error| {
            let problem = format!(
                "the client for registries cannot be created: {}. Check the certificates of `pki` in `builder_settings`",
                failure::chain(&error)
            );
            InvalidConfig::new(cache.as_str(), problem)
        })?;
        Ok(Self {
            client,
            credentials,
            settings,
        })
    }

    /// Finds the current digest of `image`. Docker Hub does not count this as a pull.
    ///
    /// # Errors
    /// - [`StageError::ImageNotFound`] if the image does not exist,
    /// - [`StageError::RegistryDenied`] if the registry denies access,
    /// - [`StageError::RegistryUnavailable`] if the registry does not answer.
    pub async fn locate(
        &self,
        clients: &Clients,
        image: &ImageReference,
    ) -> Result<Located, StageError> {
        let version = match (image.digest(), image.tag()) {
            (Some(digest), _) => Version::Digest(digest),
            (None, tag) => Version::Tag(tag.unwrap_or("latest")),
        };
        match self.source(clients, image) {
            Source::Ecr(repository) => repository.locate(version).await,
            Source::Oci(repository) => {
                let located = repository.locate(version).await;
                located.map_err(|failure| failure.of(image))
            }
        }
    }

    /// Returns the manifest that containerd pulls on a node of each of `architectures`.
    ///
    /// A reference without an index has the same manifest for each of them. containerd does not compare its platform either.
    ///
    /// # Errors
    /// Those of [`Registries::locate`]. Also [`StageError::ImageNotFound`] if the image lacks one of `architectures`, or is
    /// not a container image.
    pub async fn platforms(
        &self,
        clients: &Clients,
        image: &ImageReference,
        located: &Located,
        architectures: &BTreeSet<Architecture>,
    ) -> Result<BTreeMap<Architecture, PlatformManifest>, StageError> {
        let lookup = Lookup {
            image,
            source: self.source(clients, image),
        };
        let content = match &located.body {
            Some(body) => body,
            None => &lookup.manifest(&located.digest).await?,
        };
        let parsed = Manifest::parse(&located.media_type, content);
        match parsed.map_err(|problem| lookup.not_found(problem))? {
            Manifest::Image(manifest) => {
                let config = lookup.check(&manifest).await?;
                let platform = PlatformManifest::new(&located.digest, &manifest);
                let platforms = architectures.iter().map(|architecture| {
                    lookup.warn_of_other_platform(config.as_ref(), *architecture);
                    (*architecture, platform.clone())
                });
                Ok(platforms.collect())
            }
            Manifest::Index(entries) => {
                let mut platforms = BTreeMap::new();
                for architecture in architectures {
                    let platform = lookup.platform(&entries, *architecture).await?;
                    platforms.insert(*architecture, platform);
                }
                Ok(platforms)
            }
        }
    }

    /// Resolves `image` for each of `architectures`: [`Registries::locate`], then [`Registries::platforms`].
    ///
    /// # Errors
    /// Those of both.
    pub async fn resolve(
        &self,
        clients: &Clients,
        image: &ImageReference,
        architectures: &BTreeSet<Architecture>,
    ) -> Result<ResolvedImage, StageError> {
        let located = self.locate(clients, image).await?;
        let platforms = self
            .platforms(clients, image, &located, architectures)
            .await?;
        Ok(ResolvedImage {
            digest: located.digest,
            platforms,
        })
    }

    fn source<'b>(&'b self, clients: &Clients, image: &'b ImageReference) -> Source<'b> {
        match image.ecr() {
            Some(repository) => Source::Ecr(ecr::Repository::new(clients, repository, image)),
            None => Source::Oci(distribution::Repository {
                client: &self.client,
                image,
                credentials: self.credentials.get(image.registry()),
                endpoints: Endpoint::of(image, self.settings),
            }),
        }
    }
}

impl PlatformManifest {
    fn new(digest: &Digest, manifest: &ImageManifest) -> Self {
        let layers = manifest.layers.iter().map(|layer| Layer {
            digest: layer.digest.clone(),
            size: Bytes(layer.size),
        });
        Self {
            digest: digest.clone(),
            layers: layers.collect(),
        }
    }
}

/// The tag or digest of a manifest in a repository.
#[derive(Clone, Copy)]
enum Version<'a> {
    Tag(&'a str),
    Digest(&'a Digest),
}

impl fmt::Display for Version<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => f.write_str(tag),
            Self::Digest(digest) => write!(f, "{digest}"),
        }
    }
}

/// The repository of an image.
enum Source<'a> {
    Ecr(ecr::Repository<'a>),
    Oci(distribution::Repository<'a>),
}

/// The search for the manifests of one image.
struct Lookup<'a> {
    image: &'a ImageReference,
    source: Source<'a>,
}

impl Lookup<'_> {
    async fn manifest(&self, digest: &Digest) -> Result<Vec<u8>, StageError> {
        match &self.source {
            Source::Ecr(repository) => repository.manifest(digest).await,
            Source::Oci(repository) => {
                let manifest = repository.manifest(digest).await;
                manifest.map_err(|failure| failure.of(self.image))
            }
        }
    }

    /// Returns the manifest that containerd chooses from the entries of an index, and from indexes in it.
    ///
    /// containerd takes the entry with the best platform, and entries without a platform last. It takes only one entry of
    /// each index, even if its content turns out to have another platform.
    ///
    /// Source: `Manifest` in containerd's `core/images/image.go`.
    async fn platform(
        &self,
        entries: &[Descriptor],
        architecture: Architecture,
    ) -> Result<PlatformManifest, StageError> {
        let mut entry = self.choose(entries, architecture)?;
        for _ in 0..MAX_DEPTH {
            let digest = parse_digest(&entry.digest).map_err(|failure| failure.of(self.image))?;
            let content = self.manifest(&digest).await.map_err(|error| match error {
                StageError::ImageNotFound { problem, .. } => self.not_found(format!(
                    "its index exists, but the manifest {digest} for linux/{} in it does not: {problem}. Push the \
                     image again, and exclude the manifests of tagged indexes from the clean-up of the registry",
                    architecture.oci_name()
                )),
                other => other,
            })?;
            let parsed = Manifest::parse(&entry.media_type, &content);
            match parsed.map_err(|problem| self.not_found(problem))? {
                Manifest::Index(entries) => entry = self.choose(&entries, architecture)?,
                Manifest::Image(manifest) => {
                    let config = self.check(&manifest).await?;
                    if entry.platform.is_none()
                        && let Some(Config { platform, .. }) = config
                        && platform.preference(architecture).is_none()
                    {
                        return Err(self.not_found(format!(
                            "containerd takes the first entry without a platform from its index, and that one is for \
                             {platform}, not for linux/{}. Push an index whose entries have platforms",
                            architecture.oci_name()
                        )));
                    }
                    return Ok(PlatformManifest::new(&digest, &manifest));
                }
            }
        }
        Err(self.not_found(format!(
            "its indexes are nested more than {MAX_DEPTH} deep. Push an index of images"
        )))
    }

    fn choose(
        &self,
        entries: &[Descriptor],
        architecture: Architecture,
    ) -> Result<Descriptor, StageError> {
        let preference = |entry: &Descriptor| match &entry.platform {
            Some(platform) => platform.preference(architecture),
            None => Some(usize::MAX),
        };
        let usable = entries
            .iter()
            .filter_map(|entry| Some((preference(entry)?, entry)));
        if let Some((_, entry)) = usable.min_by_key(|(preference, _)| *preference) {
            return Ok(entry.clone());
        }
        // An index may list a platform several times, for different versions of an operating system.
        let offered: BTreeSet<_> = entries
            .iter()
            .filter_map(|entry| entry.platform.as_ref())
            .filter(|platform| !platform.is_unknown())
            .map(ToString::to_string)
            .collect();
        let offered = match offered.len() {
            0 => "no platform at all".to_owned(),
            _ => Vec::from_iter(offered).join(", "),
        };
        Err(self.not_found(format!(
            "it has no manifest for linux/{}, only for {offered}. Push one, or remove `{architecture}` from the \
             cache's `architectures`",
            architecture.oci_name()
        )))
    }

    /// Checks that containerd can unpack the image, and returns its configuration.
    ///
    /// ECR's API does not return configurations. There, the builder finds the remaining problems when it pulls.
    async fn check(&self, manifest: &ImageManifest) -> Result<Option<Config>, StageError> {
        manifest
            .check_layers()
            .map_err(|problem| self.not_found(problem))?;
        match &self.source {
            Source::Ecr(_) if manifest.has_image_config() => Ok(None),
            Source::Ecr(_) => Err(self.not_found(manifest.not_an_image())),
            Source::Oci(repository) => {
                let body = repository.config(&manifest.config).await;
                let body = body.map_err(|failure| failure.of(self.image))?;
                let config = manifest.config(&body);
                config.map(Some).map_err(|problem| self.not_found(problem))
            }
        }
    }

    fn warn_of_other_platform(&self, config: Option<&Config>, architecture: Architecture) {
        if let Some(Config { platform, .. }) = config
            && platform.preference(architecture).is_none()
        {
            tracing::warn!(
                image = %self.image,
                %platform,
                %architecture,
                "image is for another platform, and its containers may not start"
            );
        }
    }

    fn not_found(&self, problem: String) -> StageError {
        Failure::NotFound(problem).of(self.image)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bundle_without_a_certificate_is_refused() {
        // PEM is checked with the configuration, its content only here.
        let pem =
            "-----BEGIN CERTIFICATE-----\nMIIBszCCAVmgAwIBAgIU\nZm9v\n-----END CERTIFICATE-----\n";
        let settings = serde_json::json!({"pki": {"company": pem}});
        let settings = serde_json::from_value(settings).unwrap();
        let registries = Registries::new(&"web".parse().unwrap(), BTreeMap::new(), &settings);
        let error = registries.err().unwrap().to_string();
        assert!(error.contains("Check the certificates of `pki`"), "{error}");
    }
}
