//! `prepull doctor`: checks the account before a build does.
//!
//! Each check calls AWS for one part of a build and returns [`Finding`]s. A check whose own call fails returns a finding
//! without a result, and the others continue. Nothing here changes the account.

mod account;
mod deployment;
mod docker_hub;
mod images;
mod keys;
mod network;
mod quotas;
mod roles;

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use futures::join;
use prepull_aws::{Clients, parameters};
use prepull_domain::{CacheConfig, CacheName, StageError};
use serde::Serialize;
use strum::Display;

use crate::render::{count, table};
use crate::{Answer, Error, Exit, Output, StateMachine, store};

use account::Account;

/// The caches to check, with their configurations.
type Caches = BTreeMap<CacheName, CacheConfig>;

/// A part of the account that builds depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Display)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Check {
    /// The definition of the state machine.
    StateMachine,
    /// The SSM documents.
    Documents,
    /// The rules that start builds and clean up.
    Rules,
    /// The schedules that start builds and sweep.
    Schedules,
    /// The permissions of the roles.
    Permissions,
    /// The quota for concurrent executions of functions.
    LambdaConcurrency,
    /// The quota for the initialization rate of volumes.
    InitializationRate,
    /// The configuration of a cache.
    Configuration,
    /// The key that encrypts the volumes.
    EncryptionKey,
    /// The quota for vCPUs of builders.
    VcpuQuota,
    /// The instance types of builders.
    InstanceTypes,
    /// The subnets of builders.
    Subnets,
    /// The AMI of builders.
    Ami,
    /// The images of the cache.
    Images,
    /// The remaining pulls of Docker Hub.
    DockerHub,
    /// The pointers to snapshots.
    Pointers,
}

/// The result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Display)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Status {
    /// A build can rely on it.
    Fine,
    /// A build or a node fails because of it.
    Wrong,
    /// The check could not be made.
    Unknown,
}

/// The result of a check, with its reason and its remedy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The checked part.
    pub check: Check,
    /// The cache, if the part belongs to one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<CacheName>,
    /// The result.
    pub status: Status,
    /// The reason, in one sentence.
    pub message: String,
    /// The remedy, in one sentence. Every finding that is not fine has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Finding {
    fn fine(check: Check, message: impl Into<String>) -> Self {
        Self {
            check,
            cache: None,
            status: Status::Fine,
            message: message.into(),
            remedy: None,
        }
    }

    fn wrong(check: Check, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            status: Status::Wrong,
            remedy: Some(remedy.into()),
            ..Self::fine(check, message)
        }
    }

    fn unknown(check: Check, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            status: Status::Unknown,
            ..Self::wrong(check, message, remedy)
        }
    }

    /// Creates the finding of a check whose own call failed.
    fn unchecked(check: Check, error: &StageError) -> Self {
        match error {
            StageError::AccessDenied { call, message } => Self::unknown(
                check,
                format!("{call} was denied: {message}"),
                format!("Allow {call} to your credentials, and check again"),
            ),
            error => Self::unknown(
                check,
                error.to_string(),
                "Check AWS_REGION and the network, and try again",
            ),
        }
    }

    fn of(self, cache: &CacheName) -> Self {
        Self {
            cache: Some(cache.clone()),
            ..self
        }
    }
}

/// Returns the finding of a check that may fail at its own calls.
fn found(check: Check, result: Result<Finding, StageError>) -> Finding {
    result.unwrap_or_else(|error| Finding::unchecked(check, &error))
}

/// The findings of all checks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnosis {
    /// `wrong` if any finding is, else `unknown` if any finding is.
    pub status: Status,
    /// The findings: first those of the deployment, then those of each cache.
    pub findings: Vec<Finding>,
}

impl Diagnosis {
    /// Sorts the findings by cache and check.
    #[must_use]
    pub fn new(mut findings: Vec<Finding>) -> Self {
        findings.sort_by(|a, b| (&a.cache, a.check).cmp(&(&b.cache, b.check)));
        let any = |status| findings.iter().any(|finding| finding.status == status);
        let mut worst = [Status::Wrong, Status::Unknown].into_iter();
        let status = worst.find(|status| any(*status)).unwrap_or(Status::Fine);
        Self { status, findings }
    }

    /// Returns the exit code of the command.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self.status {
            Status::Fine => Exit::Done,
            Status::Wrong => Exit::Unsound,
            Status::Unknown => Exit::Unchecked,
        }
    }

    /// Returns the findings with `status`.
    pub fn with(&self, status: Status) -> impl Iterator<Item = &Finding> {
        self.findings
            .iter()
            .filter(move |finding| finding.status == status)
    }
}

/// Checks the deployment, and `cache` or all caches if it is `None`.
///
/// # Errors
/// If prepull is not deployed, the cache does not exist, or the configurations cannot be read.
pub async fn diagnose(
    clients: &Clients,
    machine: &StateMachine,
    name: &str,
    cache: Option<&CacheName>,
) -> Result<Diagnosis, Error> {
    let account = Account::new(clients, name, machine.arn(clients).await?)?;
    let mut findings = Vec::new();
    let mut caches = Caches::new();
    let declared = store::declared(clients, cache).await?;
    for (cache, config) in declared {
        match config {
            Ok(config) => {
                let fine = Finding::fine(Check::Configuration, "the configuration is valid");
                findings.push(fine.of(&cache));
                caches.insert(cache, config);
            }
            Err(error) => findings.push(
                Finding::wrong(
                    Check::Configuration,
                    error.to_string(),
                    "Correct the setting in Terraform's `caches`, and apply",
                )
                .of(&cache),
            ),
        }
    }
    let (deployment, keys, quotas, network, images, roles) = join!(
        deployment::check(&account, &caches),
        keys::check(&account, &caches),
        quotas::check(&account, &caches),
        network::check(&account, &caches),
        images::check(&account, &caches),
        roles::check(&account, &caches),
    );
    for group in [deployment, keys, quotas, network, images, roles] {
        findings.extend(group);
    }
    Ok(Diagnosis::new(findings))
}

/// Checks a cache that has no published snapshot yet. Problems end in an error; checks without a result do not.
///
/// # Errors
/// [`Error::Unsound`] with the problems, and the errors of [`diagnose`].
pub async fn before_first_build(
    clients: &Clients,
    machine: &StateMachine,
    name: &str,
    cache: &CacheName,
) -> Result<(), Error> {
    let (_, config) = parameters::cache(clients, cache.as_str()).await?;
    for &architecture in &config.architectures {
        if store::published(clients, cache, architecture)
            .await?
            .is_some()
        {
            return Ok(());
        }
    }
    let diagnosis = Box::pin(diagnose(clients, machine, name, Some(cache))).await?;
    let mut problems = String::new();
    for finding in diagnosis.with(Status::Wrong) {
        let remedy = finding.remedy.as_deref().unwrap_or_default();
        writeln!(
            problems,
            "  {}: {}. {remedy}.",
            finding.check, finding.message
        )
        .expect("a string takes every text");
    }
    if problems.is_empty() {
        return Ok(());
    }
    Err(Error::Unsound {
        cache: cache.to_string(),
        problems,
    })
}

/// Returns the answer of `prepull doctor`.
#[must_use]
pub fn answer(diagnosis: &Diagnosis, output: Output) -> Answer {
    Answer::new(diagnosis, output, diagnosis.exit())
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = &self.findings[..];
        while let Some(first) = rest.first() {
            let same = rest
                .iter()
                .take_while(|finding| finding.cache == first.cache);
            let (group, others) = rest.split_at(same.count());
            rest = others;
            match &first.cache {
                Some(cache) => writeln!(f, "{cache}")?,
                None => writeln!(f, "deployment")?,
            }
            let mut rows = Vec::new();
            for finding in group {
                let Finding {
                    check,
                    status,
                    message,
                    ..
                } = finding;
                rows.push(vec![status.to_string(), check.to_string(), message.clone()]);
                if let Some(remedy) = &finding.remedy {
                    rows.push(vec![String::new(), String::new(), format!("{remedy}.")]);
                }
            }
            writeln!(f, "{}", table("  ", &rows))?;
        }
        let number = |status| self.with(status).count();
        match (number(Status::Wrong), number(Status::Unknown)) {
            (0, 0) => f.write_str("No problem found."),
            (wrong, 0) => write!(f, "{} found.", count(wrong, "problem")),
            (0, unknown) => write!(
                f,
                "No problem found, but {} could not be made.",
                count(unknown, "check")
            ),
            (wrong, unknown) => write!(
                f,
                "{} found, and {} could not be made.",
                count(wrong, "problem"),
                count(unknown, "check")
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn findings() -> Vec<Finding> {
        let web = "web".parse().unwrap();
        vec![
            Finding::wrong(
                Check::Images,
                "image `docker.io/library/nginx:0` is not available: not found",
                "Push the image, correct the reference, or remove it",
            )
            .of(&web),
            Finding::fine(Check::Ami, "builders start from ami-0123456789abcdef0").of(&web),
            Finding::fine(Check::StateMachine, "the definition is this version's"),
            Finding::unchecked(
                Check::Permissions,
                &StageError::AccessDenied {
                    call: "iam:SimulatePrincipalPolicy",
                    message: "AccessDenied: not authorized".to_owned(),
                },
            ),
        ]
    }

    #[test]
    fn text_groups_findings_by_cache_with_remedies() {
        insta::assert_snapshot!(answer(&Diagnosis::new(findings()), Output::Text).text);
    }

    #[test]
    fn json_has_a_status_and_every_finding() {
        insta::assert_snapshot!(answer(&Diagnosis::new(findings()), Output::Json).text);
    }

    #[test]
    fn worst_finding_determines_status_and_exit_code() {
        let all = findings();
        for (findings, exit, text) in [
            (&all[1..3], Exit::Done, "No problem found."),
            (&all[..3], Exit::Unsound, "1 problem found."),
            (
                &all[1..],
                Exit::Unchecked,
                "No problem found, but 1 check could not be made.",
            ),
            (
                &all[..],
                Exit::Unsound,
                "1 problem found, and 1 check could not be made.",
            ),
        ] {
            let diagnosis = Diagnosis::new(findings.to_vec());
            assert_eq!(diagnosis.exit(), exit);
            assert_eq!(diagnosis.to_string().lines().last(), Some(text));
            assert_eq!(
                json!(diagnosis)["findings"].as_array().unwrap().len(),
                findings.len()
            );
        }
    }
}
