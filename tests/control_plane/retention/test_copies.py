"""A copy of an installation whose tables are divided is whole, and goes on numbering where it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from control_plane.fleet.authority import Authority
from control_plane.store import units
from control_plane.store.backup import backup, restore
from control_plane.store.engine import Stores
from control_plane.store.tables import batch, chunk
from control_plane.store.transplant import transplant
from tests.control_plane.reconcile.plant import WALL0_MS, Gateway, steady
from tests.control_plane.retention.conftest import Kept

FAR = (1, 1 << 40)


@pytest.fixture
def divided(stores: Stores, box: Gateway) -> Kept:
    """Whose newest batches have gone already."""
    made = Kept(stores, raw_days=1.0, readings_days=30.0)
    made.deliver(box, [box.anchors((1, 0, WALL0_MS), complete=FAR)])
    for number in range(4):
        made.deliver(box, [box.readings(steady(number * 86_400 + 1, 4, 5, 6))])
        made.day()
    for _ in range(5):
        made.day()
    assert made.rows(batch) == []
    return made


def newest(stores: Stores) -> int:
    with stores.journal.read() as connection:
        return units.newest_id(connection, batch.name)


def goes_on(copied: Stores, before: Kept, box: Gateway) -> None:
    there = Kept(copied, raw_days=1.0, readings_days=30.0)
    assert there.rows(chunk) == before.rows(chunk)
    assert newest(copied) == newest(before.stores)
    there.clock.at_ms = before.clock.at_ms
    readings = there.read(box).values
    assert readings == before.read(box).values
    there.deliver(box, [box.readings(steady(10 * 86_400, 7))])
    there.settle()
    assert there.read(box).values == [*readings, 7]
    assert there.rows(batch)[0].id > newest(before.stores)


def test_of_a_backup(divided: Kept, box: Gateway, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    data, again = tmp_path / "data", tmp_path / "again"
    Authority.open(data)
    backup(divided.stores, data, tmp_path / "saved", now_ms=WALL0_MS)
    again.mkdir()
    sqlite = divided.stores.journal.sqlite
    url = f"sqlite:///{again}" if sqlite else request.getfixturevalue("postgresql").new_database()
    _, notes = restore(tmp_path / "saved", lambda: Stores(url), again)
    assert notes == []
    with Stores(url) as copied:
        goes_on(copied, divided, box)


def test_of_a_move_to_postgresql(divided: Kept, box: Gateway, request: pytest.FixtureRequest) -> None:
    if not divided.stores.journal.sqlite:
        pytest.skip("moves from SQLite")
    with Stores(request.getfixturevalue("postgresql").new_database()) as target:
        target.migrate()
        assert all(one.same for one in transplant(divided.stores, target))
        goes_on(target, divided, box)
