"""The log of AWS calls: caller, action and resource of each call."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from moto.core.responses import BaseResponse

from .cloud import Cloud, Invocation, caller_of, payload_text, session_of

_SCOPE = re.compile(r"Credential=([^/]+)/\d{8}/[^/]*/([^/]+)/aws4_request")

# Parameters that hold the resource of a call; the first one present counts.
# A dot leads into a structure or into every item of a list.
_RESOURCES: dict[str, tuple[str, ...]] = {
    "ec2:CopySnapshot": ("SourceSnapshotId",),
    "ec2:CreateSnapshot": ("VolumeId",),
    "ec2:CreateTags": ("Resources",),
    "ec2:DeleteSnapshot": ("SnapshotId",),
    "ec2:DeleteVolume": ("VolumeId",),
    "ec2:DescribeImages": ("ImageIds",),
    "ec2:DescribeInstances": ("InstanceIds",),
    "ec2:DescribeLaunchTemplateVersions": ("LaunchTemplateId", "LaunchTemplateName"),
    "ec2:DescribeSnapshots": ("SnapshotIds",),
    "ec2:DescribeVolumes": ("VolumeIds",),
    "ec2:ModifySnapshotAttribute": ("SnapshotId",),
    # The subnet decides the capacity.
    "ec2:RunInstances": ("NetworkInterfaces.SubnetId", "SubnetId"),
    "ec2:StartInstances": ("InstanceIds",),
    "ec2:StopInstances": ("InstanceIds",),
    "ec2:TerminateInstances": ("InstanceIds",),
    "ecr:BatchGetImage": ("repositoryName",),
    "ecr:DescribeImages": ("repositoryName",),
    "events:PutEvents": ("Entries.DetailType",),
    "secretsmanager:GetSecretValue": ("SecretId",),
    "sqs:SendMessage": ("QueueUrl",),
    "ssm:CancelCommand": ("InstanceIds", "CommandId"),
    "ssm:DeleteParameter": ("Name",),
    "ssm:GetCommandInvocation": ("InstanceId",),
    "ssm:GetParameter": ("Name",),
    "ssm:GetParametersByPath": ("Path",),
    "ssm:ListCommandInvocations": ("InstanceId", "CommandId"),
    "ssm:PutParameter": ("Name",),
    "ssm:SendCommand": ("DocumentName",),
    "states:DescribeExecution": ("executionArn",),
    "states:DescribeStateMachine": ("stateMachineArn",),
    "states:GetExecutionHistory": ("executionArn",),
    "states:ListExecutions": ("stateMachineArn",),
    "states:StartExecution": ("stateMachineArn",),
    "states:StopExecution": ("executionArn",),
}
_INVOKED = re.compile(r"/functions/([^/]+)/invocations$")


@dataclass
class Call:
    """One AWS call, from its arrival at the edge."""

    service: str
    """Name of the service in IAM actions."""
    action: str
    caller: str
    """The role's name, or the access key without a role."""
    resource: str | None
    """Resource of the call; several are joined by commas."""
    invocation: Invocation | None
    """Invocation of the function that makes the call."""
    payload: str
    """Payload of that invocation, or of the invocation that the call requests."""
    time: float = field(default_factory=time.time)
    status: int = 0

    @classmethod
    def of(cls, response: BaseResponse, cloud: Cloud) -> Call:
        scope = scope_of(response.headers)
        key = scope[1] if scope else "anonymous"
        service = scope[2] if scope else (response.service_name or "")
        action = response._get_action() or ""
        invocation = cloud.invocations.get(session_of(key))
        asked = payload_text(response.body) if action == "Invoke" else ""
        return cls(
            service=service,
            action=action,
            caller=caller_of(key),
            resource=_resource(response, service, action),
            invocation=invocation,
            payload=invocation.payload if invocation else asked,
        )

    def describe(self) -> dict[str, Any]:
        return {
            "time": self.time,
            "service": self.service,
            "action": self.action,
            "caller": self.caller,
            "status": self.status,
            "resource": self.resource,
            "invocation": self.invocation.id if self.invocation else None,
        }


def scope_of(headers: Mapping[str, str]) -> re.Match[str] | None:
    """Returns access key and service from a request's signature."""
    return _SCOPE.search(headers.get("Authorization", ""))


def _resource(response: BaseResponse, service: str, action: str) -> str | None:
    if (service, action) == ("lambda", "Invoke"):
        invoked = _INVOKED.search(response.path)
        # In an ARN, the function's name follows the sixth colon.
        return unquote(invoked[1]).split(":", 6)[-1] if invoked else None
    for path in _RESOURCES.get(f"{service}:{action}", ()):
        name, *below = path.split(".")
        if found := list(_named(response._get_param(name), below)):
            return ",".join(found)
    return None


def _named(value: Any, path: list[str]) -> Iterator[str]:
    if isinstance(value, list):
        for item in value:
            yield from _named(item, path)
    elif path and isinstance(value, dict):
        yield from _named(value.get(path[0]), path[1:])
    elif not path and value is not None:
        yield str(value)


class CallLog:
    def __init__(self) -> None:
        self._calls: list[Call] = []
        self._lock = threading.Lock()

    def add(self, call: Call) -> None:
        with self._lock:
            self._calls.append(call)

    def clear(self) -> None:
        with self._lock:
            self._calls.clear()

    def all(self, payload: str = "") -> list[dict[str, Any]]:
        """Returns all calls, or calls of invocations whose payload contains the text."""
        with self._lock:
            calls: Iterable[Call] = list(self._calls)
        if payload:
            calls = [c for c in calls if c.invocation and payload in c.invocation.payload]
        return [call.describe() for call in calls]
