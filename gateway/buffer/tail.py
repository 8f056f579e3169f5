"""The unsealed tail: two preallocated files used in turn, append-only, a checksum per record.

Layout. A *record* is one flush (everything appended in about 200 ms): a 24-byte header and a payload, padded to
8 bytes. Header, little-endian: magic u16, flags u16 (bit 0: payload is zstd; bit 1: it is relative to the records
before it), length u32, generation u64, schema u32, crc32 u32 over the header before it and the payload. A *position*
is (generation, offset). Each file holds one generation at a time; starting the next one overwrites from offset 0
without truncating, so records of an older generation may follow and are told by their number.

Invariants
1. `append` returns only after write() took the whole record; what a torn write left is overwritten by the next append.
2. Records before the sealed position are never read again; the store that sealed them keeps that position in the
   transaction that made them a batch.
3. A new generation starts only in a file whose records are all before the sealed position.

Crash argument. Killed inside write(): the record's checksum fails, the scan stops there, its rows were not yet
acknowledged to anyone and fall in the restart gap. Killed between sealing's commit and the reuse of a file: the sealed
position already names the later generation, so the old records are skipped. Power cut: only what `sync` covered is
promised; pages of later records may be missing in any order, which the scan sees as damage *inside* the log when a
later record is whole: then it goes on from that record and reports the hole.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import zstandard

MAGIC = 0xC0B1
MAGIC_BYTES = MAGIC.to_bytes(2, "little")
FLAG_ZSTD, FLAG_RELATIVE = 1, 2
HEADER = struct.Struct("<HHIQII")
PREALLOCATE_BYTES = 256 * 1024
MAX_RECORD_BYTES = 32 << 20
COMPRESS_FROM_BYTES = 256
BLOCK_BYTES = 4096


class Position(NamedTuple):
    generation: int
    offset: int


class Record(NamedTuple):
    """One flush as read back. `hole`: bytes before it could not be read."""

    position: Position
    end: Position
    schema: int
    payload: bytes
    relative: bool
    hole: bool


class Tail:
    """Owns `tail-0.log` and `tail-1.log` of a folder. Not thread-safe: the buffer serialises calls."""

    def __init__(self, folder: Path) -> None:
        self._paths = (folder / "tail-0.log", folder / "tail-1.log")
        self._fds = [os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600) for path in self._paths]
        self._allocated = [os.fstat(fd).st_size for fd in self._fds]
        self._unsynced = [False, False]
        self._end = Position(0, 0)
        self._compressor = zstandard.ZstdCompressor(level=1, write_content_size=True, write_checksum=False)
        self.written_bytes = 0
        sync_folder(folder)

    @property
    def end(self) -> Position:
        """Where the next record goes."""
        return self._end

    @property
    def bytes_on_disk(self) -> int:
        return sum(self._allocated)

    def start(self, position: Position) -> Position:
        """Go on writing at `position` (after `scan`), or in a generation nobody used yet; returns where.

        Newer records than those a store knows of are there when the store was lost or fell back: going on below their
        numbers would one day reach them, and take them for records of its own.
        """
        newest = max((record.position.generation for record in self.everything()), default=0)
        self._end = position if newest <= position.generation else Position(newest + 1, 0)
        return self._end

    def append(self, payload: bytes, schema: int, *, relative: bool = False) -> Position:
        """Write one record; returns the position after it. Raises OSError, after which nothing was appended."""
        flags = FLAG_RELATIVE if relative else 0
        if len(payload) >= COMPRESS_FROM_BYTES:
            packed = self._compressor.compress(payload)
            if len(packed) < len(payload):
                payload, flags = packed, flags | FLAG_ZSTD
        generation, offset = self._end
        head = HEADER.pack(MAGIC, flags, len(payload), generation, schema, 0)[:-4]
        crc = zlib.crc32(payload, zlib.crc32(head))
        record = b"".join((head, crc.to_bytes(4, "little"), payload, bytes(-len(payload) % 8)))
        self._reserve(generation & 1, offset + len(record))
        self._unsynced[generation & 1] = True
        write_all(self._fds[generation & 1], record, offset)
        self.written_bytes += len(record)
        self._end = Position(generation, offset + len(record))
        return self._end

    def rotate(self, sealed: Position) -> Position:
        """Begin the next generation if its file is free (all its records before `sealed`); returns the new end."""
        generation, offset = self._end
        if offset and sealed.generation >= generation:
            self._end = Position(generation + 1, 0)
        return self._end

    def sync(self) -> None:
        """Fdatasync what was written; once it returns, all records so far survive a power cut.

        Both files, where both were written: the sealing that lets a generation end may still fail. After an error
        nothing written before can be made durable here any more: the kernel may have let go of it.
        """
        for index, fd in enumerate(self._fds):
            if self._unsynced[index]:
                self._unsynced[index] = False  # before: what is written meanwhile is for the next time
                os.fdatasync(fd)

    def scan(self, sealed: Position) -> Iterator[Record]:
        """Every whole record from `sealed` on, in order; afterwards call `start` with the last `end`, or `sealed`."""
        for generation in (sealed.generation, sealed.generation + 1):
            offset = sealed.offset if generation == sealed.generation else 0
            yield from self._scan_file(generation, offset)

    def everything(self) -> Iterator[Record]:
        """Every whole record of both files, whatever its generation."""
        for fd in self._fds:
            data, offset = _read_all(fd), 0
            while (offset := data.find(MAGIC_BYTES, offset)) >= 0:
                record = _parse(data, offset) if offset % 8 == 0 and offset + HEADER.size <= len(data) else None
                if record is not None:
                    yield record
                offset = record.end.offset if record is not None else offset + 1

    def set_aside(self, suffix: str) -> Path:
        """Copy both files beside themselves under a name that says why; returns the folder-relative first name."""
        for path, fd in zip(self._paths, self._fds, strict=True):
            copy = path.with_name(f"{path.name}.{suffix}")
            copy.write_bytes(_read_all(fd))
        return self._paths[0].with_name(f"{self._paths[0].name}.{suffix}")

    def close(self) -> None:
        for fd in self._fds:
            os.close(fd)

    def _scan_file(self, generation: int, offset: int) -> Iterator[Record]:
        data = _read_all(self._fds[generation & 1])
        hole = False
        while offset + HEADER.size <= len(data):
            record = _parse(data, offset, generation)
            if record is None:
                following = _next_whole(data, offset + 8, generation)
                if following is None:
                    return
                offset, hole = following, True
                continue
            yield record._replace(hole=hole)
            offset, hole = record.end.offset, False

    def _reserve(self, index: int, size: int) -> None:
        if size <= self._allocated[index]:
            return
        step = -(-size // PREALLOCATE_BYTES) * PREALLOCATE_BYTES
        os.posix_fallocate(self._fds[index], 0, step)
        self._allocated[index] = step


def _parse(data: bytes, offset: int, generation: int | None = None) -> Record | None:
    """The whole record there, if there is one of this generation, or of any."""
    magic, flags, length, found, schema, crc = HEADER.unpack_from(data, offset)
    start = offset + HEADER.size
    generation = found if generation is None else generation
    if magic != MAGIC or found != generation or length > MAX_RECORD_BYTES or start + length > len(data):
        return None
    payload = data[start : start + length]
    if zlib.crc32(payload, zlib.crc32(data[offset : start - 4])) != crc:
        return None
    if flags & FLAG_ZSTD:
        payload = zstandard.ZstdDecompressor().decompress(payload, max_output_size=MAX_RECORD_BYTES)
    end = Position(generation, start + length + (-length % 8))
    relative = bool(flags & FLAG_RELATIVE)
    return Record(Position(generation, offset), end, schema, payload, relative=relative, hole=False)


def _next_whole(data: bytes, offset: int, generation: int) -> int | None:
    """Offset of the next record of this generation that is whole: only then was the damage not simply the end."""
    while (offset := data.find(MAGIC_BYTES, offset)) >= 0:
        if offset % 8 == 0 and offset + HEADER.size <= len(data) and _parse(data, offset, generation):
            return offset
        offset += 1
    return None


def _read_all(fd: int) -> bytes:
    """The whole file; blocks the disk can't read any more are zeros, which the scan takes for a hole."""
    size = os.fstat(fd).st_size
    try:
        return os.pread(fd, size, 0) if size else b""
    except OSError:
        return b"".join(_read_block(fd, at) for at in range(0, size, BLOCK_BYTES))[:size]


def _read_block(fd: int, at: int) -> bytes:
    try:
        return os.pread(fd, BLOCK_BYTES, at).ljust(BLOCK_BYTES, b"\0")
    except OSError:
        return bytes(BLOCK_BYTES)


def write_all(fd: int, data: bytes, offset: int) -> None:
    """Raises OSError, after any part of it."""
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


def sync_folder(folder: Path) -> None:
    """What was created, renamed and removed in it survives a power cut."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
