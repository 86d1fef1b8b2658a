"""Run Command and Bottlerocket's public parameters."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError
from moto.ssm.models import ParameterDict

from localcloud import bottlerocket
from localcloud.ssm import add_public_parameters, interpolate, shell_script

from .clouds import RunningCloud, unique, until
from .machines import QUICK, Machines

DOCUMENT = {
    "schemaVersion": "2.2",
    "parameters": {
        "images": {"type": "StringList", "allowedPattern": "^[a-z0-9./:-]+$"},
        "limit": {"type": "String", "default": "3600", "allowedPattern": "^[0-9]+$"},
    },
    "mainSteps": [
        {
            "action": "aws:runShellScript",
            "name": "echo",
            "inputs": {
                "timeoutSeconds": "{{ limit }}",
                "runCommand": ["images='{{ images }}'", 'echo "$images"', "sleep 0.2"],
            },
        }
    ],
}


@pytest.fixture(scope="module")
def machines(running_cloud: RunningCloud) -> Machines:
    running_cloud.control("POST", "settings", QUICK)
    return Machines(running_cloud)


@pytest.fixture(scope="module")
def instance(machines: Machines) -> Iterator[str]:
    instance_id = machines.launch()
    machines.await_ready(instance_id)
    yield instance_id
    machines.terminate(instance_id)


@pytest.fixture(scope="module")
def document(machines: Machines) -> str:
    name = unique("echo")
    machines.ssm.create_document(
        Content=json.dumps(DOCUMENT), Name=name, DocumentType="Command", DocumentFormat="JSON"
    )
    return name


def refusal(call: Any, **parameters: Any) -> str:
    with pytest.raises(ClientError) as refused:
        call(**parameters)
    return refused.value.response["Error"]["Code"]


def test_list_parameter_becomes_json_inside_text() -> None:
    values: dict[str, str | list[str]] = {"images": ["a:1", "b:2"]}
    assert interpolate("x {{images}} y", values) == 'x ["a:1","b:2"] y'
    assert interpolate("{{ images }}", values) == ["a:1", "b:2"]


def test_command_passes_through_its_states(
    machines: Machines, instance: str, document: str
) -> None:
    command = machines.ssm.send_command(
        DocumentName=document,
        InstanceIds=[instance],
        Parameters={"images": ["docker.io/library/nginx:1", "b:2"]},
    )["Command"]["CommandId"]
    ask = {"CommandId": command, "InstanceId": instance}
    assert refusal(machines.ssm.get_command_invocation, **ask) == "InvocationDoesNotExist"
    found = machines.result(instance, command)
    assert found["StandardOutputContent"] == '["docker.io/library/nginx:1","b:2"]\n'
    assert (found["Status"], found["ResponseCode"]) == ("Success", 0)
    (listed,) = machines.ssm.list_command_invocations(CommandId=command, Details=True)[
        "CommandInvocations"
    ]
    assert listed["CommandPlugins"][0]["Output"] == found["StandardOutputContent"]


@pytest.mark.parametrize(
    "parameters",
    [
        {"images": ["$(reboot)"]},
        {"images": ["fine:1", "x;y"]},
        {"images": ["a:1"], "limit": ["ten"]},
        {"images": ["a:1"], "other": ["b"]},
        {},
    ],
)
def test_forbidden_parameters_are_refused(
    machines: Machines, instance: str, document: str, parameters: dict[str, list[str]]
) -> None:
    send = machines.ssm.send_command
    request = {"DocumentName": document, "InstanceIds": [instance], "Parameters": parameters}
    assert refusal(send, **request) == "InvalidParameters"


def test_unknown_documents_and_instances_are_refused(machines: Machines, instance: str) -> None:
    send = machines.ssm.send_command
    assert refusal(send, DocumentName="none", InstanceIds=[instance]) == "InvalidDocument"
    absent = {"InstanceIds": ["i-00000000000000000"], "Parameters": {"commands": ["true"]}}
    assert refusal(send, DocumentName="AWS-RunShellScript", **absent) == "InvalidInstanceId"


def test_output_is_truncated_and_failure_has_exit_code(machines: Machines, instance: str) -> None:
    script = "printf %30000s x; printf %9000s y >&2; exit 3"
    found = machines.result(instance, machines.send(instance, script))
    assert (found["Status"], found["ResponseCode"]) == ("Failed", 3)
    assert len(found["StandardOutputContent"]) == 24_000
    assert len(found["StandardErrorContent"]) == 8_000


def test_overrunning_command_ends_with_its_children(machines: Machines, instance: str) -> None:
    started = time.monotonic()
    command = machines.send(instance, "sleep 60 & sleep 61", executionTimeout="1")
    found = machines.result(instance, command)
    assert (found["Status"], found["StatusDetails"]) == ("TimedOut", "ExecutionTimedOut")
    assert time.monotonic() - started < 10
    assert found["ResponseCode"] == 137


def test_cancelled_command_ends_cancelled(machines: Machines, instance: str) -> None:
    command = machines.send(instance, "sleep 60")
    ask = {"CommandId": command, "InstanceId": instance}

    def in_progress() -> bool:
        try:
            return machines.ssm.get_command_invocation(**ask)["Status"] == "InProgress"
        except machines.ssm.exceptions.InvocationDoesNotExist:
            return False

    until(in_progress)
    machines.ssm.cancel_command(CommandId=command)
    assert machines.result(instance, command)["Status"] == "Cancelled"


def test_command_of_lost_node_times_out(machines: Machines) -> None:
    lost = machines.launch()
    machines.await_ready(lost)
    command = machines.send(lost, "sleep 60", executionTimeout="2")
    time.sleep(0.5)
    machines.cloud.control("POST", f"nodes/{lost}/power-cut")
    assert machines.result(lost, command)["Status"] == "TimedOut"
    wanted = [{"Key": "InstanceIds", "Values": [lost]}]
    (agent,) = machines.ssm.describe_instance_information(Filters=wanted)["InstanceInformationList"]
    assert agent["PingStatus"] == "ConnectionLost"
    machines.terminate(lost)


def test_detached_work_outlives_its_command(machines: Machines, instance: str) -> None:
    host, unit = "apiclient exec -T admin sheltie", unique("long")
    machines.succeed(instance, f"{host} systemd-run --unit={unit} /usr/bin/sleep 1")
    show = f"{host} systemctl show --property=SubState {unit}"
    assert machines.succeed(instance, show) == "SubState=running\n"
    until(lambda: machines.succeed(instance, show) == "SubState=dead\n")


def test_containers_have_only_their_own_programs(machines: Machines, instance: str) -> None:
    for script in ("ctr version", "sheltie true", "systemctl show x"):
        assert machines.run(instance, script)[0] == "Failed", script
    assert machines.run(instance, "apiclient exec -T admin sheltie bash -c true")[0] == "Failed"
    assert machines.run(instance, "apiclient exec -T admin bash -c 'sheltie true'")[0] == "Success"


def test_sheltie_returns_exit_code_and_merges_streams(machines: Machines, instance: str) -> None:
    script = "apiclient exec -T admin bash -c 'echo out; echo err >&2; exit 9'"
    found = machines.result(instance, machines.send(instance, script))
    assert found["ResponseCode"] == 9
    assert found["StandardOutputContent"].split() == ["out", "err"]


@pytest.mark.parametrize("variant", ["aws-k8s-1.29", "aws-k8s-1.37", "aws-k8s-1.33-fips"])
def test_public_parameters_point_to_existing_images(machines: Machines, variant: str) -> None:
    base = f"/aws/service/bottlerocket/{variant}/arm64"
    latest = machines.ssm.get_parameter(Name=f"{base}/latest/image_id")["Parameter"]["Value"]
    named = machines.ssm.get_parameter(Name=f"{base}/1.57.0/image_id")["Parameter"]["Value"]
    assert latest == named
    (image,) = machines.ec2.describe_images(ImageIds=[latest])["Images"]
    assert image["Architecture"] == "arm64"
    listed = machines.ssm.get_parameters_by_path(Path=base, Recursive=True)["Parameters"]
    assert len(listed) == 2 * (len(bottlerocket.VERSIONS) + 1)


def test_missing_variant_is_not_found(machines: Machines) -> None:
    name = "/aws/service/bottlerocket/aws-k8s-1.99/x86_64/latest/image_id"
    assert refusal(machines.ssm.get_parameter, Name=name) == "ParameterNotFound"


def test_standard_document_requires_commands() -> None:
    from localcloud.ssm import RUN_SHELL_SCRIPT, SsmError

    with pytest.raises(SsmError):
        shell_script(RUN_SHELL_SCRIPT, {})
    assert shell_script(RUN_SHELL_SCRIPT, {"commands": ["a", "b"]}) == ("a\nb\n", 3600.0)


def test_concurrent_callers_find_all_public_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    last_one_allowed = threading.Event()

    def slow(_: str) -> Iterator[tuple[str, str]]:
        yield f"{bottlerocket.PREFIX}/first", "1"
        assert last_one_allowed.wait(10)
        yield f"{bottlerocket.PREFIX}/last", "2"

    monkeypatch.setattr(bottlerocket, "parameters", slow)
    parameters = ParameterDict("123456789012", "eu-west-1")
    found: list[list[str]] = []

    def ask() -> None:
        add_public_parameters(parameters)
        found.append(sorted(dict.keys(parameters)))

    callers = [threading.Thread(target=ask) for _ in range(2)]
    for caller in callers:
        caller.start()
    time.sleep(0.2)
    assert found == []
    last_one_allowed.set()
    for caller in callers:
        caller.join()
    assert found == [[f"{bottlerocket.PREFIX}/first", f"{bottlerocket.PREFIX}/last"]] * 2
