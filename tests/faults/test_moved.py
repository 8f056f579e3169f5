"""An embedded control plane moves to PostgreSQL between two words of its gateways."""

from __future__ import annotations

from pathlib import Path

from control_plane.cli import main
from control_plane.store.engine import Stores
from tests.faults.cards import Card, Fleet
from tests.faults.far_end import GATEWAY, far_end
from tests.postgresql import Cluster


async def test_gateways_go_on_and_every_reading_is_there_once(postgresql: Cluster, tmp_path: Path) -> None:
    data = tmp_path / "authority"  # where far_end keeps its keys
    database = postgresql.new_database()
    with Stores(f"sqlite:///{data}") as stores:
        stores.migrate()
        fleet = Fleet(stores)
        card = await Card(fleet, tmp_path / "card").open()
        async with far_end(stores, tmp_path) as plane:
            await card.sealed(3)
            await card.online(plane)
            fleet.project()
            await card.sealed(2)
            await card.online(plane)  # journalled, and not projected before the move
            await card.sealed(1)  # not sent before the move
    epoch = card.buffer.opening.epoch
    assert main(["migrate", "--data-dir", str(data), "--to", database]) == 0
    with Stores(database) as stores:
        fleet.stores = stores
        fleet.restart_worker()
        async with far_end(stores, tmp_path) as plane:
            await card.sealed(2)
            await card.online(plane)
        await card.close()
        assert card.buffer.opening.epoch == epoch
        assert fleet.arrived(GATEWAY) == fleet.once(*range(1, 9))
        assert (fleet.gaps(), fleet.alerts()) == ([], [])
