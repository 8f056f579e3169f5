"""The disk of the control plane is full: nothing is acknowledged that is not on it; when it has room, all is there.

Slow disks, kills and PostgreSQL are in test_ingest_processes.py, test_replicas.py and test_postgresql_faults.py.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from control_plane.journal.journal import Committed, Entry
from control_plane.journal.sql import count_batches
from control_plane.store.engine import Stores
from tests.effort import tries
from tests.faults.cards import Card, Fleet
from tests.faults.far_end import GATEWAY, FarEnd, far_end
from tests.faults.test_gateway_disk_full import fill
from tests.gateway.uplink.plane import until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs needs root")
PATIENCE_S = 90.0
SIZE = "24m"


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "comboio-test", str(folder)]
    mounted = subprocess.run(command, check=False, capture_output=True)
    if mounted.returncode:
        pytest.skip(f"a tmpfs can't be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


class Told:
    """What commits of the journal failed with."""

    def __init__(self, plane: FarEnd) -> None:
        self.errors: list[str] = []
        self._commit = plane.journal.commit
        plane.journal.commit = self.commit  # type: ignore[method-assign]

    def commit(self, entries: Sequence[Entry]) -> Committed:
        try:
            return self._commit(entries)
        except OperationalError as error:
            self.errors.append(str(error.orig))
            raise


def full(small: Path, stores: Stores) -> Path:
    """Take all the room, also what the write-ahead logs had been given."""
    for store in stores.all():
        with closing(sqlite3.connect(str(store.engine.url.database))) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return fill(small)


@pytest.mark.timeout(600)
async def test_nothing_is_acknowledged_that_is_not_on_the_disk_and_all_comes_once_there_is_room(
    small: Path, tmp_path: Path
) -> None:
    with Stores(f"sqlite:///{small / 'database'}") as stores:
        stores.migrate()
        fleet = Fleet(stores)
        card = await Card(fleet, tmp_path / "card").open()
        async with far_end(stores, tmp_path) as plane, card.linked(plane) as link:
            told = Told(plane)
            await until(lambda: link.health.connected, within_s=PATIENCE_S)
            for _ in range(tries(1)):
                await card.sealed(3)
                await emptied(card)
                there, before = count_batches(stores.journal), len(told.errors)
                filler = full(small, stores)
                await card.sealed(3)
                await until(lambda before=before: len(told.errors) > before, within_s=PATIENCE_S)
                assert "full" in told.errors[-1]
                assert await card.waiting() >= 3, "something was acknowledged that no disk holds"
                assert count_batches(stores.journal) == there
                await until(lambda: not link.health.connected, within_s=PATIENCE_S)  # it was told to come back
                filler.unlink()
                await emptied(card)
        await card.close()
        want = fleet.once(*range(1, fleet.produced + 1))
        assert fleet.arrived(GATEWAY) == want
        assert fleet.gaps() == []


@pytest.mark.timeout(600)
async def test_projections_stop_at_a_full_disk_and_go_on_where_they_were(small: Path, tmp_path: Path) -> None:
    with Stores(f"sqlite:///{small / 'database'}") as stores:
        stores.migrate()
        fleet = Fleet(stores)
        card = await Card(fleet, tmp_path / "card").open()
        async with far_end(stores, tmp_path) as plane:
            await card.sealed(5)
            await card.online(plane)
        await card.close()
        filler = full(small, stores)
        with pytest.raises(OperationalError, match="full"):
            fleet.project()
        with pytest.raises(OperationalError, match="full"):
            fleet.project()
        filler.unlink()
        assert fleet.arrived(GATEWAY) == fleet.once(*range(1, 6))
        assert fleet.alerts() == []


async def emptied(card: Card) -> None:
    await card.buffer.seal()
    async with asyncio.timeout(PATIENCE_S):
        while await card.waiting():
            await asyncio.sleep(0.02)
