"""The checks of `ctr images check`, for nodes without a real `ctr`.

`ctr` checks the platform of its machine. These answers are for the node's
platform, with the same texts and columns.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Protocol

INDEX_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)


@dataclass(frozen=True)
class Image:
    name: str
    media_type: str
    digest: str


class Store(Protocol):
    platform: str
    """Platform, for example `linux/arm64`."""

    def images(self, filters: list[str]) -> Iterable[Image]: ...

    def blob(self, digest: str) -> bytes | None:
        """Returns a manifest, index or configuration; `None` if it is missing."""

    def has(self, digest: str) -> bool: ...

    def is_unpacked(self, chain_id: str) -> bool: ...


@dataclass(frozen=True)
class Check:
    image: Image
    status: str
    size: str
    unpacked: bool

    @property
    def ready(self) -> bool:
        return self.status.startswith("complete") and self.unpacked


def digest_of(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def manifest_for(store: Store, digest: str) -> dict[str, Any] | None:
    """Returns the manifest of an image's digest for the store's platform."""
    blob = store.blob(digest)
    if blob is None:
        return None
    manifest = json.loads(blob)
    if "manifests" not in manifest:
        return manifest
    entry = next(entries_for(manifest, store.platform), None)
    return manifest_for(store, entry["digest"]) if entry else None


def entries_for(index: dict[str, Any], platform: str) -> Iterator[dict[str, Any]]:
    """Returns an index's entries for the platform; empty for a manifest."""
    for entry in index.get("manifests", []):
        described = entry.get("platform", {})
        if f"{described.get('os')}/{described.get('architecture')}" == platform:
            yield entry


def chain_ids(diff_ids: list[str]) -> list[str]:
    """Returns the names of the layers' snapshots, each on top of the previous one."""
    return list(accumulate(diff_ids, lambda below, layer: digest_of(f"{below} {layer}".encode())))


def check(store: Store, image: Image) -> Check:
    manifest = manifest_for(store, image.digest)
    if manifest is None:
        return Check(image, "unavailable (0/?)", "0 B/?", False)
    required = [manifest["config"], *manifest["layers"]]
    present = [part for part in required if store.has(part["digest"])]
    word = "complete" if len(present) == len(required) else "incomplete"
    sizes = (sum(part["size"] for part in parts) for parts in (present, required))
    config = store.blob(manifest["config"]["digest"])
    diff_ids = json.loads(config)["rootfs"]["diff_ids"] if config else []
    return Check(
        image,
        f"{word} ({len(present)}/{len(required)})",
        "/".join(human(size) for size in sizes),
        bool(diff_ids) and store.is_unpacked(chain_ids(diff_ids)[-1]),
    )


def human(size: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            return f"{size} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError("the last unit takes any size")


def table(rows: list[tuple[str, ...]]) -> Iterator[str]:
    """Formats columns as Go's tabwriter does: pads every cell but the last."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        yield " ".join([*cells[:-1], row[-1]])


def print_checks(store: Store, filters: list[str], quiet: bool) -> None:
    checks = [check(store, image) for image in store.images(filters)]
    if quiet:
        for found in checks:
            if found.ready:
                print(found.image.name)
        return
    rows = [("REF", "TYPE", "DIGEST", "STATUS", "SIZE", "UNPACKED")]
    for found in checks:
        image = found.image
        unpacked = "true" if found.unpacked else "false"
        rows.append(
            (image.name, image.media_type, image.digest, found.status, found.size, unpacked)
        )
    print("\n".join(table(rows)))
