//! Shared code of the demo, the end-to-end tests and the benchmarks: a local cloud, the deployed module, images for the
//! registries, and helpers that act as a user would. [`benchmark`] turns measurements into reports.

pub mod benchmark;
pub mod cluster;
pub mod deployment;
pub mod environment;
pub mod images;
pub mod invariants;
pub mod localcloud;
pub mod suite;
pub mod world;

pub use deployment::Deployment;
pub use environment::Environment;
pub use images::{Image, Layer};
pub use localcloud::LocalCloud;
pub use world::World;
