//! What the demonstration, the end-to-end tests and the benchmarks share: a local cloud, the module deployed to it, images
//! to put into its registries, and helpers that act and look as a user would. [`benchmark`] is what is made of measurements.

pub mod benchmark;
pub mod deployment;
pub mod environment;
pub mod images;
pub mod localcloud;
pub mod world;

pub use deployment::Deployment;
pub use environment::Environment;
pub use images::{Image, Layer};
pub use localcloud::LocalCloud;
pub use world::World;
