//! Resolves image references to the current digests, for each architecture.
//!
//! For images in private ECR it uses ECR's own API with the function's role. For all others it uses the OCI
//! distribution protocol, with the cache's credentials or anonymously.

mod credentials;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ecr::types::{Image, ImageFailure, ImageFailureCode, ImageIdentifier};
use oci_client::client::ClientConfig;
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::manifest::{
    IMAGE_CONFIG_MEDIA_TYPE, IMAGE_DOCKER_CONFIG_MEDIA_TYPE, IMAGE_MANIFEST_LIST_MEDIA_TYPE,
    IMAGE_MANIFEST_MEDIA_TYPE, OCI_IMAGE_INDEX_MEDIA_TYPE, OCI_IMAGE_MEDIA_TYPE, OciDescriptor,
    OciImageIndex, OciImageManifest, OciManifest, Platform,
};
use oci_client::secrets::RegistryAuth;
use oci_client::{Reference, RegistryOperation};
use prepull_domain::cache::image::EcrRepository;
use prepull_domain::{Architecture, Bytes, Digest, ImageReference, StageError};
use serde::Deserialize;

pub use credentials::{RegistryCredentials, read_credentials};
use prepull_aws::{AwsError, Clients, ecr};

/// Media types that containerd can pull: an index and a single-platform manifest, each from OCI and Docker.
const MANIFEST_TYPES: [&str; 4] = [
    OCI_IMAGE_INDEX_MEDIA_TYPE,
    IMAGE_MANIFEST_LIST_MEDIA_TYPE,
    OCI_IMAGE_MEDIA_TYPE,
    IMAGE_MANIFEST_MEDIA_TYPE,
];

/// Configuration media types of container images. A Helm chart, for example, has another type.
const CONFIG_TYPES: [&str; 2] = [IMAGE_CONFIG_MEDIA_TYPE, IMAGE_DOCKER_CONFIG_MEDIA_TYPE];

/// Back-off between attempts when a registry does not answer. After the last attempt, the state machine retries.
const PAUSES: [Duration; 3] = [
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
];

/// Call name for registry requests in error messages.
const REGISTRY_CALL: &str = "registry:GetManifest";

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const READ_TIMEOUT: Duration = Duration::from_secs(20);

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

/// The registries of one cache.
pub struct Registries {
    oci: oci_client::Client,
    credentials: BTreeMap<String, RegistryCredentials>,
}

impl Registries {
    /// Creates the registry client, with credentials by host.
    ///
    /// # Panics
    /// Panics if it cannot read the system's certificate authorities, because no registry is reachable without them.
    #[must_use]
    pub fn new(credentials: BTreeMap<String, RegistryCredentials>) -> Self {
        let config = ClientConfig {
            connect_timeout: Some(CONNECT_TIMEOUT),
            read_timeout: Some(READ_TIMEOUT),
            platform_resolver: None,
            user_agent: concat!("prepull/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        };
        let oci = oci_client::Client::try_from(config)
            .unwrap_or_else(|error| panic!("cannot create the registry client: {error}"));
        Self { oci, credentials }
    }

    /// Resolves `image` for each of `architectures`.
    ///
    /// The platform of a single-platform manifest in private ECR is not checked here. ECR's API does not return the
    /// image configuration, which contains the platform. The builder checks it when it pulls the image.
    ///
    /// # Errors
    /// - [`StageError::ImageNotFound`] if the image does not exist or lacks one of `architectures`,
    /// - [`StageError::RegistryDenied`] if the registry denies access,
    /// - [`StageError::Throttled`] if the registry does not answer.
    pub async fn resolve(
        &self,
        clients: &Clients,
        image: &ImageReference,
        architectures: &BTreeSet<Architecture>,
    ) -> Result<ResolvedImage, StageError> {
        let lookup = Lookup {
            image,
            registry: match image.ecr() {
                Some(repository) => Registry::Ecr(Self::ecr(clients, &repository), repository),
                None => Registry::Oci(&self.oci, self.auth(image)),
            },
        };
        let version = match (image.digest(), image.tag()) {
            (Some(digest), _) => Version::Digest(digest),
            (None, tag) => Version::Tag(tag.unwrap_or("latest")),
        };
        let (digest, manifest) = lookup.manifest(version).await?;
        let platforms = match manifest {
            OciManifest::ImageIndex(index) => lookup.platforms(&index, architectures).await?,
            OciManifest::Image(manifest) => {
                lookup
                    .check_single(&digest, &manifest, architectures)
                    .await?;
                let platform = PlatformManifest {
                    digest: digest.clone(),
                    layers: layers(&manifest),
                };
                architectures
                    .iter()
                    .map(|architecture| (*architecture, platform.clone()))
                    .collect()
            }
        };
        Ok(ResolvedImage { digest, platforms })
    }

    fn ecr(clients: &Clients, repository: &EcrRepository) -> ecr::Client {
        if clients.region().as_ref() == Some(&repository.region) {
            clients.ecr.clone()
        } else {
            clients.in_region(&repository.region).ecr
        }
    }

    fn auth(&self, image: &ImageReference) -> RegistryAuth {
        match self.credentials.get(image.registry()) {
            Some(RegistryCredentials { username, password }) => {
                RegistryAuth::Basic(username.clone(), password.clone())
            }
            None => RegistryAuth::Anonymous,
        }
    }
}

/// The tag or digest of a manifest in a repository.
#[derive(Clone, Copy)]
enum Version<'a> {
    Tag(&'a str),
    Digest(&'a Digest),
}

enum Registry<'a> {
    Ecr(ecr::Client, EcrRepository),
    Oci(&'a oci_client::Client, RegistryAuth),
}

/// The look-up of one image.
struct Lookup<'a> {
    image: &'a ImageReference,
    registry: Registry<'a>,
}

impl Lookup<'_> {
    async fn manifest(&self, version: Version<'_>) -> Result<(Digest, OciManifest), StageError> {
        let (digest, body) = match &self.registry {
            Registry::Ecr(client, repository) => {
                self.manifest_in_ecr(client, repository, version).await?
            }
            Registry::Oci(client, auth) => {
                let reference = self.reference(version);
                let ask = async || {
                    // A pull also authenticates, but if that fails it continues anonymously and hides the cause.
                    client
                        .auth(&reference, auth, RegistryOperation::Pull)
                        .await?;
                    client
                        .pull_manifest_raw(&reference, auth, &MANIFEST_TYPES)
                        .await
                };
                let (body, digest) = self.patiently(ask).await?;
                (digest, body.to_vec())
            }
        };
        let digest = digest
            .parse()
            .map_err(|error| self.not_found(format!("{error}")))?;
        let manifest = serde_json::from_slice(&body).map_err(|error| {
            self.not_found(format!(
                "its manifest is neither an image nor an image index: {error}"
            ))
        })?;
        Ok((digest, manifest))
    }

    /// Returns the manifest in `index` for each of `architectures`.
    async fn platforms(
        &self,
        index: &OciImageIndex,
        architectures: &BTreeSet<Architecture>,
    ) -> Result<BTreeMap<Architecture, PlatformManifest>, StageError> {
        let mut platforms = BTreeMap::new();
        for architecture in architectures {
            let entry = index
                .manifests
                .iter()
                .find(|entry| {
                    let platform = entry.platform.as_ref();
                    platform.is_some_and(|platform| runs_on(platform, *architecture))
                })
                .ok_or_else(|| {
                    let offered = index
                        .manifests
                        .iter()
                        .filter_map(|entry| entry.platform.as_ref());
                    self.missing_platform(*architecture, offered.filter_map(platform_name))
                })?;
            let digest: Digest = entry
                .digest
                .parse()
                .map_err(|error| self.not_found(format!("{error}")))?;
            let (_, OciManifest::Image(manifest)) = self.manifest(Version::Digest(&digest)).await?
            else {
                return Err(self.not_found(format!(
                    "its index contains another index for {architecture}, which containerd does not follow. Push an \
                     index of images"
                )));
            };
            let layers = layers(&manifest);
            platforms.insert(*architecture, PlatformManifest { digest, layers });
        }
        Ok(platforms)
    }

    /// Returns an error if a manifest without an index does not serve each of `architectures`.
    async fn check_single(
        &self,
        digest: &Digest,
        manifest: &OciImageManifest,
        architectures: &BTreeSet<Architecture>,
    ) -> Result<(), StageError> {
        let config_type = manifest.config.media_type.as_str();
        if !CONFIG_TYPES.contains(&config_type) {
            return Err(self.not_found(format!(
                "it is not a container image: its configuration has type `{config_type}`. Remove it from the cache"
            )));
        }
        if architectures.len() > 1 {
            return Err(self.not_found(
                "it has one platform, but the cache has several architectures. Push an image for each of them under \
                 one tag (`docker buildx build --platform`), or build the cache for one architecture"
                    .to_owned(),
            ));
        }
        let Registry::Oci(client, _) = &self.registry else {
            return Ok(());
        };
        let platform = self
            .configured_platform(client, digest, &manifest.config)
            .await?;
        match architectures
            .iter()
            .find(|architecture| !runs_on(&platform, **architecture))
        {
            Some(architecture) => {
                Err(self.missing_platform(*architecture, platform_name(&platform)))
            }
            None => Ok(()),
        }
    }

    /// Reads the platform from the configuration of an image.
    async fn configured_platform(
        &self,
        client: &oci_client::Client,
        digest: &Digest,
        config: &OciDescriptor,
    ) -> Result<Platform, StageError> {
        #[derive(Deserialize)]
        struct Config {
            #[serde(flatten)]
            platform: Platform,
        }
        let reference = self.reference(Version::Digest(digest));
        let body = self
            .patiently(async || {
                let mut body = Vec::new();
                client.pull_blob(&reference, config, &mut body).await?;
                Ok(body)
            })
            .await?;
        let config: Config = serde_json::from_slice(&body)
            .map_err(|error| self.not_found(format!("its configuration is malformed: {error}")))?;
        Ok(config.platform)
    }

    fn reference(&self, version: Version<'_>) -> Reference {
        let registry = self.image.registry().to_owned();
        let repository = self.image.repository().to_owned();
        match version {
            Version::Tag(tag) => Reference::with_tag(registry, repository, tag.to_owned()),
            Version::Digest(digest) => {
                Reference::with_digest(registry, repository, digest.to_string())
            }
        }
    }

    async fn manifest_in_ecr(
        &self,
        client: &ecr::Client,
        repository: &EcrRepository,
        version: Version<'_>,
    ) -> Result<(String, Vec<u8>), StageError> {
        let id = ImageIdentifier::builder();
        let id = match version {
            Version::Tag(tag) => id.image_tag(tag),
            Version::Digest(digest) => id.image_digest(digest.as_str()),
        };
        let request = client
            .batch_get_image()
            .registry_id(repository.account.as_str())
            .repository_name(&repository.repository)
            .image_ids(id.build());
        let answer = MANIFEST_TYPES
            .iter()
            .fold(request, |request, media_type| {
                request.accepted_media_types(*media_type)
            })
            .send()
            .await;
        let answer = answer.map_err(|error| match error.aws_code() {
            Some("RepositoryNotFoundException") => {
                let EcrRepository {
                    account, region, ..
                } = repository;
                self.not_found(format!(
                    "account {account} has no such repository in {region}"
                ))
            }
            _ => match error.into_stage_error("ecr:BatchGetImage") {
                StageError::AccessDenied { message, .. } => self.denied(format!(
                    "{message}. Allow the roles of plan-build and the builder to pull from the repository. A \
                     repository in another account needs this in its own policy too"
                )),
                other => other,
            },
        })?;
        match (answer.images(), answer.failures()) {
            ([image, ..], _) => image_in_ecr(image)
                .ok_or_else(|| self.not_found("ECR lists it without a manifest".to_owned())),
            ([], [failure, ..]) => Err(self.failure_in_ecr(failure)),
            ([], []) => Err(self.not_found("ECR has no such image".to_owned())),
        }
    }

    fn failure_in_ecr(&self, failure: &ImageFailure) -> StageError {
        let reason = failure
            .failure_reason()
            .unwrap_or("ECR gives no reason")
            .to_owned();
        match failure.failure_code() {
            Some(ImageFailureCode::UpstreamAccessDenied) => self.denied(format!(
                "{reason}. Check the credentials of the pull-through cache"
            )),
            Some(
                ImageFailureCode::UpstreamTooManyRequests | ImageFailureCode::UpstreamUnavailable,
            ) => StageError::Throttled {
                call: "ecr:BatchGetImage",
                message: format!("{}: {reason}", self.image),
            },
            Some(ImageFailureCode::KmsError) => StageError::AwsFailed {
                call: "ecr:BatchGetImage",
                message: format!("{}: {reason}", self.image),
            },
            _ => self.not_found(reason),
        }
    }

    /// Calls a registry and retries transient failures.
    async fn patiently<T>(
        &self,
        ask: impl AsyncFn() -> Result<T, OciDistributionError>,
    ) -> Result<T, StageError> {
        for pause in PAUSES {
            match ask().await.map_err(|error| self.failure(error)) {
                Err(StageError::Throttled { message, .. }) => {
                    tracing::warn!(image = %self.image, cause = message, "retrying registry call");
                    tokio::time::sleep(pause).await;
                }
                other => return other,
            }
        }
        ask().await.map_err(|error| self.failure(error))
    }

    /// Converts a registry's error into a stage error.
    fn failure(&self, error: OciDistributionError) -> StageError {
        let text = chain(&error);
        let passing = |message| StageError::Throttled {
            call: REGISTRY_CALL,
            message: format!("{}: {message}", self.image),
        };
        match error {
            OciDistributionError::RequestError(_) | OciDistributionError::IoError(_) => {
                passing(text)
            }
            OciDistributionError::UnauthorizedError { .. }
            | OciDistributionError::AuthenticationFailure(_)
            | OciDistributionError::ServerError {
                code: 401 | 403, ..
            } => self.denied_with_advice(&text),
            OciDistributionError::ServerError {
                code: 429 | 500.., ..
            } => passing(text),
            OciDistributionError::RegistryError { envelope, .. } => {
                let has = |codes: &[OciErrorCode]| {
                    envelope
                        .errors
                        .iter()
                        .any(|error| codes.contains(&error.code))
                };
                if has(&[OciErrorCode::Denied, OciErrorCode::Unauthorized]) {
                    self.denied_with_advice(&text)
                } else if has(&[OciErrorCode::Toomanyrequests]) {
                    passing(text)
                } else {
                    self.not_found(text)
                }
            }
            _ => self.not_found(text),
        }
    }

    fn denied_with_advice(&self, text: &str) -> StageError {
        let host = self.image.registry();
        let advice = match &self.registry {
            Registry::Oci(_, RegistryAuth::Basic(username, _)) => {
                format!("Check the password of `{username}` and its permission to pull")
            }
            // Docker Hub gives the same answer for both cases, to hide the existence of private repositories.
            _ => format!(
                "The repository does not exist or needs credentials. Check the name, or add credentials for `{host}` \
                 to `registry_credentials`"
            ),
        };
        self.denied(format!("{text}. {advice}"))
    }

    fn denied(&self, problem: String) -> StageError {
        StageError::RegistryDenied {
            image: self.image.clone(),
            problem,
        }
    }

    fn not_found(&self, problem: String) -> StageError {
        StageError::ImageNotFound {
            image: self.image.clone(),
            problem,
        }
    }

    fn missing_platform(
        &self,
        architecture: Architecture,
        offered: impl IntoIterator<Item = String>,
    ) -> StageError {
        // An index may list a platform several times, for different versions of an operating system.
        let offered: BTreeSet<_> = offered.into_iter().collect();
        let offered = match offered.len() {
            0 => "no platform at all".to_owned(),
            _ => Vec::from_iter(offered).join(", "),
        };
        self.not_found(format!(
            "it has no manifest for linux/{}, only for {offered}. Push one, or remove `{architecture}` from the \
             cache's `architectures`",
            architecture.oci_name()
        ))
    }
}

fn image_in_ecr(image: &Image) -> Option<(String, Vec<u8>)> {
    let digest = image.image_id()?.image_digest()?;
    Some((digest.to_owned(), image.image_manifest()?.into()))
}

fn layers(manifest: &OciImageManifest) -> Vec<Layer> {
    manifest
        .layers
        .iter()
        .map(|layer| Layer {
            digest: layer.digest.clone(),
            size: Bytes(u64::try_from(layer.size).unwrap_or_default()),
        })
        .collect()
}

/// Returns whether containerd on a node of `architecture` accepts a manifest for `platform`.
///
/// If a platform has no variant, `amd64` means v1 and `arm64` means v8. A node without a variant rejects newer
/// variants.
///
/// Source: containerd's `platforms` package.
fn runs_on(platform: &Platform, architecture: Architecture) -> bool {
    let baseline = match architecture {
        Architecture::X86_64 => "v1",
        Architecture::Arm64 => "v8",
    };
    platform.os.to_string() == "linux"
        && platform.architecture.to_string() == architecture.oci_name()
        && ["", baseline].contains(&platform.variant.as_deref().unwrap_or_default())
}

/// Formats the platform for messages. `None` for the attestations that `docker buildx` stores beside the images.
fn platform_name(platform: &Platform) -> Option<String> {
    let (os, architecture) = (platform.os.to_string(), platform.architecture.to_string());
    let variant = platform.variant.as_deref().unwrap_or_default();
    (os != "unknown").then(|| {
        let separator = if variant.is_empty() { "" } else { "/" };
        format!("{os}/{architecture}{separator}{variant}")
    })
}

/// Formats an error with its causes. The HTTP client's own message says only that a request failed.
fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(error.source(), |error| error.source()).fold(
        error.to_string(),
        |text, cause| {
            let cause = cause.to_string();
            // Transparent wrappers repeat the message of their cause.
            if text.ends_with(&cause) {
                text
            } else {
                format!("{text}: {cause}")
            }
        },
    )
}
