//! The SSM documents that the stages run on a builder or a verifier.

use strum::{Display, VariantArray};

/// Maximum bytes of the parameters of a command.
///
/// Source: Systems Manager API reference, `CreateDocument`: a document has at most 64 KB, including its parameters at runtime.
/// A test checks that this leaves enough for each document.
pub const MAX_PARAMETER_BYTES: usize = 52_000;

/// An SSM document. Terraform creates one from each file in `infra/documents`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Display, VariantArray)]
#[strum(serialize_all = "kebab-case")]
pub enum Document {
    /// Waits until the builder is ready.
    AwaitReady,
    /// Starts pulls, removes images, and sets labels.
    PullImages,
    /// Prints the state of the images and the data volume.
    ImageStatus,
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
