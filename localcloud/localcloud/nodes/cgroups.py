"""Control groups for a node, so that its containers leave none behind.

Works with the old hierarchies, the unified one, and both side by side. Skips a
hierarchy that refuses a new group.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

MOUNT = Path("/sys/fs/cgroup")
REMOVE_SECONDS = 10.0
CPUSET = ("cpuset.cpus", "cpuset.mems")


def own_groups() -> dict[str, Path]:
    """Returns this process's group in every hierarchy, by the hierarchy's directory."""
    found = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers:
            name = controllers.removeprefix("name=")
        else:
            name = "." if (MOUNT / "cgroup.controllers").exists() else "unified"
        group = MOUNT / name / path.lstrip("/")
        if (group / "cgroup.procs").exists():
            found[name] = group
    return found


def create(name: str) -> dict[str, str]:
    """Creates the node's groups and returns them by the hierarchy's directory."""
    made = {}
    for hierarchy, parent in own_groups().items():
        group = parent / name
        try:
            group.mkdir(exist_ok=True)
            for file in CPUSET:
                # A new group of the old cpuset hierarchy accepts processes only with these set.
                if hierarchy == "cpuset" and not (group / file).read_text().strip():
                    (group / file).write_text((parent / file).read_text())
        except OSError:
            continue
        made[hierarchy] = str(group)
    return made


def remove(name: str) -> None:
    deadline = time.monotonic() + REMOVE_SECONDS
    for parent in own_groups().values():
        while (parent / name).exists():
            try:
                for directory, _, _ in os.walk(parent / name, topdown=False):
                    os.rmdir(directory)
            except OSError:
                # Killed processes do not end at once.
                if time.monotonic() > deadline:
                    break
                time.sleep(0.02)
