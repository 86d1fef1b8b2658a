//! The SSM documents that the stages run on a builder or a verifier.

use std::time::Duration;

use strum::{Display, VariantArray};

/// Maximum bytes of the parameters of a command.
///
/// Source: Systems Manager API reference, `CreateDocument`: a document has at most 64 KB, including its parameters at runtime.
/// A test checks that this leaves enough for each document.
pub const MAX_PARAMETER_BYTES: usize = 52_000;

/// Maximum bytes of the images' names in a command. The rest of [`MAX_PARAMETER_BYTES`] is room for the changes, of which
/// 200 pulls with their order need less than 6,000.
pub const MAX_NAMES_BYTES: usize = 46_000;

/// Value of the parameter `Changes` of the document `pull-images` without changes.
pub const NO_CHANGES: &str = "none";

/// Returns the parameters of the document `pull-images`.
///
/// `images` are the requests of [`crate::ImageReference::status_request`], separated by spaces. `changes` refer to their
/// positions.
#[must_use]
pub fn pull_images_parameters(
    images: String,
    changes: &str,
    wait: Duration,
) -> [(&'static str, String); 3] {
    [
        ("Images", images),
        ("Changes", changes.to_owned()),
        ("WaitSeconds", wait.as_secs().to_string()),
    ]
}

/// An SSM document. Terraform creates one from each file in `infra/documents`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Display, VariantArray)]
#[strum(serialize_all = "kebab-case")]
pub enum Document {
    /// Waits until the builder is ready.
    AwaitReady,
    /// Starts pulls and waits for them, removes images, sets labels, and prints the state of images and data volume.
    PullImages,
    /// Takes the fingerprint of the unpacked trees.
    Fingerprint,
    /// Scrubs the data volume and powers the builder off.
    PowerOff,
    /// Checks the content of a data volume that a snapshot was restored to.
    Verify,
}

impl Document {
    /// All documents.
    pub const ALL: &[Self] = Self::VARIANTS;

    /// Returns the document's name in an installation whose resources start with `prefix`.
    #[must_use]
    pub fn name(self, prefix: &str) -> String {
        format!("{prefix}-{self}")
    }
}
