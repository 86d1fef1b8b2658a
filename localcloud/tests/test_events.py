"""Events reach their targets in the configured shape, and schedules fire."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from localcloud.schedules import UnsupportedExpression, next_time

from .clouds import ROLE, RunningCloud, unique


def rule(cloud: RunningCloud, target: dict[str, Any], **fields: Any) -> str:
    name = unique("rule")
    cloud.aws("events").put_rule(Name=name, **fields)
    cloud.aws("events").put_targets(Rule=name, Targets=[{"Id": "target", **target}])
    return name


def delete(cloud: RunningCloud, name: str) -> None:
    cloud.aws("events").remove_targets(Rule=name, Ids=["target"])
    cloud.aws("events").delete_rule(Name=name)


def put(cloud: RunningCloud, source: str, detail: Any) -> None:
    entry = {"Source": source, "DetailType": "Test", "Detail": json.dumps(detail)}
    answer = cloud.aws("events").put_events(Entries=[entry])
    assert answer["FailedEntryCount"] == 0


def test_input_transformer_fills_values_and_text(cloud: RunningCloud) -> None:
    url, queue = cloud.queue(unique("shaped"))
    source = unique("source")
    transformer = {
        "InputPathsMap": {"tag": "$.detail.tag", "all": "$.detail", "type": "$.detail-type"},
        "InputTemplate": '{"tag": <tag>, "all": <all>, "text": "a <type> of <tag>"}',
    }
    target = {"Arn": queue, "InputTransformer": transformer}
    name = rule(cloud, target, EventPattern=json.dumps({"source": [source]}))
    put(cloud, source, {"tag": 'v"1'})
    assert cloud.receive(url) == {
        "tag": 'v"1',
        "all": {"tag": 'v"1'},
        "text": 'a Test of v"1',
    }
    delete(cloud, name)


def test_failed_delivery_goes_to_dead_letter_queue(cloud: RunningCloud) -> None:
    url, queue = cloud.queue(unique("dead"))
    source = unique("source")
    missing = "arn:aws:states:eu-west-1:123456789012:stateMachine:missing"
    target = {"Arn": missing, "DeadLetterConfig": {"Arn": queue}}
    name = rule(cloud, target, EventPattern=json.dumps({"source": [source]}))
    put(cloud, source, {"a": 1})
    assert cloud.receive(url)["detail"] == {"a": 1}
    delete(cloud, name)


def test_nightly_schedule_fires_on_fast_clock(cloud: RunningCloud) -> None:
    url, queue = cloud.queue(unique("nightly"))
    name = unique("nightly")
    scheduler = cloud.aws("scheduler")
    scheduler.create_schedule(
        Name=name,
        ScheduleExpression="cron(0 3 * * ? *)",
        ScheduleExpressionTimezone="Europe/Berlin",
        FlexibleTimeWindow={"Mode": "OFF"},
        Target={"Arn": queue, "RoleArn": ROLE, "Input": '{"source":"schedule","cache":"web"}'},
    )
    cloud.control("POST", "settings", {"schedule_speed": 86400})
    assert cloud.receive(url, seconds=5) == {"source": "schedule", "cache": "web"}
    scheduler.delete_schedule(Name=name)


def test_rate_rule_fires_scheduled_event(cloud: RunningCloud) -> None:
    url, queue = cloud.queue(unique("hourly"))
    name = rule(cloud, {"Arn": queue}, ScheduleExpression="rate(1 hour)")
    cloud.control("POST", "settings", {"schedule_speed": 3600})
    assert cloud.receive(url, seconds=5)["detail-type"] == "Scheduled Event"
    delete(cloud, name)


@pytest.mark.parametrize(
    ("expression", "zone", "after", "expected"),
    [
        ("rate(5 minutes)", "UTC", "2026-01-01T00:00", "2026-01-01T00:05"),
        ("at(2026-03-01T10:00:00)", "Europe/Berlin", "2026-01-01T00:00", "2026-03-01T09:00"),
        ("cron(15 3 * * ? *)", "UTC", "2026-01-01T03:15", "2026-01-02T03:15"),
        ("cron(0 3 ? * MON-FRI *)", "UTC", "2026-01-02T04:00", "2026-01-05T03:00"),
        ("cron(0/20 8,9 1 JAN-MAR/2 ? *)", "UTC", "2026-01-01T09:40", "2026-03-01T08:00"),
        ("cron(0 3 * * ? *)", "America/New_York", "2026-07-01T00:00", "2026-07-01T07:00"),
        # 02:30 does not exist on the night when summer time begins.
        ("cron(30 2 * * ? *)", "Europe/Berlin", "2026-03-28T12:00", "2026-03-30T00:30"),
    ],
)
def test_schedules_follow_calendars_and_time_zones(
    expression: str, zone: str, after: str, expected: str
) -> None:
    moment = next_time(expression, _utc(after), zone)
    assert moment == _utc(expected)


@pytest.mark.parametrize("expression", ["nightly", "cron(0 3 * *)", "cron(0 3 L * ? *)"])
def test_unsupported_schedule_expression_is_refused(expression: str) -> None:
    with pytest.raises(UnsupportedExpression):
        next_time(expression, 0)


def _utc(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()
