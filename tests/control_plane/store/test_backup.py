"""`comboio-control backup` and `restore`: what was there is there again, or nothing is."""

from __future__ import annotations

import shutil
import sqlite3
import stat
from pathlib import Path

import pytest
from sqlalchemy import delete, insert, select, update

from control_plane.cli import main
from control_plane.fleet.authority import Authority
from control_plane.store.backup import MANIFEST, read_manifest
from control_plane.store.engine import Stores
from control_plane.store.tables import batch, command_result, cursor, reconcile_cursor, state
from tests.control_plane.store.filled import everything, fill

REFUSED = 78


class Here:
    """A data folder, its stores, and commands as an operator gives them."""

    def __init__(self, data: Path, database: str) -> None:
        self.data = data
        self.database = database
        self.options = ["--data-dir", str(data)]
        if database.startswith("postgresql:"):
            self.options += ["--database", database]

    def run(self, command: str, folder: Path) -> int:
        return main([command, *self.options, str(folder)])

    def stores(self) -> Stores:
        return Stores(self.database)


@pytest.fixture
def here(database: str, tmp_path: Path) -> Here:
    """SQLite stores stand in the data folder."""
    data = Path(database.removeprefix("sqlite:///")) if database.startswith("sqlite:") else tmp_path / "data"
    data.mkdir(exist_ok=True)
    Authority.open(data)
    return Here(data, database)


@pytest.fixture
def empty(here: Here, tmp_path: Path, request: pytest.FixtureRequest) -> Here:
    """Another machine."""
    data = tmp_path / "empty"
    if here.database.startswith("sqlite:"):
        return Here(data, f"sqlite:///{data}")
    return Here(data, request.getfixturevalue("postgresql").new_database())


def test_everything_is_there_again_with_the_keys(here: Here, empty: Here, tmp_path: Path) -> None:
    with here.stores() as stores:
        fill(stores)
        with stores.telemetry.write() as connection:  # where nothing is ahead of anything
            connection.execute(update(cursor).values(position=1))
        before = everything(stores)
    assert here.run("backup", tmp_path / "saved") == 0
    assert empty.run("restore", tmp_path / "saved") == 0
    with empty.stores() as stores:
        assert everything(stores) == before
    assert Authority.open(empty.data).fingerprint == Authority.open(here.data).fingerprint
    assert Authority.open(empty.data).config_public_key == Authority.open(here.data).config_public_key


def test_what_comes_after_a_restore_has_numbers_of_its_own(here: Here, empty: Here, tmp_path: Path) -> None:
    with here.stores() as stores:
        fill(stores)
    here.run("backup", tmp_path / "saved")
    empty.run("restore", tmp_path / "saved")
    with empty.stores() as stores, stores.journal.write() as connection:
        row = dict(connection.execute(select(batch).limit(1)).mappings().one())
        del row["id"]
        made = connection.execute(insert(batch).values(row | {"gateway": "another"})).inserted_primary_key
        assert made is not None
        assert made[0] > 12


def test_nobody_else_can_read_it(here: Here, tmp_path: Path) -> None:
    here.run("backup", tmp_path / "saved")
    found = [tmp_path / "saved", *(tmp_path / "saved").rglob("*")]
    assert len(found) > 6
    assert [path for path in found if stat.S_IMODE(path.stat().st_mode) & 0o077] == []


def test_it_goes_into_an_empty_place_only(
    here: Here, empty: Here, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with here.stores() as stores:
        fill(stores, of_each=1)
        before = everything(stores)
    here.run("backup", tmp_path / "saved")
    assert here.run("backup", tmp_path / "saved") == REFUSED
    assert "is there already" in capsys.readouterr().err
    shutil.rmtree(here.data / "pki")
    assert here.run("restore", tmp_path / "saved") == REFUSED
    assert ("is there" in (said := capsys.readouterr().err)) or "has rows" in said
    with here.stores() as stores:
        assert everything(stores) == before
    assert empty.run("restore", tmp_path / "saved") == 0
    assert empty.run("restore", tmp_path / "saved") == REFUSED


def test_a_damaged_backup_is_told_before_anything_is_changed(
    here: Here, empty: Here, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here.run("backup", tmp_path / "saved")
    victim = max((p for p in (tmp_path / "saved").iterdir() if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    assert empty.run("restore", tmp_path / "saved") == REFUSED
    assert f"{victim.name}: is not what was backed up" in capsys.readouterr().err
    assert not list(empty.data.glob("*.db"))
    assert not (empty.data / "pki").exists()
    (tmp_path / "saved" / MANIFEST).unlink()
    assert empty.run("restore", tmp_path / "saved") == REFUSED
    assert "is no backup" in capsys.readouterr().err


def test_the_manifest_counts_every_table(here: Here, tmp_path: Path) -> None:
    with here.stores() as stores:
        fill(stores, of_each=2)
    here.run("backup", tmp_path / "saved")
    manifest = read_manifest(tmp_path / "saved")
    assert {table.rows for table in manifest.tables.values()} == {2}
    assert manifest.versions.keys() == {"journal", "telemetry", "business"}


def test_a_damaged_store_is_not_backed_up(
    sqlite_template: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    shutil.copytree(sqlite_template, data)
    Authority.open(data)
    with Stores(f"sqlite:///{data}") as stores:
        fill(stores, of_each=3)
    with sqlite3.connect(data / "business.db") as connection:
        (page,) = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'ix_event_subject_type'"
        ).fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    connection.close()
    with (data / "business.db").open("r+b") as file:
        file.seek((page - 1) * size + size - 40)
        file.write(b"\xff" * 30)
    assert main(["backup", "--data-dir", str(data), str(tmp_path / "saved")]) == REFUSED
    assert "is damaged" in capsys.readouterr().err
    assert not (tmp_path / "saved").exists()
    assert [path for path in tmp_path.iterdir() if path.name.startswith(".saved")] == []


def test_projections_that_were_ahead_of_the_journal_are_made_again(
    here: Here, empty: Here, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files that somebody copied in another order, and then backed up as a whole."""
    with here.stores() as stores:
        fill(stores)
        with stores.telemetry.write() as connection:
            connection.execute(delete(cursor))
            connection.execute(insert(cursor).values(name="telemetry", position=500))  # the newest batch is 12
            connection.execute(delete(command_result))
        with stores.business.write() as connection:
            connection.execute(delete(reconcile_cursor))
            names = {"history": 400, "commands": 300}
            for name, position in names.items():
                connection.execute(insert(reconcile_cursor).values(name=name, position=position))
    here.run("backup", tmp_path / "saved")
    assert empty.run("restore", tmp_path / "saved") == 0
    assert "made again" in capsys.readouterr().out
    with empty.stores() as stores:
        with stores.telemetry.read() as connection:
            assert connection.execute(select(cursor)).all() == []
            assert connection.execute(select(state)).all() == []
        with stores.business.read() as connection:
            found = connection.execute(select(reconcile_cursor.c.name, reconcile_cursor.c.position)).all()
    assert {tuple(row) for row in found} == {("history", 0), ("commands", 0)}
