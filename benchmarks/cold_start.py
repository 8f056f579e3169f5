"""control.cold_start: from `comboio-control up` on a large store until it serves.

Ten thousand gateways in the registry, and in the journal and the history of the first thousand of them 200 batches
each, all projected, sealed and rolled up; on SQLite. Before each start the kernel is told to forget what it has read of
the files. It serves when every role says so, REST answers, and the port of the gateways shakes hands.

    python -m benchmarks.cold_start
"""

from __future__ import annotations

import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.figures import Figure
from benchmarks.web import GATEWAYS, fill
from control_plane.store.engine import Stores
from control_plane.store.tables import PROJECTED, batch, chunk, cursor, history, rolled
from control_plane.store.upsert import bulk_insert, upsert
from protos.hours import HOUR_MS
from tests.control import Up, running

STARTS = 3
MEASURING = 1000
EACH = 200
BODY_BYTES = 1000
BATCHES_AN_HOUR = 50
AT_ONCE = 20_000
MINUTE_MS = 60_000


def figures() -> Iterator[Figure]:
    with tempfile.TemporaryDirectory(prefix="comboio-cold-") as name:
        folder = Path(name)
        with Stores(f"sqlite:///{folder}") as stores:
            stores.migrate()
            fill(stores)
            _measured(stores)
        with running(folder) as up:  # makes the keys; that is no part of a later start
            _asked(up)
        size = sum(path.stat().st_size for path in folder.glob("*.db"))
        took = [_start(folder) for _ in range(STARTS)]
    remark = (
        f"{GATEWAYS} gateways, {MEASURING * EACH} batches, {size / 1e6:.0f} MB in files that are not in memory; "
        f"until all roles serve, median of {STARTS}, the slowest {max(took):.1f}"
    )
    yield Figure("control.cold_start", statistics.median(took), "s", remark)


def _start(folder: Path) -> float:
    for path in folder.glob("*.db*"):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
    began = time.monotonic()
    with running(folder) as up:
        _asked(up)
        return time.monotonic() - began


def _asked(up: Up) -> None:
    """Raises where something does not serve."""
    up.get("/api/v1/health").raise_for_status()
    host, _, port = str(up.announced["grpc"]).rpartition(":")
    socket.create_connection((host, int(port)), timeout=10).close()


def _measured(stores: Stores) -> None:
    """Batches that were projected, sealed and rolled up; nobody will read what is in them."""
    body = os.urandom(BODY_BYTES)
    come = [(f"gw-{number % MEASURING:010d}", number // MEASURING) for number in range(MEASURING * EACH)]
    journalled = bulk_insert(batch, [column.name for column in batch.columns if column.name != "id"])
    indexed = bulk_insert(history, [column.name for column in history.columns])
    for start in range(0, len(come), AT_ONCE):
        some = come[start : start + AT_ONCE]
        with stores.journal.write() as connection:
            journalled(connection, [_batch(gateway, number, body) for gateway, number in some])
        with stores.telemetry.write() as connection:
            rows = enumerate(some, start + 1)
            indexed(connection, [_indexed(id_, gateway, number) for id_, (gateway, number) in rows])
    with stores.telemetry.write() as connection:
        upsert(connection, cursor, [{"name": PROJECTED, "position": len(come)}])
        connection.execute(chunk.insert(), [_chunk(key, body) for key in range(1, MEASURING * _hours() + 1)])
        of = {"epoch": 1, "boot": 1, "points": 0, "anchors": b"", "chunk": MEASURING * _hours()}
        connection.execute(rolled.insert(), [{"gateway": f"gw-{one:010d}", **of} for one in range(MEASURING)])


def _hours() -> int:
    return EACH // BATCHES_AN_HOUR


def _batch(gateway: str, number: int, body: bytes) -> dict[str, object]:
    known = {"gateway": gateway, "epoch": 1, "lane": 0, "seq": number + 1, "schema": 1, "codec": 0, "dictionary": 0}
    sizes = {"count": 100, "body_len": len(body), "crc32": 0, "body": body, "extra": None}
    return known | sizes | {"complete_boot": 1, "complete_mono_ms": 0, "urgent_seq": 0, "received_ms": 1}


def _indexed(id_: int, gateway: str, number: int) -> dict[str, object]:
    first_ms = number * MINUTE_MS
    of = {"batch_id": id_, "gateway": gateway, "epoch": 1, "boot": 1, "schema": 1, "groups": b"\1\0\0\0"}
    sealed = 1 + id_ % MEASURING * _hours() + number // BATCHES_AN_HOUR
    return of | {"first_mono_ms": first_ms, "last_mono_ms": first_ms + MINUTE_MS - 1, "chunk": sealed}


def _chunk(key: int, body: bytes) -> dict[str, object]:
    number, hour = divmod(key - 1, _hours())
    of = {"id": key, "gateway": f"gw-{number:010d}", "epoch": 1, "boot": 1, "readings": 100, "sealed_ms": 1}
    return of | {"first_mono_ms": hour * HOUR_MS, "last_mono_ms": (hour + 1) * HOUR_MS - 1, "toc": body, "body": body}


if __name__ == "__main__":
    for figure in figures():
        sys.stdout.write(f"{figure}\n")
