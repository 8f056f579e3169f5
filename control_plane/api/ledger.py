from __future__ import annotations

from datetime import datetime

import msgspec

from control_plane.api.binding import Permission, Route
from control_plane.api.paging import Page, PageQuery, milliseconds, moment, page
from control_plane.fleet.rights import EVERYTHING, Caller
from control_plane.projections.balances import Balances, Line


class LostItem(msgspec.Struct, frozen=True):
    reason: str
    rows: int
    unknown: bool
    """Besides, rows were lost that nobody could count."""


class LedgerItem(msgspec.Struct, frozen=True, kw_only=True, rename={"start": "from"}):
    """One sensor's rows in one hour of a boot's clock; a row is one read, of all its quantities.

    Every series of a group has the same count. What is neither received nor lost still waits on the gateway.
    """

    gateway: str
    sensor: str
    """Empty: nobody knows whose rows they were."""
    group: int
    epoch: int
    boot: int
    hour: int
    start: datetime | None
    """Null: the clock of that boot is not known."""
    period_ms: int
    received: int
    lost: list[LostItem]


class LedgerQuery(PageQuery, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"from_": "from"}):
    gateway: str
    sensor: str | None = None
    """A sensor, or sensor/quantity."""
    from_: datetime | None = None
    to: datetime | None = None


class Ledger:
    def __init__(self, *, balances: Balances) -> None:
        self._balances = balances

    def routes(self) -> tuple[Route, ...]:
        return (
            Route(
                method="GET",
                path="/ledger",
                view=self.list,
                permission=Permission.VIEWER,
                summary="What one gateway delivered and lost, hour by hour",
            ),
        )

    def list(self, query: LedgerQuery, caller: Caller = EVERYTHING) -> Page[LedgerItem]:
        after = query.after(int, int, int, int)
        lines = []
        if caller.sees(query.gateway):
            lines = self._balances.lines(
                query.gateway,
                sensor=query.sensor,
                from_ms=milliseconds(query.from_, "?from") if query.from_ else None,
                to_ms=milliseconds(query.to, "?to") if query.to else None,
                after=(after[0], after[1], after[2], after[3]) if after is not None else None,
                limit=query.limit + 1,
            )
        return page(lines, limit=query.limit, item=lambda line: _item(query.gateway, line), key=lambda line: line.key)


def _item(gateway: str, line: Line) -> LedgerItem:
    epoch, boot, hour, group = line.key
    return LedgerItem(
        gateway=gateway,
        sensor=line.sensor,
        group=group,
        epoch=epoch,
        boot=boot,
        hour=hour,
        start=moment(line.from_ms),
        period_ms=line.period_ms,
        received=line.received,
        lost=[LostItem(*one) for one in line.lost],
    )
