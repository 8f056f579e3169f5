"""Large sealed bodies, written once: append-only segment files beside the store whose rows name them.

In the store a body is written twice, to the log and to its pages. From INLINE_BYTES on it goes to `bodies-N.seg`
instead, and its row says where: segment, body_at, body_size. Smaller ones cost less in the store than a sync of their
own.

Invariants
1. A body is on stable storage before the transaction that names it begins.
2. Nothing is overwritten and no number used again: what is written goes behind everything in the file, or into a new
   one.
3. A file goes only when no committed row names it and the log in which that stands is on stable storage.

Crash argument. Killed or cut before the commit: bytes that no row names, which go with their file. After it: by 1 the
body is there. A deletion that the power took back finds its body by 3. A write or a commit that failed may have done
anything: its file is left alone, and goes by 3 when that is the state of the store. What damage makes of a body, the
row's checksum tells, as for those inside the store.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from gateway.buffer.tail import sync_folder, write_all

INLINE_BYTES = 2048
SEGMENT_BYTES = 256 * 1024
MOST_OPEN = 8
BODY = "stored(segment, body_at, body_size, body)"
SIZE = "iif(segment, body_size, length(body))"
"""In SQL over `batch`: a body wherever it is, and its bytes."""
_WATCH = """CREATE TEMP TRIGGER body_goes AFTER DELETE ON batch WHEN old.segment
            BEGIN SELECT body_goes(old.segment, old.body_size); END"""
_NAMED = "SELECT segment, body_size FROM batch WHERE segment"


class Bodies:
    """The segments of one folder, and what of each is named. As its store: one thread at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sizes: dict[int, int] = {}
        self._named: Counter[int] | None = None  # bytes; counted when it is first asked for
        self._new: list[tuple[int, int]] = []
        self._going: list[tuple[int, int]] = []
        self._fds: dict[int, int] = {}
        self._number = 0

    def attach(self, db: sqlite3.Connection) -> None:
        """Be told of rows that go; BODY is known to `db` from now on."""
        self._db = db
        db.create_function("stored", 4, self.read)
        db.create_function("body_goes", 2, lambda segment, size: self._going.append((segment, size)))
        db.execute("PRAGMA temp_store=MEMORY")
        db.execute(_WATCH)
        for path in self._folder.glob("bodies-*.seg"):
            with contextlib.suppress(ValueError):
                self._sizes[int(path.stem.removeprefix("bodies-"))] = path.stat().st_size
        self._number = max(self._sizes, default=0)

    @property
    def bytes_named(self) -> int:
        """On disk is a little more: a file goes when all of it may go, and the oldest bodies go first."""
        return sum(self._sizes.values()) if self._named is None else self._named.total()

    def write(self, bodies: Sequence[bytes]) -> list[tuple[int, int]]:
        """(segment, where) of each, on stable storage. Raises OSError; what was written then is in nobody's way."""
        if not bodies:
            return []
        if self._number not in self._sizes or self._sizes[self._number] >= SEGMENT_BYTES:
            self._begin()
        at, places = self._sizes[self._number], list[tuple[int, int]]()
        try:
            fd = self._fd(self._number)
            for body in bodies:
                write_all(fd, body, at)
                places.append((self._number, at))
                at += len(body)
            os.fdatasync(fd)
        except OSError:
            self._abandon()
            raise
        self._sizes[self._number] = at
        self._new = [(self._number, len(body)) for body in bodies]
        return places

    def read(self, segment: int, at: int, size: int, body: bytes) -> bytes:
        """What can be read of it: the row's checksum says whether that is all."""
        if not segment:
            return body
        try:
            return os.pread(self._fd(segment), size, at)
        except OSError:
            return b""

    def committed(self) -> None:
        """What was written is named, and what went is not."""
        if self._named is not None:
            for segment, size in self._new:
                self._named[segment] += size
            for segment, size in self._going:
                self._named[segment] -= size
        self._new.clear()
        self._going.clear()

    def rolled_back(self) -> None:
        if self._new:
            self._abandon()
        self._new.clear()
        self._going.clear()

    def _abandon(self) -> None:
        """Nobody knows what the file being written has, or what the store knows of it: begin another with the next."""
        with contextlib.suppress(OSError):
            self._sizes[self._number] = self._path(self._number).stat().st_size
        self._number += 1

    def reclaim(self, log: Path) -> None:
        """Delete the files that nothing names; `log`: the store's."""
        free = [number for number in self._unnamed() if self._sizes[number]]
        if not free:
            return
        with contextlib.suppress(FileNotFoundError):
            _sync(log)
        for number in free:
            self._forget(number)
            self._path(number).unlink(missing_ok=True)
            del self._sizes[number]

    def set_aside(self, suffix: str) -> None:
        """Keep the files that nothing names, by that name: what was lost may have named them."""
        for number in self._unnamed():
            self._forget(number)
            path = self._path(number)
            path.rename(path.with_name(path.name + suffix))
            del self._sizes[number]

    def close(self) -> None:
        while self._fds:
            os.close(self._fds.popitem()[1])

    def _unnamed(self) -> list[int]:
        if self._named is None:
            self._named = Counter()
            for segment, size in self._db.execute(_NAMED):
                self._named[segment] += size
        return [number for number in self._sizes if not self._named[number]]

    def _begin(self) -> None:
        number = max((*self._sizes, self._number)) + 1
        fd = os.open(self._path(number), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._fds[number] = fd
        self._sizes[number] = 0
        self._number = number
        sync_folder(self._folder)

    def _fd(self, number: int) -> int:
        fd = self._fds.get(number)
        if fd is None:
            if len(self._fds) >= MOST_OPEN:
                self._forget(min(self._fds))
            fd = self._fds[number] = os.open(self._path(number), os.O_RDWR | os.O_CLOEXEC)
        return fd

    def _forget(self, number: int) -> None:
        fd = self._fds.pop(number, None)
        if fd is not None:
            os.close(fd)

    def _path(self, number: int) -> Path:
        return self._folder / f"bodies-{number}.seg"


def is_large(size: int) -> bool:
    return size >= INLINE_BYTES


def written_bytes(size: int) -> int:
    """What a body of that size costs in writes."""
    return size if is_large(size) else 2 * size  # to the store's log, and to its page


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.fdatasync(fd)
    finally:
        os.close(fd)
