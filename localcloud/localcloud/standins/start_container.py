"""Starts a container from an image the way a kubelet with IfNotPresent does.

Prints one JSON object: the presence of the image, the seconds from the request
to the running container, the time of that, its output and its exit code.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

from endpoints import PullFailed
from host_ctr import pull
from this_node import description

REGISTRY_CONFIG = "/etc/host-containers/host-ctr.toml"
OUTPUT_SECONDS = 3.0
"""Time limit of a container, because a server never ends."""


def ctr(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["ctr", "--namespace=k8s.io", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def is_present(reference: str) -> bool:
    """Returns whether the image has exactly this name and is complete and unpacked."""
    checked = ctr("images", "check", f"name=={reference}").stdout.splitlines()
    return any(row.split()[0] == reference and row.split()[-1] == "true" for row in checked[1:])


def run(reference: str) -> tuple[float, str, int | None]:
    """Returns start time, output and exit code; the code is `None` after a forced end."""
    identity = f"pod-{uuid.uuid4().hex[:12]}"
    log = Path("/run/localcloud/containers") / f"{identity}.log"
    log.parent.mkdir(exist_ok=True)
    started = ctr("run", "--detach", f"--log-uri=file://{log}", reference, identity)
    running = time.monotonic()
    if started.returncode:
        sys.exit(started.stderr)
    try:
        while not is_stopped(identity):
            if time.monotonic() - running > OUTPUT_SECONDS:
                return running, log.read_text(errors="replace"), None
            time.sleep(0.05)
        code = ctr("tasks", "delete", identity).returncode
        return running, log.read_text(errors="replace"), code
    finally:
        ctr("tasks", "delete", "--force", identity)
        ctr("containers", "delete", identity)
        log.unlink(missing_ok=True)


def is_stopped(identity: str) -> bool:
    rows = (row.split() for row in ctr("tasks", "ls").stdout.splitlines())
    return any(row[0] == identity and row[2] == "STOPPED" for row in rows)


def main() -> int:
    reference = sys.argv[1]
    config = description()
    begin = time.monotonic()
    present = is_present(reference)
    if not present:
        try:
            pull(reference, REGISTRY_CONFIG, [], say=lambda *_, **__: None)
        except PullFailed as failure:
            sys.exit(f"ErrImagePull: {failure}")
    simulated = config["kind"] == "simulated" or (
        config["architecture"] != config["machine_architecture"]
    )
    running, output, code = time.monotonic(), "", 0
    if not simulated:
        running, output, code = run(reference)
    since = timedelta(seconds=time.monotonic() - running)
    answer = {
        "present": present,
        "seconds": round(running - begin, 3),
        "running_at": (datetime.now(UTC) - since).isoformat(),
        "output": output,
        "exit_code": code,
        "simulated": simulated,
    }
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
