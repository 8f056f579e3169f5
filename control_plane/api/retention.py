"""How long what gateways sent is kept: the server's setting, and what groups have of their own."""

from __future__ import annotations

import msgspec

from control_plane.api.auth import whole_fleet
from control_plane.api.binding import Permission, Route
from control_plane.api.fields import Slug, etag
from control_plane.api.paging import Page, PageQuery, page
from control_plane.clock import Clock
from control_plane.errors import NotFound
from control_plane.fleet.rights import Caller
from control_plane.retention import policies
from control_plane.retention.policies import Own
from control_plane.settings import RetentionSection
from control_plane.store.engine import Store


class RetentionItem(msgspec.Struct, frozen=True, kw_only=True):
    """In days; 0: for ever. `group` null: the server's setting, for every other gateway."""

    group: str | None
    raw_days: float
    readings_days: float
    minutes_days: float
    hours_days: float
    days_days: float
    own: dict[str, float]
    """What the group says itself; the rest is as the server's setting says."""
    etag: str


class RetentionRoutes:
    def __init__(self, *, store: Store, defaults: RetentionSection, clock: Clock) -> None:
        self._store = store
        self._defaults = defaults
        self._clock = clock

    def routes(self) -> tuple[Route, ...]:
        one = "/retention/{slug}"
        return (
            Route(
                method="GET",
                path="/retention",
                view=self.list,
                permission=Permission.VIEWER,
                summary="How long what is kept: the server's setting, then groups that differ",
            ),
            Route(method="GET", path=one, view=self.get, permission=Permission.VIEWER, summary="Of one group"),
            Route(
                method="PUT",
                path=one,
                view=self.save,
                permission=Permission.ADMIN,
                summary='Give a group a retention of its own (If-Match: "0") or change it; needs the whole fleet',
                problems=(404, 409),
            ),
            Route(
                method="DELETE",
                path=one,
                view=self.delete,
                permission=Permission.ADMIN,
                summary="Keep a group's data as the server's setting says; needs the whole fleet",
                problems=(404,),
            ),
        )

    def list(self, query: PageQuery, caller: Caller) -> Page[RetentionItem]:
        after = query.after(str)
        with self._store.read() as connection:
            known = {"": (Own(), 0), **policies.load(connection)}
        mine = [slug for slug in sorted(known) if not slug or caller.groups is None or slug in caller.groups]
        rest = [slug for slug in mine if after is None or slug > after[0]]
        return page(
            rest, limit=query.limit, item=lambda slug: self._item(slug or None, *known[slug]), key=lambda slug: (slug,)
        )

    def get(self, slug: Slug, caller: Caller) -> RetentionItem:
        with self._store.read() as connection:
            found = policies.load(connection).get(slug)
        if found is None or (caller.groups is not None and slug not in caller.groups):
            raise NotFound(f"There is no retention of a group {slug} of its own.")
        return self._item(slug, *found)

    def save(self, slug: Slug, body: Own, caller: Caller, if_match: int) -> RetentionItem:
        whole_fleet(caller)
        with self._store.write() as connection:
            version = policies.save(
                connection, slug, body, expected=if_match, by=caller.name, now_ms=self._clock.now_ms()
            )
        return self._item(slug, body, version)

    def delete(self, slug: Slug, caller: Caller, if_match: int) -> None:
        whole_fleet(caller)
        with self._store.write() as connection:
            policies.forget(connection, slug, expected=if_match, by=caller.name, now_ms=self._clock.now_ms())

    def _item(self, slug: str | None, own: Own, version: int) -> RetentionItem:
        said = {name: days for name in own.__struct_fields__ if (days := getattr(own, name)) is not None}
        usual = {name: getattr(self._defaults, name) for name in own.__struct_fields__}
        return RetentionItem(group=slug, own=said, etag=etag(version), **(usual | said))
