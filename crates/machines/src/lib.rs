//! Builders and verifiers: their launch, their boot, and the verification of a snapshot on a verifier.
//!
//! launch-builder, wait-for-ssm, verify-snapshot and `prepull verify` share this code, because stages do not depend on each
//! other.

pub mod documents;
mod launch;
pub mod readiness;
mod request;
pub mod user_data;
pub mod verification;

pub use documents::Documents;
pub use launch::{InstanceProfile, Machine, Role, alive, ensure};
