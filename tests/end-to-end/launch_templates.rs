//! `prepull templates`: launch templates follow the pointer, and their nodes start with the images.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use prepull_aws::ec2::types::{
    IamInstanceProfileSpecification, InstanceType, LaunchTemplateBlockDeviceMappingRequest,
    LaunchTemplateEbsBlockDeviceRequest, LaunchTemplateSpecification, RequestLaunchTemplateData,
    ResourceType, TagSpecification, VolumeType,
};
use prepull_aws::{parameters, tag};
use prepull_domain::{InstanceId, SnapshotId, names};
use serde_json::json;

use crate::fixture::{Fixture, X86, ensure_succeeded};

/// Settings of the node.
const USER_DATA: &str = "[settings.kubernetes]\nhostname-override = \"node\"\n";

/// A launch template of a test.
struct Template<'a> {
    fixture: &'a Fixture,
    id: String,
}

impl<'a> Template<'a> {
    /// Creates a template with an empty data volume, and lets it follow a cache.
    async fn create(fixture: &'a Fixture, cache: &str) -> Result<Self> {
        let clients = &fixture.world.clients;
        let path = format!("/aws/service/bottlerocket/aws-k8s-1.33/{X86}/latest/image_id");
        let image = parameters::get(clients, &path).await?;
        let volume = LaunchTemplateEbsBlockDeviceRequest::builder()
            .volume_size(8)
            .volume_type(VolumeType::Gp3)
            .volume_initialization_rate(200)
            .build();
        let mapping = LaunchTemplateBlockDeviceMappingRequest::builder()
            .device_name(names::DATA_DEVICE)
            .ebs(volume);
        let data = RequestLaunchTemplateData::builder()
            .set_image_id(image)
            .instance_type(InstanceType::M6iXlarge)
            .block_device_mappings(mapping.build());
        let tags = TagSpecification::builder()
            .resource_type(ResourceType::LaunchTemplate)
            .tags(tag("prepull/cache", cache))
            .tags(tag("prepull/architecture", X86.as_str()));
        let create = clients.ec2.create_launch_template();
        let created = create
            .launch_template_name(format!("nodes-{cache}"))
            .launch_template_data(data.build())
            .tag_specifications(tags.build())
            .send()
            .await?;
        let id = created.launch_template.and_then(|it| it.launch_template_id);
        let id = id.context("EC2 returned no template")?;
        Ok(Self { fixture, id })
    }

    /// Runs the CLI for the template, and asserts its exit code and words of its output.
    fn run(&self, options: &[&str], words: &[&str]) -> Result<()> {
        let mut command = self.fixture.world.cli();
        command.args(["templates", &self.id]).args(options);
        let output = tokio::task::block_in_place(|| command.output())?;
        let (out, err) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        let text = format!("{out}{err}");
        ensure!(
            output.status.code() == Some(0) && words.iter().all(|word| text.contains(word)),
            "{options:?} ended with {:?}, expected {words:?}: {text}",
            output.status.code()
        );
        Ok(())
    }

    /// Returns the numbers of all versions with the snapshots of their data volumes, and the default version.
    async fn versions(&self) -> Result<(Vec<(i64, Option<SnapshotId>)>, i64)> {
        let describe = self
            .fixture
            .world
            .clients
            .ec2
            .describe_launch_template_versions();
        let answer = describe.launch_template_id(&self.id).send().await?;
        let (mut versions, mut default) = (Vec::new(), 0);
        for version in answer.launch_template_versions() {
            let number = version
                .version_number()
                .context("a version without a number")?;
            let data = version
                .launch_template_data()
                .context("a version without data")?;
            ensure!(
                data.instance_type() == Some(&InstanceType::M6iXlarge),
                "{data:?}"
            );
            let volume = data.block_device_mappings()[0].ebs().context("no volume")?;
            ensure!(volume.volume_size() == Some(8), "{volume:?}");
            ensure!(
                volume.volume_initialization_rate() == Some(200),
                "{volume:?}"
            );
            let snapshot = volume
                .snapshot_id()
                .map(str::parse::<SnapshotId>)
                .transpose()?;
            versions.push((number, snapshot));
            if version.default_version() == Some(true) {
                default = number;
            }
        }
        Ok((versions, default))
    }

    /// Starts a node from the default version.
    async fn start_node(&self) -> Result<InstanceId> {
        let world = &self.fixture.world;
        let profile = world.deployment.outputs()?["builder_instance_profile_arn"]["value"]
            .as_str()
            .map(str::to_owned);
        let template = LaunchTemplateSpecification::builder()
            .launch_template_id(&self.id)
            .version("$Default");
        let run = world.clients.ec2.run_instances();
        let run = run
            .launch_template(template.build())
            .user_data(BASE64_STANDARD.encode(USER_DATA))
            .set_iam_instance_profile(
                profile.map(|arn| IamInstanceProfileSpecification::builder().arn(arn).build()),
            )
            .min_count(1)
            .max_count(1)
            .send()
            .await?;
        let node = run.instances()[0].instance_id().context("no ID")?.parse()?;
        world.await_running(&node).await?;
        Ok(node)
    }
}

pub async fn default_version_follows_promotions_and_roll_backs(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let world = &fixture.world;
    let mut config = fixture.config(&[&fixture.api, &fixture.multi]).await?;
    let cache = fixture.cache(&config).await?;
    let first = fixture.published(&cache).await?;
    let template = Template::create(&fixture, &cache).await?;
    template.run(&[], &["would change", first.as_str(), "--apply"])?;
    ensure!(template.versions().await? == (vec![(1, None)], 1));
    template.run(&["--apply"], &["updated, default version 2"])?;
    let with_first = vec![(1, None), (2, Some(first.clone()))];
    ensure!(template.versions().await? == (with_first.clone(), 2));
    template.run(
        &["--apply"],
        &[&format!("has {first} in default version 2")],
    )?;
    ensure!(template.versions().await? == (with_first.clone(), 2));

    // A candidate does not reach a template of the channel `stable`.
    config["images"] = json!([&fixture.api]);
    config["publication"]["promotion"] = json!({"mode": "manual"});
    world.store_config(&cache, &config).await?;
    ensure_succeeded(&world.build(&cache).await?)?;
    let candidate = world.pointer(&cache, X86).await?.candidate;
    let second = candidate.context("nothing is a candidate")?.snapshot_id;
    template.run(&["--apply"], &[&format!("has {first}")])?;
    ensure!(template.versions().await? == (with_first.clone(), 2));

    // A person adds a version. EC2 does not copy the snapshot of its source.
    let by_hand = world.clients.ec2.create_launch_template_version();
    let data = RequestLaunchTemplateData::builder().ebs_optimized(true);
    by_hand
        .launch_template_id(&template.id)
        .source_version("1")
        .launch_template_data(data.build())
        .send()
        .await?;

    let promote = tokio::task::block_in_place(|| world.cli().args(["promote", &cache]).output())?;
    ensure!(promote.status.success(), "{promote:?}");
    template.run(&["--apply"], &["+ version 4", "~ default version: 2 -> 4"])?;
    let with_second = [with_first, vec![(3, None), (4, Some(second))]].concat();
    ensure!(template.versions().await? == (with_second.clone(), 4));
    let node = template.start_node().await?;
    let run = world.run_container(&node, &fixture.api).await?;
    ensure!(run.present && run.requests == 0, "{run:?}");
    world.terminate_node(&node).await?;

    // A roll-back makes a new version, because groups with `$Latest` use the newest one.
    let arguments = ["rollback", &cache, "--reason", "image multi is missing"];
    let roll_back = tokio::task::block_in_place(|| world.cli().args(arguments).output())?;
    ensure!(roll_back.status.success(), "{roll_back:?}");
    template.run(&["--apply"], &["+ version 5", "~ default version: 4 -> 5"])?;
    let rolled_back = [with_second, vec![(5, Some(first.clone()))]].concat();
    ensure!(template.versions().await? == (rolled_back, 5));

    // The next run removes the version of the bad snapshot. The version of the person stays.
    template.run(&["--apply"], &["- version 4"])?;
    let left = vec![
        (1, None),
        (2, Some(first.clone())),
        (3, None),
        (5, Some(first)),
    ];
    ensure!(template.versions().await? == (left, 5));
    let delete = world.clients.ec2.delete_launch_template();
    delete.launch_template_id(&template.id).send().await?;
    Ok(())
}
