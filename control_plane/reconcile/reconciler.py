"""Keeps business events in step with history: what changed is computed again in event time and settled as versions.

Invariants
1. Only observations, in event time, decide what events there are; arrival time decides finality alone. The same
   observation found twice counts once; two of the same instant are taken in order of their values.
2. A checkpoint lies at or before the watermark and is valid only for observations after it; data that arrives earlier
   drops every checkpoint from its time on and starts from an older one. So does a boot whose mapping to wall time
   changed, from where it began or now begins.
3. Versions, outbox rows and checkpoints of a subject commit in one business transaction, and the cursor moves after
   them: a kill repeats the pass, and the repeated pass finds nothing to do.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec
import structlog
from sqlalchemy import Connection, Row, func, or_, select

from control_plane.clock import Clock
from control_plane.projections.again import late
from control_plane.projections.kept import whole_from_ms
from control_plane.projections.reading import HistoryReader
from control_plane.projections.walltime import WallTime, load_all
from control_plane.reconcile import cold_chain, cold_chain_events
from control_plane.reconcile.cold_chain import Observation, State
from control_plane.reconcile.records import Records
from control_plane.reconcile.versions import Wanted, settle
from control_plane.reconcile.watermark import watermark_ms
from control_plane.settings import ColdChainRule, Destination
from control_plane.store.engine import Stores
from control_plane.store.tables import (
    PROJECTED,
    batch,
    cursor,
    event,
    history,
    reconcile_cursor,
    rule_checkpoint,
    series,
)
from control_plane.store.upsert import upsert
from protos.comboio.v1 import batch_pb2 as pb

CURSOR = "history"
LATE = "history.late"
ROWS = 2000
KEPT_CHECKPOINTS = 96
SELDOM_MS = 30 * 86_400_000
KEPT_SELDOM = 24
FAR_FUTURE_MS = 1 << 50
NO_VALUE = (pb.QUALITY_BAD_COMM, pb.QUALITY_BAD_SENSOR)

log = structlog.get_logger("control_plane.reconcile")


class Checkpoint(msgspec.Struct, kw_only=True):
    """The fold's state after every observation up to `at_ms`."""

    at_ms: int
    state: State


class Placed(NamedTuple):
    """By which mapping a boot was laid into wall time, and where its first reading came to lie."""

    digest: str
    start_ms: int


class Resting(msgspec.Struct, kw_only=True):
    """What is kept per rule and subject: checkpoints, oldest first, and how the boots in them were placed."""

    checkpoints: list[Checkpoint] = []
    placed: dict[str, Placed] = {}


class Subject(NamedTuple):
    key: str
    gateway: str
    sensor: str
    quantity: str
    period_ms: int
    attrs: dict[str, str]


class Unsettled(NamedTuple):
    """A gateway with provisional events: the watermark they were judged by, and when the first of them expires."""

    mark_ms: int | None
    expires_ms: int


@dataclass(slots=True)
class News:
    """Batches projected after `position` up to `upto`. Earliest reading per gateway, (epoch, boot): mono_ms."""

    position: int
    upto: int
    more: bool
    earliest: dict[str, dict[tuple[int, int], int]] = field(default_factory=dict)
    urgent: set[str] = field(default_factory=set)


class Reconciler:
    """One pass per `step`; run by one worker at a time."""

    def __init__(
        self,
        *,
        stores: Stores,
        reader: HistoryReader,
        rules: Sequence[ColdChainRule],
        destinations: Sequence[Destination],
        clock: Clock,
        hold_max_s: float = 86_400.0,
    ) -> None:
        self._records = Records(stores=stores, destinations=destinations, clock=clock, hold_max_s=hold_max_s)
        self._hold_max_s = hold_max_s
        self._stores = stores
        self._reader = reader
        self._rules = rules
        self._destinations = destinations
        self._clock = clock
        self._unsettled: dict[str, Unsettled | None] | None = None  # gateways that may still need a final version
        self._starts: dict[str, dict[tuple[int, int], int]] = {}
        self.versions = 0

    def step(self) -> bool:
        """Reconcile what came since the last pass. True if there may be more at once."""
        if self._unsettled is None:
            self._unsettled = self._load_unsettled()
        news = self._news()
        made = 0
        fresh = news.earliest.keys() | news.urgent
        for gateway in sorted(fresh | self._unsettled.keys()):
            if gateway in fresh or self._may_settle(gateway):
                told = gateway in news.urgent or gateway in self._unsettled
                made += self._gateway(gateway, news.earliest.get(gateway, {}), told=told)
        if news.upto > news.position:
            self._move(news.upto)
        self.versions += made
        return news.more

    # --- what is new -----------------------------------------------------------------------------------

    def _news(self) -> News:
        """What was projected since the last pass: readings, and URGENT batches, which may hold anchors."""
        with self._stores.business.read() as connection:
            stood = connection.execute(select(reconcile_cursor.c.name, reconcile_cursor.c.position))
            positions = {name: at for name, at in stood if name in {CURSOR, LATE}}
        with self._stores.telemetry.read() as connection:
            came = late(connection)
        position = positions.get(CURSOR, 0)
        if came is not None and came.round > positions.get(LATE, 0):
            position = min(position, came.since - 1)
            self._move(position, came.round)
        columns = (history.c.batch_id, history.c.gateway, history.c.epoch, history.c.boot, history.c.first_mono_ms)
        query = select(*columns).where(history.c.batch_id > position).order_by(history.c.batch_id).limit(ROWS)
        with self._stores.telemetry.read() as connection:
            projected = select(cursor.c.position).where(cursor.c.name == PROJECTED)
            upto = connection.execute(projected).scalar_one_or_none() or 0
            rows = connection.execute(query.where(history.c.batch_id <= upto)).fetchall()
        news = News(position, rows[-1].batch_id if len(rows) >= ROWS else upto, more=len(rows) >= ROWS)
        for row in rows:
            boots = news.earliest.setdefault(row.gateway, {})
            boot = (row.epoch, row.boot)
            boots[boot] = min(boots.get(boot, row.first_mono_ms), row.first_mono_ms)
        if news.upto > position:
            between = (batch.c.id > position, batch.c.id <= news.upto, batch.c.lane == pb.URGENT)
            with self._stores.journal.read() as connection:
                news.urgent.update(connection.execute(select(batch.c.gateway).distinct().where(*between)).scalars())
        news.urgent |= self._records.gateways_with_news()  # also gaps that the server made
        return news

    def _move(self, position: int, round_: int | None = None) -> None:
        """`round_`: of the batches that came late, the one that led back to this position."""
        rows = [{"name": CURSOR, "position": position}]
        if round_ is not None:
            rows.append({"name": LATE, "position": round_})
        with self._stores.business.write() as connection:
            upsert(connection, reconcile_cursor, rows)

    def _may_settle(self, gateway: str) -> bool:
        """Without news, only a moved watermark or an expired wait can change anything."""
        waiting = (self._unsettled or {}).get(gateway)
        if waiting is None or self._clock.now_ms() > waiting.expires_ms:
            return True
        with self._stores.telemetry.read() as connection:
            return watermark_ms(connection, gateway) != waiting.mark_ms

    def _load_unsettled(self) -> dict[str, Unsettled | None]:
        query = select(func.distinct(event.c.subject)).where(event.c.current, event.c.finality == "provisional")
        with self._stores.business.read() as connection:
            found = {subject.split("/", 1)[0] for subject in connection.execute(query).scalars()}
        return dict.fromkeys(found | self._records.gateways_with_open_ones())

    # --- one gateway -----------------------------------------------------------------------------------

    def _gateway(self, gateway: str, earliest: dict[tuple[int, int], int], *, told: bool) -> int:
        """`told`: it may have said something of itself, or what it said is not final yet."""
        with self._stores.telemetry.read() as connection:
            subjects = _subjects(connection, gateway)
            if not subjects and not told:
                return 0
            walls = load_all(connection, gateway)
            mark = watermark_ms(connection, gateway)
            starts = self._boot_starts(connection, gateway, earliest)
            whole_ms = whole_from_ms(connection, gateway)
        made, waiting = self._records.settle(gateway, walls, mark) if told else (0, False)
        expires = [round(self._clock.now_ms() + self._hold_max_s * 1000)] if waiting else []
        for subject in subjects:
            for rule in self._rules:
                versions, expires_ms = self._subject(rule, subject, earliest, walls, mark, starts, whole_ms)
                made += versions
                expires += [expires_ms] if expires_ms is not None else []
        assert self._unsettled is not None
        self._unsettled.pop(gateway, None)
        if expires:
            self._unsettled[gateway] = Unsettled(mark, min(expires))
        return made

    def _subject(
        self,
        rule: ColdChainRule,
        subject: Subject,
        earliest: dict[tuple[int, int], int],
        walls: dict[tuple[int, int], WallTime],
        mark: int | None,
        starts: dict[tuple[int, int], int],
        whole_ms: int,
    ) -> tuple[int, int | None]:
        """(versions made, when the first wait for a final one is over; None if all is final)."""
        resting = self._load_resting(rule.name, subject.key)
        changed_ms = _changed_from(resting, earliest, walls, starts)
        if changed_ms is not None:
            resting.checkpoints = _left(resting.checkpoints, changed_ms, whole_ms)
        start = resting.checkpoints[-1] if resting.checkpoints else Checkpoint(at_ms=-1, state=State())
        state = msgspec.json.decode(msgspec.json.encode(start.state), type=State)
        seen = self._observations(subject, start.at_ms)
        settled = [one for one in seen if mark is not None and one.time_ms <= mark]
        limits = cold_chain.Limits(*cold_chain_events.limits(rule, subject.period_ms))
        decisions = cold_chain.fold(limits, state, settled)
        if settled:
            at_rest = msgspec.json.decode(msgspec.json.encode(state), type=State)
            resting.checkpoints = _thin([*resting.checkpoints, Checkpoint(at_ms=settled[-1].time_ms, state=at_rest)])
        decisions += cold_chain.fold(limits, state, seen[len(settled) :])
        wanted = [self._wanted(rule, subject, decision, mark) for decision in decisions]
        resting.placed = _placed(walls, starts)
        now_ms = self._clock.now_ms()
        with self._stores.business.write() as connection:
            standing = _standing(connection, rule.name, subject.key, after_ms=start.at_ms, wanted=wanted)
            made = settle(connection, wanted=wanted, standing=standing, destinations=self._destinations, now_ms=now_ms)
            body = msgspec.json.encode(resting).decode()
            key = {"rule": rule.name, "subject": subject.key}
            upsert(connection, rule_checkpoint, [{**key, "body": body}])
        if made:
            log.info("events.settled", subject=subject.key, versions=made)
        open_ends = [one.decided_ms for one in wanted if not one.final]
        return made, round(min(open_ends) + rule.hold_max_s * 1000) if open_ends else None

    def _boot_starts(
        self, connection: Connection, gateway: str, earliest: dict[tuple[int, int], int]
    ) -> dict[tuple[int, int], int]:
        """Where each boot's readings begin. Looked up once; afterwards whatever comes is among the news."""
        known = self._starts.get(gateway)
        if known is None:
            known = self._starts[gateway] = _boot_starts(connection, gateway)
        for boot, first_ms in earliest.items():
            known[boot] = min(first_ms, known.get(boot, first_ms))
        return known

    def _observations(self, subject: Subject, after_ms: int) -> list[Observation]:
        key = (subject.sensor, subject.quantity)
        found = self._reader.read(subject.gateway, [key], from_ms=after_ms + 1, to_ms=FAR_FUTURE_MS)[key]
        every = zip(found.times_ms, found.values, found.quality, found.origin, strict=True)
        return sorted(
            {
                Observation(at, float(value), origin)
                for at, value, code, origin in every
                if code not in NO_VALUE and isinstance(value, int | float) and math.isfinite(value)
            },
            key=lambda one: (one.time_ms, one.origin, one.value),
        )

    def _wanted(self, rule: ColdChainRule, subject: Subject, decision: cold_chain.Decision, mark: int | None) -> Wanted:
        final = mark is not None and decision.decided_ms <= mark
        held = None
        if not final and self._clock.now_ms() - decision.decided_ms > rule.hold_max_s * 1000:
            final, held = True, "expired"
        facts = {"gateway": subject.gateway, "sensor": subject.sensor, "quantity": subject.quantity}
        if "asset" in subject.attrs:
            facts["asset"] = subject.attrs["asset"]
        return cold_chain_events.wanted(rule, subject.key, facts, decision, final=final, held=held)

    def _load_resting(self, rule: str, subject: str) -> Resting:
        query = select(rule_checkpoint.c.body).where(
            rule_checkpoint.c.rule == rule, rule_checkpoint.c.subject == subject
        )
        with self._stores.business.read() as connection:
            body = connection.execute(query).scalar_one_or_none()
        return msgspec.json.decode(body, type=Resting) if body else Resting()


def _subjects(connection: Connection, gateway: str) -> list[Subject]:
    """Series of this gateway that carry cargo."""
    found = []
    for row in connection.execute(select(series).where(series.c.gateway == gateway).order_by(series.c.key)):
        attrs = json.loads(row.attrs)
        if attrs.get("role") == cold_chain_events.ROLE:
            found.append(Subject(row.key, gateway, row.sensor, row.name, row.period_ms, attrs))
    return found


def _boot_starts(connection: Connection, gateway: str) -> dict[tuple[int, int], int]:
    query = (
        select(history.c.epoch, history.c.boot, func.min(history.c.first_mono_ms))
        .where(history.c.gateway == gateway)
        .group_by(history.c.epoch, history.c.boot)
    )
    return {(epoch, boot): first for epoch, boot, first in connection.execute(query)}


def _changed_from(
    resting: Resting,
    earliest: dict[tuple[int, int], int],
    walls: dict[tuple[int, int], WallTime],
    starts: dict[tuple[int, int], int],
) -> int | None:
    """The earliest wall time at which something is new: readings that came, or boots that lie elsewhere now."""
    times = [walls[boot].wall(mono_ms) for boot, mono_ms in earliest.items() if walls.get(boot)]
    for key, now in _placed(walls, starts).items():
        before = resting.placed.get(key)
        if before is None:
            times.append(now.start_ms)
        elif before.digest != now.digest:
            times.append(min(before.start_ms, now.start_ms))
    return min(times, default=None)


def _placed(walls: dict[tuple[int, int], WallTime], starts: dict[tuple[int, int], int]) -> dict[str, Placed]:
    """Every boot that has readings and can be placed."""
    return {
        f"{boot[0]:08x}/{boot[1]}": Placed(wall.digest(), wall.wall(starts[boot]))
        for boot, wall in walls.items()
        if boot in starts
    }


def _standing(
    connection: Connection, rule: str, subject: str, *, after_ms: int, wanted: Sequence[Wanted]
) -> list[Row[Any]]:
    """Current versions that the recomputed stretch must account for.

    That is what was decided in it, and what is decided in it now though a version since taken back was decided before.
    """
    keys = {(one.entity_id, one.type) for one in wanted}
    query = select(event).where(
        event.c.subject == subject,
        event.c.type.in_((cold_chain_events.OPENED, cold_chain_events.CLOSED)),
        event.c.current,
        or_(event.c.decided_ms > after_ms, event.c.entity_id.in_({entity for entity, _ in keys})),
    )
    return [
        row
        for row in connection.execute(query)
        if json.loads(row.data).get("rule") == rule and (row.decided_ms > after_ms or (row.entity_id, row.type) in keys)
    ]


def _left(checkpoints: list[Checkpoint], changed_ms: int, whole_ms: int) -> list[Checkpoint]:
    """Those that something new at `changed_ms` leaves valid.

    Where readings are not kept any more what was decided by them stands: the rule goes on from the first checkpoint
    after them, or else from the last one there is, and what comes later of the time before decides nothing.
    """
    before = [one for one in checkpoints if one.at_ms < changed_ms]
    if not checkpoints or not whole_ms or (before and before[-1].at_ms >= whole_ms):
        return before
    first = next((index for index, one in enumerate(checkpoints) if one.at_ms >= whole_ms), len(checkpoints) - 1)
    return checkpoints[: first + 1]


def _thin(checkpoints: list[Checkpoint]) -> list[Checkpoint]:
    """Keep the newest, about one an hour before it, and one a month of what is longer ago."""
    kept: list[Checkpoint] = []
    for checkpoint in checkpoints:
        while len(kept) >= 2 and checkpoint.at_ms - kept[-2].at_ms < 3_600_000:
            kept.pop()
        kept.append(checkpoint)
    old, recent = kept[:-KEPT_CHECKPOINTS], kept[-KEPT_CHECKPOINTS:]
    seldom: list[Checkpoint] = []
    for checkpoint in old:
        if not seldom or checkpoint.at_ms - seldom[-1].at_ms >= SELDOM_MS:
            seldom.append(checkpoint)
    return [*seldom[-KEPT_SELDOM:], *recent]
