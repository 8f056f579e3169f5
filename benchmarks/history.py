"""store.per_reading and query.*: what the control plane keeps of readings, and how soon charts of them are there.

Recordings come as batches into the journal, are projected, sealed and rolled up by the worker's own parts. `store` is
the mixed gateway: bytes of chunks, rollups and their rows in the file, after a VACUUM, per reading; the batches they
came in and their index, which are kept for a while beside, are not in it. `query` is a year of twenty series read once
a minute, asked through the REST application: a day of one series as it was measured, a year of one, a year of all.

    python -m benchmarks.history [--days N]
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

from flask.testing import FlaskClient
from sqlalchemy import Table, func, select, text
from sqlalchemy.exc import OperationalError

from benchmarks.figures import Figure
from benchmarks.mixed import mixed
from benchmarks.recordings import Column, Recording, Traffic, cuts, folder, traffic
from control_plane.api.app import create_app
from control_plane.api.readings import ReadingsRoutes
from control_plane.clock import SystemClock
from control_plane.fleet.accounts import Accounts
from control_plane.fleet.rights import Role
from control_plane.journal.journal import BatchEntry, DeclareEntry, Entry, LaneMark
from control_plane.journal.sql import SqlJournal
from control_plane.projections.boots import BootsProjection
from control_plane.projections.completeness import CompletenessProjection
from control_plane.projections.history import HistoryProjection
from control_plane.projections.projector import Projector
from control_plane.projections.reading import HistoryReader
from control_plane.projections.rollups import Roller
from control_plane.projections.sealer import Sealer
from control_plane.projections.state import StateProjection
from control_plane.settings import WebSection
from control_plane.store.engine import Stores
from control_plane.store.tables import chunk, rolled, rollup
from protos.columns import encode, pack
from protos.comboio.v1 import batch_pb2 as pb
from protos.comboio.v1 import link_pb2 as wire

GATEWAY = "gw-0123456789"
BOOT = 7
BATCH_S = 60
YEAR_DAYS = 365
SERIES = 20
ASKED = 40
HOUR_MS, DAY_MS = 3_600_000, 86_400_000
START_MS = 1_700_000_000_000 // DAY_MS * DAY_MS
COMMITTED = 200


class Kept:
    """One gateway's history in a store of its own."""

    def __init__(self, stores: Stores) -> None:
        self.stores = stores
        self.reader = HistoryReader(journal=stores.journal, telemetry=stores.telemetry)
        self.took_s: dict[str, float] = {}

    def fill(self, source: Traffic, *, batch_s: int, from_ms: int, to_ms: int) -> int:
        """Readings that came; all sealed and rolled up."""
        journal = SqlJournal(self.stores.journal)
        epoch = source.declare.epoch
        boot = wire.Hello(epoch=epoch, run_id=b"r" * 16, opens=1, boot=BOOT, boot_id=b"b" * 16)
        session = journal.open_session(GATEWAY, boot, now_ms=START_MS).session
        mark = LaneMark(GATEWAY, epoch, pb.TELEMETRY, 0, (), 0)
        entries: list[Entry] = [DeclareEntry(GATEWAY, session, source.declare, START_MS)]
        body, count = encode(source.schema, boot=BOOT, blocks=[], events=list(_anchors(from_ms, to_ms)))
        urgent = LaneMark(GATEWAY, epoch, pb.URGENT, 0, (), 0)
        entries.append(
            BatchEntry(GATEWAY, session, _batch(source, pb.URGENT, 1, body, count, from_ms), START_MS, urgent)
        )
        readings = 0
        for seq, cut in enumerate(cuts(source, batch_ms=batch_s * 1000, from_ms=from_ms, to_ms=to_ms), start=1):
            body, count = encode(source.schema, boot=BOOT, blocks=cut.blocks, base_mono_ms=cut.end_ms - batch_s * 1000)
            made = _batch(source, pb.TELEMETRY, seq, body, count, cut.end_ms)
            entries.append(BatchEntry(GATEWAY, session, made, START_MS + cut.end_ms - from_ms, mark))
            readings += count
            if len(entries) >= COMMITTED:
                journal.commit(entries)
                entries = []
        journal.commit(entries)
        self._timed("projected", self._projected)
        clock = SystemClock()
        roller = Roller(telemetry=self.stores.telemetry, reader=self.reader)
        sealer = Sealer(telemetry=self.stores.telemetry, reader=self.reader, clock=clock, settle_s=0, quiet_s=0)
        self._timed("sealed", lambda: _whole(sealer))
        self._timed("rolled up", lambda: _whole(roller))
        return readings

    def _projected(self) -> None:
        projector = Projector(
            journal=self.stores.journal,
            telemetry=self.stores.telemetry,
            clock=SystemClock(),
            completeness=CompletenessProjection(),
            others=(BootsProjection(), StateProjection(), HistoryProjection()),
        )
        _whole(projector)

    def _timed(self, what: str, work: object) -> None:
        began = time.process_time()
        work()  # type: ignore[operator]
        self.took_s[what] = time.process_time() - began

    def bytes(self) -> dict[str, int]:
        """Of the tables and their indexes, vacuumed."""
        with self.stores.telemetry.engine.connect() as connection:
            connection.connection.driver_connection.execute("VACUUM")  # type: ignore[union-attr]
        return {table.name: self._size(table) for table in (chunk, rollup, rolled)}

    def _size(self, table: Table) -> int:
        names = [table.name, *(f"sqlite_autoindex_{table.name}_1", *(index.name for index in table.indexes))]
        with self.stores.telemetry.read() as connection:
            try:
                query = text("SELECT sum(pgsize) FROM dbstat WHERE name = :name")
                return sum(connection.execute(query, {"name": name}).scalar() or 0 for name in names)
            except OperationalError:  # a SQLite without dbstat: what the columns hold
                sizes = sum((func.length(c) for c in table.c if c.name in {"toc", "body", "anchors"}), start=0)
                return int(connection.execute(select(func.sum(sizes))).scalar() or 0)


def _anchors(from_ms: int, to_ms: int) -> Iterator[tuple[int, pb.Event]]:
    """One an hour, as gateways make them: a clock that is 20 ppm slow, told to some ms."""
    chance = random.Random(7)
    for mono_ms in range(from_ms, to_ms, HOUR_MS):
        wall_ms = START_MS + mono_ms + (mono_ms - from_ms) // 50_000 + chance.randrange(-2, 3)
        anchor = pb.Anchor(boot=BOOT, mono_ms=mono_ms, wall_ms=wall_ms, err_ms=5, source=pb.CLOCK_NTP)
        yield mono_ms, pb.Event(kind=pb.EVENT_ANCHOR, detail=anchor.SerializeToString())


def _whole(part: object) -> None:
    while part.step():  # type: ignore[attr-defined]
        pass


def _batch(source: Traffic, lane: pb.Lane.ValueType, seq: int, body: bytes, count: int, complete_ms: int) -> pb.Batch:
    codec, packed = pack(body)
    return pb.Batch(
        epoch=source.declare.epoch,
        lane=lane,
        seq=seq,
        schema=source.declare.schema,
        codec=codec,
        count=count,
        body_len=len(body),
        body=packed,
        crc32=zlib.crc32(packed),
        complete_boot=BOOT,
        complete_mono_ms=complete_ms,
    )


@contextmanager
def _kept() -> Iterator[Kept]:
    with tempfile.TemporaryDirectory(prefix="comboio-history-") as path, Stores(f"sqlite:///{path}") as stores:
        stores.migrate()
        yield Kept(stores)


def store() -> Iterator[Figure]:
    kind, recordings = mixed(folder())
    source = traffic(recordings)
    first, last = source.span
    with _kept() as kept:
        readings = kept.fill(source, batch_s=BATCH_S, from_ms=first, to_ms=last)
        sizes = kept.bytes()
    parts = ", ".join(f"{name} {size / readings:.3f}" for name, size in sizes.items())
    took = ", ".join(f"{what} {readings / seconds / 1e6:.1f} M/s" for what, seconds in kept.took_s.items())
    remark = f"{kind}, SQLite, {readings} readings in batches of {BATCH_S} s: {parts}; per CPU second: {took}"
    yield Figure("store.per_reading", sum(sizes.values()) / readings, "B", remark)


def query(days: int = YEAR_DAYS) -> Iterator[Figure]:
    source = traffic(list(_year(days)))
    with _kept() as kept:
        readings = kept.fill(source, batch_s=3600, from_ms=0, to_ms=days * DAY_MS)
        client = _client(kept)
        chance = random.Random(3)
        days_asked = [chance.randrange(days - 1) for _ in range(ASKED)]
        one_day = [_asked(client, [chance.randrange(SERIES)], START_MS + day * DAY_MS, DAY_MS) for day in days_asked]
        one_year = [_asked(client, [chance.randrange(SERIES)], START_MS, days * DAY_MS) for _ in range(ASKED)]
        all_of_it = [_asked(client, range(SERIES), START_MS, days * DAY_MS) for _ in range(5)]
    remark = (
        f"{readings} readings of {SERIES} series, {days} days; {ASKED} requests to the REST application, 1500 points"
    )
    yield Figure("query.day_p99", _p99(one_day), "ms", remark)
    yield Figure("query.year_p99", _p99(one_year), "ms", remark)
    yield Figure("query.year_20_series", _p99(all_of_it), "ms", remark)


def _year(days: int) -> Iterator[Recording]:
    chance = random.Random(11)
    times = list(range(0, days * DAY_MS, 60_000))
    columns = []
    for number in range(SERIES):
        level, values = 40 + number, []
        for _ in times:
            level += chance.choice((-1, 0, 0, 1))
            values.append(level / 10)
        columns.append(Column(f"series-{number}", values))
    for place in range(0, SERIES, 5):
        yield Recording(f"sensor-{place // 5}", 60_000, times, columns[place : place + 5])


def _client(kept: Kept) -> FlaskClient:
    clock = SystemClock()
    routes = ReadingsRoutes(telemetry=kept.stores.telemetry, reader=kept.reader, clock=clock).routes()
    accounts = Accounts(store=kept.stores.business, clock=clock)
    app = create_app(routes, accounts=accounts, web=WebSection())
    token = accounts.create_token(name="bench", role=Role.VIEWER).token
    client = app.test_client()
    client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {token}"
    return client


def _asked(client: FlaskClient, series: Sequence[int], from_ms: int, span_ms: int) -> float:
    """Milliseconds until the whole answer is there."""
    keys = [f"{GATEWAY}/sensor-{number // 5}/series-{number}" for number in series]
    first, last = (datetime.fromtimestamp(ms / 1000, UTC).isoformat() for ms in (from_ms, from_ms + span_ms))
    began = time.perf_counter()
    answer = client.get(
        "/api/v1/readings", query_string={"series": keys, "from": first, "to": last, "max_points": 1500}
    )
    took_ms = (time.perf_counter() - began) * 1000
    assert answer.status_code == 200, answer.text
    found = answer.get_json()["series"]
    assert len(found) == len(keys)
    assert all(len(one["times_ms"]) > 300 for one in found), [len(one["times_ms"]) for one in found]
    return took_ms


def _p99(took: Sequence[float]) -> float:
    return sorted(took)[min(len(took) - 1, int(len(took) * 0.99))]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=YEAR_DAYS)
    for figure in (*store(), *query(parser.parse_args().days)):
        sys.stdout.write(f"{figure}\n")
