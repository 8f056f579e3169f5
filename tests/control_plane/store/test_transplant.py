"""`comboio-control migrate --to`: an embedded installation moves to PostgreSQL whole, or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from sqlalchemy import delete, insert, select, text

from control_plane.cli import main
from control_plane.errors import Misconfigured
from control_plane.occupied import running_on
from control_plane.settings import Settings
from control_plane.store import transplant
from control_plane.store.content import Tally
from control_plane.store.engine import Stores
from control_plane.store.tables import batch, cursor, outbox
from tests.control_plane.store.filled import everything, fill
from tests.postgresql import Cluster

REFUSED = 78


@pytest.fixture
def data(sqlite_template: Path, tmp_path: Path) -> Path:
    """The data folder of an embedded installation."""
    folder = tmp_path / "data"
    shutil.copytree(sqlite_template, folder)
    with Stores(f"sqlite:///{folder}") as stores:
        fill(stores)
    return folder


@pytest.fixture
def target(postgresql: Cluster) -> str:
    return postgresql.new_database()


def move(data: Path, to: str) -> int:
    return main(["migrate", "--data-dir", str(data), "--to", to])


def test_every_row_arrives_and_the_files_stay(data: Path, target: str, capsys: pytest.CaptureFixture[str]) -> None:
    with Stores(f"sqlite:///{data}") as source:
        before = everything(source)
    assert move(data, target) == 0
    said = capsys.readouterr().out
    with Stores(f"sqlite:///{data}") as source, Stores(target) as there:
        assert everything(there) == everything(source) == before
    assert all(f"{name} " in said for name in before)


def test_numbers_go_on_after_what_was_there_and_after_what_was_read_of_it(data: Path, target: str) -> None:
    with Stores(f"sqlite:///{data}") as source, source.telemetry.write() as connection:
        connection.execute(delete(cursor))
        connection.execute(insert(cursor).values(name="telemetry", position=7000))  # its batches are gone by retention
    move(data, target)
    with Stores(target) as there, there.journal.write() as connection:
        row = dict(connection.execute(select(batch).limit(1)).mappings().one())
        del row["id"]
        made = connection.execute(insert(batch).values(row | {"gateway": "another"})).inserted_primary_key
        assert made is not None
        assert made[0] >= 7001


def test_the_old_installation_does_not_start_by_mistake_and_can_be_started_on_purpose(data: Path, target: str) -> None:
    move(data, target)
    settings = Settings(data_dir=str(data))
    with pytest.raises(Misconfigured, match=r"was moved to postgresql://.* remove .*moved\.json"), running_on(settings):
        pass
    assert main(["migrate", "--data-dir", str(data)]) == REFUSED
    (data / "moved.json").unlink()
    with running_on(settings):
        pass


def test_a_running_server_is_not_moved(data: Path, target: str, capsys: pytest.CaptureFixture[str]) -> None:
    with running_on(Settings(data_dir=str(data))):
        assert move(data, target) == REFUSED
    assert "a server runs on it" in capsys.readouterr().err
    assert move(data, target) == 0


def test_a_database_with_content_is_left_alone(data: Path, target: str, capsys: pytest.CaptureFixture[str]) -> None:
    with Stores(target) as there:
        there.migrate()
        with there.business.write() as connection:
            connection.execute(text("INSERT INTO installation VALUES ('ca_sha256', 'of another fleet')"))
    assert move(data, target) == REFUSED
    assert "business.installation has rows already" in capsys.readouterr().err
    assert not (data / "moved.json").exists()


def test_what_did_not_arrive_as_it_was_is_noticed_and_nothing_is_kept(
    data: Path, target: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = transplant._copy

    def careless(reading: object, connection: object, store: str, table: object) -> Tally:
        tally = real(reading, connection, store, table)  # type: ignore[arg-type]
        if table is outbox:
            statement = text("UPDATE business.outbox SET erp_id = 'of somebody else'")
            connection.execute(statement)  # type: ignore[attr-defined]
        return tally

    monkeypatch.setattr(transplant, "_copy", careless)
    assert move(data, target) == REFUSED
    assert "business.outbox" in capsys.readouterr().err
    assert not (data / "moved.json").exists()
    monkeypatch.setattr(transplant, "_copy", real)
    with Stores(target) as there:
        assert {name for name, rows in everything(there).items() if rows} == set()
    assert move(data, target) == 0  # and it can be tried again
