"""Business events: immutable, versioned, corrected by new versions; their outbox rows in the same transaction.

Invariants
1. A version is never updated but for `current`, which says whether it is the newest of its entity and type.
2. The id is made of entity, type and version, so a repeated run can't mint a second one; equal content and finality
   make no version at all.
3. An event and its outbox rows commit together, and the row's seq is taken under its key's lock: order per key is
   commit order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection, Row, select, update
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from control_plane.settings import Destination
from control_plane.store.tables import event, key_seq, outbox

SOURCE = "urn:comboio:reconciler"
_encode = msgspec.json.Encoder(order="sorted").encode


class Wanted(NamedTuple):
    """What is true now of one entity and type. `final`: nothing that may still arrive can change it."""

    entity_id: str
    type: str
    subject: str
    time_ms: int
    decided_ms: int
    data: dict[str, Any]
    final: bool
    held: str | None = None


def rfc3339(at_ms: int) -> str:
    """UTC with milliseconds and Z."""
    moment = datetime.fromtimestamp(at_ms / 1000, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at_ms % 1000:03d}Z"


def settle(
    connection: Connection,
    *,
    wanted: Sequence[Wanted],
    standing: Sequence[Row[Any]],
    destinations: Iterable[Destination],
    now_ms: int,
) -> int:
    """Bring the current versions `standing` (rows of event) to `wanted`; returns how many versions were made."""
    targets = list(destinations)
    by_key = {(row.entity_id, row.type): row for row in standing}
    made = 0
    for one in wanted:
        row = by_key.pop((one.entity_id, one.type), None)
        version = _next(one, row)
        if version is not None:
            _write(connection, version, row, targets, now_ms)
            made += 1
    for row in by_key.values():
        if row.change != "retract":
            _write(connection, _retraction(row), row, targets, now_ms)
            made += 1
    return made


class _Version(NamedTuple):
    wanted: Wanted
    number: int
    change: str
    data: bytes
    supersedes: str | None


def _next(one: Wanted, row: Row[Any] | None) -> _Version | None:
    data = _encode(one.data)
    if row is None:
        return _Version(one, 1, "create", data, None)
    same = row.data_sha256 == hashlib.sha256(data).hexdigest() and row.change != "retract"
    if same and (row.finality == "final" or not one.final):
        return None
    return _Version(one, row.version + 1, "amend" if same else "supersede", data, row.id)


def _retraction(row: Row[Any]) -> _Version:
    one = Wanted(row.entity_id, row.type, row.subject, row.time_ms, row.decided_ms, {}, final=row.finality == "final")
    return _Version(one, row.version + 1, "retract", row.data.encode(), row.id)


def _write(
    connection: Connection, version: _Version, row: Row[Any] | None, targets: Sequence[Destination], now_ms: int
) -> None:
    one = version.wanted
    id_ = f"evt_{one.entity_id}_{slug(one.type)}_v{version.number}"
    if row is not None:
        connection.execute(update(event).where(event.c.id == row.id).values(current=False))
    facts = {
        "id": id_,
        "entity_id": one.entity_id,
        "type": one.type,
        "version": version.number,
        "subject": one.subject,
        "change": version.change,
        "finality": "final" if one.final else "provisional",
        "held": one.held,
        "supersedes": version.supersedes,
        "time_ms": one.time_ms,
        "decided_ms": one.decided_ms,
        "recorded_ms": now_ms,
        "data_sha256": hashlib.sha256(version.data).hexdigest(),
        "data": version.data.decode(),
        "current": True,
    }
    connection.execute(event.insert(), facts)
    for target in targets:
        if target.wants(one.type) and (one.final or target.finality == "provisional_ok"):
            _post(connection, target.name, one.subject, facts, now_ms)


def _post(connection: Connection, dest: str, key: str, facts: dict[str, Any], now_ms: int) -> None:
    supersedes = _last_sent(connection, dest, facts["entity_id"], facts["type"], facts["version"])
    change = facts["change"]
    if supersedes is None and change == "retract":
        return  # it was never told: nothing to take back
    insert = sqlite_insert if connection.dialect.name == "sqlite" else pg_insert
    row = insert(key_seq).values(dest=dest, key=key, last=1, fence=0, lease_until_ms=0, next_at_ms=now_ms)
    due = key_seq.c.next_at_ms
    query = row.on_conflict_do_update(index_elements=["dest", "key"], set_={"last": key_seq.c.last + 1}).returning(
        key_seq.c.last
    )
    seq = connection.execute(query).scalar_one()
    connection.execute(
        update(key_seq).where(key_seq.c.dest == dest, key_seq.c.key == key, due.is_(None)).values(next_at_ms=now_ms)
    )
    body = _encode(cloud_event(facts, seq=seq, supersedes=supersedes))
    connection.execute(
        outbox.insert(),
        {
            "dest": dest,
            "key": key,
            "seq": seq,
            "event_id": facts["id"],
            "ext_ref": facts["id"],
            "body": body,
            "body_sha256": hashlib.sha256(body).hexdigest(),
            "state": "pending",
            "next_at_ms": now_ms,
            "created_ms": now_ms,
        },
    )


def _last_sent(connection: Connection, dest: str, entity_id: str, type_: str, version: int) -> str | None:
    """The newest earlier version of this entity that this destination was given."""
    query = (
        select(event.c.id)
        .join(outbox, outbox.c.event_id == event.c.id)
        .where(outbox.c.dest == dest, event.c.entity_id == entity_id, event.c.type == type_)
        .where(event.c.version < version)
        .order_by(event.c.version.desc())
        .limit(1)
    )
    return connection.execute(query).scalar_one_or_none()


def cloud_event(facts: dict[str, Any], *, seq: int, supersedes: str | None) -> dict[str, Any]:
    """CloudEvents 1.0, structured mode; extension names are lower-case alphanumeric."""
    body = {
        "specversion": "1.0",
        "id": facts["id"],
        "source": SOURCE,
        "type": facts["type"],
        "subject": facts["subject"],
        "time": rfc3339(facts["time_ms"]),
        "datacontenttype": "application/json",
        "dataschema": f"urn:comboio:contracts:{facts['type']}",
        "partitionkey": facts["subject"],
        "sequence": f"{seq:020d}",
        "recordedtime": rfc3339(facts["recorded_ms"]),
        "entityid": facts["entity_id"],
        "entityversion": facts["version"],
        "change": facts["change"],
        "finality": facts["finality"],
        "datahash": f"sha256:{facts['data_sha256']}",
        "data": msgspec.json.decode(facts["data"]),
    }
    if supersedes is not None:
        body["supersedes"] = supersedes
    if facts["held"] is not None:
        body["held"] = facts["held"]
    return body


def slug(type_: str) -> str:
    """comboio.cold_chain.excursion.opened.v1 → cold-chain-excursion-opened (ids must not hold dots)."""
    return type_.removeprefix("comboio.").rsplit(".v", 1)[0].replace(".", "-").replace("_", "-")
