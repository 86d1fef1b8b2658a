"""SSM: agents that register, commands that really run, Bottlerocket's public parameters."""

from __future__ import annotations

import json
import re
import threading
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from moto.core.exceptions import ServiceException
from moto.core.responses import ActionResult
from moto.ssm.models import Document, Parameter, ParameterDict
from moto.ssm.responses import SimpleSystemManagerResponse

from . import bottlerocket
from .cloud import Cloud
from .ec2 import Machines
from .nodes import Result
from .patching import api, patch

STDOUT_CHARACTERS = 24_000
STDERR_CHARACTERS = 8_000
LIST_CHARACTERS = 2_500
"""Output limit of ListCommandInvocations, lower than GetCommandInvocation's."""

EXECUTION_TIMEOUT = 3600
DELIVERY_TIMEOUT = 3600
STOPPED = 137
"""Exit code in the agent's report of a command that it ended."""

FINAL = frozenset({"Success", "Failed", "TimedOut", "Cancelled"})
AGENT_VERSION = "3.3.1611.0"


class SsmError(ServiceException):
    """An error of the SSM API."""


@dataclass
class Invocation:
    command: Command
    instance_id: str
    script: str
    execution_timeout: float
    status: str = "Pending"
    details: str = "Pending"
    code: int = -1
    stdout: str = ""
    stderr: str = ""
    started: datetime | None = None
    ended: datetime | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def identity(self) -> str:
        return self.command.id

    def finish(self, status: str, details: str, code: int, result: Result | None = None) -> bool:
        """Ends the invocation unless it has ended; the first end counts."""
        with self.lock:
            if self.status in FINAL:
                return False
            self.status, self.details, self.code = status, details, code
            self.ended = now()
            if result is not None:
                self.stdout = result.stdout[:STDOUT_CHARACTERS]
                self.stderr = result.stderr[:STDERR_CHARACTERS]
            return True

    def describe(self) -> dict[str, Any]:
        elapsed = ""
        if self.started and self.ended:
            elapsed = f"PT{(self.ended - self.started).total_seconds():.3f}S"
        return {
            "CommandId": self.command.id,
            "InstanceId": self.instance_id,
            "Comment": self.command.comment,
            "DocumentName": self.command.document,
            "DocumentVersion": "$DEFAULT",
            "PluginName": "aws:runShellScript",
            "ResponseCode": self.code,
            "ExecutionStartDateTime": iso(self.started),
            "ExecutionElapsedTime": elapsed,
            "ExecutionEndDateTime": iso(self.ended),
            "Status": self.status,
            "StatusDetails": self.details,
            "StandardOutputContent": self.stdout,
            "StandardOutputUrl": "",
            "StandardErrorContent": self.stderr,
            "StandardErrorUrl": "",
            "CloudWatchOutputConfig": {"CloudWatchOutputEnabled": False},
        }

    def row(self, with_output: bool) -> dict[str, Any]:
        shown = self.describe()
        keys = ("CommandId", "InstanceId", "Comment", "DocumentName", "Status", "StatusDetails")
        row = {key: shown[key] for key in keys}
        row["RequestedDateTime"] = self.command.requested
        row["CommandPlugins"] = []
        if with_output:
            plugin = {
                "Name": shown["PluginName"],
                "Status": self.status,
                "StatusDetails": self.details,
                "ResponseCode": self.code,
                "Output": (self.stdout + self.stderr)[:LIST_CHARACTERS],
            }
            row["CommandPlugins"].append(plugin)
        return row


@dataclass
class Command:
    document: str
    comment: str
    parameters: dict[str, list[str]]
    timeout: int
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    requested: datetime = field(default_factory=lambda: now())
    visible_at: float = 0
    """Time when the invocations become visible: SSM's API is eventually consistent."""
    invocations: dict[str, Invocation] = field(default_factory=dict)

    @property
    def status(self) -> str:
        states = {invocation.status for invocation in self.invocations.values()}
        for state in ("InProgress", "Pending", "Cancelling", "Failed", "TimedOut", "Cancelled"):
            if state in states:
                return state
        return "Success"

    def describe(self) -> dict[str, Any]:
        done = [i for i in self.invocations.values() if i.status in FINAL]
        return {
            "CommandId": self.id,
            "DocumentName": self.document,
            "DocumentVersion": "$DEFAULT",
            "Comment": self.comment,
            "ExpiresAfter": self.requested + timedelta(seconds=self.timeout),
            "Parameters": self.parameters,
            "InstanceIds": list(self.invocations),
            "Targets": [],
            "RequestedDateTime": self.requested,
            "Status": self.status,
            "StatusDetails": self.status,
            "TargetCount": len(self.invocations),
            "CompletedCount": len(done),
            "ErrorCount": sum(i.status != "Success" for i in done),
            "DeliveryTimedOutCount": 0,
            "TimeoutSeconds": self.timeout,
        }


def now() -> datetime:
    return datetime.now(UTC)


def iso(when: datetime | None) -> str:
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z") if when else ""


# Documents


def check_parameters(
    declared: dict[str, Any], given: dict[str, list[str]]
) -> dict[str, str | list[str]]:
    """Returns the document's parameters with the given values, or their defaults."""
    unknown = sorted(set(given) - set(declared))
    if unknown:
        raise invalid(f"Parameters {unknown} are not declared in the document.")
    return {name: check_parameter(name, rule, given.get(name)) for name, rule in declared.items()}


def check_parameter(name: str, rule: dict[str, Any], values: list[str] | None) -> str | list[str]:
    if values is None:
        if "default" not in rule:
            raise invalid(f"Parameter {name!r} is required.")
        return rule["default"]
    many = rule.get("type") == "StringList"
    if not many and len(values) != 1:
        raise invalid(f"Parameter {name!r} is a {rule.get('type')}, {len(values)} values given.")
    if not rule.get("minItems", 0) <= len(values) <= rule.get("maxItems", len(values)):
        raise invalid(f"Parameter {name!r} has {len(values)} values.")
    for value in values:
        # Not anchored: a document that requires the whole value has anchors.
        pattern = rule.get("allowedPattern")
        if pattern and not re.search(pattern, value):
            raise invalid(f"Parameter {name!r} does not match {pattern}: {value[:100]!r}")
        if rule.get("allowedValues") and value not in rule["allowedValues"]:
            raise invalid(f"Parameter {name!r} is none of {rule['allowedValues']}: {value[:100]!r}")
        if not rule.get("minChars", 0) <= len(value) <= rule.get("maxChars", len(value)):
            raise invalid(f"Parameter {name!r} has {len(value)} characters.")
    return list(values) if many else values[0]


def invalid(message: str) -> SsmError:
    return SsmError("InvalidParameters", message)


def interpolate(text: Any, values: dict[str, str | list[str]]) -> Any:
    """Replaces `{{ name }}` as the agent does.

    A text with only one parameter becomes its value, also a list. Inside other
    text, a list becomes JSON.
    Source: amazon-ssm-agent, agent/parameters/parameters.go.
    """
    if isinstance(text, list):
        return [interpolate(item, values) for item in text]
    if not isinstance(text, str):
        return text
    for name, value in values.items():
        if re.fullmatch(r"\s*\{\{\s*" + re.escape(name) + r"\s*\}\}\s*", text):
            return value
    for name, value in values.items():
        written = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
        placeholder = r"\{\{\s*" + re.escape(name) + r"\s*\}\}"
        text = re.sub(placeholder, lambda _, written=written: written, text)
    return text


def shell_script(document: dict[str, Any], given: dict[str, list[str]]) -> tuple[str, float]:
    """Returns the script and the time limit of the document's one step."""
    values = check_parameters(document.get("parameters", {}), given)
    steps = document.get("mainSteps", [])
    if str(document.get("schemaVersion")) != "2.2" or len(steps) != 1:
        raise SsmError("InvalidDocument", "Only schema 2.2 with one step is simulated.")
    if steps[0].get("action") != "aws:runShellScript":
        raise SsmError("InvalidDocument", f"{steps[0].get('action')} is not simulated.")
    inputs = steps[0]["inputs"]
    lines = interpolate(inputs["runCommand"], values)
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise invalid("Invalid format in plugin properties: runCommand is not a list of strings.")
    limit = interpolate(inputs.get("timeoutSeconds", EXECUTION_TIMEOUT), values)
    return "\n".join(lines) + "\n", float(limit)


RUN_SHELL_SCRIPT = {
    "schemaVersion": "2.2",
    "parameters": {
        "commands": {"type": "StringList"},
        "workingDirectory": {"type": "String", "default": ""},
        "executionTimeout": {"type": "String", "default": "3600"},
    },
    "mainSteps": [
        {
            "action": "aws:runShellScript",
            "name": "runShellScript",
            "inputs": {
                "runCommand": "{{ commands }}",
                "timeoutSeconds": "{{ executionTimeout }}",
            },
        }
    ],
}


# Run Command


class RunCommand:
    def __init__(self, cloud: Cloud, machines: Machines) -> None:
        self._cloud = cloud
        self._machines = machines
        self._commands: dict[str, Command] = {}
        self._seen: set[str] = set()
        """Instances whose agent has ever registered."""

    def is_online(self, instance_id: str) -> bool:
        node = self._machines.node(instance_id)
        return node is not None and node.agent_online

    def send(
        self,
        name: str,
        document: dict[str, Any],
        instance_ids: list[str],
        parameters: dict[str, list[str]],
        timeout: int,
        comment: str,
        lost: tuple[str, str] | None = None,
    ) -> Command:
        """`lost` is the final status, with details, of a command that never reaches its node."""
        script, limit = shell_script(document, parameters)
        for instance_id in instance_ids:
            if not self.is_online(instance_id):
                message = f"Instances [[{instance_id}]] not in a valid state for account"
                raise SsmError("InvalidInstanceId", message)
        command = Command(name, comment, parameters, timeout)
        settings = self._machines.settings_of(instance_ids[0])
        command.visible_at = time.monotonic() + settings["command_visible_seconds"]
        for instance_id in instance_ids:
            command.invocations[instance_id] = Invocation(command, instance_id, script, limit)
        self._commands[command.id] = command
        for invocation in command.invocations.values():
            step = (invocation.finish, *lost, -1) if lost else (self._deliver, invocation)
            self._cloud.later(settings["delivery_seconds"], *step)
        return command

    def _deliver(self, invocation: Invocation) -> None:
        node = self._machines.node(invocation.instance_id)
        if node is None or not node.agent_online:
            left = self._expires(invocation)
            self._cloud.later(left, invocation.finish, "TimedOut", "DeliveryTimedOut", -1)
            return
        with invocation.lock:
            if invocation.status != "Pending":
                return
            invocation.status = invocation.details = "InProgress"
            invocation.started = now()
        node.run(invocation.identity, invocation.script, lambda r: self._ended(invocation, r))
        self._cloud.later(invocation.execution_timeout, self._time_out, invocation)

    def _expires(self, invocation: Invocation) -> float:
        spent = (now() - invocation.command.requested).total_seconds()
        return max(0.0, invocation.command.timeout - spent)

    def _ended(self, invocation: Invocation, result: Result) -> None:
        if invocation.status == "Cancelling":
            invocation.finish("Cancelled", "Cancelled", STOPPED, result)
            return
        status = "Success" if result.code == 0 else "Failed"
        # A shell reports the end by a signal as 128 plus its number.
        code = result.code if result.code >= 0 else 128 - result.code
        invocation.finish(status, status, code, result)

    def _time_out(self, invocation: Invocation) -> None:
        # The agent ends the script; a command on a dead node times out as well.
        if invocation.finish("TimedOut", "ExecutionTimedOut", STOPPED):
            node = self._machines.node(invocation.instance_id)
            if node is not None:
                node.cancel(invocation.identity)

    def cancel(self, command_id: str, instance_ids: Iterable[str]) -> None:
        wanted = set(instance_ids)
        for invocation in self.command(command_id).invocations.values():
            if wanted and invocation.instance_id not in wanted:
                continue
            with invocation.lock:
                if invocation.status in FINAL:
                    continue
                delivered = invocation.status == "InProgress"
                invocation.status = invocation.details = "Cancelling"
            node = self._machines.node(invocation.instance_id)
            if delivered and node is not None:
                node.cancel(invocation.identity)
            else:
                invocation.finish("Cancelled", "Cancelled", -1)

    def command(self, command_id: str) -> Command:
        if command_id not in self._commands:
            raise SsmError("InvalidCommandId", "The specified command ID is not valid.")
        return self._commands[command_id]

    def invocation(self, command_id: str, instance_id: str) -> Invocation:
        command = self._commands.get(command_id)
        if (
            command is None
            or instance_id not in command.invocations
            or time.monotonic() < command.visible_at
        ):
            raise SsmError("InvocationDoesNotExist", "")
        return command.invocations[instance_id]

    def commands(self, command_id: str | None, instance_id: str | None) -> list[Command]:
        found = [self.command(command_id)] if command_id else list(self._commands.values())
        return [c for c in found if not instance_id or instance_id in c.invocations]

    def invocations(self, command_id: str | None, instance_id: str | None) -> list[Invocation]:
        return [
            invocation
            for command in self.commands(command_id, instance_id)
            if time.monotonic() >= command.visible_at
            for invocation in command.invocations.values()
            if not instance_id or invocation.instance_id == instance_id
        ]

    def agents(self, region: str) -> list[dict[str, Any]]:
        """Returns registered instances; without a node their connection is lost."""
        found = []
        for instance in self._machines.instances():
            if instance.ec2_backend.region_name != region or instance.state == "terminated":
                continue
            online = self.is_online(instance.id)
            if online:
                self._seen.add(instance.id)
            if instance.id not in self._seen:
                continue
            release = self._machines.releases.get(instance.image_id)
            found.append(
                {
                    "InstanceId": instance.id,
                    "PingStatus": "Online" if online else "ConnectionLost",
                    "LastPingDateTime": now(),
                    "AgentVersion": AGENT_VERSION,
                    "IsLatestVersion": True,
                    "PlatformType": "Linux",
                    "PlatformName": "Bottlerocket",
                    "PlatformVersion": release.version if release else "",
                    "ResourceType": "EC2Instance",
                    "IPAddress": instance.private_ip,
                    "ComputerName": instance.private_dns_name,
                }
            )
        return found


# The API


def install(cloud: Cloud) -> None:
    # A command's invocation becomes visible shortly after SendCommand's answer.
    cloud.settings.register_scopable(command_visible_seconds=0.1, delivery_seconds=0.05)
    run_command = RunCommand(cloud, cloud.machines)
    _replace_responses(run_command)
    _offer_public_parameters()


ADDED_ACTIONS = ("list_command_invocations", "cancel_command", "describe_instance_information")
"""Actions that moto lacks."""


def _replace_responses(run_command: RunCommand) -> None:

    def send_command(self: Any) -> ActionResult:
        name = self._get_param("DocumentName")
        instance_ids = self._get_param("InstanceIds", [])
        if not instance_ids:
            raise SsmError("ValidationException", "Only InstanceIds are simulated as targets.")
        command = run_command.send(
            name,
            find_document(self, name),
            instance_ids,
            self._get_param("Parameters", {}) or {},
            self._get_int_param("TimeoutSeconds") or DELIVERY_TIMEOUT,
            self._get_param("Comment", ""),
            getattr(self, "localcloud_lost", None),
        )
        return ActionResult({"Command": command.describe()})

    def get_command_invocation(self: Any) -> ActionResult:
        invocation = run_command.invocation(
            self._get_param("CommandId"), self._get_param("InstanceId")
        )
        return ActionResult(invocation.describe())

    def list_commands(self: Any) -> ActionResult:
        found = run_command.commands(self._get_param("CommandId"), self._get_param("InstanceId"))
        return ActionResult({"Commands": [command.describe() for command in found]})

    def list_command_invocations(self: Any) -> ActionResult:
        found = run_command.invocations(self._get_param("CommandId"), self._get_param("InstanceId"))
        rows = [i.row(bool(self._get_param("Details"))) for i in found]
        for wanted in self._get_param("Filters", []) or []:
            if wanted["key"] not in ("DocumentName", "Status"):
                raise NotImplementedError(f"ListCommandInvocations: the filter {wanted['key']}")
            rows = [row for row in rows if row[wanted["key"]] == wanted["value"]]
        return ActionResult({"CommandInvocations": rows})

    def cancel_command(self: Any) -> ActionResult:
        run_command.cancel(self._get_param("CommandId"), self._get_param("InstanceIds", []))
        return ActionResult({})

    def describe_instance_information(self: Any) -> ActionResult:
        filters = wanted_agents(self)
        agents = [
            agent
            for agent in run_command.agents(self.region)
            if all(str(agent.get(key)) in values for key, values in filters.items())
        ]
        return ActionResult({"InstanceInformationList": agents})

    for function in (
        send_command,
        get_command_invocation,
        list_commands,
        list_command_invocations,
        cancel_command,
        describe_instance_information,
    ):
        name = function.__name__
        action = "".join(word.capitalize() for word in name.split("_"))
        patch(
            SimpleSystemManagerResponse,
            name,
            function,
            reason="Runs commands on nodes, through agents that register.",
            link=api("ssm", action),
            adds=name in ADDED_ACTIONS,
        )


def wanted_agents(self: Any) -> dict[str, list[str]]:
    names = {"InstanceIds": "InstanceId", "PlatformTypes": "PlatformType"}
    found = {}
    for entry in self._get_param("Filters", []) or []:
        found[names.get(entry["Key"], entry["Key"])] = entry["Values"]
    for entry in self._get_param("InstanceInformationFilterList", []) or []:
        found[names.get(entry["key"], entry["key"])] = entry["valueSet"]
    return found


def find_document(self: Any, name: str) -> dict[str, Any]:
    if name == "AWS-RunShellScript":
        return RUN_SHELL_SCRIPT
    # In an ARN, the document's name follows the last slash.
    documents = self.ssm_backend._documents.get(name.rpartition("/")[2])
    if documents is None:
        raise SsmError("InvalidDocument", f"Document {name} does not exist.")
    document: Document = documents.find(self._get_param("DocumentVersion") or None)
    return document.content_json


_adding = threading.Lock()


def add_public_parameters(parameters: ParameterDict) -> None:
    """Adds Bottlerocket's public parameters once. Concurrent callers wait until all are there."""
    with _adding:
        if getattr(parameters, "localcloud_loaded", False):
            return
        for name, value in bottlerocket.parameters(parameters.region_name):
            parameter = Parameter(
                account_id=parameters.account_id,
                name=name,
                value=value,
                parameter_type="String",
                description=None,
                allowed_pattern=None,
                keyid=None,
                last_modified_date=now(),
                version=1,
                data_type="text",
            )
            dict.setdefault(parameters, name, []).append(parameter)
        parameters.localcloud_loaded = True  # type: ignore[attr-defined]


def _offer_public_parameters() -> None:
    check = ParameterDict._check_loading_status

    def check_loading_status(self: ParameterDict, key: str) -> None:
        check(self, key)
        if str(key or "").startswith(bottlerocket.PREFIX):
            add_public_parameters(self)

    patch(
        ParameterDict,
        "_check_loading_status",
        check_loading_status,
        reason="Adds Bottlerocket's public parameters.",
    )
