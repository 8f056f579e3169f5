from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, select

from control_plane.api.binding import Permission, Route
from control_plane.api.ledger import LostItem
from control_plane.api.paging import Page, PageQuery, milliseconds, moment, page
from control_plane.api.problems import FieldProblem, Problem
from control_plane.fleet.rights import Caller
from control_plane.projections.kept import READINGS, since
from control_plane.projections.recorded import Account, Recorded, Trip
from control_plane.projections.rollup import DAY_MS
from control_plane.projections.walltime import load_all
from control_plane.reconcile.watermark import watermark_ms
from control_plane.store.engine import Store
from control_plane.store.tables import progress, series, state
from protos.comboio.v1 import batch_pb2 as pb

LONGEST_MS = 31 * DAY_MS


class LaneItem(msgspec.Struct, frozen=True, kw_only=True):
    """Every reading of the lane taken before `complete_to` is here, or in a gap."""

    lane: str
    complete_to: datetime | None
    """Null: the clock of that boot is not known yet."""
    clock_err_ms: int | None
    seq: int
    """Every batch up to this one is received, refused or in a gap."""
    updated: datetime


class SensorAccountItem(msgspec.Struct, frozen=True, kw_only=True):
    """In rows, each one read of all its quantities, of the hours that the stretch touches."""

    sensor: str
    """Empty: nobody knows whose rows they were."""
    period_ms: int
    by_period: int | None
    """What the period would have given; report policies make it less. Null: it has none."""
    expected: int
    """What the gateway accounts for: received and lost."""
    received: int
    late: int | None
    """Of those within the stretch: not here yet a quarter of an hour after their hour. Null: too many to look at."""
    duplicate: int | None
    """Of those within the stretch: came again, and were stored once. Null: too many to look at."""
    lost: list[LostItem]


class MissingItem(msgspec.Struct, frozen=True, kw_only=True, rename={"from_": "from"}):
    reason: str
    """A gap's, or `not_here_yet`, `silent`, `clock_unknown` (a boot without a clock), `nothing_read`."""
    sensor: str
    """Empty: all of them, or nobody knows which."""
    from_: datetime | None
    """Null: nobody knows when."""
    to: datetime | None
    rows: int
    rows_exact: bool


class AccountItem(msgspec.Struct, frozen=True, kw_only=True, rename={"from_": "from"}):
    from_: datetime
    to: datetime
    complete: bool
    """Nothing is missing: everything that was to be read is here."""
    sensors: list[SensorAccountItem]
    missing: list[MissingItem]


class CompletenessItem(msgspec.Struct, frozen=True, kw_only=True):
    gateway: str
    epoch: int
    watermark: datetime | None
    """Nothing before it changes any more: the lower of both lanes'."""
    lanes: list[LaneItem]
    account: AccountItem | None
    """Of the stretch between `from` and `to`; null without them."""
    not_kept_before: datetime | None = None
    """Of readings that came before, none or not all are kept any more; null: all are."""


class CompletenessQuery(PageQuery, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"from_": "from"}):
    gateway: str | None = None
    sensor: str | None = None
    """A sensor of that gateway, or sensor/quantity; without `gateway`, gateway/sensor."""
    from_: datetime | None = None
    """With `to`: was everything recorded between them? Of one gateway, at most 31 days."""
    to: datetime | None = None


class Completeness:
    def __init__(self, *, store: Store, recorded: Recorded) -> None:
        self._store = store
        self._recorded = recorded

    def routes(self) -> tuple[Route, ...]:
        return (
            Route(
                method="GET",
                path="/completeness",
                view=self.list,
                permission=Permission.VIEWER,
                summary="How far each gateway's data is complete, and whether one recorded a stretch as a whole",
                problems=(404,),
            ),
        )

    def list(self, query: CompletenessQuery, caller: Caller) -> Page[CompletenessItem]:
        trip = _trip(query)
        gateway = trip.gateway if trip is not None else query.gateway
        (after,) = query.after(str) or ("",)
        chosen = select(state.c.gateway, state.c.epoch).where(state.c.gateway > after, *caller.within(state.c.gateway))
        if gateway is not None:
            chosen = chosen.where(state.c.gateway == gateway)
        with self._store.read() as connection:
            rows = connection.execute(chosen.order_by(state.c.gateway).limit(query.limit + 1)).all()
            if trip is not None and rows:
                _check_known(connection, trip)
            items = {row.gateway: _item(connection, row) for row in rows[: query.limit]}
        if trip is not None:
            if not rows:
                raise Problem(404, f"There is no gateway {trip.gateway} that was ever heard of.")
            items = {trip.gateway: self._accounted(items[trip.gateway], trip)}
        return page(rows, limit=query.limit, item=lambda row: items[row.gateway], key=lambda row: (row.gateway,))

    def _accounted(self, item: CompletenessItem, trip: Trip) -> CompletenessItem:
        """The watermark was read first: what comes meanwhile can only make the account say more."""
        to_ms = milliseconds(item.watermark, "watermark") if item.watermark is not None else None
        return msgspec.structs.replace(item, account=_account(trip, self._recorded.of(trip, complete_to_ms=to_ms)))


def _trip(query: CompletenessQuery) -> Trip | None:
    """None: no stretch is asked for. Raises Problem 422."""
    gateway, sensor = query.gateway, query.sensor
    if gateway is None and sensor is not None:
        gateway, _, sensor = sensor.partition("/")
    if query.from_ is None or query.to is None:
        if query.from_ is not None or query.to is not None or query.sensor is not None:
            wrong = FieldProblem("?from", "is asked together with to, and sensor only with both")
            raise Problem(422, "The stretch needs its beginning and its end.", errors=[wrong])
        return None
    if not gateway:
        raise Problem(422, "Of which gateway?", errors=[FieldProblem("?gateway", "is needed with from and to")])
    from_ms, to_ms = milliseconds(query.from_, "?from"), milliseconds(query.to, "?to")
    if not from_ms < to_ms <= from_ms + LONGEST_MS:
        wrong = FieldProblem("?from", "must be before to, by at most 31 days")
        raise Problem(422, "That is no stretch of time to look at.", errors=[wrong])
    return Trip(gateway, sensor or None, from_ms, to_ms)


def _check_known(connection: Connection, trip: Trip) -> None:
    """Raises Problem 404: of what never was, nothing is missing."""
    sensor, _, quantity = (trip.sensor or "").partition("/")
    mine = select(series.c.key).where(series.c.gateway == trip.gateway, series.c.sensor == sensor)
    if quantity:
        mine = mine.where(series.c.name == quantity)
    if sensor and connection.execute(mine.limit(1)).first() is None:
        raise Problem(404, f"Gateway {trip.gateway} never declared {trip.sensor}.")


def _account(trip: Trip, found: Account) -> AccountItem:
    return AccountItem(
        from_=moment(trip.from_ms),
        to=moment(trip.to_ms),
        complete=found.complete,
        sensors=[
            SensorAccountItem(
                sensor=one.sensor,
                period_ms=one.period_ms,
                by_period=one.by_period,
                expected=one.expected,
                received=one.received,
                late=one.late,
                duplicate=one.repeated,
                lost=[LostItem(*lost) for lost in one.lost],
            )
            for one in found.sensors
        ],
        missing=[
            MissingItem(
                reason=one.reason,
                sensor=one.sensor,
                from_=moment(one.from_ms),
                to=moment(one.to_ms),
                rows=one.rows,
                rows_exact=one.exact,
            )
            for one in found.missing
        ],
    )


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
    return CompletenessItem(
        gateway=row.gateway, epoch=row.epoch, watermark=mark, lanes=lanes, account=None, not_kept_before=gone
    )
