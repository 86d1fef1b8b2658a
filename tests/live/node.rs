//! Nodes that start from the snapshot, without a cluster.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;
use prepull_aws::ec2::operation::run_instances::builders::RunInstancesFluentBuilder;
use prepull_aws::ec2::types::{
    BlockDeviceMapping, EbsBlockDevice, HttpTokensState, IamInstanceProfileSpecification,
    InstanceMetadataOptionsRequest, InstanceStateName, InstanceType,
    LaunchTemplateBlockDeviceMappingRequest, LaunchTemplateEbsBlockDeviceRequest,
    LaunchTemplateSpecification, RequestLaunchTemplateData, ResourceType, TagSpecification,
    VolumeType,
};
use prepull_aws::ssm::types::{InstanceInformationStringFilter, PingStatus};
use prepull_aws::{
    AwsError as _, Deadline, StageResult as _, instances, parameters, run_command, tag,
};
use prepull_domain::node::{
    Document, ImageStatus, NO_CHANGES, ReadyNode, Usable, pull_images_parameters,
};
use prepull_domain::{CacheConfig, InstanceId, Manifest, SnapshotId, names};

use crate::{NAME, NODE_TAG, Suite, questions};

/// Time limit from the launch until a node is ready, like that of wait-for-ssm.
const READY_WITHIN: Duration = Duration::from_secs(600);

/// Time limit of one command.
const COMMAND_LIMIT: Duration = Duration::from_secs(300);

/// Poll interval for the state of a node.
const POLL: Duration = Duration::from_secs(1);

/// Settings of a node: those of a builder. Without the host name, Bottlerocket asks EC2 for it and waits five minutes.
const USER_DATA: &str = "[settings.kubernetes]\nhostname-override = \"prepull-live-node\"\n\n\
                         [settings.host-containers.admin]\nenabled = true\n";

/// Purpose of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// It starts from a launch template, and its volume loads at the maximum initialization rate.
    InitializationRate,
    /// It answers the questions about nodes. Its volume loads on first access.
    Questions,
    /// It shows that another variant can use the snapshot.
    OtherVariant,
}

/// A node that has run.
#[derive(Debug, Clone)]
pub struct NodeRecord {
    /// Its instance type.
    pub instance_type: String,
    /// Its purpose.
    pub purpose: Purpose,
    /// Time of the launch request.
    pub launched_at: Timestamp,
    /// Time of the termination request.
    pub ended_at: Option<Timestamp>,
}

/// Starts a node for each purpose, and one for each further variant. Checks the images of each.
///
/// # Errors
/// Fails if no node starts, or if an image is missing on one.
pub async fn start_all(suite: &mut Suite) -> Result<()> {
    let published = suite.published.clone();
    let (snapshot, manifest) = published.context("the cache is not built")?;
    let json = names::config_parameter(&Suite::cache());
    let json = parameters::get(&suite.clients, &json).await?;
    let config = CacheConfig::parse(&Suite::cache(), &json.context("the cache is not declared")?)?;
    let nodes = Nodes {
        snapshot,
        manifest,
        config,
    };

    let variant = suite.options.variant.clone();
    let result = nodes
        .check(suite, &variant, Purpose::InitializationRate)
        .await;
    let description = match &result {
        Ok(()) => Ok(("Yes, and the node has the images.".to_owned(), Vec::new())),
        Err(error) => Err(anyhow::anyhow!("{error:#}")),
    };
    suite.sheet.record(
        "Does EC2 launch a node from a launch template whose data volume has `Encrypted`, `SnapshotId` and \
         `VolumeInitializationRate` together?",
        "`CreateLaunchTemplate`, `RunInstances`",
        description,
    );
    nodes.check(suite, &variant, Purpose::Questions).await?;
    for variant in suite.options.node_variants.clone() {
        let result = nodes.check(suite, &variant, Purpose::OtherVariant).await;
        suite.sheet.record(
            &format!(
                "Does a node of the variant {variant} use a snapshot of {}?",
                suite.options.variant
            ),
            "`RunInstances`, Run Command with the document `pull-images`",
            result.map(|()| ("Yes.".to_owned(), Vec::new())),
        );
    }
    Ok(())
}

/// The nodes of the newest snapshot.
pub struct Nodes {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Its manifest.
    pub manifest: Manifest,
    /// The configuration of its cache, for the network.
    pub config: CacheConfig,
}

/// A node that runs.
pub struct Node {
    /// Its ID.
    pub id: InstanceId,
    /// Its purpose.
    pub purpose: Purpose,
    /// The launch request, with its client token.
    pub request: RunInstancesFluentBuilder,
    /// Time of the launch request.
    pub launched_at: Timestamp,
}

impl Nodes {
    /// Starts a node, asks questions, checks its images, and terminates it.
    async fn check(&self, suite: &mut Suite, variant: &str, purpose: Purpose) -> Result<()> {
        let node = self.launch(suite, variant, purpose).await?;
        suite.nodes.push(NodeRecord {
            instance_type: self.manifest.instance_type.clone(),
            purpose,
            launched_at: node.launched_at,
            ended_at: None,
        });
        println!("Node {} of {variant} starts.", node.id);
        let result = self.check_running(suite, &node).await;
        let terminate = suite.clients.ec2.terminate_instances();
        terminate.instance_ids(node.id.as_str()).send().await?;
        if let Some(record) = suite.nodes.last_mut() {
            record.ended_at = Some(Timestamp::now());
        }
        result
    }

    async fn check_running(&self, suite: &mut Suite, node: &Node) -> Result<()> {
        if node.purpose == Purpose::Questions {
            questions::about_a_launch(suite, node).await;
            questions::about_a_client_token(suite, node).await;
        }
        let ready = self.wait_until_ready(suite, node).await?;
        println!(
            "Bottlerocket {}, containerd {}, kernel {}, ready after {} s.",
            ready.bottlerocket_version,
            ready.containerd_version,
            ready.kernel_version,
            Timestamp::now().duration_since(node.launched_at).as_secs()
        );
        if node.purpose == Purpose::InitializationRate {
            questions::about_reading(suite, node).await;
        }
        if node.purpose == Purpose::Questions {
            // It reads the volume, so it comes before every command that may read the same blocks.
            questions::about_reading(suite, node).await;
            questions::about_traces(suite, node).await?;
            questions::about_a_volume(suite, self, node).await;
            questions::about_parameter_sizes(suite, node).await;
        }
        let status = self.image_status(suite, node).await?;
        let images = self.images(&status)?;
        for image in &images {
            println!("  {image}");
        }
        if node.purpose == Purpose::Questions {
            suite.sheet.answer(
                "Does a node from the snapshot have every image by tag and by digest, without a pull?",
                "Run Command with the document `pull-images`, on a node without a cluster",
                "Yes.",
                images,
            );
        }
        Ok(())
    }

    /// Requests a node, in the first subnet with capacity.
    async fn launch(&self, suite: &mut Suite, variant: &str, purpose: Purpose) -> Result<Node> {
        let architecture = self.manifest.architecture;
        let ami = format!("/aws/service/bottlerocket/{variant}/{architecture}/latest/image_id");
        let ami = parameters::get(&suite.clients, &ami).await?;
        let ami = ami.with_context(|| format!("Bottlerocket has no variant {variant}"))?;
        if purpose == Purpose::InitializationRate {
            self.create_template(suite).await?;
        }
        let profile = suite.deployment.as_ref().context("nothing is deployed")?;
        let profile = profile.outputs()?["builder_instance_profile_arn"]["value"]
            .as_str()
            .context("the module does not have this output")?
            .to_owned();

        let mut last = None;
        for subnet in &self.config.builder.subnet_ids {
            let token = format!("{NAME}-{}", Timestamp::now().as_nanosecond());
            let mut request = suite
                .clients
                .ec2
                .run_instances()
                .client_token(token)
                .min_count(1)
                .max_count(1)
                .image_id(&ami)
                .instance_type(InstanceType::from(self.manifest.instance_type.as_str()))
                .subnet_id(subnet.as_str())
                .set_security_group_ids(Some(
                    self.config
                        .builder
                        .security_group_ids
                        .iter()
                        .map(ToString::to_string)
                        .collect(),
                ))
                .iam_instance_profile(
                    IamInstanceProfileSpecification::builder()
                        .arn(&profile)
                        .build(),
                )
                .user_data(BASE64_STANDARD.encode(USER_DATA))
                .metadata_options(
                    InstanceMetadataOptionsRequest::builder()
                        .http_tokens(HttpTokensState::Required)
                        .build(),
                )
                .tag_specifications(tagged(ResourceType::Instance))
                .tag_specifications(tagged(ResourceType::Volume));
            request = match purpose {
                Purpose::InitializationRate => request.launch_template(
                    LaunchTemplateSpecification::builder()
                        .launch_template_name(NAME)
                        .version("$Latest")
                        .build(),
                ),
                Purpose::Questions | Purpose::OtherVariant => {
                    request.block_device_mappings(self.data_volume(suite))
                }
            };
            let launched_at = Timestamp::now();
            let sent = request.clone().send().await;
            let sent = match sent {
                Ok(sent) => sent,
                Err(error) if error.aws_code() == Some("InsufficientInstanceCapacity") => {
                    last = Some(error.into_stage_error("ec2:RunInstances").into());
                    continue;
                }
                Err(error) => return Err(error.into_stage_error("ec2:RunInstances").into()),
            };
            let id = sent.instances().first().and_then(|node| node.instance_id());
            let id: InstanceId = id.context("EC2 returned no instance")?.parse()?;
            return Ok(Node {
                id,
                purpose,
                request,
                launched_at,
            });
        }
        Err(last.unwrap_or_else(|| anyhow::anyhow!("the cache has no subnet")))
    }

    fn data_volume(&self, suite: &Suite) -> BlockDeviceMapping {
        let volume = EbsBlockDevice::builder()
            .snapshot_id(self.snapshot.as_str())
            .volume_type(VolumeType::Gp3)
            .encrypted(true)
            .set_kms_key_id(suite.options.kms_key_id.clone())
            .delete_on_termination(true);
        BlockDeviceMapping::builder()
            .device_name(names::DATA_DEVICE)
            .ebs(volume.build())
            .build()
    }

    /// Creates the launch template, as a user of prepull would write it.
    async fn create_template(&self, suite: &Suite) -> Result<()> {
        let rate = i32::try_from(prepull_estimate::MAX_INITIALIZATION_RATE)?;
        let volume = LaunchTemplateEbsBlockDeviceRequest::builder()
            .snapshot_id(self.snapshot.as_str())
            .volume_type(VolumeType::Gp3)
            .encrypted(true)
            .set_kms_key_id(suite.options.kms_key_id.clone())
            .volume_initialization_rate(rate)
            .delete_on_termination(true);
        let mapping = LaunchTemplateBlockDeviceMappingRequest::builder()
            .device_name(names::DATA_DEVICE)
            .ebs(volume.build());
        let data = RequestLaunchTemplateData::builder().block_device_mappings(mapping.build());
        let create = suite.clients.ec2.create_launch_template();
        create
            .launch_template_name(NAME)
            .launch_template_data(data.build())
            .tag_specifications(tagged(ResourceType::LaunchTemplate))
            .send()
            .await
            .or_stage_error("ec2:CreateLaunchTemplate")?;
        Ok(())
    }

    /// Waits until the node accepts commands and its containerd answers.
    async fn wait_until_ready(&self, suite: &mut Suite, node: &Node) -> Result<ReadyNode> {
        let clients = suite.clients.clone();
        let deadline = Deadline::after(READY_WITHIN);
        let running = deadline
            .poll(POLL, "the node to run", async || {
                let found = instances::get(&clients, &node.id).await?;
                match found {
                    Some(found) if found.state == InstanceStateName::Running => Ok(Some(Ok(()))),
                    Some(found)
                        if found.state == InstanceStateName::Terminated
                            || found.state == InstanceStateName::ShuttingDown =>
                    {
                        Ok(Some(Err(found.lost())))
                    }
                    _ => Ok(None),
                }
            })
            .await?;
        running?;
        let running_at = Timestamp::now();
        let filter = InstanceInformationStringFilter::builder()
            .key("InstanceIds")
            .values(node.id.as_str())
            .build()?;
        deadline
            .poll(POLL, "the SSM agent to register", async || {
                let known = clients.ssm.describe_instance_information();
                // A failed call counts as not registered. The deadline limits the attempts.
                let known = known.filters(filter.clone()).send().await.ok();
                let known = known.and_then(|known| {
                    Some(
                        known.instance_information_list().first()?.ping_status()?
                            == &PingStatus::Online,
                    )
                });
                Ok((known == Some(true)).then_some(()))
            })
            .await?;
        let online_at = Timestamp::now();
        if node.purpose == Purpose::Questions {
            questions::about_the_start(suite, node, running_at, online_at);
        }
        let document = Document::AwaitReady.name(NAME);
        let ready = deadline.poll(POLL, "containerd to answer", async || {
            let limit = Deadline::after(COMMAND_LIMIT);
            let output = run_command::run_document(&clients, &node.id, &document, &[], limit);
            Ok(output.await?.stdout.parse().ok())
        });
        Ok(ready.await?)
    }

    /// Returns the images on a node.
    async fn image_status(&self, suite: &Suite, node: &Node) -> Result<ImageStatus> {
        let images = self.manifest.images.iter();
        let names: Vec<_> = images
            .map(|image| image.reference.status_request(&image.digest))
            .collect();
        let output = run_command::run_document(
            &suite.clients,
            &node.id,
            &Document::PullImages.name(NAME),
            &pull_images_parameters(names.join(" "), NO_CHANGES, Duration::ZERO),
            Deadline::after(COMMAND_LIMIT),
        )
        .await?;
        output.stdout.parse().with_context(|| {
            format!(
                "the node returned no status of its images: {}",
                output.last_words()
            )
        })
    }

    /// Returns every name that a pod may use for an image of the snapshot.
    fn names(&self) -> Vec<String> {
        let images = self.manifest.images.iter();
        images
            .flat_map(|image| image.reference.names_on_node(&image.digest))
            .collect()
    }

    /// Returns every name of an image, after a check that the image is complete and unpacked and that the node pulled none.
    fn images(&self, status: &ImageStatus) -> Result<Vec<String>> {
        ensure!(
            status.pulls.is_empty(),
            "the node pulled images: {:?}",
            status.pulls
        );
        let names = self.names().into_iter().enumerate();
        names
            .map(|(position, name)| match status.names.get(&position) {
                Some(record) if record.usable == Usable::Yes => {
                    Ok(format!("{name}: complete and unpacked"))
                }
                Some(record) => bail!("{name} is {:?} on the node", record.usable),
                None => bail!("{name} is missing on the node"),
            })
            .collect()
    }
}

impl Node {
    /// Runs a script in the admin container, where `sheltie` runs programs of the host.
    ///
    /// # Errors
    /// Fails if the node does not run it, or the script fails.
    pub async fn run_script(&self, suite: &Suite, script: &str) -> Result<String> {
        ensure!(!script.contains('\''), "the script is quoted with '");
        let command = format!("apiclient exec -T admin bash -c '{script}' </dev/null");
        let output = run_command::run_document(
            &suite.clients,
            &self.id,
            "AWS-RunShellScript",
            &[("commands", command)],
            Deadline::after(COMMAND_LIMIT),
        )
        .await?;
        ensure!(
            output.exit_code == 0,
            "the script failed with exit code {}: {}",
            output.exit_code,
            output.last_words()
        );
        Ok(output.stdout)
    }
}

fn tagged(resource: ResourceType) -> TagSpecification {
    TagSpecification::builder()
        .resource_type(resource)
        .tags(tag("Name", NAME))
        .tags(tag(NODE_TAG, "node"))
        .build()
}
