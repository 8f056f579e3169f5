"""A control plane that is lost and restored from last night's backup, by the commands an operator has."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from control_plane.cli import main
from control_plane.store.engine import Stores
from tests.faults.cards import Card, Fleet
from tests.faults.far_end import GATEWAY, far_end


class Machine:
    """A data folder, and a database for it."""

    def __init__(self, folder: Path, request: pytest.FixtureRequest, kind: str) -> None:
        self.folder = folder
        self.data = folder / "authority"  # where far_end keeps its keys
        self.data.mkdir(parents=True)
        self._options = ["--data-dir", str(self.data)]
        self.database = f"sqlite:///{self.data}"
        if kind == "postgresql":
            self.database = request.getfixturevalue("postgresql").new_database()
            self._options += ["--database", self.database]

    def run(self, command: str, saved: Path) -> None:
        assert main([command, *self._options, str(saved)]) == 0


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
@pytest.mark.parametrize("kept_h", [24, 0])
async def test_a_control_plane_restored_from_last_night(
    kind: str, kept_h: float, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    lost = Machine(tmp_path / "lost", request, kind)
    with Stores(lost.database) as stores:
        stores.migrate()
        fleet = Fleet(stores)
        card = await Card(fleet, tmp_path / "card", kept_h=kept_h).open()
        async with far_end(stores, lost.folder) as plane:
            await card.sealed(2)
            await card.online(plane)
            fleet.project()
            lost.run("backup", tmp_path / "night")
            await card.sealed(3)
            await card.online(plane)
        if not kept_h:
            await card.tidy()
    shutil.rmtree(lost.folder)

    other = Machine(tmp_path / "other", request, kind)
    other.run("restore", tmp_path / "night")
    with Stores(other.database) as stores:
        fleet.stores = stores
        fleet.restart_worker()
        assert fleet.arrived(GATEWAY) == fleet.once(1, 2)
        epoch = card.buffer.opening.epoch
        async with far_end(stores, other.folder) as plane:
            await card.sealed(1)
            await card.online(plane)
        assert card.buffer.opening.epoch == epoch
        await card.close()
        if kept_h:
            assert fleet.arrived(GATEWAY) == fleet.once(*range(1, 7))
            assert (fleet.gaps(), fleet.alerts()) == ([], [])
        else:
            assert fleet.arrived(GATEWAY) == fleet.once(1, 2, 6)
            assert ("GAP_VANISHED", [(3, 5)]) in fleet.gaps()
            assert set(fleet.alerts()) == {"vanished"}
