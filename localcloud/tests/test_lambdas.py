"""Functions run as on AWS: warm, timed, retried, logged."""

from __future__ import annotations

import base64
import json
import re
import sys
import time
import uuid
from typing import Any

from .clouds import COUNTING, RunningCloud, unique, until

SHOWS_ENVIRONMENT = COUNTING.replace('{"attempt": attempt, "event": event}', "dict(os.environ)")
EXITS_AFTER_ANSWER = COUNTING.rstrip() + "\n    raise SystemExit(1)\n"
CALLS_AWS = """#!/usr/bin/env python3
import json, os, sys
sys.path[:0] = %(path)r
import boto3, urllib.request
api = f"http://{os.environ['AWS_LAMBDA_RUNTIME_API']}/2018-06-01/runtime/invocation"
with urllib.request.urlopen(f"{api}/next") as answer:
    request_id = answer.headers["Lambda-Runtime-Aws-Request-Id"]
boto3.client("sts").get_caller_identity()
print("called")
urllib.request.urlopen(f"{api}/{request_id}/response", data=b"{}").read()
"""


def invoke(cloud: RunningCloud, function: str, event: Any = None, **more: Any) -> Any:
    return cloud.aws("lambda").invoke(
        FunctionName=function, Payload=json.dumps(event or {}), **more
    )


def test_warm_process_takes_next_call(cloud: RunningCloud) -> None:
    function = cloud.deploy(unique("warm"), COUNTING)
    attempts = [json.load(invoke(cloud, function)["Payload"])["attempt"] for _ in range(3)]
    assert attempts == [1, 2, 3]


def test_changed_configuration_starts_new_process(cloud: RunningCloud) -> None:
    function = cloud.deploy(unique("changed"), SHOWS_ENVIRONMENT)
    invoke(cloud, function)
    cloud.aws("lambda").update_function_configuration(
        FunctionName=function, Environment={"Variables": {"COLOUR": "blue"}}
    )
    assert json.load(invoke(cloud, function)["Payload"])["COLOUR"] == "blue"


def test_overrunning_function_is_killed_at_time_limit(cloud: RunningCloud) -> None:
    function = cloud.deploy(unique("slow"), "#!/bin/sh\nsleep 60\n", timeout=1)
    started = time.monotonic()
    answer = invoke(cloud, function)
    assert time.monotonic() - started < 3
    assert answer["FunctionError"] == "Unhandled"
    failure = json.load(answer["Payload"])
    assert failure["errorType"] == "Sandbox.Timedout"
    assert "timed out after 1.00 seconds" in failure["errorMessage"]


def test_crash_returns_error_with_exit_status(cloud: RunningCloud) -> None:
    function = cloud.deploy(unique("crash"), "#!/bin/sh\necho last words\nexit 3\n")
    answer = invoke(cloud, function, LogType="Tail")
    failure = json.load(answer["Payload"])
    assert failure["errorType"] == "Runtime.ExitError"
    assert failure["errorMessage"].endswith("exit status 3")


def test_exit_between_calls_loses_no_call(cloud: RunningCloud) -> None:
    function = cloud.deploy(unique("exits"), EXITS_AFTER_ANSWER)
    for _ in range(3):
        assert json.load(invoke(cloud, function)["Payload"])["attempt"] == 1


def test_function_calls_with_its_role_and_logs_output(cloud: RunningCloud) -> None:
    name = unique("caller")
    function = cloud.deploy(name, CALLS_AWS % {"path": sys.path})
    cloud.control("DELETE", "calls")
    assert "FunctionError" not in invoke(cloud, function)
    calls = cloud.control("GET", "calls")
    assert {"service": "sts", "action": "GetCallerIdentity", "caller": "test", "status": 200} in [
        {key: call[key] for key in ("service", "action", "caller", "status")} for call in calls
    ]

    def lines() -> list[str]:
        logs = cloud.aws("logs").filter_log_events(logGroupName=f"/aws/lambda/{name}")
        return [event["message"] for event in logs["events"]]

    until(lambda: "called" in lines())


def test_asynchronous_call_is_retried_then_sent_to_destination(cloud: RunningCloud) -> None:
    cloud.control("POST", "settings", {"async_retry_seconds": 0.1})
    url, queue = cloud.queue(unique("failed"))
    function = cloud.deploy(unique("fails"), COUNTING)
    cloud.aws("lambda").put_function_event_invoke_config(
        FunctionName=function,
        MaximumRetryAttempts=1,
        DestinationConfig={"OnFailure": {"Destination": queue}},
    )
    event = {"failures": 9, "error": "Broken", "id": uuid.uuid4().hex}
    invoke(cloud, function, event, InvocationType="Event")
    record = cloud.receive(url)
    assert record["requestPayload"] == event
    assert record["responsePayload"]["errorMessage"] == "attempt 2"


def test_cold_start_reports_its_init_duration(cloud: RunningCloud) -> None:
    function = cloud.deploy(unique("reports"), COUNTING)

    def report() -> str:
        log = base64.b64decode(invoke(cloud, function, LogType="Tail")["LogResult"])
        return log.decode().splitlines()[-1]

    assert re.fullmatch(
        r"REPORT RequestId: \S+\tDuration: [\d.]+ ms\tMax Memory Used: [\d.]+ MB"
        r"\tInit Duration: [\d.]+ ms",
        report(),
    )
    assert "Init Duration" not in report()
    cloud.control("POST", "settings", {"idle_processes": 0})
    report()
    assert "Init Duration" in report()
