"""Bytes that change at rest: flipped bits, torn and blank pages, cut ends."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

FILES = ("sealed.db", "sealed.db", "sealed.db-wal", "sealed.db-shm", "tail-0.log", "tail-1.log", "bodies-*.seg")


def damage(folder: Path, rng: random.Random) -> str:
    """Damage one file of the folder; returns what was done."""
    path = rng.choice(sorted(folder.glob(rng.choice([name for name in FILES if any(folder.glob(name))]))))
    data = bytearray(path.read_bytes())
    kind = rng.choice(list(KINDS))
    if data:
        KINDS[kind](data, rng)
    path.write_bytes(data)
    return f"{path.name}: {kind}"


def _where(data: bytearray, rng: random.Random) -> int:
    """Anywhere in what was ever written, often near its beginning."""
    used = len(data.rstrip(b"\0")) or len(data)
    return rng.randrange(min(used, 2048) if rng.random() < 0.3 else used)


def _flip(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.randint(1, 4)):
        data[_where(data, rng)] ^= 1 << rng.randrange(8)


def _blank(data: bytearray, rng: random.Random) -> None:
    size = rng.choice([512, 1024, 4096])
    at = _where(data, rng) // size * size
    data[at : at + size] = bytes(len(data[at : at + size]))


def _noise(data: bytearray, rng: random.Random) -> None:
    size = rng.choice([16, 512, 1024])
    at = _where(data, rng)
    data[at : at + size] = rng.randbytes(len(data[at : at + size]))


def _cut(data: bytearray, rng: random.Random) -> None:
    del data[_where(data, rng) :]


def _twice(data: bytearray, rng: random.Random) -> None:
    """A page where another belongs."""
    pages = max(1, len(data) // 1024)
    one, other = (rng.randrange(pages) * 1024 for _ in range(2))
    data[one : one + 1024] = data[other : other + 1024]


KINDS: dict[str, Callable[[bytearray, random.Random], None]] = {
    "bits flipped": _flip,
    "page blank": _blank,
    "noise": _noise,
    "end cut off": _cut,
    "page in place of another": _twice,
}
