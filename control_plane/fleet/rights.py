"""Who may do what: roles, areas of the API, and the part of the fleet a caller was given.

A route names the least role it needs and lies in one area. A caller is let in if the role suffices, if the area is
among the permissions of a token that was given only some, and it then sees only the gateways of its groups.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import Any, Literal, NamedTuple

from sqlalchemy import ColumnElement

Mode = Literal["read", "write"]


class Role(IntEnum):
    """Each may what those below it may, but for the integrator: only events and deliveries."""

    INTEGRATOR = 0
    VIEWER = 1
    OPERATOR = 2
    ADMIN = 3

    @property
    def word(self) -> str:
        return self.name.lower()

    @classmethod
    def named(cls, word: str) -> Role:
        return cls[word.upper()]

    def covers(self, other: Role) -> bool:
        """Whether one of this role may hand `other` on."""
        return self is other or (self >= Role.OPERATOR if other is Role.INTEGRATOR else self >= other)


class Area(StrEnum):
    FLEET = "fleet"
    CONFIGURATION = "configuration"
    COMMANDS = "commands"
    """Writing to devices: a right of its own."""
    DATA = "data"
    EVENTS = "events"
    DELIVERIES = "deliveries"
    ADMINISTRATION = "administration"
    SELF = "self"
    """Who one is, and logging out: everybody's."""


PermissionWord = Literal[
    "fleet:read",
    "fleet:write",
    "configuration:read",
    "configuration:write",
    "commands:read",
    "commands:write",
    "data:read",
    "events:read",
    "deliveries:read",
    "deliveries:write",
    "administration:read",
    "administration:write",
]
"""What a token may be given; write includes read."""
INTEGRATORS = frozenset({(Area.EVENTS, "read"), (Area.DELIVERIES, "read"), (Area.DELIVERIES, "write")})


class Caller(NamedTuple):
    """An authenticated request's author. `id` is the token's id or the user's name; None is no restriction."""

    id: str
    name: str
    role: Role
    gateways: frozenset[str] | None = None
    """Of its groups, as of this request."""
    groups: frozenset[str] | None = None
    permissions: frozenset[str] | None = None
    expires_ms: int | None = None
    user: str | None = None

    def sees(self, gateway_id: str) -> bool:
        return self.gateways is None or gateway_id in self.gateways

    def within(self, column: Any) -> tuple[ColumnElement[bool], ...]:
        """Conditions on a column of gateway ids."""
        return () if self.gateways is None else (column.in_(sorted(self.gateways)),)

    def lacks(self, needed: Role, area: Area, mode: Mode) -> str | None:
        """Why it may not, as a sentence; None if it may."""
        if area is Area.SELF:
            return None
        if self.role is Role.INTEGRATOR:
            if (area, mode) not in INTEGRATORS:
                return "An integrator may read events and deliveries and replay deliveries, nothing else."
        elif self.role < needed:
            return f"This needs the role {needed.word}; this caller has {self.role.word}."
        wanted = {f"{area}:{mode}", f"{area}:write"}
        if self.permissions is not None and not wanted & self.permissions:
            return f"This token was not given {area}:{mode}."
        return None


EVERYTHING = Caller("", "", Role.ADMIN)
"""The program itself."""
