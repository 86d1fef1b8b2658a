//! Call faults: each call of a clean build fails in every way.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context as _, Result, bail};
use prepull_aws::SDK_ATTEMPTS;
use prepull_tests::localcloud::Call;
use serde_json::{Value, json};

use crate::worker::{Expectation, Worker};

/// Maximum attempts of a case in which the build never makes the call.
const ATTEMPTS: usize = 3;

/// The way in which a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// Throttled once. The SDK retries.
    ThrottledOnce,
    /// Throttled for every caller and every attempt.
    ThrottledAlways,
    /// 5xx for every attempt of the SDK. The state machine calls the stage again.
    Unavailable,
    /// Denied by IAM, as a permissions boundary or a key policy can do at any time.
    Denied,
    /// Carried out, but the connection breaks before the answer arrives.
    AnswerLost,
    /// Carried out, then the process of the function dies.
    Killed,
    /// Carried out, then the function times out.
    TimedOut,
}

impl Effect {
    pub const ALL: [Self; 7] = [
        Self::ThrottledOnce,
        Self::ThrottledAlways,
        Self::Unavailable,
        Self::Denied,
        Self::AnswerLost,
        Self::Killed,
        Self::TimedOut,
    ];

    /// Returns the fault in the local cloud's format, with the error code of the service.
    fn fault(self, service: &str) -> Value {
        let is_ec2 = service == "ec2";
        match self {
            Self::ThrottledOnce | Self::ThrottledAlways => {
                let code = if is_ec2 {
                    "RequestLimitExceeded"
                } else {
                    "ThrottlingException"
                };
                let status = if is_ec2 { 503 } else { 400 };
                let times = (self == Self::ThrottledOnce).then_some(1);
                json!({"effect": "refuse", "code": code, "status": status, "times": times})
            }
            Self::Unavailable => {
                json!({"effect": "refuse", "code": "ServiceUnavailable", "status": 503, "times": SDK_ATTEMPTS})
            }
            Self::Denied => {
                let code = if is_ec2 {
                    "UnauthorizedOperation"
                } else {
                    "AccessDeniedException"
                };
                let status = if is_ec2 { 403 } else { 400 };
                json!({"effect": "refuse", "code": code, "status": status, "times": null})
            }
            Self::AnswerLost => json!({"effect": "lose-answer"}),
            Self::Killed => json!({"effect": "kill"}),
            Self::TimedOut => json!({"effect": "time-out"}),
        }
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::ThrottledOnce => "throttled-once",
            Self::ThrottledAlways => "throttled-always",
            Self::Unavailable => "unavailable",
            Self::Denied => "denied",
            Self::AnswerLost => "answer-lost",
            Self::Killed => "killed",
            Self::TimedOut => "timed-out",
        })
    }
}

/// A call site in a build.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Site {
    stage: String,
    service: String,
    action: String,
    /// Resource in the call, with `{cache}` for the cache and `*` for parts that differ between builds. Empty if the call
    /// names none.
    resource: String,
}

impl Site {
    /// Returns whether a fault at this site also hits `call`. A `*` at the end of a resource covers deeper paths: the
    /// pattern of a manifest's first page covers its further pages.
    fn covers(&self, call: &Call) -> bool {
        let is_covered = |resource: &str| match self.resource.strip_suffix('*') {
            Some(start) => resource.starts_with(start),
            None => resource == self.resource,
        };
        call.stage() == Some(self.stage.as_str())
            && call.service == self.service
            && call.action == self.action
            && is_covered(call.resource.as_deref().unwrap_or_default())
    }
}

/// One call that fails in one way.
#[derive(Debug, Clone)]
pub struct CallFault {
    site: Site,
    /// Number of successful calls at the same site before the fault.
    skip: usize,
    /// Whether the stage made other calls since its first visit to the site.
    is_second_visit: bool,
    effect: Effect,
}

/// Expected end of a build with the fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Succeeds,
    Fails(&'static str),
    /// No build was started, and the event is in the dead-letter queue.
    DeadLetter,
}

/// Returns the cases of a recorded build: each call site with each effect. If a stage returns to a site after other
/// calls, the second visit is a separate site. Later visits are ignored, because polling makes them vary between builds.
pub fn cases(calls: &[Call]) -> Vec<CallFault> {
    let mut sites: BTreeMap<Site, Vec<usize>> = BTreeMap::new();
    let mut last: BTreeMap<String, Site> = BTreeMap::new();
    for (position, call) in calls.iter().enumerate() {
        let Some(stage) = call.stage() else { continue };
        let site = Site {
            stage: stage.to_owned(),
            service: call.service.clone(),
            action: call.action.clone(),
            resource: call.resource.clone().unwrap_or_default(),
        };
        let times = sites.entry(site.clone()).or_default();
        let is_repeated = last.get(stage) == Some(&site);
        if !is_repeated && times.len() < 2 {
            times.push(calls[..position].iter().filter(|c| site.covers(c)).count());
        }
        last.insert(stage.to_owned(), site);
    }
    sites
        .iter()
        .flat_map(|(site, times)| times.iter().enumerate().map(move |visit| (site, visit)))
        .flat_map(|(site, (visit, skip))| {
            Effect::ALL.map(|effect| CallFault {
                site: site.clone(),
                skip: *skip,
                is_second_visit: visit > 0,
                effect,
            })
        })
        .collect()
}

impl CallFault {
    pub async fn run(&self, worker: &mut Worker) -> Result<Expectation> {
        worker.prepare().await?;
        // The sweep of another worker may already have removed the resources that this clean-up should remove.
        for _ in 0..ATTEMPTS {
            if self.hits(worker).await? {
                return Ok(if self.stage_is("clean-up") && self.is_permanent() {
                    Expectation::Swept
                } else {
                    Expectation::Clean
                });
            }
        }
        bail!("the build never made this call")
    }

    /// Runs a build with the fault, and returns whether the fault hit a call.
    async fn hits(&self, worker: &mut Worker) -> Result<bool> {
        worker.push().await?;
        let mut fault = self.effect.fault(&self.site.service);
        fault["service"] = json!(self.site.service);
        fault["action"] = json!(self.site.action);
        fault["caller"] = json!(self.site.stage);
        fault["skip"] = json!(self.skip);
        fault["resource"] = json!(self.site.resource.replace("{cache}", &worker.cache));
        let fault = worker.inject(fault).await?;
        let execution = worker.trigger().await?;
        let outcome = match self.ending() {
            Ending::Succeeds => worker.publishes(&execution).await,
            Ending::Fails(error) => worker.fails(&execution, &[error]).await.map(drop),
            Ending::DeadLetter => worker.ends_in_dead_letter_queue(&execution).await,
        };
        if worker.remove_fault(&fault).await? == 0 {
            worker
                .publishes(&execution)
                .await
                .context("a build in which the fault hit no call")?;
            return Ok(false);
        }
        outcome.map(|()| true)
    }

    /// Returns whether the call belongs to a stage that differs with verification.
    pub fn needs_verification(&self) -> bool {
        self.stage_is("create-snapshot") || self.stage_is("verify-snapshot")
    }

    fn stage_is(&self, stage: &str) -> bool {
        self.site.stage == stage
    }

    /// Returns whether nodes can do without the call: it tags the snapshot, emits the event, or records the emission.
    fn is_notification(&self) -> bool {
        match self.site.action.as_str() {
            "CreateTags" | "PutEvents" => true,
            // The first call appends the decision. The second one records that its event was emitted.
            "PutParameter" => self.is_second_visit && self.site.resource.contains("/decisions/"),
            _ => false,
        }
    }

    fn is_permanent(&self) -> bool {
        matches!(self.effect, Effect::ThrottledAlways | Effect::Denied)
    }

    /// Returns the expected end: a build survives a temporary fault. A permanent fault fails the build with the error of
    /// the call, unless the stage does not need the call.
    fn ending(&self) -> Ending {
        if !self.is_permanent() {
            return Ending::Succeeds;
        }
        match self.site.stage.as_str() {
            "start-build" => Ending::DeadLetter,
            // The sweep removes the rest.
            "clean-up" => Ending::Succeeds,
            // clean-up terminates the verifier.
            "verify-snapshot" if self.site.action == "TerminateInstances" => Ending::Succeeds,
            // The snapshot is already published. The denied call is only a notification.
            "publish-snapshot" if self.effect == Effect::Denied && self.is_notification() => {
                Ending::Succeeds
            }
            // A registry that denies an image has its own error, which shows the policy to check.
            "plan-build" if self.site.service == "ecr" && self.effect == Effect::Denied => {
                Ending::Fails("RegistryDenied")
            }
            _ if self.effect == Effect::ThrottledAlways => Ending::Fails("Throttled"),
            _ => Ending::Fails("AccessDenied"),
        }
    }
}

impl fmt::Display for CallFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Site {
            stage,
            service,
            action,
            resource,
        } = &self.site;
        write!(f, "{stage}/{service}:{action}")?;
        if !resource.is_empty() {
            // The last part of an ARN is enough.
            write!(f, "({})", resource.rsplit(':').next().unwrap_or_default())?;
        }
        if self.is_second_visit {
            f.write_str(" again")?;
        }
        write!(f, "/{}", self.effect)
    }
}
