"""Gateways of which two boxes were seen to live: what ingest found, and what an administrator decided.

Ingest alone writes the journal, so a decision is a row of the business store that names the suspicion it settles;
ingest reads it when the gateway says Hello again. A suspicion that is found anew needs a new decision.
"""

from __future__ import annotations

from sqlalchemy import select

from control_plane.clock import Clock
from control_plane.errors import Conflict, NotFound
from control_plane.store.engine import Stores
from control_plane.store.tables import clone, clone_release, gateway
from control_plane.store.upsert import upsert


class Clones:
    """Synchronous, thread-safe."""

    def __init__(self, *, stores: Stores, clock: Clock) -> None:
        self._stores = stores
        self._clock = clock

    def released(self, gateway_id: str) -> int | None:
        """Which suspicion was settled last, by its time."""
        query = select(clone_release.c.since_ms).where(clone_release.c.gateway == gateway_id)
        with self._stores.business.read() as connection:
            return connection.execute(query).scalar_one_or_none()

    def release(self, gateway_id: str, *, by: str) -> None:
        """Let the gateway go on at its next Hello. Raises NotFound; Conflict where there is nothing to release."""
        with self._stores.business.read() as connection:
            known = connection.execute(select(gateway.c.id).where(gateway.c.id == gateway_id)).one_or_none()
        if known is None:
            raise NotFound(f"There is no gateway {gateway_id}.")
        open_ = select(clone.c.since_ms).where(clone.c.gateway == gateway_id, clone.c.released_ms.is_(None))
        with self._stores.journal.read() as connection:
            since_ms = connection.execute(open_).scalar_one_or_none()
        if since_ms is None:
            raise Conflict(f"No second box of {gateway_id} is suspected: there is nothing to release.")
        if self.released(gateway_id) == since_ms:
            raise Conflict(f"{gateway_id} is released already; it goes on when it says Hello, within two minutes.")
        row = {"gateway": gateway_id, "since_ms": since_ms, "decided_ms": self._clock.now_ms(), "by": by[:80]}
        with self._stores.business.write() as connection:
            upsert(connection, clone_release, [row])
