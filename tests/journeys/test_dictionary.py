"""A gateway gets a dictionary of its own, through a kill and a server that lost it, and every value arrives once."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from sqlalchemy import delete, func, select

from control_plane.projections.projector import CURSOR
from control_plane.store.engine import Stores
from control_plane.store.tables import batch, cursor, dictionary
from protos.comboio.v1 import batch_pb2 as pb
from tests.control import Up, running
from tests.faults.managed import SETTINGS, Admin, Managed, until

PROBES = 30
SENSORS = "".join(
    f"""\
[[sensor]]
id = "probe-{number}"
driver = "simulated"
every_s = 0.1
signal = "counting"
quantities = {{ count = "1", again = "1" }}
"""
    for number in range(PROBES)
)


def packed_batches(up: Up) -> int:
    """Journalled batches that were packed with a dictionary."""
    with Stores(up.database) as stores, stores.journal.read() as connection:
        query = select(func.count()).select_from(batch).where(batch.c.codec == pb.CODEC_ZSTD_DICT)
        return int(connection.execute(query).scalar_one())


def projected(up: Up) -> bool:
    with Stores(up.database) as stores:
        with stores.journal.read() as connection:
            newest = connection.execute(select(func.max(batch.c.id))).scalar_one()
        with stores.telemetry.read() as connection:
            position = connection.execute(select(cursor.c.position).where(cursor.c.name == CURSOR)).scalar()
    return bool(position == newest)


def dictionaries(up: Up) -> list[tuple[bytes, int]]:
    """(SHA-256, batches it was trained on) of each, oldest first."""
    with Stores(up.database) as stores, stores.journal.read() as connection:
        query = select(dictionary.c.sha256, dictionary.c.batches).order_by(dictionary.c.number)
        return [(bytes(row.sha256), row.batches) for row in connection.execute(query)]


def lose_dictionaries(up: Up) -> None:
    with Stores(up.database) as stores, stores.journal.write() as connection:
        connection.execute(delete(dictionary))


def at(up: Up) -> tuple[str, ...]:
    """The listeners of before, so that the gateway finds its server again."""
    http = up.announced["http"].removeprefix("http://").removeprefix("https://")
    return ("--http", http, "--grpc", up.announced["grpc"], "--identity", "127.0.0.1:0")


@pytest.mark.journey
def test_a_gateway_gets_its_dictionary_and_every_value_arrives_once(tmp_path: Path) -> None:
    (tmp_path / "control").mkdir()
    (tmp_path / "control" / "control.toml").write_text(SETTINGS)
    with running(tmp_path / "control") as up:
        box = Managed(tmp_path / "box", up, sensors=SENSORS)
        with box.running():
            until(lambda: "dictionary.kept" in box.log(), within_s=60)
        # killed: it may have sealed with it or not
        with box.running() as process:
            until(lambda: packed_batches(up) > 10)
            ((issued, trained_on), *_) = dictionaries(up)
            assert trained_on >= 40
            process.send_signal(signal.SIGSTOP)  # what is journalled is projected before the server loses anything
            until(lambda: projected(up))
            before = packed_batches(up)
            up.process.terminate()
            up.process.wait(20)
            lose_dictionaries(up)
            with running(tmp_path / "control", listeners=at(up)) as again:
                process.send_signal(signal.SIGCONT)
                until(lambda: packed_batches(again) > before + 10, within_s=40)
                assert dictionaries(again)[0] == (issued, 0), "the gateway gave it back"
                assert process.poll() is None
                _every_value_once(Admin(again), box.id)


def _every_value_once(admin: Admin, gateway: str) -> None:
    """Each run of the gateway counted from 1; a kill costs at most the end of its run."""
    for number in (0, PROBES - 1):
        counted = admin.reads(f"{gateway}/probe-{number}/count")
        starts = [index for index, value in enumerate(counted) if value == 1]
        assert len(starts) == 2
        for first, after in zip(starts, [*starts[1:], len(counted)], strict=True):
            assert counted[first:after] == list(range(1, after - first + 1))
            assert after - first > 10, "hardly any load"
