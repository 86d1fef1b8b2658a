"""A simulated node's coreutils: the real program, inside the node's directory only.

Absolute paths in arguments move below the node's root. A path is refused if a
link leads out of the root. So `find /var/lib/kubelet -delete` deletes the
node's files and never the machine's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from this_node import FULL, ROOT


def main() -> int:
    program, *arguments = sys.argv[1:]
    if program == "sync":
        return 0
    if program == "df":
        return disk_usage(arguments)
    if program == "uname":
        return subprocess.call([real_program(program), *arguments])
    words = []
    for previous, word in zip(["", *arguments], arguments, strict=False):
        if previous == "-exec":
            words.append(executable(word))
        else:
            words.append(confine(word) if word.startswith("/") else word)
    for word in words:
        if ".." in Path(word).parts:
            sys.exit(f"{program}: {word}: '..' is not simulated")
    # A service without a working directory starts at the root.
    here = Path.cwd()
    return subprocess.call([real_program(program), *words], cwd=here if inside(here) else ROOT)


def real_program(name: str) -> str:
    return shutil.which(name, path="/usr/bin:/bin:/usr/sbin:/sbin") or sys.exit(
        f"{name}: command not found"
    )


def executable(path: str) -> str:
    """Returns the program for find's `-exec`. It gets only paths below find's own."""
    name = Path(path).name
    if name not in ("cat", "sha256sum", "shred"):
        sys.exit(f"find: -exec {path} is not simulated")
    return real_program(name)


def confine(path: str) -> str:
    below = ROOT / path.lstrip("/")
    if not inside(below):
        sys.exit(f"{path}: leads out of the simulated node")
    return str(below)


def inside(path: Path) -> bool:
    """Returns whether the path stays in the root or on the node's volume."""
    real = Path(os.path.realpath(path))
    homes = (Path(os.path.realpath(ROOT)), Path(os.path.realpath(ROOT / "local")))
    return any(real.is_relative_to(home) for home in homes)


def disk_usage(arguments: list[str]) -> int:
    """`df -B1 --output=size,used /local`, from the volume's nominal size."""
    wanted = ["size", "used"]
    for word in arguments:
        if word.startswith("--output="):
            wanted = word.removeprefix("--output=").split(",")
    size = int((ROOT / "local/.size").read_text())
    files = (f for f in (ROOT / "local").resolve().rglob("*") if not f.is_dir())
    used = size if FULL.exists() else sum(f.lstat().st_size for f in files)
    values = {"size": size, "used": used, "avail": size - used, "target": "/local", "source": "-"}
    headers = {"size": "1B-blocks", "used": "Used", "avail": "Avail", "target": "Mounted on"}
    headers["source"] = "Filesystem"
    unknown = [name for name in wanted if name not in values]
    if unknown:
        sys.exit(f"df: option --output: field {unknown[0]!r} unknown")
    print(" ".join(headers[name] for name in wanted))
    print(" ".join(str(values[name]) for name in wanted))
    return 0


if __name__ == "__main__":
    sys.exit(main())
