"""Business events: immutable, versioned, corrected by new versions; their outbox rows in the same transaction.

Invariants
1. A version is never updated but for `current`, which says whether it is the newest of its entity and type.
2. The id is made of entity, type and version, so a repeated run can't mint a second one; equal content and finality
   make no version at all.
3. An event and its outbox rows commit together, and the row's seq is taken under its key's lock: order per key is
   commit order.
4. A version that a destination was not sent yet is left out once a newer one of its entity and type is posted: its row
   is `superseded`, under its key's lock, so that no relay can have begun it.
5. What a destination reads (`change`, `supersedes`) is told by what that destination was sent before, not by versions
   it never saw.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection, Row, func, select, update

from control_plane.settings import Destination
from control_plane.store.tables import event, key_seq, outbox
from control_plane.store.upsert import insert

NEVER_LEFT_OUT = ("comboio.stock.moved.",)
"""Each of these moves something: what it was before a correction is a fact of its own."""
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
    by_key = {(row.entity_id, row.type): row for row in standing}
    versions = [_next(one, by_key.pop((one.entity_id, one.type), None)) for one in wanted]
    versions += [_retraction(row) for row in by_key.values() if row.change != "retract"]
    made = [version for version in versions if version is not None]
    if made:
        facts = [_facts(version, now_ms) for version in made]
        _store(connection, made, facts)
        _post(connection, facts, list(destinations), now_ms)
    return len(made)


class _Version(NamedTuple):
    wanted: Wanted
    number: int
    change: str
    data: bytes
    supersedes: str | None


class _Told(NamedTuple):
    """The newest version of an entity that a destination was given."""

    id: str
    data_sha256: str
    change: str


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


def _facts(version: _Version, now_ms: int) -> dict[str, Any]:
    """The row of a version."""
    one = version.wanted
    return {
        "id": f"evt_{one.entity_id}_{slug(one.type)}_v{version.number}",
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


def _store(connection: Connection, versions: Sequence[_Version], facts: Sequence[dict[str, Any]]) -> None:
    replaced = [version.supersedes for version in versions if version.supersedes is not None]
    for some in _portions(replaced):
        connection.execute(update(event).where(event.c.id.in_(some)).values(current=False))
    connection.execute(event.insert(), list(facts))


def _post(connection: Connection, facts: Sequence[dict[str, Any]], targets: Sequence[Destination], now_ms: int) -> None:
    """Outbox rows for whoever wants to know."""
    again = {one["entity_id"] for one in facts if one["version"] > 1}
    _leave_out(connection, [one for one in facts if one["version"] > 1], [one.name for one in targets if one.coalesce])
    told = _told(connection, [target.name for target in targets], again)
    posts: dict[tuple[str, str], list[tuple[dict[str, Any], str, str | None]]] = {}
    for target in targets:
        for one in facts:
            known = told.get((target.name, one["entity_id"], one["type"]))
            change = _change_for(target, one, known)
            if change is not None:
                post = (one, change, known.id if known is not None else None)
                posts.setdefault((target.name, one["subject"]), []).append(post)
    if not posts:
        return
    last = _take_seqs(connection, {key: len(some) for key, some in posts.items()}, now_ms)
    rows = [
        _row(key, last[key] - len(some) + number, post, now_ms)
        for key, some in posts.items()
        for number, post in enumerate(some, start=1)
    ]
    connection.execute(outbox.insert(), rows)


def _change_for(target: Destination, facts: dict[str, Any], known: _Told | None) -> str | None:
    """What this version is to a destination, by what that one was told before; None if nothing."""
    if not target.wants(facts["type"]):
        return None
    if facts["change"] == "retract":  # also a provisional one: whoever believes it must hear
        return "retract" if known is not None and known.change != "retract" else None
    if facts["finality"] != "final" and target.finality != "provisional_ok":
        return None
    if known is None:
        return "create"
    same = known.data_sha256 == facts["data_sha256"] and known.change != "retract"
    return "amend" if same else "supersede"


def _leave_out(connection: Connection, facts: Sequence[dict[str, Any]], dests: Sequence[str]) -> None:
    """Versions before these that wait to be sent for the first time."""
    newer = [one for one in facts if not one["type"].startswith(NEVER_LEFT_OUT)]
    if not newer or not dests:
        return
    for some in _portions(sorted({one["subject"] for one in newer})):
        mine = (key_seq.c.dest.in_(dests), key_seq.c.key.in_(some))
        connection.execute(
            select(key_seq.c.fence).where(*mine).order_by(key_seq.c.dest, key_seq.c.key).with_for_update()
        ).all()
    before: list[str] = []
    for some in _portions([one["entity_id"] for one in newer]):
        query = select(event.c.id, event.c.entity_id, event.c.type, event.c.version)
        newest = {(one["entity_id"], one["type"]): one["version"] for one in newer}
        rows = connection.execute(query.where(event.c.entity_id.in_(some)))
        before += [row.id for row in rows if row.version < newest.get((row.entity_id, row.type), 0)]
    for some in _portions(before):
        unsent = (outbox.c.dest.in_(dests), outbox.c.event_id.in_(some), outbox.c.state.in_(("pending", "retry")))
        connection.execute(update(outbox).where(*unsent).values(state="superseded"))


def _told(connection: Connection, dests: Sequence[str], entities: set[str]) -> dict[tuple[str, str, str], _Told]:
    """By destination, entity and type."""
    found: dict[tuple[str, str, str], _Told] = {}
    columns = (outbox.c.dest, event.c.entity_id, event.c.type, event.c.id, event.c.data_sha256, event.c.change)
    was_sent = (outbox.c.dest.in_(dests), outbox.c.state.not_in(("superseded", "skipped")))
    query = select(*columns).join(outbox, outbox.c.event_id == event.c.id).where(*was_sent)
    query = query.order_by(event.c.version)
    for some in _portions(sorted(entities)):
        for dest, entity, type_, *rest in connection.execute(query.where(event.c.entity_id.in_(some))):
            found[dest, entity, type_] = _Told(*rest)
    return found


def _take_seqs(connection: Connection, counts: dict[tuple[str, str], int], now_ms: int) -> dict[tuple[str, str], int]:
    """Lock each key, in one order for everybody, and take that many numbers of it; returns the last ones."""
    fresh = insert(connection, key_seq)
    taking = fresh.on_conflict_do_update(
        index_elements=["dest", "key"],
        set_={
            "last": key_seq.c.last + fresh.excluded.last,
            "next_at_ms": func.coalesce(key_seq.c.next_at_ms, fresh.excluded.next_at_ms),
        },
    )
    idle = {"fence": 0, "lease_until_ms": 0, "next_at_ms": now_ms}
    connection.execute(taking, [{"dest": d, "key": k, "last": n, **idle} for (d, k), n in sorted(counts.items())])
    found: dict[tuple[str, str], int] = {}
    for some in _portions(sorted({key for _, key in counts})):
        query = select(key_seq.c.dest, key_seq.c.key, key_seq.c.last).where(key_seq.c.key.in_(some))
        found.update({(dest, key): last for dest, key, last in connection.execute(query)})
    return found


def _row(key: tuple[str, str], seq: int, post: tuple[dict[str, Any], str, str | None], now_ms: int) -> dict[str, Any]:
    facts, change, supersedes = post
    body = _encode(cloud_event(facts | {"change": change}, seq=seq, supersedes=supersedes))
    return {
        "dest": key[0],
        "key": key[1],
        "seq": seq,
        "event_id": facts["id"],
        "ext_ref": facts["id"],
        "body": body,
        "body_sha256": hashlib.sha256(body).hexdigest(),
        "state": "pending",
        "next_at_ms": now_ms,
        "created_ms": now_ms,
    }


def _portions(items: Sequence[str]) -> Iterator[Sequence[str]]:
    """So that no statement grows beyond what a database takes."""
    for start in range(0, len(items), 500):
        yield items[start : start + 500]


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
        "data": msgspec.Raw(facts["data"].encode()),
    }
    if supersedes is not None:
        body["supersedes"] = supersedes
    if facts["held"] is not None:
        body["held"] = facts["held"]
    return body


def slug(type_: str) -> str:
    """comboio.cold_chain.excursion.opened.v1 → cold-chain-excursion-opened (ids must not hold dots)."""
    return type_.removeprefix("comboio.").rsplit(".v", 1)[0].replace(".", "-").replace("_", "-")
