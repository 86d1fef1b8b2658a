//! Compares the deployed state machine, documents, rules, schedules and pointers with this version.

use std::collections::BTreeSet;

use aws_sdk_scheduler::types::{ScheduleState, TargetSummary};
use futures::{future::join_all, join};
use prepull_aws::ec2::types::SnapshotState;
use prepull_aws::eventbridge::types::RuleState;
use prepull_aws::ssm::types::DocumentFormat;
use prepull_aws::{AwsError as _, StageResult as _, parameters, snapshots};
use prepull_domain::node::Document;
use prepull_domain::{CacheConfig, CacheName, ImageReference, Stage, StageError, names};
use prepull_machines::documents::content;
use serde_json::Value;

use super::account::Account;
use super::{Caches, Check, Finding, found};

/// The definition of the state machine, with placeholders for ARNs.
const DEFINITION: &str = include_str!("../../../statemachine/build.asl.json");
/// The list of retriers that all tasks share.
const RETRIERS: &str = include_str!("../../../statemachine/retry.json");

const APPLY: &str = "Apply the module with Terraform";
const SAME_VERSION: &str =
    "Apply the module of this version with Terraform, or use the CLI of the deployed version";

/// Name of the schedule that removes orphans.
const SWEEP: &str = "sweep";

/// Checks the deployment and the pointers.
pub async fn check(account: &Account, caches: &Caches) -> Vec<Finding> {
    let (machine, documents, rules, schedules, pointers) = join!(
        state_machine(account),
        documents(account),
        rules(account, caches),
        schedules(account),
        pointers(account, caches),
    );
    let mut findings = vec![
        found(Check::StateMachine, machine),
        found(Check::Documents, documents),
        found(Check::Rules, rules),
        found(Check::Schedules, schedules),
    ];
    findings.extend(pointers);
    findings
}

async fn state_machine(account: &Account) -> Result<Finding, StageError> {
    let check = Check::StateMachine;
    let deployed = account
        .clients
        .sfn
        .describe_state_machine()
        .state_machine_arn(&account.machine)
        .send()
        .await;
    let deployed = match deployed {
        Err(error) if error.aws_code() == Some("StateMachineDoesNotExist") => {
            let message = format!("{} does not exist", account.machine);
            return Ok(Finding::wrong(check, message, APPLY));
        }
        other => other.or_stage_error("states:DescribeStateMachine")?,
    };
    let expected = definition(account);
    // A definition that is no JSON is not this version's either.
    let deployed = serde_json::from_str(deployed.definition()).unwrap_or(Value::Null);
    Ok(if deployed == expected {
        Finding::fine(check, "the definition is this version's")
    } else {
        let states = different_states(&expected, &deployed);
        Finding::wrong(
            check,
            format!("the definition is another version's: it differs in {states}"),
            SAME_VERSION,
        )
    })
}

/// Returns the definition that Terraform deploys.
fn definition(account: &Account) -> Value {
    // The list takes the place of one element of another list.
    let retriers = RETRIERS.trim().trim_matches(['[', ']']);
    let mut text = DEFINITION
        .replace("${partition}", &account.partition)
        .replace("\"shared-retry\"", retriers);
    for &stage in Stage::ALL {
        let placeholder = format!("${{{}_arn}}", stage.as_str().replace('-', "_"));
        text = text.replace(&placeholder, &account.function(stage));
    }
    serde_json::from_str(&text).expect("the definition of this version is JSON")
}

fn different_states(expected: &Value, deployed: &Value) -> String {
    let names: BTreeSet<_> = [expected, deployed]
        .into_iter()
        .filter_map(|definition| definition["States"].as_object())
        .flat_map(|states| states.keys())
        .filter(|name| expected["States"][*name] != deployed["States"][*name])
        .map(String::as_str)
        .collect();
    if names.is_empty() {
        "its settings".to_owned()
    } else {
        Vec::from_iter(names).join(", ")
    }
}

async fn documents(account: &Account) -> Result<Finding, StageError> {
    let check = Check::Documents;
    let mut different = Vec::new();
    for &document in Document::ALL {
        let name = document.name(&account.name);
        let answer = account
            .clients
            .ssm
            .get_document()
            .name(&name)
            .document_format(DocumentFormat::Yaml)
            .send()
            .await;
        let deployed = match answer {
            Err(error) if error.aws_code() == Some("InvalidDocument") => {
                let message = format!("document {name} does not exist");
                return Ok(Finding::wrong(check, message, APPLY));
            }
            other => other.or_stage_error("ssm:GetDocument")?.content,
        };
        if deployed.as_deref().map(str::trim) != Some(content(document).trim()) {
            different.push(name);
        }
    }
    Ok(if different.is_empty() {
        Finding::fine(check, "the documents are this version's")
    } else {
        let names = different.join(", ");
        Finding::wrong(
            check,
            format!("another version's document is deployed: {names}"),
            SAME_VERSION,
        )
    })
}

async fn rules(account: &Account, caches: &Caches) -> Result<Finding, StageError> {
    // Pushes to other Regions have no event here.
    let pushed: BTreeSet<_> = caches
        .values()
        .filter(|config| config.rebuild_on_push)
        .flat_map(|config| &config.images)
        .filter_map(ImageReference::ecr)
        .filter(|ecr| ecr.region == account.region && ecr.account.as_str() == account.id)
        .map(|ecr| ecr.repository)
        .collect();
    let clean_up = rule(
        account,
        "failed-build",
        Stage::CleanUp,
        "failed builds leave their instances until the hourly sweep",
        |pattern| {
            pattern["detail"]["stateMachineArn"] == Value::from(vec![account.machine.as_str()])
        },
    )
    .await?;
    if let Some(wrong) = clean_up {
        return Ok(wrong);
    }
    if !pushed.is_empty() {
        let push = rule(
            account,
            "push",
            Stage::StartBuild,
            "pushes to ECR start no build",
            |pattern| {
                // If the names do not fit into a pattern, it has none.
                let names = pattern["detail"]["repository-name"].as_array();
                names.is_none_or(|names| {
                    let has = |name: &str| names.iter().any(|one| one == name);
                    pushed.iter().all(|repository| has(repository))
                })
            },
        )
        .await?;
        if let Some(wrong) = push {
            return Ok(wrong);
        }
    }
    Ok(Finding::fine(
        Check::Rules,
        "the rules are enabled and call their functions",
    ))
}

/// Checks one rule: its state, its pattern and its target.
async fn rule(
    account: &Account,
    name: &str,
    stage: Stage,
    consequence: &str,
    matches: impl FnOnce(&Value) -> bool,
) -> Result<Option<Finding>, StageError> {
    let name = format!("{}-{name}", account.name);
    let wrong = |problem: &str, remedy: &str| {
        let message = format!("rule {name} {problem}, so {consequence}");
        Ok(Some(Finding::wrong(Check::Rules, message, remedy)))
    };
    let events = &account.clients.events;
    let described = match events.describe_rule().name(&name).send().await {
        Err(error) if error.aws_code() == Some("ResourceNotFoundException") => {
            return wrong("does not exist", APPLY);
        }
        other => other.or_stage_error("events:DescribeRule")?,
    };
    if described.state == Some(RuleState::Disabled) {
        return wrong("is disabled", "Enable the rule");
    }
    let pattern = described.event_pattern().unwrap_or_default();
    if !matches(&serde_json::from_str(pattern).unwrap_or(Value::Null)) {
        return wrong("has a pattern for other events", APPLY);
    }
    let targets = events.list_targets_by_rule().rule(&name).send().await;
    let targets = targets.or_stage_error("events:ListTargetsByRule")?;
    let function = account.function(stage);
    if !targets.targets().iter().any(|one| one.arn() == function) {
        return wrong(&format!("does not call {function}"), APPLY);
    }
    Ok(None)
}

/// Checks the schedules. Terraform deletes a schedule that a cache does not want, so a disabled one was disabled by hand.
async fn schedules(account: &Account) -> Result<Finding, StageError> {
    let check = Check::Schedules;
    let mut listed = account
        .scheduler
        .list_schedules()
        .group_name(&account.name)
        .into_paginator()
        .items()
        .send();
    let mut names = BTreeSet::new();
    while let Some(schedule) = listed.next().await {
        let schedule = schedule.or_stage_error("scheduler:ListSchedules")?;
        let name = schedule.name().unwrap_or_default().to_owned();
        if schedule.state == Some(ScheduleState::Disabled) {
            let message = format!("schedule {name} of group {} is disabled", account.name);
            return Ok(Finding::wrong(check, message, "Enable the schedule"));
        }
        let stage = if name == SWEEP {
            Stage::CleanUp
        } else {
            Stage::StartBuild
        };
        let function = account.function(stage);
        if schedule.target().map(TargetSummary::arn) != Some(function.as_str()) {
            let message = format!(
                "schedule {name} of group {} does not call {function}",
                account.name
            );
            return Ok(Finding::wrong(check, message, APPLY));
        }
        names.insert(name);
    }
    if !names.remove(SWEEP) {
        let message = format!(
            "schedule {SWEEP} of group {} does not exist, so orphans stay",
            account.name
        );
        return Ok(Finding::wrong(check, message, APPLY));
    }
    let message = if names.is_empty() {
        "the sweep is enabled; no cache has a schedule".to_owned()
    } else {
        let names = Vec::from_iter(names).join(", ");
        format!("the sweep is enabled, and so are {names}")
    };
    Ok(Finding::fine(check, message))
}

async fn pointers(account: &Account, caches: &Caches) -> Vec<Finding> {
    join_all(caches.iter().map(async |(cache, config)| {
        let checked = pointers_of(account, cache, config).await;
        found(Check::Pointers, checked).of(cache)
    }))
    .await
}

/// Checks the pointers of one cache, in its own Region and in those of copies.
async fn pointers_of(
    account: &Account,
    cache: &CacheName,
    config: &CacheConfig,
) -> Result<Finding, StageError> {
    let check = Check::Pointers;
    let mut snapshots = Vec::new();
    let regions = config.publication.copy_to_regions.iter();
    for region in regions.chain([&account.region]) {
        let clients = if *region == account.region {
            account.clients.clone()
        } else {
            account.clients.in_region(region)
        };
        for &architecture in &config.architectures {
            let place = names::pointer_parameter(cache, architecture);
            let Some(value) = parameters::get(&clients, &place).await? else {
                continue;
            };
            let Ok(published) = value.parse() else {
                return Ok(Finding::wrong(
                    check,
                    format!("parameter {place} in {region} holds `{value}`, not a snapshot ID"),
                    format!("Delete the parameter, and run `prepull build {cache}`"),
                ));
            };
            let snapshot = snapshots::get(&clients, &published).await?;
            let state = snapshot.and_then(|snapshot| snapshot.ebs_state);
            match state.as_ref().map(SnapshotState::as_str) {
                Some("completed") => snapshots.push(published.to_string()),
                state => {
                    let state =
                        state.map_or("does not exist".to_owned(), |state| format!("is {state}"));
                    return Ok(Finding::wrong(
                        check,
                        format!(
                            "the pointer for {architecture} in {region} refers to {published}, which {state}, so no \
                             node starts from it"
                        ),
                        format!(
                            "Run `prepull build {cache}`, which publishes a new snapshot, or return to the previous \
                             one with `prepull rollback {cache} --reason …`"
                        ),
                    ));
                }
            }
        }
    }
    let message = if snapshots.is_empty() {
        "nothing is published yet".to_owned()
    } else {
        format!("the pointers refer to {}", snapshots.join(", "))
    };
    Ok(Finding::fine(check, message))
}

#[cfg(test)]
mod tests {
    use prepull_testing::FakeAws;
    use serde_json::json;

    use super::*;

    fn account() -> Account {
        let machine = "arn:aws:states:eu-west-1:123456789012:stateMachine:prepull-build";
        Account::new(&FakeAws::new().clients(), "prepull", machine.to_owned()).unwrap()
    }

    #[test]
    fn definition_has_no_placeholder_left() {
        let definition = definition(&account()).to_string();
        assert!(!definition.contains("${"), "{definition}");
        assert!(!definition.contains("shared-retry"));
        assert!(definition.contains("123456789012:function:prepull-plan-build"));
    }

    #[test]
    fn different_states_are_named() {
        let expected = definition(&account());
        let mut other = expected.clone();
        other["States"]["Debounce"]["Seconds"] = json!(3);
        other["States"]["Extra"] = json!({});
        assert_eq!(different_states(&expected, &other), "Debounce, Extra");
        let mut other = expected.clone();
        other["TimeoutSeconds"] = json!(1);
        assert_eq!(different_states(&expected, &other), "its settings");
    }
}
