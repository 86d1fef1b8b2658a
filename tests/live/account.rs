//! Checks before the first change of the account.

use anyhow::{Context as _, Result, bail, ensure};
use prepull_aws::ec2::types::Filter;
use prepull_aws::{Clients, instances, parameters};
use prepull_domain::names;

use crate::{NAME, Suite};

/// Path of all parameters of prepull.
const PARAMETERS: &str = "/prepull";

/// Asserts that the credentials belong to `account`. Terraform's provider asserts the same for its own credentials.
///
/// ECR's registry ID is the ID of the account. Source: ECR API reference, `DescribeRegistry`.
///
/// # Errors
/// Fails for every other account.
pub async fn ensure_account(clients: &Clients, account: &str) -> Result<()> {
    let registry = clients.ecr.describe_registry().send().await;
    let registry = registry.context("asking for the account failed. Check the credentials")?;
    let actual = registry.registry_id().context("ECR returned no account")?;
    ensure!(
        actual == account,
        "the credentials belong to account {actual}, not to {account}. Check --account and AWS_PROFILE"
    );
    Ok(())
}

/// Asserts that the account has no deployment of prepull in this Region, and nothing of an interrupted run.
///
/// An account can have one deployment in each Region, because the path of the parameters is fixed.
///
/// # Errors
/// Fails with the resources that exist.
pub async fn ensure_unoccupied(suite: &Suite) -> Result<()> {
    let clients = &suite.clients;
    let mut found: Vec<String> = parameters::below(clients, PARAMETERS)
        .await?
        .into_keys()
        .collect();
    let ours = Filter::builder()
        .name("tag-key")
        .values(names::TAG_CACHE)
        .build();
    let alive = Filter::builder()
        .name("instance-state-name")
        .set_values(Some(
            ["pending", "running", "stopping", "stopped"]
                .map(str::to_owned)
                .into(),
        ))
        .build();
    let instances = instances::find(clients, vec![ours.clone(), alive]).await?;
    found.extend(
        instances
            .into_iter()
            .map(|instance| instance.id.to_string()),
    );
    let snapshots = clients.ec2.describe_snapshots().owner_ids("self");
    let snapshots = snapshots.filters(ours).send().await?;
    found.extend(
        snapshots
            .snapshots()
            .iter()
            .filter_map(|snapshot| snapshot.snapshot_id().map(str::to_owned)),
    );
    if found.is_empty() {
        return Ok(());
    }
    bail!(
        "the Region already has resources of prepull: {}. Choose a Region without a deployment. If they belong to an \
         interrupted run, whose names start with {NAME}, remove them with --destroy",
        found.join(", ")
    )
}
