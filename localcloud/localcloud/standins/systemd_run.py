"""`systemd-run`: runs a command as a transient service, optionally with a timer."""

from __future__ import annotations

import argparse
import os
import sys

from client import ask


def main() -> int:
    parser = argparse.ArgumentParser(prog="systemd-run")
    parser.add_argument("-u", "--unit")
    parser.add_argument("-p", "--property", action="append", default=[])
    parser.add_argument("-E", "--setenv", action="append", default=[])
    parser.add_argument("-r", "--remain-after-exit", action="store_true")
    parser.add_argument("-G", "--collect", action="store_true")
    parser.add_argument("-q", "--quiet", action="store_true")
    parser.add_argument("--description", default="")
    parser.add_argument("--service-type")
    parser.add_argument("--slice")
    parser.add_argument("--nice")
    parser.add_argument("--working-directory")
    parser.add_argument("--on-active")
    parser.add_argument("--timer-property", action="append", default=[])
    parser.add_argument("--no-block", action="store_true")
    parser.add_argument("--no-ask-password", action="store_true")
    parser.add_argument("--wait", action="store_true")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    argv = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not argv:
        parser.error("Command line to execute required.")

    properties = list(options.property)
    if options.service_type:
        properties.append(f"Type={options.service_type}")
    if options.working_directory:
        properties.append(f"WorkingDirectory={options.working_directory}")
    reply = ask(
        {
            "do": "run",
            "unit": options.unit or f"run-u{os.getpid()}",
            "argv": argv,
            "properties": properties,
            "environment": dict(pair.partition("=")[::2] for pair in options.setenv),
            "remain": options.remain_after_exit,
            "collect": options.collect,
            "description": options.description or " ".join(argv),
            "on_active": options.on_active,
            "timer_properties": options.timer_property,
            "wait": options.wait,
            "no_block": options.no_block,
        }
    )
    if not options.quiet:
        if "timer" in reply:
            print(f"Running timer as unit: {reply['timer']}", file=sys.stderr)
            print(f"Will run service as unit: {reply['unit']}", file=sys.stderr)
        else:
            print(f"Running as unit: {reply['unit']}", file=sys.stderr)
    if options.wait:
        return reply["status"] if reply["result"] != "success" else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
