//! Builds: triggers, executions, stages, and the payloads and errors of stages.

pub mod error;
pub mod execution;
pub mod failure;
pub mod payload;
pub mod pull_progress;
pub mod queue;
pub mod stage;
pub mod trigger;
