"""The cloud's edge: what happens to a request before and around moto.

- `/localcloud/...` is our control API.
- Every AWS call is logged with the service, the action and who called.
- A fault, when one is set, is answered instead of the call being carried out.
"""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qsl

from moto.core.exceptions import ServiceException
from moto.core.responses import ActionResult, BaseResponse

from .cloud import Answer, Cloud, caller_of

log = logging.getLogger(__name__)

CONTROL_PREFIX = "/localcloud/"
_SCOPE = re.compile(r"Credential=([^/]+)/\d{8}/[^/]*/([^/]+)/aws4_request")
_OPTIONAL_FAULT_FIELDS = {"message": None, "status": None, "times": 1}


class Injected(ServiceException):
    """An error that a test asked for, or one for a call that moto lacks."""


class Faults:
    """Errors to answer, each for a number of calls."""

    def __init__(self) -> None:
        self._faults: list[dict[str, Any]] = []
        self._lock = threading.Lock()

    def add(self, fault: dict[str, Any]) -> None:
        required = {"service", "action", "code"}
        missing = required - fault.keys()
        unknown = fault.keys() - required - _OPTIONAL_FAULT_FIELDS.keys()
        if missing or unknown:
            raise ValueError(f"missing: {sorted(missing)}, unknown: {sorted(unknown)}")
        with self._lock:
            self._faults.append({**_OPTIONAL_FAULT_FIELDS, **fault})

    def take(self, service: str, action: str) -> dict[str, Any] | None:
        """The fault for this call, if any; counts it as used."""
        with self._lock:
            for fault in self._faults:
                if (fault["service"], fault["action"]) == (service, action):
                    fault["times"] -= 1
                    if fault["times"] <= 0:
                        self._faults.remove(fault)
                    return fault
        return None

    def clear(self) -> None:
        with self._lock:
            self._faults.clear()

    def pending(self) -> list[dict[str, Any]]:
        with self._lock:
            return [dict(fault) for fault in self._faults]


class CallLog:
    def __init__(self) -> None:
        self._calls: list[dict[str, Any]] = []
        self._lock = threading.Lock()

    def add(self, began: float, service: str, action: str, caller: str, status: int) -> None:
        with self._lock:
            self._calls.append(
                {
                    "time": began,
                    "service": service,
                    "action": action,
                    "caller": caller,
                    "status": status,
                }
            )

    def clear(self) -> None:
        with self._lock:
            self._calls.clear()

    def all(self) -> list[dict[str, Any]]:
        with self._lock:
            return list(self._calls)


def install(cloud: Cloud) -> None:
    faults, calls = Faults(), CallLog()
    _watch_calls(faults, calls)

    def faults_route(method: str, _rest: str, _query: Any, body: Any) -> Answer:
        if method == "POST":
            try:
                faults.add(body)
            except (ValueError, AttributeError) as error:
                return 400, {"error": str(error)}
        elif method == "DELETE":
            faults.clear()
        return 200, faults.pending()

    def settings_route(method: str, _rest: str, _query: Any, body: Any) -> Answer:
        if method == "POST":
            try:
                cloud.settings.update(body)
            except KeyError as error:
                return 400, {"error": f"unknown settings: {error.args[0]}"}
        return 200, dict(cloud.settings)

    def calls_route(method: str, _rest: str, _query: Any, _body: Any) -> Answer:
        if method == "DELETE":
            calls.clear()
        return 200, calls.all()

    def leftovers_route(_method: str, _rest: str, _query: Any, _body: Any) -> Answer:
        return 200, {name: list_() for name, list_ in cloud.leftover_callbacks.items()}

    def reset_route(method: str, _rest: str, _query: Any, _body: Any) -> Answer:
        if method == "POST":
            faults.clear()
            calls.clear()
            cloud.settings.reset()
        return 200, {}

    cloud.control("ready", lambda *_: (200, cloud.about))
    cloud.control("faults", faults_route)
    cloud.control("settings", settings_route)
    cloud.control("calls", calls_route)
    cloud.control("leftovers", leftovers_route)
    cloud.control("reset", reset_route)


def _watch_calls(faults: Faults, calls: CallLog) -> None:
    carry_out = BaseResponse.call_action

    def call_action(self: BaseResponse) -> Any:
        began = time.time()
        action = self._get_action() or ""
        scope = _SCOPE.search(self.headers.get("Authorization", ""))
        service = scope[2] if scope else (self.service_name or "")
        caller = caller_of(scope[1]) if scope else "anonymous"
        fault = faults.take(service, action)
        if fault:
            answer = _refuse(
                self, fault["code"], fault["message"] or fault["code"], fault["status"]
            )
        else:
            try:
                answer = carry_out(self)
            except NotImplementedError as missing:
                log.warning("%s:%s by %s: %s", service, action, caller, missing)
                # SDKs retry 500 but not 501, and here a retry cannot help.
                answer = _refuse(self, "NotImplemented", str(missing), 501)
            except Exception:
                calls.add(began, service, action, caller, 500)
                raise
        calls.add(began, service, action, caller, int(answer[0]))
        return answer

    BaseResponse.call_action = call_action  # type: ignore[method-assign]


def _refuse(
    response: BaseResponse, code: str, message: str, wanted_status: int | None
) -> tuple[int, dict[str, str], Any]:
    error = ActionResult(Injected(code, message))
    status, headers, body = response.serialized(error)
    status = wanted_status or status
    headers["status"] = str(status)
    return status, headers, body


class ControlledApplication:
    """Answers the control API and hands everything else to moto."""

    def __init__(self, cloud: Cloud, aws: Callable[..., Iterable[bytes]]) -> None:
        self._cloud = cloud
        self._aws = aws

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if not path.startswith(CONTROL_PREFIX):
            return self._aws(environ, start_response)
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
        """The longest registered route that is the path or a parent of it."""
        for route in sorted(self._cloud.routes, key=len, reverse=True):
            if path == route or path.startswith(f"{route}/"):
                return route, path[len(route) + 1 :]
        return None, ""
