"""Decisions on calls from the deployed policies of roles.

Every grant counts the calls that it allowed, to find unused grants. Every denial is
kept.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NoReturn

from moto.iam.models import ManagedPolicy, Role, iam_backends

from ..cloud import ACCOUNT
from .policy import Ask, Statement, UnknownConstruct, decide, parse
from .requests import Unjudged


@dataclass(frozen=True)
class Grant:
    """One action of one statement of a role's policy."""

    role: str
    policy: str
    statement: str
    action: str
    """Action as written in the statement."""


@dataclass(eq=False)
class Denied(Exception):
    """A role lacks a permission for its call."""

    role: str
    """Name of the role, or of the service if it calls without a role."""
    action: str
    resource: str
    reason: str
    session: str
    """Session of the caller's credentials."""
    time: float = field(default_factory=time.time)

    def __str__(self) -> str:
        """Returns AWS's message."""
        session = f"arn:aws:sts::{ACCOUNT}:assumed-role/{self.role}/{self.session or 'localcloud'}"
        user = self.role if self.role.endswith(".amazonaws.com") else session
        return (
            f"User: {user} is not authorized to perform: {self.action} "
            f"on resource: {self.resource} because {self.reason}"
        )


class Authority:
    def __init__(self) -> None:
        self._used: Counter[Grant] = Counter()
        self._denials: list[Denied] = []
        self._lock = threading.Lock()

    def check(
        self, role: str, action: str, asks: Callable[[], Iterable[Ask]], session: str = ""
    ) -> None:
        """Counts the used grants. Raises Denied at the first missing permission."""
        try:
            used = self._judge(role, asks(), session)
        except (Unjudged, UnknownConstruct) as error:
            # A call that cannot be judged must never be allowed.
            self._deny(Denied(role, action, "*", str(error), session))
        with self._lock:
            self._used.update(used)

    def check_permission(
        self, statements: Iterable[Mapping[str, Any]], service: str, function: str, source: str
    ) -> None:
        """Raises Denied unless the function's policy lets the service call it for the source."""
        granted = [
            {name: value for name, value in statement.items() if name != "Principal"}
            for statement in statements
            if statement["Principal"] == {"Service": service}
        ]
        policy = parse("resource-based", json.dumps({"Statement": granted}))
        ask = Ask("lambda:InvokeFunction", function, {"aws:SourceArn": source})
        if not decide(policy, None, ask).allowed:
            reason = f"no resource-based policy allows the {ask.action} action"
            self._deny(Denied(service, ask.action, function, reason, ""))

    def _judge(self, role: str, asks: Iterable[Ask], session: str) -> set[Grant]:
        found = self.roles().get(role)
        identity = _identity(found) if found else ()
        boundary = _boundary(found) if found else None
        used: set[Grant] = set()
        for ask in asks:
            decision = decide(identity, boundary, ask)
            if not decision.allowed:
                self._deny(Denied(role, ask.action, ask.resource, decision.reason, session))
            used.update(Grant(role, s.policy, s.sid, action) for s, action in decision.allowed_by)
        return used

    def _deny(self, denied: Denied) -> NoReturn:
        with self._lock:
            self._denials.append(denied)
        raise denied

    def roles(self) -> dict[str, Role]:
        return {role.name: role for role in list(iam_backends[ACCOUNT]["aws"].roles.values())}

    def grants(self) -> list[dict[str, Any]]:
        """Returns the grants of all roles, with the number of calls that used each."""
        granted = [
            Grant(name, statement.policy, statement.sid, action)
            for name, role in sorted(self.roles().items())
            for statement in _identity(role)
            if statement.effect == "Allow"
            for action in statement.actions
        ]
        with self._lock:
            return [asdict(grant) | {"calls": self._used[grant]} for grant in granted]

    def denials(self) -> list[dict[str, Any]]:
        with self._lock:
            return [asdict(denied) | {"message": str(denied)} for denied in self._denials]

    def forget_uses(self) -> None:
        with self._lock:
            self._used.clear()

    def forget_denials(self) -> None:
        with self._lock:
            self._denials.clear()


def _identity(role: Role) -> tuple[Statement, ...]:
    """Returns the statements of a role's inline and attached policies."""
    inline = [parse(name, document) for name, document in list(role.policies.items())]
    attached = [_managed(policy) for policy in list(role.managed_policies.values())]
    return tuple(statement for policy in (*inline, *attached) for statement in policy)


def _boundary(role: Role) -> tuple[Statement, ...] | None:
    arn = role.permissions_boundary_arn
    return _managed(iam_backends[ACCOUNT]["aws"].managed_policies[arn]) if arn else None


def _managed(policy: ManagedPolicy) -> tuple[Statement, ...]:
    version = next(v for v in policy.versions if v.is_default)
    return parse(policy.name, version.document)
