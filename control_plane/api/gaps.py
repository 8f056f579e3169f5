from __future__ import annotations

import struct
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import select

from control_plane.api.binding import Permission, Route
from control_plane.api.paging import Page, PageQuery, moment, page
from control_plane.fleet.rights import Caller
from control_plane.store.engine import Store
from control_plane.store.tables import gap
from protos.comboio.v1 import batch_pb2 as pb


class BootMoment(msgspec.Struct, frozen=True):
    boot: int
    mono_ms: int


class SeqRange(msgspec.Struct, frozen=True):
    first: int
    last: int


class GapItem(msgspec.Struct, frozen=True, rename={"after": "from", "before": "to"}):
    """What was lost and is accounted for; open at both ends."""

    id: str
    gateway: str
    epoch: int
    lane: str
    sensor: str
    after: BootMoment
    before: BootMoment
    count: int
    count_exact: bool
    reason: str
    seqs: list[SeqRange]
    recorded: datetime


class GapQuery(PageQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    gateway: str | None = None
    sensor: str | None = None


class Gaps:
    def __init__(self, *, store: Store) -> None:
        self._store = store

    def routes(self) -> tuple[Route, ...]:
        return (
            Route(
                method="GET",
                path="/gaps",
                view=self.list,
                permission=Permission.VIEWER,
                summary="Gap records, by id",
            ),
        )

    def list(self, query: GapQuery, caller: Caller) -> Page[GapItem]:
        (after,) = query.after(str) or ("",)
        asked = {"gateway": query.gateway, "sensor": query.sensor}
        chosen = select(gap).where(
            gap.c.id > after,
            gap.c.joined_to.is_(None),
            *caller.within(gap.c.gateway),
            *(gap.c[name] == value for name, value in asked.items() if value is not None),
        )
        with self._store.read() as connection:
            rows = connection.execute(chosen.order_by(gap.c.id).limit(query.limit + 1)).all()
        return page(rows, limit=query.limit, item=_item, key=lambda row: (row.id,))


def _item(row: Any) -> GapItem:
    return GapItem(
        id=row.id,
        gateway=row.gateway,
        epoch=row.epoch,
        lane=_word(pb.Lane.Name, row.lane, ""),
        sensor=row.sensor,
        after=BootMoment(row.from_boot, row.from_mono_ms),
        before=BootMoment(row.to_boot, row.to_mono_ms),
        count=row.count,
        count_exact=row.count_exact,
        reason=_word(pb.GapReason.Name, row.reason, "GAP_"),
        seqs=[SeqRange(*pair) for pair in struct.iter_unpack("<QQ", row.seqs)],
        recorded=moment(row.recorded_ms),
    )


def _word(name_of: Any, number: int, prefix: str) -> str:
    """A later program may have written a number this one has no word for."""
    try:
        return str(name_of(number)).removeprefix(prefix).lower()
    except ValueError:
        return str(number)
