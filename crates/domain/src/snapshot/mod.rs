//! Snapshots: the content key, the manifest, and retention.

pub mod content_key;
pub mod manifest;
pub mod retention;
