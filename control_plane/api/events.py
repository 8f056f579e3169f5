from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

import msgspec
from sqlalchemy import or_, select, tuple_

from control_plane.api.binding import Permission, Route
from control_plane.api.paging import Page, PageQuery, milliseconds, moment, page
from control_plane.errors import NotFound
from control_plane.store.engine import Store
from control_plane.store.tables import event


class EventItem(msgspec.Struct, frozen=True):
    """One version of one business event. Immutable, but for `current`."""

    id: str
    entity_id: str
    type: str
    version: int
    subject: str
    change: Literal["create", "amend", "supersede", "retract"]
    finality: Literal["provisional", "final"]
    held: str | None
    supersedes: str | None
    time: datetime
    recorded: datetime
    current: bool
    """Whether it is the newest version."""
    data: dict[str, Any]


class EventQuery(PageQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    type: str | None = None
    subject: str | None = None
    gateway: str | None = None
    """Of whose series, or of which itself, the events tell."""
    current: bool | None = None
    finality: Literal["provisional", "final"] | None = None
    from_: datetime | None = msgspec.field(name="from", default=None)
    """Of events that were true at or after this moment; needs its offset."""
    to: datetime | None = None
    """Before this moment."""
    order: Literal["newest", "oldest"] = "newest"


class Events:
    def __init__(self, *, store: Store) -> None:
        self._store = store

    def routes(self) -> tuple[Route, ...]:
        return (
            Route(
                method="GET",
                path="/events",
                view=self.list,
                permission=Permission.VIEWER,
                summary="Business events in the order they were recorded",
            ),
            Route(
                method="GET",
                path="/events/{event_id}",
                view=self.get,
                permission=Permission.VIEWER,
                summary="One version of an event",
                problems=(404,),
            ),
            Route(
                method="GET",
                path="/events/{event_id}/versions",
                view=self.versions,
                permission=Permission.VIEWER,
                summary="Every version of the event this one belongs to, oldest first",
                problems=(404,),
            ),
        )

    def list(self, query: EventQuery) -> Page[EventItem]:
        asked = {name: getattr(query, name) for name in ("type", "subject", "current", "finality")}
        chosen = select(event).where(*(event.c[name] == value for name, value in asked.items() if value is not None))
        if query.gateway is not None:
            of_it = event.c.subject.startswith(query.gateway + "/", autoescape=True)
            chosen = chosen.where(or_(event.c.subject == query.gateway, of_it))
        if query.from_ is not None:
            chosen = chosen.where(event.c.time_ms >= milliseconds(query.from_, "?from"))
        if query.to is not None:
            chosen = chosen.where(event.c.time_ms < milliseconds(query.to, "?to"))
        key, newest = tuple_(event.c.recorded_ms, event.c.id), query.order == "newest"
        after = query.after(int, str)
        if after is not None:
            chosen = chosen.where(key < after if newest else key > after)
        ordered = (column.desc() if newest else column.asc() for column in (event.c.recorded_ms, event.c.id))
        with self._store.read() as connection:
            rows = connection.execute(chosen.order_by(*ordered).limit(query.limit + 1)).all()
        return page(rows, limit=query.limit, item=_item, key=lambda row: (row.recorded_ms, row.id))

    def get(self, event_id: str) -> EventItem:
        with self._store.read() as connection:
            row = connection.execute(select(event).where(event.c.id == event_id)).one_or_none()
        if row is None:
            raise NotFound(f"There is no event {event_id}.")
        return _item(row)

    def versions(self, event_id: str) -> Page[EventItem]:
        one = self.get(event_id)
        query = (
            select(event).where(event.c.entity_id == one.entity_id, event.c.type == one.type).order_by(event.c.version)
        )
        with self._store.read() as connection:
            return Page([_item(row) for row in connection.execute(query)], None)


def _item(row: Any) -> EventItem:
    return EventItem(
        id=row.id,
        entity_id=row.entity_id,
        type=row.type,
        version=row.version,
        subject=row.subject,
        change=row.change,
        finality=row.finality,
        held=row.held,
        supersedes=row.supersedes,
        time=moment(row.time_ms),
        recorded=moment(row.recorded_ms),
        current=row.current,
        data=msgspec.json.decode(row.data),
    )
