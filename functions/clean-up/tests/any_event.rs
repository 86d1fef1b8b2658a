//! Property tests of clean-up: it rejects invalid events, and valid ones terminate only their own builders.
//!
//! To run more cases than the default: `PROPTEST_CASES=20000 cargo test -p clean-up --test any_event`.

use std::time::Duration;

use clean_up::handle;
use prepull_aws::ec2::types::{Instance, InstanceState, InstanceStateName};
use prepull_aws::{DateTime, Deadline, tag};
use prepull_fuzzing::{EVENTS, mutated_json};
use prepull_testing::{FakeAws, STATE_MACHINE_ARN};
use proptest::prelude::*;

/// Returns a builder of `execution` with a launch time in the past.
fn builder(id: &str, execution: &str) -> Instance {
    let running = InstanceState::builder().name(InstanceStateName::Running);
    Instance::builder()
        .instance_id(id)
        .state(running.build())
        .launch_time(DateTime::from_secs(1_000_000_000))
        .tags(tag("prepull:cache", "web"))
        .tags(tag("prepull:execution", execution))
        .build()
}

proptest! {
    #[test]
    fn event_is_rejected_or_terminates_only_its_own_builders(event in mutated_json(EVENTS)) {
        let aws = FakeAws::new()
            .with_parameters(&[])
            .with_instances([builder("i-00000001", "web-10"), builder("i-00000002", "web-11")])
            .with_volumes([])
            .with_snapshots([])
            .with_executions([])
            .with_event_bus();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        let (input, sweeps) = (event.clone(), event["source"] == "sweep");
        let result = runtime.block_on(async {
            let deadline = Deadline::after(Duration::from_secs(60));
            handle(&aws.clients(), STATE_MACHINE_ARN, input, deadline).await
        });

        let terminated = aws.calls("ec2:TerminateInstances");
        let events = aws.emitted_events();
        match result {
            Err(error) => {
                prop_assert_eq!(error.name(), "InvalidEvent");
                prop_assert!(terminated.is_empty() && events.is_empty());
            }
            Ok(_) if sweeps => prop_assert!(terminated.len() == 2 && events.is_empty()),
            Ok(_) => {
                prop_assert_eq!(events.len(), 1);
                let ended = events[0]["execution"].as_str().unwrap();
                prop_assert!(event["detail"]["executionArn"].as_str().unwrap().ends_with(ended));
                prop_assert_eq!(terminated.contains(&"i-00000001".to_owned()), ended == "web-10");
                prop_assert!(!terminated.contains(&"i-00000002".to_owned()) || ended == "web-11");
            }
        }
    }
}
