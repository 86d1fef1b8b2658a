"""Pulls an image if the node lacks it, as a kubelet with IfNotPresent does.

Prints one JSON object with `present`: whether the node had the image before.
"""

from __future__ import annotations

import json
import subprocess
import sys

from endpoints import PullFailed
from host_ctr import pull

REGISTRY_CONFIG = "/etc/host-containers/host-ctr.toml"


def is_present(reference: str) -> bool:
    """Returns whether the image has exactly this name and is complete and unpacked."""
    command = ["ctr", "--namespace=k8s.io", "images", "check", f"name=={reference}"]
    checked = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    rows = (row.split() for row in checked.splitlines()[1:])
    return any(row[0] == reference and row[-1] == "true" for row in rows)


def main() -> int:
    reference = sys.argv[1]
    present = is_present(reference)
    if not present:
        try:
            pull(reference, REGISTRY_CONFIG, [], say=lambda *_, **__: None)
        except PullFailed as failure:
            sys.exit(f"ErrImagePull: {failure}")
    print(json.dumps({"present": present}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
