"""What real and simulated nodes have in common, for those who start them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol

BLOCK = 512 << 10
"""Block size of EBS snapshots, in bytes. A later snapshot stores only changed blocks."""

STANDINS = Path(__file__).resolve().parent.parent / "standins"


class Kind(Protocol):
    """How volumes are kept, and how a node is started on one."""

    name: str

    def create_volume(self, volume: Path, gib: int) -> None:
        """Makes an empty volume, which a node formats at its first boot."""

    def copy_volume(self, source: Path, target: Path) -> None:
        """Copies a volume as it is at this moment, mounted or not."""

    def grow_volume(self, volume: Path, gib: int) -> None:
        """The file system follows at the next boot."""

    def remove_volume(self, volume: Path) -> None: ...

    def files(self, volume: Path, under: str) -> list[str]:
        """Every path on the volume below `under`, which starts with `/local`."""

    def remove_file(self, volume: Path, path: str) -> None:
        """Removes one of the paths from `files` without an update of its owner's records."""

    def changed_blocks(self, volume: Path, base: Path | None) -> int | None:
        """Counts blocks that differ from the base, or from zeros; `None` without blocks."""

    def command(self, name: str, channel: int, configuration: Path) -> list[str]:
        """The program that is the node, given its end of the channel."""

    def configuration(self, name: str) -> dict[str, Any]:
        """What the node's program must know of the preparations for it."""

    def release(self, name: str, volume: Path) -> None:
        """Frees what a node that has ended still holds."""


def programs_missing(names: tuple[str, ...]) -> list[str]:
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return [n for n in names if not any((Path(p) / n).exists() for p in path.split(":") if p)]
