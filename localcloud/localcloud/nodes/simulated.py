"""Nodes without a container runtime: a volume is a directory.

A node downloads images from the registry and keeps their blobs. It unpacks no
file system and runs no container.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from .kind import STANDINS


class SimulatedNodes:
    name = "simulated"

    def __init__(self) -> None:
        self.containerd: dict[str, str] = {}

    def create_volume(self, volume: Path, gib: int) -> None:
        volume.mkdir(parents=True)
        self.grow_volume(volume, gib)

    def copy_volume(self, source: Path, target: Path) -> None:
        shutil.copytree(source, target, symlinks=True)

    def grow_volume(self, volume: Path, gib: int) -> None:
        # The node's `df` reads the size from here.
        (volume / ".size").write_text(str(gib << 30))

    def remove_volume(self, volume: Path) -> None:
        shutil.rmtree(volume, ignore_errors=True)

    def files(self, volume: Path, under: str) -> list[str]:
        start = volume / under.removeprefix("/local").strip("/")
        found = (p.relative_to(volume) for p in start.rglob("*"))
        return sorted(f"/local/{path}" for path in found if path.name != ".size")

    def remove_file(self, volume: Path, path: str) -> None:
        (volume / path.removeprefix("/local/")).unlink()

    def damage(self, volume: Path, damage: str) -> None:
        blobs = volume / "var/lib/containerd/io.containerd.content.v1.content/blobs/sha256"
        largest = max(blobs.iterdir(), key=lambda path: path.stat().st_size)
        match damage:
            case "missing-blob":
                largest.unlink()
            case "flipped-byte":
                content = bytearray(largest.read_bytes())
                content[-1] ^= 0xFF
                largest.write_bytes(content)
            case _:
                raise ValueError(f"a simulated node has no damage {damage!r}")

    def occurrences(self, volume: Path, text: bytes) -> int:
        found = (path for path in volume.rglob("*") if path.is_file() and not path.is_symlink())
        return sum(path.read_bytes().count(text) for path in found)

    def changed_blocks(self, volume: Path, base: Path | None) -> None:
        """A directory has no blocks."""

    def command(self, name: str, channel: int, configuration: Path) -> list[str]:  # noqa: ARG002
        python = sys._base_executable  # type: ignore[attr-defined]
        return [python, "-SEsB", str(STANDINS / "init.py"), str(channel), str(configuration)]

    def configuration(self, name: str, containerd: str | None) -> dict[str, Any]:  # noqa: ARG002
        return {}

    def release(self, name: str, volume: Path) -> None:
        """Nothing holds a directory."""
