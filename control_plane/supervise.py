"""`comboio-control up`: the roles as children of one process.

* A child is ready when it writes a byte to the pipe it inherited; a pipe that closes first is a failed start.
* A child that ends is started again after 0.2 s, doubling to 10 s; ten quiet seconds make it young again.
* Ports belong to this process, so a restarted child is found where the last one was.
* Children ask the kernel to be killed with their parent (see `lifeline`), so not even SIGKILL leaves one behind.
* A child that says it is misconfigured before it was ever ready ends the whole: restarting would not help.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum, auto

import structlog

BACKOFF_FIRST_S = 0.2
BACKOFF_MAX_S = 10.0
YOUNG_AGAIN_S = 10.0
STOP_GRACE_S = 3.5
EX_CONFIG = 78

log = structlog.get_logger()


class State(Enum):
    WAITING = auto()
    STARTING = auto()
    READY = auto()


@dataclass(slots=True, kw_only=True)
class Child:
    """One role. `argv(ready_fd)` gives its command line."""

    role: str
    argv: Callable[[int], Sequence[str]]
    pass_fds: tuple[int, ...] = ()
    state: State = State.WAITING
    process: subprocess.Popen[bytes] | None = None
    ever_ready: bool = False
    failures: int = 0
    start_at_s: float = 0.0
    ready_at_s: float = 0.0
    fds: list[int] = field(default_factory=list)

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process is not None else None

    def start(self) -> tuple[int, int]:
        """Returns (ready pipe's reading end, pidfd)."""
        reading, writing = os.pipe()
        try:
            self.process = subprocess.Popen(
                self.argv(writing), pass_fds=(*self.pass_fds, writing), stdin=subprocess.DEVNULL
            )
        finally:
            os.close(writing)
        self.state = State.STARTING
        self.fds = [reading, os.pidfd_open(self.process.pid)]
        return reading, self.fds[1]

    def ended(self, now_s: float) -> int:
        """Reap it, decide when it may start again; returns the exit status."""
        assert self.process is not None
        status = self.process.wait()
        if self.state is State.READY and now_s - self.ready_at_s >= YOUNG_AGAIN_S:
            self.failures = 0
        delay_s = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2**self.failures)
        self.failures += 1
        self.process, self.state, self.start_at_s = None, State.WAITING, now_s + delay_s
        return status


class Supervisor:
    """`on_change(pids)` is called once when all are ready for the first time and then at each later readiness."""

    def __init__(self, children: Sequence[Child], *, on_change: Callable[[Mapping[str, int]], None]) -> None:
        self._children = children
        self._on_change = on_change
        self._selector = selectors.DefaultSelector()
        self._stopping = False
        self._exit_status = 0

    def run(self) -> int:
        """Until SIGTERM or SIGINT (0), or until a child can't ever start (its status)."""
        with _signals() as wakeup:
            self._selector.register(wakeup, selectors.EVENT_READ, self._on_signal)
            try:
                while not self._stopping:
                    self._start_due()
                    for key, _ in self._selector.select(self._until_next_start()):
                        key.data()
            finally:
                self._stop()
                self._selector.close()
        return self._exit_status

    def _start_due(self) -> None:
        for child in self._children:
            if child.state is State.WAITING and child.start_at_s <= time.monotonic():
                ready, ended = child.start()
                self._selector.register(ready, selectors.EVENT_READ, self._reaction(self._on_ready, child))
                self._selector.register(ended, selectors.EVENT_READ, self._reaction(self._on_end, child))
                log.info("child.started", child=child.role, pid=child.pid)

    @staticmethod
    def _reaction(react: Callable[[Child], None], child: Child) -> Callable[[], None]:
        return lambda: react(child)

    def _until_next_start(self) -> float | None:
        waiting = [child.start_at_s for child in self._children if child.state is State.WAITING]
        return max(0.0, min(waiting) - time.monotonic()) if waiting else None

    def _on_signal(self) -> None:
        self._stopping = True

    def _on_ready(self, child: Child) -> None:
        reading = child.fds[0]
        said = os.read(reading, 16)
        self._forget(child, reading)
        if not said:
            return  # it ended, or will; the pidfd tells
        child.state, child.ready_at_s, child.ever_ready = State.READY, time.monotonic(), True
        log.info("child.ready", child=child.role, pid=child.pid)
        if all(other.ever_ready for other in self._children):
            self._on_change({other.role: other.pid for other in self._children if other.pid is not None})

    def _on_end(self, child: Child) -> None:
        pid = child.pid
        status = child.ended(time.monotonic())
        for descriptor in list(child.fds):
            self._forget(child, descriptor)
        if status == EX_CONFIG and not child.ever_ready:
            self._stopping, self._exit_status = True, status
        log.error("child.ended", child=child.role, pid=pid, status=status, failures=child.failures)

    def _forget(self, child: Child, descriptor: int) -> None:
        self._selector.unregister(descriptor)
        os.close(descriptor)
        child.fds.remove(descriptor)

    def _stop(self) -> None:
        running = [child.process for child in self._children if child.process is not None]
        for process in running:
            process.terminate()
        deadline = time.monotonic() + STOP_GRACE_S
        for process in running:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for child in self._children:
            for descriptor in list(child.fds):
                self._forget(child, descriptor)


@contextmanager
def _signals() -> Iterator[socket.socket]:
    """A socket that becomes readable on SIGTERM or SIGINT."""
    reading, writing = socket.socketpair()
    writing.setblocking(False)
    former_fd = signal.set_wakeup_fd(writing.fileno())
    former = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield reading
    finally:
        signal.set_wakeup_fd(former_fd)
        for number, handler in former.items():
            signal.signal(number, handler)
        reading.close()
        writing.close()
