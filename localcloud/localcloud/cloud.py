"""The running local cloud: state and hooks that its modules share.

Every module offers `install(cloud)`, called once before the first request is
served. A module registers its settings, control routes, stop callbacks and
leftovers there, and patches the part of moto it replaces.
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

Answer = tuple[int, Any]
"""The HTTP status and the value that becomes the JSON body."""

ControlHandler = Callable[[str, str, Mapping[str, str], Any], Answer]
"""`handler(method, rest_of_path, query, json_body)` of a control route."""

CACHE_TAG = "prepull:cache"
"""The tag that names the cache for which a resource exists."""

STATES_SESSION = "states"
"""The session in the credentials under which the state machines' interpreter calls."""

_ROLE_KEY = "ROLE"


class Unusable(Exception):
    """This machine lacks what the cloud needs; the message says what to do about it."""


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
        """As `register`, for settings of which a cache may have a value of its own."""
        self.register(**defaults)
        self._scopable.update(defaults)

    def update(self, changes: Mapping[str, Any], cache: str | None = None) -> None:
        """Raises KeyError with the names that are unknown; then nothing is changed."""
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
        """The cache with settings of its own that a JSON text names."""
        return next((name for name in list(self._scopes) if json.dumps(name) in payload), None)

    def use_up(self, name: str, cache: str | None) -> bool:
        """Takes one from a setting that is a number of times; False when it is 0."""
        with self._lock:
            scope = self._scopes.get(cache or "", {})
            values = scope if name in scope else self._values
            left = values.get(name, self._defaults[name])
            if left > 0:
                values[name] = left - 1
            return left > 0

    def forget(self, cache: str) -> None:
        """Drops the values that a cache has of its own."""
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
    """A Lambda invocation that runs now."""

    id: str
    payload: str
    """As `payload_text` has it."""
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
    """One real container registry, speaking TLS and asking for a password."""

    host: str
    """As image references name it."""
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
    """The total since the start, of both; subtract two answers for a period."""


@dataclass
class Cloud:
    port: int
    state: Path
    """A directory of our own; everything the cloud writes lies below it."""
    settings: Settings = field(default_factory=Settings)
    registries: Registries = field(init=False)
    """Set by `registries`, before anything that uses them is installed."""
    about: dict[str, Any] = field(default_factory=dict)
    """Answer of `GET ready`; modules add to it."""
    stopping: threading.Event = field(default_factory=threading.Event)
    routes: dict[str, ControlHandler] = field(default_factory=dict)
    stop_callbacks: list[Callable[[], None]] = field(default_factory=list)
    reset_callbacks: list[Callable[[], None]] = field(default_factory=list)
    leftover_callbacks: dict[str, Callable[[], list[Any]]] = field(default_factory=dict)
    machines: Any = None
    """The instances, an `ec2.Machines`; set by `ec2` for `ssm`."""
    invocations: dict[str, Invocation] = field(default_factory=dict)
    """Those that run, by the session in their process's credentials; kept by `lambdas`."""
    event_sink: Callable[[dict[str, Any]], None] | None = None
    """Target of `put_event`; set by `events`."""

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def control(self, route: str, handler: ControlHandler) -> None:
        """Answers `/localcloud/<route>` and everything below it."""
        self.routes[route.strip("/")] = handler

    def on_stop(self, callback: Callable[[], None]) -> None:
        """Called once when the cloud ends, the last registered first."""
        self.stop_callbacks.append(callback)

    def on_reset(self, callback: Callable[[], None]) -> None:
        """Called at every `POST reset`."""
        self.reset_callbacks.append(callback)

    def later(self, seconds: float, step: Callable[..., Any], *arguments: Any) -> None:
        """Takes a step after some time; the end of the cloud does not wait for it."""
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
    """Environment variables under which a process calls as `role`.

    The access key carries the names of the role and of the session, so that
    the edge knows who calls without a session table.
    """
    # No role's name contains a slash.
    encoded = base64.b32encode(f"{role}/{session}".encode()).decode().rstrip("=")
    return {
        "AWS_ACCESS_KEY_ID": f"{_ROLE_KEY}{encoded}",
        "AWS_SECRET_ACCESS_KEY": "not-a-secret",
        "AWS_SESSION_TOKEN": "not-a-token",
    }


def caller_of(access_key: str) -> str:
    """The role behind an access key of `credentials`, or the key itself."""
    return _decode(access_key)[0]


def session_of(access_key: str) -> str:
    """The session behind an access key of `credentials`; empty for any other."""
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
