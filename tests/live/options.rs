//! The options of the suite.

use std::path::PathBuf;

use clap::Parser;
use clap::builder::ArgPredicate;
use prepull_domain::{Architecture, RegionName};

const AFTER_HELP: &str = "\
The credentials come from the environment, as for every AWS tool.
Without --account, the suite prints its plan and its price and ends.

Examples:
  cargo xtask live --local
  cargo xtask live --account 123456789012 --region eu-west-1
  cargo xtask live --account 123456789012 --region eu-west-1 --destroy";

/// Deploy prepull to an account, build, refresh, fail, start nodes from
/// the snapshot, answer open questions, and destroy everything.
#[derive(Debug, Clone, Parser)]
#[command(name = "cargo xtask live", after_help = AFTER_HELP)]
pub struct Options {
    /// Run in this account, and consent to its cost.
    #[arg(long, value_name = "ID")]
    pub account: Option<String>,
    /// Run in this Region.
    #[arg(
        long,
        env = "AWS_REGION",
        hide_env_values = true,
        required = false,
        required_unless_present = "local",
        default_value_if("local", ArgPredicate::IsPresent, prepull_tests::world::REGION)
    )]
    pub region: RegionName,
    /// Start a local cloud and run against it.
    #[arg(long, conflicts_with_all = ["account", "destroy"])]
    pub local: bool,
    /// Only remove the resources of an interrupted run.
    #[arg(long)]
    pub destroy: bool,
    /// Cache these images.
    #[arg(
        long = "image",
        value_name = "REFERENCE",
        default_value = "public.ecr.aws/docker/library/nginx:1.29"
    )]
    pub images: Vec<String>,
    /// Add this image for the refresh.
    #[arg(
        long,
        value_name = "REFERENCE",
        default_value = "public.ecr.aws/docker/library/redis:8.2"
    )]
    pub added_image: String,
    /// Build for this architecture, `x86_64` or `arm64`.
    #[arg(long, default_value_t = Architecture::X86_64)]
    pub architecture: Architecture,
    /// Build with this variant of Bottlerocket.
    #[arg(long, default_value = "aws-k8s-1.33")]
    pub variant: String,
    /// Also start a node of this variant.
    #[arg(long = "node-variant", value_name = "VARIANT")]
    pub node_variants: Vec<String>,
    /// Encrypt volumes and snapshots with this KMS key.
    #[arg(long, value_name = "ARN")]
    pub kms_key_id: Option<String>,
    /// Deploy the functions' zips from this folder.
    #[arg(
        long,
        value_name = "FOLDER",
        default_value = "target/lambda",
        overrides_with = "functions"
    )]
    pub functions: PathBuf,
    /// Deploy functions of this architecture.
    #[arg(long, default_value_t = Architecture::Arm64)]
    pub function_architecture: Architecture,
    /// Write the answer sheet and Terraform's state to this folder.
    #[arg(
        long,
        value_name = "FOLDER",
        default_value = "target/live",
        overrides_with = "output"
    )]
    pub output: PathBuf,
}
