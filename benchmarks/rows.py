"""*.vs_rows: the same readings into PostgreSQL as this design keeps them, and as a plain table of rows.

`ingest.vs_rows` is until it is durable and history answers with it, which the row table does at its commit. What
sealing and rolling up take later, for which the row table has nothing, is in the remark.

Plain: (time, series, value), primary key (series, time), binary COPY of some 400 000 rows a transaction, made ready
before the clock starts. Ours: batches as they came through the journal, the projections, sealing and rollups, in one
thread as well. Both without a network in front, in one private PostgreSQL with fsync on, WAL included; sizes on disk
after a checkpoint, with every index. Ours holds everything twice, as it came and sealed; nothing was dropped yet.

    python -m benchmarks.rows [--gateways N]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psycopg
from numpy.typing import NDArray
from sqlalchemy import text

from benchmarks.figures import Figure
from benchmarks.fleet import Maker, Member
from control_plane.clock import SystemClock
from control_plane.journal.journal import BatchEntry, DeclareEntry, LaneMark
from control_plane.journal.sql import SqlJournal
from control_plane.projections.boots import BootsProjection
from control_plane.projections.completeness import CompletenessProjection
from control_plane.projections.decode import Table, decode_many
from control_plane.projections.history import HistoryProjection
from control_plane.projections.ledger import LedgerProjection
from control_plane.projections.projector import Projector
from control_plane.projections.reading import HistoryReader
from control_plane.projections.roller import Roller
from control_plane.projections.sealer import Sealer
from control_plane.projections.state import StateProjection
from control_plane.store.engine import Stores
from protos.columns import unpack
from protos.comboio.v1 import batch_pb2 as pb
from protos.comboio.v1 import link_pb2 as wire
from tests.postgresql import Cluster, binaries, cluster

GATEWAYS = 10
MINUTES = 60
AT_ONCE = 128  # batches
TABLE = "CREATE TABLE reading (time bigint, series integer, value double precision, PRIMARY KEY (series, time))"
ROW = np.dtype(
    [("n", ">i2"), ("tl", ">i4"), ("time", ">i8"), ("sl", ">i4"), ("series", ">i4"), ("vl", ">i4"), ("value", ">f8")]
)
HEAD, END = b"PGCOPY\n\xff\r\n\0" + bytes(8), b"\xff\xff"


class Took(NamedTuple):
    wall_s: float
    cpu_s: float
    """Of the client; the server's is in the wall time."""


def figures(maker: Maker, *, gateways: int = GATEWAYS) -> Iterator[Figure]:
    members = maker.make(gateways=gateways, batches=MINUTES + 1, batch_s=60, sealable=MINUTES)
    found = binaries()
    if found is None:
        raise RuntimeError("PostgreSQL is not installed (apt-get install postgresql)")
    with cluster(found) as server:
        for name in ("ours", "plain"):
            server.run(f"CREATE DATABASE {name}")
        plain, rows = _plain(server, members)
        ours, later, readings = _ours(server, members)
        each = {name: _bytes(server, name) / rows for name in ("ours", "plain")}
    yield Figure(
        "store.vs_rows",
        each["plain"] / each["ours"],
        "x fewer bytes",
        f"{maker.kind}, {rows} readings: {each['ours']:.2f} bytes each, as rows {each['plain']:.1f}",
    )
    speed = {"ours": readings / ours.wall_s, "plain": rows / plain.wall_s}
    yield Figure(
        "ingest.vs_rows",
        speed["ours"] / speed["plain"],
        "x faster",
        f"{speed['ours']:.0f} readings/s, as rows {speed['plain']:.0f}; with sealing and rollups "
        f"{readings / (ours.wall_s + later.wall_s):.0f}; "
        f"client CPU {ours.cpu_s / ours.wall_s:.2f} and {plain.cpu_s / plain.wall_s:.2f} cores",
    )


def _timed(work: Callable[[], object]) -> Took:
    wall, cpu = time.monotonic(), time.process_time()
    work()
    return Took(time.monotonic() - wall, time.process_time() - cpu)


# --- rows ----------------------------------------------------------------------------------------------


def _plain(server: Cluster, members: Sequence[Member]) -> tuple[Took, int]:
    portions = list(_copied(members))
    with psycopg.connect(server.url("plain").replace("postgresql+psycopg", "postgresql")) as connection:
        connection.execute(TABLE)
        connection.commit()

        def write() -> None:
            for portion in portions:
                with connection.cursor() as at, at.copy("COPY reading FROM STDIN (FORMAT BINARY)") as copy:
                    copy.write(HEAD + portion.tobytes() + END)
                connection.commit()

        took = _timed(write)
    return took, sum(portion.size for portion in portions)


def _copied(members: Sequence[Member]) -> Iterator[NDArray[np.void]]:
    """In the order in which batches come: minute by minute, of all gateways."""
    first = np.cumsum([0, *(len(_series(member)) for member in members)])
    arriving = [(member, minute, int(first[n])) for minute in range(MINUTES + 1) for n, member in enumerate(members)]
    tables = {one.gateway: Table.from_declare(pb.Declare.FromString(one.declare)) for one in members}
    for start in range(0, len(arriving), AT_ONCE):
        rows = [
            _rows(tables[member.gateway], member, minute, base)
            for member, minute, base in arriving[start : start + AT_ONCE]
        ]
        yield np.concatenate(rows).astype(ROW)  # numpy joins them in its own byte order


def _series(member: Member) -> list[int]:
    return [one.id for group in pb.Declare.FromString(member.declare).groups for one in group.series]


def _rows(table: Table, member: Member, minute: int, base: int) -> NDArray[np.void]:
    sent = pb.Batch.FromString(member.batches[minute].envelope)
    bulk = decode_many(table, [unpack(sent.codec, sent.body, body_len=sent.body_len)], [sent.count])
    lengths = bulk.rows[bulk.col_occ]
    inside = np.arange(bulk.values.size) - np.repeat(bulk.val0, lengths)
    rows = np.empty(bulk.values.size, ROW)
    rows["n"], rows["tl"], rows["sl"], rows["vl"] = 3, 8, 4, 8
    rows["time"] = bulk.times[np.repeat(bulk.row0[bulk.col_occ], lengths) + inside]
    rows["series"] = np.repeat(bulk.series, lengths) + base
    rows["value"] = bulk.values
    _, once = np.unique(np.stack((rows["series"], rows["time"])), axis=1, return_index=True)
    return rows[np.sort(once)]


# --- as this design does -------------------------------------------------------------------------------


def _ours(server: Cluster, members: Sequence[Member]) -> tuple[Took, Took, int]:
    """Until history answers, what is sealed and rolled up later, and how many readings."""
    clock = SystemClock()
    with Stores(server.url("ours")) as stores:
        stores.migrate()
        journal = SqlJournal(stores.journal)
        sessions = {one.gateway: _greeted(journal, one, clock.now_ms()) for one in members}
        groups = list(_groups(members, sessions, clock.now_ms()))
        reader = HistoryReader(journal=stores.journal, telemetry=stores.telemetry)
        roller = Roller(telemetry=stores.telemetry, reader=reader)
        sealer = Sealer(telemetry=stores.telemetry, reader=reader, clock=clock, sealed=roller.sealed, settle_s=0.0)
        projector = Projector(
            journal=stores.journal,
            telemetry=stores.telemetry,
            clock=clock,
            completeness=CompletenessProjection(),
            others=(BootsProjection(), StateProjection(), HistoryProjection(), LedgerProjection()),
        )

        def write() -> None:
            for group in groups:
                journal.commit(group)
                while projector.step():
                    pass

        def seal() -> None:
            for step in (sealer.step, roller.step):
                while step():
                    pass

        return _timed(write), _timed(seal), sum(one.count for member in members for one in member.batches)


def _greeted(journal: SqlJournal, member: Member, now_ms: int) -> int:
    hello = wire.Hello(protocol=1, epoch=member.epoch, opens=1, boot=17, boot_id=bytes(16), run_id=bytes(16))
    session = journal.open_session(member.gateway, hello, now_ms=now_ms).session
    journal.commit([DeclareEntry(member.gateway, session, pb.Declare.FromString(member.declare), now_ms)])
    return session


def _groups(members: Sequence[Member], sessions: dict[str, int], now_ms: int) -> Iterator[list[BatchEntry]]:
    entries = []
    for minute in range(MINUTES + 1):
        for one in members:
            sent = pb.Batch.FromString(one.batches[minute].envelope)
            sent.seq = minute + 1
            mark = LaneMark(one.gateway, one.epoch, pb.TELEMETRY, sent.seq, (), sent.seq)
            entries.append(BatchEntry(one.gateway, sessions[one.gateway], sent, now_ms, mark))
    for start in range(0, len(entries), AT_ONCE):
        yield entries[start : start + AT_ONCE]


def _bytes(server: Cluster, name: str) -> int:
    """Of its tables, indexes and large values."""
    server.run("CHECKPOINT")
    query = """SELECT sum(pg_total_relation_size(c.oid)) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
               WHERE c.relkind = 'r' AND n.nspname IN ('public', 'journal', 'telemetry')"""
    with Stores(server.url(name)) as stores, stores.journal.read() as connection:
        return int(connection.execute(text(query)).scalar_one())


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.rows", description=__doc__)
    parser.add_argument("--gateways", type=int, default=GATEWAYS)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="comboio-fleet-") as folder:
        for figure in figures(Maker(Path(folder)), gateways=asked.gateways):
            sys.stdout.write(f"{figure}\n")


if __name__ == "__main__":
    main()
