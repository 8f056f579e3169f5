from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Row, Table, delete, select

from control_plane.api.readings import ReadingsAnswer, ReadingsQuery, ReadingsRoutes
from control_plane.journal.journal import (
    BatchEntry,
    DeclareEntry,
    DuplicateEntry,
    Entry,
    HeartbeatEntry,
    LaneMark,
    RejectEntry,
)
from control_plane.journal.sql import SqlJournal
from control_plane.projections import state as latest
from control_plane.projections.boots import BootsProjection
from control_plane.projections.completeness import CompletenessProjection
from control_plane.projections.history import HistoryProjection
from control_plane.projections.ledger import LedgerProjection
from control_plane.projections.projector import Projector
from control_plane.projections.reading import HistoryReader
from control_plane.projections.roller import Roller
from control_plane.projections.sealer import Sealer
from control_plane.projections.state import StateProjection
from control_plane.store.engine import Stores
from control_plane.store.tables import gap, progress, state, telemetry
from protos.comboio.v1 import batch_pb2 as pb
from protos.comboio.v1 import link_pb2 as wire
from protos.ranges import Ranges
from tests.control_plane.conftest import TurnedClock
from tests.control_plane.sealing import EPOCH, GATEWAY, declare, hello


class Road:
    """Journal and projector over real stores; a test says what came and asks what follows."""

    def __init__(self, stores: Stores, clock: TurnedClock) -> None:
        self.stores = stores
        self.clock = clock
        self.journal = SqlJournal(stores.journal)
        self.sessions: dict[str, int] = {}
        self.projector = self.new_projector()
        self.sealing = False
        """Whether what was projected is sealed at once."""

    def new_projector(self) -> Projector:
        """As a restarted worker makes it."""
        return Projector(
            journal=self.stores.journal,
            telemetry=self.stores.telemetry,
            clock=self.clock,
            completeness=CompletenessProjection(),
            others=(BootsProjection(), StateProjection(), HistoryProjection(), LedgerProjection()),
        )

    # --- what comes ------------------------------------------------------------------------------------

    def hello(self, said: wire.Hello | None = None, gateway: str = GATEWAY) -> None:
        start = self.journal.open_session(gateway, said or hello(), now_ms=self.clock.now_ms())
        self.sessions[gateway] = start.session

    def declare(self, said: pb.Declare | None = None, gateway: str = GATEWAY) -> None:
        self._commit(DeclareEntry(gateway, self._session(gateway), said or declare(), self.clock.now_ms()))

    def arrive(self, *batches: pb.Batch, gateway: str = GATEWAY) -> None:
        session, now_ms = self._session(gateway), self.clock.now_ms()
        marks = [LaneMark(gateway, one.epoch, one.lane, 0, (), 0) for one in batches]  # nobody reads them here
        entries = [BatchEntry(gateway, session, one, now_ms, mark) for one, mark in zip(batches, marks, strict=True)]
        self._commit(*entries)

    def again(self, *batches: pb.Batch, gateway: str = GATEWAY) -> None:
        """Of seqs that are here."""
        session, now_ms = self._session(gateway), self.clock.now_ms()
        for one in batches:
            mark = LaneMark(gateway, one.epoch, one.lane, 0, (), 0)
            self._commit(DuplicateEntry(gateway, session, one, now_ms, mark))

    def reject(self, seq: int) -> None:
        said = wire.Reject(epoch=EPOCH, seq=seq, code=wire.REJECT_CRC)
        mark = LaneMark(GATEWAY, EPOCH, 0, 0, (), 0)
        self._commit(RejectEntry(GATEWAY, self._session(GATEWAY), said, self.clock.now_ms(), mark))

    def heartbeat(self, seq: int, mono_ms: int) -> None:
        said = wire.LaneComplete(seq=seq, complete_to=wire.CompleteTo(boot=1, mono_ms=mono_ms))
        entry = HeartbeatEntry(GATEWAY, self._session(GATEWAY), EPOCH, [said], self.clock.now_ms())
        self._commit(entry)

    def _commit(self, *entries: Entry) -> None:
        assert not self.journal.commit(entries).fenced

    def _session(self, gateway: str) -> int:
        if gateway not in self.sessions:
            self.hello(gateway=gateway)
        return self.sessions[gateway]

    # --- what follows ----------------------------------------------------------------------------------

    def project(self) -> None:
        while self.projector.step():
            pass
        if self.sealing:
            self.seal()

    def reader(self) -> HistoryReader:
        return HistoryReader(journal=self.stores.journal, telemetry=self.stores.telemetry)

    def seal(self) -> None:
        """Everything, as if all hours were over; and roll it up."""
        sealer = Sealer(telemetry=self.stores.telemetry, reader=self.reader(), clock=self.clock, settle_s=0, quiet_s=0)
        while sealer.step():
            pass
        roller = Roller(telemetry=self.stores.telemetry, reader=self.reader())
        while roller.step():
            pass

    def rows(self, table: Table) -> list[Row[Any]]:
        with self.stores.telemetry.read() as connection:
            return list(connection.execute(select(table).order_by(*table.primary_key.columns)).all())

    def everything(self) -> dict[str, list[Any]]:
        return {table.name: [tuple(row) for row in self.rows(table)] for table in telemetry.sorted_tables}

    def wipe(self) -> None:
        with self.stores.telemetry.write() as connection:
            for table in telemetry.sorted_tables:
                connection.execute(delete(table))

    def state(self, gateway: str = GATEWAY) -> dict[int, tuple[int, int, float]]:
        """Series id → (boot, mono ms, value)."""
        (row,) = [row for row in self.rows(state) if row.gateway == gateway]
        return {
            int(r["series"]): (int(r["boot"]), int(r["mono_ms"]), float(r["value"])) for r in latest.unpack(row.body)
        }

    def gaps(self) -> list[tuple[str, list[tuple[int, int]]]]:
        found = [(pb.GapReason.Name(row.reason), list(Ranges.unpack(row.seqs))) for row in self.rows(gap)]
        return sorted(found)

    def lane(self, lane: int = pb.TELEMETRY, gateway: str = GATEWAY) -> tuple[int, tuple[int, int]]:
        """(resolved up to, watermark)."""
        for row in self.rows(progress):
            if (row.gateway, row.lane) == (gateway, lane):
                return row.cum, (row.complete_boot, row.complete_mono_ms)
        return 0, (0, 0)

    def readings(self, *keys: str, from_ms: int, to_ms: int, max_points: int = 1200) -> ReadingsAnswer:
        routes = ReadingsRoutes(telemetry=self.stores.telemetry, reader=self.reader(), clock=self.clock)
        query = ReadingsQuery(series=list(keys), from_=moment(from_ms), to=moment(to_ms), max_points=max_points)
        return routes.readings(query)

    def temperatures(self, *, from_ms: int, to_ms: int) -> list[tuple[int, Any]]:
        (found,) = self.readings(f"{GATEWAY}/probe/temperature", from_ms=from_ms, to_ms=to_ms).series
        assert isinstance(found.values, list)
        return list(zip(found.times_ms, found.values, strict=True))


def moment(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms / 1000, UTC)


@pytest.fixture
def road(stores: Stores, clock: TurnedClock) -> Road:
    return Road(stores, clock)
