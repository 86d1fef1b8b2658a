//! Nodes: the SSM documents that run on a builder or a verifier, and their output.

mod disk;
mod document;
mod fingerprint;
mod image_status;
mod output;
mod ready_node;
mod verification;

pub use disk::{Disk, FILL_LIMIT};
pub use document::{
    Document, MAX_NAMES_BYTES, MAX_PARAMETER_BYTES, NO_CHANGES, pull_images_parameters,
};
pub use fingerprint::{FingerprintOutput, Progress, Trees, TreesDigest};
pub use image_status::{ImageName, ImageStatus, NameRecord, PullAttempt, PullState, Usable};
pub use output::MalformedOutput;
pub use ready_node::ReadyNode;
pub use verification::{
    BlobProblem, Defect, Mount, Start, TreeProblem, Verification, VerificationOutput, Verified,
};
