//! Questions about the builds, answered by the history of their executions.

use anyhow::{Context as _, Result, ensure};
use jiff::SignedDuration;
use prepull_aws::sfn::types::{HistoryEvent, HistoryEventType};
use prepull_aws::{AwsError as _, timestamp};

use crate::build::BuildRecord;
use crate::{CACHE, Suite};

/// Asks every question about the builds so far.
pub async fn about_builds(suite: &mut Suite) {
    let identical_starts = identical_starts(suite).await;
    let name_is_refused = name_is_refused(suite).await;
    let records = &suite.builds;
    let sheet = &mut suite.sheet;
    sheet.record(
        "Which calls of stages failed, so that Step Functions retried them?",
        "`GetExecutionHistory`",
        Ok(failures(records)),
    );
    sheet.record(
        "Do new roles, and new tags for `ssm:resourceTag`, take effect before the first build needs them?",
        "`GetExecutionHistory`: failed calls that were denied",
        Ok(denials(records)),
    );
    sheet.record(
        "Does the scrub run on Bottlerocket under SELinux, and how long does the power-off take?",
        "Run Command with the document `power-off`, `DescribeInstances`",
        power_off(records),
    );
    sheet.record(
        "How long do the steps of a build take, compared with the model of `prepull estimate`?",
        "`GetExecutionHistory`, the manifest",
        steps(records),
    );
    sheet.record(
        "How many events and state transitions does a build have? A history holds 25,000 events.",
        "`GetExecutionHistory`",
        Ok(sizes(records)),
    );
    sheet.record(
        "Do `DescribeExecution` and `ListExecutions` return the same start time, to the millisecond?",
        "`DescribeExecution`, `ListExecutions`",
        identical_starts,
    );
    sheet.record(
        "Does Step Functions refuse the name of an ended execution?",
        "`StartExecution`",
        name_is_refused,
    );
}

/// Returns whether a failed call only reports that its stage is not finished.
fn is_progress(error: &str) -> bool {
    error == "StillRunning"
}

fn failures(records: &[BuildRecord]) -> (String, Vec<String>) {
    let failures: Vec<_> = records
        .iter()
        .flat_map(|record| {
            let failures = record.failures.iter();
            failures
                .filter(|(_, error, _)| !is_progress(error))
                .map(|(stage, error, cause)| format!("{}, {stage}: {error}: {cause}", record.label))
        })
        .collect();
    let reports = records.iter().flat_map(|record| &record.failures);
    let reports = reports.filter(|(_, error, _)| is_progress(error)).count();
    let count = failures.len();
    (
        format!(
            "Failed calls: {count}, of which one was on purpose. Calls that only reported progress: {reports}."
        ),
        failures,
    )
}

fn denials(records: &[BuildRecord]) -> (String, Vec<String>) {
    let denied: Vec<_> = records
        .iter()
        .flat_map(|record| &record.failures)
        .filter(|(_, error, cause)| error.contains("Denied") || cause.contains("AccessDenied"))
        .map(|(stage, error, cause)| format!("{stage}: {error}: {cause}"))
        .collect();
    let answer = if denied.is_empty() {
        "Yes: no call was denied.".to_owned()
    } else {
        format!("No: {} calls were denied.", denied.len())
    };
    (answer, denied)
}

/// Returns the longest power-off. create-snapshot succeeds only if the builder has powered itself off, which is the last step
/// of the scrub.
fn power_off(records: &[BuildRecord]) -> Result<(String, Vec<String>)> {
    let mut evidence = Vec::new();
    let mut longest = SignedDuration::ZERO;
    for record in records {
        let Some(manifest) = &record.manifest else {
            continue;
        };
        let step = manifest
            .timeline()
            .into_iter()
            .find(|step| step.waited_for == "the scrub and the power-off")
            .context("the manifest has no step for the power-off")?;
        let took = step.ended_at.duration_since(step.started_at);
        longest = longest.max(took);
        evidence.push(format!("{}: {:.1} s", record.label, took.as_secs_f64()));
    }
    ensure!(!evidence.is_empty(), "no build published a snapshot");
    Ok((
        format!(
            "Yes: every builder powered itself off, within {:.0} s.",
            longest.as_secs_f64()
        ),
        evidence,
    ))
}

/// Compares each stage with the model.
fn steps(records: &[BuildRecord]) -> Result<(String, Vec<String>)> {
    let mut evidence = Vec::new();
    let mut totals = Vec::new();
    for record in records {
        let Some(manifest) = &record.manifest else {
            continue;
        };
        let (start, end) = record.span().context("the build has no end")?;
        let took = end.duration_since(start).as_secs_f64();
        let estimate = crate::cost::modelled(manifest)?;
        totals.push(format!(
            "{}: {took:.0} s measured, {} s by the model",
            record.label,
            estimate.seconds.total()
        ));
        let stages = record.build.stages.iter().filter_map(|run| {
            let took = run.took()?.as_secs_f64();
            Some(format!("{} {took:.1} s", run.stage))
        });
        evidence.push(format!(
            "{}, measured: {}",
            record.label,
            stages.collect::<Vec<_>>().join(", ")
        ));
        for step in manifest.timeline() {
            evidence.push(format!(
                "{}, {}: waited {:.1} s for {}",
                record.label,
                step.stage,
                step.ended_at.duration_since(step.started_at).as_secs_f64(),
                step.waited_for
            ));
        }
        let steps = estimate.seconds.named();
        let steps = steps.map(|(step, seconds)| format!("{step} {seconds} s"));
        evidence.push(format!("{}, model: {}", record.label, steps.join(", ")));
    }
    ensure!(!totals.is_empty(), "no build published a snapshot");
    Ok((format!("{}.", totals.join("; ")), evidence))
}

fn sizes(records: &[BuildRecord]) -> (String, Vec<String>) {
    let evidence: Vec<_> = records
        .iter()
        .map(|record| {
            format!(
                "{}: events {}, transitions {}, calls of functions {}",
                record.label,
                record.events.len(),
                record.transitions(),
                record.calls()
            )
        })
        .collect();
    let most = records.iter().map(|record| record.events.len()).max();
    (
        format!("At most {} events.", most.unwrap_or_default()),
        evidence,
    )
}

/// plan-build compares the start of its own execution with the list of all, so a difference would put it behind itself.
async fn identical_starts(suite: &Suite) -> Result<(String, Vec<String>)> {
    let deployment = suite.deployment.as_ref().context("nothing is deployed")?;
    let machine = deployment.state_machine_arn()?;
    let listed = suite.clients.sfn.list_executions();
    let listed = listed.state_machine_arn(machine).send().await?;
    let mut evidence = Vec::new();
    let mut differences = 0;
    for record in &suite.builds {
        let arn = record.build.execution.as_str();
        let described = suite.clients.sfn.describe_execution().execution_arn(arn);
        let described = timestamp(described.send().await?.start_date());
        let listed = listed
            .executions()
            .iter()
            .find(|execution| execution.execution_arn() == arn);
        let listed = timestamp(listed.context("an execution is not listed")?.start_date());
        differences += usize::from(described != listed);
        evidence.push(format!(
            "{}: described {described}, listed {listed}",
            record.label
        ));
    }
    let answer = if differences == 0 {
        "Yes.".to_owned()
    } else {
        format!("No: {differences} differ.")
    };
    Ok((answer, evidence))
}

/// start-build depends on it: two events of one debounce window have the same name.
async fn name_is_refused(suite: &Suite) -> Result<(String, Vec<String>)> {
    let deployment = suite.deployment.as_ref().context("nothing is deployed")?;
    let ended = suite.builds.first().context("no build has ended")?;
    let again = suite.clients.sfn.start_execution();
    let again = again
        .state_machine_arn(deployment.state_machine_arn()?)
        .name(ended.build.execution.name().as_str())
        .input(serde_json::json!({"cache": CACHE, "debounce_seconds": 1}).to_string());
    match again.send().await {
        Ok(started) => {
            let stop = suite.clients.sfn.stop_execution();
            stop.execution_arn(started.execution_arn()).send().await?;
            Ok((
                format!("No: it started {}.", started.execution_arn()),
                Vec::new(),
            ))
        }
        Err(error) if error.aws_code() == Some("ExecutionAlreadyExists") => {
            let error = error.into_stage_error("states:StartExecution");
            Ok(("Yes.".to_owned(), vec![error.to_string()]))
        }
        Err(error) => Err(error.into_stage_error("states:StartExecution").into()),
    }
}

impl BuildRecord {
    /// Returns the number of state transitions. A retry also counts.
    ///
    /// Source: <https://aws.amazon.com/step-functions/pricing/>.
    pub fn transitions(&self) -> usize {
        let entered = self
            .events
            .iter()
            .filter(|event| event.r#type().as_str().ends_with("StateEntered"));
        let tasks = self.count(&HistoryEventType::TaskStateEntered);
        entered.count() + self.calls().saturating_sub(tasks)
    }

    /// Returns the number of calls of functions.
    pub fn calls(&self) -> usize {
        self.count(&HistoryEventType::TaskScheduled)
    }

    /// Returns the time that functions ran.
    pub fn function_time(&self) -> SignedDuration {
        let at = |event: &HistoryEvent| timestamp(event.timestamp());
        let ends = self.events.iter().filter(|event| {
            matches!(
                event.r#type(),
                HistoryEventType::TaskSucceeded
                    | HistoryEventType::TaskFailed
                    | HistoryEventType::TaskTimedOut
            )
        });
        ends.filter_map(|end| {
            let start = self
                .events
                .iter()
                .find(|event| event.id() == end.previous_event_id())?;
            Some(at(end).duration_since(at(start)))
        })
        .sum()
    }

    fn count(&self, kind: &HistoryEventType) -> usize {
        let events = self.events.iter();
        events.filter(|event| event.r#type() == kind).count()
    }
}
