"""What the relay writes down: many keys' turns in one transaction.

A turn of a key books the outcome of its last delivery and takes its lowest open row for the next one, or gives the
lease back. Invariants

1. `inflight` and its attempt are committed before `turn` returns the row: the first byte leaves after.
2. Nothing is written for a key whose fencing token is not the turn's. The key's row is locked first, so that an event
   posted meanwhile is either seen here or finds the key waiting for it.
3. Only the lowest row that is not delivered is ever taken; a parked one blocks its key and no other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, bindparam, func, select, update

from control_plane.relay.lease import Lease, lease_ms
from control_plane.settings import Destination
from control_plane.store.engine import Store
from control_plane.store.tables import OPEN_ROW, attempt, cutover, key_seq, outbox

BLOCKING = frozenset({"parked", "dead"})


class Finished(NamedTuple):
    """What became of one row: its new values, and those of its attempt (None: nothing was sent)."""

    seq: int
    row: dict[str, Any]
    attempt_id: int | None = None
    attempt: dict[str, Any] | None = None


@dataclass(slots=True)
class Turn:
    """One key's request. `asked`: the seq whose unknown outcome was asked about, and that did not arrive."""

    lease: Lease
    finished: Finished | None = None
    asked: int | None = None


class Begun(NamedTuple):
    """Send this row now; where it is not `live`, only find out what the far side has."""

    row: Row[Any]
    attempt_id: int
    sent_ms: int
    live: bool


class Ask(NamedTuple):
    """Find out whether this row arrived, before it may be sent again."""

    row: Row[Any]
    live: bool


@dataclass(frozen=True, slots=True)
class Released:
    """Nothing to do on this key; the lease was given back."""


@dataclass(frozen=True, slots=True)
class Lost:
    """Somebody else has the key; nothing was written."""


Answer = Begun | Ask | Released | Lost


@dataclass(slots=True)
class _Plan:
    """What one transaction is going to write, beyond outcomes."""

    begin: list[tuple[Lease, Row[Any], bool]] = field(default_factory=list)
    unknown: list[dict[str, Any]] = field(default_factory=list)
    keep: list[str] = field(default_factory=list)
    release: list[dict[str, Any]] = field(default_factory=list)


class Books:
    """One destination's. Blocking; called from one thread at a time."""

    def __init__(self, store: Store, destination: Destination) -> None:
        self._store = store
        self._dest = destination.name
        self._lease_ms = lease_ms(destination)
        self._grace_ms = round(destination.grace_s * 1000)
        self._shadow = destination.mode == "shadow"

    def turn(
        self,
        turns: Sequence[Turn],
        *,
        now_ms: int,
        not_before_ms: int = 0,
        closing: bool = False,
        wait_ms: Callable[[], int] = lambda: 0,
    ) -> list[Answer]:
        """One answer per turn. Before `not_before_ms`, or when `closing`, no row is begun.

        `wait_ms` is asked before each row that could be: 0, or how much later to come again.
        """
        with self._store.write() as connection:
            held = self._held(connection, turns)
            live = [one for one in turns if held.get(one.lease.key) == one.lease.fence]
            _book(connection, self._dest, [(t.lease.key, t.finished) for t in live if t.finished is not None])
            lowest = self._lowest(connection, [one.lease.key for one in live])
            switched = self._switched(connection, list(lowest)) if self._shadow else set()
            plan = _Plan()
            answers: dict[Lease, Answer] = {}
            for one in live:
                row = lowest.get(one.lease.key)
                due_ms, state = self._due(row, plan)
                due_ms = None if due_ms is None else max(due_ms, not_before_ms)
                if due_ms is not None and due_ms <= now_ms and not closing:
                    due_ms = now_ms + wait_ms()
                is_live = not self._shadow or one.lease.key in switched or "*" in switched
                if row is None or due_ms is None or due_ms > now_ms or closing:
                    plan.release.append({"b_dest": self._dest, "b_key": one.lease.key, "b_next_at_ms": due_ms})
                    answers[one.lease] = Released()
                elif state == "unknown" and one.asked != row.seq:
                    plan.keep.append(one.lease.key)
                    answers[one.lease] = Ask(row, is_live)
                else:
                    plan.keep.append(one.lease.key)
                    plan.begin.append((one.lease, row, is_live))
            answers.update(self._write(connection, plan, now_ms))
        return [answers.get(one.lease, Lost()) for one in turns]

    def _due(self, row: Row[Any] | None, plan: _Plan) -> tuple[int | None, str]:
        """(when the row may be worked on, its state). Somebody was killed on an `inflight` one: it may have arrived."""
        if row is None or row.state in BLOCKING:
            return None, ""
        if row.state != "inflight":
            return row.next_at_ms, row.state
        rested_ms = row.sent_ms + self._grace_ms
        values = {"b_state": "unknown", "b_next_at_ms": rested_ms, "b_class": "AMBIGUOUS"}
        plan.unknown.append({"b_dest": row.dest, "b_key": row.key, "b_seq": row.seq, **values})
        return rested_ms, "unknown"

    # --- statements ------------------------------------------------------------------------------------

    def _held(self, connection: Connection, turns: Sequence[Turn]) -> dict[str, int]:
        """Key → fencing token, each row locked until the commit."""
        keys = sorted(one.lease.key for one in turns)
        query = select(key_seq.c.key, key_seq.c.fence).where(key_seq.c.dest == self._dest, key_seq.c.key.in_(keys))
        locked = query.order_by(key_seq.c.key).with_for_update()
        return {row.key: row.fence for row in connection.execute(locked)}

    def _lowest(self, connection: Connection, keys: Sequence[str]) -> dict[str, Row[Any]]:
        """The first row of each key that is not delivered."""
        if not keys:
            return {}
        mine = (outbox.c.dest == self._dest, outbox.c.key.in_(keys), OPEN_ROW)
        first = select(outbox.c.key, func.min(outbox.c.seq).label("seq")).where(*mine).group_by(outbox.c.key).subquery()
        query = select(outbox).join(first, (outbox.c.key == first.c.key) & (outbox.c.seq == first.c.seq))
        return {row.key: row for row in connection.execute(query.where(outbox.c.dest == self._dest))}

    def _switched(self, connection: Connection, keys: Sequence[str]) -> set[str]:
        """Keys that are delivered though the destination is in shadow mode."""
        mine = (cutover.c.dest == self._dest, cutover.c.key.in_([*keys, "*"]))
        return set(connection.execute(select(cutover.c.key).where(*mine)).scalars())

    def _write(self, connection: Connection, plan: _Plan, now_ms: int) -> dict[Lease, Begun]:
        if plan.unknown:
            connection.execute(_UNKNOWN, plan.unknown)
        if plan.release:
            connection.execute(_RELEASE, plan.release)
        if plan.keep:
            mine = (key_seq.c.dest == self._dest, key_seq.c.key.in_(plan.keep))
            connection.execute(update(key_seq).where(*mine).values(lease_until_ms=now_ms + self._lease_ms))
        if not plan.begin:
            return {}
        rows = [row for _, row, _ in plan.begin]
        connection.execute(
            _BEGIN, [{"b_dest": r.dest, "b_key": r.key, "b_seq": r.seq, "b_sent_ms": now_ms} for r in rows]
        )
        started = [
            {
                "dest": row.dest,
                "event_id": row.event_id,
                "number": row.attempt + 1,
                "started_ms": now_ms,
                "bytes": len(row.body),
            }
            for row in rows
        ]
        numbered = attempt.insert().returning(attempt.c.id, sort_by_parameter_order=True)
        ids = connection.execute(numbered, started).scalars()
        begun = zip(plan.begin, ids, strict=True)
        return {lease: Begun(row, id_, now_ms, live) for (lease, row, live), id_ in begun}


_ROW = (outbox.c.dest == bindparam("b_dest"), outbox.c.key == bindparam("b_key"), outbox.c.seq == bindparam("b_seq"))
_UNKNOWN = (
    update(outbox)
    .where(*_ROW)
    .values(state=bindparam("b_state"), next_at_ms=bindparam("b_next_at_ms"), last_class=bindparam("b_class"))
)
_BEGIN = (
    update(outbox).where(*_ROW).values(state="inflight", sent_ms=bindparam("b_sent_ms"), attempt=outbox.c.attempt + 1)
)
_RELEASE = (
    update(key_seq)
    .where(key_seq.c.dest == bindparam("b_dest"), key_seq.c.key == bindparam("b_key"))
    .values(lease_until_ms=0, next_at_ms=bindparam("b_next_at_ms"))
)
_ATTEMPT = (
    update(attempt)
    .where(attempt.c.id == bindparam("b_id"))
    .values({name: bindparam(f"b_{name}") for name in ("took_ms", "outcome", "status", "error")})
)


def _book(connection: Connection, dest: str, some: Sequence[tuple[str, Finished]]) -> None:
    """Outcomes; those with the same columns in one statement."""
    by_columns: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    attempts = []
    for key, done in some:
        where = {"b_dest": dest, "b_key": key, "b_seq": done.seq}
        values = {f"b_{name}": value for name, value in done.row.items()}
        by_columns.setdefault(tuple(sorted(done.row)), []).append(where | values)
        if done.attempt_id is not None and done.attempt is not None:
            attempts.append({"b_id": done.attempt_id} | {f"b_{name}": value for name, value in done.attempt.items()})
    for columns, rows in by_columns.items():
        statement = update(outbox).where(*_ROW).values({name: bindparam(f"b_{name}") for name in columns})
        connection.execute(statement, rows)
    if attempts:
        connection.execute(_ATTEMPT, attempts)
