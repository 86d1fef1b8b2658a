//! Checks the keys that encrypt volumes and snapshots.

use aws_sdk_kms::types::{KeyManagerType, KeyMetadata, KeyState};
use futures::future::join_all;
use prepull_aws::{AwsError as _, StageResult as _};
use prepull_domain::{CacheConfig, StageError};

use super::account::Account;
use super::roles::{Need, Refusal, simulate};
use super::{Caches, Check, Finding, found};

const CHECK: Check = Check::EncryptionKey;

/// Checks the key of each cache.
pub async fn check(account: &Account, caches: &Caches) -> Vec<Finding> {
    join_all(
        caches
            .iter()
            .map(async |(cache, config)| found(CHECK, of_cache(account, config).await).of(cache)),
    )
    .await
}

async fn of_cache(account: &Account, config: &CacheConfig) -> Result<Finding, StageError> {
    let default = config.volume.kms_key_id.is_none();
    let (what, remedy) = if default {
        (
            "the account's default key for EBS",
            "choose another default key, or set `volume.kms_key_id`",
        )
    } else {
        (
            "`volume.kms_key_id`",
            "set `volume.kms_key_id` to another key",
        )
    };
    let id = match &config.volume.kms_key_id {
        Some(id) => id.clone(),
        None => default_key(account).await?,
    };
    let Some(key) = describe(account, &id).await? else {
        return Ok(Finding::wrong(
            CHECK,
            format!("{what}, {id}, does not exist"),
            capitalized(remedy),
        ));
    };
    if key.key_state != Some(KeyState::Enabled) {
        let state = key.key_state.as_ref().map_or("unknown", KeyState::as_str);
        return Ok(Finding::wrong(
            CHECK,
            format!("{what}, {id}, is in the state {state}, so no builder can start"),
            format!("Enable the key, {remedy}"),
        ));
    }
    // EBS encrypts the copy with the key of the same ID in the other Region.
    let copies = !config.publication.copy_to_regions.is_empty();
    if copies && !default && key.multi_region != Some(true) {
        return Ok(Finding::wrong(
            CHECK,
            format!("{what}, {id}, exists in one Region only, but the cache copies to others"),
            "Use a multi-Region key with a replica in each Region of `publication.copy_to_regions`",
        ));
    }
    // AWS's own key admits every caller of the account that may use EBS.
    if key.key_manager == Some(KeyManagerType::Aws) {
        return Ok(Finding::fine(
            CHECK,
            format!("{what} is AWS's own, which every role may use"),
        ));
    }
    let arn = key.arn.unwrap_or(id);
    Ok(
        match simulate(account, "launch-builder", use_of(account, &arn)).await? {
            None => Finding::fine(
                CHECK,
                format!("{what}, {arn}, is enabled, and launch-builder may use it"),
            ),
            Some(refusal) => Finding::wrong(
                CHECK,
                match refusal {
                    Refusal::NoRole => format!("the role that uses {what}, {arn}, does not exist"),
                    Refusal::Actions(actions) => format!(
                        "launch-builder may not use {what}: its role {} may not call {}, so EC2 terminates each builder \
                     at its launch",
                        account.role("launch-builder"),
                        actions.join(", ")
                    ),
                },
                "Apply the module with Terraform, which grants the use of the key. If it plans no change, allow the \
             calls in the permissions boundary or the service control policy",
            ),
        },
    )
}

async fn default_key(account: &Account) -> Result<String, StageError> {
    let answer = account
        .clients
        .ec2
        .get_ebs_default_kms_key_id()
        .send()
        .await;
    let id = answer
        .or_stage_error("ec2:GetEbsDefaultKmsKeyId")?
        .kms_key_id;
    Ok(id.unwrap_or_else(|| "alias/aws/ebs".to_owned()))
}

/// Returns the key, or `None` if it does not exist. KMS creates AWS's own key at its first description.
///
/// Source: KMS API reference, "`DescribeKey`".
async fn describe(account: &Account, id: &str) -> Result<Option<KeyMetadata>, StageError> {
    match account.kms.describe_key().key_id(id).send().await {
        Ok(answer) => Ok(answer.key_metadata),
        Err(error) if error.aws_code() == Some("NotFoundException") => Ok(None),
        Err(error) => Err(error.into_stage_error("kms:DescribeKey")),
    }
}

/// Returns the permissions to create encrypted volumes.
///
/// Source: EBS User Guide, "Requirements for Amazon EBS encryption".
fn use_of(account: &Account, key: &str) -> [Need; 2] {
    let service = format!("ec2.{}.amazonaws.com", account.region);
    [
        Need::new(
            [
                "kms:Decrypt",
                "kms:DescribeKey",
                "kms:GenerateDataKeyWithoutPlaintext",
                "kms:ReEncryptFrom",
                "kms:ReEncryptTo",
            ],
            key,
        )
        .when("kms:ViaService", &service),
        Need::new(["kms:CreateGrant"], key)
            .when("kms:ViaService", &service)
            .when("kms:GrantIsForAWSResource", "true"),
    ]
}

fn capitalized(text: &str) -> String {
    let (first, rest) = text.split_at(1);
    first.to_uppercase() + rest
}
