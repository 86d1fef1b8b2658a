//! `prepull doctor`: a sound account has no finding, and each broken account has exactly one, with its remedy.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use aws_sdk_scheduler::types::ScheduleState;
use futures::future::BoxFuture;
use prepull_aws::ec2::types::AttributeBooleanValue;
use prepull_aws::ssm::types::DocumentFormat;
use prepull_aws::{ec2, parameters};
use prepull_domain::names;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::fixture::{Fixture, X86};

/// Snapshot that does not exist.
const GONE: &str = "snap-0123456789abcdef0";

/// The output of `prepull doctor --output json`.
#[derive(Debug, Deserialize)]
struct Diagnosis {
    status: String,
    findings: Vec<Finding>,
}

#[derive(Debug, Deserialize)]
struct Finding {
    check: String,
    cache: Option<String>,
    status: String,
    message: String,
    remedy: Option<String>,
}

/// An account with a published cache, in which nothing is wrong.
struct Sound {
    fixture: Arc<Fixture>,
    cache: String,
    config: Value,
    kms: aws_sdk_kms::Client,
    scheduler: aws_sdk_scheduler::Client,
}

impl Sound {
    async fn set_up(fixture: Arc<Fixture>) -> Result<Self> {
        let mut config = fixture.config(&[&fixture.api, &fixture.report]).await?;
        // The rule that another cache declares also covers this one, because both have the same image in ECR.
        config["rebuild_on_push"] = json!(true);
        let cache = fixture.cache(&config).await?;
        fixture.published(&cache).await?;
        let sdk = fixture.world.clients.sdk_config();
        Ok(Self {
            kms: aws_sdk_kms::Client::new(&sdk),
            scheduler: aws_sdk_scheduler::Client::new(&sdk),
            cache,
            config,
            fixture,
        })
    }

    /// Runs `prepull doctor` for the cache and returns its exit code and its findings that are not fine.
    fn diagnose(&self) -> Result<(Option<i32>, Diagnosis)> {
        diagnose(&self.fixture, &["doctor", &self.cache], &[])
    }

    fn ec2(&self) -> &ec2::Client {
        &self.fixture.world.clients.ec2
    }

    /// Returns the subnets of the cache.
    fn subnets(&self) -> Result<Vec<String>> {
        Ok(serde_json::from_value(
            self.config["builder"]["subnet_ids"].clone(),
        )?)
    }

    async fn set_quota(&self, code: &str, value: u32) -> Result<()> {
        let quotas = json!({"quotas": {code: value}});
        self.fixture.world.cloud.set(quotas).await
    }

    async fn restore_quotas(&self) -> Result<()> {
        self.fixture.world.cloud.set(json!({"quotas": {}})).await
    }

    /// Stores the configuration with `value` at `pointer`.
    async fn configure(&self, pointer: &str, value: Value) -> Result<()> {
        let mut config = self.config.clone();
        *config
            .pointer_mut(pointer)
            .with_context(|| format!("the configuration has no {pointer}"))? = value;
        self.fixture.world.store_config(&self.cache, &config).await
    }

    async fn restore_configuration(&self) -> Result<()> {
        let world = &self.fixture.world;
        world.store_config(&self.cache, &self.config).await
    }

    async fn state_machine(&self) -> Result<String> {
        let machine = self.fixture.world.deployment.state_machine_arn()?;
        let sfn = &self.fixture.world.clients.sfn;
        let described = sfn.describe_state_machine().state_machine_arn(machine);
        Ok(described.send().await?.definition)
    }

    async fn update_state_machine(&self, definition: String) -> Result<()> {
        let machine = self.fixture.world.deployment.state_machine_arn()?;
        let sfn = &self.fixture.world.clients.sfn;
        let update = sfn.update_state_machine().state_machine_arn(machine);
        update.definition(definition).send().await?;
        Ok(())
    }

    /// Returns the default version of a document, and its content.
    async fn document(&self, name: &str) -> Result<(String, String)> {
        let ssm = &self.fixture.world.clients.ssm;
        let document = ssm.get_document().name(name);
        let document = document
            .document_format(DocumentFormat::Yaml)
            .send()
            .await?;
        let version = document
            .document_version
            .context("a document has a version")?;
        Ok((version, document.content.context("a document has content")?))
    }

    /// Makes `content` the default version of a document.
    async fn update_document(&self, name: &str, content: &str) -> Result<()> {
        let ssm = &self.fixture.world.clients.ssm;
        let updated = ssm
            .update_document()
            .name(name)
            .content(content)
            .document_format(DocumentFormat::Yaml)
            .document_version("$LATEST")
            .send()
            .await?;
        let version = updated
            .document_description
            .and_then(|description| description.document_version)
            .context("a document has a version")?;
        self.use_document(name, &version).await
    }

    /// Sets the default version of a document.
    async fn use_document(&self, name: &str, version: &str) -> Result<()> {
        let ssm = &self.fixture.world.clients.ssm;
        let default = ssm.update_document_default_version().name(name);
        default.document_version(version).send().await?;
        Ok(())
    }

    /// Returns the main route table of the cache's subnets.
    async fn route_table(&self) -> Result<String> {
        let answer = self.ec2().describe_route_tables().send().await?;
        let mut tables = answer.route_tables().iter();
        let table = tables
            .find(|table| {
                let routes = table.routes();
                routes
                    .iter()
                    .any(|route| route.gateway_id().is_some_and(|id| id.starts_with("igw-")))
            })
            .context("a route table leads to the internet")?;
        Ok(table.route_table_id().unwrap_or_default().to_owned())
    }

    async fn set_public_addresses(&self, enabled: bool) -> Result<()> {
        for subnet in self.subnets()? {
            let change = self.ec2().modify_subnet_attribute().subnet_id(subnet);
            let value = AttributeBooleanValue::builder().value(enabled).build();
            change.map_public_ip_on_launch(value).send().await?;
        }
        Ok(())
    }

    async fn set_sweep(&self, state: ScheduleState) -> Result<()> {
        let schedule = self.scheduler.get_schedule();
        let schedule = schedule.name("sweep").group_name("prepull").send().await?;
        let update = self.scheduler.update_schedule().name("sweep");
        update
            .group_name("prepull")
            .state(state)
            .set_schedule_expression(schedule.schedule_expression)
            .set_flexible_time_window(schedule.flexible_time_window)
            .set_target(schedule.target)
            .send()
            .await?;
        Ok(())
    }

    /// Denies `action` to a function's role.
    async fn deny(&self, stage: &str, action: &str) -> Result<()> {
        let role = format!("prepull-{stage}-eu-west-1");
        let policy = json!({"Version": "2012-10-17", "Statement": [
            {"Effect": "Deny", "Action": action, "Resource": "*"}]});
        let parameters = [
            ("RoleName", role.as_str()),
            ("PolicyName", "broken"),
            ("PolicyDocument", &policy.to_string()),
        ];
        self.fixture
            .world
            .cloud
            .iam("PutRolePolicy", &parameters)
            .await
    }

    async fn allow_again(&self, stage: &str) -> Result<()> {
        let role = format!("prepull-{stage}-eu-west-1");
        let parameters = [("RoleName", role.as_str()), ("PolicyName", "broken")];
        let cloud = &self.fixture.world.cloud;
        cloud.iam("DeleteRolePolicy", &parameters).await
    }

    async fn set_default_key(&self, key: &str) -> Result<()> {
        let change = self.ec2().modify_ebs_default_kms_key_id();
        change.kms_key_id(key).send().await?;
        Ok(())
    }

    async fn new_key(&self) -> Result<String> {
        let key = self.kms.create_key().send().await?;
        let key = key.key_metadata.context("a key has metadata")?;
        key.arn.context("a key has an ARN")
    }

    async fn set_pointer(&self, snapshot: &str) -> Result<()> {
        let pointer = names::pointer_parameter(&self.cache.parse()?, X86);
        Ok(parameters::put(&self.fixture.world.clients, &pointer, snapshot).await?)
    }
}

/// Runs the CLI, and returns its exit code and its output.
fn diagnose(
    fixture: &Fixture,
    arguments: &[&str],
    environment: &[(&str, &str)],
) -> Result<(Option<i32>, Diagnosis)> {
    let mut command = fixture.world.cli();
    command.args(arguments).args(["--output", "json"]);
    command.envs(environment.iter().copied());
    let output = tokio::task::block_in_place(|| command.output())?;
    let diagnosis = serde_json::from_slice(&output.stdout).with_context(|| {
        format!(
            "doctor printed no diagnosis: {}",
            String::from_utf8_lossy(&output.stderr)
        )
    })?;
    Ok((output.status.code(), diagnosis))
}

/// Asserts that every check was made and found nothing.
fn ensure_sound(exit: Option<i32>, diagnosis: &Diagnosis) -> Result<()> {
    let findings = &diagnosis.findings;
    let other: Vec<_> = findings.iter().filter(|one| one.status != "fine").collect();
    ensure!(other.is_empty(), "the account is sound: {other:#?}");
    ensure!(
        exit == Some(0) && diagnosis.status == "fine",
        "exit code {exit:?}"
    );
    Ok(())
}

/// Repairs the account. It does nothing until it is awaited.
type Repair = BoxFuture<'static, Result<()>>;
/// Breaks the account, and returns its repair.
type Break = fn(Arc<Sound>) -> BoxFuture<'static, Result<Repair>>;

/// An account that is broken in one way, and its finding.
struct Broken {
    name: &'static str,
    breaks: Break,
    check: &'static str,
    /// Words of the message.
    message: &'static str,
    /// Words of the remedy.
    remedy: &'static str,
}

/// Returns a [`Break`] from statements that break an account, and others that repair it.
macro_rules! breaks {
    (|$account:ident| { $($breaks:tt)* }, { $($repairs:tt)* }) => {
        |$account| {
            Box::pin(async move {
                $($breaks)*
                let repair: Repair = Box::pin(async move {
                    $($repairs)*
                    Ok(())
                });
                Ok(repair)
            })
        }
    };
}

#[expect(
    clippy::too_many_lines,
    reason = "a table with one row for each account"
)]
fn broken_accounts() -> Vec<Broken> {
    vec![
        Broken {
            name: "the default key for EBS is disabled",
            breaks: breaks!(
                |account| {
                    let answer = account.ec2().get_ebs_default_kms_key_id().send().await?;
                    let before = answer.kms_key_id.context("EBS has a default key")?;
                    let key = account.new_key().await?;
                    // The local cloud knows the key by its ID only.
                    let id = key.rsplit('/').next().unwrap_or_default();
                    account.kms.disable_key().key_id(id).send().await?;
                    account.set_default_key(&key).await?;
                },
                {
                    account.set_default_key(&before).await?;
                }
            ),
            check: "encryption-key",
            message: "is in the state Disabled",
            remedy: "Enable the key",
        },
        Broken {
            name: "the roles may not use the default key for EBS",
            breaks: breaks!(
                |account| {
                    let answer = account.ec2().get_ebs_default_kms_key_id().send().await?;
                    let before = answer.kms_key_id.context("EBS has a default key")?;
                    account.set_default_key(&account.new_key().await?).await?;
                },
                {
                    account.set_default_key(&before).await?;
                }
            ),
            check: "encryption-key",
            message: "kms:CreateGrant",
            remedy: "Apply the module with Terraform, which grants the use of the key",
        },
        Broken {
            name: "the quota for vCPUs is that of a new account",
            breaks: breaks!(
                |account| {
                    account.set_quota("L-1216C47A", 1).await?;
                },
                {
                    account.restore_quotas().await?;
                }
            ),
            check: "vcpu-quota",
            message: "no builder for x86_64 fits into the quota of 1 vCPUs",
            remedy: "L-1216C47A",
        },
        Broken {
            name: "the quota for functions is too low",
            breaks: breaks!(
                |account| {
                    account.set_quota("L-B99A9384", 2).await?;
                },
                {
                    account.restore_quotas().await?;
                }
            ),
            check: "lambda-concurrency",
            message: "2 functions concurrently",
            remedy: "Request at least 3 for the quota `Concurrent executions`",
        },
        Broken {
            name: "the quota for initialization rates is below one node's",
            breaks: breaks!(
                |account| {
                    account.set_quota("L-00000EB5", 200).await?;
                },
                {
                    account.restore_quotas().await?;
                }
            ),
            check: "initialization-rate",
            message: "200 MiB/s in total",
            remedy: "Request at least 300",
        },
        Broken {
            name: "the zones do not offer the instance types",
            breaks: breaks!(
                |account| {
                    let types = json!({"x86_64": ["u-24tb1.112xlarge"]});
                    account.configure("/builder/instance_types", types).await?;
                },
                {
                    account.restore_configuration().await?;
                }
            ),
            check: "instance-types",
            message: "(u-24tb1.112xlarge) is offered in the zones of the subnets",
            remedy: "Add a type that the Region offers to `builder.instance_types.x86_64`",
        },
        Broken {
            name: "an instance type has another architecture",
            breaks: breaks!(
                |account| {
                    let types = json!({"x86_64": ["m7g.large"]});
                    account.configure("/builder/instance_types", types).await?;
                },
                {
                    account.restore_configuration().await?;
                }
            ),
            check: "instance-types",
            message: "m7g.large does not run x86_64",
            remedy: "Remove it from `builder.instance_types.x86_64`",
        },
        Broken {
            name: "the subnets give no public address",
            breaks: breaks!(
                |account| {
                    account.set_public_addresses(false).await?;
                },
                {
                    account.set_public_addresses(true).await?;
                }
            ),
            check: "subnets",
            message: "gives builders no public address",
            remedy: "Enable auto-assignment of public IPv4 addresses",
        },
        Broken {
            name: "the subnets have no route to the internet",
            breaks: breaks!(
                |account| {
                    let table = account.route_table().await?;
                    let routes = account.ec2().describe_route_tables();
                    let routes = routes.route_table_ids(&table).send().await?;
                    let gateway = routes.route_tables()[0]
                        .routes()
                        .iter()
                        .find_map(|route| route.gateway_id().filter(|id| id.starts_with("igw-")))
                        .context("the table leads to the internet")?
                        .to_owned();
                    let delete = account.ec2().delete_route().route_table_id(&table);
                    delete.destination_cidr_block("0.0.0.0/0").send().await?;
                },
                {
                    let create = account.ec2().create_route().route_table_id(&table);
                    let create = create.destination_cidr_block("0.0.0.0/0");
                    create.gateway_id(&gateway).send().await?;
                }
            ),
            check: "subnets",
            message: "no VPC endpoint for ssm, ssmmessages, ecr.api, ecr.dkr, s3",
            remedy: "Add a route to a NAT gateway or an internet gateway",
        },
        Broken {
            name: "Bottlerocket has no such release",
            breaks: breaks!(
                |account| {
                    account
                        .configure("/bottlerocket_version", json!("1.0.1"))
                        .await?;
                },
                {
                    account.restore_configuration().await?;
                }
            ),
            check: "ami",
            message: "version `1.0.1`",
            remedy: "Set `variant` and `bottlerocket_version` to a release",
        },
        Broken {
            name: "an image does not exist",
            breaks: breaks!(
                |account| {
                    let host = &account.fixture.world.cloud.ready.registries.ecr.host;
                    let images = json!([format!("{host}/team/api:never-pushed")]);
                    account.configure("/images", images).await?;
                },
                {
                    account.restore_configuration().await?;
                }
            ),
            check: "images",
            message: "team/api:never-pushed",
            remedy: "Push the image for every architecture of the cache",
        },
        Broken {
            name: "the registry refuses the password",
            breaks: breaks!(
                |account| {
                    let world = &account.fixture.world;
                    world.store_credentials("/team/registry", "wrong").await?;
                },
                {
                    let world = &account.fixture.world;
                    let password = world.cloud.ready.registries.private.password.clone();
                    world.store_credentials("/team/registry", &password).await?;
                }
            ),
            check: "images",
            message: "denied by its registry",
            remedy: "Correct the cache's `registry_credentials`",
        },
        Broken {
            name: "a policy denies a call to a function",
            breaks: breaks!(
                |account| {
                    account
                        .deny("create-snapshot", "ec2:CreateSnapshot")
                        .await?;
                },
                {
                    account.allow_again("create-snapshot").await?;
                }
            ),
            check: "permissions",
            message: "role prepull-create-snapshot-eu-west-1 may not call ec2:CreateSnapshot",
            remedy: "Apply the module with Terraform",
        },
        Broken {
            name: "the state machine is another version's",
            breaks: breaks!(
                |account| {
                    let before = account.state_machine().await?;
                    let mut other: Value = serde_json::from_str(&before)?;
                    other["States"]["Debounce"]["Seconds"] = json!(30);
                    account.update_state_machine(other.to_string()).await?;
                },
                {
                    account.update_state_machine(before).await?;
                }
            ),
            check: "state-machine",
            message: "it differs in Debounce",
            remedy: "Apply the module of this version with Terraform",
        },
        Broken {
            name: "a document is another version's",
            breaks: breaks!(
                |account| {
                    let (version, content) = account.document("prepull-power-off").await?;
                    let other = content.replace("powerOff", "powerOffSlowly");
                    account.update_document("prepull-power-off", &other).await?;
                },
                {
                    account.use_document("prepull-power-off", &version).await?;
                }
            ),
            check: "documents",
            message: "prepull-power-off",
            remedy: "Apply the module of this version with Terraform",
        },
        Broken {
            name: "the rule for failed builds is disabled",
            breaks: breaks!(
                |account| {
                    let events = &account.fixture.world.clients.events;
                    events
                        .disable_rule()
                        .name("prepull-failed-build")
                        .send()
                        .await?;
                },
                {
                    let events = &account.fixture.world.clients.events;
                    events
                        .enable_rule()
                        .name("prepull-failed-build")
                        .send()
                        .await?;
                }
            ),
            check: "rules",
            message: "rule prepull-failed-build is disabled",
            remedy: "Enable the rule",
        },
        Broken {
            name: "the rule for pushes calls nothing",
            breaks: breaks!(
                |account| {
                    let events = &account.fixture.world.clients.events;
                    let targets = events
                        .list_targets_by_rule()
                        .rule("prepull-push")
                        .send()
                        .await?;
                    let targets = targets.targets.context("the rule has a target")?;
                    let ids = targets.iter().map(|target| target.id.clone()).collect();
                    let remove = events.remove_targets().rule("prepull-push");
                    remove.set_ids(Some(ids)).send().await?;
                },
                {
                    let put = account.fixture.world.clients.events.put_targets();
                    put.rule("prepull-push")
                        .set_targets(Some(targets))
                        .send()
                        .await?;
                }
            ),
            check: "rules",
            message: "so pushes to ECR start no build",
            remedy: "Apply the module with Terraform",
        },
        Broken {
            name: "the sweep is disabled",
            breaks: breaks!(
                |account| {
                    account.set_sweep(ScheduleState::Disabled).await?;
                },
                {
                    account.set_sweep(ScheduleState::Enabled).await?;
                }
            ),
            check: "schedules",
            message: "schedule sweep of group prepull is disabled",
            remedy: "Enable the schedule",
        },
        Broken {
            name: "the published snapshot was deleted",
            breaks: breaks!(
                |account| {
                    let published = account.fixture.world.published(&account.cache, X86).await?;
                    let published = published.context("the cache is published")?;
                    account.set_pointer(GONE).await?;
                },
                {
                    account.set_pointer(published.as_str()).await?;
                }
            ),
            check: "pointers",
            message: "refers to snap-0123456789abcdef0, which does not exist",
            remedy: "prepull build",
        },
        Broken {
            name: "the configuration is invalid",
            breaks: breaks!(
                |account| {
                    account.configure("/images", json!([])).await?;
                },
                {
                    account.restore_configuration().await?;
                }
            ),
            check: "configuration",
            message: "`images` is empty",
            remedy: "Correct the setting in Terraform's `caches`",
        },
    ]
}

pub async fn sound_account_has_no_finding(fixture: Arc<Fixture>) -> Result<()> {
    let account = Sound::set_up(fixture).await?;
    let (exit, diagnosis) = account.diagnose()?;
    ensure_sound(exit, &diagnosis)?;
    // Every check has a result. Docker Hub is not reachable here, and the cache has no image of it.
    let mut checks: Vec<_> = diagnosis
        .findings
        .iter()
        .map(|one| &one.check[..])
        .collect();
    checks.dedup();
    let expected = [
        "state-machine",
        "documents",
        "rules",
        "schedules",
        "permissions",
        "lambda-concurrency",
        "initialization-rate",
        "configuration",
        "encryption-key",
        "vcpu-quota",
        "instance-types",
        "subnets",
        "ami",
        "images",
        "pointers",
    ];
    ensure!(checks == expected, "{checks:?}");
    let of_roles = diagnosis.findings.iter();
    let of_roles = of_roles.filter(|one| one.check == "permissions").count();
    ensure!(of_roles == 12, "expected 12 roles, not {of_roles}");
    Ok(())
}

pub async fn each_broken_account_has_its_finding_and_remedy(fixture: Arc<Fixture>) -> Result<()> {
    let account = Arc::new(Sound::set_up(fixture).await?);
    let mut failures = Vec::new();
    for broken in broken_accounts() {
        let repair = (broken.breaks)(Arc::clone(&account))
            .await
            .with_context(|| format!("breaking: {}", broken.name))?;
        let diagnosed = account.diagnose();
        repair
            .await
            .with_context(|| format!("repairing: {}", broken.name))?;
        if let Err(error) = diagnosed.and_then(|found| ensure_found(&account, &broken, found)) {
            failures.push(format!("{}: {error:#}", broken.name));
        }
    }
    ensure!(failures.is_empty(), "{}", failures.join("\n\n"));
    let (exit, diagnosis) = account.diagnose()?;
    ensure_sound(exit, &diagnosis)
}

/// Asserts that the finding of a broken account is the only one.
fn ensure_found(
    account: &Sound,
    broken: &Broken,
    (exit, diagnosis): (Option<i32>, Diagnosis),
) -> Result<()> {
    let findings = &diagnosis.findings;
    let other: Vec<_> = findings.iter().filter(|one| one.status != "fine").collect();
    let [finding] = other[..] else {
        anyhow::bail!("expected one finding: {other:#?}");
    };
    let remedy = finding.remedy.as_deref().unwrap_or_default();
    ensure!(
        finding.check == broken.check
            && finding.status == "wrong"
            && finding.message.contains(broken.message)
            && remedy.contains(broken.remedy),
        "another finding: {finding:#?}"
    );
    let cache = finding.cache.as_deref();
    ensure!(
        cache.is_none() || cache == Some(&account.cache),
        "the finding is of another cache: {finding:#?}"
    );
    ensure!(
        exit == Some(3) && diagnosis.status == "wrong",
        "exit code {exit:?}"
    );
    Ok(())
}

pub async fn operator_without_permissions_gets_no_result(fixture: Arc<Fixture>) -> Result<()> {
    let world = &fixture.world;
    let machine = world.deployment.state_machine_arn()?;
    // This role may read the configurations, but nothing else that doctor reads.
    let caller = world
        .cloud
        .credentials("prepull-start-build-eu-west-1")
        .await?;
    let environment = [
        ("AWS_ACCESS_KEY_ID", caller.access_key_id.as_str()),
        ("AWS_SECRET_ACCESS_KEY", &caller.secret_access_key),
        ("AWS_SESSION_TOKEN", &caller.session_token),
    ];
    let arguments = ["doctor", "nightly", "--state-machine", &machine];
    let (exit, diagnosis) = diagnose(&fixture, &arguments, &environment)?;
    ensure!(
        exit == Some(4) && diagnosis.status == "unknown",
        "{exit:?}: {diagnosis:#?}"
    );
    for (check, permission) in [
        ("state-machine", "states:DescribeStateMachine"),
        ("vcpu-quota", "ec2:DescribeInstanceTypes"),
        ("lambda-concurrency", "servicequotas:GetServiceQuota"),
        ("permissions", "iam:SimulatePrincipalPolicy"),
        ("subnets", "ec2:DescribeSubnets"),
        ("images", "ecr:BatchGetImage"),
    ] {
        let finding = diagnosis.findings.iter().find(|one| one.check == check);
        let finding = finding.with_context(|| format!("no finding of {check}"))?;
        let remedy = finding.remedy.as_deref().unwrap_or_default();
        ensure!(
            finding.status == "unknown" && remedy.contains(permission),
            "{finding:#?}"
        );
    }
    Ok(())
}

pub async fn first_build_of_an_unsound_cache_does_not_start(fixture: Arc<Fixture>) -> Result<()> {
    let host = &fixture.world.cloud.ready.registries.ecr.host;
    let missing = format!("{host}/team/api:never-pushed");
    let cache = fixture.cache(&fixture.config(&[&missing]).await?).await?;
    let mut command = fixture.world.cli();
    let output = tokio::task::block_in_place(|| command.args(["build", &cache]).output())?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(3),
        "{:?}: {error}",
        output.status
    );
    ensure!(
        error.contains(&missing) && error.contains("--no-doctor"),
        "the error has no cause or no remedy: {error}"
    );
    let started = fixture.world.executions(&cache).await?;
    ensure!(started.is_empty(), "a build was started: {started:?}");
    Ok(())
}
