from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from control_plane.api.auth import whole_fleet
from control_plane.api.binding import Permission, Route
from control_plane.api.fields import Slug, etag
from control_plane.api.paging import Page, PageQuery, moment, page
from control_plane.fleet.accounts import slugs
from control_plane.fleet.rights import Caller, Role
from control_plane.fleet.users import UserFields, Users

RoleWord = Literal["integrator", "viewer", "operator", "admin"]
Password = Annotated[str, Meta(min_length=10, max_length=200)]
UserName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,79}$(?!\n)")]


class UserItem(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    role: RoleWord
    groups: list[str] | None
    """Null: the whole fleet."""
    created: datetime
    etag: str


class UserRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: UserName
    role: RoleWord
    groups: Annotated[list[Slug], Meta(max_length=100)] | None = None
    """Null: the whole fleet."""
    password: Password | None = None
    """Left out: one is made up."""


class UserMade(msgspec.Struct, frozen=True, kw_only=True):
    user: UserItem
    password: str | None
    """The one made up; shown here and never again."""


class UserPatch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is left out stays."""

    role: RoleWord | UnsetType = UNSET
    groups: Annotated[list[Slug], Meta(max_length=100)] | UnsetType | None = UNSET
    password: Password | UnsetType = UNSET


class UserRoutes:
    def __init__(self, *, users: Users) -> None:
        self._users = users

    def routes(self) -> tuple[Route, ...]:
        """All of them need the whole fleet."""
        one, admin = "/users/{name}", Permission.ADMIN
        return (
            Route(method="GET", path="/users", view=self.list, permission=admin, summary="Users, by name"),
            Route(method="POST", path="/users", view=self.create, permission=admin, summary="A new user", status=201),
            Route(method="GET", path=one, view=self.get, permission=admin, summary="One user"),
            Route(
                method="PATCH",
                path=one,
                view=self.change,
                permission=admin,
                summary="Change a user's role, groups or password",
            ),
            Route(
                method="DELETE",
                path=one,
                view=self.delete,
                permission=admin,
                summary="Delete a user; the user's tokens and sessions end",
            ),
        )

    def list(self, query: PageQuery, caller: Caller) -> Page[UserItem]:
        whole_fleet(caller)
        (after,) = query.after(str) or ("",)
        rows = self._users.listed(after=after, limit=query.limit + 1)
        return page(rows, limit=query.limit, item=_item, key=lambda row: (row.name,))

    def get(self, name: str, caller: Caller) -> UserItem:
        whole_fleet(caller)
        return _item(self._users.get(name))

    def create(self, body: UserRequest, caller: Caller) -> UserMade:
        whole_fleet(caller)
        fields = UserFields(Role.named(body.role), None if body.groups is None else frozenset(body.groups))
        made = self._users.create(body.name, fields, password=body.password, by=caller.name)
        shown = made.password if body.password is None else None
        return UserMade(user=_item(self._users.get(body.name)), password=shown)

    def change(self, name: str, body: UserPatch, caller: Caller, if_match: int) -> UserItem:
        whole_fleet(caller)
        before = self._users.get(name)
        role = Role.named(before.role if isinstance(body.role, UnsetType) else body.role)
        groups = slugs(before.groups)
        if not isinstance(body.groups, UnsetType):
            groups = None if body.groups is None else frozenset(body.groups)
        password = None if isinstance(body.password, UnsetType) else body.password
        fields = UserFields(role, groups)
        return _item(self._users.change(name, fields, password=password, expected=if_match, by=caller.name))

    def delete(self, name: str, caller: Caller, if_match: int) -> None:
        whole_fleet(caller)
        self._users.delete(name, expected=if_match, by=caller.name)


def _item(row: Any) -> UserItem:
    groups = slugs(row.groups)
    return UserItem(
        name=row.name,
        role=row.role,
        groups=None if groups is None else sorted(groups),
        created=moment(row.created_ms),
        etag=etag(row.version),
    )
