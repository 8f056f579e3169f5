from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, Literal

import msgspec
from sqlalchemy import Connection, select, tuple_

from control_plane.api.binding import Permission, Route
from control_plane.api.fields import Reason
from control_plane.api.paging import Page, PageQuery, moment, page
from control_plane.api.subjects import visible, within
from control_plane.clock import Clock, SystemClock
from control_plane.errors import NotFound
from control_plane.fleet.rights import EVERYTHING, Caller
from control_plane.relay import acts
from control_plane.relay.acts import Act
from control_plane.store.engine import Store
from control_plane.store.tables import attempt, outbox, relay_act

State = Literal[
    "pending", "inflight", "unknown", "delivered", "retry", "parked", "dead", "superseded", "skipped", "shadowed"
]


class AttemptItem(msgspec.Struct, frozen=True):
    number: int
    started: datetime
    took_ms: int | None
    outcome: str | None
    """None: the relay died meanwhile."""
    status: int | None
    error: str | None
    bytes: int


class ActItem(msgspec.Struct, frozen=True):
    """What a person did to it."""

    at: datetime
    actor: str
    act: str
    reason: str


class DeliveryItem(msgspec.Struct, frozen=True):
    id: str
    """`dest:event_id`"""
    dest: str
    key: str
    seq: int
    event_id: str
    ext_ref: str
    state: State
    created: datetime
    next_at: datetime
    sent: datetime | None
    delivered: datetime | None
    erp_id: str | None
    last_class: str | None
    last_error: str | None
    attempts: list[AttemptItem]
    acts: list[ActItem]


class ReasonRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    reason: Reason
    """Kept with the act and who did it."""


class FixRequest(ReasonRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    data: dict[str, Any]
    """Instead of the event's; sent under its id, and said to be a person's."""


class DeliveryQuery(PageQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    state: State | None = None
    dest: str | None = None
    event_id: str | None = None


class Deliveries:
    def __init__(self, *, store: Store, clock: Clock | None = None) -> None:
        self._store = store
        self._clock = clock or SystemClock()

    def routes(self) -> tuple[Route, ...]:
        return (
            Route(
                method="GET",
                path="/deliveries",
                view=self.list,
                permission=Permission.VIEWER,
                summary="What was or is to be sent where, by destination, key and order",
            ),
            Route(
                method="GET",
                path="/deliveries/{delivery_id}",
                view=self.get,
                permission=Permission.VIEWER,
                summary="One delivery",
            ),
            Route(
                method="POST",
                path="/deliveries/{delivery_id}/replay",
                view=self.replay,
                permission=Permission.OPERATOR,
                summary="Offer a delivered or parked event again, under the same id",
            ),
            Route(
                method="POST",
                path="/deliveries/{delivery_id}/skip",
                view=self.skip,
                permission=Permission.OPERATOR,
                summary="Give up a delivery that waits or is parked, so that its key goes on",
            ),
            Route(
                method="POST",
                path="/deliveries/{delivery_id}/fix",
                view=self.fix,
                permission=Permission.OPERATOR,
                summary="Send a delivery that waits or is parked with other data, under the same id",
            ),
        )

    def list(self, query: DeliveryQuery, caller: Caller = EVERYTHING) -> Page[DeliveryItem]:
        asked = {name: getattr(query, name) for name in ("state", "dest", "event_id")}
        chosen = select(outbox).where(*(outbox.c[name] == value for name, value in asked.items() if value is not None))
        chosen = chosen.where(*within(caller, self._store, outbox.c.key))
        after = query.after(str, str, int)
        if after is not None:
            chosen = chosen.where(tuple_(outbox.c.dest, outbox.c.key, outbox.c.seq) > after)
        chosen = chosen.order_by(outbox.c.dest, outbox.c.key, outbox.c.seq).limit(query.limit + 1)
        with self._store.read() as connection:
            rows = connection.execute(chosen).all()
            tried = _attempts(connection, rows)
        return page(
            rows,
            limit=query.limit,
            item=lambda row: _item(row, tried[row.dest, row.event_id]),
            key=lambda row: (row.dest, row.key, row.seq),
        )

    def get(self, delivery_id: str, caller: Caller = EVERYTHING) -> DeliveryItem:
        dest, _, event_id = delivery_id.rpartition(":")
        query = select(outbox).where(outbox.c.dest == dest, outbox.c.event_id == event_id)
        with self._store.read() as connection:
            row = connection.execute(query).one_or_none()
            if row is None or not visible(caller, row.key):
                raise NotFound(f"There is no delivery {delivery_id}; its name is destination:event.")
            done = select(relay_act).where(relay_act.c.dest == dest, relay_act.c.event_id == event_id)
            acted = connection.execute(done.order_by(relay_act.c.id)).all()
            item = _item(row, _attempts(connection, [row])[dest, event_id])
            said = [ActItem(moment(one.at_ms), one.actor, one.act, one.reason) for one in acted]
            return msgspec.structs.replace(item, acts=said)

    def some(self, names: Collection[tuple[str, str]]) -> Sequence[DeliveryItem]:
        """Of at most some hundred (destination, event); in the order of their keys."""
        if not names:
            return []
        query = select(outbox).where(tuple_(outbox.c.dest, outbox.c.event_id).in_(sorted(names)))
        with self._store.read() as connection:
            rows = connection.execute(query.order_by(outbox.c.dest, outbox.c.key, outbox.c.seq)).all()
            tried = _attempts(connection, rows)
        return [_item(row, tried[row.dest, row.event_id]) for row in rows]

    def replay(self, delivery_id: str, caller: Caller) -> DeliveryItem:
        before = self.get(delivery_id, caller)
        acts.replay(self._store, self._act(before, caller, "asked for"), before.event_id)
        return self.get(delivery_id, caller)

    def skip(self, delivery_id: str, body: ReasonRequest, caller: Caller) -> DeliveryItem:
        before = self.get(delivery_id, caller)
        acts.skip(self._store, self._act(before, caller, body.reason), before.event_id)
        return self.get(delivery_id, caller)

    def fix(self, delivery_id: str, body: FixRequest, caller: Caller) -> DeliveryItem:
        before = self.get(delivery_id, caller)
        acts.fix(self._store, self._act(before, caller, body.reason), before.event_id, body.data)
        return self.get(delivery_id, caller)

    def _act(self, item: DeliveryItem, caller: Caller, reason: str) -> Act:
        return Act(item.dest, caller.name, reason, self._clock.now_ms())


def _attempts(connection: Connection, rows: Sequence[Any]) -> dict[tuple[str, str], list[AttemptItem]]:
    tried: dict[tuple[str, str], list[AttemptItem]] = defaultdict(list)
    keys = [(row.dest, row.event_id) for row in rows]
    query = select(attempt).where(tuple_(attempt.c.dest, attempt.c.event_id).in_(keys)).order_by(attempt.c.id)
    for row in connection.execute(query) if keys else ():
        tried[row.dest, row.event_id].append(
            AttemptItem(
                number=row.number,
                started=moment(row.started_ms),
                took_ms=row.took_ms,
                outcome=row.outcome,
                status=row.status,
                error=row.error,
                bytes=row.bytes,
            )
        )
    return tried


def _item(row: Any, attempts: list[AttemptItem]) -> DeliveryItem:
    return DeliveryItem(
        id=f"{row.dest}:{row.event_id}",
        dest=row.dest,
        key=row.key,
        seq=row.seq,
        event_id=row.event_id,
        ext_ref=row.ext_ref,
        state=row.state,
        created=moment(row.created_ms),
        next_at=moment(row.next_at_ms),
        sent=moment(row.sent_ms),
        delivered=moment(row.delivered_ms),
        erp_id=row.erp_id,
        last_class=row.last_class,
        last_error=row.last_error,
        attempts=attempts,
        acts=[],
    )
