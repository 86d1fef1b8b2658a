//! EC2 and EBS.

use prepull_aws::ec2::error::ErrorMetadata;
use prepull_aws::ec2::operation::copy_snapshot::{CopySnapshotError, CopySnapshotOutput};
use prepull_aws::ec2::operation::create_tags::{CreateTagsError, CreateTagsOutput};
use prepull_aws::ec2::operation::delete_snapshot::{DeleteSnapshotError, DeleteSnapshotOutput};
use prepull_aws::ec2::operation::delete_volume::{DeleteVolumeError, DeleteVolumeOutput};
use prepull_aws::ec2::operation::describe_images::{DescribeImagesError, DescribeImagesOutput};
use prepull_aws::ec2::operation::describe_instances::DescribeInstancesError;
use prepull_aws::ec2::operation::describe_launch_template_versions::{
    DescribeLaunchTemplateVersionsError, DescribeLaunchTemplateVersionsOutput,
};
use prepull_aws::ec2::operation::describe_snapshots::{
    DescribeSnapshotsError, DescribeSnapshotsOutput,
};
use prepull_aws::ec2::operation::describe_volumes::{DescribeVolumesError, DescribeVolumesOutput};
use prepull_aws::ec2::operation::modify_snapshot_attribute::{
    ModifySnapshotAttributeError, ModifySnapshotAttributeOutput,
};
use prepull_aws::ec2::operation::run_instances::{
    RunInstancesError, RunInstancesInput, RunInstancesOutput,
};
use prepull_aws::ec2::operation::terminate_instances::{
    TerminateInstancesError, TerminateInstancesOutput,
};
use prepull_aws::ec2::types::{
    BlockDeviceMapping, EbsBlockDevice, Filter, Image, Instance, InstanceState, InstanceStateName,
    LaunchTemplateBlockDeviceMapping, LaunchTemplateEbsBlockDevice, LaunchTemplateVersion,
    ResponseLaunchTemplateData, Snapshot, SnapshotState, Tag, Volume,
};
use prepull_aws::{ec2, tag_value};

use super::{FakeAws, State, answers, error};
use crate::{described, ec2_instance};

/// The launch template that uses snapshots.
const TEMPLATE: &str = "lt-0123456789abcdef0";

/// Returns whether a resource passes `filters`. `state` is the state of an instance.
fn passes(filters: &[Filter], tags: &[Tag], state: Option<&InstanceStateName>) -> bool {
    assert!(!filters.is_empty(), "every list needs a filter");
    filters.iter().all(|filter| {
        let accepts = |value: Option<&str>| {
            value.is_some_and(|value| filter.values().iter().any(|wanted| wanted == value))
        };
        match filter.name().unwrap_or_default() {
            "tag-key" => tags.iter().any(|tag| accepts(tag.key())),
            "instance-state-name" => accepts(state.map(InstanceStateName::as_str)),
            name => {
                let key = name.strip_prefix("tag:");
                accepts(tag_value(tags, key.expect("the fake supports this filter")))
            }
        }
    })
}

fn state_of(instance: &Instance) -> Option<&InstanceStateName> {
    instance.state().and_then(InstanceState::name)
}

fn set_state(instance: &mut Instance, name: InstanceStateName) {
    instance.state = Some(InstanceState::builder().name(name).build());
}

/// Returns the resources with one of `ids`, in any order.
///
/// # Errors
/// `code` if one does not exist.
fn with_ids<T: Clone>(
    resources: &[T],
    id_of: impl Fn(&T) -> Option<&str>,
    ids: &[String],
    code: &str,
) -> Result<Vec<T>, ErrorMetadata> {
    let found = resources
        .iter()
        .filter(|resource| id_of(resource).is_some_and(|id| ids.iter().any(|wanted| wanted == id)));
    let found: Vec<_> = found.cloned().collect();
    if found.len() == ids.len() {
        Ok(found)
    } else {
        Err(error(code))
    }
}

/// Returns a version of the launch template with a disk for each of its snapshots.
fn template_version(state: &State, number: i64) -> LaunchTemplateVersion {
    let used = state.in_templates.iter();
    let disks = used
        .filter(|(_, version)| **version == number)
        .map(|(id, _)| {
            let disk = LaunchTemplateEbsBlockDevice::builder().snapshot_id(id);
            LaunchTemplateBlockDeviceMapping::builder()
                .ebs(disk.build())
                .build()
        });
    let data = ResponseLaunchTemplateData::builder()
        .set_block_device_mappings(Some(disks.collect()))
        .build();
    LaunchTemplateVersion::builder()
        .launch_template_id(TEMPLATE)
        .version_number(number)
        .launch_template_data(data)
        .build()
}

/// Returns the launched instance, which runs at once.
fn launched(request: &RunInstancesInput) -> Instance {
    let mut instance = ec2_instance(InstanceStateName::Running);
    instance.instance_type.clone_from(&request.instance_type);
    instance.tags = request
        .tag_specifications()
        .first()
        .and_then(|specification| specification.tags.clone());
    instance
}

impl FakeAws {
    /// Adds `instances`. A terminated instance is listed once as shutting down, and then as terminated.
    #[must_use]
    pub fn with_instances(mut self, instances: impl IntoIterator<Item = Instance>) -> Self {
        self.state().instances.extend(instances);
        let describe = answers!(
            self,
            ec2::describe_instances,
            DescribeInstancesError,
            |state, request| {
                state.call(format!(
                    "ec2:DescribeInstances {}",
                    request.instance_ids().join(" ")
                ))?;
                if !request.instance_ids().is_empty() {
                    let found = with_ids(
                        &state.instances,
                        Instance::instance_id,
                        request.instance_ids(),
                        "InvalidInstanceID.NotFound",
                    )?;
                    return Ok(described(found));
                }
                let instances = state.instances.iter();
                let found = instances.filter(|instance| {
                    passes(request.filters(), instance.tags(), state_of(instance))
                });
                let answer = described(found.cloned());
                for instance in &mut state.instances {
                    if state_of(instance) == Some(&InstanceStateName::ShuttingDown) {
                        set_state(instance, InstanceStateName::Terminated);
                    }
                }
                Ok(answer)
            }
        );
        let terminate = answers!(
            self,
            ec2::terminate_instances,
            TerminateInstancesError,
            |state, request| {
                let id = &request.instance_ids()[0];
                state.call(format!("ec2:TerminateInstances {id}"))?;
                for instance in &mut state.instances {
                    if instance.instance_id() == Some(id) {
                        set_state(instance, InstanceStateName::ShuttingDown);
                    }
                }
                Ok(TerminateInstancesOutput::builder().build())
            }
        );
        self.rules.ec2.extend([describe, terminate]);
        self
    }

    /// Adds capacity for new instances, which run at once. A call is `ec2:RunInstances` with instance type and subnet.
    #[must_use]
    pub fn with_capacity(self) -> Self {
        let mut aws = self.with_instances([]);
        let run = answers!(
            aws,
            ec2::run_instances,
            RunInstancesError,
            |state, request| {
                let instance_type = request.instance_type().map_or("", |it| it.as_str());
                let subnet = request.subnet_id().unwrap_or_default();
                state.call(format!("ec2:RunInstances {instance_type} {subnet}"))?;
                let mut instance = launched(request);
                if !state.launches.is_empty() {
                    instance.instance_id = Some(format!("i-{:017x}", state.launches.len()));
                }
                state.launches.push(request.clone());
                state.instances.push(instance.clone());
                Ok(RunInstancesOutput::builder().instances(instance).build())
            }
        );
        aws.rules.ec2.push(run);
        aws
    }

    /// Adds `volumes`.
    #[must_use]
    pub fn with_volumes(mut self, volumes: impl IntoIterator<Item = Volume>) -> Self {
        self.state().volumes.extend(volumes);
        let describe = answers!(
            self,
            ec2::describe_volumes,
            DescribeVolumesError,
            |state, request| {
                state.call("ec2:DescribeVolumes")?;
                let volumes = state.volumes.iter();
                let found = volumes.filter(|volume| match request.filters() {
                    [only] if only.name() == Some("snapshot-id") => {
                        let values = only.values().iter();
                        values.clone().any(|id| volume.snapshot_id() == Some(id))
                    }
                    filters => passes(filters, volume.tags(), None),
                });
                Ok(DescribeVolumesOutput::builder()
                    .set_volumes(Some(found.cloned().collect()))
                    .build())
            }
        );
        let delete = answers!(
            self,
            ec2::delete_volume,
            DeleteVolumeError,
            |state, request| {
                let id = request.volume_id().unwrap_or_default();
                state.call(format!("ec2:DeleteVolume {id}"))?;
                state
                    .volumes
                    .retain(|volume| volume.volume_id() != Some(id));
                Ok(DeleteVolumeOutput::builder().build())
            }
        );
        self.rules.ec2.extend([describe, delete]);
        self
    }

    /// Adds `snapshots`. EC2 keeps a snapshot that a machine image uses. A copy is complete at once.
    #[must_use]
    pub fn with_snapshots(mut self, snapshots: impl IntoIterator<Item = Snapshot>) -> Self {
        self.state().snapshots.extend(snapshots);
        let describe = answers!(
            self,
            ec2::describe_snapshots,
            DescribeSnapshotsError,
            |state, request| {
                state.call(format!(
                    "ec2:DescribeSnapshots {}",
                    request.snapshot_ids().join(" ")
                ))?;
                let found = if request.snapshot_ids().is_empty() {
                    assert_eq!(request.owner_ids(), ["self"], "others own snapshots too");
                    let snapshots = state.snapshots.iter();
                    let found = snapshots
                        .filter(|snapshot| passes(request.filters(), snapshot.tags(), None));
                    found.cloned().collect()
                } else {
                    with_ids(
                        &state.snapshots,
                        Snapshot::snapshot_id,
                        request.snapshot_ids(),
                        "InvalidSnapshot.NotFound",
                    )?
                };
                Ok(DescribeSnapshotsOutput::builder()
                    .set_snapshots(Some(found))
                    .build())
            }
        );
        let delete = answers!(
            self,
            ec2::delete_snapshot,
            DeleteSnapshotError,
            |state, request| {
                let id = request.snapshot_id().unwrap_or_default();
                state.call(format!("ec2:DeleteSnapshot {id}"))?;
                if state.in_images.contains(id) {
                    return Err(error("InvalidSnapshot.InUse"));
                }
                let snapshots = &mut state.snapshots;
                snapshots.retain(|snapshot| snapshot.snapshot_id() != Some(id));
                Ok(DeleteSnapshotOutput::builder().build())
            }
        );
        let create_tags = answers!(self, ec2::create_tags, CreateTagsError, |state, request| {
            let (id, new) = (&request.resources()[0], request.tags());
            let text = |tag: &Tag| {
                let (key, value) = (tag.key(), tag.value());
                format!("{}={}", key.unwrap_or_default(), value.unwrap_or_default())
            };
            let texts: Vec<_> = new.iter().map(text).collect();
            state.call(format!("ec2:CreateTags {id} {}", texts.join(" ")))?;
            let mut snapshots = state.snapshots.iter_mut();
            let snapshot = snapshots
                .find(|snapshot| snapshot.snapshot_id() == Some(id))
                .ok_or_else(|| error("InvalidSnapshot.NotFound"))?;
            let tags = snapshot.tags.get_or_insert_default();
            tags.retain(|tag| !new.iter().any(|new| new.key() == tag.key()));
            tags.extend_from_slice(new);
            Ok(CreateTagsOutput::builder().build())
        });
        let copy = answers!(
            self,
            ec2::copy_snapshot,
            CopySnapshotError,
            |state, request| {
                let source = request.source_snapshot_id().unwrap_or_default();
                let region = request.source_region().unwrap_or_default();
                state.call(format!("ec2:CopySnapshot {source} {region}"))?;
                let id = format!("snap-c{:016x}", state.snapshots.len());
                let tags = request.tag_specifications()[0].tags().to_vec();
                let copy = Snapshot::builder()
                    .snapshot_id(&id)
                    .state(SnapshotState::Completed)
                    .set_tags(Some(tags));
                state.snapshots.push(copy.build());
                Ok(CopySnapshotOutput::builder().snapshot_id(id).build())
            }
        );
        let share = answers!(
            self,
            ec2::modify_snapshot_attribute,
            ModifySnapshotAttributeError,
            |state, request| {
                let id = request.snapshot_id().unwrap_or_default();
                state.call(format!("ec2:ModifySnapshotAttribute {id}"))?;
                Ok(ModifySnapshotAttributeOutput::builder().build())
            }
        );
        let rules = [describe, delete, create_tags, copy, share];
        self.rules.ec2.extend(rules);
        self
    }

    /// Sets a tag of a snapshot.
    ///
    /// # Panics
    /// If the snapshot does not exist.
    pub fn set_tag(&self, id: &str, key: &str, value: &str) {
        let mut state = self.state();
        let mut snapshots = state.snapshots.iter_mut();
        let snapshot = snapshots.find(|found| found.snapshot_id() == Some(id));
        let tags = &mut snapshot.expect("the snapshot exists").tags;
        let tags = tags.get_or_insert_default();
        tags.retain(|tag| tag.key() != Some(key));
        tags.push(prepull_aws::tag(key, value));
    }

    /// Adds machine images that use the snapshots `in_images`, and a launch template that uses `in_templates`. Each of the
    /// latter has its version, 1 or 2. Version 2 is the latest.
    #[must_use]
    pub fn with_snapshot_users(
        mut self,
        in_images: &[String],
        in_templates: &[(String, i64)],
    ) -> Self {
        self.state().in_images.extend(in_images.iter().cloned());
        let in_templates = in_templates.iter().cloned();
        self.state().in_templates.extend(in_templates);
        let images = answers!(
            self,
            ec2::describe_images,
            DescribeImagesError,
            |state, request| {
                state.call("ec2:DescribeImages")?;
                assert_eq!(request.owners(), ["self"], "others own images too");
                let filter = &request.filters()[0];
                assert_eq!(filter.name(), Some("block-device-mapping.snapshot-id"));
                let used = state.in_images.iter();
                let found = used.filter(|id| filter.values().contains(id)).map(|id| {
                    let disk = EbsBlockDevice::builder().snapshot_id(id).build();
                    let mapping = BlockDeviceMapping::builder().ebs(disk).build();
                    Image::builder().block_device_mappings(mapping).build()
                });
                Ok(DescribeImagesOutput::builder()
                    .set_images(Some(found.collect()))
                    .build())
            }
        );
        let templates = answers!(
            self,
            ec2::describe_launch_template_versions,
            DescribeLaunchTemplateVersionsError,
            |state, request| {
                state.call("ec2:DescribeLaunchTemplateVersions")?;
                let all = request.launch_template_id() == Some(TEMPLATE);
                let latest = request.versions().contains(&"$Latest".to_owned());
                let versions = [1, 2]
                    .into_iter()
                    .filter(|version| all || (latest && *version == 2))
                    .map(|version| template_version(state, version));
                Ok(DescribeLaunchTemplateVersionsOutput::builder()
                    .set_launch_template_versions(Some(versions.collect()))
                    .build())
            }
        );
        self.rules.ec2.extend([images, templates]);
        self
    }

    /// Returns all instances.
    #[must_use]
    pub fn instances(&self) -> Vec<Instance> {
        self.state().instances.clone()
    }

    /// Returns the requests that launched an instance.
    #[must_use]
    pub fn launches(&self) -> Vec<RunInstancesInput> {
        self.state().launches.clone()
    }

    /// Returns all volumes.
    #[must_use]
    pub fn volumes(&self) -> Vec<Volume> {
        self.state().volumes.clone()
    }

    /// Returns all snapshots.
    #[must_use]
    pub fn snapshots(&self) -> Vec<Snapshot> {
        self.state().snapshots.clone()
    }
}
