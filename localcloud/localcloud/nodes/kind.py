"""The common interface of real and simulated nodes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol

BLOCK = 512 << 10
"""Block size of EBS snapshots, in bytes. A later snapshot stores only changed blocks."""

STANDINS = Path(__file__).resolve().parent.parent / "standins"


class Kind(Protocol):
    """Storage of volumes, and the start of nodes on them."""

    name: str
    containerd: dict[str, str]
    """Versions of containerd that nodes can run, by their minor version."""

    def create_volume(self, volume: Path, gib: int) -> None:
        """Creates an empty volume, which a node formats at its first boot."""

    def copy_volume(self, source: Path, target: Path) -> None:
        """Copies the current content of a volume, mounted or not."""

    def grow_volume(self, volume: Path, gib: int) -> None:
        """Grows a volume. The file system grows at the next boot."""

    def remove_volume(self, volume: Path) -> None: ...

    def files(self, volume: Path, under: str) -> list[str]:
        """Returns every path on the volume below `under`, which starts with `/local`."""

    def remove_file(self, volume: Path, path: str) -> None:
        """Removes one of the paths from `files` without an update of its owner's records."""

    def damage(self, volume: Path, damage: str) -> None:
        """Damages the content of a volume. Raises ValueError if the kind of nodes lacks it."""

    def occurrences(self, volume: Path, text: bytes) -> int:
        """Counts a text on the volume, on real nodes also in blocks that no file uses."""

    def changed_blocks(self, volume: Path, base: Path | None) -> int | None:
        """Counts blocks that differ from the base, or from zeros; `None` without blocks."""

    def command(self, name: str, channel: int, configuration: Path) -> list[str]:
        """Returns the node's command line, for its end of the channel."""

    def configuration(self, name: str, containerd: str | None) -> dict[str, Any]:
        """Returns the part of the node's configuration that depends on the kind.

        Raises ValueError if the machine lacks this version of containerd.
        """

    def release(self, name: str, volume: Path) -> None:
        """Frees the resources of an ended node."""


def programs_missing(names: tuple[str, ...]) -> list[str]:
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return [n for n in names if not any((Path(p) / n).exists() for p in path.split(":") if p)]
