"""Nodes that run containerd on an XFS volume, in namespaces of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

from . import cgroups
from .kind import BLOCK, STANDINS, programs_missing

PROGRAMS = (
    "busybox",
    "containerd",
    "cp",
    "ctr",
    "jq",
    "losetup",
    "mkfs.xfs",
    "runc",
    "unshare",
    "xfs_growfs",
    "xfs_logprint",
)
NAMESPACES = ("--mount", "--uts", "--ipc", "--pid", "--cgroup")
RELEASE_SECONDS = 30.0
JOIN = 'while [ "$1" != -- ]; do echo 0 >"$1" || exit; shift; done; shift; exec "$@"'

# Tests the kernel features that a node needs, within a second. The end of the
# namespace undoes all changes.
PROBE = """
set -e
cd "$1"
mkdir memory root local
mount -t tmpfs tmpfs memory
mkdir memory/upper memory/work
mount -t overlay overlay -o lowerdir=/,upperdir=memory/upper,workdir=memory/work root
truncate -s 512M volume
mkfs.xfs -q volume
mount -t xfs -o loop,nouuid volume local
"""


# Scripts that damage a volume, from its root. `largest` prints the largest file in a directory.
DAMAGE_FUNCTIONS = """
set -e
blobs=var/lib/containerd/io.containerd.content.v1.content/blobs/sha256
snapshots=var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots
largest() {
    find "$1" -type f -printf '%s %p\n' | sort -n | tail -n 1 | cut -d ' ' -f 2-
}
"""
DAMAGES = {
    "missing-blob": 'rm "$(largest $blobs)"',
    "short-blob": 'truncate -s -1 "$(largest $blobs)"',
    "flipped-byte": """
        blob=$(largest $blobs)
        byte=$(od -An -t u1 -j 1000 -N 1 "$blob")
        printf "\\$(printf %o $((255 - byte)))" | dd of="$blob" bs=1 seek=1000 conv=notrunc
    """,
    "zeroed-file": """
        file=$(largest $snapshots)
        size=$(stat -c %s "$file")
        truncate -s 0 "$file"
        truncate -s "$size" "$file"
    """,
    "empty-file": 'truncate -s 0 "$(largest $snapshots)"',
    "missing-directory": 'rm -r "$(dirname "$(largest $snapshots)")"',
    "missing-tree": 'rm -r $snapshots/"$(largest $snapshots | cut -d / -f 6)"',
    "missing-database": "rm var/lib/containerd/io.containerd.metadata.v1.bolt/meta.db",
    "other-snapshotter": """
        echo 'ACTIVE_SNAPSHOTTER="soci"' >var/cache/containerd/active-snapshotter
    """,
    "dirty-log": "touch prepull-damage && xfs_io -x -c 'shutdown -f' .",
}
UNMOUNTABLE = "unmountable"


def obstacle() -> str | None:
    """Returns the reason why real nodes are not possible; `None` if they are."""
    if os.geteuid() != 0:
        return "localcloud does not run as root"
    missing = programs_missing(PROGRAMS)
    if missing:
        return f"these programs are not installed: {', '.join(missing)}"
    with tempfile.TemporaryDirectory(prefix="localcloud-probe-") as directory:
        argv = [*_unshare("--mount", "--pid"), "sh", "-c", PROBE, "sh", directory]
        probe = subprocess.run(argv, capture_output=True, text=True, check=False)
        _wait_until_released(Path(directory) / "volume")
    if probe.returncode != 0:
        reason = probe.stderr.strip().splitlines() or ["no reason given"]
        return f"namespaces, overlayfs, loop devices or XFS do not work here: {reason[-1]}"
    return None


def _mounted(volume: Path, options: str, script: str, path: str) -> str:
    """Runs a script at the root of a volume, with `path` as `$3`, and returns its output.

    The mount ends with its namespace.
    """
    mount = f'mount -t xfs -o loop,nouuid,{options} "$1" "$2" && cd "$2" && '
    inside = path.removeprefix("/local")
    with tempfile.TemporaryDirectory(prefix="localcloud-mount-") as directory:
        command = ["sh", "-c", mount + script, "sh", str(volume), directory, inside]
        argv = [*_unshare("--mount"), *command]
        found = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    _wait_until_released(volume)
    return found


def _unshare(*namespaces: str) -> list[str]:
    return ["unshare", *namespaces, "--fork", "--kill-child", "--propagation", "private"]


def containerd_programs() -> Iterator[Path]:
    """Returns the directories with containerd's programs: the machine's, and those of `xtask`.

    `PREPULL_CONTAINERD` is a directory of unpacked packages, one for each version.
    """
    if machine := shutil.which("containerd"):
        yield Path(os.path.realpath(machine)).parent
    if directory := os.environ.get("PREPULL_CONTAINERD"):
        yield from sorted(Path(directory).glob("*/usr/bin"))


def version_of(programs: Path) -> str:
    """Returns the third word of `containerd --version`, for example `2.1.9+unknown`."""
    command = [str(programs / "containerd"), "--version"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[2]


class RealNodes:
    name = "real"

    def __init__(self) -> None:
        self.containerd: dict[str, str] = {}
        self._programs: dict[str, Path] = {}
        for programs in containerd_programs():
            version = version_of(programs)
            minor = ".".join(version.lstrip("v").split(".")[:2])
            self.containerd[minor] = version
            self._programs[minor] = programs

    def create_volume(self, volume: Path, gib: int) -> None:
        volume.parent.mkdir(parents=True, exist_ok=True)
        with volume.open("wb") as file:
            file.truncate(gib << 30)

    def copy_volume(self, source: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        command = ["cp", "--sparse=always", "--reflink=auto", str(source), str(target)]
        subprocess.run(command, check=True)

    def grow_volume(self, volume: Path, gib: int) -> None:
        if volume.stat().st_size < gib << 30:
            os.truncate(volume, gib << 30)

    def remove_volume(self, volume: Path) -> None:
        volume.unlink(missing_ok=True)

    def files(self, volume: Path, under: str) -> list[str]:
        # Without recovery and writes, so that reading a snapshot does not change it.
        found = _mounted(
            volume, "ro,norecovery", 'if [ -e ".$3" ]; then find ".$3" -mindepth 1; fi', under
        )
        return sorted("/local" + line.removeprefix(".") for line in found.splitlines())

    def remove_file(self, volume: Path, path: str) -> None:
        _mounted(volume, "rw", 'rm ".$3"', path)

    def damage(self, volume: Path, damage: str) -> None:
        if damage == UNMOUNTABLE:
            # The root directory's inode. The superblock stays, because a node formats a volume
            # without one.
            with volume.open("r+b") as file:
                file.seek(4096)
                file.write(os.urandom((1 << 20) - 4096))
        elif damage in DAMAGES:
            _mounted(volume, "rw", f"({DAMAGE_FUNCTIONS}{DAMAGES[damage]})", "")
        else:
            kinds = ", ".join((*DAMAGES, UNMOUNTABLE))
            raise ValueError(f"there is no damage {damage!r}. Choose one of {kinds}")

    def occurrences(self, volume: Path, text: bytes) -> int:
        with volume.open("rb") as file:
            blocks = sorted(_blocks_with_data(file))
            # A text can cross the end of a block.
            return sum(
                os.pread(file.fileno(), BLOCK + len(text) - 1, block * BLOCK).count(text)
                for block in blocks
            )

    def changed_blocks(self, volume: Path, base: Path | None) -> int:
        with ExitStack() as files:
            new = files.enter_context(volume.open("rb"))
            old = files.enter_context(base.open("rb")) if base else None
            blocks = _blocks_with_data(new) | (_blocks_with_data(old) if old else set())
            return sum(_block(new, block) != _block(old, block) for block in blocks)

    def command(self, name: str, channel: int, configuration: Path) -> list[str]:
        python = sys._base_executable  # type: ignore[attr-defined]
        init = [python, "-SEsB", str(STANDINS / "init.py"), str(channel), str(configuration)]
        groups = [f"{group}/cgroup.procs" for group in cgroups.create(name).values()]
        # Joined before the creation of namespaces, so that the node sees its groups as roots.
        return [
            "sh",
            "-c",
            JOIN,
            "sh",
            *groups,
            "--",
            *_unshare(*NAMESPACES),
            "--mount-proc",
            *init,
        ]

    def configuration(self, name: str, containerd: str | None) -> dict[str, Any]:
        return {"cgroups": cgroups.create(name), "containerd": str(self.programs(containerd))}

    def programs(self, containerd: str | None) -> Path:
        """Returns the programs of a minor version of containerd, or of the newest."""
        newest = max(self._programs, key=lambda minor: [int(part) for part in minor.split(".")])
        programs = self._programs.get(containerd or newest)
        if programs is None:
            here = ", ".join(self.containerd.values())
            raise ValueError(f"containerd {containerd} is not here. Choose another of {here}")
        return programs

    def release(self, name: str, volume: Path) -> None:
        _wait_until_released(volume)
        cgroups.remove(name)


def _blocks_with_data(file: BinaryIO) -> set[int]:
    """Returns the numbers of a sparse file's blocks with data."""
    found: set[int] = set()
    size = os.fstat(file.fileno()).st_size
    at = 0
    while at < size:
        try:
            start = os.lseek(file.fileno(), at, os.SEEK_DATA)
        except OSError:
            break  # Only a hole is left.
        at = os.lseek(file.fileno(), start, os.SEEK_HOLE)
        found.update(range(start // BLOCK, -(-at // BLOCK)))
    return found


def _block(file: BinaryIO | None, number: int) -> bytes:
    """Reads a block, padded with zeros. Without a file it is all zeros."""
    read = os.pread(file.fileno(), BLOCK, number * BLOCK) if file else b""
    return read.ljust(BLOCK, b"\0")


def loop_devices(below: Path) -> dict[str, str]:
    """Returns loop devices with their files, if the file is `below` or in it."""
    found = {}
    for entry in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            # The kernel marks a deleted file.
            file = entry.read_text().strip().removesuffix(" (deleted)")
        except OSError:
            continue  # Detached since the listing.
        if Path(file).is_relative_to(below.resolve()):
            found[f"/dev/{entry.parts[3]}"] = file
    return found


def clean_up_stale(state: Path) -> None:
    """Frees the resources of an earlier, killed run in `state`."""
    for device in loop_devices(state):
        subprocess.run(["losetup", "--detach", device], capture_output=True, check=False)
    for directory in (state / "nodes").glob("*"):
        cgroups.remove(f"localcloud-{directory.name}")
        shutil.rmtree(directory)


def _wait_until_released(volume: Path) -> None:
    # The kernel removes a namespace some time after the end of its first process.
    deadline = time.monotonic() + RELEASE_SECONDS
    while loop_devices(volume):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{volume} is still in use by {loop_devices(volume)}")
        time.sleep(0.02)
