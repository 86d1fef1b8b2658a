//! Requests in the protocol of the OCI distribution specification, as containerd makes them.
//!
//! No client on crates.io pulls like containerd. `oci-client`, for example, authenticates only after a challenge of
//! `/v2/`, does not read the status of a token endpoint, and rejects manifests that containerd accepts.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prepull_domain::{BuilderSettings, Digest, ImageReference};
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_LENGTH};
use reqwest::{Certificate, Method, Response, StatusCode};
use sha2::Digest as _;

use crate::authorization::Challenge;
use crate::endpoint::Endpoint;
use crate::failure::{Failure, details};
use crate::manifest::{Descriptor, MEDIA_TYPES};
use crate::response::{content_type, is_transient, read, with_details};
use crate::{Located, RegistryCredentials, Version};

/// Back-off between attempts when a registry does not answer. After the last attempt, the state machine retries.
const PAUSES: [Duration; 3] = [
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
];

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const READ_TIMEOUT: Duration = Duration::from_secs(20);

/// Maximum size of a manifest or a configuration in bytes.
///
/// Source: `MaxManifestSize` in containerd's `core/remotes/docker/resolver.go`.
const MAX_SIZE: usize = 4 * 1048 * 1048;

/// Number of challenges to one request that are answered.
const CHALLENGES: usize = 2;

/// The HTTP client of all registries, and the answers to their challenges.
pub(crate) struct Client {
    http: reqwest::Client,
    /// Values of `Authorization`, by URL of the repository.
    authorizations: Mutex<BTreeMap<String, String>>,
}

impl Client {
    /// Creates the client. It trusts the certificate bundles of the builders besides the system's.
    pub(crate) fn new(settings: &BuilderSettings) -> Result<Self, reqwest::Error> {
        let mut trusted = Vec::new();
        for bundle in settings.pki.values() {
            trusted.extend(Certificate::from_pem_bundle(bundle.as_str().as_bytes())?);
        }
        let http = reqwest::Client::builder()
            .user_agent(concat!("prepull/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .tls_certs_merge(trusted)
            .build()?;
        Ok(Self {
            http,
            authorizations: Mutex::default(),
        })
    }
}

/// A repository in a registry and its mirrors.
pub(crate) struct Repository<'a> {
    pub(crate) client: &'a Client,
    pub(crate) image: &'a ImageReference,
    pub(crate) credentials: Option<&'a RegistryCredentials>,
    pub(crate) endpoints: Vec<Endpoint>,
}

impl Repository<'_> {
    /// Finds the current manifest of a tag or a digest. It asks with `HEAD`, which Docker Hub does not count as a pull.
    pub(crate) async fn locate(&self, version: Version<'_>) -> Result<Located, Failure> {
        let found = self
            .ask(async |repository| repository.locate(version).await)
            .await?;
        // Like containerd, this tries no other endpoint if the digest is malformed.
        let (digest, body) = match found.content {
            Content::Digest(digest) => (parse_digest(&digest)?, None),
            Content::Body(body) => (digest_of(&body), Some(body)),
        };
        Ok(Located {
            digest,
            media_type: found.media_type,
            body,
        })
    }

    /// Returns the manifest with this digest.
    pub(crate) async fn manifest(&self, digest: &Digest) -> Result<Vec<u8>, Failure> {
        self.content(&format!("manifests/{digest}"), digest).await
    }

    /// Returns the configuration of an image.
    pub(crate) async fn config(&self, config: &Descriptor) -> Result<Vec<u8>, Failure> {
        let digest = parse_digest(&config.digest)?;
        self.content(&format!("blobs/{digest}"), &digest).await
    }

    /// Returns content of the first endpoint that has it. Like containerd, it tries no other if that content is wrong.
    async fn content(&self, path: &str, digest: &Digest) -> Result<Vec<u8>, Failure> {
        let (content, host) = self
            .ask(async |repository| {
                let content = repository.content(path).await?;
                Ok((content, repository.endpoint.name.clone()))
            })
            .await?;
        if digest_of(&content) == *digest {
            Ok(content)
        } else {
            Err(Failure::NotFound(format!(
                "`{host}` returned other content than {digest}. Push the image again, or repair `{host}`"
            )))
        }
    }

    /// Sends a request to the endpoints in order, until one has the content. Starts again if one is unavailable.
    async fn ask<T>(
        &self,
        request: impl AsyncFn(RepositoryAt<'_>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        for pause in PAUSES {
            match self.ask_once(&request).await {
                Err(Failure::Unavailable(cause)) => {
                    tracing::warn!(image = %self.image, cause, "retrying registry call");
                    tokio::time::sleep(pause).await;
                }
                other => return other,
            }
        }
        self.ask_once(&request).await
    }

    async fn ask_once<T>(
        &self,
        request: &impl AsyncFn(RepositoryAt<'_>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let mut failures = Vec::new();
        for endpoint in &self.endpoints {
            let repository = RepositoryAt {
                client: self.client,
                image: self.image,
                credentials: self.credentials,
                endpoint,
            };
            match request(repository).await {
                Ok(found) => return Ok(found),
                Err(failure) => failures.push(failure),
            }
        }
        Err(Failure::of_all(failures))
    }
}

/// A manifest that an endpoint has.
struct Found {
    media_type: String,
    content: Content,
}

enum Content {
    /// The digest in the header, which nobody has checked.
    Digest(String),
    /// The manifest, from a registry that sends no digest.
    Body(Vec<u8>),
}

/// A repository at one endpoint.
struct RepositoryAt<'a> {
    client: &'a Client,
    image: &'a ImageReference,
    credentials: Option<&'a RegistryCredentials>,
    endpoint: &'a Endpoint,
}

impl RepositoryAt<'_> {
    async fn locate(&self, version: Version<'_>) -> Result<Found, Failure> {
        let path = format!("manifests/{version}");
        let mut response = self.accepted(Method::HEAD, &path).await?;
        let media_type = content_type(&response);
        let header = |name: &str| {
            let value = response.headers().get(name);
            value.and_then(|value| value.to_str().ok())
        };
        if let (Some(digest), Some(_)) = (
            header("docker-content-digest"),
            header(CONTENT_LENGTH.as_str()),
        ) {
            let content = Content::Digest(digest.to_owned());
            return Ok(Found {
                media_type,
                content,
            });
        }
        // The registry does not say the digest, so it follows from the content.
        response = self.accepted(Method::GET, &path).await?;
        let media_type = content_type(&response);
        let content = Content::Body(self.body(&mut response).await?);
        Ok(Found {
            media_type,
            content,
        })
    }

    async fn content(&self, path: &str) -> Result<Vec<u8>, Failure> {
        let mut response = self.accepted(Method::GET, path).await?;
        self.body(&mut response).await
    }

    async fn body(&self, response: &mut Response) -> Result<Vec<u8>, Failure> {
        read(response, MAX_SIZE)
            .await
            .map_err(|error| Failure::no_answer(&self.endpoint.name, error))?
            .ok_or_else(|| {
                Failure::NotFound(format!(
                    "its manifest or its configuration has more than {MAX_SIZE} bytes, and containerd does not pull \
                     it. Check the reference"
                ))
            })
    }

    /// Sends a request. Returns the response if the registry accepted it.
    async fn accepted(&self, method: Method, path: &str) -> Result<Response, Failure> {
        let mut response = self.answered(method.clone(), path).await?;
        if method == Method::HEAD && response.status() == StatusCode::METHOD_NOT_ALLOWED {
            response = self.answered(Method::GET, path).await?;
        }
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let mut cause = String::new();
        // The response to HEAD has no body, so a GET shows the registry's reason.
        if method == Method::HEAD && !is_transient(status) {
            let again = self.answered(Method::GET, path).await?;
            if again.status().is_success() {
                "it refuses HEAD requests, which containerd needs".clone_into(&mut cause);
            } else if again.status() == status {
                response = again;
            }
        }
        if cause.is_empty() {
            let content_type = content_type(&response);
            let body = read(&mut response, MAX_SIZE).await.ok().flatten();
            cause = details(&content_type, &body.unwrap_or_default());
        }
        Err(self.refused(status, &cause))
    }

    /// Sends a request, and answers the challenges of the registry.
    async fn answered(&self, method: Method, path: &str) -> Result<Response, Failure> {
        let repository = self.image.repository();
        let url = self.endpoint.url(repository, path);
        let mut challenges = 0;
        loop {
            let mut request = self
                .client
                .http
                .request(method.clone(), &url)
                .header(ACCEPT, format!("{}, */*", MEDIA_TYPES.join(", ")));
            if let Some(authorization) = self.authorization() {
                request = request.header(AUTHORIZATION, authorization);
            }
            let response = request
                .send()
                .await
                .map_err(|error| Failure::no_answer(&self.endpoint.name, error))?;
            if response.status() != StatusCode::UNAUTHORIZED || challenges == CHALLENGES {
                return Ok(response);
            }
            challenges += 1;
            let Some(challenge) = Challenge::of(response.headers()) else {
                return Ok(response);
            };
            let http = &self.client.http;
            let Some(answer) = challenge.answer(http, repository, self.credentials).await? else {
                return Ok(response);
            };
            self.authorizations().insert(self.key(), answer);
        }
    }

    fn authorizations(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, String>> {
        let authorizations = self.client.authorizations.lock();
        authorizations.unwrap_or_else(PoisonError::into_inner)
    }

    fn authorization(&self) -> Option<String> {
        self.authorizations().get(&self.key()).cloned()
    }

    fn key(&self) -> String {
        self.endpoint.url(self.image.repository(), "")
    }

    /// Returns the failure of a request that the registry refused. The status decides, because many registries have error
    /// codes of their own.
    fn refused(&self, status: StatusCode, cause: &str) -> Failure {
        let registry = self.image.registry();
        let host = &self.endpoint.name;
        let text = format!("`{host}` answered {}", with_details(status, cause));
        match status.as_u16() {
            429 => Failure::Unavailable(format!(
                "{text}. It limits requests: add credentials for `{registry}` to `registry_credentials`, or use a \
                 pull-through cache in ECR"
            )),
            _ if is_transient(status) => Failure::Unavailable(text),
            401 | 403 => Failure::Denied(format!("{text}. {}", self.advice())),
            412 => Failure::Denied(format!(
                "{text}. A policy of the registry forbids the pull, for example because of vulnerabilities or a missing \
                 signature. Satisfy it, or change it there"
            )),
            _ => Failure::NotFound(format!("{text}. Check the repository and the tag")),
        }
    }

    fn advice(&self) -> String {
        let registry = self.image.registry();
        let host = &self.endpoint.name;
        match (self.credentials, self.authorization()) {
            (Some(RegistryCredentials { username, .. }), Some(_)) => {
                format!("Check the password of `{username}` and its permission to pull")
            }
            (Some(_), None) => format!(
                "`{host}` did not ask for the configured credentials. Check its access rules, for example its list of \
                 allowed addresses"
            ),
            // Docker Hub gives the same answer for both cases, to hide the existence of private repositories.
            (None, _) => format!(
                "The repository does not exist or needs credentials. Check the name, or add credentials for `{registry}` \
                 to `registry_credentials`"
            ),
        }
    }
}

/// Parses a digest from a registry.
pub(crate) fn parse_digest(given: &str) -> Result<Digest, Failure> {
    given.parse().map_err(|error| {
        Failure::NotFound(format!(
            "its registry returned a wrong digest: {error}. Repair the registry"
        ))
    })
}

fn digest_of(content: &[u8]) -> Digest {
    format!("sha256:{:x}", sha2::Sha256::digest(content))
        .parse()
        .expect("the hash has 64 hexadecimal digits")
}
