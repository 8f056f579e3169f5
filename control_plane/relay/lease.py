"""Who delivers which key: a lease with a fencing token on the key's row.

Keys are claimed, never rows, so that one key's events leave in their order. Every write of a delivery checks the token
in its transaction; a relay that lost its lease is told so and stops. A lease lasts a little longer than one answer of
the destination may take, and is extended with each row: that is all a killed relay delays its keys by.
"""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import select, update

from control_plane.settings import Destination
from control_plane.store.engine import Store
from control_plane.store.tables import key_seq

MARGIN_MS = 5_000


class Lease(NamedTuple):
    dest: str
    key: str
    fence: int


def lease_ms(destination: Destination) -> int:
    return round(destination.timeout_s * 1000) + MARGIN_MS


def claim(store: Store, destination: Destination, *, now_ms: int, limit: int) -> list[Lease]:
    """Take up to `limit` due keys of a destination nobody holds."""
    dest = destination.name
    due = (
        select(key_seq.c.key, key_seq.c.fence)
        .where(key_seq.c.dest == dest, key_seq.c.next_at_ms <= now_ms, key_seq.c.lease_until_ms <= now_ms)
        .order_by(key_seq.c.next_at_ms)
        .limit(limit)
    )
    with store.read() as connection:
        candidates = sorted((key, fence) for key, fence in connection.execute(due))
    if not candidates:
        return []
    leases = []
    with store.write() as connection:
        for key, fence in candidates:
            taken = connection.execute(
                update(key_seq)
                .where(key_seq.c.dest == dest, key_seq.c.key == key, key_seq.c.fence == fence)
                .where(key_seq.c.lease_until_ms <= now_ms)
                .values(fence=fence + 1, lease_until_ms=now_ms + lease_ms(destination))
            )
            if taken.rowcount == 1:
                leases.append(Lease(dest, key, fence + 1))
    return leases
