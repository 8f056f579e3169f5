"""From a boot's monotonic clock to wall time and back, by anchors.

Piecewise linear between anchors, slope 1 outside. A reading's bytes never change; this mapping may become more exact.

Its error is what an honest anchor and a free-running crystal allow: an anchor vouches for its own instant within its
error, and for every other one within that and DRIFT of the distance. Between two anchors the truth lies where both
agree; where they contradict each other (one was wrong, as after a step of the clock that made it) either may be right.
An anchor of whose instant a neighbour says more is left out: the server answered late, once, and the line would bend.
A boot that never had an anchor may lie between its neighbours (see `placing`).
"""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import BigInteger, Connection, Select, cast, func, select

from control_plane.store.tables import anchor
from control_plane.store.tables import boot as boots

Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]
DRIFT = 100e-6
"""How much a crystal may be off, in ms per ms, over the temperatures a vehicle sees."""


KEPT_ANCHORS = 100_000
"""Of each database connection: 24 bytes each."""


class Anchored(NamedTuple):
    mono_ms: int
    wall_ms: int
    err_ms: int


class WallTime:
    """The mapping of one boot. Without anchors it maps nothing."""

    def __init__(self, anchors: Sequence[Anchored]) -> None:
        ordered = _telling(_telling(sorted(set(anchors)))[::-1])[::-1]
        self._mono = np.array([a.mono_ms for a in ordered], np.float64)
        self._wall = np.array([a.wall_ms for a in ordered], np.float64)
        self._err = np.array([a.err_ms for a in ordered], np.float64)

    def __bool__(self) -> bool:
        return bool(len(self._mono))

    def points(self) -> tuple[Int64, Int64]:
        """Monotonic and wall ms of the anchors that count."""
        return self._mono.astype(np.int64), self._wall.astype(np.int64)

    @classmethod
    def through(cls, points: tuple[Int64, Int64]) -> WallTime:
        """The same mapping, without what is known of its error."""
        found = cls(())
        found._mono, found._wall = (column.astype(np.float64) for column in points)
        found._err = np.zeros(found._mono.size)
        return found

    def wall_span(self, first_ms: int, last_ms: int) -> tuple[int, int]:
        """The least and the greatest wall time of that stretch of the boot's clock, both included."""
        inside = self._mono[(self._mono > first_ms) & (self._mono < last_ms)].astype(np.int64)
        walls = self.to_wall(np.concatenate([[first_ms, last_ms], inside]).astype(np.int64))
        return int(walls.min()), int(walls.max())

    def moved(self, before: WallTime, first_ms: int, last_ms: int) -> list[tuple[int, int]]:
        """Stretches of that part of the boot's clock which this mapping places otherwise than the one before."""
        if np.array_equal(self._mono, before._mono) and np.array_equal(self._wall, before._wall):
            return []
        bends = np.concatenate([[first_ms, last_ms], self._mono, before._mono]).clip(first_ms, last_ms)
        bends = np.unique(bends.astype(np.int64))
        apart = self.to_wall(bends) != before.to_wall(bends)
        if bends.size == 1:
            return [(first_ms, last_ms)] if apart[0] else []
        differ = np.flatnonzero(apart[1:] | apart[:-1])
        return [(int(bends[at]), int(bends[at + 1])) for at in differ]

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
        """How far `wall` may be from the truth there."""
        return int(self.errors_ms(np.array([mono_ms], np.int64))[0])

    def errors_ms(self, mono_ms: Int64) -> Int64:
        """The same of each instant; raises ValueError without an anchor."""
        mapped = self.to_wall(mono_ms)
        after = np.searchsorted(self._mono, mono_ms, side="right")
        low_before, high_before = self._vouched(after - 1, mono_ms)
        low_after, high_after = self._vouched(after, mono_ms)
        low, high = np.maximum(low_before, low_after), np.minimum(high_before, high_after)
        contradict = low > high
        low = np.where(contradict, np.minimum(low_before, low_after), low)
        high = np.where(contradict, np.maximum(high_before, high_after), high)
        offset = (mapped - mono_ms).astype(np.float64)
        return np.ceil(np.maximum(high - offset, offset - low)).astype(np.int64)

    def _vouched(self, index: NDArray[np.intp], mono_ms: Int64) -> tuple[Float64, Float64]:
        """Least and greatest offset (wall - mono) that the anchor allows there; anything where there is no anchor."""
        known = (index >= 0) & (index < len(self._mono))
        at = np.clip(index, 0, len(self._mono) - 1)
        offset = self._wall[at] - self._mono[at]
        reach = np.where(known, self._err[at] + DRIFT * np.abs(mono_ms - self._mono[at]), np.inf)
        return offset - reach, offset + reach


def _telling(anchors: Sequence[Anchored]) -> list[Anchored]:
    """Without those of whose instant the best one before them says more, and that don't contradict it."""
    kept: list[Anchored] = []
    best: Anchored | None = None
    for one in anchors:
        reach = best.err_ms + DRIFT * abs(one.mono_ms - best.mono_ms) if best is not None else float("inf")
        if best is not None:
            apart = abs((one.wall_ms - one.mono_ms) - (best.wall_ms - best.mono_ms))
            if reach < one.err_ms and apart <= reach + one.err_ms:
                continue
        kept.append(one)
        if one.err_ms <= reach:
            best = one
    return kept


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
    found = [Anchored(*row) for row in connection.execute(query)]
    if not found:
        place = _without_anchor(gateway).where(boots.c.epoch == epoch, boots.c.boot == boot)
        found = [Anchored(0, row.wall_ms, row.err_ms) for row in connection.execute(place)]
    return WallTime(found)


def load_all(connection: Connection, gateway: str, *, placed: bool = True) -> dict[tuple[int, int], WallTime]:
    """(epoch, boot) → mapping, for one gateway; with `placed` also of boots that only their neighbours place."""
    found = dict(_anchored(connection, gateway))
    if placed:
        for row in connection.execute(_without_anchor(gateway)):
            if (row.epoch, row.boot) not in found:
                found[row.epoch, row.boot] = WallTime([Anchored(0, row.wall_ms, row.err_ms)])
    return found


class _Kept(NamedTuple):
    """Mappings of a gateway, and of what they were made: anchors are never changed, so that their sums tell."""

    made_of: tuple[int, int]
    walls: dict[tuple[int, int], WallTime]


def _anchored(connection: Connection, gateway: str) -> dict[tuple[int, int], WallTime]:
    """Kept beside the database connection: an hour has an anchor, a year thousands, and every chart asks for all."""
    mine = anchor.c.gateway == gateway
    sums = select(func.count(), cast(func.coalesce(func.sum(anchor.c.mono_ms), 0), BigInteger)).where(mine)
    count, total = connection.execute(sums).one()
    made_of = int(count), int(total)
    kept: OrderedDict[str, _Kept] = connection.info.setdefault(__name__, OrderedDict())
    known = kept.pop(gateway, None)
    if known is None or known.made_of != made_of:
        known = _Kept(made_of, _read(connection, gateway))
    kept[gateway] = known
    while len(kept) > 1 and sum(one.made_of[0] for one in kept.values()) > KEPT_ANCHORS:
        kept.popitem(last=False)
    return known.walls


def _read(connection: Connection, gateway: str) -> dict[tuple[int, int], WallTime]:
    query = select(anchor.c.epoch, anchor.c.boot, anchor.c.mono_ms, anchor.c.wall_ms, anchor.c.err_ms).where(
        anchor.c.gateway == gateway
    )
    found: dict[tuple[int, int], list[Anchored]] = {}
    for epoch, boot, *rest in connection.execute(query):
        found.setdefault((epoch, boot), []).append(Anchored(*rest))
    return {key: WallTime(anchors) for key, anchors in found.items()}


def _without_anchor(gateway: str) -> Select[tuple[int, int, int, int]]:
    columns = (boots.c.epoch, boots.c.boot, boots.c.wall_ms, boots.c.err_ms)
    return select(*columns).where(boots.c.gateway == gateway, boots.c.anchored == 0, boots.c.wall_ms.is_not(None))
