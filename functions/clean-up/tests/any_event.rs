//! Property tests of clean-up: it rejects invalid events, and valid ones terminate only their own builders.
//!
//! To run more cases than the default: `PROPTEST_CASES=20000 cargo test -p clean-up --test any_event`.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_smithy_mocks::{MockResponse, mock};
use clean_up::handle;
use prepull_aws::ec2::operation::describe_instances::DescribeInstancesOutput;
use prepull_aws::ec2::operation::describe_snapshots::DescribeSnapshotsOutput;
use prepull_aws::ec2::operation::describe_volumes::DescribeVolumesOutput;
use prepull_aws::ec2::operation::terminate_instances::TerminateInstancesOutput;
use prepull_aws::ec2::types::{Filter, Instance, InstanceState, InstanceStateName, Reservation};
use prepull_aws::eventbridge::operation::put_events::PutEventsOutput;
use prepull_aws::sfn::operation::describe_execution::DescribeExecutionError;
use prepull_aws::{DateTime, Deadline, ec2, eventbridge, sfn, tag};
use prepull_fuzzing::{EVENTS, mutated_json};
use prepull_testing::{Mocks, ParameterStore};
use proptest::prelude::*;
use serde_json::Value;

const MACHINE: &str = "arn:aws:states:eu-west-1:123456789012:stateMachine:prepull-build";

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

/// Returns whether an instance matches a tag filter.
fn passes(instance: &Instance, filter: &Filter) -> bool {
    let value = &filter.values()[0];
    match filter.name().unwrap().strip_prefix("tag:") {
        None => true,
        Some(key) => instance
            .tags()
            .iter()
            .any(|tag| tag.key() == Some(key) && tag.value() == Some(value)),
    }
}

proptest! {
    #[test]
    fn event_is_rejected_or_terminates_only_its_own_builders(event in mutated_json(EVENTS)) {
        let there = Arc::new(Mutex::new(vec![builder("i-00000001", "web-10"), builder("i-00000002", "web-11")]));
        let (listed, left) = (Arc::clone(&there), Arc::clone(&there));
        let told = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&told);
        let instances = mock!(ec2::Client::describe_instances).then_compute_output(move |request| {
            let found = listed.lock().unwrap().clone();
            let found = found.into_iter().filter(|it| request.filters().iter().all(|filter| passes(it, filter)));
            DescribeInstancesOutput::builder()
                .reservations(Reservation::builder().set_instances(Some(found.collect())).build())
                .build()
        });
        let volumes = mock!(ec2::Client::describe_volumes).then_output(|| DescribeVolumesOutput::builder().build());
        let snapshots = mock!(ec2::Client::describe_snapshots).then_output(|| DescribeSnapshotsOutput::builder().build());
        let ends = mock!(ec2::Client::terminate_instances).then_compute_output(move |request| {
            let id = &request.instance_ids()[0];
            left.lock().unwrap().retain(|instance| instance.instance_id() != Some(id));
            TerminateInstancesOutput::builder().build()
        });
        let unknown = mock!(sfn::Client::describe_execution).then_compute_response(|_| {
            let unknown = sfn::error::ErrorMetadata::builder().code("ExecutionDoesNotExist");
            MockResponse::Error(DescribeExecutionError::generic(unknown.build()))
        });
        let bus = mock!(eventbridge::Client::put_events).then_compute_output(move |request| {
            let detail = request.entries()[0].detail().unwrap();
            kept.lock().unwrap().push(serde_json::from_str::<Value>(detail).unwrap());
            PutEventsOutput::builder().build()
        });
        let clients = Mocks::new()
            .ssm(ParameterStore::default().rules())
            .ec2([instances, volumes, snapshots, ends])
            .sfn([unknown])
            .events([bus])
            .clients();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        let (input, sweeps) = (event.clone(), event["source"] == "sweep");
        let result = runtime.block_on(async {
            let deadline = Deadline::after(Duration::from_secs(60));
            handle(&clients, MACHINE, input, deadline).await
        });

        let left: Vec<_> = there.lock().unwrap().iter().filter_map(|it| it.instance_id.clone()).collect();
        let told = told.lock().unwrap();
        match result {
            Err(error) => {
                prop_assert_eq!(error.name(), "InvalidEvent");
                prop_assert_eq!(left.len(), 2);
                prop_assert!(told.is_empty());
            }
            Ok(_) if sweeps => prop_assert!(left.is_empty() && told.is_empty()),
            Ok(_) => {
                prop_assert_eq!(told.len(), 1);
                let ended = told[0]["execution"].as_str().unwrap();
                prop_assert!(event["detail"]["executionArn"].as_str().unwrap().ends_with(ended));
                prop_assert_eq!(left.contains(&"i-00000001".to_owned()), ended != "web-10");
                prop_assert!(left.contains(&"i-00000002".to_owned()) || ended == "web-11");
            }
        }
    }
}
