"""Changes to moto: every one goes through `patch()` and appears in PATCHES.md."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

PATCHES_FILE = Path(__file__).parent.parent / "PATCHES.md"

_API_PAGES = {
    "ec2": "https://docs.aws.amazon.com/AWSEC2/latest/APIReference",
    "ecr": "https://docs.aws.amazon.com/AmazonECR/latest/APIReference",
    "iam": "https://docs.aws.amazon.com/IAM/latest/APIReference",
    "kms": "https://docs.aws.amazon.com/kms/latest/APIReference",
    "lambda": "https://docs.aws.amazon.com/lambda/latest/api",
    "servicequotas": "https://docs.aws.amazon.com/servicequotas/2019-06-24/apireference",
    "ssm": "https://docs.aws.amazon.com/systems-manager/latest/APIReference",
    "states": "https://docs.aws.amazon.com/step-functions/latest/apireference",
}
"""Base address of a service's API reference, by the service's name in IAM actions."""


class MissingTargetError(Exception):
    """moto no longer has the target of a patch, or already has an added one."""


@dataclass(frozen=True, order=True)
class Patch:
    target: str
    reason: str
    link: str


_applied: list[Patch] = []


def patch(
    owner: type | ModuleType,
    name: str,
    replacement: Any,
    *,
    reason: str,
    link: str | None = None,
    adds: bool = False,
) -> None:
    """Replaces `name` of a class or module of moto.

    A name like `table[key]` sets one entry of a dictionary. `adds` marks a name
    that moto lacks. `link` shows the behaviour; by default it is moto's source
    file. A function is also replaced in every module of moto that imports it.

    Raises `MissingTargetError` if moto does not have the target, or already has
    an added one.
    """
    attribute, _, key = name.partition("[")
    target = f"{_name(owner)}.{name}"
    holder, entry = owner, attribute
    if key:
        holder, entry = getattr(owner, attribute, None), key.removesuffix("]")
    present = entry in holder if isinstance(holder, dict) else hasattr(holder, entry)
    if holder is None or present == adds:
        raise MissingTargetError(
            f"patching {target}: moto {version('moto')} {'has' if adds else 'lacks'} it. "
            f"Adapt the patch ({reason})"
        )
    if isinstance(holder, dict):
        holder[entry] = replacement
    else:
        original = getattr(holder, entry, None)
        setattr(holder, entry, replacement)
        if isinstance(owner, ModuleType) and getattr(original, "__module__", "") == _name(owner):
            _replace_imports(entry, original, replacement)
    _applied.append(Patch(target, reason, link or _source(owner)))


def _replace_imports(name: str, original: Any, replacement: Any) -> None:
    for module_name, module in list(sys.modules.items()):
        if module_name.startswith("moto.") and getattr(module, name, None) is original:
            setattr(module, name, replacement)


def _name(owner: type | ModuleType) -> str:
    if isinstance(owner, ModuleType):
        return owner.__name__
    return f"{owner.__module__}.{owner.__qualname__}"


def _source(owner: type | ModuleType) -> str:
    """Returns the address of moto's source file at the installed version."""
    name = owner.__name__ if isinstance(owner, ModuleType) else owner.__module__
    path = Path(sys.modules[name].__file__ or "").as_posix()
    inside = path[path.rindex("/moto/") :]
    return f"https://github.com/getmoto/moto/blob/{version('moto')}{inside}"


def api(service: str, action: str) -> str:
    """Returns the address of an action's page in AWS's API reference."""
    return f"{_API_PAGES[service]}/API_{action}.html"


def applied() -> list[Patch]:
    return list(_applied)


def document(patches: Iterable[Patch]) -> str:
    """Returns the text of PATCHES.md."""
    rows = [f"| `{p.target}` | {p.reason} | <{p.link}> |" for p in sorted(patches)]
    return "\n".join(
        [
            "# Patches of moto",
            "",
            f"localcloud changes moto {version('moto')} in these places. "
            "`python -m localcloud patches` writes this file.",
            "",
            "| target | reason | link |",
            "| --- | --- | --- |",
            *rows,
            "",
        ]
    )
