//! Removal of everything, and its proof.

use std::time::Duration;

use anyhow::{Context as _, Result};
use prepull::StateMachine;
use prepull_aws::ec2::types::{Filter, InstanceStateName};
use prepull_aws::sfn::types::ExecutionStatus;
use prepull_aws::ssm::types::DocumentKeyValuesFilter;
use prepull_aws::{AwsError as _, Clients, Deadline, StageResult as _, instances, parameters};
use prepull_domain::names;
use prepull_tests::Deployment;
use serde_json::json;

use crate::{CACHE, MISSING, NAME, NODE_TAG, Suite, deploy};

/// Attempts of `terraform destroy`. A second Ctrl-C on the terminal interrupts Terraform too.
const ATTEMPTS: u32 = 3;

/// Time limit and poll interval for the end of instances, which takes minutes, and for the eventually consistent lists of
/// resources.
const WAIT: (Duration, Duration) = (Duration::from_secs(600), Duration::from_secs(5));

/// Removes every resource of the suite. Returns the resources that are still there at the time limit.
///
/// The order matters. A running build would create resources again, and a security group in use cannot be deleted.
///
/// # Errors
/// Fails if AWS refuses a removal.
pub async fn everything(suite: &mut Suite) -> Result<Vec<String>> {
    let clients = suite.clients.clone();
    stop_builds(&clients).await?;
    remove_machines(&clients).await?;
    let deployment = match suite.deployment.take() {
        Some(deployment) => deployment,
        None => deploy::prepare(suite, &suite.options.images)?,
    };
    let mut result = Ok(());
    for _ in 0..ATTEMPTS {
        result = tokio::task::block_in_place(|| deployment.destroy());
        match &result {
            Ok(()) => break,
            Err(error) => eprintln!("{error:#}"),
        }
    }
    result?;
    // A function that still ran may have launched an instance meanwhile.
    remove_machines(&clients).await?;
    remove_templates(&clients).await?;
    for snapshot in snapshots(&clients).await? {
        let delete = clients.ec2.delete_snapshot().snapshot_id(snapshot);
        delete.send().await.or_stage_error("ec2:DeleteSnapshot")?;
    }
    for parameter in parameters_of_caches(&clients).await? {
        parameters::delete(&clients, &parameter).await?;
    }
    println!("Everything is removed. Searching for remaining resources.");
    remaining(suite).await
}

/// Stops every running build.
async fn stop_builds(clients: &Clients) -> Result<()> {
    let Some(machine) = state_machine(clients).await? else {
        return Ok(());
    };
    let mut running = clients
        .sfn
        .list_executions()
        .state_machine_arn(machine)
        .status_filter(ExecutionStatus::Running)
        .into_paginator()
        .items()
        .send();
    while let Some(execution) = running.next().await {
        let execution = execution.or_stage_error("states:ListExecutions")?;
        println!("Stopping {}.", execution.name());
        let stop = clients.sfn.stop_execution();
        let stop = stop.execution_arn(execution.execution_arn()).send().await;
        stop.or_stage_error("states:StopExecution")?;
    }
    Ok(())
}

async fn state_machine(clients: &Clients) -> Result<Option<String>> {
    match StateMachine::named(NAME, None).arn(clients).await {
        Ok(arn) => Ok(Some(arn)),
        // The deployment has no state machine, or no longer.
        Err(prepull::Error::Usage(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Terminates the suite's instances, waits for their end, and deletes volumes that they leave.
async fn remove_machines(clients: &Clients) -> Result<()> {
    for instance in living_instances(clients).await? {
        println!("Terminating {instance}.");
        let terminate = clients.ec2.terminate_instances().instance_ids(instance);
        terminate
            .send()
            .await
            .or_stage_error("ec2:TerminateInstances")?;
    }
    let (limit, interval) = WAIT;
    let deadline = Deadline::after(limit);
    while !living_instances(clients).await?.is_empty() {
        deadline.pause(interval, "instances to terminate").await?;
    }
    for volume in volumes(clients).await? {
        let delete = clients.ec2.delete_volume().volume_id(volume).send().await;
        match delete {
            // EC2 deletes the volumes of a terminated instance itself.
            Err(error) if error.aws_code() == Some("InvalidVolume.NotFound") => {}
            other => drop(other.or_stage_error("ec2:DeleteVolume")?),
        }
    }
    Ok(())
}

async fn remove_templates(clients: &Clients) -> Result<()> {
    for template in templates(clients).await? {
        let delete = clients.ec2.delete_launch_template();
        let delete = delete.launch_template_name(template).send().await;
        delete.or_stage_error("ec2:DeleteLaunchTemplate")?;
    }
    Ok(())
}

/// Returns the filters for resources of builds, and for those of nodes. They do not match other deployments.
fn filters() -> [Filter; 2] {
    let filter = |key: &str, values: &[&str]| {
        Filter::builder()
            .name(format!("tag:{key}"))
            .set_values(Some(values.iter().map(ToString::to_string).collect()))
            .build()
    };
    [
        filter(names::TAG_CACHE, &[CACHE, MISSING]),
        filter(NODE_TAG, &["node"]),
    ]
}

async fn living_instances(clients: &Clients) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for filter in filters() {
        let instances = instances::find(clients, vec![filter]).await?;
        found.extend(
            instances
                .into_iter()
                .filter(|instance| instance.state != InstanceStateName::Terminated)
                .map(|instance| instance.id.to_string()),
        );
    }
    Ok(found)
}

async fn volumes(clients: &Clients) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for filter in filters() {
        let volumes = clients.ec2.describe_volumes().filters(filter).send().await;
        let volumes = volumes.or_stage_error("ec2:DescribeVolumes")?;
        found.extend(ids(volumes.volumes(), |volume| volume.volume_id()));
    }
    Ok(found)
}

async fn snapshots(clients: &Clients) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for filter in filters() {
        let snapshots = clients.ec2.describe_snapshots().owner_ids("self");
        let snapshots = snapshots.filters(filter).send().await;
        let snapshots = snapshots.or_stage_error("ec2:DescribeSnapshots")?;
        found.extend(ids(snapshots.snapshots(), |snapshot| {
            snapshot.snapshot_id()
        }));
    }
    Ok(found)
}

async fn templates(clients: &Clients) -> Result<Vec<String>> {
    let templates = clients.ec2.describe_launch_templates();
    let name = Filter::builder().name("launch-template-name").values(NAME);
    let templates = templates.filters(name.build()).send().await;
    let templates = templates.or_stage_error("ec2:DescribeLaunchTemplates")?;
    Ok(ids(templates.launch_templates(), |template| {
        template.launch_template_name()
    })
    .collect())
}

async fn parameters_of_caches(clients: &Clients) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for cache in [CACHE, MISSING] {
        let below = parameters::below(clients, &format!("/prepull/{cache}")).await?;
        found.extend(below.into_keys());
        let config = format!("{}/{cache}", names::CONFIG_PATH);
        if parameters::get(clients, &config).await?.is_some() {
            found.push(config);
        }
    }
    Ok(found)
}

/// Searches for resources until none is found or the time is over.
async fn remaining(suite: &Suite) -> Result<Vec<String>> {
    let (limit, interval) = WAIT;
    let deadline = Deadline::after(limit);
    let named = named(suite)?;
    loop {
        let mut left = tagged(&suite.clients).await?;
        left.extend(tokio::task::block_in_place(|| {
            named.apply()?;
            let left = named.outputs()?["left"]["value"].take();
            serde_json::from_value::<Vec<String>>(left).context("Terraform's output is no list")
        })?);
        if left.is_empty() || deadline.pause(interval, "").await.is_err() {
            return Ok(left);
        }
        println!("Still there: {}", left.join(", "));
    }
}

/// Returns the remaining resources in services for which prepull has a client.
async fn tagged(clients: &Clients) -> Result<Vec<String>> {
    let mut left = living_instances(clients).await?;
    left.extend(volumes(clients).await?);
    left.extend(snapshots(clients).await?);
    left.extend(templates(clients).await?);
    left.extend(parameters_of_caches(clients).await?);
    left.extend(state_machine(clients).await?);
    for filter in filters() {
        let interfaces = clients.ec2.describe_network_interfaces();
        let interfaces = interfaces.filters(filter.clone()).send().await;
        let interfaces = interfaces.or_stage_error("ec2:DescribeNetworkInterfaces")?;
        left.extend(ids(interfaces.network_interfaces(), |interface| {
            interface.network_interface_id()
        }));
        let images = clients.ec2.describe_images().owners("self").filters(filter);
        let images = images.send().await.or_stage_error("ec2:DescribeImages")?;
        left.extend(ids(images.images(), |image| image.image_id()));
    }
    let groups = Filter::builder()
        .name("group-name")
        .values(format!("{NAME}-*"));
    let groups = clients
        .ec2
        .describe_security_groups()
        .filters(groups.build());
    let groups = groups.send().await;
    let groups = groups.or_stage_error("ec2:DescribeSecurityGroups")?;
    left.extend(ids(groups.security_groups(), |group| group.group_id()));
    let rules = clients.events.list_rules().name_prefix(format!("{NAME}-"));
    let rules = rules.send().await.or_stage_error("events:ListRules")?;
    left.extend(ids(rules.rules(), |rule| rule.arn()));
    let prefix = DocumentKeyValuesFilter::builder().key("Name").values(NAME);
    let documents = clients.ssm.list_documents().filters(prefix.build());
    let documents = documents.send().await.or_stage_error("ssm:ListDocuments")?;
    left.extend(ids(documents.document_identifiers(), |document| {
        document.name()
    }));
    Ok(left)
}

/// Returns the Terraform configuration that searches by name in all other services.
fn named(suite: &Suite) -> Result<Deployment> {
    let variables = json!({
        "account": suite.account,
        "region": suite.options.region,
        "name": NAME,
    });
    let state = std::path::absolute(suite.options.output.join("terraform-leftovers"))?;
    Deployment::of_module(
        &suite.environment,
        "tests/live/leftovers",
        state,
        &variables,
    )
}

fn ids<'a, T>(
    resources: &'a [T],
    id: impl Fn(&'a T) -> Option<&'a str>,
) -> impl Iterator<Item = String> {
    resources
        .iter()
        .filter_map(move |resource| id(resource).map(str::to_owned))
}
