"""Delivers one destination's outbox, key by key.

States of a row: pending → inflight → delivered, or retry (it surely did not arrive), unknown (it may have), parked (it
never will as it is). `inflight` and the attempt are committed before the first byte leaves; so a relay that was killed
leaves `inflight`, which its successor reads as unknown. An unknown row rests for the destination's grace, so that the
old request has either taken effect or died; then the far side is asked, or the event is sent again under its id.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

import structlog
from sqlalchemy import Connection, Row, select, update

from control_plane.clock import Clock
from control_plane.errors import Fenced
from control_plane.relay import retry
from control_plane.relay.connector import Connector, Found, Outcome, Parcel
from control_plane.relay.lease import OPEN, Lease, claim, hold, release
from control_plane.settings import Destination
from control_plane.store.engine import Store
from control_plane.store.tables import attempt, outbox

log = structlog.get_logger("control_plane.relay")


class Deliverer:
    """One destination. `run()` until cancelled; several relays may run at once, keys are leased."""

    def __init__(
        self,
        *,
        store: Store,
        destination: Destination,
        connector: Connector,
        clock: Clock,
        rng: random.Random | None = None,
    ) -> None:
        self._store = store
        self._destination = destination
        self._connector = connector
        self._clock = clock
        self._rng = rng or random.Random()  # noqa: S311 - spreads load
        self._paused_until_ms = 0
        self.delivered = self.attempts = 0

    async def step(self) -> int:
        """Deliver what is due on up to `concurrency` keys; returns how many keys were worked on."""
        now_ms = self._clock.now_ms()
        if now_ms < self._paused_until_ms:
            return 0
        limit = self._destination.concurrency
        leases = await asyncio.to_thread(claim, self._store, self._destination.name, now_ms=now_ms, limit=limit)
        async with asyncio.TaskGroup() as tasks:
            for lease in leases:
                tasks.create_task(self._key(lease), name=f"relay.{lease.key}")
        return len(leases)

    async def _key(self, lease: Lease) -> None:
        try:
            while await self._row(lease):
                pass
        except Fenced as error:
            log.warning("lease.lost", dest=lease.dest, key=lease.key, why=str(error))
            return
        await asyncio.to_thread(release, self._store, lease)

    async def _row(self, lease: Lease) -> bool:
        """Work on the key's lowest open row; True if the next one may follow at once."""
        row = await asyncio.to_thread(self._lowest, lease)
        if row is None or row.state in {"parked", "dead"}:
            return False
        now_ms = self._clock.now_ms()
        if row.state == "inflight":
            await asyncio.to_thread(self._left_in_flight, lease, row)
            return True
        if row.next_at_ms > now_ms or now_ms < self._paused_until_ms:
            return False
        if row.state == "unknown":
            found = await self._connector.find(row.ext_ref)
            if found.present:
                await asyncio.to_thread(self._adopt, lease, row, found)
                return True
        attempt_id = await asyncio.to_thread(self._begin, lease, row)
        parcel = Parcel(row.event_id, row.ext_ref, bytes(row.body), row.attempt + 1)
        outcome = await self._connector.deliver(parcel)
        self.attempts += 1
        return await asyncio.to_thread(self._finish, lease, row, attempt_id, outcome)

    # --- transactions ----------------------------------------------------------------------------------

    def _lowest(self, lease: Lease) -> Row[Any] | None:
        query = (
            select(outbox)
            .where(outbox.c.dest == lease.dest, outbox.c.key == lease.key, outbox.c.state.in_(OPEN))
            .order_by(outbox.c.seq)
            .limit(1)
        )
        with self._store.read() as connection:
            return connection.execute(query).one_or_none()

    def _left_in_flight(self, lease: Lease, row: Row[Any]) -> None:
        """Somebody was killed between sending and knowing."""
        rest_ms = round(self._destination.grace_s * 1000)
        self._change(lease, row, state="unknown", next_at_ms=row.sent_ms + rest_ms, last_class="AMBIGUOUS")

    def _adopt(self, lease: Lease, row: Row[Any], found: Found) -> None:
        now_ms = self._clock.now_ms()
        self._change(lease, row, state="delivered", delivered_ms=now_ms, erp_id=found.erp_id, last_class="ADOPTED")

    def _begin(self, lease: Lease, row: Row[Any]) -> int:
        now_ms = self._clock.now_ms()
        with self._store.write() as connection:
            hold(connection, lease, now_ms=now_ms)
            _set(connection, row, state="inflight", sent_ms=now_ms, attempt=row.attempt + 1)
            started = {
                "dest": row.dest,
                "event_id": row.event_id,
                "number": row.attempt + 1,
                "started_ms": now_ms,
                "bytes": len(row.body),
            }
            return int(connection.execute(attempt.insert().returning(attempt.c.id), started).scalar_one())

    def _finish(self, lease: Lease, row: Row[Any], attempt_id: int, outcome: Outcome) -> bool:
        now_ms = self._clock.now_ms()
        values = self._verdict(row, outcome, now_ms)
        with self._store.write() as connection:
            hold(connection, lease, now_ms=now_ms)
            _set(connection, row, last_class=outcome.class_, last_error=outcome.error, **values)
            connection.execute(
                update(attempt)
                .where(attempt.c.id == attempt_id)
                .values(
                    took_ms=now_ms - attempt.c.started_ms,
                    outcome=outcome.class_,
                    status=outcome.status,
                    error=outcome.error,
                )
            )
        if values["state"] == "delivered":
            self.delivered += 1
            return True
        level = log.error if values["state"] == "parked" else log.warning
        level("delivery." + values["state"], dest=row.dest, event_id=row.event_id, why=outcome.error)
        return False

    def _verdict(self, row: Row[Any], outcome: Outcome, now_ms: int) -> dict[str, Any]:
        if outcome.class_ == "OK":
            return {"state": "delivered", "delivered_ms": now_ms, "erp_id": outcome.erp_id}
        if outcome.class_ in {"PERMANENT", "GONE"}:
            return {"state": "parked"}
        if outcome.class_ == "AUTH":  # a wrong secret is the destination's trouble, not this event's
            self._paused_until_ms = now_ms + round(retry.AUTH_PAUSE_S * 1000)
            return {"state": "retry", "attempt": row.attempt, "next_at_ms": self._paused_until_ms}
        wait = retry.delay_s(self._destination.retry, row.attempt + 1, self._rng, retry_after_s=outcome.retry_after_s)
        if wait is None:
            return {"state": "parked"}
        if outcome.class_ == "AMBIGUOUS":
            return {"state": "unknown", "next_at_ms": now_ms + round(max(wait, self._destination.grace_s) * 1000)}
        return {"state": "retry", "next_at_ms": now_ms + round(wait * 1000)}

    def _change(self, lease: Lease, row: Row[Any], **values: Any) -> None:
        with self._store.write() as connection:
            hold(connection, lease, now_ms=self._clock.now_ms())
            _set(connection, row, **values)


def _set(connection: Connection, row: Row[Any], **values: Any) -> None:
    where = (outbox.c.dest == row.dest, outbox.c.key == row.key, outbox.c.seq == row.seq)
    connection.execute(update(outbox).where(*where).values(**values))


def replay(store: Store, dest: str, event_id: str, *, now_ms: int) -> bool:
    """Offer a parked or delivered event again under its id; False if there is none or it is still open."""
    from control_plane.store.tables import key_seq  # noqa: PLC0415

    where = (outbox.c.dest == dest, outbox.c.event_id == event_id)
    with store.write() as connection:
        row = connection.execute(select(outbox).where(*where)).one_or_none()
        if row is None or row.state not in {"parked", "dead", "delivered"}:
            return False
        connection.execute(update(outbox).where(*where).values(state="pending", attempt=0, next_at_ms=now_ms))
        connection.execute(
            update(key_seq).where(key_seq.c.dest == dest, key_seq.c.key == row.key).values(next_at_ms=now_ms)
        )
    return True
