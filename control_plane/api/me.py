from __future__ import annotations

from datetime import datetime

import msgspec

from control_plane.api.binding import Permission, Route
from control_plane.api.paging import moment
from control_plane.fleet.accounts import Accounts
from control_plane.fleet.rights import Caller


class Me(msgspec.Struct, frozen=True, kw_only=True):
    """Null: no restriction."""

    id: str
    name: str
    user: str | None
    role: str
    groups: list[str] | None
    permissions: list[str] | None
    expires: datetime | None


class MeRoutes:
    def __init__(self, *, accounts: Accounts) -> None:
        self._accounts = accounts

    def routes(self) -> tuple[Route, ...]:
        return (
            Route(
                method="GET",
                path="/me",
                view=self.get,
                permission=Permission.VIEWER,
                summary="Whose token this is and what it may",
            ),
            Route(
                method="DELETE",
                path="/me",
                view=self.log_out,
                permission=Permission.VIEWER,
                summary="Log out: revoke this very token",
            ),
        )

    def get(self, caller: Caller) -> Me:
        return Me(
            id=caller.id,
            name=caller.name,
            user=caller.user,
            role=caller.role.word,
            groups=None if caller.groups is None else sorted(caller.groups),
            permissions=None if caller.permissions is None else sorted(caller.permissions),
            expires=moment(caller.expires_ms),
        )

    def log_out(self, caller: Caller) -> None:
        self._accounts.revoke_token(caller.id)
