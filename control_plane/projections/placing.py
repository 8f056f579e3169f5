"""Boots that never get an anchor are placed between their neighbours, once that is all anybody will ever know.

A boot lies after the last instant known of the boot before it (or, for the first one, after the gateway was enrolled)
and before the next one's clock began. Within that it may lie anywhere: it is put in the middle, with half of what is
free as its error. Several in a row share the stretch in their order. An anchor that comes later wins.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, func, select, update

from control_plane.clock import Clock
from control_plane.projections.walltime import DRIFT, WallTime, load_all
from control_plane.store.engine import Stores
from control_plane.store.tables import anchor, boot, gap, gateway, history


class Place(NamedTuple):
    """Wall time of the boot's mono_ms 0."""

    wall_ms: int
    err_ms: int


def share(lengths_ms: Sequence[int], *, after_ms: int, before_ms: int) -> list[Place]:
    """Places of boots of these lengths, one after the other, between two instants of wall time.

    Every order-keeping truth between the two is within the error. Bounds that contradict the lengths (an anchor was
    wrong) give the middle of the contradiction, with half of it as the error.
    """
    free_ms = before_ms - after_ms - sum(lengths_ms)
    drifted_ms = DRIFT * sum(lengths_ms)
    begin = after_ms + free_ms / 2
    found = []
    for length_ms in lengths_ms:
        found.append(Place(round(begin), math.ceil(abs(free_ms) / 2 + drifted_ms) + 1))
        begin += length_ms
    return found


class Placing:
    """A loop of the worker. `hold_max_s`: how long an anchor is waited for, once a boot is over."""

    def __init__(self, *, stores: Stores, clock: Clock, hold_max_s: float) -> None:
        self._stores = stores
        self._clock = clock
        self._hold_max_ms = round(hold_max_s * 1000)

    def step(self) -> bool:
        """Place what can be placed now; also anew, when a neighbour has moved or more of a boot came to light."""
        query = select(boot.c.gateway, boot.c.epoch).where(boot.c.anchored == 0).distinct()
        with self._stores.telemetry.read() as connection:
            waiting = connection.execute(query.order_by(boot.c.gateway, boot.c.epoch)).all()
        for name, epoch in waiting:
            known = self._known(name)
            with self._stores.telemetry.read() as connection:
                places = dict(self._places(connection, name, epoch, known))
            if places:
                self._write(name, epoch, places)
        return False

    def _known(self, name: str) -> tuple[int | None, int | None]:
        """When the gateway was enrolled, and when it was retired."""
        query = select(gateway.c.enrolled_ms, gateway.c.retired_ms).where(gateway.c.id == name)
        with self._stores.business.read() as connection:
            row = connection.execute(query).one_or_none()
        return (row.enrolled_ms, row.retired_ms) if row is not None else (None, None)

    def _places(
        self, connection: Connection, name: str, epoch: int, known: tuple[int | None, int | None]
    ) -> Iterator[tuple[int, Place]]:
        rows = connection.execute(
            select(boot).where(boot.c.gateway == name, boot.c.epoch == epoch).order_by(boot.c.boot)
        ).all()
        walls = load_all(connection, name, placed=False)
        enrolled_ms, retired_ms = known
        before_ms = enrolled_ms
        runs = [(bool(is_anchored), list(run)) for is_anchored, run in groupby(rows, key=lambda row: row.anchored)]
        for index, (is_anchored, run) in enumerate(runs):
            if is_anchored:
                before_ms = _end(connection, name, epoch, run[-1].boot, walls) or before_ms
                continue
            following = runs[index + 1][1][0] if index + 1 < len(runs) else None
            until_ms = retired_ms if following is None else _begin(walls.get((epoch, following.boot)))
            if before_ms is None or until_ms is None or not self._waited(run, following, retired_ms):
                continue
            lengths = [_last_mono_ms(connection, name, epoch, row.boot) for row in run]
            for row, place in zip(run, share(lengths, after_ms=before_ms, before_ms=until_ms), strict=True):
                if (row.wall_ms, row.err_ms) != place:
                    yield row.boot, place

    def _waited(self, run: Iterable[Row[Any]], following: Row[Any] | None, retired_ms: int | None) -> bool:
        if retired_ms is not None:
            return True
        heard = [*run, *([following] if following is not None else [])]
        newest_ms: int = max(row.first_ms for row in heard)
        return self._clock.now_ms() - newest_ms >= self._hold_max_ms

    def _write(self, name: str, epoch: int, places: dict[int, Place]) -> None:
        now_ms = self._clock.now_ms()
        with self._stores.telemetry.write() as connection:
            for number, (wall_ms, err_ms) in places.items():
                mine = (boot.c.gateway == name, boot.c.epoch == epoch, boot.c.boot == number)
                values = {"wall_ms": wall_ms, "err_ms": err_ms, "placed_ms": now_ms}
                connection.execute(update(boot).where(*mine).values(values))


def _begin(wall: WallTime | None) -> int | None:
    """The latest instant at which its clock can have begun."""
    return wall.wall(0) + wall.err_ms(0) if wall else None


def _end(
    connection: Connection, name: str, epoch: int, number: int, walls: dict[tuple[int, int], WallTime]
) -> int | None:
    """The earliest instant at which it can have ended, by what is known of it."""
    wall = walls.get((epoch, number))
    if not wall:
        return None
    last = _last_mono_ms(connection, name, epoch, number)
    return wall.wall(last) - wall.err_ms(last)


def _last_mono_ms(connection: Connection, name: str, epoch: int, number: int) -> int:
    """The last instant of that boot that anything here speaks of."""
    found = []
    for column, its_boot in (
        (history.c.last_mono_ms, history.c.boot),
        (anchor.c.mono_ms, anchor.c.boot),
        (gap.c.from_mono_ms, gap.c.from_boot),
        (gap.c.to_mono_ms, gap.c.to_boot),
    ):
        of = column.table.c
        query = select(func.max(column)).where(of.gateway == name, of.epoch == epoch, its_boot == number)
        found.append(connection.execute(query).scalar_one_or_none() or 0)
    return max(found)
