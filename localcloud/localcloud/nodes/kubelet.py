"""Starts a pod on a real node through CRI, with the calls of a kubelet.

`cri/api.proto` is the unchanged `pkg/apis/runtime/v1/api.proto` of
kubernetes/cri-api v0.36.3, under the Apache License 2.0.
"""

from __future__ import annotations

import subprocess
import time
import uuid
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import grpc

from .node import PodError

SOCKET = "run/containerd/containerd.sock"
LOGS = "run/localcloud/pods"
"""Directory of the containers' logs, below the node's root."""
CALL_SECONDS = 120.0
"""Time limit of one CRI call, in seconds."""
READY_SECONDS = 60.0
"""Time limit until CRI is ready, and until it knows a pulled image, in seconds."""
OUTPUT_SECONDS = 30.0
"""Time limit of a container, in seconds, because a server never ends.

On a busy disk, the end of a short program can take more than three seconds.
"""
POLL_SECONDS = 0.02
PULLS = 6
"""Attempts of a pull, as host-ctr makes them. A kubelet has no limit."""
PULL_PAUSE_SECONDS = 0.2


@cache
def _protocol() -> tuple[Any, Any]:
    """Returns the messages and the services of CRI.

    gRPC generates them from the file, which takes half a second.
    """
    return grpc.protos_and_services("localcloud/nodes/cri/api.proto")  # type: ignore[no-any-return]


class Kubelet:
    """A client of the container runtime on one node."""

    def __init__(self, root: Path) -> None:
        """`root` is the node's root directory, as this process reaches it."""
        self._root = root
        self._channel = grpc.insecure_channel(
            f"unix://{root / SOCKET}",
            # By default the authority is the path, which the server of containerd refuses:
            # https://github.com/grpc/grpc-go/issues/2628
            options=[("grpc.default_authority", "localhost")],
        )
        self._messages, services = _protocol()
        self._runtime = services.RuntimeServiceStub(self._channel)
        self._images = services.ImageServiceStub(self._channel)

    def close(self) -> None:
        self._channel.close()

    def _call(self, service: Any, method: str, **fields: Any) -> Any:
        request = getattr(self._messages, f"{method}Request")(**fields)
        try:
            return getattr(service, method)(request, timeout=CALL_SECONDS)
        except grpc.RpcError as error:
            raise PodError(f"{method}: {error.details()}") from error

    def await_ready(self) -> None:
        """Waits until the runtime is ready, as a kubelet does before its first pod."""
        deadline = time.monotonic() + READY_SECONDS
        while True:
            try:
                conditions = self._call(self._runtime, "Status").status.conditions
                # The network is not ready, because nodes have no CNI plugin.
                if any(c.type == "RuntimeReady" and c.status for c in conditions):
                    return
                problem = f"its conditions are {list(conditions)}"
            except PodError as error:
                problem = str(error)
            if time.monotonic() > deadline:
                raise PodError(f"CRI is not ready after {READY_SECONDS:g} s: {problem}")
            time.sleep(POLL_SECONDS)

    def _image(self, reference: str) -> Any:
        image = self._messages.ImageSpec(image=reference)
        return self._call(self._images, "ImageStatus", image=image).image

    def pull(self, reference: str, username: str, password: str) -> dict[str, Any]:
        """Pulls an image with image pull secrets, and describes it. Raises PodError."""
        self._call(
            self._images,
            "PullImage",
            image=self._messages.ImageSpec(image=reference),
            auth=self._messages.AuthConfig(username=username, password=password),
        )
        image = self._image(reference)
        version = self._call(self._runtime, "Version").runtime_version
        return {
            "id": image.id,
            "repo_digests": list(image.repo_digests),
            "containerd": version.removeprefix("v"),
        }

    def image_id(self, reference: str) -> str:
        """Returns the ID of an image; empty if the node lacks it."""
        found: str = self._image(reference).id
        return found

    def is_pinned(self, reference: str) -> bool:
        """Returns whether a kubelet must keep an image, even on a full disk."""
        return bool(self._image(reference).pinned)

    def await_image(self, reference: str) -> str:
        """Returns the ID of an image that another client of containerd pulled.

        CRI learns about it from an event.
        """
        deadline = time.monotonic() + READY_SECONDS
        while not (found := self.image_id(reference)):
            if time.monotonic() > deadline:
                raise PodError(f"CRI does not know {reference}, although it is pulled")
            time.sleep(POLL_SECONDS)
        return found

    def run(self, reference: str, image_id: str) -> tuple[float, str, int | None]:
        """Runs a pod with one container, and removes it.

        Returns the time of its start on the monotonic clock, its output and its
        exit code. The code is `None` if the container still ran at the limit.
        """
        sandbox = self._sandbox()
        created = self._call(self._runtime, "RunPodSandbox", config=sandbox)
        pod = created.pod_sandbox_id
        try:
            container = self._call(
                self._runtime,
                "CreateContainer",
                pod_sandbox_id=pod,
                config=self._messages.ContainerConfig(
                    metadata=self._messages.ContainerMetadata(name="main"),
                    image=self._messages.ImageSpec(image=image_id, user_specified_image=reference),
                    log_path="main.log",
                    linux=self._messages.LinuxContainerConfig(),
                ),
                sandbox_config=sandbox,
            ).container_id
            self._call(self._runtime, "StartContainer", container_id=container)
            running = time.monotonic()
            code = self._exit_code(container, running + OUTPUT_SECONDS)
            log = self._root / sandbox.log_directory.lstrip("/") / "main.log"
            return running, output_of(log.read_text(errors="replace")), code
        finally:
            self._call(self._runtime, "StopPodSandbox", pod_sandbox_id=pod)
            self._call(self._runtime, "RemovePodSandbox", pod_sandbox_id=pod)

    def _sandbox(self) -> Any:
        identity = uuid.uuid4().hex
        # A pod in the network of its host needs no CNI plugin.
        host = self._messages.NamespaceOption(network=self._messages.NODE)
        context = self._messages.LinuxSandboxSecurityContext(namespace_options=host)
        return self._messages.PodSandboxConfig(
            metadata=self._messages.PodSandboxMetadata(
                name=f"pod-{identity[:12]}", uid=identity, namespace="default"
            ),
            log_directory=f"/{LOGS}/{identity}",
            linux=self._messages.LinuxPodSandboxConfig(security_context=context),
        )

    def _exit_code(self, container: str, deadline: float) -> int | None:
        while time.monotonic() < deadline:
            status = self._call(self._runtime, "ContainerStatus", container_id=container).status
            if status.state == self._messages.CONTAINER_EXITED:
                return int(status.exit_code)
            time.sleep(POLL_SECONDS)
        return None


def output_of(log: str) -> str:
    """Returns the output in a log of CRI.

    Each line has a time, a stream, and `F` for a full line or `P` for a part of one:
    https://github.com/kubernetes/design-proposals-archive/blob/main/node/kubelet-cri-logging.md
    """
    output = ""
    for line in log.splitlines():
        _, _, tag, text = line.split(" ", 3)
        output += text if tag.split(":")[0] == "P" else text + "\n"
    return output


def start_pod(root: Path, reference: str, pull: Callable[[], None]) -> dict[str, Any]:
    """Starts a pod the way a kubelet with IfNotPresent does, and describes it.

    Calls `pull` if the node lacks the image. Raises PodError if the pod does not start.
    """
    with closing(Kubelet(root)) as kubelet:
        kubelet.await_ready()
        begin = time.monotonic()
        image_id = kubelet.image_id(reference)
        present = bool(image_id)
        if not present:
            pull()
            image_id = kubelet.await_image(reference)
        running, output, code = kubelet.run(reference, image_id)
        pinned = kubelet.is_pinned(reference)
    return {
        "present": present,
        "pinned": pinned,
        "seconds": round(running - begin, 3),
        "running_at": (
            datetime.now(UTC) - timedelta(seconds=time.monotonic() - running)
        ).isoformat(),
        "output": output,
        "exit_code": code,
        "simulated": False,
    }


def pull_image(root: Path, reference: str, username: str, password: str) -> dict[str, Any]:
    """Pulls an image with several attempts, and describes it. Raises PodError."""
    with closing(Kubelet(root)) as kubelet:
        kubelet.await_ready()
        for _ in range(PULLS - 1):
            try:
                return kubelet.pull(reference, username, password)
            except PodError:
                time.sleep(PULL_PAUSE_SECONDS)
        return kubelet.pull(reference, username, password)


def unpack(root: Path, ctr: Path, digest: str) -> None:
    """Unpacks an image as host-ctr does after a pull. Raises PodError.

    CRI pulls content that is no container image without unpacking it.
    """
    command = [str(ctr), f"--address={root / SOCKET}", "--namespace=k8s.io"]
    done = subprocess.run(
        [*command, "snapshots", "unpack", digest],
        capture_output=True,
        text=True,
        check=False,
        timeout=CALL_SECONDS,
    )
    if done.returncode:
        raise PodError(f"unpack: {done.stderr.strip()}")
