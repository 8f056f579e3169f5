"""What has to follow by itself: a first document for those who joined, and a generation above what a gateway runs.

The latter happens when this side was restored from a backup: its gateways are ahead of it, and would take nothing it
offers for new. It jumps past them, and says so.
"""

from __future__ import annotations

from dataclasses import dataclass

import structlog
from sqlalchemy import select

from control_plane.clock import Clock
from control_plane.errors import Rejected
from control_plane.fleet.revisions import FURTHEST, Revisions
from control_plane.store.engine import Stores
from control_plane.store.tables import config_desired, integrity, presence
from control_plane.store.upsert import keep_first
from protos.comboio.v1 import link_pb2 as wire

CHUNK = 500

log = structlog.get_logger("control_plane.fleet")


@dataclass(slots=True)
class Settling:
    """`step` is a loop of the worker."""

    revisions: Revisions
    stores: Stores
    clock: Clock
    _looked_ms: int = 0

    def step(self) -> bool:
        self._newcomers()
        since, now_ms = self._looked_ms, self.clock.now_ms()
        self.jump_ahead(since)
        self._looked_ms = now_ms - 60_000  # another machine's clock may be behind
        return False

    def _newcomers(self) -> None:
        try:
            self.revisions.render_newcomers()
        except Rejected as error:
            log.error("configuration.unfit", why=str(error))

    def jump_ahead(self, since_ms: int) -> list[str]:
        """Look at gateways that connected since; returns those whose generation was raised."""
        with self.stores.journal.read() as connection:
            query = select(presence.c.gateway, presence.c.running).where(
                presence.c.connected_ms >= since_ms, presence.c.running.is_not(None)
            )
            rows = connection.execute(query).all()
        running = {row.gateway: wire.RunningConfig.FromString(row.running).generation for row in rows}
        ahead = [
            gateway
            for gateway, generation in self._wanted(sorted(running)).items()
            if generation < running[gateway] < FURTHEST
        ]
        for gateway in ahead:
            self._note(gateway, running[gateway])
            jumped = self.revisions.jump(gateway, running[gateway])
            log.error("integrity.configuration", gateway=gateway, ran=running[gateway], now_wanted=jumped)
        return ahead

    def _wanted(self, gateways: list[str]) -> dict[str, int]:
        found: dict[str, int] = {}
        with self.stores.business.read() as connection:
            for start in range(0, len(gateways), CHUNK):
                some = gateways[start : start + CHUNK]
                query = select(config_desired.c.gateway, config_desired.c.generation)
                for row in connection.execute(query.where(config_desired.c.gateway.in_(some))):
                    found[row.gateway] = row.generation
        return found

    def _note(self, gateway: str, generation: int) -> None:
        text = (
            f"runs configuration generation {generation}, which this server never made: it was restored; jumping past"
        )
        with self.stores.telemetry.write() as connection:
            row = {"id": f"config/{gateway}/{generation}", "gateway": gateway, "kind": "configuration_ahead"}
            keep_first(connection, integrity, {**row, "text": text, "at_ms": self.clock.now_ms()})
