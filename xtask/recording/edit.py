"""Edits a terminal recording (asciicast v2): removes the time of day and shortens it.

usage: edit.py RECORDING > EDITED
"""

import json
import re
import sys

# Speed compared with the recording.
SPEED = 2
# Seconds within which outputs become one event, so that no time is split between two events.
MERGED = 0.1

# Execution names contain the time since 1970, and tables contain dates. The replacements have the
# same width.
TIMES = [
    (re.compile(r"\bdemo-\d{9}\b"), "demo-123456789"),
    (re.compile(r"\bdemo-manual-\d{13}\b"), "demo-manual-1234567890123"),
    (re.compile(r"\b\d{4}-\d\d-\d\d([T ])\d\d:\d\d"), r"2026-01-01\g<1>00:00"),
    (re.compile(r"(2026-01-01T00:00):\d\d\.\d+"), r"\1:00.000000000"),
]


def main() -> None:
    with open(sys.argv[1], encoding="utf-8") as recording:
        header, *events = (json.loads(line) for line in recording)
    merged: list[tuple[float, str]] = []
    for seconds, kind, text in events:
        at = seconds / SPEED
        if kind != "o":
            continue
        if merged and at - merged[-1][0] < MERGED:
            merged[-1] = (merged[-1][0], merged[-1][1] + text)
        else:
            merged.append((at, text))
    print(json.dumps({key: header[key] for key in ("version", "width", "height")}))
    for at, text in merged:
        for pattern, replacement in TIMES:
            text = pattern.sub(replacement, text)
        print(json.dumps([round(at, 3), "o", text], ensure_ascii=False))


main()
