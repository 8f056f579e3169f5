"""Who delivers which key: a lease with a fencing token on the key's row.

Keys are claimed, never rows, so that one key's events leave in their order. Every write of a delivery checks the token
in its transaction; a relay that lost its lease finds `Fenced` and stops.
"""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import Connection, func, select, update

from control_plane.errors import Fenced
from control_plane.store.engine import Store
from control_plane.store.tables import key_seq, outbox

LEASE_MS = 120_000
OPEN = ("pending", "retry", "inflight", "unknown", "parked", "dead")


class Lease(NamedTuple):
    dest: str
    key: str
    fence: int


def claim(store: Store, dest: str, *, now_ms: int, limit: int) -> list[Lease]:
    """Take up to `limit` due keys of a destination nobody holds."""
    due = (
        select(key_seq.c.key, key_seq.c.fence)
        .where(key_seq.c.dest == dest, key_seq.c.next_at_ms <= now_ms, key_seq.c.lease_until_ms <= now_ms)
        .order_by(key_seq.c.next_at_ms)
        .limit(limit)
    )
    with store.read() as connection:
        candidates = connection.execute(due).fetchall()
    if not candidates:
        return []
    leases = []
    with store.write() as connection:
        for key, fence in candidates:
            taken = connection.execute(
                update(key_seq)
                .where(key_seq.c.dest == dest, key_seq.c.key == key, key_seq.c.fence == fence)
                .where(key_seq.c.lease_until_ms <= now_ms)
                .values(fence=fence + 1, lease_until_ms=now_ms + LEASE_MS)
            )
            if taken.rowcount == 1:
                leases.append(Lease(dest, key, fence + 1))
    return leases


def hold(connection: Connection, lease: Lease, *, now_ms: int) -> None:
    """Inside a transaction: make sure the lease is still ours, and extend it. Raises `Fenced`."""
    kept = connection.execute(
        update(key_seq)
        .where(key_seq.c.dest == lease.dest, key_seq.c.key == lease.key, key_seq.c.fence == lease.fence)
        .values(lease_until_ms=now_ms + LEASE_MS)
    )
    if kept.rowcount != 1:
        raise Fenced(f"{lease.dest}: another relay took {lease.key}")


def release(store: Store, lease: Lease) -> None:
    """Give the key back and note when it is worth claiming again; a blocked or empty key is not until it changes."""
    with store.write() as connection:
        lowest = (
            select(func.min(outbox.c.seq))
            .where(outbox.c.dest == lease.dest, outbox.c.key == lease.key, outbox.c.state.in_(OPEN))
            .scalar_subquery()
        )
        row = connection.execute(
            select(outbox.c.state, outbox.c.next_at_ms).where(
                outbox.c.dest == lease.dest, outbox.c.key == lease.key, outbox.c.seq == lowest
            )
        ).one_or_none()
        next_at = None if row is None or row.state in {"parked", "dead"} else row.next_at_ms
        connection.execute(
            update(key_seq)
            .where(key_seq.c.dest == lease.dest, key_seq.c.key == lease.key, key_seq.c.fence == lease.fence)
            .values(lease_until_ms=0, next_at_ms=next_at)
        )
