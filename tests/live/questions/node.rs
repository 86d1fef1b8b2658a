//! Questions about nodes that start from the snapshot.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use prepull_aws::{Deadline, StageResult as _, instances, run_command, tag_filter};
use prepull_domain::names;
use prepull_domain::node::{Document, ImageStatus, NO_CHANGES, pull_images_parameters};

use crate::node::{Node, Nodes, Purpose};
use crate::{NAME, NODE_TAG, Suite};

/// Interval and limit of the search for a new instance by its tag.
const SEARCH: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(60));

/// Directories that hold secrets or the identity of a node. The builder removes their content before the snapshot.
const PRIVATE: &str = "/local/host-containers /local/bootstrap-containers /var/lib/kubelet /var/lib/host-containerd \
                       /var/log/journal /var/lib/netdog /var/lib/systemd/random-seed";

/// File with the identity of a containerd.
const CONTAINERD_ID: &str = "/var/lib/containerd/io.containerd.grpc.v1.introspection/uuid";

/// Directory with the compressed layers.
const BLOBS: &str = "/var/lib/containerd/io.containerd.content.v1.content/blobs";

/// Sizes of a command's parameter to try, in bytes.
const PARAMETER_SIZES: [usize; 6] = [4_000, 8_000, 16_000, 32_000, 64_000, 96_000];

/// Sends the launch request of a node again.
pub async fn about_a_client_token(suite: &mut Suite, node: &Node) {
    let again = node.request.clone().send().await;
    let again = again.or_stage_error("ec2:RunInstances");
    let answer = again.map_err(anyhow::Error::from).map(|again| {
        let second = again
            .instances()
            .first()
            .and_then(|node| node.instance_id());
        let second = second.unwrap_or("no instance");
        let is_same = second == node.id.as_str();
        let evidence = format!("the first call returned {}, the second {second}", node.id);
        (
            if is_same { "Yes." } else { "No." }.to_owned(),
            vec![evidence],
        )
    });
    suite.sheet.record(
        "Does RunInstances return the same instance for a repeated client token?",
        "`RunInstances` twice",
        answer,
    );
}

/// Measures the delay until EC2 lists a new instance.
pub async fn about_a_launch(suite: &mut Suite, node: &Node) {
    let (interval, limit) = SEARCH;
    let clients = suite.clients.clone();
    let found = Deadline::after(limit)
        .poll(
            interval,
            "EC2 to list the instance by its tag",
            async || {
                let found = instances::find(&clients, vec![tag_filter(NODE_TAG, "node")]).await?;
                Ok(found.iter().any(|found| found.id == node.id).then_some(()))
            },
        )
        .await;
    let took = Timestamp::now()
        .duration_since(node.launched_at)
        .as_millis();
    suite.sheet.record(
        "How long after a launch does DescribeInstances find the instance by its tag?",
        "`RunInstances`, then `DescribeInstances` with a tag filter",
        found
            .map(|()| (format!("At most {took} ms after the request."), Vec::new()))
            .map_err(Into::into),
    );
}

/// Records the times of a node's start.
pub fn about_the_start(
    suite: &mut Suite,
    node: &Node,
    running_at: Timestamp,
    online_at: Timestamp,
) {
    let seconds = |from: Timestamp, to: Timestamp| to.duration_since(from).as_secs_f64();
    suite.sheet.answer(
        "Does Bottlerocket register with Systems Manager without any EC2 permission, and how soon?",
        "`RunInstances` with `hostname-override` in the user data, `DescribeInstanceInformation`",
        format!(
            "Yes, {:.0} s after the launch.",
            seconds(node.launched_at, online_at)
        ),
        vec![
            format!(
                "running {:.1} s after the request",
                seconds(node.launched_at, running_at)
            ),
            format!(
                "agent online {:.1} s after that",
                seconds(running_at, online_at)
            ),
        ],
    );
}

/// The output of the script below.
struct Probe {
    lines: Vec<(String, String)>,
}

impl Probe {
    fn parse(output: &str) -> Result<Self> {
        let lines: Vec<_> = output
            .lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        ensure!(
            lines.iter().any(|(key, _)| key == "END"),
            "the output of the script is incomplete: {output}"
        );
        Ok(Self { lines })
    }

    fn all(&self, key: &str) -> Vec<String> {
        let lines = self.lines.iter();
        lines
            .filter(|(found, _)| found == key)
            .map(|(_, value)| value.clone())
            .collect()
    }

    fn one(&self, key: &str) -> Result<String> {
        let found = self.all(key).into_iter().next();
        found.with_context(|| format!("the script printed no {key}"))
    }
}

/// Returns the script that reads every layer.
fn reading_script() -> String {
    format!(
        "start=$(date +%s%N)\n\
         bytes=$(sheltie find {BLOBS} -type f -exec cat {{}} + </dev/null | wc -c)\n\
         echo \"READ $bytes $(( ($(date +%s%N) - start) / 1000000 ))\"\n\
         echo \"END .\"\n"
    )
}

/// Returns the script that searches for traces of the builder.
///
/// The builder's files are older than the launch of the node. The script compares the time of the last change of the inode,
/// because unpacking an archive does not set it to a time in the past.
fn tracing_script(launched_at: Timestamp) -> String {
    let launched = launched_at.as_second();
    format!(
        "host() {{ sheltie \"$@\" </dev/null 2>/dev/null; }}\n\
         host find {PRIVATE} -type f ! -newerct @{launched} | head -n 20 | sed \"s/^/OLD /\"\n\
         host find {PRIVATE} -type f -newerct @{launched} | wc -l | sed \"s/^/NEW /\"\n\
         host find {CONTAINERD_ID} ! -newerct @{launched} | sed \"s/^/ID /\"\n\
         host cat /var/cache/containerd/active-snapshotter | sed \"s/^/SNAPSHOTTER /\"\n\
         host find /usr/bin -maxdepth 1 -name igzip -o -maxdepth 1 -name unpigz | sed \"s/^/INFLATE /\"\n\
         echo \"END .\"\n"
    )
}

/// Reads the whole content store of a node right after its start.
pub async fn about_reading(suite: &mut Suite, node: &Node) {
    let question = if node.purpose == Purpose::InitializationRate {
        "How fast does a node read the layers if its volume loads at an initialization rate of 300 MiB/s?"
    } else {
        "How fast does a node read the layers if its volume loads on first access?"
    };
    let output = node.run_script(suite, &reading_script()).await;
    let speed = output.and_then(|output| reading_speed(&Probe::parse(&output)?));
    suite.sheet.record(
        question,
        "Run Command: read every file of containerd's content store right after the start",
        speed,
    );
}

/// Searches a node for traces of the builder, and for properties of Bottlerocket.
///
/// # Errors
/// Fails if the script fails, or if the snapshot holds private files of its builder.
pub async fn about_traces(suite: &mut Suite, node: &Node) -> Result<()> {
    let script = tracing_script(node.launched_at);
    let output = node.run_script(suite, &script).await;
    let probe = Probe::parse(&output.context("asking the node failed")?)?;
    let old = probe.all("OLD");
    let new = probe.one("NEW")?;
    // A node writes such files at its start. Without them, the search itself does not work.
    ensure!(
        new != "0",
        "the search found no private files of the node itself"
    );
    let mut evidence = vec![format!(
        "{new} files in these directories are from this start: {PRIVATE}"
    )];
    evidence.extend(old.iter().map(|path| format!("from the builder: {path}")));
    suite.sheet.answer(
        "Does a snapshot hold files that identify its builder, such as SSH host keys or the registration of the SSM agent?",
        "Run Command: find files that are older than the launch of the node",
        if old.is_empty() { "No." } else { "Yes." },
        evidence,
    );
    suite.sheet.answer(
        "Do all nodes of a snapshot share containerd's ID?",
        "Run Command: find the file with the ID, if it is older than the launch of the node",
        if probe.all("ID").is_empty() {
            "No: the snapshot has no such file."
        } else {
            "Yes: the ID comes from the snapshot."
        },
        vec![CONTAINERD_ID.to_owned()],
    );
    suite.sheet.record(
        "Which text does Bottlerocket write into the file with the active snapshotter?",
        "Run Command: read `/var/cache/containerd/active-snapshotter`",
        probe
            .one("SNAPSHOTTER")
            .map(|text| (format!("`{text}`"), Vec::new())),
    );
    let programs = probe.all("INFLATE");
    suite.sheet.answer(
        "Which programs decompress layers for containerd? It prefers `igzip` and `unpigz` to its own code.",
        "Run Command: find the programs on the host",
        if programs.is_empty() {
            "None: containerd decompresses them itself.".to_owned()
        } else {
            format!("{}.", programs.join(", "))
        },
        Vec::new(),
    );
    ensure!(
        old.is_empty(),
        "the snapshot holds private files of its builder: {}",
        old.join(", ")
    );
    Ok(())
}

fn reading_speed(probe: &Probe) -> Result<(String, Vec<String>)> {
    let read = probe.one("READ")?;
    let (bytes, milliseconds) = read.split_once(' ').context("READ has two numbers")?;
    let (bytes, milliseconds): (f64, f64) = (bytes.parse()?, milliseconds.parse()?);
    ensure!(bytes > 0.0, "the content store is empty");
    Ok((
        format!("{:.1} MB/s.", bytes / 1e6 / (milliseconds / 1e3).max(1e-3)),
        vec![format!(
            "{:.1} MB in {:.1} s",
            bytes / 1e6,
            milliseconds / 1e3
        )],
    ))
}

/// Asks EC2 about the volume of a node and about its snapshot.
pub async fn about_a_volume(suite: &mut Suite, nodes: &Nodes, node: &Node) {
    let status = volume_status(suite, node).await;
    let size = snapshot_size(suite, nodes).await;
    suite.sheet.record(
        "How does EC2 report the initialization of a volume without a rate?",
        "`DescribeVolumeStatus`",
        status,
    );
    suite.sheet.record(
        "How large is a snapshot by `FullSnapshotSizeInBytes`, the size that the initialization rate is charged for?",
        "`DescribeSnapshots`",
        size,
    );
}

async fn volume_status(suite: &Suite, node: &Node) -> Result<(String, Vec<String>)> {
    let found = instances::get(&suite.clients, &node.id).await?;
    let volume = found
        .and_then(|found| found.data_volume)
        .with_context(|| format!("{} has no volume at {}", node.id, names::DATA_DEVICE))?;
    let status = suite.clients.ec2.describe_volume_status();
    let status = status.volume_ids(volume.as_str()).send().await;
    let status = status.or_stage_error("ec2:DescribeVolumeStatus")?;
    let status = status.volume_statuses().first();
    let status = status.context("EC2 described no volume")?;
    let details = status.initialization_status_details();
    Ok((
        details.map_or_else(
            || "It reports nothing.".to_owned(),
            |details| format!("`{details:?}`"),
        ),
        Vec::new(),
    ))
}

async fn snapshot_size(suite: &Suite, nodes: &Nodes) -> Result<(String, Vec<String>)> {
    let described = suite.clients.ec2.describe_snapshots();
    let described = described.snapshot_ids(nodes.snapshot.as_str()).send().await;
    let described = described.or_stage_error("ec2:DescribeSnapshots")?;
    let snapshot = described.snapshots().first();
    let full = snapshot
        .and_then(prepull_aws::ec2::types::Snapshot::full_snapshot_size_in_bytes)
        .context("EC2 returned no full size")?;
    Ok((
        format!("{full} bytes."),
        vec![
            format!("used on the file system: {}", nodes.manifest.used),
            format!("size of the volume: {}", nodes.manifest.volume_size),
        ],
    ))
}

/// Sends commands with larger and larger parameters, until Systems Manager refuses one or the node does not run it.
pub async fn about_parameter_sizes(suite: &mut Suite, node: &Node) {
    let mut largest = 0;
    let mut evidence = Vec::new();
    for size in PARAMETER_SIZES {
        let output = run_command::run_document(
            &suite.clients,
            &node.id,
            &Document::PullImages.name(NAME),
            &pull_images_parameters("a".repeat(size), NO_CHANGES, Duration::ZERO),
            Deadline::after(Duration::from_secs(120)),
        )
        .await;
        let failure = match output {
            Ok(output) => match output.stdout.parse::<ImageStatus>() {
                Ok(_) => {
                    largest = size;
                    evidence.push(format!("{size} bytes: the document ran to its end"));
                    continue;
                }
                Err(error) => format!("{error}: {}", output.last_words()),
            },
            Err(error) => error.to_string(),
        };
        evidence.push(format!("{size} bytes: {failure}"));
        break;
    }
    let answer = match PARAMETER_SIZES.last() {
        Some(last) if largest == *last => format!("At least {largest} bytes."),
        _ => format!("At least {largest} bytes, and less than the next size."),
    };
    suite.sheet.answer(
        "How large can the parameter of a command be?",
        "`SendCommand` with larger and larger parameters",
        answer,
        evidence,
    );
}
