"""What a power cut would have left: a folder rebuilt from a recording of file operations.

The model. Data of a file up to its last fsync or fdatasync is there. Of what came after, any subset is, each write in
blocks of 512 or 4096 bytes of which any subset is. Names of a folder are there as of its last fsync; of later changes a
prefix is, for file systems that journal names keep their order. A file's fsync does not make its name durable.
"""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tests.faults.storage.shim import Op

HEADER = struct.Struct("<IIQq")


class Call(NamedTuple):
    op: Op
    inode: int
    offset: int
    data: bytes


def read(recording: Path) -> list[Call]:
    data, at, calls = recording.read_bytes(), 0, []
    while at + HEADER.size <= len(data):
        op, length, inode, offset = HEADER.unpack_from(data, at)
        at += HEADER.size
        calls.append(Call(Op(op), inode, offset, data[at : at + length]))
        at += length
    return calls


def said(calls: Iterable[Call]) -> list[Any]:
    """The lines the process had said by then."""
    text = b"".join(call.data for call in calls if call.op == Op.SAID)
    return [json.loads(line) for line in text.splitlines()]


@dataclass(slots=True)
class _File:
    calls: list[Call] = field(default_factory=list)
    synced: int = 0


@dataclass(slots=True)
class _Folder:
    changes: list[tuple[str, ...]] = field(default_factory=list)
    synced: int = 0


class Disk:
    """All that was asked of one folder tree, in order."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._files: list[_File] = []
        self._by_inode: dict[int, _File] = {}
        self._folders: dict[str, _Folder] = {}
        for path in sorted(root.rglob("*")):  # what is there already is there for good
            if path.is_dir():
                self._change(str(path), "mkdir", str(path))
            elif path.suffix != ".said":
                data = path.read_bytes()
                self._take(Call(Op.CREATE, path.stat().st_ino, 0, str(path).encode()))
                self._files[-1].calls.append(Call(Op.WRITE, 0, 0, data))
                self._files[-1].synced = 1
        for folder in self._folders.values():
            folder.synced = len(folder.changes)

    def take(self, calls: Iterable[Call]) -> Disk:
        for call in calls:
            self._take(call)
        return self

    def _take(self, call: Call) -> None:
        if call.op == Op.SAID:
            return
        if call.op == Op.CREATE:
            path = call.data.decode()
            self._by_inode[call.inode] = _File()
            self._files.append(self._by_inode[call.inode])
            self._change(path, "create", path, str(len(self._files) - 1))
        elif call.op == Op.MKDIR:
            self._change(call.data.decode(), "mkdir", call.data.decode())
        elif call.op == Op.UNLINK:
            self._change(call.data.decode(), "unlink", call.data.decode())
        elif call.op == Op.RENAME:
            old, new = call.data.decode().split("\n")
            self._change(old, "rename", old, new)
        elif call.op == Op.SYNC_FOLDER:
            folder = self._folders.setdefault(call.data.decode().rstrip("/"), _Folder())
            folder.synced = len(folder.changes)
        elif (file := self._by_inode.get(call.inode)) is not None:
            if call.op == Op.SYNC:
                file.synced = len(file.calls)
            else:
                file.calls.append(call)

    def _change(self, path: str, *change: str) -> None:
        self._folders.setdefault(str(Path(path).parent), _Folder()).changes.append(change)

    def cut(self, rng: random.Random, target: Path) -> None:
        """Write into `target` what a power cut now may leave of the root."""
        names: dict[str, str] = {}
        kept = rng.choice([0.0, 0.5, 1.0, rng.random()])
        for folder in self._folders.values():
            through = rng.randint(folder.synced, len(folder.changes)) if kept < 1 else len(folder.changes)
            _apply(names, folder.changes[:through])
        target.mkdir(parents=True)
        for name in sorted(names):
            path = target / Path(name).relative_to(self._root)
            if not names[name]:
                path.mkdir(parents=True, exist_ok=True)
            elif path.parent.is_dir():  # else the name of its folder is gone, and it with it
                path.write_bytes(_content(self._files[int(names[name])], rng, kept))


def _apply(names: dict[str, str], changes: Sequence[tuple[str, ...]]) -> None:
    for kind, name, *more in changes:
        if kind == "create":
            names[name] = more[0]
        elif kind == "mkdir":
            names[name] = ""
        elif kind == "unlink":
            names.pop(name, None)
        elif name in names:
            names[more[0]] = names.pop(name)


def _content(file: _File, rng: random.Random, kept: float) -> bytes:
    data = bytearray()
    block = rng.choice([512, 4096])
    for index, call in enumerate(file.calls):
        sure = index < file.synced
        if not sure and rng.random() >= kept:
            continue
        if call.op == Op.TRUNCATE:
            del data[call.offset :]
            data.extend(bytes(max(0, call.offset - len(data))))
        elif call.op == Op.ALLOCATE:
            data.extend(bytes(max(0, call.offset - len(data))))
        else:
            _write(data, call, rng, 0 if sure or rng.random() < 0.5 else block)
    return bytes(data)


def _write(data: bytearray, call: Call, rng: random.Random, block: int) -> None:
    """All of a write, or any of its blocks."""
    start, end = call.offset, call.offset + len(call.data)
    data.extend(bytes(max(0, end - len(data))))
    if not block:
        data[start:end] = call.data
        return
    at = start
    while at < end:
        through = min(end, (at // block + 1) * block)
        if rng.random() < 0.5:
            data[at:through] = call.data[at - start : through - start]
        at = through
