"""One thread that waits for files, child processes and times."""

from __future__ import annotations

import heapq
import itertools
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any

Callback = Callable[[], None]


class Loop:
    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Callback]] = []
        self._order = itertools.count()
        self._children: dict[int, Callable[[int], None]] = {}
        # This loop reaps every child, including adopted orphans, so the
        # wake-up must come from the signal and not from waiting on one child.
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.watch(reader, lambda: self._reap(reader))

    def watch(self, file: Any, ready: Callback) -> None:
        self._selector.register(file, selectors.EVENT_READ, ready)

    def forget(self, file: Any) -> None:
        self._selector.unregister(file)

    def after(self, seconds: float, callback: Callback) -> None:
        due = time.monotonic() + seconds
        heapq.heappush(self._timers, (due, next(self._order), callback))

    def spawn(self, argv: list[str], exited: Callable[[int], None], **options: Any) -> int:
        """Starts a process in a session of its own and returns its ID.

        `exited` gets the exit code, or minus the number of the fatal signal.
        Raises OSError if the program cannot start.
        """
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, start_new_session=True, **options
        )
        # The loop reaps it, not the object.
        process.returncode = 0
        self._children[process.pid] = exited
        return process.pid

    def run_forever(self) -> None:
        while True:
            timeout = None
            if self._timers:
                timeout = max(0.0, self._timers[0][0] - time.monotonic())
            for key, _ in self._selector.select(timeout):
                key.data()
            while self._timers and self._timers[0][0] <= time.monotonic():
                heapq.heappop(self._timers)[2]()

    def _reap(self, wakeup: int) -> None:
        os.read(wakeup, 4096)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            exited = self._children.pop(pid, None)
            if exited is not None:
                exited(os.waitstatus_to_exitcode(status))


def kill_session(pid: int, number: int) -> None:
    """Signals the process group of `pid` from `Loop.spawn`."""
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        pass
