from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, select

from control_plane.api.binding import Permission, Route
from control_plane.api.paging import Page, PageQuery, moment, page
from control_plane.fleet.rights import Caller
from control_plane.projections.kept import READINGS, since
from control_plane.projections.walltime import load_all
from control_plane.reconcile.watermark import watermark_ms
from control_plane.store.engine import Store
from control_plane.store.tables import progress, state
from protos.comboio.v1 import batch_pb2 as pb


class LaneItem(msgspec.Struct, frozen=True, kw_only=True):
    """Every reading of the lane taken before `complete_to` is here, or in a gap."""

    lane: str
    complete_to: datetime | None
    """Null: the clock of that boot is not known yet."""
    clock_err_ms: int | None
    seq: int
    """Every batch up to this one is received, refused or in a gap."""
    updated: datetime


class CompletenessItem(msgspec.Struct, frozen=True, kw_only=True):
    gateway: str
    epoch: int
    watermark: datetime | None
    """Nothing before it changes any more: the lower of both lanes'."""
    lanes: list[LaneItem]
    not_kept_before: datetime | None = None
    """Of readings that came before, none or not all are kept any more; null: all are."""


class CompletenessQuery(PageQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    gateway: str | None = None


class Completeness:
    def __init__(self, *, store: Store) -> None:
        self._store = store

    def routes(self) -> tuple[Route, ...]:
        return (
            Route(
                method="GET",
                path="/completeness",
                view=self.list,
                permission=Permission.VIEWER,
                summary="How far each gateway's data is complete, by lane and in wall time",
            ),
        )

    def list(self, query: CompletenessQuery, caller: Caller) -> Page[CompletenessItem]:
        (after,) = query.after(str) or ("",)
        chosen = select(state.c.gateway, state.c.epoch).where(state.c.gateway > after, *caller.within(state.c.gateway))
        if query.gateway is not None:
            chosen = chosen.where(state.c.gateway == query.gateway)
        with self._store.read() as connection:
            rows = connection.execute(chosen.order_by(state.c.gateway).limit(query.limit + 1)).all()
            items = {row.gateway: _item(connection, row) for row in rows[: query.limit]}
        return page(rows, limit=query.limit, item=lambda row: items[row.gateway], key=lambda row: (row.gateway,))


def _item(connection: Connection, row: Any) -> CompletenessItem:
    walls = load_all(connection, row.gateway)
    query = select(progress).where(progress.c.gateway == row.gateway, progress.c.epoch == row.epoch)
    lanes = []
    for one in connection.execute(query.order_by(progress.c.lane)):
        wall = walls.get((one.epoch, one.complete_boot))
        lanes.append(
            LaneItem(
                lane=pb.Lane.Name(one.lane).lower(),
                complete_to=moment(wall.wall(one.complete_mono_ms)) if wall else None,
                clock_err_ms=wall.err_ms(one.complete_mono_ms) if wall else None,
                seq=one.cum,
                updated=moment(one.updated_ms),
            )
        )
    mark = moment(watermark_ms(connection, row.gateway))
    gone = moment(since(connection, row.gateway).get(READINGS))
    return CompletenessItem(gateway=row.gateway, epoch=row.epoch, watermark=mark, lanes=lanes, not_kept_before=gone)
