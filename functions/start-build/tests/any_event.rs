//! Property tests of start-build: it rejects invalid events, and valid triggers start executions with valid names.
//!
//! To run more cases than the default: `PROPTEST_CASES=20000 cargo test -p start-build --test any_event`.

use std::time::Duration;

use jiff::SignedDuration;
use prepull_aws::Deadline;
use prepull_domain::ExecutionName;
use prepull_domain::build::trigger::ExecutionInput;
use prepull_fuzzing::{EVENTS, mutated_json};
use prepull_testing::{FakeAws, STATE_MACHINE_ARN, configuration};
use proptest::prelude::*;
use start_build::{Settings, handle};

proptest! {
    #[test]
    fn event_is_rejected_or_starts_only_declared_caches(event in mutated_json(EVENTS)) {
        let aws = FakeAws::new()
            .with_parameters(&[("/prepull/config/web", &configuration().to_string())])
            .with_executions([]);
        let settings = Settings {
            state_machine_arn: STATE_MACHINE_ARN.to_owned(),
            debounce: SignedDuration::from_secs(60),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let deadline = Deadline::after(Duration::from_mins(1));
        let result = runtime.block_on(handle(&aws.clients(), &settings, event, deadline));

        let started = aws.executions();
        match result {
            Ok(output) => prop_assert_eq!(started.len(), output.started.len()),
            Err(error) => {
                prop_assert!(started.is_empty());
                prop_assert!(matches!(error.name(), "InvalidEvent" | "InvalidConfig"), "{error}");
            }
        }
        for execution in started {
            let name: ExecutionName = execution.name().unwrap().parse().unwrap();
            prop_assert!(name.as_str().starts_with("web-"));
            let input: ExecutionInput = serde_json::from_str(execution.input().unwrap()).unwrap();
            prop_assert_eq!(input.cache, "web");
            prop_assert_eq!(input.debounce_seconds, Some(60));
        }
    }
}
