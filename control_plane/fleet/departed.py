"""Gateways whose ingest is gone without a word: their streams are over, whatever the journal still says."""

from __future__ import annotations

from dataclasses import dataclass

import structlog

from control_plane.journal.sql import SqlJournal
from control_plane.store.engine import Stores
from control_plane.store.leases import Alive

PREFIX = "ingest/"
"""Before the server's name, in business.lease."""
WHY = "the server process it was connected to has ended"

log = structlog.get_logger("control_plane.fleet")


@dataclass(slots=True)
class Departed:
    """`step` is a loop of the worker, where several ingests share one PostgreSQL."""

    stores: Stores

    def step(self) -> bool:
        alive, journal = Alive(self.stores.business), SqlJournal(self.stores.journal)
        for name, last_ms in alive.lapsed(PREFIX).items():
            left = journal.server_ended(name.removeprefix(PREFIX), now_ms=last_ms, why=WHY)
            alive.forget(name)
            if left:
                log.warning("ingest.gone", name=name, gateways=left)
        return False
