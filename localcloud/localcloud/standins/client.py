"""Client of the node's service manager, for the node's commands."""

from __future__ import annotations

import json
import os
import socket
import sys
from typing import Any

from this_node import ROOT


def ask(request: dict[str, Any]) -> dict[str, Any]:
    """Returns the manager's reply; ends the program if the manager refuses."""
    connection = socket.socket(socket.AF_UNIX)
    # A simulated node's path can exceed the length limit of socket paths.
    here = os.open(".", os.O_RDONLY)
    try:
        os.chdir(ROOT / "run/localcloud")
        connection.connect("manager.sock")
    except OSError as error:
        sys.exit(f"Failed to connect to bus: {error.strerror}")
    finally:
        os.fchdir(here)
        os.close(here)
    connection.sendall(json.dumps(request).encode() + b"\n")
    received = b"".join(iter(lambda: connection.recv(65536), b""))
    if not received:
        sys.exit("Failed to wait for response: Connection terminated")
    reply = json.loads(received)
    if "error" in reply:
        print(reply["error"], file=sys.stderr)
        sys.exit(reply["code"])
    return reply
