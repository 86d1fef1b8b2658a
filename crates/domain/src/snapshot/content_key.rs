//! The content key. Snapshots with equal keys hold the same images.

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::architecture::Architecture;
use crate::build::payload::{Pinning, PlannedImage};
use crate::cache::variant::Variant;
use crate::ids::identifier;

/// Format of the volume's content. A higher number forces a rebuild of all snapshots that an older prepull built.
const FORMAT: u8 = 1;

identifier!(
    /// A hash of everything that determines a snapshot's content.
    ContentKey, "a content key", "64 lower-case hexadecimal digits", |s| {
        s.len() == 64 && s.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    }
);

impl ContentKey {
    /// Returns the key of a snapshot of `variant` and `architecture` that holds `images`.
    ///
    /// The order of the images does not matter. The Bottlerocket release does not matter either, because a snapshot
    /// serves all releases of its variant.
    ///
    /// # Panics
    /// Never. The hashed content always serializes to JSON.
    #[must_use]
    pub fn of(
        variant: &Variant,
        architecture: Architecture,
        pinning: Pinning,
        images: &[PlannedImage],
    ) -> Self {
        #[derive(Serialize)]
        struct Content<'a> {
            format: u8,
            variant: &'a Variant,
            architecture: Architecture,
            pinning: Pinning,
            images: Vec<(String, &'a str, &'a str)>,
        }
        let mut images: Vec<_> = images
            .iter()
            .map(|image| {
                (
                    image.reference.to_string(),
                    image.digest.as_str(),
                    image.platform_digest.as_str(),
                )
            })
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
    use crate::size::Bytes;

    fn image(reference: &str, digit: char) -> PlannedImage {
        let digest: crate::Digest = format!("sha256:{}", digit.to_string().repeat(64))
            .parse()
            .unwrap();
        PlannedImage {
            reference: reference.parse().unwrap(),
            platform_digest: digest.clone(),
            digest,
            size: Bytes(1),
            after: None,
        }
    }

    fn key(
        variant: &str,
        architecture: Architecture,
        pinning: Pinning,
        images: &[PlannedImage],
    ) -> ContentKey {
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
