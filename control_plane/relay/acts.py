"""What people do to deliveries: offer them again, skip one, mend one, switch a key over from shadow to live.

Invariants
1. Each act is written down with who did it and why, in the transaction that does it.
2. A key's row is locked before a delivery of it is touched, as a turn of the relay does: what is under way is never
   changed under a relay's hands.
3. What is offered again keeps its id: a receiver that has it takes it for what it is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, select, update

from control_plane.errors import Conflict, NotFound
from control_plane.store.engine import Store
from control_plane.store.tables import OPEN_ROW, cutover, event, key_seq, outbox, relay_act
from control_plane.store.upsert import insert

KEYS_AT_ONCE = 500
ENDED = ("parked", "dead", "delivered", "superseded", "skipped", "shadowed")
BLOCKED = ("parked", "dead")
WAITING = ("pending", "retry", "parked", "dead")
EVERY_KEY = "*"


@dataclass(frozen=True, slots=True)
class Act:
    """Who, why, when; in which destination."""

    dest: str
    actor: str
    reason: str
    at_ms: int


def replay(store: Store, act: Act, event_id: str) -> None:
    """Offer one event again under its id. Raises NotFound, and Conflict while it is on its way already."""
    with store.write() as connection:
        row = _locked(connection, act.dest, event_id)
        if row.state not in ENDED:
            raise Conflict(f"{act.dest}:{event_id} is {row.state}: it is on its way already.")
        _become(connection, row, state="pending", attempt=0, next_at_ms=act.at_ms)
        _wake(connection, act.dest, [row.key], act.at_ms)
        _note(connection, act, "replay", event_id)


def replay_since(store: Store, act: Act, *, since_ms: int, types: Sequence[str] = (), dry_run: bool = False) -> int:
    """Offer again whatever was delivered since then, of these types (empty: all); how many.

    The far side is asked about each first where it can be, so that what it has is not sent.
    """
    mine = (outbox.c.dest == act.dest, outbox.c.created_ms >= since_ms, outbox.c.state.in_(ENDED))
    query = select(outbox.c.key, outbox.c.seq).join(event, event.c.id == outbox.c.event_id).where(*mine)
    if types:
        query = query.where(event.c.type.in_(types))
    with store.read() as connection:
        found = connection.execute(query.order_by(outbox.c.key, outbox.c.seq)).all()
    if dry_run or not found:
        return len(found)
    again = 0
    for some in _portions(found):
        with store.write() as connection:
            keys = sorted({row.key for row in some})
            _lock(connection, act.dest, keys)
            for row in some:
                this = (outbox.c.dest == act.dest, outbox.c.key == row.key, outbox.c.seq == row.seq)
                asked = {"state": "unknown", "attempt": 0, "next_at_ms": act.at_ms}
                again += connection.execute(
                    update(outbox).where(*this, outbox.c.state.in_(ENDED)).values(**asked)
                ).rowcount
            _wake(connection, act.dest, keys, act.at_ms)
    with store.write() as connection:
        _note(connection, act, "replay", None)
    return again


def resume(store: Store, act: Act, *, parked: bool) -> int:
    """Make all that waits for another attempt due now, with `parked` also what was given up; how many rows.

    A deliverer that rests because its credentials were refused ends that rest by itself, within a minute.
    """
    states = ("retry", *BLOCKED) if parked else ("retry",)
    mine = (outbox.c.dest == act.dest, OPEN_ROW, outbox.c.state.in_(states))
    with store.write() as connection:
        keys = select(outbox.c.key).where(*mine).distinct()
        waiting = connection.execute(keys.order_by(outbox.c.key)).scalars().all()
        for some in _portions(waiting):
            _lock(connection, act.dest, some)
            _wake(connection, act.dest, some, act.at_ms)
        again = update(outbox).where(*mine).values(state="pending", attempt=0, next_at_ms=act.at_ms)
        _note(connection, act, "resume", None)
        return connection.execute(again).rowcount


def skip(store: Store, act: Act, event_id: str) -> None:
    """Give one delivery up, so that its key goes on. Raises NotFound, and Conflict unless it waits or is parked."""
    with store.write() as connection:
        row = _locked(connection, act.dest, event_id)
        if row.state not in WAITING:
            raise Conflict(f"{act.dest}:{event_id} is {row.state}: only what waits or is parked can be skipped.")
        _become(connection, row, state="skipped", next_at_ms=act.at_ms)
        _wake(connection, act.dest, [row.key], act.at_ms)
        _note(connection, act, "skip", event_id)


def fix(store: Store, act: Act, event_id: str, data: dict[str, Any]) -> None:
    """Send one waiting or parked delivery with other `data`, under its id; what it said before is kept.

    The event itself stays as it is: what a person puts in its place is said to be so (`fixedby`). Raises NotFound, and
    Conflict where something of it may already have arrived.
    """
    with store.write() as connection:
        row = _locked(connection, act.dest, event_id)
        if row.state not in WAITING:
            raise Conflict(f"{act.dest}:{event_id} is {row.state}: only what waits or is parked can be fixed.")
        said = json.loads(row.body)
        said |= {"data": data, "fixedby": act.actor}
        body = json.dumps(said, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
        digest = hashlib.sha256(body).hexdigest()
        _become(connection, row, state="pending", attempt=0, next_at_ms=act.at_ms, body=body, body_sha256=digest)
        _wake(connection, act.dest, [row.key], act.at_ms)
        _note(connection, act, "fix", event_id, body=row.body)


def cut_over(store: Store, act: Act, keys: Sequence[str]) -> None:
    """From now on these keys (`*`: all) of a destination in shadow mode are delivered."""
    with store.write() as connection:
        rows = [{"dest": act.dest, "key": key, "at_ms": act.at_ms} for key in keys]
        connection.execute(insert(connection, cutover).on_conflict_do_nothing(), rows)
        _note(connection, act, "cutover", None)


def _locked(connection: Connection, dest: str, event_id: str) -> Row[Any]:
    where = (outbox.c.dest == dest, outbox.c.event_id == event_id)
    key = connection.execute(select(outbox.c.key).where(*where)).scalar_one_or_none()
    if key is None:
        raise NotFound(f"There is no delivery {dest}:{event_id}; its name is destination:event.")
    _lock(connection, dest, [key])
    return connection.execute(select(outbox).where(*where)).one()


def _lock(connection: Connection, dest: str, keys: Sequence[str]) -> None:
    mine = (key_seq.c.dest == dest, key_seq.c.key.in_(keys))
    connection.execute(select(key_seq.c.fence).where(*mine).order_by(key_seq.c.key).with_for_update()).all()


def _become(connection: Connection, row: Row[Any], **values: Any) -> None:
    this = (outbox.c.dest == row.dest, outbox.c.key == row.key, outbox.c.seq == row.seq)
    connection.execute(update(outbox).where(*this).values(**values))


def _wake(connection: Connection, dest: str, keys: Sequence[str], now_ms: int) -> None:
    mine = (key_seq.c.dest == dest, key_seq.c.key.in_(keys))
    connection.execute(update(key_seq).where(*mine).values(next_at_ms=now_ms))


def _note(connection: Connection, act: Act, what: str, event_id: str | None, *, body: bytes | None = None) -> None:
    said = {"at_ms": act.at_ms, "actor": act.actor, "reason": act.reason, "body": body}
    connection.execute(relay_act.insert(), [{"dest": act.dest, "event_id": event_id, "act": what, **said}])


def _portions(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for first in range(0, len(items), KEYS_AT_ONCE):
        yield items[first : first + KEYS_AT_ONCE]
