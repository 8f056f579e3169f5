"""A serial port as the system names it: opened for us alone, and in words why it can't be."""

from __future__ import annotations

import errno
import fcntl
import os
import termios
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

BY_ID = Path("/dev/serial/by-id")
_CHANGING = ("/dev/ttyUSB", "/dev/ttyACM")


def take_alone(descriptor: int) -> None:
    """Nobody else, but root, can open the port while we have it (the lock that pyserial takes is only a courtesy)."""
    fcntl.ioctl(descriptor, termios.TIOCEXCL)


def give_back(descriptor: int) -> None:
    """Before closing: while others have it open too, it would stay ours, and we could not open it again either."""
    with suppress(OSError):
        fcntl.ioctl(descriptor, termios.TIOCNXCL)


def why_not(path: str, error: Exception) -> str:
    """Why it could not be opened, and what to do."""
    if not Path(path).exists():
        return f"{path} is not there; is the adapter plugged in?{_instead(path)}"
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, termios.error | ValueError) and Path(path).is_char_device():
        return f"{path} can't be set to this baud, parity, data and stop bits"
    if number in {errno.EAGAIN, errno.EBUSY} or "lock" in str(error):
        return f"{path} is in use{_by_whom(path)}; a line has one master, end the other program"
    if number in {errno.EACCES, errno.EPERM}:
        return f"{path}: this user may not open it; add it to the group of the port (Debian: dialout)"
    if number in {errno.ENOTTY, errno.EINVAL} or not Path(path).is_char_device():
        return f"{path} is no serial port"
    return f"{path}: {os.strerror(number) if number else error}"


def unstable(path: str, by_id: Path = BY_ID) -> str | None:
    """What is wrong with naming a port so, and the name to prefer; None where nothing is."""
    if not path.startswith(_CHANGING):
        return None
    better = next(iter(_names_of(path, by_id)), None)
    advice = f"use {better}" if better is not None else f"use its name in {by_id}"
    return f"{path} is whichever adapter was found first and may be another after a restart; {advice}"


def _names_of(path: str, by_id: Path) -> Iterator[Path]:
    if by_id.is_dir():
        yield from (name for name in sorted(by_id.iterdir()) if name.resolve() == Path(path).resolve())


def _instead(path: str) -> str:
    """The adapters that are there."""
    beside = Path(path).parent
    if beside != BY_ID or not beside.is_dir():
        return ""
    there = ", ".join(sorted(one.name for one in beside.iterdir()))
    return f" There is {there}" if there else ""


def _by_whom(path: str) -> str:
    """The holder of the lock, as the kernel tells everybody; its name where this process may know it."""
    try:
        node = Path(path).stat()
        held = f"{os.major(node.st_dev):02x}:{os.minor(node.st_dev):02x}:{node.st_ino}"
        locks = [line.split() for line in Path("/proc/locks").read_text(encoding="ascii").splitlines()]
    except (OSError, ValueError):
        return ""
    pid = next((fields[fields.index(held) - 1] for fields in locks if held in fields and "FLOCK" in fields), None)
    if pid is None:
        return ""
    try:
        return f" by {Path(f'/proc/{pid}/comm').read_text(encoding='utf-8').strip()} (process {pid})"
    except (OSError, ValueError):
        return f" by process {pid}"
