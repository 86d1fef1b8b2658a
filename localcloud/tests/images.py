"""Images built without a network, and pushed over the registry protocol."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import random
import ssl
import tarfile
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .clouds import RunningCloud

BUSYBOX = Path("/bin/busybox")
CONFIG = "application/vnd.oci.image.config.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def layer(files: dict[str, bytes]) -> bytes:
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as writer:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o755
            writer.addfile(member, io.BytesIO(content))
    return tar.getvalue()


def busybox_layer() -> bytes:
    return layer({"bin/sh": BUSYBOX.read_bytes(), "bin/echo": BUSYBOX.read_bytes()})


def random_layer(name: str, size: int = 300_000) -> bytes:
    return layer({f"data/{name}": random.Random(name).randbytes(size)})


def digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


@dataclass
class Pusher:
    """Puts images into one of the cloud's registries."""

    cloud: RunningCloud
    registry: str = "private"
    password: str = ""
    """Address to use instead of the registry's."""
    _sizes: dict[str, int] = field(default_factory=dict)
    """Digests of the pushed manifests."""

    @property
    def place(self) -> dict[str, str]:
        return self.cloud.ready["registries"][self.registry]

    def push(self, name: str, layers: list[bytes], platforms: tuple[str, ...] = ("amd64",)) -> str:
        """Pushes `repository:tag` and returns the reference that nodes pull."""
        repository, tag = name.split(":")
        if len(platforms) == 1:
            self.image(repository, layers, platforms[0], tag)
        else:
            images = {platform: self.image(repository, layers, platform) for platform in platforms}
            self.index(repository, images, tag)
        return f"{self.place['host']}/{name}"

    def image(
        self,
        repository: str,
        layers: list[bytes],
        platform: str = "amd64",
        tag: str = "",
        pack: Callable[[bytes], bytes] = lambda content: gzip.compress(content, mtime=0),
    ) -> str:
        """Pushes an image of one platform and returns its digest."""
        # Each platform has a layer of its own, to tell them apart.
        layers = [*layers, layer({"platform": platform.encode()})]
        config = {
            "architecture": platform,
            "os": "linux",
            "config": {"Cmd": ["/bin/echo", f"hello from {platform}"]},
            "rootfs": {"type": "layers", "diff_ids": [digest(content) for content in layers]},
        }
        packed = [pack(content) for content in layers]
        content = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self._blob(repository, json.dumps(config).encode(), CONFIG),
            "layers": [self._blob(repository, data, LAYER) for data in packed],
        }
        return self._manifest(repository, content, tag)

    def index(self, repository: str, images: Mapping[str, str], tag: str) -> str:
        """Pushes an index of images by platform and returns its digest."""
        entries = [
            {
                "mediaType": MANIFEST,
                "digest": image,
                "size": self._sizes[image],
                "platform": {"os": "linux", "architecture": platform},
            }
            for platform, image in images.items()
        ]
        content = {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}
        return self._manifest(repository, content, tag)

    def send(self, method: str, url: str, body: Any = b"", kind: str = "") -> Any:
        place = self.place
        if not url.startswith("https://"):
            url = f"https://{place['address']}/v2{url}"
        login = f"{place['username']}:{self.password or place['password']}"
        headers = {
            "Authorization": "Basic " + base64.b64encode(login.encode()).decode(),
            "Content-Type": kind or "application/octet-stream",
        }
        request = urllib.request.Request(url, method=method, data=body, headers=headers)
        context = ssl.create_default_context(cafile=self.cloud.ready["ca_certificate"])
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        return opener.open(request)

    def _blob(self, repository: str, data: bytes, kind: str) -> dict[str, Any]:
        started = self.send("POST", f"/{repository}/blobs/uploads/")
        self.send("PUT", f"{started.headers['Location']}&digest={digest(data)}", data)
        return {"mediaType": kind, "digest": digest(data), "size": len(data)}

    def _manifest(self, repository: str, content: dict[str, Any], tag: str) -> str:
        data = json.dumps(content).encode()
        pushed = digest(data)
        self.send("PUT", f"/{repository}/manifests/{tag or pushed}", data, content["mediaType"])
        self._sizes[pushed] = len(data)
        return pushed
