from __future__ import annotations

import json
from pathlib import Path

from sqlalchemy import select

from control_plane.store.engine import Stores
from control_plane.store.tables import batch, clone
from tests.control import control, running


def simulate(*arguments: str) -> tuple[int, dict[str, object]]:
    done = control("simulate", "fleet", "--json", *arguments)
    assert done.stdout, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return done.returncode, found


def test_a_fleet_enrolled_by_join_tokens_goes_through_everything_and_balances(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    with running(tmp_path / "control") as up:
        tokens.write_text("\n".join(up.join_token(name=f"box {number}") for number in range(6)))
        where = ["--grpc", up.announced["grpc"], "--identity", up.announced["identity"]]
        where += ["--tokens", str(tokens), "--ca", str(up.data_dir / "pki" / "ca.pem")]
        accidents = ["--outage-every-s", "2", "--outage-s", "0.3", "--storms", "1", "--clones", "1"]
        times = ["--seconds", "6", "--batch-s", "2", "--interval-s", "0.2", "--settle-s", "90"]
        status, found = simulate(*where, *accidents, *times, "--wrong-clocks", "0.5")
        with Stores(up.database) as stores, stores.journal.read() as connection:
            journalled = len(connection.execute(select(batch.c.id)).all())
            suspected = connection.execute(select(clone.c.gateway)).scalars().all()
    assert status == 0, found
    assert found["balanced"] is True
    assert found["acknowledged"] == journalled
    assert found["storms"] == 1
    assert isinstance(found["outages"], int)
    assert found["outages"] > 0
    assert len(suspected) == 1
    assert found["goodbyes"] == {"clone_suspected": 2}


def test_a_fleet_that_nobody_answers_ends_and_says_what_is_unanswered(tmp_path: Path) -> None:
    with running(tmp_path / "control") as up:
        grpc = up.announced["grpc"]
    times = ["--seconds", "1", "--interval-s", "0.2", "--settle-s", "1", "--gateways", "2"]
    status, found = simulate("--grpc", grpc, "--data-dir", str(tmp_path / "control"), *times)
    assert status == 1
    assert (found["balanced"], found["acknowledged"]) == (False, 0)
    assert found["unanswered"] == found["made"] != 0


def test_a_folder_without_a_control_plane_is_said_to_be_one(tmp_path: Path) -> None:
    done = control("simulate", "fleet", "--grpc", "127.0.0.1:1", "--data-dir", str(tmp_path))
    assert done.returncode == 1
    assert "no control plane has been started on it" in done.stderr
