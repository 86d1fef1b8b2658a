"""The local cloud's end of one running node."""

from __future__ import annotations

import json
import platform
import socket
import subprocess
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .kind import Kind

MACHINE = {"x86_64": "x86_64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
OFF_SECONDS = 60.0
"""Time limit for an orderly stop, in seconds. After it the node loses power, as EC2 does too."""
START_SECONDS = 60.0
"""Time limit for a command to wait until the process of its node has started, in seconds."""


class NotStartedError(Exception):
    """The process of a node did not start in time."""


class PodError(Exception):
    """A pod did not start; the message contains the failed step."""


@dataclass(frozen=True)
class Result:
    """Result of a command on a node."""

    code: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Launch:
    """Properties of an instance that its node needs."""

    instance_id: str
    architecture: str
    """`x86_64` or `arm64`, independent of the machine."""
    hostname: str
    user_data: str
    volume: Path
    os: dict[str, str]
    credentials: dict[str, str]
    """Credentials of the instance's role; empty without an instance profile."""
    endpoint: str
    region: str
    registries: dict[str, str]
    """Addresses of the local registries, by host in references."""
    ca: Path
    """The authority that signed their certificate."""
    timings: dict[str, float]
    stuck_mount: bool = False
    """Whether a file system is mounted below /var/lib/kubelet, so that its deletion fails."""
    containerd: str | None = None
    """Minor version of containerd; `None` for the newest. A simulated node has none."""
    disk_full_after_bytes: int | None = None
    """Free bytes on a simulated node's volume; `None` for its full size."""


@dataclass
class Node:
    kind: Kind
    launch: Launch
    directory: Path
    on_end: Callable[[Node], None]
    """Called once, after the node has ended and its volume is released."""
    ready: threading.Event = field(default_factory=threading.Event)
    """Set when containerd answers."""
    ended: threading.Event = field(default_factory=threading.Event)
    agent_online: bool = False
    failure: str | None = None
    process: subprocess.Popen[bytes] | None = None
    """`None` until the node has started, and if it failed to start."""
    _channel: socket.socket | None = None
    """Set before `_started`; stays `None` if the node failed to start."""
    _started: threading.Event = field(default_factory=threading.Event)
    """Set when the node accepts commands, and when it failed to start."""
    _waiting: dict[str, Callable[[Result], None]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def name(self) -> str:
        return f"localcloud-{self.launch.instance_id}"

    @property
    def root(self) -> Path:
        """The root directory of a real node, as this process reaches it.

        Waits until containerd answers. Raises PodError if it does not in time.
        """
        if not self.ready.wait(START_SECONDS) or self.process is None:
            raise PodError(f"{self.name} is not ready after {START_SECONDS:g} s")
        # `unshare` has the same root as the node's first process, its child.
        return Path(f"/proc/{self.process.pid}/root")

    @property
    def runs_containers(self) -> bool:
        return self.kind.name == "real" and self.launch.architecture == MACHINE

    def start(self) -> None:
        """Starts the process.

        If that fails, the node ends and `on_end` is called before this returns.
        """
        try:
            self._spawn()
        except Exception as error:
            self.failure = f"the process did not start: {error}"
            self._started.set()
            self._end()
            return
        self._started.set()
        threading.Thread(target=self._listen, daemon=True).start()

    def _spawn(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        configuration = self.directory / "config.json"
        # It contains the user data, which can contain passwords.
        configuration.touch(mode=0o600)
        configuration.write_text(json.dumps(self._configuration()))
        ours, theirs = socket.socketpair()
        with (
            ExitStack() as on_failure,
            theirs,
            open(self.directory / "console.log", "ab") as console,
        ):
            on_failure.enter_context(ours)
            self.process = subprocess.Popen(
                self.kind.command(self.name, theirs.fileno(), configuration),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                pass_fds=[theirs.fileno()],
                # An interrupt from the terminal goes to the local cloud, which
                # stops its nodes in order.
                start_new_session=True,
            )
            on_failure.pop_all()
        self._channel = ours

    def _configuration(self) -> dict[str, Any]:
        launch = self.launch
        return {
            "kind": self.kind.name,
            "instance_id": launch.instance_id,
            "architecture": launch.architecture,
            "machine_architecture": MACHINE,
            "hostname": launch.hostname,
            "user_data": launch.user_data,
            "volume": str(launch.volume.resolve()),
            "directory": str(self.directory.resolve()),
            "root": str((self.directory / "root").resolve()),
            "os": launch.os,
            "credentials": launch.credentials,
            "endpoint": launch.endpoint,
            "region": launch.region,
            "registries": launch.registries,
            "ca": str(launch.ca.resolve()),
            "timings": launch.timings,
            "stuck_mount": launch.stuck_mount,
            "disk_full_after_bytes": launch.disk_full_after_bytes,
            **self.kind.configuration(self.name, launch.containerd),
        }

    def console(self) -> str:
        """Returns the last 64 KB of the console, as EC2 does."""
        try:
            return (self.directory / "console.log").read_bytes()[-65536:].decode(errors="replace")
        except FileNotFoundError:
            return ""

    # Commands

    def run(self, identity: str, script: str, ended: Callable[[Result], None]) -> None:
        """Runs a script in the control container, as the SSM agent does.

        `ended` is not called if the node ends before the script.
        """
        self._waiting[identity] = ended
        self._send({"order": "run", "id": identity, "script": script})

    def ensure_image(self, identity: str, reference: str, ended: Callable[[Result], None]) -> None:
        """Pulls an image if the node lacks it."""
        self._waiting[identity] = ended
        self._send({"order": "ensure_image", "id": identity, "reference": reference})

    def cancel(self, identity: str) -> None:
        self._send({"order": "cancel", "id": identity})

    def power_off(self) -> None:
        self._send({"order": "power_off"})
        timer = threading.Timer(OFF_SECONDS, self.cut_power)
        timer.daemon = True
        timer.start()

    def cut_power(self) -> None:
        self._send({"order": "cut_power"})

    def stop_and_wait(self, seconds: float = 20.0) -> None:
        """Ends the node in order, or by force if that takes too long."""
        self.power_off()
        if not self.ended.wait(seconds):
            self.cut_power()
            if not self.ended.wait(5):
                if self.process is not None:
                    self.process.kill()
                self.ended.wait(5)

    def _send(self, order: dict[str, Any]) -> None:
        """Sends a command to the node. Raises `NotStartedError` if the node does not start in time.

        A node that has ended, or failed to start, ignores commands: `on_end` reports its end.
        """
        if not self._started.wait(START_SECONDS):
            raise NotStartedError(
                f"sending {order['order']} to {self.name}: its process did not start "
                f"within {START_SECONDS:g} s. Try again when the machine is less busy"
            )
        if self._channel is None:
            return
        try:
            with self._lock:
                self._channel.sendall(json.dumps(order).encode() + b"\n")
        except OSError:
            pass  # The node has just ended, which is reported by `on_end`.

    # Events

    def _listen(self) -> None:
        assert self._channel is not None and self.process is not None
        with self._channel, self._channel.makefile("rb") as lines:
            try:
                for line in lines:
                    self._handle(json.loads(line))
            except OSError:
                pass  # Reset by a node that was killed.
        self.process.wait()
        self._end()

    def _end(self) -> None:
        self.agent_online = False
        try:
            self.kind.release(self.name, self.launch.volume)
        finally:
            self.ended.set()
            self.on_end(self)

    def _handle(self, event: dict[str, Any]) -> None:
        match event["event"]:
            case "ready":
                self.ready.set()
            case "agent":
                self.agent_online = event["online"]
            case "failed":
                self.failure = event["message"]
            case "exited":
                ended = self._waiting.pop(event["id"], None)
                if ended is not None:
                    ended(Result(event["code"], event["stdout"], event["stderr"]))
