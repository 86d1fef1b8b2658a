//! Builders and verifiers: their launch, their boot, and the verification of a snapshot on a verifier.
//!
//! launch-builder, wait-for-ssm and verify-snapshot share this code, because stages do not depend on each other.

mod launch;
pub mod readiness;
mod request;
pub mod user_data;
pub mod verification;

pub use launch::{Machine, Role, alive, ensure};
