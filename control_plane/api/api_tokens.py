from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from control_plane.api.binding import Permission, Route
from control_plane.api.paging import Page, PageQuery, moment, page
from control_plane.api.problems import Problem
from control_plane.fleet.accounts import Accounts, Caller, Role

RoleWord = Literal["viewer", "operator", "admin"]


class ApiTokenRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Annotated[str, Meta(max_length=100)] = ""
    role: RoleWord | None = None
    """At most the user's own, which is also the default."""
    ttl_days: Annotated[float, Meta(gt=0, le=3650)] = 90.0


class ApiTokenMade(msgspec.Struct, frozen=True):
    id: str
    token: str
    """Shown here and never again."""
    role: RoleWord
    expires: datetime | None


class ApiTokenItem(msgspec.Struct, frozen=True):
    id: str
    name: str
    role: RoleWord
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
        if role > caller.role:
            raise Problem(403, f"{caller.name} is {caller.role.word} and can't give {role.word}.")
        made = self._accounts.create_token(name=body.name or caller.name, role=role, ttl_days=body.ttl_days)
        return ApiTokenMade(made.id, made.token, _word(made.role.word), moment(made.expires_ms))

    def list(self, query: PageQuery) -> Page[ApiTokenItem]:
        (after,) = query.after(str) or ("",)
        rows = self._accounts.tokens(after=after, limit=query.limit + 1)
        return page(rows, limit=query.limit, item=_item, key=lambda row: (row.id,))

    def revoke(self, token_id: str) -> None:
        self._accounts.revoke_token(token_id)


def _item(row: Any) -> ApiTokenItem:
    return ApiTokenItem(
        row.id, row.name, row.role, moment(row.created_ms), moment(row.expires_ms), moment(row.revoked_ms)
    )


def _word(word: str) -> Any:
    return word
