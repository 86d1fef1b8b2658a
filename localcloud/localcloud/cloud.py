"""The running local cloud: state and hooks that its modules share.

Every module offers `install(cloud)`, which runs once before the first request.
It registers settings, control routes, stop callbacks and leftovers, and patches
a part of moto.
"""

from __future__ import annotations

import base64
import json
import threading
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ACCOUNT = "123456789012"
REGION = "eu-west-1"
ECR_HOST = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com"
DUAL_STACK_ECR_HOST = f"{ACCOUNT}.dkr-ecr.{REGION}.on.aws"

Answer = tuple[int, Any]
"""The HTTP status and the value that becomes the JSON body."""

ControlHandler = Callable[[str, str, Mapping[str, str], Any], Answer]
"""`handler(method, rest_of_path, query, json_body)` of a control route."""

CACHE_TAG = "prepull:cache"
"""Tag with the name of a resource's cache."""

STATES_SESSION = "states"
"""Session of the credentials of the state machines' interpreter."""

_ROLE_KEY = "ROLE"


class Unusable(Exception):
    """The machine lacks a requirement of the cloud; the message contains the fix."""


class Settings(Mapping[str, Any]):
    """Settings that tests change while the cloud runs.

    Only registered names exist: a misspelt setting must be an error, not a test
    that silently proves nothing. Some settings can have a different value for
    each cache, so that builds of many caches run side by side.
    """

    def __init__(self) -> None:
        self._defaults: dict[str, Any] = {}
        self._values: dict[str, Any] = {}
        self._scopable: set[str] = set()
        self._scopes: dict[str, dict[str, Any]] = {}
        self._lock = threading.Lock()

    def register(self, **defaults: Any) -> None:
        self._defaults.update(defaults)

    def register_scopable(self, **defaults: Any) -> None:
        """Registers settings that a cache can override."""
        self.register(**defaults)
        self._scopable.update(defaults)

    def update(self, changes: Mapping[str, Any], cache: str | None = None) -> None:
        """Changes settings. Raises KeyError with the unknown names and then changes nothing."""
        known = set(self._defaults) if cache is None else self._scopable
        unknown = sorted(set(changes) - known)
        if unknown:
            raise KeyError(", ".join(unknown))
        with self._lock:
            values = self._values if cache is None else self._scopes.setdefault(cache, {})
            values.update(changes)

    def of(self, cache: str | None) -> Mapping[str, Any]:
        """Returns the settings of a cache, or the common settings for `None`."""
        return ChainMap(self._scopes.get(cache or "", {}), self)  # type: ignore[arg-type]

    def cache_named_in(self, payload: str) -> str | None:
        """Returns the cache with overrides whose name is in a JSON text."""
        return next((name for name in list(self._scopes) if json.dumps(name) in payload), None)

    def use_up(self, name: str, cache: str | None) -> bool:
        """Decrements a counter setting; returns False if it is 0."""
        with self._lock:
            scope = self._scopes.get(cache or "", {})
            values = scope if name in scope else self._values
            left = values.get(name, self._defaults[name])
            if left > 0:
                values[name] = left - 1
            return left > 0

    def forget(self, cache: str) -> None:
        """Removes the overrides of a cache."""
        with self._lock:
            self._scopes.pop(cache, None)

    def reset(self) -> None:
        with self._lock:
            self._values.clear()
            self._scopes.clear()

    def __getitem__(self, name: str) -> Any:
        return self._values.get(name, self._defaults[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._defaults)

    def __len__(self) -> int:
        return len(self._defaults)


@dataclass(frozen=True)
class Invocation:
    """A running Lambda invocation."""

    id: str
    payload: str
    """Result of `payload_text`."""
    kill: Callable[[], None]
    """Ends its process at once, as a crash does."""
    time_out: Callable[[], None]
    """Ends it as Lambda does at the time limit, without waiting for that."""


def payload_text(payload: bytes | str | None) -> str:
    """Returns a payload as text, with the quotes of nested JSON unescaped.

    So a search for a quoted cache name also matches an execution's input inside an event.
    """
    text = payload.decode(errors="replace") if isinstance(payload, bytes) else payload or ""
    return text.replace('\\"', '"')


@dataclass(frozen=True)
class Traffic:
    """Answers of the registries: number of requests, and bytes of bodies."""

    requests: int = 0
    bytes: int = 0

    def __sub__(self, earlier: Traffic) -> Traffic:
        return Traffic(self.requests - earlier.requests, self.bytes - earlier.bytes)


@dataclass(frozen=True)
class Registry:
    """One real container registry with TLS and a password."""

    host: str
    """Host in image references."""
    address: str
    """Listening address, `localhost:PORT`."""
    username: str
    password: str


@dataclass
class Registries:
    ca_certificate: Path
    """The authority that signed the registries' certificate, as PEM."""
    ca_bundle: Path
    """The system's authorities and ours, for clients that take one file."""
    ecr: Registry
    private: Registry
    traffic: Callable[[], Traffic]
    """Returns the total of both since the start; subtract two answers for a period."""


@dataclass
class Cloud:
    port: int
    state: Path
    """Directory for all files of the cloud."""
    settings: Settings = field(default_factory=Settings)
    registries: Registries = field(init=False)
    """Set by `registries`, before anything that uses them is installed."""
    about: dict[str, Any] = field(default_factory=dict)
    """Answer of `GET ready`; modules add to it."""
    stopping: threading.Event = field(default_factory=threading.Event)
    routes: dict[str, ControlHandler] = field(default_factory=dict)
    stop_callbacks: list[Callable[[], None]] = field(default_factory=list)
    reset_callbacks: list[Callable[[], None]] = field(default_factory=list)
    violations: Callable[[], list[Any]] = list
    """Returns the requests and responses that violate their model; set by `edge`."""
    leftover_callbacks: dict[str, Callable[[], list[Any]]] = field(default_factory=dict)
    machines: Any = None
    """The instances, an `ec2.Machines`; set by `ec2` for `ssm`."""
    invocations: dict[str, Invocation] = field(default_factory=dict)
    """Running ones, by the session in their process's credentials; set by `lambdas`."""
    event_sink: Callable[[dict[str, Any]], None] | None = None
    """Target of `put_event`; set by `events`."""

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def control(self, route: str, handler: ControlHandler) -> None:
        """Answers `/localcloud/<route>` and everything below it."""
        self.routes[route.strip("/")] = handler

    def on_stop(self, callback: Callable[[], None]) -> None:
        """Registers a callback for the stop; the last registered runs first."""
        self.stop_callbacks.append(callback)

    def on_reset(self, callback: Callable[[], None]) -> None:
        """Registers a callback for every `POST reset`."""
        self.reset_callbacks.append(callback)

    def later(self, seconds: float, step: Callable[..., Any], *arguments: Any) -> None:
        """Runs a step after a delay, in seconds; the stop does not wait for it."""
        timer = threading.Timer(seconds, step, arguments)
        timer.daemon = True
        timer.start()

    def leftovers(self, name: str, callback: Callable[[], list[Any]]) -> None:
        """Adds a list to `GET leftovers`."""
        self.leftover_callbacks[name] = callback

    def put_event(
        self,
        source: str,
        detail_type: str,
        detail: Mapping[str, Any],
        resources: list[str] | None = None,
    ) -> None:
        """Puts an event on the default bus, as an AWS service does."""
        if self.event_sink is not None:
            self.event_sink(
                {
                    "source": source,
                    "detail-type": detail_type,
                    "detail": dict(detail),
                    "resources": list(resources or []),
                }
            )


def credentials(role: str, session: str = "") -> dict[str, str]:
    """Returns environment variables with which a process calls as `role`.

    The access key contains the names of the role and of the session, so that
    the edge can identify the caller without a session table.
    """
    # Role names contain no slash.
    encoded = base64.b32encode(f"{role}/{session}".encode()).decode().rstrip("=")
    return {
        "AWS_ACCESS_KEY_ID": f"{_ROLE_KEY}{encoded}",
        "AWS_SECRET_ACCESS_KEY": "not-a-secret",
        "AWS_SESSION_TOKEN": "not-a-token",
    }


def caller_of(access_key: str) -> str:
    """Returns the role of an access key of `credentials`, or the key itself."""
    return _decode(access_key)[0]


def session_of(access_key: str) -> str:
    """Returns the session of an access key of `credentials`; empty for other keys."""
    return _decode(access_key)[1]


def _decode(access_key: str) -> tuple[str, str]:
    encoded = access_key.removeprefix(_ROLE_KEY)
    if encoded == access_key:
        return access_key, ""
    try:
        role, _, session = (
            base64.b32decode(encoded + "=" * (-len(encoded) % 8)).decode().partition("/")
        )
    except ValueError:
        return access_key, ""
    return role, session
