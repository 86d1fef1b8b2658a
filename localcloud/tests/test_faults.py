"""Each effect of faults, and the selection of calls."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError

from .clouds import CALLING, RunningCloud, unique
from .machines import QUICK, Machines

PUT = {"service": "ssm", "action": "PutParameter"}


@dataclass
class Caller:
    """A function that writes parameters, one for each call."""

    cloud: RunningCloud
    function: str

    def invoke(self, cache: str, *names: str) -> Any:
        calls = [("PutParameter", parameter(name)) for name in names]
        event = {"cache": cache, "calls": calls}
        answer = self.cloud.aws("lambda").invoke(
            FunctionName=self.function, Payload=json.dumps(event)
        )
        return json.load(answer["Payload"])


def parameter(name: str) -> dict[str, Any]:
    return {"Name": name, "Value": "x", "Type": "String", "Overwrite": True}


@pytest.fixture(scope="module")
def function(running_cloud: RunningCloud) -> str:
    return running_cloud.deploy(unique("caller"), CALLING)


@pytest.fixture
def caller(cloud: RunningCloud, function: str) -> Caller:
    return Caller(cloud, function)


def existing(cloud: RunningCloud, *names: str) -> list[str]:
    """Returns the existing parameters."""
    found = cloud.aws("ssm").get_parameters(Names=names)["Parameters"]
    return [parameter["Name"] for parameter in found]


def inject(cloud: RunningCloud, **fault: Any) -> str:
    return cloud.control("POST", "faults", PUT | fault)["id"]


@pytest.mark.parametrize(
    "fault",
    [
        {"service": "ec2", "acton": "x"},
        {"service": "ec2", "action": "RunInstances"},
        PUT | {"effect": "refuse"},
        PUT | {"effect": "explode"},
        PUT | {"code": "Throttled", "times": "2"},
        PUT | {"effect": "kill", "code": "InternalError"},
        PUT | {"effect": "lose-command", "status_name": "Failed"},
        {"service": "ssm", "action": "SendCommand", "effect": "lose-command"},
        {"service": "ssm", "action": "SendCommand", "effect": "lose-command", "status_name": "x"},
    ],
)
def test_fault_without_effect_is_refused(cloud: RunningCloud, fault: dict[str, Any]) -> None:
    assert cloud.control("POST", "faults", fault)["status"] == 400
    assert cloud.control("GET", "faults") == []


def test_fault_is_found_by_id_until_deletion(cloud: RunningCloud) -> None:
    first, second = (inject(cloud, code="X", times=None) for _ in range(2))
    assert cloud.control("GET", f"faults/{first}")["times"] is None
    cloud.control("DELETE", f"faults/{first}")
    assert cloud.control("GET", f"faults/{first}")["status"] == 404
    assert [fault["id"] for fault in cloud.control("GET", "faults")] == [second]
    cloud.control("DELETE", "faults")
    assert cloud.control("GET", "faults") == []


def test_fault_skips_first_calls_then_applies_without_limit(
    caller: Caller,
) -> None:
    fault = inject(caller.cloud, code="Throttled", status=429, skip=1, times=None)
    assert caller.invoke("web", "/a", "/b", "/c") == [200, 429, 429]
    assert caller.cloud.control("GET", f"faults/{fault}")["hits"] == 2


@pytest.mark.parametrize(
    ("matcher", "ends"),
    [
        ({"invocation": '"web"'}, [503, 503]),
        ({"invocation": '"we"'}, [200, 200]),
        ({"caller": "tes"}, [503, 503]),
        ({"caller": "other"}, [200, 200]),
        ({"resource": "/b*"}, [200, 503]),
        ({"resource": "*", "invocation": '"web"', "skip": 1}, [200, 503]),
    ],
)
def test_fault_applies_only_to_matching_calls(
    caller: Caller, matcher: dict[str, Any], ends: list[int]
) -> None:
    inject(caller.cloud, code="Unavailable", status=503, times=None, **matcher)
    assert caller.invoke("web", "/a", "/b/c") == ends


def test_invocation_filter_matches_quoted_input(caller: Caller) -> None:
    inject(caller.cloud, code="Unavailable", status=503, invocation='"web"')
    assert caller.invoke(json.dumps({"cache": "web"}), "/a") == [503]


def test_lost_answer_carries_out_call_and_closes_connection(caller: Caller) -> None:
    name = f"/{unique('lost')}"
    inject(caller.cloud, effect="lose-answer", resource=name)
    assert caller.invoke("web", name) == ["RemoteDisconnected"]
    assert existing(caller.cloud, name) == [name]


def test_client_reports_lost_answer_as_lost_connection(cloud: RunningCloud) -> None:
    inject(cloud, effect="lose-answer")
    began = time.monotonic()
    with pytest.raises(ConnectionClosedError):
        cloud.aws("ssm").put_parameter(**parameter("/lost"))
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    ("effect", "error", "words"),
    [
        ("kill", "Runtime.ExitError", "SIGKILL"),
        ("time-out", "Sandbox.Timedout", "timed out after 10.00 seconds"),
    ],
)
def test_function_ends_right_after_its_call(
    caller: Caller, effect: str, error: str, words: str
) -> None:
    first, second = f"/{unique('made')}", f"/{unique('never')}"
    inject(caller.cloud, effect=effect, resource=first)
    began = time.monotonic()
    failure = caller.invoke("web", first, second)
    assert time.monotonic() - began < 5
    assert (failure["errorType"], words in failure["errorMessage"]) == (error, True)
    assert existing(caller.cloud, first, second) == [first]
    assert caller.invoke("web", first, second) == [200, 200]


def test_kill_fault_applies_only_to_functions(caller: Caller) -> None:
    fault = inject(caller.cloud, effect="kill")
    caller.cloud.aws("ssm").put_parameter(**parameter("/by-hand"))
    assert caller.cloud.control("GET", f"faults/{fault}")["hits"] == 0
    assert caller.invoke("web", "/a")["errorType"] == "Runtime.ExitError"


def test_log_records_resource_and_invocation_of_calls(caller: Caller) -> None:
    cloud = caller.cloud
    cloud.control("DELETE", "calls")
    for cache in ("web", "batch"):
        caller.invoke(cache, f"/{cache}")
    made = cloud.control("GET", "calls?invocation=%22web%22")
    assert [(c["action"], c["resource"], c["caller"]) for c in made] == [
        ("PutParameter", "/web", "test")
    ]
    assert len({call["invocation"] for call in made} - {None}) == 1
    everything = [
        (c["action"], c["resource"], c["invocation"]) for c in cloud.control("GET", "calls")
    ]
    assert ("Invoke", caller.function.rpartition(":")[2], None) in everything


@pytest.mark.parametrize(
    ("service", "method", "request_", "resource"),
    [
        ("ssm", "get_parameter", {"Name": "/none"}, "/none"),
        ("ssm", "get_parameters_by_path", {"Path": "/none/"}, "/none/"),
        (
            "ssm",
            "get_command_invocation",
            {"CommandId": "0" * 36, "InstanceId": "i-00000000000000001"},
            "i-00000000000000001",
        ),
        (
            "ec2",
            "terminate_instances",
            {"InstanceIds": ["i-00000000000000001", "i-00000000000000002"]},
            "i-00000000000000001,i-00000000000000002",
        ),
        (
            "ec2",
            "create_tags",
            {"Resources": ["snap-1"], "Tags": [{"Key": "a", "Value": "b"}]},
            "snap-1",
        ),
        ("ec2", "describe_instances", {}, None),
        ("secretsmanager", "get_secret_value", {"SecretId": "login"}, "login"),
        (
            "ecr",
            "batch_get_image",
            {"repositoryName": "team/web", "imageIds": [{"imageTag": "1"}]},
            "team/web",
        ),
        (
            "events",
            "put_events",
            {"Entries": [{"Source": "a", "DetailType": "Built", "Detail": "{}"}]},
            "Built",
        ),
        (
            "stepfunctions",
            "describe_execution",
            {"executionArn": "arn:aws:states:eu-west-1:123456789012:execution:a:b"},
            "arn:aws:states:eu-west-1:123456789012:execution:a:b",
        ),
        (
            "lambda",
            "invoke",
            {"FunctionName": "arn:aws:lambda:eu-west-1:123456789012:function:none"},
            "none",
        ),
        ("lambda", "invoke", {"FunctionName": "none"}, "none"),
    ],
)
def test_log_records_resource_of_call(
    cloud: RunningCloud,
    service: str,
    method: str,
    request_: dict[str, Any],
    resource: str | None,
) -> None:
    cloud.control("DELETE", "calls")
    try:
        getattr(cloud.aws(service), method)(**request_)
    except ClientError:
        pass  # Most of what is named here does not exist.
    assert [call["resource"] for call in cloud.control("GET", "calls")] == [resource]


@pytest.fixture(scope="module")
def instance(running_cloud: RunningCloud) -> Iterator[str]:
    running_cloud.control("POST", "settings", QUICK)
    machines = Machines(running_cloud)
    instance_id = machines.launch()
    machines.await_ready(instance_id)
    yield instance_id
    machines.terminate(instance_id)


@pytest.mark.parametrize(
    ("wish", "status", "details"),
    [
        ("TimedOut", "TimedOut", "DeliveryTimedOut"),
        ("Cancelled", "Cancelled", "Cancelled"),
        ("Undeliverable", "Failed", "Undeliverable"),
        ("Failed", "Failed", "Failed"),
    ],
)
def test_lost_command_never_runs_and_ends_as_requested(
    machines: Machines, instance: str, wish: str, status: str, details: str
) -> None:
    fault = {"service": "ssm", "action": "SendCommand", "effect": "lose-command"}
    machines.cloud.control("POST", "faults", fault | {"status_name": wish})
    found = machines.result(instance, machines.send(instance, "echo ran"))
    assert (found["Status"], found["StatusDetails"]) == (status, details)
    assert (found["ResponseCode"], found["StandardOutputContent"]) == (-1, "")
    assert machines.succeed(instance, "echo ran") == "ran\n"
