"""What goes on beside the ingest of a fleet: somebody exports, and somebody asks for what was just acknowledged."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sqlalchemy import func, select

from benchmarks.fleet import Member
from control_plane.projections.reading import HistoryReader
from control_plane.store.engine import Stores
from control_plane.store.tables import PROJECTED, batch, chunk, cursor

EVERY_S = 0.25
ALL_MS = 1 << 50
LONGEST_S = 60.0


class Beside:
    """Two threads of the benchmark's own process; read their figures after the block."""

    def __init__(self, stores: Stores, members: Sequence[Member]) -> None:
        self._stores = stores
        self._gateways = [member.gateway for member in members]
        self._reader = HistoryReader(journal=stores.journal, telemetry=stores.telemetry)
        self._stop = threading.Event()
        self.exported = 0
        self.export_cpu_s = 0.0
        self.waits_s: list[float] = []
        """From the moment a batch was seen committed, which is before its ack, until history answered with it."""

    @contextmanager
    def running(self) -> Iterator[None]:
        threads = [threading.Thread(target=work, name=work.__name__) for work in (self._export, self._ask)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def _export(self) -> None:
        """All series of one gateway after another, whole."""
        while not self._stop.is_set():
            for gateway in self._gateways:
                for piece in self._reader.pieces(gateway, from_ms=0, to_ms=ALL_MS):
                    self.exported += piece.bulk.values.size
                if self._stop.is_set():
                    break
            self.export_cpu_s = time.thread_time()

    def _ask(self) -> None:
        while not self._stop.wait(EVERY_S):
            newest, gateway = self._newest()
            started = time.monotonic()
            while self._projected() < newest and time.monotonic() - started < LONGEST_S:
                time.sleep(0.01)
            for _ in self._reader.pieces(gateway, from_ms=0, to_ms=ALL_MS):
                pass
            self.waits_s.append(time.monotonic() - started)

    def _newest(self) -> tuple[int, str]:
        with self._stores.journal.read() as connection:
            query = select(batch.c.id, batch.c.gateway).order_by(batch.c.id.desc()).limit(1)
            row = connection.execute(query).one()
            return row.id, row.gateway

    def _projected(self) -> int:
        with self._stores.telemetry.read() as connection:
            return connection.execute(select(cursor.c.position).where(cursor.c.name == PROJECTED)).scalar() or 0


def sealed(stores: Stores) -> int:
    """Readings in chunks."""
    with stores.telemetry.read() as connection:
        return int(connection.execute(select(func.coalesce(func.sum(chunk.c.readings), 0))).scalar_one())
