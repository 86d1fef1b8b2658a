//! The command line.

use crate::check::CheckArgs;
use crate::launch_templates::LaunchTemplatesArgs;
use crate::nodeclass::NodeclassArgs;
use crate::nodes::NodesArgs;
use crate::snapshots::Details;
use crate::sync::SyncArgs;
use crate::verify::VerifyArgs;
use clap::{Parser, Subcommand, ValueEnum};
use prepull_domain::{Architecture, CacheName, Reason, SnapshotId};

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
    1  failed build, failed AWS call, refused decision, or no
       published snapshot
    2  usage error: unknown cache, invalid configuration or
       unknown state machine
    3  `doctor` found a problem; also before a first build
       `check` found an error
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

const PROMOTE_HELP: &str = "\
Examples:
  prepull promote web
  prepull promote web --snapshot snap-0123456789abcdef0";

const ROLLBACK_HELP: &str = "\
It rejects the stable snapshot, returns to the previous one in all
Regions that have a copy of it, and pins it. Builds go on, and
`prepull unpin` ends the pin. A repeated command changes nothing.

Examples:
  prepull rollback web --reason 'image api is missing'
  prepull rollback web --reason 'slow start' --architecture arm64";

const PIN_HELP: &str = "\
Builds go on and publish candidates. `prepull unpin` ends the pin.

Examples:
  prepull pin web --reason 'change freeze until Monday'";

const REJECT_HELP: &str = "\
A rejected snapshot is never a base and never promoted. Retention
deletes it later. For the stable snapshot, use `rollback`.

Examples:
  prepull reject web snap-0123456789abcdef0 --reason 'old CA bundle'";

const VERIFY_HELP: &str = "\
It launches an instance, runs the check of verify-snapshot on it, and
terminates it. It changes no snapshot, except with --reject. Cache,
architecture and images come from the tags and the manifest of the
snapshot. In another account, give the file that `prepull snapshots
web --output json` prints at home, and the network.

Examples:
  prepull verify snap-0123456789abcdef0
  prepull verify snap-0123456789abcdef0 --level full --reject
  prepull verify snap-0123456789abcdef0 --cache web \\
    --architecture x86_64 --manifest snapshots.json \\
    --subnet subnet-0123456789abcdef0 --instance-profile verifier

Exit codes:
    0  the snapshot has no defect
    1  failed call to AWS, or no verifier became ready
    2  usage error
    3  the snapshot has a defect
  130  Ctrl-C: the instance was terminated";

const NODECLASS_HELP: &str = "\
Examples:
  prepull nodeclass web > nodeclass.yaml
  prepull nodeclass web --node-pool --fallback --headroom 50
  prepull nodeclass web --architecture arm64 --output json";

const SYNC_HELP: &str = "\
It needs Karpenter, and credentials for the cluster and for AWS. It
changes only node classes with the annotations `prepull/cache` and
`prepull/architecture`. If Karpenter does not accept a change, it
reverts the change, unless the change was a roll-back.

Examples:
  prepull sync
  prepull sync --apply
  prepull sync --apply --ring production --delay 24h

Exit codes:
    0  every node class has its snapshot and is ready, waits for the
       delay, would change, or is being deleted
    1  a node class was left alone, reverted, not ready or not
       registered, the ring has none, or a call failed
    2  usage error";

const LAUNCH_TEMPLATES_HELP: &str = "\
It changes only launch templates with the tags `prepull/cache` and
`prepull/architecture`. A new version with the snapshot becomes the
default version. The tag `prepull/channel` selects candidates. A later
run deletes old versions of its own that nothing uses, and never one
that a person created.

Examples:
  prepull templates
  prepull templates --apply
  prepull templates web --apply --update-node-groups

Exit codes:
    0  every template has its snapshot, would change, or was deleted
    1  a template or a node group was left alone, a node group was
       not updated, the ring has none, or a call failed
    2  usage error";

const NODES_HELP: &str = "\
It reads nodes, pods and events of the cluster, and volumes of EC2.
Events of the kubelet say which images a pod found, and a cluster
keeps them for an hour.

Examples:
  prepull nodes web
  prepull nodes web --context production --output prometheus";

const CHECK_HELP: &str = "\
It changes nothing. With --manifest it makes no call to AWS.

Examples:
  kubectl get ec2nodeclasses,nodepools -o yaml | prepull check web
  prepull check web nodes.yaml deployment.yaml
  prepull check web plan.json --manifest snapshots.json
  prepull check web --live --namespace shop
  prepull check --explain 9

Exit codes:
    0  no error; warnings and notes are possible
    1  failed call to AWS or the cluster, or no published snapshot
    2  an input or the manifest cannot be read, or there is nothing
       to check
    3  an error, or a warning with `--fail-on warning`";

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
    /// Show stable snapshots, candidates and the last build.
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
    /// Decide which snapshot nodes use.
    #[command(flatten)]
    Decide(Decide),
    /// Boot an instance from a snapshot and check its content.
    #[command(after_help = VERIFY_HELP)]
    Verify(VerifyArgs),
    /// Print an `EC2NodeClass` with the stable snapshot.
    #[command(after_help = NODECLASS_HELP)]
    Nodeclass(NodeclassArgs),
    /// Give node classes of a cluster their snapshots.
    #[command(after_help = SYNC_HELP)]
    Sync(SyncArgs),
    /// Give EC2 launch templates their snapshots.
    #[command(after_help = LAUNCH_TEMPLATES_HELP)]
    #[command(name = "templates")]
    LaunchTemplates(LaunchTemplatesArgs),
    /// Show how often pods found their image on the nodes.
    #[command(after_help = NODES_HELP)]
    Nodes(NodesArgs),
    /// Check if nodes use the snapshots of a cache.
    #[command(after_help = CHECK_HELP)]
    Check(CheckArgs),
}

/// The commands that decide which snapshot nodes use.
#[derive(Debug, Clone, Subcommand)]
pub enum Decide {
    /// Make the candidate stable, so that new nodes use it.
    #[command(after_help = PROMOTE_HELP)]
    Promote {
        /// Promote a candidate of this cache.
        cache: CacheName,
        /// Promote only this snapshot.
        #[arg(long, value_name = "ID")]
        snapshot: Option<SnapshotId>,
        /// Promote only `x86_64` or `arm64`.
        #[arg(long)]
        architecture: Option<Architecture>,
    },
    /// Return nodes to the previous snapshot and pin it.
    #[command(after_help = ROLLBACK_HELP)]
    Rollback {
        /// Roll back this cache.
        cache: CacheName,
        /// Record this reason.
        #[arg(long, value_name = "TEXT")]
        reason: Reason,
        /// Roll back only `x86_64` or `arm64`.
        #[arg(long)]
        architecture: Option<Architecture>,
    },
    /// Keep the stable snapshot until `unpin`.
    #[command(after_help = PIN_HELP)]
    Pin {
        /// Pin this cache.
        cache: CacheName,
        /// Record this reason.
        #[arg(long, value_name = "TEXT")]
        reason: Reason,
        /// Pin only `x86_64` or `arm64`.
        #[arg(long)]
        architecture: Option<Architecture>,
    },
    /// Remove the pin. An immediate promotion then happens.
    Unpin {
        /// Unpin this cache.
        cache: CacheName,
        /// Unpin only `x86_64` or `arm64`.
        #[arg(long)]
        architecture: Option<Architecture>,
    },
    /// Make a snapshot unusable.
    #[command(after_help = REJECT_HELP)]
    Reject {
        /// Reject a snapshot of this cache.
        cache: CacheName,
        /// Reject this snapshot, or the original of this copy.
        snapshot: SnapshotId,
        /// Record this reason.
        #[arg(long, value_name = "TEXT")]
        reason: Reason,
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
    /// Annotations of GitHub Actions, for `check`.
    Github,
    /// Metrics for Prometheus, for `nodes`.
    Prometheus,
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
