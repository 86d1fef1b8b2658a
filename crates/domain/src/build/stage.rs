//! The stages of a build.
//!
//! A stage has one name. Its folder in `functions/`, its function, its role, its log group and its state in the state
//! machine are called by it. `tests/names.rs` checks that they are.

use serde::{Deserialize, Serialize};
use strum::{Display, EnumString, IntoStaticStr, VariantArray};

/// One stage, with the name of its function.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    Serialize,
    Deserialize,
    Display,
    EnumString,
    IntoStaticStr,
    VariantArray,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Stage {
    /// Turns triggers into executions.
    StartBuild,
    /// Resolves digests and decides what to build.
    PlanBuild,
    /// Launches the builder.
    LaunchBuilder,
    /// Waits until the builder accepts commands.
    WaitForSsm,
    /// Pulls and verifies the images.
    PullImages,
    /// Scrubs and powers off the builder, and snapshots its data volume.
    CreateSnapshot,
    /// Boots a verifier from the snapshot and checks its content.
    VerifySnapshot,
    /// Makes nodes use the snapshot.
    PublishSnapshot,
    /// Removes the builder and every orphan.
    CleanUp,
}

impl Stage {
    /// All stages, in the order of a build.
    pub const ALL: &[Self] = Self::VARIANTS;

    /// The stages that the state machine runs for each target, in order.
    pub const OF_TARGET: [Self; 7] = [
        Self::LaunchBuilder,
        Self::WaitForSsm,
        Self::PullImages,
        Self::CreateSnapshot,
        Self::VerifySnapshot,
        Self::PublishSnapshot,
        Self::CleanUp,
    ];

    /// Returns the name of the stage.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stage_name_parses_back_to_the_stage() {
        for stage in Stage::ALL {
            assert_eq!(stage.as_str().parse(), Ok(*stage));
            assert_eq!(serde_json::to_value(stage).unwrap(), stage.as_str());
        }
    }
}
