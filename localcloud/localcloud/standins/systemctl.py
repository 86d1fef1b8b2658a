"""`systemctl`, for the verbs that a build needs."""

from __future__ import annotations

import argparse
import fnmatch
import signal
import sys
from typing import Any

from client import ask


def show(options: argparse.Namespace) -> int:
    wanted = [name for group in options.property for name in group.split(",")]
    blocks = []
    for unit in ask({"do": "show", "units": options.units})["units"]:
        # The manager decides the order, not the request.
        chosen = {k: v for k, v in unit.items() if not wanted or k in wanted}
        lines = chosen.values() if options.value else (f"{k}={v}" for k, v in chosen.items())
        blocks.append("\n".join(lines))
    if blocks:
        print("\n\n".join(blocks))
    return 0


def list_units(options: argparse.Namespace) -> int:
    rows = []
    for unit in ask({"do": "list", "units": options.units})["units"]:
        states = (unit["LoadState"], unit["ActiveState"], unit["SubState"])
        if options.state and not set(options.state.split(",")) & set(states):
            continue
        if not options.all and not options.state and unit["ActiveState"] == "inactive":
            continue
        if options.type and not fnmatch.fnmatchcase(unit["Id"], f"*.{options.type}"):
            continue
        rows.append((unit["Id"], *states, unit["Description"]))
    header = ("UNIT", "LOAD", "ACTIVE", "SUB", "DESCRIPTION")
    table = rows if options.no_legend else [header, *rows]
    widths = [max((len(row[i]) for row in table), default=0) for i in range(4)]
    margin = "" if options.plain or options.no_legend else "  "
    for row in table:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=False))
        print(margin + " ".join((*cells, row[4])))
    if not options.no_legend:
        print(f"\n{len(rows)} loaded units listed.")
    return 0


def is_active(options: argparse.Namespace) -> int:
    return print_states(options, {"active"}, 3)


def is_failed(options: argparse.Namespace) -> int:
    return print_states(options, {"failed"}, 1)


def print_states(options: argparse.Namespace, good: set[str], otherwise: int) -> int:
    states = [u["ActiveState"] for u in ask({"do": "show", "units": options.units})["units"]]
    if not options.quiet:
        print("\n".join(states))
    return 0 if any(state in good for state in states) else otherwise


def pass_on(options: argparse.Namespace) -> int:
    request: dict[str, Any] = {"do": options.verb.replace("-", "_"), "units": options.units}
    if options.verb == "kill":
        name = f"SIG{options.signal.upper().removeprefix('SIG')}"
        number = options.signal.isdigit() and int(options.signal)
        request["signal"] = number or signal.Signals[name]
    request["now"] = options.now
    request["no_block"] = options.no_block
    ask(request)
    return 0


def nothing(_: argparse.Namespace) -> int:
    return 0


VERBS = {
    "show": show,
    "list-units": list_units,
    "is-active": is_active,
    "is-failed": is_failed,
    "start": pass_on,
    "stop": pass_on,
    "restart": pass_on,
    "kill": pass_on,
    "mask": pass_on,
    "unmask": pass_on,
    "reset-failed": pass_on,
    "poweroff": pass_on,
    "daemon-reload": nothing,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="systemctl")
    parser.add_argument("verb", choices=VERBS)
    parser.add_argument("units", nargs="*")
    parser.add_argument("-p", "--property", action="append", default=[])
    parser.add_argument("-a", "--all", action="store_true")
    parser.add_argument("-q", "--quiet", action="store_true")
    parser.add_argument("-s", "--signal", default="SIGTERM")
    parser.add_argument("-t", "--type")
    parser.add_argument("--state")
    parser.add_argument("--value", action="store_true")
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--no-legend", action="store_true")
    parser.add_argument("--no-pager", action="store_true")
    parser.add_argument("--no-block", action="store_true")
    parser.add_argument("--runtime", action="store_true")
    parser.add_argument("--now", action="store_true")
    parser.add_argument("--force", action="store_true")
    options = parser.parse_intermixed_args()
    return VERBS[options.verb](options)


if __name__ == "__main__":
    sys.exit(main())
