//! Checks the permissions of each role by policy simulation.
//!
//! A simulation evaluates the role's policies, its permissions boundary and the service control policies, but no policy of
//! a resource. Source: IAM API reference, "`SimulatePrincipalPolicy`".

use std::collections::BTreeSet;

use aws_sdk_iam::types::{
    ContextEntry, ContextKeyTypeEnum, EvaluationResult, PolicyEvaluationDecisionType,
};
use futures::{StreamExt as _, stream};
use prepull_aws::{AwsError as _, StageResult as _};
use prepull_domain::cache::config::CredentialSource;
use prepull_domain::node::Document;
use prepull_domain::{CacheConfig, CacheName, ImageReference, Stage, StageError, names};

use super::account::Account;
use super::{Caches, Check, Finding};

/// Number of concurrent simulations. IAM throttles an account early.
const AT_ONCE: usize = 4;

/// Resource of actions without resource types.
const ANY: &str = "*";

/// IDs of resources that do not exist. A simulation needs none of them, but no wildcards either.
const INSTANCE: &str = "instance/i-0123456789abcdef0";
const VOLUME: &str = "volume/vol-0123456789abcdef0";
const INTERFACE: &str = "network-interface/eni-0123456789abcdef0";
const SNAPSHOT: &str = "snapshot/snap-0123456789abcdef0";
const IMAGE: &str = "image/ami-0123456789abcdef0";

const OURS: &str = "aws:ResourceTag/prepull:cache";
const IS_BUILDER: &str = "aws:ResourceTag/prepull:launch-key";
const IS_VERIFIER: &str = "aws:ResourceTag/prepull:verifies";
const BECOMES_OURS: &str = "aws:RequestTag/prepull:cache";

/// Actions on one resource under the same conditions.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Need {
    actions: Vec<&'static str>,
    resource: String,
    context: Vec<(&'static str, Vec<String>)>,
}

impl Need {
    pub fn new<const N: usize>(actions: [&'static str; N], resource: impl Into<String>) -> Self {
        Self {
            actions: actions.to_vec(),
            resource: resource.into(),
            context: Vec::new(),
        }
    }

    /// Sets a condition key of the simulated calls.
    pub fn when(mut self, key: &'static str, value: &str) -> Self {
        self.context.push((key, vec![value.to_owned()]));
        self
    }
}

/// The refused calls of a role.
pub enum Refusal {
    /// The role does not exist.
    NoRole,
    /// The actions, each with its resource and the kind of policy that refuses it.
    Actions(Vec<String>),
}

/// Simulates the calls of `role`. Returns `None` if every call is allowed.
pub async fn simulate(
    account: &Account,
    role: &str,
    needs: impl IntoIterator<Item = Need>,
) -> Result<Option<Refusal>, StageError> {
    // Caches have many needs in common.
    let needs: BTreeSet<_> = needs.into_iter().collect();
    let mut results = stream::iter(needs)
        .map(|need| refused(account, role, need))
        .buffered(AT_ONCE);
    let mut actions = Vec::new();
    while let Some(result) = results.next().await {
        match result? {
            Some(refused) => actions.extend(refused),
            None => return Ok(Some(Refusal::NoRole)),
        }
    }
    Ok((!actions.is_empty()).then_some(Refusal::Actions(actions)))
}

/// Returns the refused calls of one need, or `None` if the role does not exist.
async fn refused(
    account: &Account,
    role: &str,
    need: Need,
) -> Result<Option<Vec<String>>, StageError> {
    let context = need.context.into_iter().map(|(key, values)| {
        let (kind, values) = match key {
            // Multivalued keys.
            "aws:TagKeys" | "events:source" | "ec2:Add/userId" => {
                (ContextKeyTypeEnum::StringList, values)
            }
            "ec2:Encrypted" | "kms:GrantIsForAWSResource" => (ContextKeyTypeEnum::Boolean, values),
            _ => (ContextKeyTypeEnum::String, values),
        };
        ContextEntry::builder()
            .context_key_name(key)
            .context_key_type(kind)
            .set_context_key_values(Some(values))
            .build()
    });
    let mut evaluations = account
        .iam
        .simulate_principal_policy()
        .policy_source_arn(account.role_arn(role))
        .set_action_names(Some(need.actions.into_iter().map(str::to_owned).collect()))
        .resource_arns(need.resource)
        .set_context_entries(Some(context.collect()))
        .into_paginator()
        .items()
        .send();
    let mut refused = Vec::new();
    while let Some(evaluation) = evaluations.next().await {
        let evaluation = match evaluation {
            Err(error) if error.aws_code() == Some("NoSuchEntity") => return Ok(None),
            other => other.or_stage_error("iam:SimulatePrincipalPolicy")?,
        };
        if evaluation.eval_decision != PolicyEvaluationDecisionType::Allowed {
            refused.push(describe(&evaluation));
        }
    }
    Ok(Some(refused))
}

/// Describes a refused call, with the kind of policy that refuses it.
fn describe(evaluation: &EvaluationResult) -> String {
    let action = evaluation.eval_action_name();
    let call = match evaluation.eval_resource_name() {
        None | Some(ANY) => action.to_owned(),
        Some(resource) => format!("{action} on {resource}"),
    };
    let by_organization = evaluation
        .organizations_decision_detail()
        .is_some_and(|detail| !detail.allowed_by_organizations());
    let by_boundary = evaluation
        .permissions_boundary_decision_detail()
        .is_some_and(|detail| !detail.allowed_by_permissions_boundary());
    match &evaluation.eval_decision {
        _ if by_organization => format!("{call} (refused by a service control policy)"),
        _ if by_boundary => format!("{call} (refused by the permissions boundary)"),
        PolicyEvaluationDecisionType::ExplicitDeny => format!("{call} (refused by a Deny)"),
        _ => call,
    }
}

/// Checks every role.
pub async fn check(account: &Account, caches: &Caches) -> Vec<Finding> {
    let roles = Stage::ALL
        .iter()
        .map(|stage| (stage.to_string(), of_function(account, *stage, caches)))
        .chain([
            ("state-machine".to_owned(), of_state_machine(account)),
            ("scheduler".to_owned(), of_scheduler(account)),
            ("builder".to_owned(), of_builder(account, caches)),
        ]);
    // Each role has several simulations, and they share the limit.
    let mut findings = Vec::new();
    for (role, needs) in roles {
        findings.push(of_role(account, &role, needs).await);
    }
    findings
}

async fn of_role(account: &Account, role: &str, needs: Vec<Need>) -> Finding {
    let check = Check::Permissions;
    let name = account.role(role);
    match simulate(account, role, needs).await {
        Ok(None) => Finding::fine(check, format!("role {name} may make its calls")),
        Ok(Some(Refusal::NoRole)) => Finding::wrong(
            check,
            format!("role {name} does not exist"),
            "Apply the module with Terraform",
        ),
        Ok(Some(Refusal::Actions(actions))) => Finding::wrong(
            check,
            format!("role {name} may not call {}", actions.join(", ")),
            "Apply the module with Terraform. If it plans no change, allow the calls in the permissions boundary or \
             the service control policy",
        ),
        Err(error) => Finding::unchecked(check, &error),
    }
}

fn of_function(account: &Account, stage: Stage, caches: &Caches) -> Vec<Need> {
    let logs = format!(
        "log-group:/aws/lambda/{}-{stage}:log-stream:doctor",
        account.name
    );
    let mut needs = vec![Need::new(
        ["logs:CreateLogStream", "logs:PutLogEvents"],
        account.arn("logs", &logs),
    )];
    match stage {
        Stage::StartBuild => needs.extend([
            Need::new(
                ["ssm:GetParametersByPath"],
                parameter(account, names::CONFIG_PATH),
            ),
            Need::new(["states:StartExecution"], &account.machine),
            dead_letters(account),
        ]),
        Stage::PlanBuild => needs.extend([
            Need::new(["ec2:DescribeSnapshots"], ANY),
            Need::new(["states:ListExecutions"], &account.machine),
            Need::new(["states:DescribeExecution"], execution(account)),
        ]),
        Stage::LaunchBuilder => needs.extend([
            Need::new(["ec2:DescribeInstances"], ANY),
            pass_role(account),
        ]),
        Stage::WaitForSsm => needs.push(Need::new(
            [
                "ec2:DescribeInstances",
                "ssm:DescribeInstanceInformation",
                "ssm:GetCommandInvocation",
            ],
            ANY,
        )),
        Stage::PullImages => needs.push(Need::new(
            ["ec2:DescribeInstances", "ssm:GetCommandInvocation"],
            ANY,
        )),
        Stage::CreateSnapshot => needs.push(Need::new(
            [
                "ec2:DescribeInstances",
                "ec2:DescribeSnapshots",
                "ssm:ListCommandInvocations",
            ],
            ANY,
        )),
        Stage::VerifySnapshot => needs.extend([
            Need::new(
                [
                    "ec2:DescribeInstances",
                    "ec2:DescribeSnapshots",
                    "ssm:DescribeInstanceInformation",
                    "ssm:GetCommandInvocation",
                ],
                ANY,
            ),
            pass_role(account),
        ]),
        Stage::PublishSnapshot => needs.extend([
            Need::new(["ec2:DescribeSnapshots"], ANY),
            put_events(account),
        ]),
        Stage::CleanUp => needs.extend([
            Need::new(
                [
                    "ec2:DescribeImages",
                    "ec2:DescribeInstances",
                    "ec2:DescribeLaunchTemplateVersions",
                    "ec2:DescribeSnapshots",
                    "ec2:DescribeVolumes",
                ],
                ANY,
            ),
            Need::new(["ssm:GetParametersByPath"], parameter(account, "/prepull")),
            Need::new(
                [
                    "ssm:DeleteParameter",
                    "ssm:GetParameter",
                    "ssm:PutParameter",
                ],
                parameter(account, &format!("{}/*", names::ANNOUNCED_PATH)),
            ),
            Need::new(["states:DescribeExecution"], execution(account)),
            Need::new(["states:ListExecutions"], &account.machine),
            put_events(account),
            dead_letters(account),
        ]),
    }
    for document in documents(stage) {
        let name = format!("document/{}", document.name(&account.name));
        needs.push(Need::new(["ssm:SendCommand"], account.arn("ssm", &name)));
    }
    for (cache, config) in caches {
        needs.extend(for_cache(account, stage, cache, config));
    }
    needs
}

/// Returns the permissions of a function for one cache.
fn for_cache(
    account: &Account,
    stage: Stage,
    cache: &CacheName,
    config: &CacheConfig,
) -> Vec<Need> {
    let ec2 = |resource: &str| account.arn("ec2", resource);
    let snapshot = snapshot(account, account.region.as_str());
    let pointers: Vec<_> = config
        .architectures
        .iter()
        .map(|&architecture| names::pointer_parameter(cache, architecture))
        .collect();
    match stage {
        Stage::StartBuild => Vec::new(),
        Stage::PlanBuild => {
            let mut needs = read_credentials(account, config);
            needs.push(Need::new(
                ["ssm:GetParameter"],
                parameter(account, &names::config_parameter(cache)),
            ));
            needs.extend(
                pointers
                    .iter()
                    .map(|pointer| Need::new(["ssm:GetParameter"], parameter(account, pointer))),
            );
            needs.extend(read_decisions(account, cache, config));
            needs.extend(
                repositories(account, config)
                    .into_iter()
                    .map(|repository| Need::new(["ecr:BatchGetImage"], repository)),
            );
            needs
        }
        Stage::LaunchBuilder => {
            let mut needs = read_credentials(account, config);
            needs.extend(launch(account, cache, config, &snapshot));
            needs.push(
                Need::new(["ec2:TerminateInstances"], ec2(INSTANCE))
                    .when(OURS, cache.as_str())
                    .when(IS_BUILDER, "settings"),
            );
            needs
        }
        Stage::WaitForSsm | Stage::PullImages => vec![send_command(account, cache)],
        Stage::CreateSnapshot => vec![
            send_command(account, cache),
            Need::new(["ec2:GetConsoleOutput"], ec2(INSTANCE)).when(OURS, cache.as_str()),
            Need::new(["ec2:CreateSnapshot"], ec2(VOLUME)).when(OURS, cache.as_str()),
            Need::new(["ec2:CreateSnapshot"], &snapshot).when(BECOMES_OURS, cache.as_str()),
            Need::new(["ec2:CreateTags"], &snapshot).when("ec2:CreateAction", "CreateSnapshot"),
            mark(&snapshot, cache),
        ],
        Stage::VerifySnapshot => {
            let mut needs = launch(account, cache, config, &snapshot);
            needs.extend([
                send_command(account, cache),
                Need::new(
                    ["ec2:GetConsoleOutput", "ec2:TerminateInstances"],
                    ec2(INSTANCE),
                )
                .when(OURS, cache.as_str())
                .when(IS_VERIFIER, "snapshot"),
                mark(&snapshot, cache),
            ]);
            needs
        }
        Stage::PublishSnapshot => {
            let mut needs = decide(account, cache, config);
            needs.extend(read_decisions(account, cache, config));
            needs.extend(publication(account, cache, config, &snapshot));
            needs
        }
        Stage::CleanUp => {
            let pointers = pointers.iter();
            let read = pointers.map(|one| Need::new(["ssm:GetParameter"], parameter(account, one)));
            let remove = [
                Need::new(["ec2:DeleteVolume"], ec2(VOLUME)).when(OURS, cache.as_str()),
                Need::new(["ec2:TerminateInstances"], ec2(INSTANCE)).when(OURS, cache.as_str()),
                Need::new(["ec2:DeleteSnapshot"], &snapshot).when(OURS, cache.as_str()),
            ];
            let decide = decide(account, cache, config);
            read.chain(remove).chain(decide).collect()
        }
    }
}

/// Returns the permission to read the decisions about the pointers of a cache.
fn read_decisions(account: &Account, cache: &CacheName, config: &CacheConfig) -> Vec<Need> {
    let architectures = config.architectures.iter();
    architectures
        .map(|&architecture| {
            let path = names::decisions_path(cache, architecture);
            Need::new(["ssm:GetParametersByPath"], parameter(account, &path))
        })
        .collect()
}

/// Returns the permissions to decide about the pointers of a cache, in its own Region and in those of copies.
fn decide(account: &Account, cache: &CacheName, config: &CacheConfig) -> Vec<Need> {
    let mut needs = Vec::new();
    for &architecture in &config.architectures {
        let decision = names::decision_parameter(cache, architecture, 1);
        needs.push(Need::new(
            ["ssm:DeleteParameter", "ssm:PutParameter"],
            parameter(account, &decision),
        ));
        let shown = [
            names::pointer_parameter(cache, architecture),
            names::candidate_parameter(cache, architecture),
            names::state_parameter(cache, architecture),
        ];
        let copies = config.publication.copy_to_regions.iter();
        for region in copies.chain([&account.region]) {
            needs.extend(shown.iter().map(|name| {
                let arn = parameter(account, name);
                let there = arn.replacen(account.region.as_str(), region.as_str(), 1);
                Need::new(["ssm:PutParameter"], there)
            }));
        }
    }
    let copies = config.publication.copy_to_regions.iter();
    needs.extend(
        copies
            .chain([&account.region])
            .map(|region| mark(&snapshot(account, region.as_str()), cache)),
    );
    needs
}

/// Returns the permissions to share and to copy the snapshots of a cache.
fn publication(
    account: &Account,
    cache: &CacheName,
    config: &CacheConfig,
    snapshot: &str,
) -> Vec<Need> {
    let publication = &config.publication;
    let mut needs = Vec::new();
    if !publication.share_with_accounts.is_empty() {
        let accounts = publication.share_with_accounts.iter();
        let mut share =
            Need::new(["ec2:ModifySnapshotAttribute"], snapshot).when(OURS, cache.as_str());
        share.context.push((
            "ec2:Add/userId",
            accounts.map(ToString::to_string).collect(),
        ));
        needs.push(share);
    }
    if !publication.copy_to_regions.is_empty() {
        let copy = Need::new(["ec2:CopySnapshot"], snapshot).when("ec2:Owner", &account.id);
        needs.push(copy);
    }
    for region in &publication.copy_to_regions {
        let copy = self::snapshot(account, region.as_str());
        needs.extend([
            Need::new(["ec2:CopySnapshot"], &copy).when(BECOMES_OURS, cache.as_str()),
            Need::new(["ec2:CreateTags"], &copy).when("ec2:CreateAction", "CopySnapshot"),
        ]);
    }
    needs
}

fn of_state_machine(account: &Account) -> Vec<Need> {
    Stage::ALL
        .iter()
        .filter(|stage| **stage != Stage::StartBuild)
        .map(|stage| Need::new(["lambda:InvokeFunction"], account.function(*stage)))
        .collect()
}

fn of_scheduler(account: &Account) -> Vec<Need> {
    vec![
        Need::new(
            ["lambda:InvokeFunction"],
            account.function(Stage::StartBuild),
        ),
        Need::new(["lambda:InvokeFunction"], account.function(Stage::CleanUp)),
        dead_letters(account),
    ]
}

fn of_builder(account: &Account, caches: &Caches) -> Vec<Need> {
    let mut needs = vec![Need::new(
        [
            "ecr:GetAuthorizationToken",
            "ssm:UpdateInstanceInformation",
            "ssmmessages:CreateControlChannel",
            "ssmmessages:CreateDataChannel",
            "ssmmessages:OpenControlChannel",
            "ssmmessages:OpenDataChannel",
        ],
        ANY,
    )];
    let repositories = caches
        .values()
        .flat_map(|config| repositories(account, config));
    needs.extend(repositories.map(|repository| {
        Need::new(
            [
                "ecr:BatchCheckLayerAvailability",
                "ecr:BatchGetImage",
                "ecr:GetDownloadUrlForLayer",
            ],
            repository,
        )
    }));
    needs
}

/// Returns the documents that a stage runs.
fn documents(stage: Stage) -> &'static [Document] {
    match stage {
        Stage::WaitForSsm => &[Document::AwaitReady],
        Stage::PullImages => &[Document::PullImages],
        Stage::CreateSnapshot => &[Document::Fingerprint, Document::PowerOff],
        Stage::VerifySnapshot => &[Document::AwaitReady, Document::Verify],
        _ => &[],
    }
}

fn read_credentials(account: &Account, config: &CacheConfig) -> Vec<Need> {
    let sources = config.registry_credentials.values();
    sources
        .map(|source| match source {
            CredentialSource::Secret { secret_arn } => {
                Need::new(["secretsmanager:GetSecretValue"], secret_arn)
            }
            CredentialSource::Parameter { parameter_name } => {
                Need::new(["ssm:GetParameter"], parameter(account, parameter_name))
            }
        })
        .collect()
}

fn repositories(account: &Account, config: &CacheConfig) -> Vec<String> {
    let repositories = config.images.iter().filter_map(ImageReference::ecr);
    repositories
        .map(|ecr| {
            format!(
                "arn:{}:ecr:{}:{}:repository/{}",
                account.partition, ecr.region, ecr.account, ecr.repository
            )
        })
        .collect()
}

/// Returns the calls that launch, and terminate, an instance of `cache`.
fn launch(account: &Account, cache: &CacheName, config: &CacheConfig, snapshot: &str) -> Vec<Need> {
    let ec2 = |resource: &str| account.arn("ec2", resource);
    let profile = format!(
        "arn:{}:iam::{}:instance-profile/{}",
        account.partition,
        account.id,
        account.role("builder")
    );
    let subnets = config.builder.subnet_ids.iter();
    let groups = config.builder.security_group_ids.iter();
    let network = subnets
        .map(|subnet| format!("subnet/{subnet}"))
        .chain(groups.map(|group| format!("security-group/{group}")));
    let mut needs: Vec<_> = network
        .map(|one| Need::new(["ec2:RunInstances"], ec2(&one)))
        .collect();
    needs.extend([INSTANCE, VOLUME, INTERFACE].map(|one| {
        Need::new(["ec2:CreateTags"], ec2(one)).when("ec2:CreateAction", "RunInstances")
    }));
    needs.extend([
        Need::new(["ec2:RunInstances"], ec2(INSTANCE))
            .when(BECOMES_OURS, cache.as_str())
            .when("ec2:InstanceProfile", &profile)
            .when("ec2:MetadataHttpTokens", "required"),
        Need::new(["ec2:RunInstances"], ec2(VOLUME))
            .when(BECOMES_OURS, cache.as_str())
            .when("ec2:Encrypted", "true"),
        Need::new(["ec2:RunInstances"], ec2(INTERFACE)).when(BECOMES_OURS, cache.as_str()),
        Need::new(["ec2:RunInstances"], snapshot).when(OURS, cache.as_str()),
        Need::new(["ec2:RunInstances"], image(account)).when("ec2:Owner", "amazon"),
    ]);
    needs
}

fn pass_role(account: &Account) -> Need {
    Need::new(["iam:PassRole"], account.role_arn("builder"))
        .when("iam:PassedToService", ec2_service(account))
}

fn send_command(account: &Account, cache: &CacheName) -> Need {
    Need::new(["ssm:SendCommand"], account.arn("ec2", INSTANCE))
        .when("ssm:resourceTag/prepull:cache", cache.as_str())
}

fn mark(snapshot: &str, cache: &CacheName) -> Need {
    Need::new(["ec2:CreateTags"], snapshot)
        .when(OURS, cache.as_str())
        .when("aws:TagKeys", names::TAG_STATE)
}

fn put_events(account: &Account) -> Need {
    Need::new(
        ["events:PutEvents"],
        account.arn("events", "event-bus/default"),
    )
    .when("events:source", names::EVENT_SOURCE)
}

fn dead_letters(account: &Account) -> Need {
    let queue = format!("{}-dead-letters", account.name);
    Need::new(["sqs:SendMessage"], account.arn("sqs", &queue))
}

fn execution(account: &Account) -> String {
    let machine = account.machine.rsplit(':').next().unwrap_or_default();
    account.arn("states", &format!("execution:{machine}:doctor"))
}

fn parameter(account: &Account, name: &str) -> String {
    account.arn("ssm", &format!("parameter{name}"))
}

/// Returns the ARN of a snapshot, which contains no account.
fn snapshot(account: &Account, region: &str) -> String {
    format!("arn:{}:ec2:{region}::{SNAPSHOT}", account.partition)
}

/// Returns the ARN of an image, which contains no account.
fn image(account: &Account) -> String {
    format!("arn:{}:ec2:{}::{IMAGE}", account.partition, account.region)
}

fn ec2_service(account: &Account) -> &'static str {
    match account.partition.as_str() {
        "aws-cn" => "ec2.amazonaws.com.cn",
        _ => "ec2.amazonaws.com",
    }
}
