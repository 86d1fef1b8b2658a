//! Snapshots: the content key, the manifest, the pointer with its decisions, and retention.

pub mod content_key;
pub mod decisions;
pub mod manifest;
pub mod pointer;
pub mod retention;
