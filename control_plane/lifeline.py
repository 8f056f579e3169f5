"""What a role does to live and die with its supervisor.

`python -m control_plane.lifeline PARENT COMMAND…` runs any command so. It is a program and no function to be called
between fork and exec, because a process that has used gRPC can't fork safely: its own fork handlers crash the child.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path

PR_SET_PDEATHSIG = 1


def command(*arguments: str) -> list[str]:
    """The command line that runs `arguments` and ends with the calling process."""
    return [sys.executable, "-m", "control_plane.lifeline", str(os.getpid()), *arguments]


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


def process_name(role: str) -> str:
    """Of one process among all those of an installation; no later one has it again."""
    return f"{role.rstrip('/')}/{socket.gethostname()[:64]}/{os.getpid()}/{_machine()}-{secrets.token_hex(4)}"


def surely_ended(name: str) -> bool:
    """Whether a process of that name ran on this machine, since its start, and runs no more."""
    parts = name.split("/")
    if len(parts) != 4 or not parts[3].startswith(_machine() + "-"):
        return False
    try:
        state = Path(f"/proc/{parts[2]}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return True
    return state in "ZX"


def _machine() -> str:
    """This boot of this machine, and within it the processes that see each other."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_bytes()
    return hashlib.sha256(boot + str(Path("/proc/self/ns/pid").readlink()).encode()).hexdigest()[:8]


def stop_requested() -> threading.Event:
    """An event set by SIGTERM or SIGINT. Main thread only."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606 - the kernel keeps the request across exec
