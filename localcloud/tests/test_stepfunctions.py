"""The state machine interpreter behaves as Step Functions does, in JSONata."""

from __future__ import annotations

import json
from typing import Any

import pytest
from botocore.exceptions import ClientError

from .clouds import CALLING, COUNTING, ROLE, RunningCloud, unique, until


def create(cloud: RunningCloud, states: dict[str, Any], **top: Any) -> str:
    definition = {"QueryLanguage": "JSONata", "StartAt": next(iter(states)), "States": states}
    machine = cloud.aws("stepfunctions").create_state_machine(
        name=unique("machine"), roleArn=ROLE, definition=json.dumps(definition | top)
    )
    return machine["stateMachineArn"]


def finish(cloud: RunningCloud, arn: str) -> dict[str, Any]:
    def ended() -> Any:
        execution = cloud.aws("stepfunctions").describe_execution(executionArn=arn)
        return execution["status"] != "RUNNING" and execution

    return until(ended, 20)


def run(cloud: RunningCloud, states: dict[str, Any], **event: Any) -> dict[str, Any]:
    started = cloud.aws("stepfunctions").start_execution(
        stateMachineArn=create(cloud, states), input=json.dumps(event)
    )
    return finish(cloud, started["executionArn"])


def invoke(function: str, **fields: Any) -> dict[str, Any]:
    return {
        "Type": "Task",
        "Resource": "arn:aws:states:::lambda:invoke",
        "Arguments": {"FunctionName": function, "Payload": "{% $states.input %}"},
        "Output": "{% $states.result.Payload %}",
        **fields,
    }


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("$states.input.a & '\"\\n' & $string($states.input.n)", 'x"\nnull'),
        ("$states.input.n", None),
        ("$exists($states.input.missing)", False),
        ("[$states.input.list[$ > 1]]", [2, 3]),
        ("$range(0, 6, 2)", [0, 2, 4, 6]),
        ("$partition([1, 2, 3], 2)", [[1, 2], [3]]),
        ("$hash('a', 'MD5')", "0cc175b9c0f1b6a831c399e269772661"),
        ("$parse('{\"b\": 1}').b", 1),
        ("$length($uuid())", 36),
        ("$map($states.input.list, function($v) { $v * 2 })", [2, 4, 6]),
        ("$merge([$states.input.o, {'c': 3}])", {"b": None, "c": 3}),
        ("$states.context.State.Name", "Only"),
        ("$states.context.State.RetryCount", 0),
        ("$match($states.context.State.EnteredTime, /^[-0-9]+T[:0-9]+[.][0-9]{3}Z$/).index", 0),
        ("$states.context.Execution.StartTime ~> $toMillis() > 0", True),
        ("$split($states.context.Execution.Id, ':')[7] = $states.context.Execution.Name", True),
    ],
)
def test_jsonata_expressions_return_results_of_aws(
    cloud: RunningCloud, expression: str, value: Any
) -> None:
    states = {"Only": {"Type": "Pass", "Output": {"value": f"{{% {expression} %}}"}, "End": True}}
    ended = run(cloud, states, a="x", n=None, list=[1, 2, 3], o={"b": None})
    assert json.loads(ended["output"]) == {"value": value}


def test_undefined_expression_fails(cloud: RunningCloud) -> None:
    states = {"Only": {"Type": "Pass", "Output": "{% $states.input.missing %}", "End": True}}
    ended = run(cloud, states)
    assert (ended["status"], ended["error"]) == ("FAILED", "States.QueryEvaluationError")


def test_error_is_retried_by_name_then_succeeds(cloud: RunningCloud) -> None:
    function = cloud.deploy(unique("flaky"), COUNTING)
    retry = {
        "ErrorEquals": ["StillRunning"],
        "IntervalSeconds": 1,
        "MaxAttempts": 3,
        "BackoffRate": 1,
    }
    states = {"Try": invoke(function, Retry=[retry], End=True)}
    ended = run(cloud, states, failures=1, error="StillRunning")
    assert json.loads(ended["output"])["attempt"] == 2


def test_map_iterations_catch_errors_independently(cloud: RunningCloud) -> None:
    function = cloud.deploy(unique("flaky"), COUNTING)
    catch = [
        {
            "ErrorEquals": ["PullFailed"],
            "Assign": {"failure": "{% $states.errorOutput %}"},
            "Next": "Report",
        }
    ]
    iteration = {
        "Work": invoke(function, Catch=catch, End=True),
        "Report": {
            "Type": "Pass",
            "Output": {
                "failed": "{% $failure.Error %}",
                "why": "{% $parse($failure.Cause).errorMessage %}",
                "build": "{% $build %}",
            },
            "End": True,
        },
    }
    states = {
        "Plan": {"Type": "Pass", "Assign": {"build": "{% $states.input.build %}"}, "Next": "Each"},
        "Each": {
            "Type": "Map",
            "Items": "{% $states.input.failures %}",
            "ItemSelector": {
                "failures": "{% $states.context.Map.Item.Value %}",
                "error": "PullFailed",
            },
            "ItemProcessor": {"StartAt": "Work", "States": iteration},
            "End": True,
        },
    }
    ended = run(cloud, states, build="b1", failures=[9, 0])
    failed, succeeded = json.loads(ended["output"])
    assert failed == {"failed": "PullFailed", "why": "attempt 1", "build": "b1"}
    assert succeeded["attempt"] == 1


def test_wait_takes_seconds_from_input(cloud: RunningCloud) -> None:
    states = {"Debounce": {"Type": "Wait", "Seconds": "{% $states.input.debounce %}", "End": True}}
    ended = run(cloud, states, debounce=1)
    assert 1 <= (ended["stopDate"] - ended["startDate"]).total_seconds() < 3


def test_sdk_errors_have_names_of_aws(cloud: RunningCloud) -> None:
    states = {
        "Read": {
            "Type": "Task",
            "Resource": "arn:aws:states:::aws-sdk:ssm:getParameter",
            "Arguments": {"Name": "/none"},
            "End": True,
        }
    }
    assert run(cloud, states)["error"] == "Ssm.ParameterNotFoundException"


def test_used_name_is_idempotent_for_same_running_input(cloud: RunningCloud) -> None:
    machine = create(cloud, {"Debounce": {"Type": "Wait", "Seconds": 60, "End": True}})
    states = cloud.aws("stepfunctions")
    start = {"stateMachineArn": machine, "name": "web-1", "input": '{"cache":"web"}'}
    first = states.start_execution(**start)
    again = states.start_execution(**start)
    for field in ("executionArn", "startDate"):
        assert again[field] == first[field]
    with pytest.raises(ClientError, match="ExecutionAlreadyExists"):
        states.start_execution(**start | {"input": "{}"})
    states.stop_execution(executionArn=first["executionArn"])
    with pytest.raises(ClientError, match="ExecutionAlreadyExists"):
        states.start_execution(**start)


def test_stop_keeps_error_and_cause_and_sends_event_at_once(cloud: RunningCloud) -> None:
    url, queue = cloud.queue(unique("ended"))
    events = cloud.aws("events")
    rule = unique("ended")
    pattern = {
        "source": ["aws.states"],
        "detail-type": ["Step Functions Execution Status Change"],
        "detail": {"status": ["ABORTED"]},
    }
    events.put_rule(Name=rule, EventPattern=json.dumps(pattern))
    events.put_targets(Rule=rule, Targets=[{"Id": "queue", "Arn": queue}])
    slow = cloud.deploy(unique("slow"), "#!/bin/sh\nsleep 30\n", timeout=20)
    machine = create(cloud, {"Work": invoke(slow, End=True)})
    states = cloud.aws("stepfunctions")
    execution = states.start_execution(stateMachineArn=machine, input='{"cache":"web"}')
    states.stop_execution(executionArn=execution["executionArn"], error="Stopped", cause="enough")

    event = cloud.receive(url, seconds=3)
    ended = states.describe_execution(executionArn=execution["executionArn"])
    assert (ended["status"], ended["error"], ended["cause"]) == ("ABORTED", "Stopped", "enough")
    assert event["detail"]["executionArn"] == execution["executionArn"]
    assert json.loads(event["detail"]["input"]) == {"cache": "web"}
    events.remove_targets(Rule=rule, Ids=["queue"])
    events.delete_rule(Name=rule)


def test_overdue_execution_times_out(cloud: RunningCloud) -> None:
    machine = create(
        cloud, {"Debounce": {"Type": "Wait", "Seconds": 60, "End": True}}, TimeoutSeconds=1
    )
    execution = cloud.aws("stepfunctions").start_execution(stateMachineArn=machine)
    ended = finish(cloud, execution["executionArn"])
    assert ended["status"] == "TIMED_OUT"
    assert ended["stopDate"] > ended["startDate"]


def test_cache_overrides_execution_time_limit(cloud: RunningCloud) -> None:
    cloud.control("POST", "settings?cache=web", {"execution_timeout_seconds": 0.5})
    iteration = {"Wait": {"Type": "Wait", "Seconds": 1, "End": True}}
    states = {
        "Each": {
            "Type": "Map",
            "Items": [1],
            "ItemProcessor": {"StartAt": "Wait", "States": iteration},
            "End": True,
        }
    }
    assert run(cloud, states, cache="web")["status"] == "TIMED_OUT"
    assert run(cloud, states, cache="other")["status"] == "SUCCEEDED"


def test_catch_handles_task_timeout(cloud: RunningCloud) -> None:
    slow = cloud.deploy(unique("slow"), "#!/bin/sh\nsleep 30\n", timeout=20)
    catch = [{"ErrorEquals": ["States.Timeout"], "Next": "Caught"}]
    states = {
        "Work": invoke(slow, TimeoutSeconds=1, Catch=catch, End=True),
        "Caught": {"Type": "Pass", "Output": "caught", "End": True},
    }
    assert json.loads(run(cloud, states)["output"]) == "caught"


def test_fail_state_passes_on_reserved_error_name(cloud: RunningCloud) -> None:
    states = {
        "Read": {"Type": "Pass", "Assign": {"error": "States.Timeout"}, "Next": "Failed"},
        "Failed": {"Type": "Fail", "Error": "{% $error %}", "Cause": "{% 'a' & 'b' %}"},
    }
    ended = run(cloud, states)
    assert (ended["error"], ended["cause"]) == ("States.Timeout", "ab")


def test_retry_speed_shortens_retry_waits(cloud: RunningCloud) -> None:
    cloud.control("POST", "settings", {"retry_speed": 100})
    function = cloud.deploy(unique("flaky"), COUNTING)
    retry = {"ErrorEquals": ["Throttled"], "IntervalSeconds": 30, "MaxAttempts": 3}
    states = {"Try": invoke(function, Retry=[retry], End=True)}
    ended = run(cloud, states, failures=2, error="Throttled")
    assert json.loads(ended["output"])["attempt"] == 3


def test_lost_function_answer_has_error_name_of_aws(cloud: RunningCloud) -> None:
    fault = {"service": "lambda", "action": "Invoke", "effect": "lose-answer"}
    cloud.control("POST", "faults", fault | {"invocation": '"web"'})
    function = cloud.deploy(unique("lost"), COUNTING)
    states = {"Work": invoke(function, End=True)}
    assert run(cloud, states, cache="web")["error"] == "Lambda.SdkClientException"
    assert json.loads(run(cloud, states, cache="other")["output"])["attempt"] == 2


@pytest.mark.parametrize(
    ("deliveries", "times", "of_the_process"),
    [("once", 1, 1), ("twice", 2, 2), ("twice-at-once", 2, 1)],
)
def test_deliveries_setting_invokes_function_twice(
    cloud: RunningCloud, deliveries: str, times: int, of_the_process: int
) -> None:
    cloud.control("POST", "settings?cache=web", {"deliveries": deliveries})
    # Answers how many invocations its process has had, after a pause for the other's start.
    counted = "time.sleep(0.2); n = globals().get('n', 0) + 1; data = json.dumps(n)"
    function = cloud.deploy(unique("twice"), CALLING.replace("data = json.dumps(ends)", counted))
    states = {"Work": invoke(function, End=True)}
    ended = run(cloud, states, cache="web", calls=[("GetParameter", {"Name": "/none"})])
    assert json.loads(ended["output"]) == of_the_process
    made = cloud.control("GET", "calls?invocation=%22web%22")
    assert len({call["invocation"] for call in made}) == times


def test_deliveries_apply_only_to_their_cache(cloud: RunningCloud) -> None:
    cloud.control("POST", "settings?cache=web", {"deliveries": "twice"})
    function = cloud.deploy(unique("once"), COUNTING)
    ended = run(cloud, {"Work": invoke(function, End=True)}, cache="other")
    assert json.loads(ended["output"])["attempt"] == 1


def test_history_and_lists_have_pages(cloud: RunningCloud) -> None:
    machine = create(cloud, {"Only": {"Type": "Pass", "End": True}})
    states = cloud.aws("stepfunctions")
    executions = [states.start_execution(stateMachineArn=machine) for _ in range(2)]
    for execution in executions:
        finish(cloud, execution["executionArn"])
    newest = states.list_executions(stateMachineArn=machine, statusFilter="SUCCEEDED", maxResults=1)
    assert newest["executions"][0]["executionArn"] == executions[1]["executionArn"]
    assert "nextToken" in newest
    last = states.get_execution_history(
        executionArn=executions[0]["executionArn"], reverseOrder=True, maxResults=1
    )
    assert [event["type"] for event in last["events"]] == ["ExecutionSucceeded"]


def test_definition_validation_answers_terraform(cloud: RunningCloud) -> None:
    states = cloud.aws("stepfunctions")

    def passing(output: str) -> dict[str, Any]:
        only = {"Type": "Pass", "Output": output, "End": True}
        return {"QueryLanguage": "JSONata", "StartAt": "A", "States": {"A": only}}

    for definition, result in (
        (passing("{% $states.input %}"), "OK"),
        (passing("{% $states.( %}"), "FAIL"),
        ({"StartAt": "A"}, "FAIL"),
    ):
        answer = states.validate_state_machine_definition(definition=json.dumps(definition))
        assert answer["result"] == result
