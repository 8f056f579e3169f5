"""Which commands go to which connected gateway: read by ingest, from what was asked."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import select, update

from control_plane.clock import Clock
from control_plane.fleet.commands import OPEN, CommandRow, end, state_word
from control_plane.store.engine import Stores
from control_plane.store.tables import command
from protos.comboio.v1 import link_pb2 as wire
from protos.commands import WRITE, Write, encoded, signed_bytes

CHUNK = 500
AT_THE_DOOR = (wire.COMMAND_UNSUPPORTED, wire.COMMAND_FAILED)
"""What a gateway answers on the stream, having taken nothing; every other result is an event of its journal."""


@dataclass(slots=True)
class Dispatch:
    """Synchronous; one thread at a time."""

    stores: Stores
    key: Ed25519PrivateKey
    clock: Clock

    def open(self, connected: Collection[str]) -> list[CommandRow]:
        """Those that are to be sent, or sent again, to gateways connected here, in their order."""
        to_send = (command.c.until_ms > self.clock.now_ms(), command.c.state.in_(OPEN))
        found: list[CommandRow] = []
        with self.stores.business.read() as connection:
            wanted = connection.execute(select(command.c.gateway).where(*to_send).distinct()).scalars()
            mine = sorted({one for one in wanted if one in connected})
            for start in range(0, len(mine), CHUNK):
                some = select(command).where(*to_send, command.c.gateway.in_(mine[start : start + CHUNK]))
                found += connection.execute(some.order_by(command.c.number))
        return found

    def sent(self, ids: Collection[str]) -> set[str]:
        """Note, before they leave, that gateways may see these; which of them may."""
        now = self.clock.now_ms()
        with self.stores.business.write() as connection:
            open_ = select(command.c.id).where(command.c.id.in_(ids), command.c.state.in_(OPEN))
            may = set(connection.execute(open_.with_for_update()).scalars())
            first = update(command).where(command.c.id.in_(may), command.c.state == "waiting")
            connection.execute(first.values(state="sent", sent_ms=now))
        return may

    def message(self, row: CommandRow) -> wire.Command:
        """Signed by the key the gateway was given at enrolment. What is left of its time counts from its receipt."""
        write = Write(
            sensor=row.sensor,
            quantity=row.quantity,
            value=msgspec.json.decode(row.value),
            expect=None if row.expect is None else msgspec.json.decode(row.expect),
        )
        message = wire.Command(
            id=row.id,
            name=WRITE,
            arguments=encoded(write),
            ttl_ms=max(0, row.expires_ms - max(self.clock.now_ms(), row.asked_ms)),
            expected_generation=row.generation,
            number=row.number,
        )
        message.signature = self.key.sign(signed_bytes(message, gateway=row.gateway))
        return message

    def answered(self, gateway: str, result: wire.CommandResult) -> None:
        """What a gateway said on its stream."""
        if result.state not in AT_THE_DOOR:
            return
        with self.stores.business.write() as connection:
            text = result.text[:2000].replace("\0", "?")
            state, now = state_word(result.state), self.clock.now_ms()
            end(connection, gateway, result.id[:64], state=state, text=text, result=None, now_ms=now)
