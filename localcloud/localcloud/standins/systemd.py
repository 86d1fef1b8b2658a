"""A small systemd: units, transient services and timers, and their journal.

`systemctl` and `systemd-run` are its clients over a socket. States, results,
exit statuses and the set of properties follow systemd.
"""

from __future__ import annotations

import fnmatch
import json
import os
import shlex
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from journal import Journal
from loop import Loop, kill_session

SOCKET = "run/localcloud/manager.sock"
STOP_SECONDS = 90.0
ACCURACY_SECONDS = 60.0
"""Default of AccuracySec in systemd.timer(5). A timer elapses in this time, here at its end."""
EXEC_FAILED = 203
"""EXIT_EXEC of systemd.exec(5): the program could not be started."""

Done = Callable[[], None]
Reply = dict[str, Any]

# Properties of a transient unit without a visible effect on a node.
WITHOUT_EFFECT = frozenset(
    """
    CPUQuota CPUWeight CollectMode Delegate Description IOSchedulingClass IOSchedulingPriority
    IOWeight KillMode LimitNOFILE LogLevelMax MemoryHigh MemoryMax Nice OOMPolicy OOMScoreAdjust
    SendSIGKILL Slice StandardInput TasksMax TimeoutStopSec
    """.split()
)


class Refused(Exception):
    """Error text for the client's stderr, and its exit code."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


@dataclass
class Command:
    argv: list[str]
    may_fail: bool = False

    @classmethod
    def parse(cls, text: str) -> Command:
        """An `Exec…=` line: prefix characters, then quoted words."""
        may_fail = False
        while text[:1] in "-:+!@" and text:
            may_fail |= text[0] == "-"
            text = text[1:]
        return cls(shlex.split(text), may_fail)


@dataclass
class Unit:
    name: str
    description: str = ""
    load: str = "loaded"
    active: str = "inactive"
    sub: str = "dead"
    result: str = "success"
    type: str = "simple"
    remain: bool = False
    collect: bool = False
    transient: bool = False
    pre: list[Command] = field(default_factory=list)
    main: Command | None = None
    start_post: list[Command] = field(default_factory=list)
    post: list[Command] = field(default_factory=list)
    after: list[str] = field(default_factory=list)
    """Units whose jobs end before this unit starts."""
    job: int = 0
    """ID of the start job that waits or runs, or 0."""
    environment: dict[str, str] = field(default_factory=dict)
    environment_files: list[str] = field(default_factory=list)
    directory: str = "/"
    identifier: str = ""
    console: bool = False
    """Whether the output also goes to the console."""
    output_file: str = ""
    """File for the standard output; empty for the journal."""
    start_seconds: float | None = None
    runtime_seconds: float | None = None
    pid: int = 0
    main_pid: int = 0
    main_code: int = 0
    main_status: int = 0
    started: float = 0
    exited: float = 0
    generation: int = 0
    """Counts starts, so that a late timer of an earlier start does nothing."""
    waiting: list[Done] = field(default_factory=list)
    """Clients that wait until the unit's job has ended."""
    on_start: Callable[[], None] | None = None
    on_stop: Callable[[Done], None] | None = None

    @property
    def ended(self) -> bool:
        return self.active in ("inactive", "failed")

    def properties(self) -> dict[str, str]:
        """Returns properties in systemd's order: first the service's, then the unit's."""
        return {
            "Type": self.type,
            "RemainAfterExit": "yes" if self.remain else "no",
            "MainPID": str(self.main_pid if self.sub == "running" else 0),
            "Result": self.result,
            "NRestarts": "0",
            "ExecMainStartTimestamp": timestamp(self.started),
            "ExecMainExitTimestamp": timestamp(self.exited),
            "ExecMainPID": str(self.main_pid),
            "ExecMainCode": str(self.main_code),
            "ExecMainStatus": str(self.main_status),
            "Id": self.name,
            "Names": self.name,
            "Description": self.description or self.name,
            "LoadState": self.load,
            "ActiveState": self.active,
            "SubState": self.sub,
            "Job": str(self.job or ""),
            "UnitFileState": "masked-runtime" if self.load == "masked" else "",
            "Transient": "yes" if self.transient else "no",
        }


def timestamp(seconds: float) -> str:
    if not seconds:
        return ""
    return time.strftime("%a %Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))


def full_name(name: str) -> str:
    known = (".service", ".timer", ".target", ".mount", ".socket", ".slice")
    return name if name.endswith(known) else f"{name}.service"


def seconds(text: str) -> float:
    """Parses a time span of systemd.time(7); without a unit it is in seconds."""
    units = {"ms": 0.001, "s": 1, "sec": 1, "min": 60, "m": 60, "h": 3600}
    for unit in sorted(units, key=len, reverse=True):
        if text.endswith(unit):
            return float(text[: -len(unit)]) * units[unit]
    return float(text)


class Systemd:
    def __init__(
        self, loop: Loop, journal: Journal, root: Path, environment: dict[str, str], commands: Path
    ) -> None:
        """`commands` is the directory of the host's programs."""
        self.loop = loop
        self.journal = journal
        self.root = root
        self.environment = environment
        self.commands = commands
        self.units: dict[str, Unit] = {}
        self.jobs = 0
        """ID of the last job."""
        self.poweroff: Callable[[], None] = lambda: None

    def add(self, unit: Unit) -> Unit:
        self.units[unit.name] = unit
        return unit

    def resolve(self, program: str) -> str | None:
        """Returns the path of a program; an absolute path stays unchanged.

        On a simulated node the root is a directory, and every path leads to one of
        our programs.
        """
        if self.root != Path("/"):
            program = os.path.basename(program)
        if program.startswith("/"):
            return program if os.access(program, os.X_OK) else None
        path = self.commands / program
        return str(path) if path.exists() else None

    # Starting and stopping

    def start(self, unit: Unit, done: Done) -> None:
        """Adds a job that starts the unit, and calls `done` at its end.

        The job of a unit waits while a unit in its `After=` has a job, and goes on after
        its failure too: `job_is_runnable` in src/core/job.c of systemd. A second job joins
        the first. The behaviour was compared with systemd 252.
        """
        if unit.load == "masked":
            raise Refused(f"Failed to start {unit.name}: Unit {unit.name} is masked.")
        if unit.job:
            unit.waiting.append(done)
            return
        if not unit.ended:
            done()
            return
        self.jobs += 1
        unit.job = self.jobs
        unit.waiting.append(done)
        if not self._is_held_back(unit):
            self._run_job(unit)

    def _is_held_back(self, unit: Unit) -> bool:
        return any(name in self.units and self.units[name].job for name in unit.after)

    def _run_job(self, unit: Unit) -> None:
        unit.generation += 1
        unit.result, unit.main_status, unit.main_code, unit.exited = "success", 0, 0, 0.0
        if unit.on_start is not None:
            unit.started = time.time()
            unit.active, unit.sub = "active", "running"
            unit.on_start()
            self._job_ended(unit)
            return
        unit.active, unit.sub = "activating", "start-pre"
        if unit.start_seconds:
            self._limit(unit, unit.start_seconds, lambda: unit.active == "activating")
        self._run_each(unit, unit.pre, lambda: self._run_main(unit))

    def stop(self, unit: Unit, done: Done) -> None:
        """Stops a unit. A start job that still waits is canceled."""
        if unit.job and unit.ended:
            unit.result = "canceled"
            self._job_ended(unit)
        if unit.ended or unit.sub == "auto-restart":
            unit.active, unit.sub = "inactive", "dead"
            self._unload(unit)
            done()
            return
        if unit.on_stop is not None:
            unit.active, unit.sub = "deactivating", "stop"

            def stopped() -> None:
                unit.active, unit.sub = "inactive", "dead"
                done()

            unit.on_stop(stopped)
            return
        if not unit.pid:
            unit.active, unit.sub = "inactive", "dead"
            self._unload(unit)
            done()
            return
        unit.active, unit.sub = "deactivating", "stop-sigterm"
        unit.waiting.append(done)
        kill_session(unit.pid, signal.SIGTERM)
        generation = unit.generation
        self.loop.after(STOP_SECONDS, lambda: self._kill(unit, generation))

    def _kill(self, unit: Unit, generation: int) -> None:
        if unit.pid and unit.generation == generation:
            kill_session(unit.pid, signal.SIGKILL)

    def _limit(self, unit: Unit, limit: float, applies: Callable[[], bool]) -> None:
        generation = unit.generation

        def expired() -> None:
            if unit.generation == generation and unit.pid and applies():
                unit.result = "timeout"
                kill_session(unit.pid, signal.SIGKILL)

        self.loop.after(limit, expired)

    def _run_each(self, unit: Unit, commands: list[Command], then: Callable[[], None]) -> None:
        """Runs `ExecStartPre` or `ExecStartPost` commands one after the other, and then `then`."""
        if not commands:
            then()
            return
        command, *others = commands

        def exited(code: int) -> None:
            unit.pid = 0
            if unit.sub == "stop-sigterm":
                self._finish(unit)
            elif code and not command.may_fail:
                self._fail(unit, code)
            else:
                self._run_each(unit, others, then)

        self._exec(unit, command, exited)

    def _run_main(self, unit: Unit) -> None:
        assert unit.main is not None
        oneshot = unit.type == "oneshot"
        unit.active, unit.sub = ("activating", "start") if oneshot else ("active", "running")
        unit.started = time.time()

        def exited(code: int) -> None:
            unit.pid = 0
            unit.exited = time.time()
            # CLD_EXITED and CLD_KILLED of waitid(2), which systemd reports.
            unit.main_code = 1 if code >= 0 else 2
            unit.main_status = abs(code)
            stopping = unit.sub == "stop-sigterm"
            if code == 0 and not stopping and unit.start_post:
                unit.sub = "start-post"
                # The unit is active after them.
                self._run_each(unit, unit.start_post, lambda: self._finish(unit))
            elif code == 0 or (stopping and code in (-signal.SIGTERM, -signal.SIGINT)):
                self._finish(unit, stopping)
            else:
                self._fail(unit, code)

        unit.main_pid = self._exec(unit, unit.main, exited)
        if unit.runtime_seconds:
            self._limit(unit, unit.runtime_seconds, lambda: unit.sub == "running")
        if not oneshot:
            self._job_ended(unit)

    def _exec(self, unit: Unit, command: Command, exited: Callable[[int], None]) -> int:
        environment = self.environment | self._read_environment(unit) | unit.environment
        identifier = unit.identifier or os.path.basename(command.argv[0])
        program = self.resolve(command.argv[0])
        reader, writer = os.pipe()
        output = writer
        try:
            if program is None:
                raise FileNotFoundError(2, "No such file or directory")
            if unit.output_file:
                # Like systemd, it does not truncate the file.
                path = self.root / unit.output_file.lstrip("/")
                output = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
            unit.pid = self.loop.spawn(
                [program, *command.argv[1:]],
                exited,
                stdout=output,
                stderr=writer,
                env=environment,
                cwd=self.root / unit.directory.lstrip("/"),
            )
        except OSError as error:
            os.close(reader)
            text = f"Failed to locate executable {command.argv[0]}: {error.strerror}"
            self.journal.write(unit.name, "systemd", 1, text)
            self.loop.after(0, lambda: exited(EXEC_FAILED))
            return 0
        finally:
            os.close(writer)
            if output != writer:
                os.close(output)
        self._log_lines(unit, identifier, unit.pid, reader)
        return unit.pid

    def _read_environment(self, unit: Unit) -> dict[str, str]:
        found: dict[str, str] = {}
        for name in unit.environment_files:
            path = self.root / name.lstrip("-").lstrip("/")
            if name.startswith("-") and not path.exists():
                continue
            for line in path.read_text().splitlines():
                key, sign, value = line.partition("=")
                if sign and not line.lstrip().startswith("#"):
                    found[key.strip()] = value.strip().strip('"')
        return found

    def _log_lines(self, unit: Unit, identifier: str, pid: int, reader: int) -> None:
        os.set_blocking(reader, False)
        rest = b""

        def ready() -> None:
            nonlocal rest
            try:
                chunk = os.read(reader, 65536)
            except BlockingIOError:
                return
            *lines, rest = (rest + chunk).split(b"\n")
            if not chunk and rest:
                lines.append(rest)
            for line in lines:
                text = line.decode(errors="replace")
                self.journal.write(unit.name, identifier, pid, text)
                if unit.console:
                    # The form of journald. The node's own output is its console.
                    print(f"{identifier}[{pid}]: {text}", file=sys.stderr, flush=True)
            if not chunk:
                self.loop.forget(reader)
                os.close(reader)

        self.loop.watch(reader, ready)

    def _fail(self, unit: Unit, code: int) -> None:
        if unit.result != "timeout":
            unit.result = "exit-code" if code > 0 else "signal"
        unit.active, unit.sub = "failed", "failed"
        how = f"code=exited, status={code}" if code > 0 else f"code=killed, status={-code}"
        self.journal.write(unit.name, "systemd", 1, f"{unit.name}: Main process exited, {how}")
        text = f"{unit.name}: Failed with result '{unit.result}'."
        self.journal.write(unit.name, "systemd", 1, text)
        self._run_post(unit)
        self._job_ended(unit)
        if unit.collect:
            self._unload(unit)

    def _run_post(self, unit: Unit) -> None:
        """Starts the `ExecStopPost` commands. systemd also waits for them."""
        for command in unit.post:
            words = [word.replace("${SERVICE_RESULT}", unit.result) for word in command.argv]
            self._exec(unit, Command(words), lambda _: None)

    def _finish(self, unit: Unit, stopped: bool = False) -> None:
        if unit.remain and not stopped and unit.sub != "stop-sigterm":
            unit.active, unit.sub = "active", "exited"
        else:
            unit.active, unit.sub = "inactive", "dead"
        self.journal.write(unit.name, "systemd", 1, f"{unit.name}: Deactivated successfully.")
        if unit.sub == "dead":
            self._run_post(unit)
        self._job_ended(unit)
        if unit.ended:
            self._unload(unit)

    def _job_ended(self, unit: Unit) -> None:
        unit.job = 0
        waiting, unit.waiting = unit.waiting, []
        for done in waiting:
            done()
        for other in list(self.units.values()):
            if unit.name in other.after and other.job and other.ended:
                # It runs in its own turn, because the caller may still change the unit.
                self.loop.after(0, partial(self._run_if_due, other))

    def _run_if_due(self, unit: Unit) -> None:
        if unit.job and unit.ended and not self._is_held_back(unit):
            self._run_job(unit)

    def _unload(self, unit: Unit) -> None:
        """Removes a transient unit without references."""
        if unit.transient and (unit.active == "inactive" or unit.collect):
            self.units.pop(unit.name, None)

    # Requests of clients

    def listen(self, path: Path) -> None:
        server = socket.socket(socket.AF_UNIX)
        server.bind(str(path))
        server.listen(64)
        self.loop.watch(server, lambda: self._accept(server))

    def _accept(self, server: socket.socket) -> None:
        client, _ = server.accept()
        received = b""

        def ready() -> None:
            nonlocal received
            chunk = client.recv(65536)
            received += chunk
            if chunk and not received.endswith(b"\n"):
                return
            self.loop.forget(client)
            if chunk:
                self._serve(client, json.loads(received))

        self.loop.watch(client, ready)

    def _serve(self, client: socket.socket, request: Reply) -> None:
        def answer(reply: Reply) -> None:
            try:
                client.sendall(json.dumps(reply).encode() + b"\n")
            except OSError:
                pass  # The client was killed while it waited.
            client.close()

        handler = getattr(self, f"do_{request['do']}")
        try:
            handler(request, answer)
        except Refused as refusal:
            answer({"error": str(refusal), "code": refusal.code})

    def do_show(self, request: Reply, answer: Callable[[Reply], None]) -> None:
        shown = []
        for pattern in request["units"]:
            for unit in self._matching(pattern) or self._missing(pattern):
                shown.append(unit.properties())
        answer({"units": shown})

    def do_list(self, request: Reply, answer: Callable[[Reply], None]) -> None:
        patterns = [full_name(p) for p in request["units"]] or ["*"]
        found = [
            unit.properties()
            for name, unit in sorted(self.units.items())
            if any(fnmatch.fnmatchcase(name, p) for p in patterns)
        ]
        answer({"units": found})

    def do_start(self, request: Reply, answer: Callable[[Reply], None]) -> None:
        self._each(request, answer, "start", self.start)

    def do_stop(self, request: Reply, answer: Callable[[Reply], None]) -> None:
        self._each(request, answer, "stop", self.stop)

    def do_restart(self, request: Reply, answer: Callable[[Reply], None]) -> None:
        def restart(unit: Unit, done: Done) -> None:
            self.stop(unit, lambda: self.start(unit, done))

        self._each(request, answer, "restart", restart)

    def do_kill(self, request: Reply, answer: Callable[[Reply], None]) -> None:
        for unit in self._loaded(request["units"], "kill"):
            if unit.pid:
                kill_session(unit.pid, request["signal"])
        answer({})

    def do_reset_failed(self, request: Reply, answer: Callable[[Reply], None]) -> None:
        names = request["units"] or ["*"]
        for unit in self._loaded(names, "reset failed state of", code=1):
            if unit.active == "failed":
                unit.active, unit.sub, unit.result = "inactive", "dead", "success"
                self._unload(unit)
        answer({})

    def do_mask(self, request: Reply, answer: Callable[[Reply], None]) -> None:
        for name in map(full_name, request["units"]):
            unit = self.units.get(name) or self.add(Unit(name))
            unit.load = "masked"
            if request["now"]:
                self.stop(unit, lambda: None)
        answer({})

    def do_unmask(self, request: Reply, answer: Callable[[Reply], None]) -> None:
        for name in map(full_name, request["units"]):
            if name in self.units:
                self.units[name].load = "loaded"
        answer({})

    def do_relinquish(self, _: Reply, answer: Callable[[Reply], None]) -> None:
        self.journal.relinquish()
        answer({})

    def do_poweroff(self, _: Reply, answer: Callable[[Reply], None]) -> None:
        answer({})
        self.loop.after(0, self.poweroff)

    def do_run(self, request: Reply, answer: Callable[[Reply], None]) -> None:
        unit = self._transient(request)
        if unit.name in self.units:
            kind = "timer" if unit.name.endswith(".timer") else "service"
            raise Refused(
                f"Failed to start transient {kind} unit: "
                f"Unit {unit.name} was already loaded or has a fragment file."
            )
        self.add(unit)
        delay = request["on_active"]
        if delay is None and request["no_block"]:
            self.start(unit, lambda: None)
            answer({"unit": unit.name, "result": "success", "status": 0})
            return
        if delay is None:
            self.start(unit, lambda: self._answer_run(unit, request, answer))
            return
        accuracy = ACCURACY_SECONDS
        for text in request["timer_properties"]:
            name, _, value = text.partition("=")
            if name != "AccuracySec":
                raise Refused(f"Unknown assignment: {text}")
            accuracy = seconds(value)
        timer = self.add(
            Unit(unit.name.removesuffix(".service") + ".timer", transient=True, active="active")
        )
        timer.sub = "waiting"

        def elapsed() -> None:
            # The units do not contain a stopped timer.
            if self.units.get(timer.name) is timer:
                del self.units[timer.name]
                self.start(unit, lambda: None)

        self.loop.after(seconds(delay) + accuracy, elapsed)
        answer({"unit": unit.name, "timer": timer.name})

    def _answer_run(self, unit: Unit, request: Reply, answer: Callable[[Reply], None]) -> None:
        def report() -> None:
            answer({"unit": unit.name, "result": unit.result, "status": unit.main_status})

        if request["wait"] and not unit.ended and unit.sub != "exited":
            unit.waiting.append(report)
        elif unit.type == "oneshot" and unit.active == "failed":
            answer({"unit": unit.name, "error": f"Job for {unit.name} failed.", "code": 1})
        elif unit.result == "canceled":
            answer({"unit": unit.name, "error": f"Job for {unit.name} canceled.", "code": 1})
        else:
            report()

    def _transient(self, request: Reply) -> Unit:
        unit = Unit(
            full_name(request["unit"]),
            transient=True,
            remain=request["remain"],
            collect=request["collect"],
            description=request["description"],
            main=Command(request["argv"]),
            environment=dict(request["environment"]),
        )
        for text in request["properties"]:
            name, sign, value = text.partition("=")
            if not sign:
                raise Refused(f"Not an assignment: {text}")
            self._assign(unit, name, value)
        if unit.start_post and unit.type != "oneshot":
            raise Refused("ExecStartPost= is only modelled for Type=oneshot")
        program = unit.main.argv[0] if unit.main else ""
        if not program.startswith("/") and self.resolve(program) is None:
            raise Refused(f"Failed to find executable {program}: No such file or directory")
        return unit

    def _assign(self, unit: Unit, name: str, value: str) -> None:
        if name in ("Type", "ServiceType"):
            unit.type = value
        elif name == "ExecStartPre":
            unit.pre.append(Command.parse(value))
        elif name == "ExecStartPost":
            unit.start_post.append(Command.parse(value))
        elif name == "After":
            unit.after += value.split()
        elif name == "ExecStopPost":
            unit.post.append(Command.parse(value))
        elif name == "Environment":
            for assignment in shlex.split(value):
                key, _, text = assignment.partition("=")
                unit.environment[key] = text
        elif name == "EnvironmentFile":
            unit.environment_files.append(value)
        elif name == "RemainAfterExit":
            unit.remain = value in ("yes", "true", "1")
        elif name == "WorkingDirectory":
            unit.directory = value
        elif name == "SyslogIdentifier":
            unit.identifier = value
        elif name == "StandardOutput" and value.startswith("file:"):
            unit.output_file = value.removeprefix("file:")
        elif name in ("StandardOutput", "StandardError"):
            # Both streams share one pipe here.
            unit.console |= value == "journal+console"
        elif name == "TimeoutStartSec":
            unit.start_seconds = None if value == "infinity" else seconds(value)
        elif name == "RuntimeMaxSec":
            unit.runtime_seconds = None if value == "infinity" else seconds(value)
        elif name not in WITHOUT_EFFECT:
            raise Refused(f"Unknown assignment: {name}={value}")

    def _each(
        self,
        request: Reply,
        answer: Callable[[Reply], None],
        verb: str,
        act: Callable[[Unit, Done], None],
    ) -> None:
        """Acts on every existing unit; reports a missing one at the end."""
        units, missing = self._find(request["units"])
        reply: Reply = {}
        if missing:
            reply = {"error": f"Failed to {verb} {missing}: Unit {missing} not loaded.", "code": 5}
        left = len(units)
        waits = bool(units) and not request.get("no_block")
        if not waits:
            answer(reply)

        def done() -> None:
            nonlocal left
            left -= 1
            if left == 0 and waits:
                answer(reply)

        for unit in units:
            act(unit, done)

    def _loaded(self, names: list[str], verb: str, code: int = 5) -> list[Unit]:
        units, missing = self._find(names)
        if missing:
            raise Refused(f"Failed to {verb} {missing}: Unit {missing} not loaded.", code)
        return units

    def _find(self, names: list[str]) -> tuple[list[Unit], str]:
        """Returns the units of names and patterns, and the first name without a unit."""
        found: list[Unit] = []
        missing = ""
        for name in names:
            units = self._matching(name)
            if not units and "*" not in name:
                missing = missing or full_name(name)
            found += units
        return found, missing

    def _matching(self, pattern: str) -> list[Unit]:
        pattern = full_name(pattern)
        names = sorted(n for n in self.units if fnmatch.fnmatchcase(n, pattern))
        return [self.units[name] for name in names]

    def _missing(self, name: str) -> list[Unit]:
        return [] if "*" in name else [Unit(full_name(name), load="not-found")]
