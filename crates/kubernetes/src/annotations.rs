//! Annotations on an EC2NodeClass.
//!
//! [`CACHE`] and [`ARCHITECTURE`] opt in. Karpenter's drift detection hashes only the spec
//! (`EC2NodeClass.Hash` in `pkg/apis/v1/ec2nodeclass.go` of aws/karpenter-provider-aws), so annotations cause no drift.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use prepull_domain::{Architecture, CacheName, Pointer, PublishedSnapshot};
use serde::Serialize;

/// Prefix of all annotations.
const PREFIX: &str = "prepull/";

/// Annotation with the cache. Required.
pub const CACHE: &str = "prepull/cache";
/// Annotation with the architecture, `x86_64` or `arm64`. Required, because a node class does not have one.
pub const ARCHITECTURE: &str = "prepull/architecture";
/// Annotation with the channel, `stable` or `candidate`. The default is `stable`.
pub const CHANNEL: &str = "prepull/channel";
/// Annotation with the ring, a free text. A sync of one ring ignores all other classes.
pub const RING: &str = "prepull/ring";
/// Annotation with the time of the last sync that changed the class. Written by prepull.
pub const SYNCED_AT: &str = "prepull/synced-at";
/// Annotation with the snapshot of the last sync that changed the class. Written by prepull. There is none for the
/// snapshot before, because the pointer has it.
pub const SYNCED_SNAPSHOT: &str = "prepull/synced-snapshot";
/// Annotation with the snapshot of the last sync that was reverted, because Karpenter did not accept it. Written by
/// prepull, and removed by the next successful sync. Later syncs do not try the snapshot again.
pub const REVERTED_SNAPSHOT: &str = "prepull/reverted-snapshot";

/// Annotations that prepull writes. They do not opt in, because they stay after an opt-out.
const WRITTEN: [&str; 3] = [SYNCED_AT, SYNCED_SNAPSHOT, REVERTED_SNAPSHOT];

/// Annotations that a person writes.
pub(crate) const GIVEN: [&str; 4] = [CACHE, ARCHITECTURE, CHANNEL, RING];

/// Maximum characters of a ring.
const MAX_RING: usize = 63;

/// The snapshot of a pointer that a class follows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Channel {
    /// The stable snapshot.
    #[default]
    Stable,
    /// The candidate, or the stable snapshot without a candidate.
    Candidate,
}

impl FromStr for Channel {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "stable" => Ok(Self::Stable),
            "candidate" => Ok(Self::Candidate),
            _ => Err(()),
        }
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stable => "stable",
            Self::Candidate => "candidate",
        })
    }
}

/// A ring of node classes, for example `canary` or `production`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Ring(String);

/// A text that cannot be a ring.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{given}` is not a ring: expected 1 to {MAX_RING} printable characters without spaces at the ends"
)]
pub struct InvalidRing {
    given: String,
}

impl FromStr for Ring {
    type Err = InvalidRing;

    fn from_str(text: &str) -> Result<Self, InvalidRing> {
        let fits = !text.is_empty()
            && text.trim() == text
            && text.chars().count() <= MAX_RING
            && !text.chars().any(char::is_control);
        if fits {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidRing {
                given: text.to_owned(),
            })
        }
    }
}

impl fmt::Display for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The annotations of a class that opted in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OptIn {
    /// The cache.
    pub cache: CacheName,
    /// The architecture of its nodes.
    pub architecture: Architecture,
    /// The snapshot that the class follows.
    pub channel: Channel,
    /// The ring.
    pub ring: Option<Ring>,
}

/// The channel of an opt-in has no snapshot in the Region.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unpublished {
    /// The cache has no pointer for the architecture.
    #[error(
        "cache `{cache}` has published nothing for {architecture} in this Region. Correct `{CACHE}` and `{ARCHITECTURE}`, or \
         build the cache with `prepull build {cache}`"
    )]
    NoPointer {
        /// The cache.
        cache: CacheName,
        /// The architecture.
        architecture: Architecture,
    },
    /// The pointer has no snapshot for the channel.
    #[error(
        "cache `{cache}` has no {channel} snapshot for {architecture} in this Region. Promote one with `prepull promote \
         {cache}`, or add the Region to `copy_to_regions` of the cache"
    )]
    NoSnapshot {
        /// The cache.
        cache: CacheName,
        /// The architecture.
        architecture: Architecture,
        /// The channel.
        channel: Channel,
    },
}

/// An annotation that prevents a sync of its class.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum InvalidAnnotation {
    /// One of the two required annotations is absent.
    #[error(
        "the annotation `{missing}` is missing beside `{present}`. Add it, or remove `{present}`"
    )]
    Missing {
        /// The absent annotation.
        missing: &'static str,
        /// The present annotation.
        present: String,
    },
    /// A value does not have the format.
    #[error("the annotation `{name}` has the invalid value `{value}`. Write {expected}")]
    Value {
        /// The annotation.
        name: &'static str,
        /// Its value.
        value: String,
        /// The expected value.
        expected: String,
    },
    /// prepull does not know the annotation. It may be misspelled.
    #[error(
        "the annotation `{name}` is unknown. Correct its name to one of: {}",
        GIVEN.join(", ")
    )]
    Unknown {
        /// The annotation.
        name: String,
    },
}

impl OptIn {
    /// Parses the annotations of a class. `None` if it has none of prepull's.
    ///
    /// # Errors
    /// The first [`InvalidAnnotation`].
    pub fn parse(
        annotations: &BTreeMap<String, String>,
    ) -> Result<Option<Self>, InvalidAnnotation> {
        let get = |name: &str| annotations.get(name).map(String::as_str);
        let mut own = annotations
            .keys()
            .filter(|name| name.starts_with(PREFIX) && !WRITTEN.contains(&name.as_str()));
        let Some(present) = own.clone().next() else {
            return Ok(None);
        };
        if let Some(name) = own.find(|name| !GIVEN.contains(&name.as_str())) {
            return Err(InvalidAnnotation::Unknown { name: name.clone() });
        }
        let required = |missing: &'static str| {
            get(missing).ok_or_else(|| InvalidAnnotation::Missing {
                missing,
                present: present.clone(),
            })
        };
        let (cache, architecture) = match (get(CACHE), get(ARCHITECTURE)) {
            (Some(cache), Some(architecture)) => (cache, architecture),
            // Report the annotation that is absent, beside one that is present.
            (Some(_), None) => return Err(missing_beside(ARCHITECTURE, CACHE)),
            (None, Some(_)) => return Err(missing_beside(CACHE, ARCHITECTURE)),
            (None, None) => (required(CACHE)?, required(ARCHITECTURE)?),
        };
        Ok(Some(Self {
            cache: value(CACHE, cache, "the name of a cache")?,
            architecture: value(ARCHITECTURE, architecture, "`x86_64` or `arm64`")?,
            channel: get(CHANNEL)
                .map(|text| value(CHANNEL, text, "`stable` or `candidate`"))
                .transpose()?
                .unwrap_or_default(),
            ring: ring(annotations)?,
        }))
    }
}

impl OptIn {
    /// Returns the snapshot of the channel. `pointer` is the pointer of the cache and the architecture in the Region, or `None`
    /// if there is none.
    ///
    /// # Errors
    /// [`Unpublished`] if the channel has no snapshot.
    pub fn snapshot<'a>(
        &self,
        pointer: Option<&'a Pointer>,
    ) -> Result<&'a PublishedSnapshot, Unpublished> {
        let (cache, architecture) = (self.cache.clone(), self.architecture);
        let Some(pointer) = pointer else {
            return Err(Unpublished::NoPointer {
                cache,
                architecture,
            });
        };
        let snapshot = match self.channel {
            Channel::Stable => pointer.stable.as_ref(),
            Channel::Candidate => pointer.canary(),
        };
        snapshot.ok_or(Unpublished::NoSnapshot {
            cache,
            architecture,
            channel: self.channel,
        })
    }
}

/// Returns whether a run for `ring`, or for all rings, includes a class with these annotations. A run for one ring does not
/// report problems of the others.
#[must_use]
pub fn is_in_ring(annotations: &BTreeMap<String, String>, ring: Option<&Ring>) -> bool {
    ring.is_none_or(|wanted| annotations.get(RING) == Some(&wanted.0))
}

/// Parses the annotation [`RING`].
///
/// # Errors
/// If its value is not a ring.
fn ring(annotations: &BTreeMap<String, String>) -> Result<Option<Ring>, InvalidAnnotation> {
    let expected = format!("1 to {MAX_RING} printable characters");
    annotations
        .get(RING)
        .map(|text| value(RING, text, &expected))
        .transpose()
}

fn missing_beside(missing: &'static str, present: &str) -> InvalidAnnotation {
    InvalidAnnotation::Missing {
        missing,
        present: present.to_owned(),
    }
}

fn value<T: FromStr>(
    name: &'static str,
    text: &str,
    expected: &str,
) -> Result<T, InvalidAnnotation> {
    text.parse().map_err(|_| InvalidAnnotation::Value {
        name,
        value: text.to_owned(),
        expected: expected.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(annotations: &[(&str, &str)]) -> Result<Option<OptIn>, String> {
        let annotations = annotations
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        OptIn::parse(&annotations).map_err(|error| error.to_string())
    }

    #[test]
    fn two_annotations_opt_in_with_the_stable_channel() {
        let opt_in = parse(&[(CACHE, "web"), (ARCHITECTURE, "arm64")])
            .expect("both are valid")
            .expect("both are present");
        assert_eq!(opt_in.cache.as_str(), "web");
        assert_eq!(opt_in.architecture, Architecture::Arm64);
        assert_eq!(opt_in.channel, Channel::Stable);
        assert_eq!(opt_in.ring, None);
    }

    #[test]
    fn optional_annotations_are_parsed() {
        let opt_in = parse(&[
            (CACHE, "web"),
            (ARCHITECTURE, "x86_64"),
            (CHANNEL, "candidate"),
            (RING, "canary 1"),
        ])
        .expect("all are valid")
        .expect("both are present");
        assert_eq!(opt_in.channel, Channel::Candidate);
        assert_eq!(opt_in.ring, Some("canary 1".parse().unwrap()));
    }

    #[test]
    fn class_without_own_annotations_does_not_opt_in() {
        assert_eq!(parse(&[("team", "web")]), Ok(None));
        // Left over after an opt-out.
        assert_eq!(
            parse(&[
                (SYNCED_AT, "2026-01-01T00:00:00Z"),
                (SYNCED_SNAPSHOT, "snap-12345678"),
                (REVERTED_SNAPSHOT, "snap-87654321"),
            ]),
            Ok(None)
        );
    }

    #[test]
    fn invalid_annotation_error_has_the_remedy() {
        let both = [(CACHE, "web"), (ARCHITECTURE, "x86_64")];
        for (annotations, expected) in [
            (
                vec![(CACHE, "web")],
                "the annotation `prepull/architecture` is missing beside `prepull/cache`. Add it, or remove `prepull/cache`",
            ),
            (
                vec![(ARCHITECTURE, "arm64")],
                "the annotation `prepull/cache` is missing beside `prepull/architecture`. Add it, or remove \
                 `prepull/architecture`",
            ),
            (
                vec![(RING, "a")],
                "the annotation `prepull/cache` is missing beside `prepull/ring`. Add it, or remove `prepull/ring`",
            ),
            (
                vec![(CACHE, "Web!"), (ARCHITECTURE, "x86_64")],
                "the annotation `prepull/cache` has the invalid value `Web!`. Write the name of a cache",
            ),
            (
                vec![(CACHE, "web"), (ARCHITECTURE, "amd64")],
                "the annotation `prepull/architecture` has the invalid value `amd64`. Write `x86_64` or `arm64`",
            ),
            (
                [&both[..], &[(CHANNEL, "beta")]].concat(),
                "the annotation `prepull/channel` has the invalid value `beta`. Write `stable` or `candidate`",
            ),
            (
                [&both[..], &[(RING, "")]].concat(),
                "the annotation `prepull/ring` has the invalid value ``. Write 1 to 63 printable characters",
            ),
            (
                [&both[..], &[("prepull/chanel", "stable")]].concat(),
                "the annotation `prepull/chanel` is unknown. Correct its name to one of: prepull/cache, \
                 prepull/architecture, prepull/channel, prepull/ring",
            ),
        ] {
            assert_eq!(parse(&annotations), Err(expected.to_owned()));
        }
    }
}
