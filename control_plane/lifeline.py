"""What a role does to live and die with its supervisor."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from collections.abc import Callable

PR_SET_PDEATHSIG = 1


def die_with_parent(parent_pid: int) -> None:
    """Ask the kernel for SIGKILL when the parent ends; exit at once when it already has (Linux, prctl(2))."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(1)


def readiness(descriptor: int | None) -> Callable[[], None]:
    """A function that tells the supervisor, once, that this role serves; does nothing without one."""
    open_fd = [descriptor] if descriptor is not None else []

    def ready() -> None:
        while open_fd:
            fd = open_fd.pop()
            os.write(fd, b"1")
            os.close(fd)

    return ready


def stop_requested() -> threading.Event:
    """An event set by SIGTERM or SIGINT. Main thread only."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop
