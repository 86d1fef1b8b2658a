"""Commands to a node whose process has not started yet, or never starts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from localcloud import ec2
from localcloud.cloud import Cloud
from localcloud.nodes import Launch, Node, Nodes, node
from localcloud.nodes.simulated import SimulatedNodes


class Kind(SimulatedNodes):
    """Simulated nodes whose start runs `before` first."""

    def __init__(self, before: Callable[[], object]) -> None:
        super().__init__()
        self.before = before

    def configuration(self, name: str, containerd: str | None) -> dict[str, Any]:
        self.before()
        return super().configuration(name, containerd)

    def command(self, name: str, channel: int, configuration: Path) -> list[str]:  # noqa: ARG002
        return ["sh", "-c", f"read -r command <&{channel}"]


def fail() -> None:
    raise OSError("no memory")


def launch_of(directory: Path) -> Launch:
    return Launch(
        instance_id="i-1",
        architecture="x86_64",
        hostname="node",
        user_data="",
        volume=directory,
        os={},
        credentials={},
        endpoint="",
        region="eu-west-1",
        registries={},
        ca=directory,
        timings={},
    )


def test_command_before_start_waits_for_channel(tmp_path: Path) -> None:
    starting, released, ended = threading.Event(), threading.Event(), threading.Event()
    kind = Kind(lambda: (starting.set(), released.wait()))
    nodes = Nodes(Cloud(port=0, state=tmp_path), kind)
    arguments = (launch_of(tmp_path), lambda _: ended.set())
    threading.Thread(target=nodes.start, args=arguments, daemon=True).start()
    assert starting.wait(10)
    known = nodes.get("i-1")
    assert known is not None
    errors: list[Exception] = []

    def command() -> None:
        try:
            known.cut_power()
        except Exception as error:
            errors.append(error)

    sender = threading.Thread(target=command)
    sender.start()
    time.sleep(0.2)
    released.set()
    sender.join(10)
    assert errors == []
    assert ended.wait(10)
    assert nodes.all() == []


def test_command_without_start_fails_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node, "START_SECONDS", 0.1)
    idle = Node(SimulatedNodes(), launch_of(tmp_path), tmp_path, lambda _: None)
    with pytest.raises(
        node.NotStartedError, match=r"cut_power to localcloud-i-1: .* did not start"
    ):
        idle.cut_power()


def test_node_that_fails_to_start_terminates_its_instance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud = Cloud(port=0, state=tmp_path)
    cloud.settings.register_scopable(shutting_down_seconds=0.0)
    nodes = Nodes(cloud, Kind(fail))
    store: Any = None
    machines = ec2.Machines(cloud, nodes, store)
    instance: Any = SimpleNamespace(
        id="i-1", state="running", _state=SimpleNamespace(name="running", code=16), tags={}
    )
    states: list[str] = []
    terminated = threading.Event()

    def set_state(found: Any, state: str, reason: Any = None) -> None:
        found.state, found.state_reason = state, reason
        states.append(state)
        if state == "terminated":
            terminated.set()

    monkeypatch.setattr(machines, "_set", set_state)
    monkeypatch.setattr(ec2, "terminate_record", lambda _: None)
    monkeypatch.setattr(ec2, "cache_of", lambda _: None)
    failed = nodes.start(launch_of(tmp_path), machines._node_ended(instance))
    assert nodes.all() == []
    assert failed.failure == "the process did not start: no memory"
    failed.cut_power()
    assert terminated.wait(10)
    assert states == ["shutting-down", "terminated"]
    assert instance.state_reason is ec2.LAUNCH_FAILED
