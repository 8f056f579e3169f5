from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from control_plane.api.auth import whole_fleet
from control_plane.api.binding import Permission, Route
from control_plane.api.fields import Slug
from control_plane.api.paging import Page, PageQuery, moment, page
from control_plane.api.problems import Problem
from control_plane.api.users import RoleWord
from control_plane.fleet.accounts import Accounts, slugs
from control_plane.fleet.rights import Caller, PermissionWord, Role


class ApiTokenRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Annotated[str, Meta(max_length=100)] = ""
    role: RoleWord | None = None
    """At most one's own, which is also the default."""
    ttl_days: Annotated[float, Meta(gt=0, le=3650)] = 90.0
    permissions: Annotated[list[PermissionWord], Meta(min_length=1, max_length=20)] | None = None
    """Null: all that the role may. Write includes read."""
    groups: Annotated[list[Slug], Meta(max_length=100)] | None = None
    """Null: one's own."""


class ApiTokenMade(msgspec.Struct, frozen=True):
    id: str
    token: str
    """Shown here and never again."""
    role: RoleWord
    expires: datetime | None


class ApiTokenItem(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    name: str
    user: str | None
    """Whose rights bound it; null: nobody's."""
    role: RoleWord
    permissions: list[str] | None
    groups: list[str] | None
    created: datetime
    expires: datetime | None
    revoked: datetime | None


class ApiTokens:
    def __init__(self, *, accounts: Accounts, failures_per_minute: int) -> None:
        self._accounts = accounts
        self._failures_per_minute = failures_per_minute

    def routes(self) -> tuple[Route, ...]:
        return (
            Route(
                method="POST",
                path="/api-tokens",
                view=self.create,
                permission=Permission.PASSWORD,
                summary="Log in: name and password for a token",
                status=201,
                problems=(403,),
                failures_per_minute=self._failures_per_minute,
            ),
            Route(
                method="GET",
                path="/api-tokens",
                view=self.list,
                permission=Permission.ADMIN,
                summary="Every token, without its secret",
            ),
            Route(
                method="DELETE",
                path="/api-tokens/{token_id}",
                view=self.revoke,
                permission=Permission.ADMIN,
                summary="Revoke a token",
                problems=(404,),
            ),
        )

    def create(self, body: ApiTokenRequest, caller: Caller) -> ApiTokenMade:
        role = Role.named(body.role) if body.role is not None else caller.role
        if not caller.role.covers(role):
            raise Problem(403, f"{caller.name} is {caller.role.word} and can't give {role.word}.")
        made = self._accounts.create_token(
            name=body.name or caller.name,
            role=role,
            ttl_days=body.ttl_days,
            owner=caller.user,
            permissions=_part("permissions", body.permissions, caller.permissions),
            groups=_part("groups", body.groups, caller.groups),
        )
        return ApiTokenMade(made.id, made.token, _word(made.role.word), moment(made.expires_ms))

    def list(self, query: PageQuery, caller: Caller) -> Page[ApiTokenItem]:
        whole_fleet(caller)
        (after,) = query.after(str) or ("",)
        rows = self._accounts.tokens(after=after, limit=query.limit + 1)
        return page(rows, limit=query.limit, item=_item, key=lambda row: (row.id,))

    def revoke(self, token_id: str, caller: Caller) -> None:
        whole_fleet(caller)
        self._accounts.revoke_token(token_id)


def _part(name: str, asked: Iterable[str] | None, own: frozenset[str] | None) -> frozenset[str] | None:
    """Raises Problem 403 when more is asked for than is one's own."""
    if asked is None or own is None:
        return own if asked is None else frozenset(asked)
    if more := sorted(frozenset(asked) - own):
        raise Problem(403, f"This caller can't give {more[0]}: it is not among its own {name}.")
    return frozenset(asked)


def _item(row: Any) -> ApiTokenItem:
    permissions, groups = slugs(row.permissions), slugs(row.groups)
    return ApiTokenItem(
        id=row.id,
        name=row.name,
        user=row.user_name,
        role=row.role,
        permissions=None if permissions is None else sorted(permissions),
        groups=None if groups is None else sorted(groups),
        created=moment(row.created_ms),
        expires=moment(row.expires_ms),
        revoked=moment(row.revoked_ms),
    )


def _word(word: str) -> Any:
    return word
