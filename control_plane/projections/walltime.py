"""From a boot's monotonic clock to wall time and back, by anchors.

Piecewise linear between anchors, slope 1 outside. A reading's bytes never change; this mapping may become more exact.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, select

from control_plane.store.tables import anchor

Int64 = NDArray[np.int64]


class Anchored(NamedTuple):
    mono_ms: int
    wall_ms: int
    err_ms: int


class WallTime:
    """The mapping of one boot. Without anchors it maps nothing."""

    def __init__(self, anchors: Sequence[Anchored]) -> None:
        ordered = sorted(set(anchors))
        self._mono = np.array([a.mono_ms for a in ordered], np.float64)
        self._wall = np.array([a.wall_ms for a in ordered], np.float64)
        self._err = np.array([a.err_ms for a in ordered], np.float64)

    def __bool__(self) -> bool:
        return bool(len(self._mono))

    def digest(self) -> str:
        """Changes whenever the mapping does."""
        return f"{zlib.crc32(self._mono.tobytes() + self._wall.tobytes()):08x}"

    def to_wall(self, mono_ms: Int64) -> Int64:
        """Wall ms of each instant; raises ValueError without an anchor."""
        return _map(mono_ms, self._mono, self._wall)

    def mono_span(self, from_ms: int, to_ms: int) -> tuple[int, int]:
        """A stretch of the boot's clock that holds everything mapped into from_ms..to_ms, and little else.

        Anchors may go back (a wrong real-time clock put right later), so the mapping has no inverse; but its offset
        never leaves the range of the anchors' own.
        """
        offset = self._wall - self._mono
        return int(from_ms - offset.max()) - 1, int(to_ms - offset.min()) + 1

    def wall(self, mono_ms: int) -> int:
        return int(self.to_wall(np.array([mono_ms], np.int64))[0])

    def err_ms(self, mono_ms: int) -> int:
        """The error of the nearest anchor."""
        return int(self._err[int(np.abs(self._mono - mono_ms).argmin())])


def _map(x: Int64, source: NDArray[np.float64], target: NDArray[np.float64]) -> Int64:
    if not len(source):
        raise ValueError("no anchor of this boot is known yet")
    # Offsets are small and exact in float64; absolute times are added as integers.
    offset = np.interp(x, source, target - source)
    found: Int64 = x + np.rint(offset).astype(np.int64)
    return found


def load(connection: Connection, gateway: str, epoch: int, boot: int) -> WallTime:
    query = select(anchor.c.mono_ms, anchor.c.wall_ms, anchor.c.err_ms).where(
        anchor.c.gateway == gateway, anchor.c.epoch == epoch, anchor.c.boot == boot
    )
    return WallTime([Anchored(*row) for row in connection.execute(query)])


def load_all(connection: Connection, gateway: str) -> dict[tuple[int, int], WallTime]:
    """(epoch, boot) → mapping, for one gateway."""
    query = select(anchor.c.epoch, anchor.c.boot, anchor.c.mono_ms, anchor.c.wall_ms, anchor.c.err_ms).where(
        anchor.c.gateway == gateway
    )
    found: dict[tuple[int, int], list[Anchored]] = {}
    for epoch, boot, *rest in connection.execute(query):
        found.setdefault((epoch, boot), []).append(Anchored(*rest))
    return {key: WallTime(anchors) for key, anchors in found.items()}
