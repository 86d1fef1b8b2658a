"""The root of a real node: nothing that runs in it can reach the machine's files.

The machine's root is the lower layer of an overlay whose upper layer is
memory. After `pivot_root` the node's mount namespace does not contain the
machine's own tree. Writes go to memory, or to the data volume at /local.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

XFS_MAGIC = b"XFSB"
LABEL = "BOTTLEROCKET"
"""XFS labels have 12 characters; Bottlerocket labels the partition."""

HIDDEN = ("/dev", "/opt", "/proc", "/run", "/sys", "/tmp", "/var")  # noqa: S108
"""Directories of the machine that the node covers with its own."""
DEVICES = ("full", "fuse", "null", "random", "tty", "urandom", "zero")
SHIMS = "/run/localcloud"
KERNEL_LOG = "kernel.log"
"""Messages of the kernel about the data volume, for the journal."""

_libc = ctypes.CDLL(None, use_errno=True)
MNT_DETACH = 2


class UnmountableError(Exception):
    """The data volume has a file system that cannot be mounted."""


def run(*argv: str) -> None:
    """Runs a command. Raises CalledProcessError with its `stderr`."""
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, capture_output=True, text=True)


def mount(source: str | Path, target: str | Path, *options: str) -> None:
    Path(target).mkdir(parents=True, exist_ok=True)
    run("mount", *options, str(source), str(target))


def bind_file(source: str | Path, target: Path, *options: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.touch()
    run("mount", "--bind", *options, str(source), str(target))


def format_if_empty(volume: Path) -> None:
    with volume.open("rb") as file:
        if file.read(len(XFS_MAGIC)) == XFS_MAGIC:
            return
    run("mkfs.xfs", "-q", "-K", "-L", LABEL, str(volume))


def enter(
    directory: Path,
    volume: Path,
    standins: Path,
    ca: Path,
    python: Path,
    cgroups: dict[str, str],
    containerd: Path,
) -> None:
    """Switches this process to the node's root; needs namespaces of its own.

    `directory` is an empty directory of the machine to mount on, `python` the
    prefix of the interpreter that runs the stand-ins, `cgroups` the node's
    groups by the directory of their hierarchy, `containerd` the directory of
    containerd's programs.
    """
    root, memory = directory / "root", directory / "memory"
    mount("tmpfs", memory, "-t", "tmpfs", "-o", "mode=755")
    upper, work = memory / "upper", memory / "work"
    upper.mkdir()
    work.mkdir()
    mount("overlay", root, "-t", "overlay", "-o", f"lowerdir=/,upperdir={upper},workdir={work}")

    format_if_empty(volume)
    messages = mount_volume(volume, root / "local")
    run("xfs_growfs", str(root / "local"))
    for name in ("var", "opt"):
        (root / "local" / name).mkdir(exist_ok=True)
        mount(root / "local" / name, root / name, "--bind")

    for name in ("run", "tmp"):
        mount("tmpfs", root / name, "-t", "tmpfs", "-o", "mode=755")
    _mount_devices(root / "dev")
    mount("proc", root / "proc", "-t", "proc")
    # The kernel belongs to the machine: only cgroups are writable.
    mount(root / "proc/sys", root / "proc/sys", "--bind", "-o", "ro")
    mount("/sys", root / "sys", "--bind", "-o", "ro")
    for hierarchy, group in cgroups.items():
        if hierarchy == ".":
            mount(group, root / "sys/fs/cgroup", "--bind")
            break
    else:
        mount("tmpfs", root / "sys/fs/cgroup", "-t", "tmpfs", "-o", "mode=755")
        for hierarchy, group in cgroups.items():
            mount(group, root / "sys/fs/cgroup" / hierarchy, "--bind")

    shims = root / SHIMS.lstrip("/")
    mount(standins, shims / "standins", "--bind", "-o", "ro")
    mount(containerd, shims / "containerd", "--bind", "-o", "ro")
    (shims / "ctr").symlink_to("containerd/ctr")
    if str(python).startswith(HIDDEN):
        mount(python, shims / "python", "--bind", "-o", "ro")
    shutil.copy(ca, shims / "ca.pem")
    # The machine's file is often a link to something below /run.
    resolv = Path("/etc/resolv.conf")
    text = resolv.read_bytes() if resolv.exists() else b""
    (root / "etc/resolv.conf").unlink(missing_ok=True)
    (root / "etc/resolv.conf").write_bytes(text)

    # A static program. Containers can run it without any file of their image.
    shutil.copy(shutil.which("busybox") or "/bin/busybox", root / "usr/bin/apiclient")
    (shims / KERNEL_LOG).write_text("\n".join(messages))

    _pivot(root)


def mount_volume(volume: Path, target: Path) -> list[str]:
    """Mounts the data volume, and returns the kernel's messages about it."""
    began = time.clock_gettime(time.CLOCK_MONOTONIC)
    state = subprocess.run(
        ["xfs_logprint", "-t", str(volume)], capture_output=True, text=True, check=False
    ).stdout
    try:
        # A copy of a volume has the same UUID, and both can be mounted at once.
        mount(volume, target, "-t", "xfs", "-o", "loop,noatime,nouuid")
    except subprocess.CalledProcessError as error:
        raise UnmountableError(error.stderr.strip()) from error
    with open("/proc/self/mounts", encoding="utf-8") as mounts:
        source = next(line.split()[0] for line in mounts if line.split()[1] == str(target))
    device = f"XFS ({Path(source).name}): "
    messages = [text for text in kernel_messages(began) if text.startswith(device)]
    if messages:
        return messages
    # Some machines hide the kernel's log. These are its words, from the log of the file system:
    # https://github.com/torvalds/linux/blob/v6.12/fs/xfs/xfs_log.c
    if "state: <CLEAN>" in state:
        return [f"{device}Ending clean mount"]
    return [f"{device}Starting recovery (logdev: internal)"]


def kernel_messages(since: float) -> Iterator[str]:
    """Returns the messages in the kernel's log since a time; none if it is not readable.

    The format of a record: https://docs.kernel.org/admin-guide/abi-testing.html, `/dev/kmsg`
    """
    try:
        log = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return
    try:
        while True:
            try:
                record = os.read(log, 8192).decode(errors="replace")
            except BrokenPipeError:
                continue  # The kernel has overwritten the next record.
            except OSError:
                return
            fields, _, text = record.partition(";")
            if int(fields.split(",")[2]) >= since * 1e6:
                yield text.partition("\n")[0]
    finally:
        os.close(log)


def _mount_devices(dev: Path) -> None:
    """Creates a /dev with harmless devices only, without the machine's disks."""
    mount("tmpfs", dev, "-t", "tmpfs", "-o", "mode=755")
    for name in DEVICES:
        if os.path.exists(f"/dev/{name}"):
            bind_file(f"/dev/{name}", dev / name)
    mount("devpts", dev / "pts", "-t", "devpts", "-o", "newinstance,ptmxmode=0666,mode=620")
    mount("tmpfs", dev / "shm", "-t", "tmpfs")
    (dev / "ptmx").symlink_to("pts/ptmx")
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        (dev / name).symlink_to(f"/proc/self/fd/{number}")
    (dev / "fd").symlink_to("/proc/self/fd")


def _pivot(root: Path) -> None:
    """Calls pivot_root(".", "."), then unmounts the old root on top."""
    os.chdir(root)
    if _libc.syscall(SYS_PIVOT_ROOT, b".", b".") != 0:
        raise OSError(ctypes.get_errno(), "pivot_root failed")
    if _libc.umount2(b".", MNT_DETACH) != 0:
        raise OSError(ctypes.get_errno(), "the machine's root cannot be unmounted")
    os.chdir("/")


SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}[os.uname().machine]


def leave() -> None:
    """Unmounts the data volume, with all writes complete."""
    run("sync")
    for path in ("/var", "/opt", "/local"):
        # Overlays of containers can still be mounted below.
        subprocess.run(["umount", "-R", path], capture_output=True, check=False)
