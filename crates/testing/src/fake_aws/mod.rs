//! A fake AWS in memory.

mod commands;
mod ec2;
mod executions;
mod parameters;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use aws_smithy_mocks::{MockResponseInterceptor, Rule, RuleMode, create_mock_http_client};
use prepull_aws::ec2::error::ErrorMetadata;
use prepull_aws::ec2::operation::run_instances::RunInstancesInput;
use prepull_aws::ec2::types::{Instance, Snapshot, Volume};
use prepull_aws::eventbridge::operation::put_events::{PutEventsError, PutEventsOutput};
use prepull_aws::sfn::operation::describe_execution::DescribeExecutionOutput;
use prepull_aws::ssm::operation::get_command_invocation::GetCommandInvocationOutput;
use prepull_aws::ssm::operation::send_command::SendCommandInput;
use prepull_aws::{Clients, ec2 as ec2_sdk, ecr, eventbridge, secretsmanager, sfn, ssm};
use serde_json::Value;

pub use executions::execution_arn;

/// A fake AWS. Clones share their resources.
///
/// A new one answers no call, and a call without an answer fails the test. Two kinds of methods add answers:
/// - `ec2`, `ssm` and the other services add rules for single answers.
/// - `with_instances` and the like add resources, and with them the calls that read and change these resources.
///
/// A rule takes precedence over resources, and over the rules of earlier calls.
#[derive(Debug, Clone, Default)]
pub struct FakeAws {
    state: Arc<Mutex<State>>,
    rules: Rules,
}

#[derive(Debug, Clone, Default)]
struct Rules {
    ec2: Vec<Rule>,
    ecr: Vec<Rule>,
    events: Vec<Rule>,
    secrets: Vec<Rule>,
    sfn: Vec<Rule>,
    ssm: Vec<Rule>,
}

#[derive(Debug, Default)]
struct State {
    calls: Vec<String>,
    failures: Vec<Failure>,
    parameters: BTreeMap<String, String>,
    instances: Vec<Instance>,
    launches: Vec<RunInstancesInput>,
    volumes: Vec<Volume>,
    snapshots: Vec<Snapshot>,
    /// The snapshots that machine images use.
    in_images: BTreeSet<String>,
    /// The snapshots that the launch template uses, with its version.
    in_templates: BTreeMap<String, i64>,
    executions: Vec<DescribeExecutionOutput>,
    events: Vec<Value>,
    commands: Vec<(SendCommandInput, GetCommandInvocationOutput)>,
}

/// An error for the calls that begin with `call`.
#[derive(Debug)]
struct Failure {
    call: String,
    code: String,
    message: String,
}

/// Returns a rule that answers an operation from the state. The answer is a `Result` with [`ErrorMetadata`].
macro_rules! answers {
    ($aws:expr, $service:ident :: $operation:ident, $error:ident, |$state:ident, $request:ident| $answer:expr) => {{
        let aws = $aws.clone();
        aws_smithy_mocks::mock!($service::Client::$operation).then_compute_response(
            move |$request| {
                let mut state = aws.state();
                let answer = |$state: &mut crate::fake_aws::State| $answer;
                match answer(&mut state) {
                    Ok(output) => aws_smithy_mocks::MockResponse::Output(output),
                    Err(error) => aws_smithy_mocks::MockResponse::Error($error::generic(error)),
                }
            },
        )
    }};
}
use answers;

impl State {
    /// Records a call, as `service:Action` and its resource.
    ///
    /// # Errors
    /// The error from [`FakeAws::failing`] for this call.
    fn call(&mut self, call: impl Into<String>) -> Result<(), ErrorMetadata> {
        let call = call.into();
        let failure = self
            .failures
            .iter()
            .find(|failure| call.starts_with(&failure.call));
        let result = match failure {
            Some(Failure { code, message, .. }) => {
                let error = ErrorMetadata::builder().code(code).message(message);
                Err(error.build())
            }
            None => Ok(()),
        };
        self.calls.push(call);
        result
    }
}

fn error(code: &str) -> ErrorMetadata {
    ErrorMetadata::builder().code(code).build()
}

/// A client of one service. Any matching rule answers, in any order.
macro_rules! client {
    ($service:ident, $rules:expr) => {{
        let mut interceptor = MockResponseInterceptor::new().rule_mode(RuleMode::MatchAny);
        for rule in &$rules {
            interceptor = interceptor.with_rule(rule);
        }
        $service::Client::from_conf(
            $service::Config::builder()
                .behavior_version($service::config::BehaviorVersion::latest())
                .region($service::config::Region::new("eu-west-1"))
                .credentials_provider($service::config::Credentials::new(
                    "test", "test", None, None, "test",
                ))
                .retry_config($service::config::retry::RetryConfig::disabled())
                .http_client(create_mock_http_client())
                .interceptor(interceptor)
                .build(),
        )
    }};
}

/// Declares the methods that add a service's rules.
macro_rules! services {
    ($($name:ident),*) => {
        impl FakeAws {
            $(
                #[doc = concat!("Adds rules for `", stringify!($name), "`; the first that matches answers.")]
                #[must_use]
                pub fn $name(mut self, rules: impl IntoIterator<Item = Rule>) -> Self {
                    self.rules.$name.splice(0..0, rules);
                    self
                }
            )*
        }
    };
}
services!(ec2, ecr, events, secrets, sfn, ssm);

impl FakeAws {
    /// Creates a fake that answers no call.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an event bus.
    #[must_use]
    pub fn with_event_bus(mut self) -> Self {
        let put = answers!(
            self,
            eventbridge::put_events,
            PutEventsError,
            |state, request| {
                let entries = request.entries();
                let types = entries.iter().filter_map(|entry| entry.detail_type());
                let types: Vec<_> = types.collect();
                state.call(format!("events:PutEvents {}", types.join(", ")))?;
                let details = entries.iter().filter_map(|entry| entry.detail());
                state.events.extend(details.map(|detail| -> Value {
                    serde_json::from_str(detail).expect("the detail of an event is JSON")
                }));
                Ok(PutEventsOutput::builder().build())
            }
        );
        self.rules.events.push(put);
        self
    }

    /// Lets the calls that begin with `call` fail with `code`. `call` is `service:Action`, optionally with a resource.
    #[must_use]
    pub fn failing(self, call: &str, code: &str) -> Self {
        self.failing_with(call, code, code)
    }

    /// Lets the calls that begin with `call` fail with `code` and `message`.
    #[must_use]
    pub fn failing_with(self, call: &str, code: &str, message: &str) -> Self {
        self.state().failures.push(Failure {
            call: call.to_owned(),
            code: code.to_owned(),
            message: message.to_owned(),
        });
        self
    }

    /// Returns the clients.
    #[must_use]
    pub fn clients(&self) -> Clients {
        Clients::for_tests(
            client!(ec2_sdk, self.rules.ec2),
            client!(ecr, self.rules.ecr),
            client!(eventbridge, self.rules.events),
            client!(secretsmanager, self.rules.secrets),
            client!(sfn, self.rules.sfn),
            client!(ssm, self.rules.ssm),
        )
    }

    /// Returns the resources of all calls of `action` so far, failed calls included. Rules record no calls.
    #[must_use]
    pub fn calls(&self, action: &str) -> Vec<String> {
        let state = self.state();
        let calls = state.calls.iter();
        let calls = calls.map(|call| call.split_once(' ').unwrap_or((call, "")));
        calls
            .filter(|(called, _)| *called == action)
            .map(|(_, resource)| resource.to_owned())
            .collect()
    }

    /// Returns all calls that change resources, in order, failed calls included. Rules record no calls.
    #[must_use]
    pub fn writes(&self) -> Vec<String> {
        let mut calls = self.state().calls.clone();
        calls.retain(|call| {
            let action = call.split_once(':').map_or("", |(_, action)| action);
            !["Describe", "Get", "List"]
                .iter()
                .any(|reads| action.starts_with(reads))
        });
        calls
    }

    /// Returns the details of all events.
    #[must_use]
    pub fn emitted_events(&self) -> Vec<Value> {
        self.state().events.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("no answer panics while it holds the lock, except in a failed test")
    }
}
