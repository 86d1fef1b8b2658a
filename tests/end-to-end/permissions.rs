//! Least privilege: a call beyond a role's policies is refused, and every granted permission is used.
//!
//! The local cloud checks every call of a role against its policies from Terraform, and counts the calls per grant.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use iam_rs::{
    Arn, Context, ContextValue, Decision as Verdict, IAMPolicy, IAMRequest, Principal, PrincipalId,
    evaluate_policies,
};
use prepull_aws::ec2::config::{Credentials, SharedCredentialsProvider};
use prepull_aws::ec2::types::{
    CreateVolumePermission, CreateVolumePermissionModifications, IamInstanceProfileSpecification,
    InstanceType, PermissionGroup, Reservation, ResourceType, SnapshotAttributeName, Tag,
    TagSpecification,
};
use prepull_aws::ssm::types::ParameterType;
use prepull_aws::{AwsError, Clients, ec2, parameters, sfn, ssm};
use prepull_domain::{GiB, InstanceId, names};
use prepull_tests::World;
use prepull_tests::localcloud::{Decision, Grant, RoleCredentials};
use prepull_tests::world::REGION;
use serde_json::json;

use crate::fixture::{COPY_REGION, EVERY_OPTION, Fixture, SEALED, X86};

/// Statements that no test can use: role, statement and reason. Terraform gives the same reason next to each.
const JUSTIFIED: &[(&str, &str, &str)] = &[
    (
        "builder",
        "ImportImages",
        "nodes of the local cloud pull from its registry, which does not use IAM",
    ),
    (
        "builder",
        "Pull",
        "nodes of the local cloud pull from its registry, which does not use IAM",
    ),
    (
        "builder",
        "TakeCommands",
        "the local cloud acts as the SSM agent",
    ),
    (
        "scheduler",
        "ReportFailures",
        "the scheduler reports only deliveries that Lambda rejects; the local cloud rejects none",
    ),
    (
        "state-machine",
        "DeliverLogs",
        "the local cloud does not deliver the log of the state machine",
    ),
];

/// Error codes for a refused call: of EC2, and of all other services.
const REFUSALS: [&str; 2] = ["UnauthorizedOperation", "AccessDeniedException"];

pub async fn cache_with_every_option_is_published_everywhere(fixture: Arc<Fixture>) -> Result<()> {
    let world = &fixture.world;
    // pull-images looks at its builder only if a command is lost.
    let lost = json!({"service": "ssm", "action": "SendCommand", "caller": "pull-images",
        "effect": "lose-command", "status_name": "TimedOut"});
    world.cloud.add_fault(lost).await?;
    fixture.published(SEALED).await?;
    fixture.published(EVERY_OPTION).await?;
    let there = world.clients.in_region(&COPY_REGION.parse()?);
    let pointer = names::pointer_parameter(&EVERY_OPTION.parse()?, X86);
    let copy = parameters::get(&there, &pointer)
        .await?
        .with_context(|| format!("the pointer in {COPY_REGION} is missing"))?;
    let copies = there.ec2.describe_snapshots().snapshot_ids(copy);
    ensure!(copies.send().await?.snapshots().len() == 1);
    Ok(())
}

pub async fn unusable_events_end_in_the_dead_letter_queue(fixture: Arc<Fixture>) -> Result<()> {
    let cloud = &fixture.world.cloud;
    let outputs = fixture.world.deployment.outputs()?;
    let queue = outputs["dead_letter_queue_url"]["value"]
        .as_str()
        .context("the module does not have this output")?;
    cloud.set(json!({"async_retry_seconds": 0.1})).await?;
    for stage in ["start-build", "clean-up"] {
        fixture
            .world
            .send_event(stage, &json!({"nonsense": stage}))
            .await?;
        let reported = async {
            while !cloud
                .messages(queue)
                .await?
                .iter()
                .any(|message| message.contains("nonsense") && message.contains(stage))
            {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Ok::<_, anyhow::Error>(())
        };
        tokio::time::timeout(Duration::from_secs(60), reported)
            .await
            .with_context(|| {
                format!("the dead-letter queue does not contain the failure of {stage}")
            })??;
    }
    Ok(())
}

/// Must run before the checks below, which make calls that are refused.
pub async fn functions_make_no_refused_call(fixture: Arc<Fixture>) -> Result<()> {
    let denials = fixture.world.cloud.denials().await?;
    let refused: BTreeSet<&str> = denials
        .iter()
        .filter(|denial| !denial.is_of_a_test())
        .map(|denial| denial.message.as_str())
        .collect();
    ensure!(refused.is_empty(), "{refused:#?}");
    Ok(())
}

pub async fn roles_cannot_touch_foreign_resources(fixture: Arc<Fixture>) -> Result<()> {
    let world = &fixture.world;
    let foreign = Box::pin(Foreign::make(world)).await?;
    let before = foreign.describe(world).await?;
    let roles: BTreeSet<String> = ours(world.cloud.grants().await?)
        .map(|grant| grant.role)
        .collect();
    ensure!(roles.len() == 12, "expected 12 roles: {roles:?}");
    let mut carried_out = Vec::new();
    for role in &roles {
        for (attempt, answer) in attempts(world, role, &foreign).await? {
            if !REFUSALS.contains(&answer.as_str()) {
                carried_out.push(format!("{role}: {attempt}: {answer}"));
            }
        }
    }
    let after = foreign.describe(world).await?;
    // Removes the foreign resources in any case, but reports the violations first.
    let removed = foreign.remove(world).await;
    ensure!(carried_out.is_empty(), "not refused: {carried_out:#?}");
    ensure!(before == after, "{before} became {after}");
    removed
}

pub async fn statements_match_the_authorization_reference(fixture: Arc<Fixture>) -> Result<()> {
    let checks = fixture.world.cloud.check_reference().await?;
    ensure!(checks.statements > 0 && checks.permissions > 0);
    ensure!(
        checks.statement_problems.is_empty() && checks.permission_problems.is_empty(),
        "statements: {:#?}, permissions of calls: {:#?}",
        checks.statement_problems,
        checks.permission_problems
    );
    Ok(())
}

/// Repeats every decision of the local cloud's evaluator with iam-rs, an evaluator with another author.
pub async fn second_evaluator_makes_the_same_decisions(fixture: Arc<Fixture>) -> Result<()> {
    let recorded = fixture.world.cloud.decisions().await?;
    let policies: Vec<IAMPolicy> = recorded
        .policies
        .iter()
        .map(|document| IAMPolicy::from_json(document).with_context(|| document.clone()))
        .collect::<Result<_>>()?;
    let mut differences = Vec::new();
    for decision in &recorded.decisions {
        let request = request(decision)?;
        let allow = |positions: &[usize]| -> Result<bool> {
            let policies: Vec<_> = positions.iter().map(|&at| policies[at].clone()).collect();
            Ok(evaluate_policies(&policies, &request)? == Verdict::Allow)
        };
        let within = |boundary: usize| allow(&[boundary]);
        let allowed = allow(&decision.policies)? && decision.boundary.map_or(Ok(true), within)?;
        if allowed != decision.allowed {
            differences.push(decision);
        }
    }
    let allowed = recorded.decisions.iter().filter(|d| d.allowed).count();
    let denied = recorded.decisions.len() - allowed;
    ensure!(
        allowed > 0 && denied > 0,
        "{allowed} allowed, {denied} denied"
    );
    ensure!(
        differences.is_empty(),
        "of {} decisions, iam-rs differs in: {differences:#?}",
        recorded.decisions.len()
    );
    Ok(())
}

/// Returns a request of iam-rs.
fn request(decision: &Decision) -> Result<IAMRequest> {
    let resource = match &*decision.resource {
        // A request has an ARN. Only the pattern `*` matches this one.
        "*" => "arn:aws:none:::none",
        arn => arn,
    };
    let principal = PrincipalId::String(format!("arn:aws:iam::{ACCOUNT}:role/any"));
    let context = decision.context.iter().map(|(key, value)| {
        let value = match value.as_str() {
            // Its Bool operator needs a typed value.
            Some("true") => ContextValue::Boolean(true),
            Some("false") => ContextValue::Boolean(false),
            _ => serde_json::from_value(value.clone())?,
        };
        Ok((key.clone(), value))
    });
    Ok(IAMRequest::new_with_context(
        Principal::Aws(principal),
        &*decision.action,
        Arn::parse(resource)?,
        Context::with_data(context.collect::<Result<_>>()?),
    ))
}

/// Must run after all other tests, because only a complete run uses every grant.
pub async fn grants_are_used_or_justified(fixture: Arc<Fixture>) -> Result<()> {
    let mut uses: BTreeMap<(String, String), Vec<(String, u64)>> = BTreeMap::new();
    for grant in ours(fixture.world.cloud.grants().await?) {
        let statement = (short(&grant.role).to_owned(), grant.statement);
        uses.entry(statement)
            .or_default()
            .push((grant.action, grant.calls));
    }
    let justified: BTreeSet<(String, String)> = JUSTIFIED
        .iter()
        .map(|(role, statement, _)| ((*role).to_owned(), (*statement).to_owned()))
        .collect();
    let mut violations = Vec::new();
    for (statement, actions) in &uses {
        for (action, calls) in actions {
            match (calls, justified.contains(statement)) {
                (0, false) => violations.push(format!("{statement:?}: {action} is never used")),
                (1.., true) => violations.push(format!(
                    "{statement:?}: {action} is listed as unused, but is used"
                )),
                _ => {}
            }
        }
    }
    for statement in &justified {
        if !uses.contains_key(statement) {
            violations.push(format!(
                "{statement:?} is listed as unused, but is not granted"
            ));
        }
    }
    ensure!(violations.is_empty(), "{violations:#?}");
    Ok(())
}

/// Keeps the grants of the module's own roles.
fn ours(grants: Vec<Grant>) -> impl Iterator<Item = Grant> {
    grants
        .into_iter()
        .filter(|grant| grant.role.starts_with("prepull-"))
}

/// Returns the part of a role's name that differs between roles.
fn short(role: &str) -> &str {
    let name = role.strip_prefix("prepull-").unwrap_or(role);
    name.strip_suffix(&format!("-{REGION}")).unwrap_or(name)
}

/// Resources of other owners in the same account.
struct Foreign {
    /// Instance without a tag.
    untagged: InstanceId,
    /// Instance with the tag of another tool.
    tagged: InstanceId,
    /// Instance with our tag, which may run only our commands.
    builder: InstanceId,
    volume: String,
    snapshot: String,
    image: String,
}

impl Foreign {
    async fn make(world: &World) -> Result<Self> {
        let node = || world.start_node(None, X86, GiB(4));
        let (untagged, tagged, builder) = futures::try_join!(node(), node(), node())?;
        let ec2 = &world.clients.ec2;
        let tag = |key: &str| Tag::builder().key(key).value("web").build();
        ec2.delete_tags()
            .resources(untagged.as_str())
            .send()
            .await?;
        ec2.create_tags()
            .resources(tagged.as_str())
            .tags(tag("other-tool:cache"))
            .send()
            .await?;
        ec2.create_tags()
            .resources(builder.as_str())
            .tags(tag(names::TAG_CACHE))
            .send()
            .await?;
        let volume = ec2
            .create_volume()
            .availability_zone(format!("{REGION}a"))
            .size(1)
            .send()
            .await?
            .volume_id
            .context("EC2 returned a volume without an ID")?;
        let snapshot = ec2
            .create_snapshot()
            .volume_id(&volume)
            .send()
            .await?
            .snapshot_id
            .context("EC2 returned a snapshot without an ID")?;
        world
            .clients
            .ssm
            .put_parameter()
            .name(PARAMETER)
            .value("theirs")
            .r#type(ParameterType::String)
            .send()
            .await?;
        let cloud = &world.cloud;
        let trust = json!({"Version": "2012-10-17", "Statement": {
            "Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"Service": "ec2.amazonaws.com"}}});
        let trust = ("AssumeRolePolicyDocument", &*trust.to_string());
        let (role, profile) = (("RoleName", PROFILE), ("InstanceProfileName", PROFILE));
        cloud.iam("CreateRole", &[role, trust]).await?;
        cloud.iam("CreateInstanceProfile", &[profile]).await?;
        cloud
            .iam("AddRoleToInstanceProfile", &[role, profile])
            .await?;
        let image = "/aws/service/bottlerocket/aws-k8s-1.33/x86_64/latest/image_id";
        let image = parameters::get(&world.clients, image)
            .await?
            .context("the local cloud does not have Bottlerocket's AMIs")?;
        Ok(Self {
            untagged,
            tagged,
            builder,
            volume,
            snapshot,
            image,
        })
    }

    /// Returns, as text, everything that the attempts below would change.
    async fn describe(&self, world: &World) -> Result<String> {
        let clients = &world.clients;
        let mut instances: Vec<_> = clients
            .ec2
            .describe_instances()
            .send()
            .await?
            .reservations()
            .iter()
            .flat_map(Reservation::instances)
            .map(|instance| {
                let state = instance.state().and_then(|state| state.name());
                format!(
                    "{:?} {state:?} {:?}",
                    instance.instance_id(),
                    instance.tags()
                )
            })
            .collect();
        instances.sort();
        let volumes = clients.ec2.describe_volumes().send().await?.volumes().len();
        let snapshots = clients.ec2.describe_snapshots().owner_ids("self");
        let snapshots = snapshots.send().await?.snapshots().len();
        let parameter = parameters::get(clients, PARAMETER).await?;
        let config = parameters::get(clients, CONFIG).await?;
        let machines = clients.sfn.list_state_machines().send().await?;
        Ok(format!(
            "{instances:?} {volumes} {snapshots} {parameter:?} {config:?} {}",
            machines.state_machines().len()
        ))
    }

    async fn remove(&self, world: &World) -> Result<()> {
        for node in [&self.untagged, &self.tagged, &self.builder] {
            world.terminate_node(node).await?;
        }
        let ec2 = &world.clients.ec2;
        let snapshot = ec2.delete_snapshot().snapshot_id(&self.snapshot);
        snapshot.send().await?;
        ec2.delete_volume().volume_id(&self.volume).send().await?;
        let parameter = world.clients.ssm.delete_parameter().name(PARAMETER);
        parameter.send().await?;
        let cloud = &world.cloud;
        let (role, profile) = (("RoleName", PROFILE), ("InstanceProfileName", PROFILE));
        cloud
            .iam("RemoveRoleFromInstanceProfile", &[role, profile])
            .await?;
        cloud.iam("DeleteInstanceProfile", &[profile]).await?;
        cloud.iam("DeleteRole", &[role]).await
    }
}

const ACCOUNT: &str = "123456789012";
/// Instance profile, with a role of the same name.
const PROFILE: &str = "other-tool-admin";
const PARAMETER: &str = "/team/settings";
/// Configuration of a cache. Only Terraform may write it.
const CONFIG: &str = "/prepull/config/smuggled";

/// An attempted action, and the error code of its refusal.
type Attempt = (&'static str, String);

/// Attempts every forbidden action with the credentials of the role.
async fn attempts(world: &World, role: &str, foreign: &Foreign) -> Result<Vec<Attempt>> {
    let keys = world.cloud.credentials(role).await?;
    let Role { ec2, ssm, sfn } = Role::with(&world.clients, &keys);
    let mut attempts = Box::pin(on_instances(&ec2, foreign)).await;
    attempts.extend(Box::pin(on_storage(&ec2, foreign)).await);
    attempts.extend(Box::pin(by_commands(&ssm, foreign)).await);
    attempts.extend(Box::pin(on_parameters(&ssm)).await);
    let machine = format!("arn:aws:states:{REGION}:{ACCOUNT}:stateMachine:other-build");
    attempts.push((
        "start a foreign state machine",
        code(
            sfn.start_execution()
                .state_machine_arn(machine)
                .send()
                .await,
        ),
    ));
    attempts.push((
        "call a foreign function",
        world.cloud.refused_invocation("other", &keys).await?,
    ));
    Ok(attempts)
}

async fn on_instances(ec2: &ec2::Client, foreign: &Foreign) -> Vec<Attempt> {
    let launch = |profile: &str, tagged: &[ResourceType]| {
        let profile = IamInstanceProfileSpecification::builder()
            .arn(format!("arn:aws:iam::{ACCOUNT}:instance-profile/{profile}"))
            .build();
        let tags = tagged.iter().map(|kind| {
            TagSpecification::builder()
                .resource_type(kind.clone())
                .tags(our_tag())
                .build()
        });
        ec2.run_instances()
            .image_id(&foreign.image)
            .instance_type(InstanceType::M7iXlarge)
            .min_count(1)
            .max_count(1)
            .iam_instance_profile(profile)
            .set_tag_specifications(Some(tags.collect()))
    };
    let tagged = [ResourceType::Instance, ResourceType::Volume];
    let builder = format!("prepull-builder-{REGION}");
    let terminate = |id: &InstanceId| ec2.terminate_instances().instance_ids(id.as_str());
    let mark = ec2
        .create_tags()
        .resources(foreign.untagged.as_str())
        .tags(our_tag());
    vec![
        (
            "terminate an untagged instance",
            code(terminate(&foreign.untagged).send().await),
        ),
        (
            "terminate another tool's instance",
            code(terminate(&foreign.tagged).send().await),
        ),
        (
            "make a foreign instance look like a builder",
            code(mark.send().await),
        ),
        (
            "launch with another role",
            code(launch(PROFILE, &tagged).send().await),
        ),
        (
            "launch without a tag",
            code(launch(&builder, &[]).send().await),
        ),
    ]
}

async fn on_storage(ec2: &ec2::Client, foreign: &Foreign) -> Vec<Attempt> {
    let Foreign {
        volume, snapshot, ..
    } = foreign;
    let everyone = CreateVolumePermissionModifications::builder()
        .add(
            CreateVolumePermission::builder()
                .group(PermissionGroup::All)
                .build(),
        )
        .build();
    let share = ec2
        .modify_snapshot_attribute()
        .snapshot_id(snapshot)
        .attribute(SnapshotAttributeName::CreateVolumePermission)
        .create_volume_permission(everyone);
    let mark = ec2.create_tags().resources(snapshot).tags(our_tag());
    vec![
        (
            "delete a foreign volume",
            code(ec2.delete_volume().volume_id(volume).send().await),
        ),
        (
            "snapshot a foreign volume",
            code(ec2.create_snapshot().volume_id(volume).send().await),
        ),
        (
            "delete a foreign snapshot",
            code(ec2.delete_snapshot().snapshot_id(snapshot).send().await),
        ),
        (
            "share a foreign snapshot with everyone",
            code(share.send().await),
        ),
        (
            "make a foreign snapshot look like ours",
            code(mark.send().await),
        ),
    ]
}

async fn by_commands(ssm: &ssm::Client, foreign: &Foreign) -> Vec<Attempt> {
    let send = |document: &str, instance: &InstanceId| {
        ssm.send_command()
            .document_name(document)
            .instance_ids(instance.as_str())
    };
    let pull = "prepull-pull-images";
    let shell = send("AWS-RunShellScript", &foreign.builder);
    vec![
        (
            "run our document on an untagged instance",
            code(send(pull, &foreign.untagged).send().await),
        ),
        (
            "run our document on another tool's instance",
            code(send(pull, &foreign.tagged).send().await),
        ),
        (
            "run a shell on a builder",
            code(
                shell
                    .parameters("commands", vec!["true".to_owned()])
                    .send()
                    .await,
            ),
        ),
    ]
}

async fn on_parameters(ssm: &ssm::Client) -> Vec<Attempt> {
    let put = |name: &str| {
        ssm.put_parameter()
            .name(name)
            .value("ours")
            .r#type(ParameterType::String)
            .overwrite(true)
    };
    vec![
        (
            "write a foreign parameter",
            code(put(PARAMETER).send().await),
        ),
        ("declare a cache", code(put(CONFIG).send().await)),
        (
            "delete a foreign parameter",
            code(ssm.delete_parameter().name(PARAMETER).send().await),
        ),
        (
            "read a foreign parameter",
            code(ssm.get_parameter().name(PARAMETER).send().await),
        ),
    ]
}

fn our_tag() -> Tag {
    Tag::builder().key(names::TAG_CACHE).value("web").build()
}

/// Returns the error code, or an empty string if the call succeeded.
fn code<T>(answer: Result<T, impl AwsError>) -> String {
    answer
        .err()
        .and_then(|error| error.aws_code().map(str::to_owned))
        .unwrap_or_default()
}

/// Clients that call with the credentials of a role.
struct Role {
    ec2: ec2::Client,
    ssm: ssm::Client,
    sfn: sfn::Client,
}

impl Role {
    fn with(clients: &Clients, keys: &RoleCredentials) -> Self {
        let provider = || {
            SharedCredentialsProvider::new(Credentials::new(
                &keys.access_key_id,
                &keys.secret_access_key,
                Some(keys.session_token.clone()),
                None,
                "localcloud",
            ))
        };
        let Clients { ec2, ssm, sfn, .. } = clients;
        let (ec2, ssm, sfn) = (ec2.config(), ssm.config(), sfn.config());
        Self {
            ec2: ec2::Client::from_conf(ec2.to_builder().credentials_provider(provider()).build()),
            ssm: ssm::Client::from_conf(ssm.to_builder().credentials_provider(provider()).build()),
            sfn: sfn::Client::from_conf(sfn.to_builder().credentials_provider(provider()).build()),
        }
    }
}
