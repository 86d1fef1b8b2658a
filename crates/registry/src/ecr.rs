//! Manifests in private ECR, from ECR's own API with the function's role.

use std::fmt::Display;

use ecr::types::{Image, ImageFailure, ImageFailureCode, ImageIdentifier};
use prepull_aws::{AwsError, Clients, ecr};
use prepull_domain::cache::image::EcrRepository;
use prepull_domain::{Digest, ImageReference, StageError};

use crate::distribution::parse_digest;
use crate::failure::Failure;
use crate::manifest::MEDIA_TYPES;
use crate::{Located, Version};

/// Advice for images that a pull-through cache has not imported yet. ECR answers a caller without permission to import as
/// if the repository or the image did not exist, or denies the call. This was not tried on AWS.
const IMPORT_ADVICE: &str = "If it belongs to a pull-through cache, add the prefix of the cache's rule to \
                             `pull_through_cache_prefixes`, which allows `ecr:BatchImportUpstreamImage` and \
                             `ecr:CreateRepository`";

const UPSTREAM_ADVICE: &str = "Check the credentials of the pull-through cache";

/// A repository in private ECR.
pub(crate) struct Repository<'a> {
    client: ecr::Client,
    place: EcrRepository,
    image: &'a ImageReference,
}

impl<'a> Repository<'a> {
    pub(crate) fn new(
        clients: &Clients,
        repository: EcrRepository,
        image: &'a ImageReference,
    ) -> Self {
        let client = if clients.region().as_ref() == Some(&repository.region) {
            clients.ecr.clone()
        } else {
            clients.in_region(&repository.region).ecr
        };
        Self {
            client,
            place: repository,
            image,
        }
    }

    /// Finds the current manifest of a tag or a digest. The API returns its content, too.
    pub(crate) async fn locate(&self, version: Version<'_>) -> Result<Located, StageError> {
        let id = ImageIdentifier::builder();
        let id = match version {
            Version::Tag(tag) => id.image_tag(tag),
            Version::Digest(digest) => id.image_digest(digest.as_str()),
        };
        let request = self
            .client
            .batch_get_image()
            .registry_id(self.place.account.as_str())
            .repository_name(&self.place.repository)
            .image_ids(id.build());
        let answer = MEDIA_TYPES
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
                } = &self.place;
                self.not_found(format!(
                    "account {account} has no such repository in {region}. Create it and push the image, or correct \
                     the reference. {IMPORT_ADVICE}"
                ))
            }
            // Usually, the credentials of the rule for the upstream registry are wrong.
            Some("UnableToGetUpstreamImageException") => {
                let reason = error
                    .as_service_error()
                    .and_then(|error| error.meta().message());
                let reason = reason.unwrap_or("ECR cannot get the image from the upstream registry");
                self.denied(format!("{}. {UPSTREAM_ADVICE}", reason.trim_end_matches('.')))
            }
            _ => match error.into_stage_error("ecr:BatchGetImage") {
                StageError::AccessDenied { message, .. } => self.denied(format!(
                    "{message}. Allow the roles of plan-build and the builder to pull from the repository. A \
                     repository in another account needs this in its own policy too. {IMPORT_ADVICE}"
                )),
                other => other,
            },
        })?;
        match (answer.images(), answer.failures()) {
            ([image, ..], _) => self.located(image),
            ([], [failure, ..]) => Err(self.failure(failure)),
            ([], []) => Err(self.not_found("ECR has no such image. Push it")),
        }
    }

    /// Returns the manifest with this digest.
    pub(crate) async fn manifest(&self, digest: &Digest) -> Result<Vec<u8>, StageError> {
        let located = self.locate(Version::Digest(digest)).await?;
        Ok(located.body.unwrap_or_default())
    }

    fn located(&self, image: &Image) -> Result<Located, StageError> {
        let id = image.image_id().and_then(ImageIdentifier::image_digest);
        let (Some(digest), Some(manifest)) = (id, image.image_manifest()) else {
            return Err(self.not_found("ECR lists it without a manifest. Push it again"));
        };
        // ECR gives no type for a manifest that was stored without one.
        let media_type = match image.image_manifest_media_type() {
            Some(media_type) => media_type.to_owned(),
            None => declared_type(manifest),
        };
        Ok(Located {
            digest: parse_digest(digest).map_err(|failure| failure.of(self.image))?,
            media_type,
            body: Some(manifest.as_bytes().to_vec()),
        })
    }

    fn failure(&self, failure: &ImageFailure) -> StageError {
        let reason = failure
            .failure_reason()
            .unwrap_or("ECR gives no reason")
            .to_owned();
        match failure.failure_code() {
            Some(ImageFailureCode::UpstreamAccessDenied) => {
                self.denied(format!("{reason}. {UPSTREAM_ADVICE}"))
            }
            Some(
                ImageFailureCode::UpstreamTooManyRequests | ImageFailureCode::UpstreamUnavailable,
            ) => Failure::Unavailable(format!("{reason}. The upstream registry did not answer"))
                .of(self.image),
            Some(ImageFailureCode::KmsError) => StageError::AwsFailed {
                call: "ecr:BatchGetImage",
                message: format!("{}: {reason}", self.image),
            },
            // ECR gives the same answer if the caller may not import a new tag of a repository that exists.
            Some(ImageFailureCode::ImageNotFound) => {
                self.not_found(format!("{}. {IMPORT_ADVICE}", reason.trim_end_matches('.')))
            }
            _ => self.not_found(reason),
        }
    }

    fn denied(&self, problem: String) -> StageError {
        Failure::Denied(problem).of(self.image)
    }

    fn not_found(&self, problem: impl Display) -> StageError {
        Failure::NotFound(problem.to_string()).of(self.image)
    }
}

/// Returns the type that a manifest declares itself.
fn declared_type(manifest: &str) -> String {
    let manifest: serde_json::Value = serde_json::from_str(manifest).unwrap_or_default();
    let declared = manifest.get("mediaType").and_then(|value| value.as_str());
    let by_content = if manifest.get("manifests").is_some() {
        "application/vnd.oci.image.index.v1+json"
    } else {
        "application/vnd.oci.image.manifest.v1+json"
    };
    declared.unwrap_or(by_content).to_owned()
}
