"""Schedule expressions of EventBridge, and a clock that can run faster.

https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-cron-expressions.html
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

_UNITS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}
_MONTHS = "JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC".split()
_DAYS = "SUN MON TUE WED THU FRI SAT".split()
_YEARS_AHEAD = 4


class UnsupportedExpression(ValueError):
    """An invalid schedule, or one with an unsupported part."""


class Clock:
    """Seconds since the epoch as schedules see them, `speed` times as fast."""

    def __init__(self, speed: Callable[[], float]) -> None:
        self._speed = speed
        self._seen_speed = speed()
        self._real = self._virtual = time.time()

    def now(self) -> float:
        real = time.time()
        self._virtual += (real - self._real) * self._seen_speed
        self._real, self._seen_speed = real, self._speed()
        return self._virtual


def next_time(expression: str, after: float, zone: str = "UTC") -> float | None:
    """Returns the next time of the schedule, in seconds since the epoch.

    `None` for a past `at(...)` and for a `cron(...)` that never fires.
    """
    if match := re.fullmatch(r"rate\((\d+) (second|minute|hour|day)s?\)", expression):
        return after + int(match[1]) * _UNITS[match[2]]
    if match := re.fullmatch(r"at\((.+)\)", expression):
        moment = datetime.fromisoformat(match[1]).replace(tzinfo=ZoneInfo(zone)).timestamp()
        return moment if moment > after else None
    if match := re.fullmatch(r"cron\((.+)\)", expression):
        return _next_cron(match[1], after, ZoneInfo(zone))
    raise UnsupportedExpression(expression)


def _next_cron(fields: str, after: float, zone: ZoneInfo) -> float | None:
    try:
        minute, hour, day, month, weekday, year = fields.split()
    except ValueError:
        raise UnsupportedExpression(f"cron({fields}) has not six fields") from None
    minutes = _values(minute, range(60))
    hours = _values(hour, range(24))
    days = _values(day, range(1, 32))
    months = _values(month, range(1, 13), _MONTHS)
    weekdays = _values(weekday, range(1, 8), _DAYS)
    start = datetime.fromtimestamp(after, zone)
    years = _values(year, range(start.year, start.year + _YEARS_AHEAD + 1))

    def matches(today: date) -> bool:
        return (
            today.year in years
            and today.month in months
            and today.day in days
            and today.isoweekday() % 7 + 1 in weekdays
        )

    today = start.date()
    for _ in range(_YEARS_AHEAD * 366):
        if matches(today):
            for at_hour in hours:
                for at_minute in minutes:
                    local = datetime(
                        today.year, today.month, today.day, at_hour, at_minute, tzinfo=zone
                    )
                    moment = local.timestamp()
                    skipped = datetime.fromtimestamp(moment, UTC).astimezone(zone) != local
                    if moment > after and not skipped:
                        return moment
        today += timedelta(days=1)
    return None


def _values(field: str, domain: range, names: Collection[str] = ()) -> list[int]:
    """Returns the numbers of one cron field, in order."""
    known = {name: domain.start + index for index, name in enumerate(names)}

    def number(text: str) -> int:
        return known[text] if text in known else int(text)

    chosen: set[int] = set()
    for part in field.split(","):
        span, _, step = part.partition("/")
        first, _, last = span.partition("-")
        try:
            if first in ("*", "?"):
                low, high = domain.start, domain.stop - 1
            else:
                low = number(first)
                open_end = domain.stop - 1 if step else low
                high = number(last) if last else open_end
            chosen.update(range(low, high + 1, int(step or 1)))
        except ValueError:
            raise UnsupportedExpression(f"cron field {field!r}") from None
    return sorted(chosen & set(domain))
