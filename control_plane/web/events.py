"""Business events: the list, and the life of one from observation to the ERP's acknowledgement."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, Literal, NamedTuple

import msgspec
from flask import Response

from control_plane.api.binding import Permission, query_of
from control_plane.api.deliveries import AttemptItem, Deliveries, DeliveryItem, DeliveryQuery
from control_plane.api.events import EventItem, EventQuery, Events
from control_plane.api.paging import moment
from control_plane.errors import NotFound
from control_plane.web import sentences
from control_plane.web.render import Renderer
from control_plane.web.visit import PageRoute, Visit
from control_plane.web.words import Words

ROWS = 50
TIMES = frozenset({"opened_at", "closed_at"})
ORDER = (
    "gateway", "sensor", "quantity", "opened_at", "closed_at", "duration_s", "reason", "readings_lost", "count_exact",
    "alarm", "value", "comparison", "limit", "first_value", "peak", "unit", "low", "high", "degree_minutes",
    "observations", "coverage_pct", "max_gap_s", "rule", "side",
)  # fmt: skip
SECONDS = frozenset({"duration_s", "max_gap_s"})


class EventsQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"from_": "from"}):
    """The form's fields; an empty one asks for nothing. Days are the visitor's."""

    type: str = ""
    subject: str = ""
    gateway: str = ""
    finality: Literal["provisional", "final", ""] = ""
    from_: str = ""
    to: str = ""
    versions: Literal["current", "all"] = "current"
    cursor: str | None = None


class Changed(NamedTuple):
    name: str
    before: str | None
    after: str | None


class Tried(NamedTuple):
    """One attempt: a line of facts, and what the far side said of a failure."""

    facts: list[str]
    error: str


class Version(NamedTuple):
    """A version with what it changed and what became of it."""

    item: EventItem
    changes: list[Changed]
    deliveries: list[DeliveryItem]


class EventPages:
    def __init__(self, *, events: Events, deliveries: Deliveries, renderer: Renderer) -> None:
        self._events = events
        self._deliveries = deliveries
        self._renderer = renderer

    def routes(self) -> tuple[PageRoute, ...]:
        viewer = Permission.VIEWER
        return (
            PageRoute(method="GET", path="/events", view=self.index, permission=viewer),
            PageRoute(method="GET", path="/events/<event_id>", view=self.show, permission=viewer),
        )

    def index(self, visit: Visit) -> Response:
        query = query_of(visit.request, EventsQuery)
        found = self._events.list(_asked(query, visit.words))
        kept = {name: getattr(query, name) for name in ("type", "subject", "gateway", "finality", "to")}
        more = {**kept, "from": query.from_, "versions": query.versions, "cursor": found.next}
        filtered = any(kept.values()) or bool(query.from_)
        return self._renderer.page(
            visit, "events.html", items=found.items, query=query, more=more if found.next else None, filtered=filtered
        )

    def show(self, visit: Visit, event_id: str) -> Response:
        try:
            versions = self._events.versions(event_id).items
        except NotFound:
            raise NotFound(visit.words.text("There is no event %(id)s.", id=event_id)) from None
        life = [
            Version(item, _changes(before, item, visit.words), self._sent(item.id))
            for before, item in zip([None, *versions], versions, strict=False)
        ]
        gateway, _, rest = versions[-1].subject.partition("/")
        sensor = versions[-1].data.get("sensor") or rest.rpartition("/")[0]
        return self._renderer.page(
            visit,
            "event.html",
            life=life,
            newest=versions[-1],
            asked=event_id,
            gateway=gateway if rest else "",
            sensor=sensor if isinstance(sensor, str) else "",
            stretch=_stretch(versions[-1]),
            facts=_facts(versions[-1], visit.words),
            attempts=_attempts,
        )

    def _sent(self, event_id: str) -> list[DeliveryItem]:
        return self._deliveries.list(DeliveryQuery(event_id=event_id)).items


def _asked(query: EventsQuery, words: Words) -> EventQuery:
    return EventQuery(
        type=query.type or None,
        subject=query.subject or None,
        gateway=query.gateway or None,
        finality=query.finality or None,
        from_=_day(query.from_, words),
        to=_day(query.to, words, after=True),
        current=True if query.versions == "current" else None,
        cursor=query.cursor,
        limit=ROWS,
    )


def _day(text: str, words: Words, *, after: bool = False) -> datetime | None:
    return words.day(text, after=after) if text else None


def _changes(before: EventItem | None, item: EventItem, words: Words) -> list[Changed]:
    """What this version says otherwise than the one before it; nothing for a first one."""
    if before is None:
        return []
    names = [*before.data, *(name for name in item.data if name not in before.data)]
    changed = [
        Changed(name, _written(before.data, name, words), _written(item.data, name, words))
        for name in names
        if before.data.get(name) != item.data.get(name)
    ]
    if before.finality != item.finality:
        changed.append(Changed("finality", before.finality, item.finality))
    return changed


def _attempts(words: Words, sent: DeliveryItem) -> list[Tried]:
    return [Tried(_told(words, one), one.error or "") for one in sent.attempts]


def _told(words: Words, one: AttemptItem) -> list[str]:
    _ = words.text
    facts = [_("Attempt %(number)s", number=one.number), words.moment(round(one.started.timestamp() * 1000))]
    if one.took_ms is not None:
        facts.append(words.length_ms(one.took_ms))
    if one.status:
        facts.append(f"HTTP {one.status}")
    if one.outcome is None:
        facts.append(_("the relay stopped before it heard an answer"))
    elif one.outcome != "OK":
        facts.append(sentences.outcome(words, one.outcome))
    return facts


def _facts(item: EventItem, words: Words) -> list[tuple[str, str]]:
    """Known fields in the order people ask for them, others after."""
    known = [name for name in ORDER if name in item.data]
    names = known + [name for name in item.data if name not in ORDER]
    return [(name, _written(item.data, name, words) or "–") for name in names]


def _written(data: dict[str, Any], name: str, words: Words) -> str | None:
    if name not in data:
        return None
    value = data[name]
    if name in TIMES and isinstance(value, str) and (at_ms := _ms(value)) is not None:
        return words.moment(at_ms)
    if isinstance(value, bool):
        return words.text("yes") if value else words.text("no")
    if not isinstance(value, int | float):
        if isinstance(value, str):
            return _word(name, value, words)
        return json.dumps(value, ensure_ascii=False)
    return words.length_s(value) if name in SECONDS else words.number(value)


def _word(name: str, value: str, words: Words) -> str:
    if name == "unit":
        return sentences.unit(value)
    return sentences.gap_reason(words, value) if name == "reason" else value


def _stretch(item: EventItem) -> dict[str, str] | None:
    """The time around the event, for its chart; None where the event does not say it."""
    times = [at for name in sorted(TIMES) if (at := _ms(item.data.get(name))) is not None]
    times = times or [round(item.time.timestamp() * 1000)]
    margin = max(60_000, (max(times) - min(times)) // 2)
    return {"from": _rfc3339(min(times) - margin), "to": _rfc3339(max(times) + margin)}


def _ms(text: object) -> int | None:
    try:
        at = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return round(at.timestamp() * 1000) if at is not None and at.tzinfo is not None else None


def _rfc3339(at_ms: int) -> str:
    return moment(at_ms).isoformat().replace("+00:00", "Z")
