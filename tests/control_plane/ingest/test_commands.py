"""Commands reach the stream of their gateway, once per connection, and what it won't take is recorded."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from sqlalchemy import select

from control_plane.clock import SystemClock
from control_plane.fleet.commands import Commands
from control_plane.fleet.rights import Caller, Role
from control_plane.ingest import commands as commander
from control_plane.store.tables import command
from protos.comboio.v1 import link_pb2 as wire
from protos.commands import Write, signed_bytes
from tests.control_plane.fleet.fleets import register
from tests.control_plane.ingest.conftest import Box, Plane
from tests.control_plane.sealing import GATEWAY, OTHER, batch

ANA = Caller("ana", "ana", Role.OPERATOR)


@pytest.fixture
def office(plane: Plane) -> Commands:
    register(plane.stores, GATEWAY, OTHER)
    return Commands(stores=plane.stores, clock=SystemClock())


async def ask(office: Commands, value: float, *, ttl_s: int = 60, gateway: str = GATEWAY) -> Any:
    write = Write(sensor="cooling", quantity="setpoint", value=value)
    return await asyncio.to_thread(office.ask, gateway, write, ttl_s=ttl_s, key=str(value), caller=ANA)


async def commanded(box: Box) -> wire.Command:
    while (answer := await box.hear()).WhichOneof("msg") != "command":
        assert answer.WhichOneof("msg") in {"ack", "welcome", "config_offer"}
    return answer.command


async def ended(plane: Plane, id_: str, state: str) -> Any:
    def row() -> Any:
        with plane.stores.business.read() as connection:
            return connection.execute(select(command).where(command.c.id == id_)).one()

    while (found := await asyncio.to_thread(row)).state != state:
        await asyncio.sleep(0.05)
    return found


async def test_a_command_reaches_its_gateway_signed_and_no_other(plane: Plane, office: Commands) -> None:
    async with plane.ready_box() as box, plane.ready_box(gateway=OTHER) as other:
        asked = await ask(office, -4.5)
        heard = await commanded(box)
        assert heard.id == asked.id
        assert 0 < heard.ttl_ms <= 60_000
        key = Ed25519PublicKey.from_public_bytes(plane.authority.config_public_key)
        key.verify(heard.signature, signed_bytes(heard, gateway=GATEWAY))
        assert (await ended(plane, asked.id, "sent")).sent_ms is not None
        await other.send(batch(1, 10))
        assert (await other.hear()).WhichOneof("msg") == "ack"


async def test_it_is_sent_once_per_connection_and_again_at_the_next(plane: Plane, office: Commands) -> None:
    asked = await ask(office, 1)
    for seq in (1, 2):
        async with plane.ready_box() as box:
            assert (await commanded(box)).id == asked.id
            await asyncio.sleep(0.3)  # several looks
            await box.send(batch(seq, 10))
            assert (await box.hear()).WhichOneof("msg") == "ack"


async def test_without_a_result_it_is_sent_again_after_a_while(
    plane: Plane, office: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commander, "AGAIN_AFTER_MS", 200)
    asked = await ask(office, 1)
    async with plane.ready_box() as box:
        assert {(await commanded(box)).id for _ in range(3)} == {asked.id}


async def test_many_come_in_their_order_and_none_is_dropped(plane: Plane, office: Commands) -> None:
    asked = [(await ask(office, n)).id for n in range(40)]
    async with plane.ready_box() as box:
        assert [(await commanded(box)).id for _ in range(40)] == asked


async def test_a_gateway_without_commands_ends_them(plane: Plane, office: Commands) -> None:
    asked = await ask(office, 1)
    async with plane.ready_box() as box:
        heard = await commanded(box)
        text = "this gateway does not know the command 'write'"
        await box.say(command_result=wire.CommandResult(id=heard.id, state=wire.COMMAND_UNSUPPORTED, text=text))
        assert (await ended(plane, asked.id, "unsupported")).text == text


async def test_a_store_that_cannot_be_read_is_looked_at_again(plane: Plane, office: Commands) -> None:
    async with plane.ready_box() as box:
        with plane.stores.business.write() as connection:
            connection.exec_driver_sql("ALTER TABLE command RENAME TO gone")
        await asyncio.sleep(0.2)
        with plane.stores.business.write() as connection:
            connection.exec_driver_sql("ALTER TABLE gone RENAME TO command")
        asked = await ask(office, 1)
        assert (await commanded(box)).id == asked.id
