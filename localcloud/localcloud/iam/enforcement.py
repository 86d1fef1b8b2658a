"""Enforcement, for the edge and for services that act with a role."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from moto.core.responses import BaseResponse

from ..calls import scope_of
from ..cloud import Answer, Cloud, caller_of, credentials, session_of
from .authority import Authority, Denied
from .policy import Ask
from .requests import asks

HANDED_OUT = "handed-out"
"""Session of credentials from the control route, as opposed to a function's or a service's."""

# Error code and status of a denial, by service.
_REFUSALS = {"ec2": ("UnauthorizedOperation", 403), "lambda": ("AccessDeniedException", 403)}
_REFUSAL = ("AccessDeniedException", 400)

authority = Authority()
_settings: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Refusal:
    """An error answer to a call that is not carried out."""

    code: str
    message: str
    status: int


def install(cloud: Cloud) -> None:
    global _settings
    cloud.settings.register(enforce_iam=True)
    _settings = cloud.settings

    def grants_route(method: str, _rest: str, _query: Any, _body: Any) -> Answer:
        if method == "DELETE":
            authority.forget_uses()
        return 200, authority.grants()

    def denials_route(method: str, _rest: str, _query: Any, _body: Any) -> Answer:
        if method == "DELETE":
            authority.forget_denials()
        return 200, authority.denials()

    def credentials_route(_method: str, role: str, _query: Any, _body: Any) -> Answer:
        if role not in authority.roles():
            return 404, {"error": f"no role {role}; there are {sorted(authority.roles())}"}
        return 200, credentials(role, HANDED_OUT)

    cloud.control("decisions", lambda *_: (200, authority.decisions()))
    cloud.control("reference", lambda *_: (200, authority.reference_problems()))
    cloud.control("grants", grants_route)
    cloud.control("denials", denials_route)
    cloud.control("credentials", credentials_route)


def refusal(service: str, action: str, response: BaseResponse) -> Refusal | None:
    """Returns the error for a call if its caller is a role without the permission."""
    scope = scope_of(response.headers)
    key = scope[1] if scope else ""
    role = caller_of(key)
    if role == key or not _settings["enforce_iam"]:
        return None
    try:
        authority.check(
            role, f"{service}:{action}", lambda: asks(service, action, response), session_of(key)
        )
    except Denied as denied:
        code, status = _REFUSALS.get(service, _REFUSAL)
        return Refusal(code, str(denied), status)
    return None


def check(role_arn: str, ask: Ask) -> None:
    """Raises Denied if a role lacks a permission that a service uses on its behalf."""
    if _settings["enforce_iam"]:
        authority.check(role_arn.rpartition("/")[2], ask.action, lambda: [ask])


def check_permission(
    statements: Iterable[Mapping[str, Any]], service: str, function_arn: str, source_arn: str
) -> None:
    """Raises Denied if a function's policy does not let a service call it for a source."""
    if _settings["enforce_iam"]:
        authority.check_permission(statements, service, function_arn, source_arn)
