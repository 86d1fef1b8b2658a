"""Faults that tests inject into AWS calls."""

from __future__ import annotations

import threading
import uuid
from dataclasses import MISSING, asdict, dataclass, field, fields
from fnmatch import fnmatchcase
from typing import Any

from .calls import Call

REFUSE = "refuse"
"""The call gets an error and is not carried out."""
LOSE_ANSWER = "lose-answer"
"""The call is carried out, and the connection closed without an answer."""
KILL = "kill"
"""The call is carried out, and the calling function's process killed."""
TIME_OUT = "time-out"
"""The call is carried out, and the calling function ended as at its time limit."""
LOSE_COMMAND = "lose-command"
"""SendCommand is answered, and the command never reaches its node."""

# Status and StatusDetails of a command that never reaches its node.
# Source: Systems Manager User Guide, "Understanding command statuses".
LOST_COMMANDS = {
    "AccessDenied": ("Failed", "AccessDenied"),
    "Cancelled": ("Cancelled", "Cancelled"),
    "DeliveryTimedOut": ("TimedOut", "DeliveryTimedOut"),
    "ExecutionTimedOut": ("TimedOut", "ExecutionTimedOut"),
    "Failed": ("Failed", "Failed"),
    "InvalidPlatform": ("Failed", "InvalidPlatform"),
    "Terminated": ("Failed", "Terminated"),
    "TimedOut": ("TimedOut", "DeliveryTimedOut"),
    "Undeliverable": ("Failed", "Undeliverable"),
}

_EFFECTS = (REFUSE, LOSE_ANSWER, KILL, TIME_OUT, LOSE_COMMAND)
_NUMBERS = ("status", "times", "skip")
_ONLY_FOR = {"code": REFUSE, "message": REFUSE, "status": REFUSE, "status_name": LOSE_COMMAND}


@dataclass
class Fault:
    service: str
    action: str
    effect: str = REFUSE
    code: str | None = None
    message: str | None = None
    status: int | None = None
    status_name: str | None = None
    times: int | None = 1
    """Number of calls that it applies to; `None` for no limit."""
    skip: int = 0
    """Number of matching calls that pass first."""
    caller: str = ""
    """Part of the calling role's name."""
    invocation: str = ""
    """Part of the payload of the calling or the called Lambda invocation."""
    resource: str = "*"
    """Pattern for the resource of the call."""
    id: str = field(default_factory=lambda: uuid.uuid4().hex[:8])
    hits: int = 0
    passed: int = 0

    @classmethod
    def parse(cls, wish: Any) -> Fault:
        """Parses a fault. Raises ValueError if it can never have an effect."""
        if not isinstance(wish, dict):
            raise ValueError("a fault is an object")
        # A null field counts as absent, except that null `times` removes the limit.
        wish = {name: v for name, v in wish.items() if v is not None or name == "times"}
        ours = {"id", "hits", "passed"}
        given = {f.name: f for f in fields(cls) if f.name not in ours}
        unknown = sorted(wish.keys() - given.keys())
        missing = [
            name
            for name, f in given.items()
            if f.default is MISSING and f.default_factory is MISSING and name not in wish
        ]
        if missing or unknown:
            raise ValueError(f"missing: {missing}, unknown: {unknown}")
        for name, value in wish.items():
            if value is not None and type(value) is not (int if name in _NUMBERS else str):
                raise ValueError(f"{name} cannot be {value!r}")
        fault = cls(**wish)
        fault._check()
        return fault

    def _check(self) -> None:
        if self.effect not in _EFFECTS:
            raise ValueError(f"effect {self.effect!r} is none of {list(_EFFECTS)}")
        for name, effect in _ONLY_FOR.items():
            if getattr(self, name) is not None and self.effect != effect:
                raise ValueError(f"{name} is for the effect {effect} only")
        if self.effect == REFUSE and not self.code:
            raise ValueError(f"the effect {REFUSE} needs a code")
        if self.effect == LOSE_COMMAND:
            if (self.service, self.action) != ("ssm", "SendCommand"):
                raise ValueError(f"the effect {LOSE_COMMAND} is for ssm:SendCommand only")
            if self.status_name not in LOST_COMMANDS:
                raise ValueError(f"status_name is none of {sorted(LOST_COMMANDS)}")

    def matches(self, call: Call) -> bool:
        if (self.service, self.action) != (call.service, call.action):
            return False
        if self.caller not in call.caller or not fnmatchcase(call.resource or "", self.resource):
            return False
        if call.invocation is None and self.effect in (KILL, TIME_OUT):
            return False  # There is no function to end.
        return self.invocation in call.payload

    def is_spent(self) -> bool:
        return self.times is not None and self.hits >= self.times

    def describe(self) -> dict[str, Any]:
        return asdict(self)


class Faults:
    """All faults, oldest first; the first match applies."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._lock = threading.Lock()

    def add(self, fault: Fault) -> None:
        with self._lock:
            self._faults.append(fault)

    def take(self, call: Call) -> Fault | None:
        """Returns the fault for this call, if any, and counts the hit."""
        with self._lock:
            for fault in self._faults:
                if fault.is_spent() or not fault.matches(call):
                    continue
                if fault.passed < fault.skip:
                    fault.passed += 1
                    continue
                fault.hits += 1
                return fault
        return None

    def remove(self, identity: str) -> None:
        """Removes the fault with this ID, or all for an empty ID."""
        with self._lock:
            self._faults = [f for f in self._faults if identity and f.id != identity]

    def all(self, identity: str = "") -> list[dict[str, Any]]:
        with self._lock:
            return [f.describe() for f in self._faults if identity in ("", f.id)]
