"""Keeps the events of gap records and conditions in step with what gateways say of themselves.

Invariants
1. What is computed again is whole: every row that changed since the last pass, every episode that is not final at both
   ends, and every one in a boot that lies elsewhere in wall time now.
2. The checkpoint (how far rows were taken, what is open, how boots were placed) commits with the versions it led to; a
   kill repeats the pass, and the repeated pass finds nothing to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, and_, func, or_, select

from control_plane.clock import Clock
from control_plane.projections.walltime import WallTime
from control_plane.reconcile.episodes import entity_id, of_conditions, of_gap, touched, wanted
from control_plane.reconcile.seqs import Places
from control_plane.reconcile.versions import Wanted, settle
from control_plane.settings import Destination
from control_plane.store.engine import Stores
from control_plane.store.tables import boot, condition, event, gap, rule_checkpoint
from control_plane.store.upsert import upsert

RULE = "records"
PORTION = 400
Walls = dict[tuple[int, int], WallTime]


class Resting(msgspec.Struct, kw_only=True):
    """Per gateway. `open`: gap rows, and (sensor, quantity, name) of conditions, that are not final at both ends."""

    gaps_ms: int = 0
    conditions_ms: int = 0
    open_gaps: list[str] = []
    open_conditions: list[tuple[str, str, str]] = []
    placed: dict[str, str] = {}

    @property
    def open(self) -> bool:
        return bool(self.open_gaps or self.open_conditions)


class Records:
    """One gateway at a time; called by the reconciler's pass."""

    def __init__(self, *, stores: Stores, destinations: Sequence[Destination], clock: Clock, hold_max_s: float) -> None:
        self._stores = stores
        self._destinations = destinations
        self._clock = clock
        self._hold_max_ms = round(hold_max_s * 1000)
        self._seen_ms = 0
        self._seen: set[tuple[str, int]] = set()
        self._places = Places(stores=stores)

    def gateways_with_open_ones(self) -> set[str]:
        query = select(rule_checkpoint.c.subject, rule_checkpoint.c.body).where(rule_checkpoint.c.rule == RULE)
        with self._stores.business.read() as connection:
            return {name for name, body in connection.execute(query) if msgspec.json.decode(body, type=Resting).open}

    def gateways_with_news(self) -> set[str]:
        """Those whose gap records changed, or whose boots were placed between others, since this was last asked."""
        changed = select(gap.c.gateway, func.max(gap.c.recorded_ms)).where(gap.c.recorded_ms >= self._seen_ms)
        placed = select(boot.c.gateway, func.max(boot.c.placed_ms)).where(boot.c.placed_ms >= self._seen_ms)
        with self._stores.telemetry.read() as connection:
            rows = [*connection.execute(changed.group_by(gap.c.gateway))]
            rows += connection.execute(placed.group_by(boot.c.gateway))
        news = {row.gateway for row in rows if (row.gateway, row[1]) not in self._seen}
        self._seen = {(row.gateway, row[1]) for row in rows}
        self._seen_ms = max([self._seen_ms, *(row[1] for row in rows)])
        return news

    def settle(self, gateway: str, walls: Walls, mark_ms: int | None) -> tuple[int, bool]:
        """(versions made, whether something is left that time or the watermark will finish)."""
        before = self._load(gateway)
        with self._stores.telemetry.read() as connection:
            gaps = _changed_gaps(connection, gateway, before, walls)
            conditions = _changed_conditions(connection, gateway, before, walls)
        if not gaps and not conditions:
            return 0, before.open
        now_ms = self._clock.now_ms()
        expired_ms = now_ms - self._hold_max_ms
        after = Resting(
            gaps_ms=max([before.gaps_ms, *(row.recorded_ms for row in gaps)]),
            conditions_ms=max([before.conditions_ms, *(row.recorded_ms for row in conditions)]),
            placed=_placed(walls),
        )
        made: list[Wanted] = []
        for row in gaps:
            made += self._of_gap(row, walls, mark_ms, expired_ms, after)
        by_key: dict[tuple[str, str, str], list[Row[Any]]] = {}
        for row in conditions:
            by_key.setdefault((row.sensor, row.quantity, row.name), []).append(row)
        for key, rows in by_key.items():
            episodes = of_conditions(rows, walls)
            events = [
                one for episode in episodes for one in wanted(episode, mark_ms=mark_ms, expired_before_ms=expired_ms)
            ]
            unplaced = any((row.epoch, row.boot) not in walls for row in rows)
            if unplaced or not all(one.final for one in events):
                after.open_conditions.append(key)
            made += events
        ids = [entity_id(row.id) for row in (*gaps, *conditions)]
        with self._stores.business.write() as connection:
            versions = settle(
                connection,
                wanted=made,
                standing=_standing(connection, ids),
                destinations=self._destinations,
                now_ms=now_ms,
            )
            if after != before:
                body = msgspec.json.encode(after).decode()
                upsert(connection, rule_checkpoint, [{"rule": RULE, "subject": gateway, "body": body}])
        return versions, after.open

    def _of_gap(
        self, row: Row[Any], walls: Walls, mark_ms: int | None, expired_ms: int, after: Resting
    ) -> list[Wanted]:
        if row.joined_to is not None:
            return []
        ends = self._places.of(row, walls)
        if ends is None:
            after.open_gaps.append(row.id)
            return []
        events = wanted(of_gap(row, *ends), mark_ms=mark_ms, expired_before_ms=expired_ms)
        if len(events) < 2 or not all(one.final for one in events):
            after.open_gaps.append(row.id)
        return events

    def _load(self, gateway: str) -> Resting:
        query = select(rule_checkpoint.c.body).where(
            rule_checkpoint.c.rule == RULE, rule_checkpoint.c.subject == gateway
        )
        with self._stores.business.read() as connection:
            body = connection.execute(query).scalar_one_or_none()
        return msgspec.json.decode(body, type=Resting) if body else Resting()


def _changed_gaps(connection: Connection, gateway: str, before: Resting, walls: Walls) -> list[Row[Any]]:
    """Rows that are new or open, or lie in a boot whose place in wall time has changed."""
    changed = [gap.c.recorded_ms >= before.gaps_ms, *_in_boots(_moved(before, walls), "from_boot", "to_boot")]
    mine = gap.c.gateway == gateway
    found = {row.id: row for row in connection.execute(select(gap).where(mine, or_(*changed)))}
    for some in _portions([id_ for id_ in before.open_gaps if id_ not in found]):
        found |= {row.id: row for row in connection.execute(select(gap).where(gap.c.id.in_(some)))}
    return list(found.values())


def _changed_conditions(connection: Connection, gateway: str, before: Resting, walls: Walls) -> list[Row[Any]]:
    """All records of every key that has news."""
    mine = condition.c.gateway == gateway
    boots = [and_(condition.c.epoch == epoch, condition.c.boot == boot) for epoch, boot in _moved(before, walls)]
    news = select(condition).where(mine, or_(condition.c.recorded_ms >= before.conditions_ms, *boots))
    keys = touched(connection.execute(news).all()) | {(s, q, n) for s, q, n in before.open_conditions}
    found: list[Row[Any]] = []
    for sensor, quantity, name in sorted(keys):
        this = (condition.c.sensor == sensor, condition.c.quantity == quantity, condition.c.name == name)
        found += connection.execute(select(condition).where(mine, *this)).all()
    return found


def _in_boots(moved: Sequence[tuple[int, int]], *columns: str) -> list[Any]:
    return [and_(gap.c.epoch == epoch, or_(*(gap.c[name] == boot for name in columns))) for epoch, boot in moved]


def _placed(walls: Walls) -> dict[str, str]:
    return {f"{epoch:08x}/{boot}": wall.digest() for (epoch, boot), wall in walls.items()}


def _moved(before: Resting, walls: Walls) -> list[tuple[int, int]]:
    """Boots that lie elsewhere now. One never seen is none: what happened in it is new or open."""
    return [
        key
        for key, wall in walls.items()
        if before.placed.get(f"{key[0]:08x}/{key[1]}", wall.digest()) != wall.digest()
    ]


def _standing(connection: Connection, ids: Sequence[str]) -> list[Row[Any]]:
    found: list[Row[Any]] = []
    for some in _portions(ids):
        found += connection.execute(select(event).where(event.c.entity_id.in_(some), event.c.current)).all()
    return found


def _portions(items: Sequence[str]) -> list[Sequence[str]]:
    return [items[start : start + PORTION] for start in range(0, len(items), PORTION)]
