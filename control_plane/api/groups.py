"""Groups of gateways: for templates of configuration, and for who may see what."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta
from sqlalchemy import Connection, select

from control_plane.api.auth import whole_fleet
from control_plane.api.binding import Permission, Route
from control_plane.api.configuration import SaveQuery, TargetResult, target_result, unfit
from control_plane.api.fields import Name, Slug, etag
from control_plane.api.paging import Page, PageQuery, page
from control_plane.api.problems import Problem
from control_plane.errors import Conflict, NotFound
from control_plane.fleet import layers
from control_plane.fleet.accounts import slugs
from control_plane.fleet.edits import Edits
from control_plane.fleet.layers import Group
from control_plane.fleet.revisions import Guard, Revisions, UnfitError
from control_plane.fleet.rights import Caller
from control_plane.store.engine import Store
from control_plane.store.tables import user

EDITS = Edits("group")


class GroupBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Name = ""
    priority: Annotated[int, Meta(ge=-1000, le=1000)] = 0
    """Of its template: the higher one wins."""
    members: Annotated[list[str], Meta(max_length=100_000)] = []


class GroupItem(msgspec.Struct, frozen=True, kw_only=True):
    slug: str
    name: str
    priority: int
    members: list[str]
    etag: str


class GroupSaved(msgspec.Struct, frozen=True, kw_only=True):
    """`dry_run`: nothing was saved. `targets`: what it does to the configuration of those concerned."""

    dry_run: bool
    etag: str
    targets: list[TargetResult]


class GroupRoutes:
    def __init__(self, *, store: Store, revisions: Revisions) -> None:
        self._store = store
        self._revisions = revisions

    def routes(self) -> tuple[Route, ...]:
        one = "/groups/{slug}"
        return (
            Route(
                method="GET",
                path="/groups",
                view=self.list,
                permission=Permission.VIEWER,
                summary="Groups of gateways, by slug",
            ),
            Route(method="GET", path=one, view=self.get, permission=Permission.VIEWER, summary="One group"),
            Route(
                method="PUT",
                path=one,
                view=self.save,
                permission=Permission.OPERATOR,
                summary='Make a group (If-Match: "0") or change it; its members\' configuration follows',
            ),
            Route(
                method="DELETE",
                path=one,
                view=self.delete,
                permission=Permission.OPERATOR,
                summary="Delete a group and its template; needs the whole fleet",
            ),
        )

    def list(self, query: PageQuery, caller: Caller) -> Page[GroupItem]:
        (after,) = query.after(str) or ("",)
        with self._store.read() as connection:
            known = sorted(layers.groups(connection).values(), key=lambda group: group.slug)
            mine = [g for g in known if g.slug > after and _given(caller, g.slug)][: query.limit + 1]
            versions = {group.slug: layers.group_version(connection, group.slug) for group in mine}
        return page(
            mine, limit=query.limit, item=lambda group: _item(group, versions[group.slug]), key=lambda g: (g.slug,)
        )

    def get(self, slug: Slug, caller: Caller) -> GroupItem:
        with self._store.read() as connection:
            group = layers.groups(connection).get(slug)
            version = layers.group_version(connection, slug)
        if group is None or not _given(caller, slug):
            raise NotFound(f"There is no group {slug}.")
        return _item(group, version)

    def save(self, slug: Slug, query: SaveQuery, body: GroupBody, caller: Caller, if_match: int) -> GroupSaved:
        if not _given(caller, slug):
            raise Problem(403, f"This caller was not given the group {slug}.")
        if caller.groups is not None and if_match == 0:
            raise Problem(403, "Making a group needs the whole fleet; this caller was given some groups of it.")
        if foreign := [one for one in body.members if not caller.sees(one)]:
            raise NotFound(f"There is no gateway {foreign[0]}.")
        group = Group(slug, body.name or slug, body.priority, frozenset(body.members))
        try:
            saved = self._revisions.save_group(
                group, dry_run=query.dry_run, by=caller.name, guard=self._guard(slug, if_match)
            )
        except UnfitError as error:
            raise unfit(error) from None
        with self._store.read() as connection:
            version = layers.group_version(connection, slug)
        targets = [target_result(result) for result in saved.results]
        return GroupSaved(dry_run=query.dry_run, etag=etag(version), targets=targets)

    def delete(self, slug: Slug, caller: Caller, if_match: int) -> None:
        whole_fleet(caller)
        with self._store.read() as connection:
            bound = [row.name for row in connection.execute(select(user)) if slug in (slugs(row.groups) or frozenset())]
        if bound:
            raise Conflict(f"{', '.join(bound)} may see this group only. Give them other groups first.")
        try:
            self._revisions.delete_group(slug, by=caller.name, guard=self._guard(slug, if_match))
        except UnfitError as error:
            raise unfit(error) from None

    @staticmethod
    def _guard(slug: str, expected: int) -> Guard:
        def guard(connection: Connection, before: Group | None) -> None:
            version = layers.group_version(connection, slug)
            current = before.body if before is not None else None
            EDITS.check(connection, slug, expected=expected, version=version, current=current)

        return guard


def _given(caller: Caller, slug: str) -> bool:
    return caller.groups is None or slug in caller.groups


def _item(group: Group, version: int) -> GroupItem:
    return GroupItem(
        slug=group.slug,
        name=group.name,
        priority=group.priority,
        members=sorted(group.members),
        etag=etag(version),
    )
