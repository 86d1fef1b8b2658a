"""Properties of the node, for the programs on it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

ROOT = Path(os.environ.get("LOCALCLOUD_ROOT", "/"))
"""The node's root: `/` on a real node, a directory on a simulated one."""

FULL = ROOT / "run/localcloud/disk-is-full"
"""Marker file of a simulated node's full volume."""

PLATFORMS = {"x86_64": "linux/amd64", "arm64": "linux/arm64"}


def description() -> dict[str, Any]:
    """Returns the description from `boot.write_configuration`."""
    return json.loads((ROOT / "run/localcloud/node.json").read_text())


def platform() -> str:
    """Returns the platform of the node's images, independent of the machine."""
    return PLATFORMS[description()["architecture"]]
