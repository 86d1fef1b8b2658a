//! The AWS side that the functions and the CLI share.
//!
//! The SDK's crates are re-exported here and named nowhere else: they are most of the build, and one place that depends
//! on them keeps them from being built twice.

pub mod builder;
mod clients;
mod credentials;
mod error;
mod events;
mod lambda;
pub mod parameters;
pub mod resolve;
pub mod run_command;
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
pub use credentials::{RegistryCredentials, read_credentials};
pub use error::{AwsError, StageResult};
pub use events::emit as emit_event;
pub use lambda::{required_variable, run};
pub use tags::{tag, tag_filter, tag_specification, tag_value};
pub use wait::{Deadline, timestamp};
