//! The calls to EC2 for launch templates.

use std::collections::BTreeSet;
use std::time::Duration;

use prepull_aws::ec2::types::{
    Filter, InstanceStateName, LaunchTemplate, LaunchTemplateBlockDeviceMapping,
    LaunchTemplateBlockDeviceMappingRequest, LaunchTemplateEbsBlockDeviceRequest,
    LaunchTemplateVersion, RequestLaunchTemplateData,
};
use prepull_aws::instances::InstanceRecord;
use prepull_aws::{AwsError, Clients, Deadline, StageResult, instances, tag_filter};
use prepull_domain::{BottlerocketVersion, LaunchTemplateId, SnapshotId, StageError};
use prepull_kubernetes::annotations;

use super::difference;
use super::plan::{Image, NewVersion, Template, Version, description};

/// Maximum number of versions in one `DeleteLaunchTemplateVersions`.
///
/// Source: Amazon EC2 API reference, `DeleteLaunchTemplateVersions`.
const MAX_DELETED: usize = 200;

/// EC2's error codes for a launch template and for a version that do not exist.
const GONE: &str = "InvalidLaunchTemplateId.NotFound";
const NO_VERSION: &str = "InvalidLaunchTemplateId.VersionNotFound";

/// Tags of EC2 on an instance from a launch template.
///
/// Source: Amazon EC2 user guide, "Launch EC2 instances using a launch template".
const TEMPLATE_TAG: &str = "aws:ec2launchtemplate:id";
const VERSION_TAG: &str = "aws:ec2launchtemplate:version";

/// Maximum wait until EC2 returns a new version, and its poll interval. EC2's API is eventually consistent.
const READ_BACK: Duration = Duration::from_secs(30);
const READ_BACK_INTERVAL: Duration = Duration::from_secs(1);

/// A failed call for a launch template.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    /// Someone deleted the template.
    #[error("the launch template does not exist")]
    Gone,
    /// EC2 stored another version than the requested one.
    #[error(
        "EC2 stored another version than requested: {difference}. The default version is unchanged{rest}. Create this version \
         by hand, or report the problem"
    )]
    ReadBack {
        difference: String,
        /// Result of [`discard`].
        rest: String,
    },
    /// A call failed.
    #[error(transparent)]
    Call(#[from] StageError),
}

fn failed(error: impl AwsError, call: &'static str) -> CallError {
    if error.aws_code() == Some(GONE) {
        CallError::Gone
    } else {
        error.into_stage_error(call).into()
    }
}

/// Returns the launch templates with a tag that opts in.
pub(super) async fn opted_in(clients: &Clients) -> Result<Vec<LaunchTemplate>, StageError> {
    let filter = Filter::builder()
        .name("tag-key")
        .values(annotations::CACHE)
        .values(annotations::ARCHITECTURE)
        .values(annotations::CHANNEL)
        .values(annotations::RING)
        .build();
    let request = clients.ec2.describe_launch_templates().filters(filter);
    let mut pages = request.into_paginator().send();
    let mut found = Vec::new();
    while let Some(page) = pages.next().await {
        let page = page.or_stage_error("ec2:DescribeLaunchTemplates")?;
        found.extend(page.launch_templates.unwrap_or_default());
    }
    Ok(found)
}

/// Returns a launch template with all its versions.
pub(super) async fn template(
    clients: &Clients,
    id: &LaunchTemplateId,
) -> Result<Template, CallError> {
    let request = clients.ec2.describe_launch_template_versions();
    let request = request.launch_template_id(id.as_str());
    let mut pages = request.into_paginator().send();
    let mut template = Template {
        id: id.clone(),
        default: 0,
        versions: Vec::new(),
    };
    while let Some(page) = pages.next().await {
        let page = page.map_err(|error| failed(error, "ec2:DescribeLaunchTemplateVersions"))?;
        for version in page.launch_template_versions.unwrap_or_default() {
            let is_default = version.default_version() == Some(true);
            let Some(version) = parse(version) else {
                continue;
            };
            if is_default {
                template.default = version.number;
            }
            template.versions.push(version);
        }
    }
    Ok(template)
}

/// Parses a version. `None` if it has no number or no data, which EC2 always sets.
fn parse(version: LaunchTemplateVersion) -> Option<Version> {
    let description = version.version_description;
    Some(Version::new(
        version.version_number?,
        description.as_deref(),
        version.launch_template_data?,
    ))
}

/// Creates a version, reads it back and compares all its parameters. It deletes a version that differs.
///
/// `token` makes EC2 create one version for two callers.
pub(super) async fn create(
    clients: &Clients,
    template: &LaunchTemplateId,
    snapshot: &SnapshotId,
    new: &NewVersion,
    token: &str,
) -> Result<i64, CallError> {
    // A new version inherits all other parameters from its source.
    // Source: EC2 API reference, "CreateLaunchTemplateVersion", `SourceVersion`: "Snapshots applied to the block device
    // mapping are ignored when creating a new version unless they are explicitly included."
    let mappings = new.data.block_device_mappings().iter().map(request_of);
    let data = RequestLaunchTemplateData::builder()
        .set_block_device_mappings(Some(mappings.collect()))
        .build();
    let answer = clients
        .ec2
        .create_launch_template_version()
        .launch_template_id(template.as_str())
        .source_version(new.source.to_string())
        .version_description(description(snapshot))
        .launch_template_data(data)
        .client_token(token)
        .send()
        .await
        .map_err(|error| failed(error, "ec2:CreateLaunchTemplateVersion"))?;
    let number = answer
        .launch_template_version
        .and_then(|version| version.version_number)
        .ok_or_else(|| StageError::AwsFailed {
            call: "ec2:CreateLaunchTemplateVersion",
            message: "EC2 returned no version number".to_owned(),
        })?;
    let stored = read_back(clients, template, number).await?;
    match difference::first(&new.data, &stored.data) {
        None => Ok(number),
        Some(difference) => Err(CallError::ReadBack {
            difference,
            rest: discard(clients, template, number).await,
        }),
    }
}

/// Deletes a version that must not become the default version. Returns a part of a message: empty, or the failure.
pub(super) async fn discard(clients: &Clients, template: &LaunchTemplateId, number: i64) -> String {
    match delete(clients, template, &[number]).await {
        Ok(()) => String::new(),
        Err(error) => format!(", and version {number} could not be deleted: {error}"),
    }
}

async fn read_back(
    clients: &Clients,
    template: &LaunchTemplateId,
    number: i64,
) -> Result<Version, CallError> {
    let waiting_for = format!("version {number} of {template}");
    let version = Deadline::after(READ_BACK)
        .poll(READ_BACK_INTERVAL, &waiting_for, async || {
            let request = clients.ec2.describe_launch_template_versions();
            let answer = request
                .launch_template_id(template.as_str())
                .versions(number.to_string())
                .send()
                .await;
            match answer {
                Ok(answer) => {
                    let versions = answer.launch_template_versions.unwrap_or_default();
                    Ok(versions.into_iter().find_map(parse))
                }
                Err(error) if error.aws_code() == Some(NO_VERSION) => Ok(None),
                Err(error) => Err(error.into_stage_error("ec2:DescribeLaunchTemplateVersions")),
            }
        })
        .await?;
    Ok(version)
}

/// Converts a mapping for a request.
fn request_of(
    mapping: &LaunchTemplateBlockDeviceMapping,
) -> LaunchTemplateBlockDeviceMappingRequest {
    let ebs = mapping.ebs().map(|ebs| {
        LaunchTemplateEbsBlockDeviceRequest::builder()
            .set_encrypted(ebs.encrypted)
            .set_delete_on_termination(ebs.delete_on_termination)
            .set_iops(ebs.iops)
            .set_kms_key_id(ebs.kms_key_id.clone())
            .set_snapshot_id(ebs.snapshot_id.clone())
            .set_volume_size(ebs.volume_size)
            .set_volume_type(ebs.volume_type.clone())
            .set_throughput(ebs.throughput)
            .set_volume_initialization_rate(ebs.volume_initialization_rate)
            .set_ebs_card_index(ebs.ebs_card_index)
            .build()
    });
    LaunchTemplateBlockDeviceMappingRequest::builder()
        .set_device_name(mapping.device_name.clone())
        .set_virtual_name(mapping.virtual_name.clone())
        .set_no_device(mapping.no_device.clone())
        .set_ebs(ebs)
        .build()
}

/// Returns the versions that instances of the template have. Auto Scaling groups are among their owners, but not the node groups
/// of EKS, which use a copy of the template. EC2 lists a terminated instance for about an hour, and it uses nothing.
pub(super) async fn versions_in_use(
    clients: &Clients,
    template: &LaunchTemplateId,
) -> Result<BTreeSet<i64>, StageError> {
    let filters = vec![tag_filter(TEMPLATE_TAG, template.as_str())];
    let found = instances::find(clients, filters).await?;
    let has_ended = |instance: &InstanceRecord| {
        matches!(
            instance.state,
            InstanceStateName::ShuttingDown | InstanceStateName::Terminated
        )
    };
    let version = |instance: &InstanceRecord| instance.tag(VERSION_TAG)?.parse().ok();
    let alive = found.iter().filter(|instance| !has_ended(instance));
    Ok(alive.filter_map(version).collect())
}

/// Makes a version the default one.
pub(super) async fn set_default(
    clients: &Clients,
    template: &LaunchTemplateId,
    version: i64,
) -> Result<(), CallError> {
    clients
        .ec2
        .modify_launch_template()
        .launch_template_id(template.as_str())
        .default_version(version.to_string())
        .send()
        .await
        .map_err(|error| failed(error, "ec2:ModifyLaunchTemplate"))?;
    Ok(())
}

/// Deletes versions. A version that does not exist counts as deleted.
pub(super) async fn delete(
    clients: &Clients,
    template: &LaunchTemplateId,
    versions: &[i64],
) -> Result<(), CallError> {
    for versions in versions.chunks(MAX_DELETED) {
        let answer = clients
            .ec2
            .delete_launch_template_versions()
            .launch_template_id(template.as_str())
            .set_versions(Some(versions.iter().map(i64::to_string).collect()))
            .send()
            .await
            .map_err(|error| failed(error, "ec2:DeleteLaunchTemplateVersions"))?;
        // EC2 reports failures of single versions in a successful answer.
        // Source: EC2 API reference, "DeleteLaunchTemplateVersionsResponseErrorItem".
        for item in answer.unsuccessfully_deleted_launch_template_versions() {
            let error = item.response_error();
            let code = error.and_then(|error| Some(error.code()?.as_str()));
            if code == Some("launchTemplateVersionDoesNotExist") {
                continue;
            }
            let message = error.and_then(|error| error.message());
            return Err(CallError::Call(StageError::AwsFailed {
                call: "ec2:DeleteLaunchTemplateVersions",
                message: format!(
                    "version {}: {}: {}",
                    item.version_number().unwrap_or_default(),
                    code.unwrap_or("no code"),
                    message.unwrap_or("no message")
                ),
            }));
        }
    }
    Ok(())
}

/// Prefix of an image that is a parameter of Systems Manager.
const PARAMETER: &str = "resolve:ssm:";
/// Path of Bottlerocket's public parameters. Variant, architecture and release follow.
const BOTTLEROCKET: &str = "/aws/service/bottlerocket/";

/// Returns the facts about the image of a template. An unknown image has none.
pub(super) async fn image(clients: &Clients, image: Option<&str>) -> Result<Image, StageError> {
    match image {
        None => Ok(Image::default()),
        Some(image) => match image.strip_prefix(PARAMETER) {
            Some(parameter) => Ok(of_parameter(parameter)),
            None => of_id(clients, image).await,
        },
    }
}

/// Returns the facts in the name of a public parameter. `latest` is not a release.
fn of_parameter(parameter: &str) -> Image {
    let mut parts = parameter
        .strip_prefix(BOTTLEROCKET)
        .unwrap_or_default()
        .split('/')
        .skip(1);
    Image {
        architecture: parts.next().and_then(|text| text.parse().ok()),
        release: parts.next().and_then(|text| text.parse().ok()),
    }
}

async fn of_id(clients: &Clients, id: &str) -> Result<Image, StageError> {
    let answer = clients.ec2.describe_images().image_ids(id).send().await;
    let answer = answer.or_stage_error("ec2:DescribeImages")?;
    let Some(image) = answer.images().first() else {
        return Ok(Image::default());
    };
    let architecture = image.architecture();
    Ok(Image {
        architecture: architecture.and_then(|architecture| architecture.as_str().parse().ok()),
        release: image.name().and_then(release_of),
    })
}

/// Returns the release in the name of one of Bottlerocket's images, such as
/// `bottlerocket-aws-k8s-1.33-x86_64-v1.57.0-0123abcd`.
fn release_of(name: &str) -> Option<BottlerocketVersion> {
    let (_, rest) = name.strip_prefix("bottlerocket-")?.rsplit_once("-v")?;
    rest.split('-').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use prepull_domain::Architecture;

    use super::*;

    #[test]
    fn image_facts_come_from_names_of_bottlerocket() {
        let image = of_parameter("/aws/service/bottlerocket/aws-k8s-1.33/arm64/1.50.0/image_id");
        assert_eq!(image.architecture, Some(Architecture::Arm64));
        assert_eq!(image.release, "1.50.0".parse().ok());
        let latest = of_parameter("/aws/service/bottlerocket/aws-k8s-1.33/x86_64/latest/image_id");
        assert_eq!(latest.release, None);
        assert_eq!(of_parameter("/team/image"), Image::default());
        let name = "bottlerocket-aws-k8s-1.33-x86_64-v1.57.0-0123abcd";
        assert_eq!(release_of(name), "1.57.0".parse().ok());
        for other in ["al2023-ami-v1.2.3", "bottlerocket", "bottlerocket-copy-v2"] {
            assert_eq!(release_of(other), None, "{other}");
        }
    }
}
