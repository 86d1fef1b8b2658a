//! The command line.

use crate::snapshots::Details;
use clap::{Parser, Subcommand, ValueEnum};
use prepull_domain::{Architecture, CacheName};

const AFTER_HELP: &str = "\
Region and credentials are found as every AWS tool finds them: AWS_REGION, AWS_PROFILE and so on.

Exit codes:
    0  done; for `build` and `follow`: published, up to date, or left to a newer build
    1  the build failed, or AWS did not do what was asked
    2  wrong usage: an unknown cache, a wrong configuration, no such state machine
  130  Ctrl-C: following stopped, the build goes on";

/// Keeps EBS snapshots with container images for Bottlerocket nodes up to date.
#[derive(Debug, Clone, Parser)]
#[command(name = "prepull", version, after_help = AFTER_HELP)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,

    /// How to print the result: text for people, or one JSON document and no progress.
    #[arg(long, global = true, value_enum, default_value_t)]
    pub output: Output,

    /// The `name` that prepull was deployed with.
    #[arg(
        long,
        global = true,
        env = "PREPULL_NAME",
        hide_env_values = true,
        default_value = "prepull"
    )]
    pub name: String,

    /// The state machine's ARN; without it, the one called `<name>-build` is looked for.
    #[arg(
        long,
        global = true,
        env = "PREPULL_STATE_MACHINE_ARN",
        hide_env_values = true,
        value_name = "ARN"
    )]
    pub state_machine: Option<String>,
}

/// What to do.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Start a build of a cache and follow it to its end. Ctrl-C stops following, not the build.
    Build {
        /// The cache, as it is called in Terraform's `caches`.
        cache: CacheName,
        /// Only start it.
        #[arg(long)]
        no_follow: bool,
    },
    /// Follow the newest build of a cache, whatever started it.
    Follow {
        /// The cache.
        cache: CacheName,
    },
    /// Show for each cache what is published, whether it is what is declared, and how the last build went.
    Status {
        /// Only this cache.
        cache: Option<CacheName>,
    },
    /// List the snapshots of a cache: what each holds and which is published.
    Snapshots {
        /// The cache.
        cache: CacheName,
        /// What to tell of each beyond its line.
        #[command(flatten)]
        details: Details,
    },
    /// Estimate what builds of a cache take and cost, and what it takes and costs nodes to load its snapshots.
    Estimate {
        /// The cache.
        cache: CacheName,
        /// For builders of this type too, beside those that the cache names.
        #[arg(long, value_name = "TYPE")]
        instance_type: Option<String>,
        /// Only for this architecture: `x86_64` or `arm64`.
        #[arg(long)]
        architecture: Option<Architecture>,
        /// How many nodes start each day in one availability zone.
        #[arg(long, value_name = "NUMBER")]
        nodes_per_day: Option<u32>,
    },
    /// Print the `EC2NodeClass` that has Karpenter start nodes from the published snapshot.
    Nodeclass {
        /// The cache.
        cache: CacheName,
        /// Only for this architecture: `x86_64` or `arm64`.
        #[arg(long)]
        architecture: Option<Architecture>,
    },
}

/// How a result is printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Text,
    /// One JSON document.
    Json,
}
