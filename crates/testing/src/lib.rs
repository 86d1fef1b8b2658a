//! Helpers that the tests of all crates share: a fake AWS, and the cache `web` with its target and builder.

#[expect(clippy::missing_panics_doc, reason = "a panic fails the test")]
mod fake_aws;
mod fixtures;

pub use fake_aws::{FakeAws, execution_arn};
pub use fixtures::{
    STATE_MACHINE_ARN, builder, command_output, configuration, described, ec2_instance, execution,
    manifest, planned_at, ready_builder, target, target_tags,
};
