//! The content key. Snapshots with equal keys hold the same images.

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::architecture::Architecture;
use crate::build::payload::Pinning;
use crate::cache::image::{Digest, ImageReference};
use crate::cache::variant::Variant;
use crate::ids::identifier;

/// Format of the volume's content. A higher number forces a rebuild of all snapshots that an older prepull built.
const FORMAT: u8 = 2;

identifier!(
    /// A hash of everything that determines a snapshot's content.
    ContentKey, "a content key", "64 lower-case hexadecimal digits", |s| {
        s.len() == 64 && s.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    }
);

impl ContentKey {
    /// Returns the key of a snapshot of `variant` and `architecture` that holds `images`: references with their digests.
    /// The digest of an index determines the manifest of the architecture, so a registry need not be asked for it.
    ///
    /// The order of the images does not matter. The Bottlerocket release does not matter either, because a snapshot
    /// serves all releases of its variant.
    ///
    /// # Panics
    /// Never. The hashed content always serializes to JSON.
    #[must_use]
    pub fn of<'a>(
        variant: &Variant,
        architecture: Architecture,
        pinning: Pinning,
        images: impl IntoIterator<Item = (&'a ImageReference, &'a Digest)>,
    ) -> Self {
        #[derive(Serialize)]
        struct Content<'a> {
            format: u8,
            variant: &'a Variant,
            architecture: Architecture,
            pinning: Pinning,
            images: Vec<(String, &'a str)>,
        }
        let mut images: Vec<_> = images
            .into_iter()
            .map(|(reference, digest)| (reference.to_string(), digest.as_str()))
            .collect();
        images.sort();
        let content = Content {
            format: FORMAT,
            variant,
            architecture,
            pinning,
            images,
        };
        let json = serde_json::to_vec(&content).expect("strings and numbers always serialize");
        Self(format!("{:x}", Sha256::digest(json)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    fn image(reference: &str, digit: char) -> (ImageReference, Digest) {
        let digest = format!("sha256:{}", digit.to_string().repeat(64));
        (reference.parse().unwrap(), digest.parse().unwrap())
    }

    fn key(
        variant: &str,
        architecture: Architecture,
        pinning: Pinning,
        images: &[(ImageReference, Digest)],
    ) -> ContentKey {
        let images = images.iter().map(|(reference, digest)| (reference, digest));
        ContentKey::of(&variant.parse().unwrap(), architecture, pinning, images)
    }

    #[test]
    fn content_key_ignores_only_the_order_of_images() {
        let (a, b) = (
            image("docker.io/library/a:1", 'a'),
            image("docker.io/library/b:1", 'b'),
        );
        let moved = image("docker.io/library/a:1", 'c');
        let base = key(
            "aws-k8s-1.33",
            Architecture::X86_64,
            Pinning::Unpinned,
            &[a.clone(), b.clone()],
        );
        assert_eq!(
            base,
            key(
                "aws-k8s-1.33",
                Architecture::X86_64,
                Pinning::Unpinned,
                &[b.clone(), a.clone()]
            )
        );
        let others = [
            key(
                "aws-k8s-1.34",
                Architecture::X86_64,
                Pinning::Unpinned,
                &[a.clone(), b.clone()],
            ),
            key(
                "aws-k8s-1.33",
                Architecture::Arm64,
                Pinning::Unpinned,
                &[a.clone(), b.clone()],
            ),
            key(
                "aws-k8s-1.33",
                Architecture::X86_64,
                Pinning::Pinned,
                &[a.clone(), b.clone()],
            ),
            key(
                "aws-k8s-1.33",
                Architecture::X86_64,
                Pinning::Unpinned,
                &[a],
            ),
            key(
                "aws-k8s-1.33",
                Architecture::X86_64,
                Pinning::Unpinned,
                &[moved, b],
            ),
        ];
        assert!(others.iter().all(|other| *other != base));
    }

    #[test]
    fn content_key_stays_the_same_across_releases() {
        let key = key(
            "aws-k8s-1.33",
            Architecture::X86_64,
            Pinning::Unpinned,
            &[image("docker.io/library/a:1", 'a')],
        );
        insta::assert_snapshot!(key);
    }
}
