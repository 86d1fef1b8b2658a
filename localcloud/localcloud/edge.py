"""The cloud's edge: request handling before and around moto.

- `/localcloud/...` is our control API.
- The log records service, action, resource and caller of every AWS call.
- A matching fault applies to the call.
- Requests and responses are checked against the service's model.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import parse_qsl

import flask
from moto.core.exceptions import ServiceException
from moto.core.responses import ActionResult, BaseResponse
from moto.moto_server.werkzeug_app import MotoRequestHandler

from .calls import Call, CallLog
from .cloud import Answer, Cloud
from .faults import KILL, LOSE_COMMAND, LOST_COMMANDS, REFUSE, TIME_OUT, Fault, Faults
from .iam import enforcement
from .models import Checks, refusal
from .patching import patch

log = logging.getLogger(__name__)

CONTROL_PREFIX = "/localcloud/"
_DROPPED = "localcloud.dropped"
"""Key in the environment of a request that gets no answer."""


class Injected(ServiceException):
    """An error from a fault, or for a call that moto lacks."""


def install(cloud: Cloud) -> None:
    faults, calls, checks = Faults(), CallLog(), Checks()
    cloud.violations = checks.violations
    _watch_calls(cloud, faults, calls, checks)

    def faults_route(method: str, rest: str, _query: Any, body: Any) -> Answer:
        if method == "POST":
            try:
                fault = Fault.parse(body)
            except ValueError as error:
                return 400, {"error": str(error)}
            faults.add(fault)
            return 200, fault.describe()
        found = faults.all(rest)
        if rest and not found:
            return 404, {"error": f"no fault {rest!r}"}
        if method == "DELETE":
            faults.remove(rest)
        return 200, found[0] if rest else found

    def settings_route(method: str, _rest: str, query: Mapping[str, str], body: Any) -> Answer:
        cache = query.get("cache")
        if method == "POST":
            try:
                cloud.settings.update(body, cache)
            except KeyError as error:
                unknown = "not settings of a cache" if cache else "unknown settings"
                return 400, {"error": f"{unknown}: {error.args[0]}"}
        elif method == "DELETE":
            if cache:
                cloud.settings.forget(cache)
            else:
                cloud.settings.reset()
        return 200, dict(cloud.settings.of(cache))

    def calls_route(method: str, _rest: str, query: Mapping[str, str], _body: Any) -> Answer:
        if method == "DELETE":
            calls.clear()
        return 200, calls.all(query.get("invocation", ""))

    def violations_route(method: str, _rest: str, _query: Any, _body: Any) -> Answer:
        found = checks.violations()
        if method == "DELETE":
            checks.forget()
        return 200, found

    def leftovers_route(_method: str, _rest: str, _query: Any, _body: Any) -> Answer:
        return 200, {name: list_() for name, list_ in cloud.leftover_callbacks.items()}

    def reset_route(method: str, _rest: str, _query: Any, _body: Any) -> Answer:
        if method == "POST":
            faults.remove("")
            calls.clear()
            cloud.settings.reset()
            for callback in cloud.reset_callbacks:
                callback()
        return 200, {}

    cloud.control("ready", lambda *_: (200, cloud.about))
    cloud.control("faults", faults_route)
    cloud.control("settings", settings_route)
    cloud.control("calls", calls_route)
    cloud.control("checks", lambda *_: (200, checks.describe()))
    cloud.control("violations", violations_route)
    cloud.control("leftovers", leftovers_route)
    cloud.control("reset", reset_route)


def _watch_calls(cloud: Cloud, faults: Faults, calls: CallLog, checks: Checks) -> None:
    """Replaces `call_action`, the only path of AWS calls."""
    carry_out, serialize = BaseResponse.call_action, BaseResponse.serialized

    def call_action(self: BaseResponse) -> Any:
        call = Call.of(self, cloud)
        fault = faults.take(call)
        try:
            answer = _answer(self, call, fault, checks, carry_out)
            call.status = int(answer[0])
        except Exception:
            call.status = 500
            raise
        finally:
            calls.add(call)
        if fault is not None and fault.effect not in (REFUSE, LOSE_COMMAND):
            _lose_answer(call, fault)
        return answer

    def serialized(self: BaseResponse, action_result: ActionResult) -> Any:
        checks.result(self, action_result.result)
        return serialize(self, action_result)

    patch(
        BaseResponse,
        "call_action",
        call_action,
        reason="Records every call, applies faults, checks models and enforces IAM.",
    )
    patch(
        BaseResponse,
        "serialized",
        serialized,
        reason="Finds members that moto leaves out of an answer, because the model lacks them.",
    )


def _answer(
    response: BaseResponse,
    call: Call,
    fault: Fault | None,
    checks: Checks,
    carry_out: Callable[[BaseResponse], Any],
) -> Any:
    if fault is not None and fault.effect == REFUSE:
        code = fault.code or ""
        return _refuse(response, code, fault.message or code, fault.status)
    if invalid := refusal(response, checks.request(response, call.caller)):
        return _refuse(response, *invalid, 400)
    if denied := enforcement.refusal(call.service, call.action, response):
        return _refuse(response, denied.code, denied.message, denied.status)
    if fault is not None and fault.effect == LOSE_COMMAND:
        response.localcloud_lost = LOST_COMMANDS[fault.status_name or ""]  # type: ignore[attr-defined]
    try:
        answer = carry_out(response)
    except NotImplementedError as missing:
        log.warning("%s:%s by %s: %s", call.service, call.action, call.caller, missing)
        # SDKs retry 500 but not 501, and here a retry cannot help.
        return _refuse(response, "NotImplemented", str(missing), 501)
    checks.response(response, answer)
    return answer


def _lose_answer(call: Call, fault: Fault) -> None:
    # End the process first: it must not notice the lost connection.
    if call.invocation is not None and fault.effect == KILL:
        call.invocation.kill()
    if call.invocation is not None and fault.effect == TIME_OUT:
        call.invocation.time_out()
    flask.request.environ[_DROPPED] = True


def _refuse(
    response: BaseResponse, code: str, message: str, wanted_status: int | None
) -> tuple[int, dict[str, str], Any]:
    error = ActionResult(Injected(code, message))
    status, headers, body = response.serialized(error)
    status = wanted_status or status
    headers["status"] = str(status)
    return status, headers, body


class RequestHandler(MotoRequestHandler):
    """Closes a connection that we dropped like one that the client dropped."""

    def connection_dropped(self, error: BaseException, environ: Any = None) -> None:
        super().connection_dropped(error, environ)
        self.close_connection = True


class ControlledApplication:
    """Answers the control API and passes other requests to moto."""

    def __init__(self, cloud: Cloud, aws: Callable[..., Iterable[bytes]]) -> None:
        self._cloud = cloud
        self._aws = aws

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if not path.startswith(CONTROL_PREFIX):
            answer = self._aws(environ, start_response)
            if environ.get(_DROPPED):
                raise ConnectionAbortedError  # `RequestHandler` closes the connection.
            return answer
        try:
            status, value = self._control(path.removeprefix(CONTROL_PREFIX), environ)
        except Exception as error:
            log.exception("control route %s", path)
            status, value = 500, {"error": f"{type(error).__name__}: {error}"}
        body = json.dumps(value, default=str).encode()
        start_response(
            f"{status} {'OK' if status < 400 else 'Error'}",
            [
                ("Content-Type", "application/json"),
                ("Content-Length", str(len(body))),
            ],
        )
        return [body]

    def _control(self, path: str, environ: dict[str, Any]) -> Answer:
        route, rest = self._match(path)
        if route is None:
            return 404, {"error": f"no such route; there are {sorted(self._cloud.routes)}"}
        raw = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        try:
            body = json.loads(raw) if raw else None
        except ValueError as error:
            return 400, {"error": f"the body is not JSON: {error}"}
        query = dict(parse_qsl(environ.get("QUERY_STRING", "")))
        return self._cloud.routes[route](environ["REQUEST_METHOD"], rest, query, body)

    def _match(self, path: str) -> tuple[str | None, str]:
        """Returns the longest registered route that equals or contains the path."""
        for route in sorted(self._cloud.routes, key=len, reverse=True):
            if path == route or path.startswith(f"{route}/"):
                return route, path[len(route) + 1 :]
        return None, ""
