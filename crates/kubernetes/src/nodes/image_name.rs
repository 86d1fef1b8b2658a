//! Names of images on a node.

use std::fmt;
use std::str::FromStr;

use oci_spec::distribution::Reference;
use prepull_domain::ids::InvalidId;
use prepull_domain::{Digest, ImageReference};
use serde::Serialize;

/// The full name of an image, as containerd looks it up.
///
/// It has a registry, and either a tag or a digest. containerd drops the tag of a name that has both.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct ImageName(String);

impl ImageName {
    /// Returns the name that a pod with `reference` looks up.
    #[must_use]
    pub fn of(reference: &ImageReference) -> Self {
        Self::new(
            reference.registry(),
            reference.repository(),
            reference.tag(),
            reference.digest().map(Digest::as_str),
        )
    }

    fn new(registry: &str, repository: &str, tag: Option<&str>, digest: Option<&str>) -> Self {
        Self(match digest {
            Some(digest) => format!("{registry}/{repository}@{digest}"),
            None => format!("{registry}/{repository}:{}", tag.unwrap_or("latest")),
        })
    }

    /// Returns the name as a string.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the last part of the repository: `nginx` of `docker.io/library/nginx:1.27`.
    pub(super) fn short_name(&self) -> &str {
        let last = self.0.rsplit('/').next().unwrap_or_default();
        last.split(['@', ':']).next().unwrap_or_default()
    }
}

impl FromStr for ImageName {
    type Err = InvalidId;

    /// Parses the image of a pod: `nginx` is `docker.io/library/nginx:latest`.
    fn from_str(given: &str) -> Result<Self, InvalidId> {
        let parsed: Reference = given.parse().map_err(|_| InvalidId {
            given: given.to_owned(),
            kind: "an image name",
            expected: "`repository:tag` or `repository@sha256:…`",
        })?;
        Ok(Self::new(
            parsed.registry(),
            parsed.repository(),
            parsed.tag(),
            parsed.digest(),
        ))
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
