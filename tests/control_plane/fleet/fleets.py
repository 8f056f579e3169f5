"""A small fleet in the registry, with or without word from its gateways."""

from __future__ import annotations

from typing import Any

from sqlalchemy import insert

from control_plane.fleet.revisions import Revisions
from control_plane.journal.journal import EffectiveEntry, StatusEntry
from control_plane.journal.sql import SqlJournal
from control_plane.store.engine import Stores
from control_plane.store.tables import gateway
from firmware_configs.loader import Profiles
from protos.comboio.v1 import link_pb2 as wire
from tests.control_plane.conftest import TurnedClock
from tests.control_plane.sealing import GATEWAY, OTHER, hello

PROBE = {"id": "probe", "driver": "simulated"}
DOOR = {"id": "door", "driver": "simulated"}


def register(stores: Stores, *gateways: str) -> None:
    with stores.business.write() as connection:
        for one in gateways:
            row = {"id": one, "name": one, "hardware": "", "serial": "", "signing_key": b"", "created_ms": 0}
            connection.execute(insert(gateway).values(row))


class Fleet:
    """Two gateways; what they say goes into the real journal."""

    def __init__(self, stores: Stores, clock: TurnedClock) -> None:
        register(stores, GATEWAY, OTHER)
        self.stores = stores
        self.clock = clock
        self.journal = SqlJournal(stores.journal)
        self.revisions = Revisions(stores=stores, clock=clock, profiles=Profiles())
        self.sessions: dict[str, int] = {}

    def greets(self, gateway_id: str = GATEWAY, **running: Any) -> None:
        said = hello()
        said.running.CopyFrom(wire.RunningConfig(**running))
        start = self.journal.open_session(gateway_id, said, now_ms=self.clock.now_ms())
        self.sessions[gateway_id] = start.session

    def says(self, gateway_id: str = GATEWAY, **status: Any) -> None:
        said = wire.ConfigStatus(**status)
        entry = StatusEntry(gateway_id, self.sessions[gateway_id], said, self.clock.now_ms())
        self.journal.commit([entry])

    def reports(self, body: bytes, gateway_id: str = GATEWAY, **hashes: bytes) -> None:
        said = wire.EffectiveConfig(body=body, **hashes)
        self.journal.commit([EffectiveEntry(gateway_id, self.sessions[gateway_id], said, self.clock.now_ms())])
