"""Checks of requests and responses against botocore's service models."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from localcloud import models

from .clouds import ROLE, RunningCloud, start_cloud, stop_cloud, unique


@pytest.fixture
def violated(cloud: RunningCloud) -> Iterator[list[tuple[str, str, str]]]:
    """Collects the expected violations: service, action and member."""
    expected: list[tuple[str, str, str]] = []
    yield expected
    found = cloud.control("DELETE", "violations")
    assert [(v["service"], v["action"], v["member"]) for v in found] == expected


PARAMETER = {"Name": "/models/a", "Value": "1", "Type": "String"}
FUNCTION = {"FunctionName": "f", "Role": ROLE, "Code": {"ZipFile": b""}}


@pytest.mark.parametrize(
    ("service", "action", "arguments", "member", "code", "message"),
    [
        ("ssm", "PutParameter", PARAMETER | {"Type": "Sting"}, "Type", "ValidationException",
         "failed to satisfy constraint: Member must satisfy enum value set: [String, "),
        ("ssm", "PutParameter", PARAMETER | {"Value": 1}, "Value", "ValidationException",
         "Invalid type for parameter Value"),
        ("ssm", "PutParameter", PARAMETER | {"Description": "x" * 1025}, "Description",
         "ValidationException", "length less than or equal to 1024"),
        ("ssm", "SendCommand", {"DocumentName": "a b"}, "DocumentName", "ValidationException",
         "must satisfy regular expression pattern"),
        ("ssm", "SendCommand", {"DocumentName": "doc", "TimeoutSeconds": 2_592_001},
         "TimeoutSeconds", "ValidationException", "value less than or equal to 2592000"),
        ("ssm", "SendCommand", {"DocumentName": "doc", "InstanceIds": ["i-12345678"] * 51},
         "InstanceIds", "ValidationException", "length less than or equal to 50"),
        ("ssm", "AddTagsToResource", {"ResourceType": "Parameter", "ResourceId": "a",
         "Tags": [{"Key": "a!", "Value": "b"}]}, "Tags[].Key", "ValidationException", "p{L}"),
        ("stepfunctions", "StartExecution", {"input": "{}"}, "stateMachineArn",
         "ValidationException", "Missing required parameter"),
        ("lambda", "CreateFunction", FUNCTION | {"Runtime": "rust"}, "Runtime",
         "ValidationException", "enum value set"),
        ("lambda", "Invoke", {"FunctionName": "f", "InvocationType": "Twice"}, "InvocationType",
         "ValidationException", "enum value set"),
        ("iam", "CreateRole", {"RoleName": "a b", "AssumeRolePolicyDocument": "{}"}, "RoleName",
         "ValidationError", "regular expression"),
        ("ec2", "CreateVolume", {"AvailabilityZone": "a", "Size": 1, "VolumeType": "gp9"},
         "VolumeType", "InvalidParameterValue", "enum value set"),
        ("ec2", "DeleteSnapshot", {}, "SnapshotId", "MissingParameter", "Missing required"),
        ("ec2", "RunInstances", {"MinCount": 1, "MaxCount": 1, "InstanceType": "m7i.enormous"},
         "InstanceType", "InvalidParameterValue", "m7i.enormous"),
    ],
)  # fmt: skip
def test_invalid_request_is_refused(
    cloud: RunningCloud,
    violated: list[tuple[str, str, str]],
    service: str,
    action: str,
    arguments: dict[str, Any],
    member: str,
    code: str,
    message: str,
) -> None:
    client = cloud.aws(service, parameter_validation=False)
    with pytest.raises(ClientError) as raised:
        client._make_api_call(action, arguments)
    error = raised.value.response["Error"]
    assert error["Code"] == code
    assert message in error["Message"]
    violated.append((service, action, member))


def send(cloud: RunningCloud, service: str, change: Any, call: Any) -> Any:
    """Makes a call with a request that `change` edits before it is sent."""
    client = cloud.aws(service)
    client.meta.events.register("before-sign.*", lambda request, **_: change(request))
    return call(client)


def test_unknown_member_of_json_is_recorded(
    cloud: RunningCloud, violated: list[tuple[str, str, str]]
) -> None:
    def change(request: Any) -> None:
        request.data = json.dumps(json.loads(request.data) | {"Colour": "red"})

    send(cloud, "ssm", change, lambda ssm: ssm.describe_parameters())
    violated.append(("ssm", "DescribeParameters", "Colour"))


def test_unknown_parameter_of_ec2_is_refused(
    cloud: RunningCloud, violated: list[tuple[str, str, str]]
) -> None:
    def change(request: Any) -> None:
        request.data["Filter.1.Colour"] = "red"

    with pytest.raises(ClientError, match="UnknownParameter"):
        send(cloud, "ec2", change, lambda ec2: ec2.describe_volumes(VolumeIds=["vol-1"]))
    violated.append(("ec2", "DescribeVolumes", "Filter.1.Colour"))


def test_refused_request_changes_nothing(
    cloud: RunningCloud, violated: list[tuple[str, str, str]]
) -> None:
    ssm, name = cloud.aws("ssm"), unique("/models")
    with pytest.raises(ClientError, match="ValidationException"):
        ssm.put_parameter(Name=name, Value="1", Type="Sting")
    with pytest.raises(ClientError, match="ParameterNotFound"):
        ssm.get_parameter(Name=name)
    violated.append(("ssm", "PutParameter", "Type"))


def test_checked_calls_are_counted_by_service(cloud: RunningCloud) -> None:
    def checked() -> tuple[int, int]:
        counted = cloud.control("GET", "checks")
        return counted["requests"].get("ecr", 0), counted["responses"].get("ecr", 0)

    requests, responses = checked()
    cloud.aws("ecr").describe_repositories()
    assert checked() == (requests + 1, responses + 1)


@pytest.mark.parametrize(
    ("service", "action", "body", "members"),
    [
        ("ssm", "SendCommand", {"Command": {"Status": "Succes"}}, ["Command.Status"]),
        ("ssm", "SendCommand", {"Command": {"Colour": "red"}}, ["Command.Colour"]),
        ("ssm", "SendCommand", {"Command": {"InstanceIds": "i-1"}}, ["Command.InstanceIds"]),
        ("stepfunctions", "StartExecution", {"startDate": 1}, ["executionArn"]),
        ("lambda", "GetFunctionConfiguration", {"State": "Idle", "Timeout": "3"},
         ["State", "Timeout"]),
        ("ec2", "DescribeSnapshots",
         "<R><snapshotSet><item><status>done</status><colour/></item></snapshotSet></R>",
         ["Snapshots[].colour", "Snapshots[].State"]),
        ("iam", "GetRole", "<R><GetRoleResult><Role><Path>/</Path></Role></GetRoleResult></R>",
         ["Role.RoleName", "Role.RoleId", "Role.Arn", "Role.CreateDate"]),
        ("ssm", "GetCommandInvocation", {"ExecutionElapsedTime": "PT0.091S"}, []),
        ("ssm", "GetParameters", {"InvalidParameters": []}, []),
    ],
)  # fmt: skip
def test_invalid_response_is_found(
    service: str, action: str, body: Any, members: list[str]
) -> None:
    model = models._service(service)
    assert model is not None
    text = body if isinstance(body, str) else json.dumps(body)
    operation = model.operation_model(action)
    found = models.Checks()._judge_response(operation, model.protocol, (200, {}, text))
    assert sorted(problem.member for problem in found) == sorted(members)


def test_result_member_that_moto_drops_is_found() -> None:
    shape = models._service("ssm").operation_model("SendCommand").output_shape  # type: ignore[union-attr]
    result = {"Command": {"CommandId": "1", "Comand": "2"}, "command": {}}
    assert list(models._dropped(result, shape)) == ["Command.Comand"]


def test_cloud_with_a_violation_ends_with_an_error(tmp_path: Path) -> None:
    cloud = start_cloud(tmp_path, PREPULL_NODES="simulated")
    with pytest.raises(ClientError, match="ValidationException"):
        cloud.aws("ssm").put_parameter(Name="a", Value="1", Type="Sting")
    assert stop_cloud(cloud) == 3
