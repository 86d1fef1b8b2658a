"""EventBridge and EventBridge Scheduler: delivery to targets, and time.

moto matches events against rules. This module shapes the input, delivers it to
Step Functions, Lambda, SQS, SNS and log groups, handles dead letters, and runs
schedules.
"""

from __future__ import annotations

import copy
import json
import logging
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from moto.awslambda_simple.models import lambda_simple_backends
from moto.events.models import Rule, events_backends
from moto.logs.models import logs_backends
from moto.scheduler.models import scheduler_backends
from moto.sns.models import sns_backends
from moto.sqs.models import sqs_backends
from moto.stepfunctions.parser.models import stepfunctions_parser_backends

from .cloud import ACCOUNT, REGION, Cloud
from .iam import enforcement
from .iam.policy import Ask
from .patching import patch
from .schedules import Clock, UnsupportedExpression, next_time

log = logging.getLogger(__name__)

_TICK_SECONDS = 0.1
_PLACEHOLDER = re.compile(r"<([\w.-]+)>")


def install(cloud: Cloud) -> None:
    cloud.settings.register(schedule_speed=1)
    cloud.event_sink = put_event
    _install_rules()
    timetable = Timetable(Clock(lambda: float(cloud.settings["schedule_speed"])))

    def tick() -> None:
        while not cloud.stopping.wait(_TICK_SECONDS):
            timetable.fire_what_is_due()

    threading.Thread(target=tick, name="schedules", daemon=True).start()


# Events


def put_event(event: dict[str, Any]) -> None:
    """Puts an event as an AWS service does; PutEvents refuses `aws.` sources."""
    full = {
        "version": "0",
        "id": str(uuid.uuid4()),
        "account": ACCOUNT,
        "time": time.time(),
        "region": REGION,
        **event,
    }
    for rule in list(_default_rules()):
        rule.send_to_targets(copy.deepcopy(full))


def _default_rules() -> Iterator[Rule]:
    yield from list(events_backends[ACCOUNT][REGION].event_buses["default"].rules.values())


def _install_rules() -> None:
    def send_to_targets(self: Rule, event: Any, transform_input: bool = True) -> None:
        del transform_input  # Replays of archives, which we have not.
        if self.state != "ENABLED" or not self.event_pattern.get_pattern():
            return
        if not self.event_pattern.matches_event(event):
            return
        told = {name: value for name, value in event.items() if name != "ingestion-time"}
        told["time"] = _iso(told["time"])
        for target in list(self.targets):
            deliver_or_bury(target, shape(target, told), self.arn)

    patch(
        Rule,
        "send_to_targets",
        send_to_targets,
        reason="Shapes inputs, delivers to all used targets and supports dead-letter queues.",
    )


def _iso(moment: Any) -> str:
    return datetime.fromtimestamp(float(moment), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def shape(target: dict[str, Any], event: dict[str, Any]) -> str:
    """Returns the input of a rule's target: Input, InputPath, InputTransformer or the event."""
    if "Input" in target:
        return target["Input"]
    if "InputPath" in target:
        return json.dumps(_at_path(event, target["InputPath"]))
    if "InputTransformer" in target:
        transformer = target["InputTransformer"]
        paths = transformer.get("InputPathsMap", {})
        values = {name: _at_path(event, path) for name, path in paths.items()}
        values["aws.events.event.json"] = event
        values["aws.events.event.ingestion-time"] = event["time"]
        return _fill(transformer["InputTemplate"], values)
    return json.dumps(event)


def _at_path(event: Any, path: str) -> Any:
    """Returns the value at a JSON path of names and indexes; EventBridge allows no more."""
    value = event
    for name, index in re.findall(r"\.([\w-]+)|\[(\d+)\]", path):
        try:
            value = value[name] if name else value[int(index)]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def _fill(template: str, values: dict[str, Any]) -> str:
    def replacement(match: re.Match[str]) -> str:
        if match[1] not in values:
            return match[0]
        value = values[match[1]]
        # Inside a JSON string insert bare text, elsewhere a JSON value.
        inside_string = template.count('"', 0, match.start()) % 2 == 1
        if inside_string and isinstance(value, str):
            return json.dumps(value)[1:-1]
        return json.dumps(value)

    return _PLACEHOLDER.sub(replacement, template)


# Delivery


def deliver_or_bury(target: dict[str, Any], payload: str, source: str) -> None:
    """Delivers a payload. After a failure it goes to the target's dead-letter queue."""
    try:
        if ":rule/" in source:
            _check_permission(target["Arn"], source)
        deliver(target, payload)
    except Exception as error:
        log.warning("%s: delivery to %s failed: %r", source, target["Arn"], error)
        dead_letters = target.get("DeadLetterConfig", {}).get("Arn")
        if dead_letters:
            # For dead letters a schedule uses its role too, a rule uses EventBridge's principal.
            role = {"RoleArn": target["RoleArn"]} if ":schedule/" in source else {}
            deliver({"Arn": dead_letters} | role, payload)


def _check_permission(arn: str, rule: str) -> None:
    """Checks the function's policy: a rule calls a function as EventBridge's principal."""
    if arn.split(":")[2] == "lambda":
        function = lambda_simple_backends[ACCOUNT][REGION].get_function(arn)
        statements = function.policy.statements
        enforcement.check_permission(statements, "events.amazonaws.com", arn, rule)


def deliver(target: dict[str, Any], payload: str) -> None:
    """Delivers a payload. Raises the error of the target's API."""
    arn: str = target["Arn"]
    service = arn.split(":")[2]
    try:
        action, method = _DELIVERIES[service]
    except KeyError:
        raise NotImplementedError(f"delivery to {arn}") from None
    if role := target.get("RoleArn"):
        enforcement.check(role, Ask(action, arn))
    method(arn, payload, target)


def _to_state_machine(arn: str, payload: str, _target: dict[str, Any]) -> None:
    backend = stepfunctions_parser_backends[ACCOUNT][REGION]
    backend.start_execution(arn, execution_input=payload)


def _to_function(arn: str, payload: str, _target: dict[str, Any]) -> None:
    backend = lambda_simple_backends[ACCOUNT][REGION]
    backend.invoke(arn, None, payload, {"X-Amz-Invocation-Type": "Event"}, {})


def _to_queue(arn: str, payload: str, target: dict[str, Any]) -> None:
    group = target.get("SqsParameters", {}).get("MessageGroupId")
    backend = sqs_backends[ACCOUNT][REGION]
    backend.send_message(queue_name=arn.rpartition(":")[2], message_body=payload, group_id=group)


def _to_topic(arn: str, payload: str, _target: dict[str, Any]) -> None:
    sns_backends[ACCOUNT][REGION].publish(message=payload, arn=arn)


def _to_log_group(arn: str, payload: str, _target: dict[str, Any]) -> None:
    group = arn.split(":log-group:")[1].removesuffix(":*")
    stream = str(uuid.uuid4())
    backend = logs_backends[ACCOUNT][REGION]
    backend.create_log_stream(group, stream)
    line = {"timestamp": int(time.time() * 1000), "message": payload}
    backend.put_log_events(group, stream, [line])


_DELIVERIES: dict[str, tuple[str, Callable[[str, str, dict[str, Any]], None]]] = {
    "lambda": ("lambda:InvokeFunction", _to_function),
    "logs": ("logs:PutLogEvents", _to_log_group),
    "sns": ("sns:Publish", _to_topic),
    "sqs": ("sqs:SendMessage", _to_queue),
    "states": ("states:StartExecution", _to_state_machine),
}
"""Required action and delivery function, by service."""


# Time


@dataclass(frozen=True)
class Entry:
    """One scheduled target; a change creates another entry."""

    arn: str
    expression: str
    zone: str


class Timetable:
    """Rules with a schedule, and the schedules of EventBridge Scheduler.

    A run that is due during a pending one is skipped: at a high speed a schedule
    fires once a tick, not a thousand times.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._due: dict[Entry, float | None] = {}

    def fire_what_is_due(self) -> None:
        now = self._clock.now()
        current = dict(_scheduled())
        self._due = {entry: due for entry, due in self._due.items() if entry in current}
        for entry, fire in current.items():
            if entry not in self._due:
                self._due[entry] = self._next(entry, now)
            due = self._due[entry]
            if due is not None and due <= now:
                self._due[entry] = self._next(entry, now)
                log.info("schedule %s fires", entry.arn)
                fire()

    def _next(self, entry: Entry, now: float) -> float | None:
        try:
            return next_time(entry.expression, now, entry.zone)
        except UnsupportedExpression as error:
            log.warning("schedule %s never fires: %s", entry.arn, error)
            return None


def _scheduled() -> Iterator[tuple[Entry, Callable[[], None]]]:
    for rule in _default_rules():
        if rule.scheduled_expression and rule.state == "ENABLED":
            yield Entry(rule.arn, rule.scheduled_expression, "UTC"), _rule_runner(rule)
    for group in list(scheduler_backends[ACCOUNT][REGION].schedule_groups.values()):
        for schedule in list(group.schedules.values()):
            if schedule.state == "ENABLED":
                entry = Entry(
                    schedule.arn,
                    schedule.schedule_expression,
                    schedule.schedule_expression_timezone,
                )
                yield entry, _schedule_runner(schedule)


def _rule_runner(rule: Rule) -> Callable[[], None]:
    def run() -> None:
        event = {
            "version": "0",
            "id": str(uuid.uuid4()),
            "detail-type": "Scheduled Event",
            "source": "aws.events",
            "account": ACCOUNT,
            "time": _iso(time.time()),
            "region": REGION,
            "resources": [rule.arn],
            "detail": {},
        }
        for target in list(rule.targets):
            deliver_or_bury(target, shape(target, event), rule.arn)

    return run


def _schedule_runner(schedule: Any) -> Callable[[], None]:
    def run() -> None:
        context = {
            "aws.scheduler.schedule-arn": schedule.arn,
            "aws.scheduler.scheduled-time": _iso(time.time()),
            "aws.scheduler.execution-id": str(uuid.uuid4()),
            "aws.scheduler.attempt-number": "1",
        }
        payload = _fill(schedule.target.get("Input") or "{}", context)
        deliver_or_bury(schedule.target, payload, schedule.arn)

    return run
