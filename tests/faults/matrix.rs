//! Every call of a clean build, made to fail in every way.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context as _, Result, bail};
use prepull_aws::SDK_ATTEMPTS;
use prepull_tests::localcloud::Call;
use serde_json::{Value, json};

use crate::worker::{Expectation, Worker};

/// How often a case is tried whose call does not come.
const ATTEMPTS: usize = 3;

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// Refused once, as too many: the SDK tries again.
    ThrottledOnce,
    /// Refused as too many, whoever tries however often.
    ThrottledForEver,
    /// 5xx for as often as the SDK tries: the state machine calls the stage again.
    Unavailable,
    /// IAM forbids it, as a boundary or a key policy may at any time.
    Denied,
    /// Carried out, but the connection breaks before the answer.
    AnswerLost,
    /// Carried out, and then the function's process is gone.
    Killed,
    /// Carried out, and then the function's time is over.
    TimedOut,
}

impl Effect {
    pub const ALL: [Self; 7] = [
        Self::ThrottledOnce,
        Self::ThrottledForEver,
        Self::Unavailable,
        Self::Denied,
        Self::AnswerLost,
        Self::Killed,
        Self::TimedOut,
    ];

    /// The fault as the local cloud takes it, in the words of the service.
    fn fault(self, service: &str) -> Value {
        let is_ec2 = service == "ec2";
        match self {
            Self::ThrottledOnce | Self::ThrottledForEver => {
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
            Self::ThrottledForEver => "throttled-for-ever",
            Self::Unavailable => "unavailable",
            Self::Denied => "denied",
            Self::AnswerLost => "answer-lost",
            Self::Killed => "killed",
            Self::TimedOut => "timed-out",
        })
    }
}

/// A place in a build where a call is made.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Site {
    stage: String,
    service: String,
    action: String,
    /// What the call names, `{cache}` for the cache and `*` for what differs from build to build.
    resource: Option<String>,
}

/// One call, failing in one way.
#[derive(Debug, Clone)]
pub struct CallFault {
    site: Site,
    /// So many calls at the same site go well before.
    skip: usize,
    effect: Effect,
}

/// How a build with the fault in it is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Succeeds,
    Fails(&'static str),
    /// No build was started, and the event lies where an operator finds it.
    Buried,
}

/// The cases that a recorded build yields: each site in each way. Where a stage comes back to a site after other calls,
/// the second time is a site of its own; waiting makes the later times vary from build to build.
pub fn cases(calls: &[Call]) -> Vec<CallFault> {
    let mut sites: BTreeMap<Site, Vec<usize>> = BTreeMap::new();
    let mut seen: BTreeMap<Site, usize> = BTreeMap::new();
    let mut last: BTreeMap<String, Site> = BTreeMap::new();
    for call in calls {
        let Some(stage) = call.stage() else { continue };
        let site = Site {
            stage: stage.to_owned(),
            service: call.service.clone(),
            action: call.action.clone(),
            resource: call.resource.clone(),
        };
        let skip = seen.entry(site.clone()).or_default();
        let times = sites.entry(site.clone()).or_default();
        let is_repeated = last.get(stage) == Some(&site);
        if !is_repeated && times.len() < 2 {
            times.push(*skip);
        }
        *skip += 1;
        last.insert(stage.to_owned(), site);
    }
    sites
        .iter()
        .flat_map(|(site, times)| times.iter().map(move |skip| (site, *skip)))
        .flat_map(|(site, skip)| {
            Effect::ALL.map(|effect| CallFault {
                site: site.clone(),
                skip,
                effect,
            })
        })
        .collect()
}

impl CallFault {
    pub async fn run(&self, worker: &mut Worker) -> Result<Expectation> {
        worker.prepare().await?;
        // What clean-up was to remove another worker's sweep may have removed a moment before.
        for _ in 0..ATTEMPTS {
            if self.hits(worker).await? {
                return Ok(if self.stage_is("clean-up") && self.is_for_ever() {
                    Expectation::Swept
                } else {
                    Expectation::Clean
                });
            }
        }
        bail!("the build never came to this call")
    }

    /// Runs a build with the fault in it, and tells whether the fault came up.
    async fn hits(&self, worker: &mut Worker) -> Result<bool> {
        worker.push().await?;
        let mut fault = self.effect.fault(&self.site.service);
        fault["service"] = json!(self.site.service);
        fault["action"] = json!(self.site.action);
        fault["caller"] = json!(self.site.stage);
        fault["skip"] = json!(self.skip);
        if let Some(resource) = &self.site.resource {
            fault["resource"] = json!(resource.replace("{cache}", &worker.cache));
        }
        let fault = worker.inject(fault).await?;
        let execution = worker.trigger().await?;
        let outcome = match self.ending() {
            Ending::Succeeds => worker.publishes(&execution).await,
            Ending::Fails(error) => worker.fails(&execution, &[error]).await.map(drop),
            Ending::Buried => worker.is_buried(&execution).await,
        };
        if worker.lift(&fault).await? == 0 {
            worker
                .publishes(&execution)
                .await
                .context("a build in which the fault did not come up")?;
            return Ok(false);
        }
        outcome.map(|()| true)
    }

    fn stage_is(&self, stage: &str) -> bool {
        self.site.stage == stage
    }

    fn is_for_ever(&self) -> bool {
        matches!(self.effect, Effect::ThrottledForEver | Effect::Denied)
    }

    /// What passes by itself is survived; what does not ends the build with the error of the call, unless the stage can do
    /// without it.
    fn ending(&self) -> Ending {
        if !self.is_for_ever() {
            return Ending::Succeeds;
        }
        match self.site.stage.as_str() {
            "start-build" => Ending::Buried,
            // The sweep does what it could not.
            "clean-up" => Ending::Succeeds,
            // Nodes use the snapshot by then: what is denied only tells of it.
            "publish-snapshot"
                if self.effect == Effect::Denied
                    && ["CreateTags", "PutEvents"].contains(&self.site.action.as_str()) =>
            {
                Ending::Succeeds
            }
            // A registry that denies an image has an error of its own, which tells whose policy to look at.
            "plan-build" if self.site.service == "ecr" && self.effect == Effect::Denied => {
                Ending::Fails("RegistryDenied")
            }
            _ if self.effect == Effect::ThrottledForEver => Ending::Fails("Throttled"),
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
        if let Some(resource) = resource {
            // Of an ARN the last part says enough.
            write!(f, "({})", resource.rsplit(':').next().unwrap_or_default())?;
        }
        if self.skip > 0 {
            f.write_str(" again")?;
        }
        write!(f, "/{}", self.effect)
    }
}
