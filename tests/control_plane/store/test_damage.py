"""A damaged SQLite file, as `comboio-control up` meets it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from sqlalchemy import select

from control_plane.clock import SystemClock
from control_plane.errors import Misconfigured
from control_plane.first_start import prepare
from control_plane.settings import Settings
from control_plane.store.engine import Stores
from control_plane.store.tables import state
from tests.control_plane.conftest import TurnedClock
from tests.control_plane.projections.conftest import Road
from tests.control_plane.sealing import batch
from tests.control_plane.sealing import declare as declared


@pytest.fixture
def installation(tmp_path: Path) -> Settings:
    """Has run before, and holds one projected batch."""
    settings = Settings(data_dir=str(tmp_path / "data"), http="127.0.0.1:0", grpc="127.0.0.1:0", identity="127.0.0.1:0")
    prepare(settings)
    with Stores(settings.database_url) as stores:
        road = Road(stores, TurnedClock(SystemClock().now_ms()))
        road.declare(declared())
        road.arrive(batch(1, 10, 20))
        road.project()
    (settings.data / "run.json").write_text("{}")
    return settings


def garbage(path: Path) -> None:
    path.write_bytes(os.urandom(8192))


def torn(path: Path) -> None:
    """The header is whole, what follows is not."""
    data = path.read_bytes()
    path.write_bytes(data[:4096] + bytes(len(data) - 4096))


def emptied(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("harm", [garbage, torn, emptied])
def test_telemetry_is_set_aside_by_name_and_projected_again(installation: Settings, harm: object) -> None:
    path = installation.data / "telemetry.db"
    assert callable(harm)
    harm(path)
    broken = path.read_bytes()
    prepare(installation)
    (aside,) = installation.data.glob("telemetry.db.damaged-*Z")
    assert aside.read_bytes() == broken
    with Stores(installation.database_url) as stores:
        road = Road(stores, TurnedClock())
        road.project()
        (row,) = road.rows(state)
        assert row.readings == 2


@pytest.mark.parametrize("harm", [garbage, torn, emptied])
@pytest.mark.parametrize("name", ["journal", "business"])
def test_what_exists_nowhere_else_is_never_reset(installation: Settings, name: str, harm: object) -> None:
    path = installation.data / f"{name}.db"
    assert callable(harm)
    harm(path)
    broken = path.read_bytes()
    with pytest.raises(Misconfigured, match="Restore it from a backup") as caught:
        prepare(installation)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == broken


def test_a_first_start_that_was_killed_is_no_damage(tmp_path: Path) -> None:
    settings = Settings(data_dir=str(tmp_path), http="127.0.0.1:0", grpc="127.0.0.1:0", identity="127.0.0.1:0")
    for name in ("journal", "telemetry", "business"):
        emptied(tmp_path / f"{name}.db")
    assert prepare(settings).admin_password
    with Stores(settings.database_url) as stores, stores.telemetry.read() as connection:
        assert connection.execute(select(state)).all() == []


def test_a_healthy_installation_is_left_alone(installation: Settings) -> None:
    before = sorted(path.name for path in installation.data.iterdir())
    assert prepare(installation).admin_password is None
    assert sorted(path.name for path in installation.data.iterdir()) == before
