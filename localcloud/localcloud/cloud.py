"""The running local cloud: what its modules share.

Every module offers `install(cloud)`, called once before the first request is
served. A module registers its settings, control routes, stop callbacks and
leftovers there, and patches the part of moto it replaces.
"""

from __future__ import annotations

import base64
import threading
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

_ROLE_KEY = "ROLE"


class Unusable(Exception):
    """This machine lacks what the cloud needs; the message says what to do about it."""


class Settings(Mapping[str, Any]):
    """Knobs that tests turn while the cloud runs.

    Only registered names exist, so that a misspelt knob is an error and not a
    test that silently proves nothing.
    """

    def __init__(self) -> None:
        self._defaults: dict[str, Any] = {}
        self._values: dict[str, Any] = {}

    def register(self, **defaults: Any) -> None:
        self._defaults.update(defaults)

    def update(self, changes: Mapping[str, Any]) -> None:
        """Raises KeyError with the unknown names; then nothing is changed."""
        unknown = sorted(set(changes) - set(self._defaults))
        if unknown:
            raise KeyError(", ".join(unknown))
        self._values.update(changes)

    def reset(self) -> None:
        self._values.clear()

    def __getitem__(self, name: str) -> Any:
        return self._values.get(name, self._defaults[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._defaults)

    def __len__(self) -> int:
        return len(self._defaults)


@dataclass(frozen=True)
class Traffic:
    """What the registries have answered: requests, and bytes of bodies."""

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
    """Where it listens, `localhost:PORT`."""
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
    """What `GET ready` answers; modules add to it."""
    stopping: threading.Event = field(default_factory=threading.Event)
    routes: dict[str, ControlHandler] = field(default_factory=dict)
    stop_callbacks: list[Callable[[], None]] = field(default_factory=list)
    leftover_callbacks: dict[str, Callable[[], list[Any]]] = field(default_factory=dict)
    machines: Any = None
    """The instances, an `ec2.Machines`; set by `ec2` for `ssm`."""
    event_sink: Callable[[dict[str, Any]], None] | None = None
    """Where `put_event` delivers; set by `events`."""

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def control(self, route: str, handler: ControlHandler) -> None:
        """Answers `/localcloud/<route>` and everything below it."""
        self.routes[route.strip("/")] = handler

    def on_stop(self, callback: Callable[[], None]) -> None:
        """Called once when the cloud ends, the last registered first."""
        self.stop_callbacks.append(callback)

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


def credentials(role: str) -> dict[str, str]:
    """Environment variables under which a process calls as `role`.

    The access key carries the role's name, so that the call log can name the
    caller without a session table.
    """
    encoded = base64.b32encode(role.encode()).decode().rstrip("=")
    return {
        "AWS_ACCESS_KEY_ID": f"{_ROLE_KEY}{encoded}",
        "AWS_SECRET_ACCESS_KEY": "not-a-secret",
        "AWS_SESSION_TOKEN": "not-a-token",
    }


def caller_of(access_key: str) -> str:
    """The role behind an access key of `credentials`, or the key itself."""
    encoded = access_key.removeprefix(_ROLE_KEY)
    if encoded == access_key:
        return access_key
    try:
        return base64.b32decode(encoded + "=" * (-len(encoded) % 8)).decode()
    except ValueError:
        return access_key
