"""The part of IAM's policy language that prepull's roles use, with its evaluation.

An unknown operator, element or variable is an error: a misread construct must
never become an allow. Sources, all in the IAM
User Guide (docs.aws.amazon.com/IAM/latest/UserGuide): the rules of evaluation in
reference_policies_evaluation-logic.html, the operators in
reference_policies_elements_condition_operators.html, the set operators in
reference_policies_condition-single-vs-multi-valued-context-keys.html.

PyPI has no suitable evaluator: principalmapper's last release is of 2022, and the
maintained one, cloud-copilot's iam-simulate, is for Node.js.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Values = str | tuple[str, ...]
"""The value of a context key: a tuple if the key is multivalued, for any length."""


class UnknownConstruct(Exception):
    """The policy has a construct that this evaluator does not support."""


@dataclass(frozen=True)
class Ask:
    """A required permission: an action on a resource."""

    action: str
    """`ec2:RunInstances`"""
    resource: str = "*"
    """An ARN; `*` if the action has no resource types."""
    context: Mapping[str, Values] = field(default_factory=dict)


@dataclass(frozen=True)
class Statement:
    policy: str
    """Name of the policy that contains it."""
    sid: str
    """Statement ID, or the statement's number in the policy if it has none."""
    effect: str
    actions: tuple[str, ...]
    resources: tuple[str, ...]
    conditions: tuple[Condition, ...]

    def matching_action(self, ask: Ask) -> str | None:
        """Returns the statement's action that matches; `None` if the statement does not apply."""
        if not any(_resource_matches(pattern, ask.resource) for pattern in self.resources):
            return None
        if not all(condition.holds(ask.context) for condition in self.conditions):
            return None
        # Action names are case-insensitive.
        named = (p for p in self.actions if _like(p.lower(), ask.action.lower()))
        return next(named, None)


@dataclass(frozen=True)
class Condition:
    operator: str
    key: str
    values: tuple[str, ...]

    def holds(self, context: Mapping[str, Values]) -> bool:
        quantifier, _, name = self.operator.rpartition(":")
        value = _value(context, self.key)
        if name == "Null":
            return (value is None) == (self.values == ("true",))
        if not quantifier:
            if isinstance(value, tuple):
                raise UnknownConstruct(f"{self.operator} on {self.key}, which is multivalued")
            return value is not None and self._matches(name, value)
        present = () if value is None else (value,) if isinstance(value, str) else value
        matches = (self._matches(name, one) for one in present)
        # IAM documents: without values, ForAllValues matches and ForAnyValue does not.
        return all(matches) if quantifier == "ForAllValues" else any(matches)

    def _matches(self, name: str, value: str) -> bool:
        return any(_OPERATORS[name](wanted, value) for wanted in self.values)


@dataclass(frozen=True)
class Decision:
    allowed: bool
    reason: str
    """In the words of AWS's own messages: `no identity-based policy allows the ... action`."""
    allowed_by: tuple[tuple[Statement, str], ...] = ()
    """Statements that allow it, each with its matching action."""


def decide(
    identity: Iterable[Statement], boundary: Iterable[Statement] | None, ask: Ask
) -> Decision:
    """Decides on an action. A boundary limits permissions and grants none."""
    allowed = _allowing(identity, ask)
    if isinstance(allowed, Decision):
        return allowed
    if not allowed:
        return Decision(False, f"no identity-based policy allows the {ask.action} action")
    if boundary is not None:
        within = _allowing(boundary, ask)
        if isinstance(within, Decision):
            return within
        if not within:
            return Decision(False, f"no permissions boundary allows the {ask.action} action")
    return Decision(True, "", allowed)


def _allowing(
    statements: Iterable[Statement], ask: Ask
) -> tuple[tuple[Statement, str], ...] | Decision:
    """Returns the allowing statements, or the decision of an explicit deny."""
    applying = [(s, action) for s in statements if (action := s.matching_action(ask))]
    if any(statement.effect == "Deny" for statement, _ in applying):
        return Decision(False, f"a policy denies the {ask.action} action explicitly")
    return tuple(applying)


# Matching


@functools.lru_cache(maxsize=4096)
def _pattern(glob: str) -> re.Pattern[str]:
    """Matches IAM's wildcards `*` and `?`, and no others."""
    translated = {"*": ".*", "?": "."}
    return re.compile("".join(translated.get(c, re.escape(c)) for c in glob), re.DOTALL)


def _like(glob: str, text: str) -> bool:
    return _pattern(glob).fullmatch(text) is not None


def _arn_like(glob: str, arn: str) -> bool:
    """Matches part by part, so that a wildcard cannot match a colon and the next part."""
    wanted, given = glob.split(":", 5), arn.split(":", 5)
    return len(wanted) == len(given) == 6 and all(map(_like, wanted, given))


def _resource_matches(glob: str, resource: str) -> bool:
    return glob == "*" or _arn_like(glob, resource)


def _value(context: Mapping[str, Values], key: str) -> Values | None:
    """Looks up a key. Keys are case-insensitive, and so are the tag names in them."""
    lowered = key.lower()
    return next((value for name, value in context.items() if name.lower() == lowered), None)


_OPERATORS: dict[str, Callable[[str, str], bool]] = {
    "StringEquals": lambda wanted, value: wanted == value,
    "StringLike": _like,
    # IAM documents both as equal.
    "ArnEquals": _arn_like,
    "ArnLike": _arn_like,
    "Bool": lambda wanted, value: wanted.lower() == value.lower(),
}
_QUANTIFIERS = ("", "ForAllValues", "ForAnyValue")


# Reading


@functools.lru_cache(maxsize=256)
def parse(name: str, document: str) -> tuple[Statement, ...]:
    """Returns the statements of an identity-based policy or a permissions boundary."""
    policy = json.loads(document)
    _only(policy, {"Version", "Id", "Statement"})
    statements = policy["Statement"]
    if isinstance(statements, dict):
        statements = [statements]
    return tuple(_statement(name, number, raw) for number, raw in enumerate(statements))


def _statement(policy: str, number: int, raw: dict[str, Any]) -> Statement:
    _only(raw, {"Sid", "Effect", "Action", "Resource", "Condition"})
    if raw["Effect"] not in ("Allow", "Deny"):
        raise UnknownConstruct(f"effect {raw['Effect']}")
    resources = _texts(raw["Resource"])
    for resource in resources:
        if resource != "*" and len(resource.split(":", 5)) < 6:
            raise UnknownConstruct(f"resource {resource}")
    conditions = tuple(
        _condition(operator, key, _texts(values))
        for operator, keys in raw.get("Condition", {}).items()
        for key, values in keys.items()
    )
    sid = raw.get("Sid") or str(number)
    return Statement(policy, sid, raw["Effect"], _texts(raw["Action"]), resources, conditions)


def _condition(operator: str, key: str, values: tuple[str, ...]) -> Condition:
    quantifier, _, name = operator.rpartition(":")
    if name == "Null":
        if quantifier or values not in (("true",), ("false",)):
            raise UnknownConstruct(f"{operator} {values}")
    elif quantifier not in _QUANTIFIERS or name not in _OPERATORS:
        raise UnknownConstruct(f"operator {operator}")
    return Condition(operator, key, values)


def _texts(raw: Any) -> tuple[str, ...]:
    """Reads one value or several; IAM accepts `true` as well as `"true"`."""
    texts = tuple(
        str(value).lower() if isinstance(value, bool) else value
        for value in (raw if isinstance(raw, list) else [raw])
    )
    for text in texts:
        if not isinstance(text, str) or "${" in text:
            raise UnknownConstruct(f"value {text}")
    return texts


def _only(raw: dict[str, Any], known: set[str]) -> None:
    if unknown := raw.keys() - known:
        raise UnknownConstruct(f"elements {sorted(unknown)}")
