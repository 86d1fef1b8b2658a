"""A node: its boot, its services, and its end.

Its arguments are the number of a socket for the local cloud's commands and the
node's events, and the node's configuration as a JSON file. When the local cloud
ends or dies, the socket's other end closes and the node ends. On a real node
this process is PID 1 of its namespace, so the kernel ends all other processes
in it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boot
import rootfs
from journal import Journal
from loop import Loop, kill_session
from systemd import SOCKET, Refused, Systemd, Unit

# Programs for scripts in the control and the admin container. Neither has
# containerd's client or systemd's: only sheltie leads to those.
CONTAINER_TOOLS = """
    [ awk base64 basename bash cat chmod cp cut date dirname echo env expr false grep head id jq ls
    mkdir mktemp mv nproc printf pwd readlink rm sed seq sh sha256sum sleep sort stat tail tee test
    timeout touch tr true uname uniq wc xargs
""".split()
HOST_TOOLS = """
    blkid cat chmod cp date df du echo env false find findmnt fstrim grep head id ln ls
    mkdir mount mv nproc printf readlink rm rmdir sed shred sleep sort stat sync tail tee test
    timeout touch tr true umount uname wc xfs_growfs xfs_info
""".split()
STANDINS = {
    "systemctl": "systemctl.py",
    "systemd-run": "systemd_run.py",
    "journalctl": "journalctl.py",
    "host-ctr": "host_ctr.py",
}
# On a simulated node these run confined to its directory: on the host nothing
# else is found, in the containers they replace what could change a file.
CONFINED = (
    *("cat", "df", "find", "ls", "mkdir", "rm", "rmdir", "sha256sum", "stat", "sync", "tee"),
    *("touch", "uname"),
)
CHANGING = ("chmod", "cp", "mkdir", "mv", "rm", "tee", "touch")


class Node:
    def __init__(self, config: dict[str, Any], channel: socket.socket) -> None:
        self.config = config
        self.channel = channel
        self.simulated: bool = config["kind"] == "simulated"
        self.root = Path(config["root"]) if self.simulated else Path("/")
        self.shims = self.root / "run/localcloud"
        self.loop = Loop()
        self.running: dict[str, int] = {}
        """Process IDs of the local cloud's running commands."""
        self.ending = False
        self.halted = False
        """Whether the boot stopped without the data volume."""
        self._containerd_stopped: Callable[[], None] = lambda: None
        """Callbacks for the end of containerd."""

    # Boot

    def boot(self) -> None:
        if self.simulated:
            self._prepare_directory()
        else:
            self._enter_root()
        self._install_programs()
        self.settings = boot.read_settings(self.config["user_data"])
        machine_id = boot.write_configuration(self.root, self.config, self.settings or {})
        boot.write_state(self.root, self.config)
        if self.config["stuck_mount"] and not self.simulated:
            rootfs.mount("tmpfs", "/var/lib/kubelet/stuck", "-t", "tmpfs")
        self.journal = Journal(self.root, machine_id)
        self.systemd = Systemd(
            self.loop, self.journal, self.root, self._environment("host"), self._bin("host")
        )
        self.systemd.poweroff = self.power_off
        self._add_units()
        self.systemd.listen(self.root / SOCKET)
        self._start_services()

    def _enter_root(self) -> None:
        config = self.config
        rootfs.enter(
            Path(config["directory"]),
            Path(config["volume"]),
            Path(__file__).parent,
            Path(config["ca"]),
            Path(sys.base_prefix),
            config["cgroups"],
            Path(config["containerd"]),
        )
        socket.sethostname(config["hostname"])

    def _prepare_directory(self) -> None:
        # Without a PID namespace, this process must adopt orphans instead of PID 1.
        boot.become_subreaper()
        self.root.mkdir(parents=True, exist_ok=True)
        local = self.root / "local"
        if not local.is_symlink():
            local.symlink_to(self.config["volume"])
        for name in ("var", "opt"):
            (local / name).mkdir(exist_ok=True)
            if not (self.root / name).is_symlink():
                (self.root / name).symlink_to(f"local/{name}")
        shutil.rmtree(self.root / "run", ignore_errors=True)
        self.shims.mkdir(parents=True)
        for name in ("etc", "tmp", "dev"):
            (self.root / name).mkdir(exist_ok=True)
        shutil.copy(self.config["ca"], self.shims / "ca.pem")

    def _bin(self, place: str) -> Path:
        return self.shims / "bin" / place

    def _environment(self, place: str) -> dict[str, str]:
        return {
            "PATH": str(self._bin(place)),
            "HOME": "/root",
            "TMPDIR": str(self.root / "tmp"),
            "LANG": "C.UTF-8",
            "LOCALCLOUD_ROOT": str(self.root),
            "LOCALCLOUD_BIN": str(self.shims / "bin"),
        }

    def _install_programs(self) -> None:
        for place in ("control", "admin", "host"):
            self._bin(place).mkdir(parents=True)
        for place in ("control", "admin"):
            for name in CONTAINER_TOOLS:
                if self.simulated and name in CHANGING:
                    self._launcher(self._bin(place) / name, "confined.py", name)
                else:
                    self._link(place, name)
        self._link("control", "apiclient", self._standin("apiclient"))
        self._link("admin", "sheltie", self._standin("sheltie"))
        for name, script in STANDINS.items():
            self._launcher(self._bin("host") / name, script)
        if self.simulated:
            self._launcher(self._bin("host") / "ctr", "simulated_ctr.py")
            for name in CONFINED:
                self._launcher(self._bin("host") / name, "confined.py", name)
            for name in ("sleep", "true", "false", "echo", "date"):
                self._link("host", name)
            return
        for name in (*HOST_TOOLS, "sha256sum"):
            self._link("host", name)
        if self.config["architecture"] == self.config["machine_architecture"]:
            self._link("host", "ctr", self.shims / "ctr")
        else:
            self._launcher(self._bin("host") / "ctr", "foreign_ctr.py")
        # Units and scripts also call them by the paths they have on Bottlerocket.
        for name in (*STANDINS, "ctr"):
            target = Path("/usr/bin") / name
            target.unlink(missing_ok=True)
            target.symlink_to(self._bin("host") / name)

    def _standin(self, name: str) -> Path:
        return Path(__file__).parent / name if self.simulated else self.shims / "standins" / name

    def _link(self, place: str, name: str, target: Path | None = None) -> None:
        if target is None:
            found = shutil.which(name)
            if found is None:
                return
            target = Path(found)
        (self._bin(place) / name).symlink_to(target)

    def _launcher(self, path: Path, script: str, *arguments: str) -> None:
        """Returns a command that runs one of our programs with any PATH.

        -S shortens the interpreter's start and limits imports to the standard
        library.
        """
        python = sys._base_executable  # type: ignore[attr-defined]
        libraries = ""
        if not self.simulated and python.startswith(rootfs.HIDDEN):
            prefix = f"{rootfs.SHIMS}/python"
            python = python.replace(sys.base_prefix, prefix, 1)
            libraries = f"LD_LIBRARY_PATH={prefix}/lib "
        words = " ".join((str(self._standin(script)), *arguments))
        path.write_text(f'#!/bin/sh\n{libraries}exec {python} -SEsB {words} "$@"\n')
        path.chmod(0o755)

    # Services

    def _add_units(self) -> None:
        add = self.systemd.add
        if not self.simulated:
            program = f"{rootfs.SHIMS}/containerd/containerd"
            command = [program, "--config", "/etc/containerd/config.toml"]
            containerd = Unit("containerd.service", "containerd container runtime")
            containerd.on_start = lambda: self._start_containerd(containerd, command)
            containerd.on_stop = lambda done: self._stop_containerd(containerd, done)
            add(containerd)
        else:
            add(Unit("containerd.service", on_start=self._ready, on_stop=lambda done: done()))
        add(Unit("host-containerd.service", on_start=lambda: None, on_stop=lambda done: done()))
        for name, stopped in (("admin", self._admin_stopped), ("control", self._control_stopped)):
            unit = Unit(f"host-containers@{name}.service", f"Host container: {name}")
            unit.on_start = self._admin_started if name == "admin" else self._control_started
            unit.on_stop = stopped
            add(unit)
        # It saves a new seed at its stop, also at shutdown.
        add(
            Unit(
                "systemd-random-seed.service",
                "Load/Save OS Random Seed",
                type="oneshot",
                on_start=lambda: boot.save_random_seed(self.root),
                on_stop=self._random_seed_stopped,
            )
        )
        # Without a cluster kubelet fails, and systemd restarts it without end.
        add(Unit("kubelet.service", "Kubelet", active="activating", sub="auto-restart"))

    def _start_services(self) -> None:
        for name in ("systemd-random-seed", "host-containerd", "containerd"):
            self.systemd.start(self.systemd.units[f"{name}.service"], lambda: None)
        if self.settings is None:
            return  # Bottlerocket does not get beyond user data that it cannot read.
        timings = self.config["timings"]
        delay = 0.0
        if not boot.setting(self.settings, "kubernetes", "hostname-override"):
            # Host containers wait for the end of the search for a host name.
            delay = timings["agent_seconds_without_hostname"]
        if self.config["credentials"]:
            # Without a role the node cannot pull the control container's image.
            agent = delay + timings["agent_seconds"]
            self.loop.after(agent, lambda: self._start_by_name("host-containers@control"))
        if boot.setting(self.settings, "host-containers", "admin", "enabled"):
            admin = delay + timings["admin_seconds"]
            self.loop.after(admin, lambda: self._start_by_name("host-containers@admin"))

    def _start_by_name(self, name: str) -> None:
        try:
            self.systemd.start(self.systemd.units[f"{name}.service"], lambda: None)
        except Refused:
            pass  # It was masked before its time came.

    def _start_containerd(self, unit: Unit, command: list[str]) -> None:
        with open("/run/localcloud/containerd.log", "ab") as log:
            unit.pid = self.loop.spawn(
                command,
                lambda code: self._containerd_exited(unit, command, code),
                stdout=log,
                stderr=log,
                # It finds its shim, runc, igzip and unpigz there. The shim has its own version.
                env={
                    **self._environment("host"),
                    **boot.network_environment(self.root),
                    "PATH": f"{rootfs.SHIMS}/containerd:{os.environ['PATH']}",
                },
            )
        self._await_socket(time.monotonic() + 60)

    def _await_socket(self, deadline: float) -> None:
        try:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect("/run/containerd/containerd.sock")
        except OSError:
            if time.monotonic() > deadline:
                log = Path("/run/localcloud/containerd.log").read_text(errors="replace")
                self.tell("failed", message=f"containerd does not answer: {log[-2000:]}")
                return
            self.loop.after(0.05, lambda: self._await_socket(deadline))
            return
        if self.config["architecture"] == self.config["machine_architecture"]:
            self._load_pause_image()
        else:
            # Containers of another architecture do not run here.
            self._ready()

    def _load_pause_image(self) -> None:
        """Imports the image of pod sandboxes, as kubelet.service does before it starts."""

        def ended(code: int) -> None:
            if code == 0:
                self._ready()
            elif not self.ending:
                self.tell("failed", message=f"the pause image is not loaded: {log.read_text()}")

        log = Path("/run/localcloud/pause.log")
        with log.open("wb") as output:
            self.loop.spawn(
                ["/bin/sh", "-c", boot.LOAD_PAUSE_IMAGE],
                ended,
                stdout=output,
                stderr=output,
                env=self._environment("host"),
            )

    def _containerd_exited(self, unit: Unit, command: list[str], code: int) -> None:
        unit.pid = 0
        if unit.active == "deactivating":
            finish, self._containerd_stopped = self._containerd_stopped, lambda: None
            finish()
            return
        self.journal.write(unit.name, "systemd", 1, f"containerd ended with {code}, starting again")
        self.loop.after(1, lambda: self._start_containerd(unit, command))

    def _stop_containerd(self, unit: Unit, done: Callable[[], None]) -> None:
        self._containerd_stopped = done
        kill_session(unit.pid, signal.SIGTERM)

    def _ready(self) -> None:
        self.tell("ready")

    def _admin_started(self) -> None:
        boot.write_admin_state(self.root)
        (self.shims / "admin-is-up").touch()

    def _admin_stopped(self, done: Callable[[], None]) -> None:
        (self.shims / "admin-is-up").unlink(missing_ok=True)
        done()

    def _control_started(self) -> None:
        boot.write_agent_state(self.root, self.config["instance_id"])
        self.tell("agent", online=True)

    def _control_stopped(self, done: Callable[[], None]) -> None:
        for pid in self.running.values():
            kill_session(pid, signal.SIGKILL)
        self.tell("agent", online=False)
        done()

    def _random_seed_stopped(self, done: Callable[[], None]) -> None:
        boot.save_random_seed(self.root)
        done()

    # Commands of the local cloud

    def tell(self, event: str, **values: Any) -> None:
        try:
            self.channel.sendall(json.dumps({"event": event, **values}).encode() + b"\n")
        except OSError:
            self.cut_power()

    def listen(self) -> None:
        self.received = b""
        self.loop.watch(self.channel, self._orders)

    def _orders(self) -> None:
        chunk = self.channel.recv(65536)
        if not chunk:
            self.cut_power()
        *lines, self.received = (self.received + chunk).split(b"\n")
        for line in lines:
            order = json.loads(line)
            getattr(self, f"order_{order['order']}")(order)

    def order_run(self, order: dict[str, Any]) -> None:
        """Runs a script in the control container and keeps its files as the agent does."""
        directory = boot.command_directory(self.root, self.config["instance_id"], order["id"])
        script = directory / "_script.sh"
        script.write_text(order["script"])
        program = shutil.which("bash", path=str(self._bin("control"))) or "bash"
        self._execute(order["id"], [program, str(script)], directory, self._environment("control"))

    def order_ensure_image(self, order: dict[str, Any]) -> None:
        """Pulls an image if the node lacks it."""
        directory = self.shims / "images" / order["id"]
        directory.mkdir(parents=True)
        program = self._bin("host") / "ensure-image"
        if not program.exists():
            self._launcher(program, "ensure_image.py")
        argv = [str(program), order["reference"]]
        self._execute(order["id"], argv, directory, self._environment("host"))

    def _execute(
        self, identity: str, argv: list[str], directory: Path, environment: dict[str, str]
    ) -> None:
        def exited(code: int) -> None:
            self.running.pop(identity, None)
            self.tell(
                "exited",
                id=identity,
                code=code,
                stdout=read_head(directory / "stdout"),
                stderr=read_head(directory / "stderr"),
            )

        with open(directory / "stdout", "wb") as out, open(directory / "stderr", "wb") as err:
            self.running[identity] = self.loop.spawn(
                argv, exited, stdout=out, stderr=err, env=environment, cwd=directory
            )

    def order_cancel(self, order: dict[str, Any]) -> None:
        if order["id"] in self.running:
            kill_session(self.running[order["id"]], signal.SIGKILL)

    def order_power_off(self, _: dict[str, Any]) -> None:
        self.power_off()

    def order_cut_power(self, _: dict[str, Any]) -> None:
        self.cut_power()

    # The end

    def power_off(self) -> None:
        """Stops every unit, unmounts the data volume, then ends the node."""
        if self.ending:
            return
        self.ending = True
        if self.halted:
            os._exit(0)
        units = [u for u in self.systemd.units.values() if not u.ended and u.sub != "auto-restart"]
        # containerd stops last: other units can still need it.
        units.sort(key=lambda unit: unit.name == "containerd.service")

        def stop_next() -> None:
            if not units:
                self._off()
                return
            self.systemd.stop(units.pop(0), stop_next)

        stop_next()

    def _off(self) -> None:
        self.journal.close()
        if self.simulated:
            boot.kill_descendants()
        else:
            with contextlib.suppress(ProcessLookupError):
                os.kill(-1, signal.SIGKILL)
            # They must end before the unmount of the volume.
            while boot.reap_one():
                pass
            rootfs.leave()
        os._exit(0)

    def cut_power(self) -> None:
        """Ends the node at once; unwritten data is lost."""
        if self.simulated:
            boot.kill_descendants()
        elif not self.halted:
            subprocess.run(["xfs_io", "-x", "-c", "shutdown", "/local"], check=False)
        os._exit(1)


def read_head(path: Path, limit: int = 100_000) -> str:
    """Returns the beginning of an output, longer than the API's limit."""
    try:
        with path.open("rb") as file:
            return file.read(limit).decode(errors="replace")
    except FileNotFoundError:
        # A command that empties the agent's directory removes its own output too.
        return ""


def main() -> None:
    os.umask(0o022)
    channel = socket.socket(fileno=int(sys.argv[1]))
    config = json.loads(Path(sys.argv[2]).read_text())
    if config["kind"] == "real" and os.getpid() != 1:
        # The code below mounts, and at the end kills every process that it sees.
        sys.exit("a real node starts in namespaces of its own only")
    node = Node(config, channel)
    node.listen()
    try:
        node.boot()
    except rootfs.UnmountableError as error:
        # The instance keeps running, but no service starts: var.mount requires /local, and
        # containerd and the host containers require /var.
        # The texts of mount(8) and of systemd.
        print(f"mount: /local: {error}", file=sys.stderr)
        print("Failed to mount Local Directory (/local).", file=sys.stderr, flush=True)
        node.halted = True
    except (OSError, subprocess.CalledProcessError) as error:
        details = getattr(error, "stderr", "") or ""
        node.tell("failed", message=f"{error} {details}".strip())
        os._exit(1)
    node.loop.run_forever()


if __name__ == "__main__":
    main()
