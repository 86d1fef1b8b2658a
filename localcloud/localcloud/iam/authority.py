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
from . import reference
from .policy import Ask, Decision, Statement, UnknownConstruct, decide, parse
from .requests import Unjudged


@dataclass(frozen=True)
class Grant:
    """One action of one statement of a role's policy."""

    role: str
    policy: str
    statement: str
    action: str
    """Action as written in the statement."""


@dataclass(frozen=True)
class Judgement:
    """A decision with its inputs, so that another evaluator can repeat it."""

    ask: Ask
    policies: tuple[str, ...]
    """Documents of the role's identity-based policies."""
    boundary: str | None
    allowed: bool

    def __hash__(self) -> int:
        # An ask has a dictionary.
        return hash((self.ask.action, self.ask.resource, self.allowed))


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
        self._judgements: set[Judgement] = set()
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

    def decide(self, role: str, ask: Ask) -> Decision | None:
        """Decides on a simulated action, which counts nowhere; `None` if there is no such role."""
        found = self.roles().get(role)
        if found is None:
            return None
        limit = _boundary(found)
        boundary = parse("boundary", limit) if limit else None
        return decide(_statements(_documents(found)), boundary, ask)

    def _judge(self, role: str, asks: Iterable[Ask], session: str) -> set[Grant]:
        found = self.roles().get(role)
        documents = _documents(found) if found else []
        texts = tuple(document for _, document in documents)
        identity = _statements(documents)
        limit = _boundary(found) if found else None
        boundary = parse("boundary", limit) if limit else None
        used: set[Grant] = set()
        for ask in asks:
            decision = decide(identity, boundary, ask)
            judged = Judgement(ask, texts, limit, decision.allowed)
            with self._lock:
                self._judgements.add(judged)
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
            for statement in _statements(_documents(role))
            if statement.effect == "Allow"
            for action in statement.actions
        ]
        with self._lock:
            return [asdict(grant) | {"calls": self._used[grant]} for grant in granted]

    def decisions(self) -> dict[str, Any]:
        """Returns every different decision since the start, and the policies by number."""
        with self._lock:
            judgements = list(self._judgements)
        numbers: dict[str, int] = {}

        def number(document: str) -> int:
            return numbers.setdefault(document, len(numbers))

        decisions = [
            asdict(judged.ask)
            | {
                "policies": [number(document) for document in judged.policies],
                "boundary": number(judged.boundary) if judged.boundary else None,
                "allowed": judged.allowed,
            }
            for judged in judgements
        ]
        return {"policies": list(numbers), "decisions": decisions}

    def reference_problems(self) -> dict[str, Any]:
        """Checks every role's statements and every recorded permission against the reference."""
        statements = [
            (f"{name}: {statement.policy}: {statement.sid}", statement)
            for name, role in sorted(self.roles().items())
            for statement in _statements(_documents(role))
        ]
        with self._lock:
            asks = [judged.ask for judged in self._judgements]
        return {
            "statements": len(statements),
            "statement_problems": [
                f"{where}: {problem}"
                for where, statement in statements
                for problem in reference.statement_problems(statement)
            ],
            "permissions": len(asks),
            "permission_problems": sorted(
                {problem for ask in asks for problem in reference.ask_problems(ask)}
            ),
        }

    def denials(self) -> list[dict[str, Any]]:
        with self._lock:
            return [asdict(denied) | {"message": str(denied)} for denied in self._denials]

    def forget_uses(self) -> None:
        with self._lock:
            self._used.clear()

    def forget_denials(self) -> None:
        with self._lock:
            self._denials.clear()


def _documents(role: Role) -> list[tuple[str, str]]:
    """Returns names and documents of a role's inline and attached policies."""
    attached = [(policy.name, _managed(policy)) for policy in list(role.managed_policies.values())]
    return [*list(role.policies.items()), *attached]


def _statements(documents: Iterable[tuple[str, str]]) -> tuple[Statement, ...]:
    return tuple(s for name, document in documents for s in parse(name, document))


def _boundary(role: Role) -> str | None:
    arn = role.permissions_boundary_arn
    return _managed(iam_backends[ACCOUNT]["aws"].managed_policies[arn]) if arn else None


def _managed(policy: ManagedPolicy) -> str:
    return next(v for v in policy.versions if v.is_default).document
