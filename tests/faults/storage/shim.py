"""Builds the shim with the system's compiler, and speaks to it from inside a process that runs under it."""

from __future__ import annotations

import ctypes
import errno
import shutil
import subprocess
from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path

SOURCE = Path(__file__).with_name("shim.c")


class Op(IntEnum):
    CREATE = 1
    WRITE = 2
    TRUNCATE = 3
    SYNC = 4
    SYNC_FOLDER = 5
    UNLINK = 6
    RENAME = 7
    ALLOCATE = 8
    SAID = 9
    MKDIR = 10
    READ = 11


CHANGES = (Op.CREATE, Op.WRITE, Op.TRUNCATE, Op.SYNC, Op.SYNC_FOLDER, Op.UNLINK, Op.RENAME, Op.ALLOCATE)
KILLS = {"before": 1, "after": 2, "torn": 3}
ERRORS = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO, "EDQUOT": errno.EDQUOT, "EROFS": errno.EROFS}


def compiler() -> str | None:
    return shutil.which("cc") or shutil.which("gcc")


def build(folder: Path) -> Path:
    """Compile the shim into `folder`; raises CalledProcessError with the compiler's words in its stderr."""
    library = folder / "shim.so"
    flags = ["-shared", "-fPIC", "-O2", "-D_FORTIFY_SOURCE=0", "-pthread"]
    subprocess.run([compiler() or "cc", *flags, "-o", library, SOURCE], check=True, capture_output=True)
    return library


class Shim:
    """The shim this very process runs under. Raises AttributeError where there is none."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None)
        self._library.comboio_counted.restype = ctypes.c_long
        self._library.comboio_failed.restype = ctypes.c_long

    def watch(self, folder: Path, recording: Path | None = None) -> None:
        """From now on calls on files below `folder` are counted, and recorded; nothing is armed."""
        self._library.comboio_watch(bytes(folder), bytes(recording) if recording else None)

    def kill(self, at: int, how: str) -> None:
        """Die at the at-th counted call from now."""
        self._library.comboio_kill(ctypes.c_long(at), KILLS[how])

    @property
    def counted(self) -> int:
        return int(self._library.comboio_counted())

    def fail(self, part: str, ops: Sequence[Op], error: str, *, first: int = 1, last: int, brief: bool = False) -> None:
        """Calls on paths containing `part` fail with `error`, from the first-th to the last-th; `brief`: every other
        write only does half of its work instead."""
        mask = sum(1 << op for op in ops)
        args = (ctypes.c_uint(mask), ctypes.c_long(first), ctypes.c_long(last), ERRORS[error], int(brief))
        self._library.comboio_fail(0, part.encode(), *args)

    def heal(self) -> None:
        self._library.comboio_fail(0, b"", ctypes.c_uint(0), ctypes.c_long(0), ctypes.c_long(0), 0, 0)

    @property
    def failed(self) -> int:
        """How many calls the present fault has refused or cut short."""
        return int(self._library.comboio_failed(0))
