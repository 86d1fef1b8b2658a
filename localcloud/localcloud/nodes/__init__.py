"""The machines behind EC2 instances: real if the machine allows it, else simulated."""

from __future__ import annotations

import json
import logging
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..cloud import Answer, Cloud, Unusable
from . import real
from .kind import Kind
from .node import MACHINE, Launch, Node, PodError, Result
from .real import RealNodes
from .simulated import SimulatedNodes

__all__ = ["Launch", "Node", "Nodes", "Result", "install"]

log = logging.getLogger(__name__)

PULL_SECONDS = 600.0
"""Time limit of a pull for `run`, in seconds."""


def choose() -> tuple[Kind, str]:
    """Returns the kind of nodes, and the reason.

    `PREPULL_NODES` set to `real` or `simulated` decides; otherwise the machine does.
    """
    wanted = os.environ.get("PREPULL_NODES", "")
    if wanted == "simulated":
        return SimulatedNodes(), "PREPULL_NODES asks for it"
    obstacle = real.obstacle()
    if obstacle is None:
        return RealNodes(), "root, loop devices, XFS and containerd are there"
    if wanted == "real":
        raise Unusable(f"PREPULL_NODES asks for real nodes, but {obstacle}")
    return SimulatedNodes(), obstacle


class Nodes:
    """Every node of a local cloud, by the ID of its instance."""

    def __init__(self, cloud: Cloud, kind: Kind) -> None:
        self.cloud = cloud
        self.kind = kind
        self._nodes: dict[str, Node] = {}

    def start(self, launch: Launch, on_end: Callable[[Node], None]) -> Node:
        directory = self.cloud.state / "nodes" / launch.instance_id

        def ended(node: Node) -> None:
            if node.failure:
                log.error("node of %s: %s", launch.instance_id, node.failure)
            if self._nodes.get(launch.instance_id) is node:
                del self._nodes[launch.instance_id]
            shutil.rmtree(directory / "root", ignore_errors=True)
            on_end(node)

        node = Node(self.kind, launch, directory, ended)
        self._nodes[launch.instance_id] = node
        node.start()
        return node

    def get(self, instance_id: str) -> Node | None:
        return self._nodes.get(instance_id)

    def all(self) -> list[Node]:
        return list(self._nodes.values())

    def stop(self) -> None:
        stopping = [threading.Thread(target=node.stop_and_wait, daemon=True) for node in self.all()]
        for thread in stopping:
            thread.start()
        for thread in stopping:
            thread.join()

    def timings(self, settings: Mapping[str, Any]) -> dict[str, float]:
        names = (
            "agent_seconds",
            "agent_seconds_without_hostname",
            "admin_seconds",
            "pull_retry_seconds",
        )
        return {name: float(settings[name]) for name in names}

    # Control routes

    def handle(self, method: str, rest: str, _: Mapping[str, str], body: Any) -> Answer:
        instance_id, _, verb = rest.strip("/").partition("/")
        node = self.get(instance_id)
        if node is None:
            return 404, {"error": f"no node runs for {instance_id}"}
        if method != "POST" or verb not in ("run", "pull", "power-cut"):
            return 404, {"error": f"nodes/<instance-id>/ has run, pull and power-cut, not {verb!r}"}
        if verb == "pull":
            return self._pull(node, body)
        if verb == "power-cut":
            node.cut_power()
            node.ended.wait(real.RELEASE_SECONDS)
            return 200, {}
        return self._run(node, body["reference"])

    def _pull(self, node: Node, body: Any) -> Answer:
        """Pulls an image from any registry, and returns the error of containerd as a result."""
        if not node.runs_containers or not isinstance(self.kind, RealNodes):
            return 409, {"error": "a simulated node has no containerd"}
        from .kubelet import pull_image, unpack

        try:
            image = pull_image(
                node.root, body["reference"], body.get("username", ""), body.get("password", "")
            )
            for name in image["repo_digests"]:
                ctr = self.kind.programs(node.launch.containerd) / "ctr"
                unpack(node.root, ctr, name.partition("@")[2])
        except PodError as error:
            return 200, {"error": str(error)}
        return 200, {"image": image}

    def _run(self, node: Node, reference: str) -> Answer:
        before = self.cloud.registries.traffic()
        try:
            if node.runs_containers:
                # gRPC takes half a second to import. Simulated nodes do not need it.
                from .kubelet import start_pod

                answer = start_pod(node.root, reference, lambda: ensure_image(node, reference))
            else:
                answer = pretend_to_start(node, reference)
        except PodError as error:
            return 500, {"error": str(error)}
        pulled = self.cloud.registries.traffic() - before
        return 200, answer | {"pulled_bytes": pulled.bytes, "requests": pulled.requests}


def ensure_image(node: Node, reference: str) -> bool:
    """Pulls an image if the node lacks it, and returns whether it was there. Raises PodError."""
    results: list[Result] = []
    done = threading.Event()
    node.ensure_image(
        str(uuid.uuid4()), reference, lambda result: (results.append(result), done.set())
    )
    deadline = time.monotonic() + PULL_SECONDS
    while not done.wait(0.02):
        if node.ended.is_set() or time.monotonic() > deadline:
            raise PodError(f"{reference} was not pulled before the node or time ended")
    if results[0].code != 0:
        raise PodError(results[0].stderr or results[0].stdout)
    return bool(json.loads(results[0].stdout)["present"])


def pretend_to_start(node: Node, reference: str) -> dict[str, Any]:
    """Describes a container whose image is pulled, and that runs nothing. Raises PodError."""
    begin = time.monotonic()
    present = ensure_image(node, reference)
    return {
        "present": present,
        "seconds": round(time.monotonic() - begin, 3),
        "running_at": datetime.now(UTC).isoformat(),
        "output": "",
        "exit_code": 0,
        "simulated": True,
    }


def _snapshot_content(kind: Kind, snapshots: Path) -> Callable[..., Answer]:
    def handle(method: str, rest: str, query: Mapping[str, str], body: Any) -> Answer:
        snapshot_id, _, verb = rest.strip("/").partition("/")
        volume = snapshots / Path(snapshot_id).name
        base = snapshots / Path(query["base"]).name if query.get("base") else None
        for path in (volume, base):
            if path is not None and not path.exists():
                return 404, {"error": f"no snapshot {path.name!r}"}
        match method, verb:
            case "GET", "files":
                return 200, {"files": kind.files(volume, query.get("under", "/local"))}
            case "DELETE", "files":
                path = query.get("path", "")
                if path not in kind.files(volume, "/local"):
                    return 404, {"error": f"{snapshot_id} has no file {path!r}"}
                kind.remove_file(volume, path)
                return 200, {}
            case "POST", "damage":
                try:
                    kind.damage(volume, body["kind"])
                except ValueError as error:
                    return 409, {"error": str(error)}
                return 200, {}
            case "GET", "search":
                found = kind.occurrences(volume, query["text"].encode())
                return 200, {"occurrences": found}
            case "GET", "blocks":
                return 200, {"blocks": kind.changed_blocks(volume, base)}
        return 404, {
            "error": "snapshots/<snapshot-id>/ knows files, damage, search and blocks, "
            f"not {verb!r}"
        }

    return handle


def install(cloud: Cloud) -> Nodes:
    cloud.settings.register_scopable(
        agent_seconds=1.0,
        agent_seconds_without_hostname=300.0,
        admin_seconds=1.0,
        pull_retry_seconds=0.2,
        disk_full_after_bytes=None,
        stuck_mount=False,
        containerd=None,
    )
    real.clean_up_stale(cloud.state)
    kind, why = choose()
    nodes = Nodes(cloud, kind)
    cloud.about |= {
        "nodes": kind.name,
        "why": why,
        "machine": MACHINE,
        "containerd": kind.containerd,
    }
    cloud.control("nodes", nodes.handle)
    cloud.control("snapshots", _snapshot_content(kind, cloud.state / "snapshots"))
    cloud.leftovers(
        "processes",
        lambda: [
            {"instance": n.launch.instance_id, "pid": n.process.pid if n.process else None}
            for n in nodes.all()
        ],
    )
    cloud.leftovers("loop_devices", lambda: sorted(real.loop_devices(cloud.state)))
    cloud.leftovers("mounts", lambda: _mounts_below(cloud.state))
    cloud.on_stop(nodes.stop)
    return nodes


def _mounts_below(state: Path) -> list[str]:
    targets = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    return sorted(t for t in targets if Path(t).is_relative_to(state.resolve()))
