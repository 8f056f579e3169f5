"""Where a gap record lies in wall time, also one that only names batches: between the batches around it."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Row, select

from control_plane.projections.walltime import WallTime
from control_plane.store.engine import Stores
from control_plane.store.tables import batch, history

NEIGHBOURS = 50
"""Batches looked at on each side for one that holds readings."""
Walls = Mapping[tuple[int, int], WallTime]


class Places:
    def __init__(self, *, stores: Stores) -> None:
        self._stores = stores

    def of(self, row: Row[Any], walls: Walls) -> tuple[int, int] | None:
        """Wall ms of both ends, None while one of them is unknown."""
        if row.from_boot or row.to_boot:
            begin, end = walls.get((row.epoch, row.from_boot)), walls.get((row.epoch, row.to_boot))
            if not begin or not end:
                return None
            return begin.wall(row.from_mono_ms), end.wall(row.to_mono_ms)
        seqs = list(struct.iter_unpack("<QQ", row.seqs))
        if not seqs:
            return None
        before = self._beside(row, seqs[0][0], walls, after=False)
        behind = self._beside(row, seqs[-1][1], walls, after=True)
        if before is None and behind is None:
            return None
        known = [one for one in (before, behind) if one is not None]
        return min(known), max(known)

    def _beside(self, row: Row[Any], seq: int, walls: Walls, *, after: bool) -> int | None:
        """The last instant of the batch before, or the first of the one after."""
        beyond = batch.c.seq > seq if after else batch.c.seq < seq
        query = select(batch.c.id).where(
            batch.c.gateway == row.gateway, batch.c.epoch == row.epoch, batch.c.lane == row.lane, beyond
        )
        order = batch.c.seq if after else batch.c.seq.desc()
        with self._stores.journal.read() as connection:
            ids = list(connection.execute(query.order_by(order).limit(NEIGHBOURS)).scalars())
        with self._stores.telemetry.read() as connection:
            found = {
                one.batch_id: one for one in connection.execute(select(history).where(history.c.batch_id.in_(ids)))
            }
        for id_ in ids:
            one = found.get(id_)
            wall = walls.get((row.epoch, one.boot)) if one is not None else None
            if one is not None and wall:
                return wall.wall(one.first_mono_ms if after else one.last_mono_ms)
        return None
