//! Caches: images, Bottlerocket variants, and the configuration of a cache.

pub mod builder_settings;
pub mod config;
pub mod image;
pub mod variant;
pub mod verification;
