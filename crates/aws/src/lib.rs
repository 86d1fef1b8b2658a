//! AWS calls that the functions and the CLI share.
//!
//! This crate depends on the SDK's crates and re-exports them. They take most of the build time, and one dependent crate
//! ensures that they compile once. Only `prepull doctor` has clients of more services.

pub mod ami;
mod clients;
mod error;
mod events;
pub mod instances;
mod lambda;
pub mod parameters;
pub mod pointers;
pub mod run_command;
pub mod snapshots;
mod tags;
mod wait;

pub use aws_sdk_ec2 as ec2;
pub use aws_sdk_ecr as ecr;
pub use aws_sdk_eventbridge as eventbridge;
pub use aws_sdk_secretsmanager as secretsmanager;
pub use aws_sdk_sfn as sfn;
pub use aws_sdk_ssm as ssm;
pub use aws_smithy_runtime_api as smithy;
pub use aws_smithy_types::DateTime;

pub use clients::{Clients, SDK_ATTEMPTS};
pub use error::{AwsError, StageResult};
pub use events::{emit as emit_event, emit_all as emit_events};
pub use lambda::{required_variable, run};
pub use tags::{
    MAX_FILTER_VALUES, tag, tag_filter, tag_key_filter, tag_specification, tag_value,
    target_filters,
};
pub use wait::{Deadline, Pace, timestamp};
