//! Property tests of start-build: it rejects invalid events, and valid triggers start executions with valid names.
//!
//! To run more cases than the default: `PROPTEST_CASES=20000 cargo test -p start-build --test any_event`.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_smithy_mocks::mock;
use jiff::SignedDuration;
use prepull_aws::sfn::Client;
use prepull_aws::sfn::operation::start_execution::{StartExecutionInput, StartExecutionOutput};
use prepull_aws::{DateTime, Deadline};
use prepull_domain::ExecutionName;
use prepull_domain::build::trigger::ExecutionInput;
use prepull_fuzzing::{EVENTS, mutated_json};
use prepull_testing::{Mocks, ParameterStore, configuration};
use proptest::prelude::*;
use start_build::{Settings, handle};

const MACHINE: &str = "arn:aws:states:eu-west-1:123456789012:stateMachine:prepull-build";

proptest! {
    #[test]
    fn event_is_rejected_or_starts_only_declared_caches(event in mutated_json(EVENTS)) {
        let requests: Arc<Mutex<Vec<StartExecutionInput>>> = Arc::default();
        let kept = Arc::clone(&requests);
        let starts = mock!(Client::start_execution).then_compute_output(move |request| {
            kept.lock().unwrap().push(request.clone());
            StartExecutionOutput::builder()
                .execution_arn(MACHINE)
                .start_date(DateTime::from_secs(0))
                .build()
                .unwrap()
        });
        let store = ParameterStore::of([("/prepull/config/web", &configuration().to_string())]);
        let clients = Mocks::new().ssm(store.rules()).sfn([starts]).clients();
        let settings = Settings {
            state_machine_arn: MACHINE.to_owned(),
            debounce: SignedDuration::from_secs(60),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let deadline = Deadline::after(Duration::from_mins(1));
        let result = runtime.block_on(handle(&clients, &settings, event, deadline));

        let requests = requests.lock().unwrap();
        match result {
            Ok(output) => prop_assert_eq!(requests.len(), output.started.len()),
            Err(error) => {
                prop_assert!(requests.is_empty());
                prop_assert!(matches!(error.name(), "InvalidEvent" | "InvalidConfig"), "{error}");
            }
        }
        for request in requests.iter() {
            let name: ExecutionName = request.name().unwrap().parse().unwrap();
            prop_assert!(name.as_str().starts_with("web-"));
            let input: ExecutionInput = serde_json::from_str(request.input().unwrap()).unwrap();
            prop_assert_eq!(input.cache, "web");
            prop_assert_eq!(input.debounce_seconds, Some(60));
        }
    }
}
