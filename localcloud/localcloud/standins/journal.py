"""The node's journal: one JSON record a line."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PERSISTENT, VOLATILE = "var/log/journal", "run/log/journal"
FILE = "system.journal"
BOOT_ID = "run/localcloud/boot-id"
KERNEL_LOG = "run/localcloud/kernel.log"


class Journal:
    """Writes records for as long as the node is up.

    The file stays open, as journald keeps its own. Records after the deletion
    of the directory are lost and do not create a new file.
    """

    def __init__(self, root: Path, machine_id: str) -> None:
        self._root = root
        self._machine_id = machine_id
        self._boot = uuid.uuid4().hex
        (root / BOOT_ID).write_text(self._boot)
        self._open(PERSISTENT)
        kernel = root / KERNEL_LOG
        for message in kernel.read_text().splitlines() if kernel.exists() else ():
            self.write("", "kernel", 0, message)

    def _open(self, place: str) -> None:
        directory = self._root / place / self._machine_id
        directory.mkdir(parents=True, exist_ok=True)
        self._file = (directory / FILE).open("a", buffering=1, encoding="utf-8")

    def relinquish(self) -> None:
        """Switches to memory, as `journalctl --relinquish-var` does."""
        self.close()
        self._open(VOLATILE)

    def write(self, unit: str, identifier: str, pid: int, message: str) -> None:
        record = {
            "time": time.time(),
            "boot": self._boot,
            "unit": unit,
            "identifier": identifier,
            "pid": pid,
            "message": message,
        }
        self._file.write(json.dumps(record) + "\n")

    def close(self) -> None:
        self._file.close()


def records(root: Path) -> Iterator[dict[str, Any]]:
    for place in (PERSISTENT, VOLATILE):
        for file in sorted((root / place).glob(f"*/{FILE}")):
            for line in file.read_text("utf-8").splitlines():
                try:
                    yield json.loads(line)
                except json.JSONDecodeError:
                    # The last line can be incomplete.
                    continue
