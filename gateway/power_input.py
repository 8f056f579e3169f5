"""Where a failing supply shows: a FIFO that somebody writes to, or a file that reads 0 or 1."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path

LOOK_S = 0.025


class FifoInput:
    """Each character written counts; the last of them is the level."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def read(self) -> str:
        """0 or 1; empty while nothing was written. Raises OSError."""
        try:
            written = os.read(self._fd, 4096)
        except BlockingIOError:
            return ""
        levels = [chr(byte) for byte in written if byte in b"01"]
        return levels[-1] if levels else ""

    async def news(self) -> None:
        loop, readable = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._fd, readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(self._fd)

    def close(self) -> None:
        os.close(self._fd)


class FileInput:
    """Looked at again and again: a GPIO's `value` in sysfs costs a few microseconds."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def read(self) -> str:
        """What it reads now, without white space. Raises OSError."""
        return os.pread(self._fd, 16, 0).decode("ascii", "replace").strip()

    async def news(self) -> None:
        await asyncio.sleep(LOOK_S)

    def close(self) -> None:
        os.close(self._fd)


def opened(path: str) -> FifoInput | FileInput:
    """Raises OSError."""
    if stat.S_ISFIFO(Path(path).stat().st_mode):
        return FifoInput(os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))  # a writer that leaves ends nothing
    return FileInput(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
