from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from control_plane.api.binding import Permission, Route
from control_plane.api.paging import Page, PageQuery, moment, page
from control_plane.clock import Clock
from control_plane.fleet.join_tokens import DAY_S, JoinTokens


class JoinTokenRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    gateway_name: Annotated[str, Meta(min_length=1, max_length=100)]
    asset: Annotated[str, Meta(max_length=200)] | None = None
    ttl_s: Annotated[int, Meta(ge=60, le=90 * DAY_S)] = DAY_S


class JoinTokenMade(msgspec.Struct, frozen=True):
    id: str
    token: str
    """Shown here and never again."""
    expires: datetime


class JoinTokenItem(msgspec.Struct, frozen=True):
    id: str
    gateway_name: str
    asset: str | None
    state: Literal["open", "used", "expired"]
    created: datetime
    expires: datetime
    used: datetime | None
    used_by: str | None


class JoinTokenRoutes:
    def __init__(self, *, join_tokens: JoinTokens, clock: Clock) -> None:
        self._join_tokens = join_tokens
        self._clock = clock

    def routes(self) -> tuple[Route, ...]:
        return (
            Route(
                method="POST",
                path="/join-tokens",
                view=self.create,
                permission=Permission.ADMIN,
                summary="A one-use token for one gateway",
                status=201,
            ),
            Route(
                method="GET",
                path="/join-tokens",
                view=self.list,
                permission=Permission.ADMIN,
                summary="Every join token, without its secret",
            ),
            Route(
                method="DELETE",
                path="/join-tokens/{token_id}",
                view=self.revoke,
                permission=Permission.ADMIN,
                summary="End a join token that no gateway has used",
                problems=(404, 409),
            ),
        )

    def create(self, body: JoinTokenRequest) -> JoinTokenMade:
        made = self._join_tokens.create(gateway_name=body.gateway_name, asset=body.asset, ttl_s=body.ttl_s)
        return JoinTokenMade(made.id, made.token, moment(made.expires_ms))

    def list(self, query: PageQuery) -> Page[JoinTokenItem]:
        (after,) = query.after(str) or ("",)
        rows = self._join_tokens.listed(after=after, limit=query.limit + 1)
        return page(rows, limit=query.limit, item=self._item, key=lambda row: (row.id,))

    def revoke(self, token_id: str) -> None:
        self._join_tokens.revoke(token_id)

    def _item(self, row: Any) -> JoinTokenItem:
        expired = row.expires_ms <= self._clock.now_ms()
        return JoinTokenItem(
            id=row.id,
            gateway_name=row.gateway_name,
            asset=row.asset,
            state="used" if row.used_ms is not None else "expired" if expired else "open",
            created=moment(row.created_ms),
            expires=moment(row.expires_ms),
            used=moment(row.used_ms),
            used_by=row.used_by,
        )
