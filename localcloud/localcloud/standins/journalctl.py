"""`journalctl`: prints the log of this node's units."""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time

from client import ask
from journal import BOOT_ID, records
from systemd import full_name
from this_node import ROOT


def line(record: dict, form: str) -> str:
    if form == "cat":
        return record["message"]
    if form == "json":
        return json.dumps(
            {
                "__REALTIME_TIMESTAMP": str(int(record["time"] * 1e6)),
                "_SYSTEMD_UNIT": record["unit"],
                "SYSLOG_IDENTIFIER": record["identifier"],
                "_PID": str(record["pid"]),
                "MESSAGE": record["message"],
            }
        )
    shape = "%Y-%m-%dT%H:%M:%S+0000" if form == "short-iso" else "%b %d %H:%M:%S"
    when = time.strftime(shape, time.gmtime(record["time"]))
    sender = f"{record['identifier']}[{record['pid']}]"
    return f"{when} {platform.node()} {sender}: {record['message']}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="journalctl")
    parser.add_argument("-u", "--unit", action="append", default=[])
    parser.add_argument("-n", "--lines")
    parser.add_argument("-o", "--output", default="short")
    parser.add_argument("-q", "--quiet", action="store_true")
    parser.add_argument("-r", "--reverse", action="store_true")
    parser.add_argument("-b", "--boot", action="store_true")
    parser.add_argument("-k", "--dmesg", action="store_true")
    parser.add_argument("-a", "--all", action="store_true")
    parser.add_argument("--no-pager", action="store_true")
    parser.add_argument("--no-hostname", action="store_true")
    parser.add_argument("--relinquish-var", action="store_true")
    options = parser.parse_args()
    if options.relinquish_var:
        ask({"do": "relinquish"})
        return 0

    units = {full_name(unit) for unit in options.unit}
    found = [r for r in records(ROOT) if not units or r["unit"] in units]
    if options.dmesg:
        found = [r for r in found if r["identifier"] == "kernel"]
    if options.boot or options.dmesg:
        this_boot = (ROOT / BOOT_ID).read_text()
        found = [r for r in found if r["boot"] == this_boot]
    if options.lines and options.lines != "all":
        found = found[-int(options.lines) :] if int(options.lines) else []
    if options.reverse:
        found.reverse()
    if not found and not options.quiet:
        print("-- No entries --")
    for record in found:
        print(line(record, options.output))
    return 0


if __name__ == "__main__":
    sys.exit(main())
