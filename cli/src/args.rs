//! The command line.

use crate::snapshots::Details;
use clap::{Parser, Subcommand, ValueEnum};
use prepull_domain::{Architecture, CacheName};

const AFTER_HELP: &str = "\
The region and the credentials come from the environment, as for
every AWS tool: AWS_REGION, AWS_PROFILE and so on.

Examples:
  prepull doctor
  prepull build web
  prepull status
  prepull snapshots web --images

Exit codes:
    0  success; `build` and `follow` also if the build is superseded
    1  failed build, failed AWS call, or no published snapshot
    2  usage error: unknown cache, invalid configuration or
       unknown state machine
    3  `doctor` found a problem; also before a first build
    4  `doctor` found no problem, but a check got no answer
  130  Ctrl-C: the command ends, the build continues";

const BUILD_HELP: &str = "\
Examples:
  prepull build web
  prepull build web --no-follow
  prepull build web --output json";

const ESTIMATE_HELP: &str = "\
Examples:
  prepull estimate web
  prepull estimate web --instance-type m7i.4xlarge
  prepull estimate web --architecture arm64 --nodes-per-day 200";

const DOCTOR_HELP: &str = "\
It changes nothing. A check without the permission for its calls
reports the missing permission, and the others continue.

Examples:
  prepull doctor
  prepull doctor web
  prepull doctor web --output json";

const NODECLASS_HELP: &str = "\
Examples:
  prepull nodeclass web > nodeclass.yaml
  prepull nodeclass web --architecture arm64 --output json";

/// Keep EBS snapshots with container images for Bottlerocket up to date.
#[derive(Debug, Clone, Parser)]
#[command(name = "prepull", version, after_help = AFTER_HELP)]
pub struct Args {
    /// The command.
    #[command(subcommand)]
    pub command: Command,

    /// Print the result in this format.
    #[arg(long, global = true, value_enum, default_value_t)]
    pub output: Output,

    /// Use the deployment with this `name` in Terraform.
    #[arg(
        long,
        global = true,
        env = "PREPULL_NAME",
        hide_env_values = true,
        default_value = "prepull"
    )]
    pub name: String,

    /// Use this state machine instead of `<name>-build`.
    #[arg(
        long,
        global = true,
        env = "PREPULL_STATE_MACHINE_ARN",
        hide_env_values = true,
        value_name = "ARN"
    )]
    pub state_machine: Option<String>,
}

/// The commands.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Check the account and the deployment before a build does.
    #[command(after_help = DOCTOR_HELP)]
    Doctor {
        /// Check only this cache and the deployment.
        cache: Option<CacheName>,
    },
    /// Start a build of a cache and follow it to its end.
    ///
    /// Before the first build of a cache, it runs `doctor`.
    ///
    /// Ctrl-C ends the command. The build continues.
    #[command(after_help = BUILD_HELP)]
    Build {
        /// Build this cache from Terraform's `caches`.
        cache: CacheName,
        /// Start the build without following it.
        #[arg(long)]
        no_follow: bool,
        /// Start the first build without the checks of `doctor`.
        #[arg(long)]
        no_doctor: bool,
    },
    /// Follow the newest build of a cache to its end.
    ///
    /// Ctrl-C ends the command. The build continues.
    Follow {
        /// Follow the newest build of this cache.
        cache: CacheName,
    },
    /// Show the published snapshots and the last build.
    Status {
        /// Show only this cache.
        cache: Option<CacheName>,
    },
    /// List the snapshots of a cache with their content.
    Snapshots {
        /// List the snapshots of this cache.
        cache: CacheName,
        /// The details.
        #[command(flatten)]
        details: Details,
    },
    /// Estimate the time and cost of builds and of loading nodes.
    #[command(after_help = ESTIMATE_HELP)]
    Estimate {
        /// Estimate this cache.
        cache: CacheName,
        /// Estimate builders of this type too.
        #[arg(long, value_name = "TYPE")]
        instance_type: Option<String>,
        /// Estimate only `x86_64` or `arm64`.
        #[arg(long)]
        architecture: Option<Architecture>,
        /// Assume this many node starts per day and zone.
        #[arg(long, value_name = "NUMBER")]
        nodes_per_day: Option<u32>,
    },
    /// Print an `EC2NodeClass` with the published snapshot.
    #[command(after_help = NODECLASS_HELP)]
    Nodeclass {
        /// Use the published snapshot of this cache.
        cache: CacheName,
        /// Print only `x86_64` or `arm64`.
        #[arg(long)]
        architecture: Option<Architecture>,
    },
}

/// The format of a result.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Text for people, with progress.
    #[default]
    Text,
    /// One JSON document, without progress.
    Json,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn help_lines_have_at_most_70_characters() {
        let mut prepull = Args::command();
        let mut texts = vec![prepull.render_long_help().to_string()];
        for command in prepull.get_subcommands_mut() {
            texts.push(command.render_long_help().to_string());
        }
        for line in texts.iter().flat_map(|text| text.lines()) {
            assert!(line.chars().count() <= 70, "{line}");
        }
    }
}
