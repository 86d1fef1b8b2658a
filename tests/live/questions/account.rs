//! Questions about the account and its Region, before anything is deployed.

use anyhow::{Context as _, Result};
use prepull_aws::ec2::types::{Filter, LocationType};
use prepull_aws::{Clients, StageResult as _, parameters};
use prepull_domain::Architecture;

use crate::deploy::INSTANCE_TYPES;
use crate::{Suite, place};

/// Minor versions of Kubernetes to look for, beyond those that Bottlerocket has today.
const MINORS: std::ops::RangeInclusive<u32> = 28..=40;

/// Asks every question about the account.
pub async fn about_the_account(suite: &mut Suite) {
    let clients = suite.clients.clone();
    let sheet = &mut suite.sheet;
    sheet.record(
        "Does the account encrypt new EBS volumes by default?",
        "`GetEbsEncryptionByDefault`",
        encryption(&clients).await,
    );
    sheet.record(
        "Which key encrypts EBS volumes by default? A customer-managed key needs permissions that AWS's own key does not.",
        "`GetEbsDefaultKmsKeyId`",
        default_key(&clients).await,
    );
    sheet.record(
        "Do the subnets of the default VPC assign public IPv4 addresses? Without them, builders need a NAT gateway or VPC \
         endpoints.",
        "`DescribeSubnets`",
        subnets(&clients).await,
    );
    let architecture = suite.options.architecture;
    sheet.record(
        "Which instance types of the suite does the Region offer?",
        "`DescribeInstanceTypeOfferings`",
        instance_types(&clients, architecture).await,
    );
    sheet.record(
        "Which variants of Bottlerocket for Kubernetes have an AMI, and in which release?",
        "`GetParameter` of `/aws/service/bottlerocket/aws-k8s-<version>/<architecture>/latest/image_version`",
        variants(&clients, architecture).await,
    );
    sheet.record(
        "Do the SDK and Terraform reach AWS over TLS?",
        "every call of this run",
        if std::env::var_os("AWS_ENDPOINT_URL").is_none() {
            Ok((
                "Yes: the first calls of this run succeeded.".to_owned(),
                Vec::new(),
            ))
        } else {
            Err(anyhow::anyhow!("this run used {}", place()))
        },
    );
}

async fn encryption(clients: &Clients) -> Result<(String, Vec<String>)> {
    let answer = clients.ec2.get_ebs_encryption_by_default().send().await;
    let answer = answer.or_stage_error("ec2:GetEbsEncryptionByDefault")?;
    let is_default = answer.ebs_encryption_by_default().unwrap_or_default();
    let answer = if is_default { "Yes." } else { "No." };
    Ok((answer.to_owned(), Vec::new()))
}

async fn default_key(clients: &Clients) -> Result<(String, Vec<String>)> {
    let answer = clients.ec2.get_ebs_default_kms_key_id().send().await;
    let answer = answer.or_stage_error("ec2:GetEbsDefaultKmsKeyId")?;
    let key = answer.kms_key_id().context("EC2 returned no key")?;
    let kind = if key.ends_with("alias/aws/ebs") {
        "AWS's own key"
    } else {
        "a customer-managed key"
    };
    Ok((format!("{key}, {kind}."), Vec::new()))
}

async fn subnets(clients: &Clients) -> Result<(String, Vec<String>)> {
    let default = Filter::builder().name("default-for-az").values("true");
    let answer = clients.ec2.describe_subnets().filters(default.build());
    let answer = answer.send().await.or_stage_error("ec2:DescribeSubnets")?;
    let subnets = answer.subnets();
    let public = subnets
        .iter()
        .filter(|subnet| subnet.map_public_ip_on_launch() == Some(true));
    let evidence = subnets.iter().map(|subnet| {
        format!(
            "{} in {}: public addresses {}, {} addresses free",
            subnet.subnet_id().unwrap_or_default(),
            subnet.availability_zone().unwrap_or_default(),
            subnet.map_public_ip_on_launch().unwrap_or_default(),
            subnet.available_ip_address_count().unwrap_or_default()
        )
    });
    Ok((
        format!("{} of {} do.", public.count(), subnets.len()),
        evidence.collect(),
    ))
}

async fn instance_types(
    clients: &Clients,
    architecture: Architecture,
) -> Result<(String, Vec<String>)> {
    let wanted = INSTANCE_TYPES
        .into_iter()
        .find(|(name, _)| *name == architecture.as_str())
        .context("every architecture has instance types")?
        .1;
    let filter = Filter::builder()
        .name("instance-type")
        .set_values(Some(wanted.map(str::to_owned).into()));
    let answer = clients.ec2.describe_instance_type_offerings();
    let answer = answer
        .location_type(LocationType::AvailabilityZone)
        .filters(filter.build())
        .send()
        .await
        .or_stage_error("ec2:DescribeInstanceTypeOfferings")?;
    let zones_of = |name: &str| {
        let offerings = answer.instance_type_offerings().iter();
        let zones: Vec<_> = offerings
            .filter(|offering| {
                offering
                    .instance_type()
                    .is_some_and(|kind| kind.as_str() == name)
            })
            .filter_map(|offering| offering.location())
            .collect();
        zones.join(", ")
    };
    let offered: Vec<_> = wanted
        .into_iter()
        .filter(|name| !zones_of(name).is_empty())
        .collect();
    Ok((
        format!("{}.", offered.join(", ")),
        wanted
            .map(|name| format!("{name}: {}", zones_of(name)))
            .into(),
    ))
}

async fn variants(clients: &Clients, architecture: Architecture) -> Result<(String, Vec<String>)> {
    let mut found = Vec::new();
    for minor in MINORS {
        let variant = format!("aws-k8s-1.{minor}");
        let name =
            format!("/aws/service/bottlerocket/{variant}/{architecture}/latest/image_version");
        if let Some(version) = parameters::get(clients, &name).await? {
            found.push(format!("{variant}: {version}"));
        }
    }
    let first = found.first().and_then(|found| found.split_once(':'));
    let last = found.last().and_then(|found| found.split_once(':'));
    let (first, last) = first.zip(last).context("no variant has an AMI")?;
    Ok((format!("{} to {}.", first.0, last.0), found))
}
