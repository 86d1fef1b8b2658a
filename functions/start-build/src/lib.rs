//! start-build turns a push to private ECR, a schedule or a call into an execution for every affected cache.
//!
//! **Before:** the configurations of the caches are in the Parameter Store, and the state machine exists.
//!
//! **After:** each affected cache has an execution whose plan will be newer than the trigger. Triggers of one cache within
//! one window of `debounce` share an execution.
//!
//! **Called again** with the same event: it joins the existing execution.
//!
//! **Errors:** `InvalidEvent` for any event that is not a trigger: another action than a push, a failed push, a push without
//! a tag, or an unknown shape. `InvalidConfig` if a schedule or a call refers to a missing or misconfigured cache. A push to
//! a repository of no cache is not an error. The answer then gives the reason. One misconfigured cache does not stop a push
//! from starting builds of the others.

mod event;

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use prepull_aws::{AwsError, Clients, Deadline, parameters};
use prepull_domain::build::trigger::{ExecutionInput, Push, TriggerRecord};
use prepull_domain::ids::InvalidId;
use prepull_domain::{CacheConfig, CacheName, ExecutionName, InvalidConfig, StageError};
use serde::Serialize;
use serde_json::Value;

use crate::event::Event;

/// The settings of the function.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The build state machine.
    pub state_machine_arn: String,
    /// The debounce.
    pub debounce: SignedDuration,
}

/// The result of a trigger.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Output {
    /// Executions that this trigger started.
    pub started: Vec<Build>,
    /// Executions that another trigger of the same window had started.
    pub joined: Vec<Build>,
    /// The reason, if the trigger started nothing.
    pub ignored: Option<String>,
}

/// An execution of a cache.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Build {
    /// The cache.
    pub cache: CacheName,
    /// The execution's name.
    pub execution: ExecutionName,
}

/// Handles one trigger.
///
/// # Errors
/// See the module's documentation.
pub async fn handle(
    clients: &Clients,
    settings: &Settings,
    input: Value,
    _deadline: Deadline,
) -> Result<Output, StageError> {
    let event = Event::parse(input)?;
    let caches = parameters::caches(clients).await?;
    let now = Timestamp::now();
    match event {
        Event::Push { push, at } => {
            // ECR's own time, so that a push that is delivered twice stays in one window.
            let at = at.unwrap_or(now);
            let concerned = concerned_by(&push, &caches);
            if concerned.is_empty() {
                let reason = format!(
                    "no cache with `rebuild_on_push` lists {push}. Add the image to a cache's `images` to rebuild on \
                     its pushes"
                );
                tracing::info!(reason, "push ignored");
                return Ok(Output {
                    ignored: Some(reason),
                    ..Output::default()
                });
            }
            let image = format!("{}:{}", push.repository.repository, push.tag);
            start(
                clients,
                settings,
                &concerned,
                at,
                &TriggerRecord::Push { image, at },
            )
            .await
        }
        Event::Schedule { cache } => {
            let cache = declared(&cache, &caches)?;
            start(
                clients,
                settings,
                &[cache],
                now,
                &TriggerRecord::Schedule { at: now },
            )
            .await
        }
        Event::Manual { cache } => {
            let cache = declared(&cache, &caches)?;
            start(
                clients,
                settings,
                &[cache],
                now,
                &TriggerRecord::Manual { at: now },
            )
            .await
        }
    }
}

type Caches = BTreeMap<CacheName, Result<CacheConfig, InvalidConfig>>;

fn concerned_by<'a>(push: &Push, caches: &'a Caches) -> Vec<&'a CacheName> {
    caches
        .iter()
        .filter_map(|(cache, config)| match config {
            Ok(config) => push.triggers(config).then_some(cache),
            Err(error) => {
                let error = StageError::from(error.clone());
                tracing::error!(%cache, error = error.name(), cause = %error, "cache skipped: its configuration is not valid");
                None
            }
        })
        .collect()
}

/// Returns the name of a declared and valid cache.
fn declared<'a>(cache: &str, caches: &'a Caches) -> Result<&'a CacheName, StageError> {
    let invalid = |problem: String| StageError::from(InvalidConfig::new(cache, problem));
    let name: CacheName = cache
        .parse()
        .map_err(|error: InvalidId| invalid(error.to_string()))?;
    match caches.get_key_value(&name) {
        Some((name, Ok(_))) => Ok(name),
        Some((_, Err(error))) => Err(error.clone().into()),
        None => Err(invalid(
            "it is not declared. Declare it in Terraform's `caches` and apply, or remove the schedule or call".to_owned(),
        )),
    }
}

/// Starts an execution for each cache. If one start fails, the others still happen, and the call fails so that Lambda
/// retries it.
async fn start(
    clients: &Clients,
    settings: &Settings,
    caches: &[&CacheName],
    at: Timestamp,
    trigger: &TriggerRecord,
) -> Result<Output, StageError> {
    let mut output = Output::default();
    let mut failure = None;
    for cache in caches {
        let execution = ExecutionName::for_trigger(cache, at, settings.debounce);
        let input = ExecutionInput {
            cache: cache.to_string(),
            debounce_seconds: Some(settings.debounce.as_secs()),
            trigger: Some(trigger.clone()),
        };
        let answer = clients
            .sfn
            .start_execution()
            .state_machine_arn(&settings.state_machine_arn)
            .name(execution.as_str())
            .input(serde_json::to_string(&input).expect("strings and numbers always serialize"))
            .send()
            .await;
        let build = Build {
            cache: (*cache).clone(),
            execution,
        };
        match answer {
            Ok(_) => {
                tracing::info!(%cache, execution = %build.execution, "build started");
                output.started.push(build);
            }
            Err(error) if error.aws_code() == Some("ExecutionAlreadyExists") => {
                tracing::info!(%cache, execution = %build.execution, "joined a running build");
                output.joined.push(build);
            }
            Err(error) => {
                let error = error.into_stage_error("states:StartExecution");
                tracing::error!(%cache, error = error.name(), cause = %error, "build not started");
                failure = Some(error);
            }
        }
    }
    match failure {
        Some(error) => Err(error),
        None => Ok(output),
    }
}
