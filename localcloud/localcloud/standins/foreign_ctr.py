"""`ctr` on a node whose architecture is not the machine's.

It replaces commands that search for the machine's platform in vain: `images
check`, `images ls`, which warns that it cannot calculate the size, and `run`,
which starts nothing. Other commands go to containerd's `ctr`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterable
from functools import cached_property

from content import Image, check, print_checks
from this_node import platform

CTR = "/run/localcloud/ctr"


class ForeignStore:
    def __init__(self, options: list[str]) -> None:
        self._options = options
        self.platform = platform()

    def _ctr(self, *arguments: str) -> bytes | None:
        command = [CTR, *self._options, *arguments]
        done = subprocess.run(command, capture_output=True, check=False)
        return done.stdout if done.returncode == 0 else None

    def images(self, filters: list[str]) -> Iterable[Image]:
        listed = (self._ctr("images", "ls", *filters) or b"").decode().splitlines()[1:]
        for row in listed:
            name, media_type, digest = row.split()[:3]
            yield Image(name, media_type, digest)

    def blob(self, digest: str) -> bytes | None:
        return self._ctr("content", "get", digest)

    def has(self, digest: str) -> bool:
        return digest in self._contents

    def is_unpacked(self, chain_id: str) -> bool:
        return chain_id in self._snapshots

    @cached_property
    def _contents(self) -> set[str]:
        return set((self._ctr("content", "ls", "--quiet") or b"").decode().split())

    @cached_property
    def _snapshots(self) -> set[str]:
        rows = (self._ctr("snapshots", "ls") or b"").decode().splitlines()[1:]
        return {row.split()[0] for row in rows if row.strip()}


def list_images(arguments: list[str]) -> int:
    done = subprocess.run([CTR, *arguments], stderr=subprocess.PIPE, text=True, check=False)
    for line in done.stderr.splitlines():
        if "failed calculating size" not in line:
            print(line, file=sys.stderr)
    return done.returncode


def run_nothing(store: ForeignStore, words: list[str]) -> int:
    """Accepts the start of a container if the image is unpacked. The machine cannot run it."""
    for image in store.images([]):
        if image.name in words and check(store, image).ready:
            return 0
    print("ctr: no such image is unpacked", file=sys.stderr)
    return 1


def main() -> int:
    # Options before the command belong to containerd's client and are passed on.
    options = []
    words = sys.argv[1:]
    while words and words[0].startswith("-"):
        options.append(words.pop(0))
        if options[-1] in ("-a", "-n", "--address", "--namespace") and words:
            options.append(words.pop(0))
    if words[:1] == ["run"]:
        return run_nothing(ForeignStore(options), words)
    about_images = words[:1] in (["images"], ["image"], ["i"])
    if about_images and words[1:2] in (["ls"], ["list"]):
        return list_images([*options, *words])
    if not about_images or words[1:2] != ["check"]:
        os.execv(CTR, [CTR, *options, *words])
    parser = argparse.ArgumentParser(prog="ctr images check")
    parser.add_argument("-q", "--quiet", action="store_true")
    parser.add_argument("--snapshotter", default="")
    parser.add_argument("filters", nargs="*")
    asked = parser.parse_args(words[2:])
    print_checks(ForeignStore(options), asked.filters, asked.quiet)
    return 0


if __name__ == "__main__":
    sys.exit(main())
