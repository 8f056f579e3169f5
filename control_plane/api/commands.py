"""Commands: writing one value to one device, once, and what became of it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from control_plane.api.binding import Permission, Route
from control_plane.api.gateways import visible
from control_plane.api.paging import Page, PageQuery, moment, page
from control_plane.fleet.commands import CommandRow, Commands
from control_plane.fleet.rights import Caller
from protos.commands import Outcome, Value, Write

SENSOR = r"^[a-z0-9][a-z0-9-]{0,62}$(?!\n)"
QUANTITY = r"^[a-z][a-z0-9_]{0,119}$(?!\n)"


class CommandRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`expect`: only if the device holds that just before; left out: whatever it holds."""

    sensor: Annotated[str, Meta(pattern=SENSOR)]
    quantity: Annotated[str, Meta(pattern=QUANTITY)]
    value: Value
    """In the quantity's unit; true or false for a switch; a text, or a label's word."""
    expect: Value | None = None
    ttl_s: Annotated[int, Meta(ge=1, le=86_400)] = 60
    """Not written later than this."""


class CommandItem(msgspec.Struct, frozen=True, kw_only=True):
    """`state`: waiting, sent, done, failed, expired, unsupported, uncertain, unanswered. `text` says why."""

    id: str
    gateway: str
    sensor: str
    quantity: str
    value: Any
    expect: Any
    state: str
    text: str
    before: Any
    """What the device held just before, where that was asked for."""
    holds: Any
    """What was read back."""
    by: str
    """Who asked; empty: somebody at the box."""
    asked: datetime
    expires: datetime
    sent: datetime | None
    ended: datetime | None


class CommandQuery(PageQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    sensor: str | None = None


class CommandRoutes:
    def __init__(self, *, commands: Commands) -> None:
        self._commands = commands

    def routes(self) -> tuple[Route, ...]:
        every = "/gateways/{gateway_id}/commands"
        return (
            Route(
                method="POST",
                path=every,
                view=self.ask,
                permission=Permission.OPERATOR,
                summary="Have a gateway write a value to a device, once",
                status=202,
            ),
            Route(
                method="GET",
                path=every,
                view=self.list,
                permission=Permission.VIEWER,
                summary="Commands to a gateway, the newest first",
            ),
            Route(
                method="GET",
                path=every + "/{command_id}",
                view=self.get,
                permission=Permission.VIEWER,
                summary="One command and what became of it",
            ),
        )

    def ask(self, gateway_id: str, body: CommandRequest, caller: Caller, idempotency_key: str) -> CommandItem:
        visible(caller, gateway_id)
        write = Write(sensor=body.sensor, quantity=body.quantity, value=body.value, expect=body.expect)
        return item(self._commands.ask(gateway_id, write, ttl_s=body.ttl_s, key=idempotency_key, caller=caller))

    def get(self, gateway_id: str, command_id: str, caller: Caller) -> CommandItem:
        visible(caller, gateway_id)
        return item(self._commands.get(gateway_id, command_id))

    def list(self, gateway_id: str, query: CommandQuery, caller: Caller) -> Page[CommandItem]:
        visible(caller, gateway_id)
        rows = self._commands.listed(
            gateway_id, limit=query.limit + 1, before=query.after(int, str), sensor=query.sensor
        )
        return page(rows, limit=query.limit, item=item, key=lambda row: (row.asked_ms, row.id))


def item(row: CommandRow) -> CommandItem:
    said = msgspec.json.decode(row.result, type=Outcome) if row.result else Outcome()
    return CommandItem(
        id=row.id,
        gateway=row.gateway,
        sensor=row.sensor,
        quantity=row.quantity,
        value=msgspec.json.decode(row.value),
        expect=None if row.expect is None else msgspec.json.decode(row.expect),
        state=row.state,
        text=row.text,
        before=said.before,
        holds=said.holds,
        by=row.asked_by,
        asked=moment(row.asked_ms),
        expires=moment(row.expires_ms),
        sent=moment(row.sent_ms),
        ended=moment(row.ended_ms),
    )
