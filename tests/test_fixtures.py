"""The fixtures themselves."""

from __future__ import annotations

import pytest
from sqlalchemy import insert, select, text

from control_plane.store.engine import Stores
from control_plane.store.tables import gateway, user

ROW = {"name": "a", "password_hash": "", "role": "admin", "created_ms": 0}


@pytest.mark.parametrize("_again", [1, 2])
def test_each_test_gets_a_fresh_migrated_database(stores: Stores, _again: int) -> None:
    with stores.business.write() as connection:
        assert connection.execute(select(user)).all() == []
        connection.execute(insert(user).values(ROW))
    with stores.business.read() as connection:
        assert len(connection.execute(select(user)).all()) == 1
        assert connection.execute(select(gateway)).all() == []


def test_commits_are_synced(stores: Stores) -> None:
    with stores.business.read() as connection:
        if stores.business.sqlite:
            assert connection.execute(text("PRAGMA synchronous")).scalar_one() == 2
        else:
            assert connection.execute(text("SHOW fsync")).scalar_one() == "on"


def test_migrating_twice_changes_nothing(stores: Stores) -> None:
    stores.migrate()
