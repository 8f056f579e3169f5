from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import insert

from control_plane.console.cli import main
from control_plane.console.data import show_readings
from control_plane.console.show import rows as shown
from control_plane.console.table import table
from control_plane.fleet.accounts import Role
from control_plane.store.engine import Stores
from control_plane.store.tables import series
from protos.comboio.v1 import batch_pb2 as pb
from tests.control import Up, running
from tests.control_plane.conftest import START_MS, TurnedClock
from tests.control_plane.projections.conftest import Road
from tests.control_plane.sealing import GATEWAY, batch, urgent


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with running(tmp_path_factory.mktemp("control")) as up:
        yield up


@pytest.fixture(autouse=True)
def nobodys_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for name in ("SERVER", "TOKEN", "CA"):
        monkeypatch.delenv(f"COMBOIO_{name}", raising=False)


@pytest.fixture
def admin(control: Up) -> tuple[str, ...]:
    return ("--server", control.http, "--token", control.api_token(Role.ADMIN))


def test_empty_lists_say_so(admin: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("gateways", "events", "deliveries", "gaps"):
        assert main([command, *admin]) == 0
        assert capsys.readouterr().out == "None.\n"


def test_health_names_stores_and_roles(control: Up, admin: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["health", *admin, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["roles"] == control.pids()
    assert main(["health", *admin]) == 0
    assert "status ok" in capsys.readouterr().out


def test_a_join_token_is_printed_alone_so_that_scripts_can_take_it(
    control: Up, admin: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["join-token", *admin, "--name", "truck 17"]) == 0
    version, _, ca = capsys.readouterr().out.strip().split(".")
    assert (version, ca) == ("cj1", control.announced["ca_sha256"])
    assert main(["join-token", *admin, "--list"]) == 0
    assert "truck 17" in capsys.readouterr().out


def test_what_the_server_refuses_is_1(control: Up, admin: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gateways", "show", "gw-nobody", *admin]) == 4
    assert "There is no gateway gw-nobody" in capsys.readouterr().err
    assert main(["deliveries", *admin, "--state", "lost"]) == 1
    assert "?state" in capsys.readouterr().err
    assert main(["gateways", "--server", control.http, "--token", "wrong"]) == 1
    viewer = control.api_token(Role.VIEWER)
    assert main(["join-token", "--server", control.http, "--token", viewer, "--name", "a"]) == 1


def test_wrong_usage_is_2(admin: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gateways"]) == 2
    assert "set COMBOIO_SERVER" in capsys.readouterr().err
    assert main(["join-token", *admin]) == 2
    with pytest.raises(SystemExit) as caught:
        main(["nonsense"])
    assert caught.value.code == 2


def test_nobody_there_is_3(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["health", "--server", "http://127.0.0.1:1", "--token", "t"]) == 3
    assert "127.0.0.1:1" in capsys.readouterr().err


def test_server_and_token_are_remembered(
    control: Up, admin: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "comboio").mkdir()
    (tmp_path / "comboio" / "config.toml").write_text(f'server = "http://127.0.0.1:1"\ntoken = "{admin[3]}"\n')
    assert main(["health"]) == 3
    monkeypatch.setenv("COMBOIO_SERVER", control.http)
    assert main(["health"]) == 0


def test_tables_align_and_show_absence() -> None:
    rows = [{"name": "a", "count": 5, "exact": True}, {"name": "long", "count": 12, "exact": None}]
    assert table(("name", "count", "exact"), rows).splitlines() == [
        "NAME  COUNT  EXACT",
        "a         5  yes",
        "long     12  -",
    ]


def test_readings_are_shown_with_their_gaps_where_they_lie(capsys: pytest.CaptureFixture[str]) -> None:
    series = {
        "key": "gw-a/cooling/temperature",
        "unit": "Cel",
        "coverage": 0.5,
        "clock_err_ms": 3,
        "times_ms": [1_000, 9_000],
        "values": [4.1, 4.3],
        "quality": ["good", "good"],
    }
    gap = {"series": series["key"], "from_ms": 1_000, "to_ms": 9_000, "reason": "restart"}
    show_readings({"resolution": "raw", "series": [series], "gaps": [gap]})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "gw-a/cooling/temperature  [Cel]  raw, 50.0% of the expected readings, clock error up to 3 ms"
    assert [line.split(maxsplit=2)[2] for line in lines[2:5]] == ["4.1  good", "-  gap of 8.0 s: restart", "4.3  good"]


def test_a_list_is_a_table_with_headings(capsys: pytest.CaptureFixture[str]) -> None:
    shown(("id", "count"))({"items": [{"id": "a", "count": 10}, {"id": "bcd", "count": 5}]})
    assert capsys.readouterr().out == "ID   COUNT\na       10\nbcd      5\n"


def test_an_export_is_there_whole_or_not_at_all(
    control: Up, admin: tuple[str, ...], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with Stores(control.database) as stores, stores.telemetry.write() as connection:
        row = {"key": "gw-a/b/c", "gateway": "gw-a", "sensor": "b", "name": "c", "unit": "", "type": 0}
        more = {"period_ms": 1, "attrs": "{}", "epoch": 1, "schema": 1, "group_id": 1, "series_id": 1}
        connection.execute(insert(series).values(row | more))
    file = tmp_path / "readings.csv"
    assert main(["readings", "export", "gw-a/b/c", *admin, "--out", str(file)]) == 0
    assert file.read_bytes() == b"series,unit,time,value,quality,clock_err_ms\r\n"
    assert capsys.readouterr().out == f"{file}: 45 bytes\n"
    parquet = tmp_path / "readings.parquet"
    assert main(["readings", "export", "gw-a/b/c", *admin, "--out", str(parquet)]) == 0
    assert parquet.read_bytes()[:4] == parquet.read_bytes()[-4:] == b"PAR1"
    assert main(["readings", "export", "gw-a/b/d", *admin, "--out", str(tmp_path / "no.csv")]) == 4
    assert main(["readings", "export", *admin]) == 2
    assert sorted(one.name for one in tmp_path.glob("*.*")) == ["readings.csv", "readings.parquet"]


def test_whether_a_trip_was_recorded_is_told_with_what_is_missing(
    control: Up, admin: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with Stores(control.database) as stores:
        road = Road(stores, TurnedClock())
        road.declare()
        road.arrive(
            urgent(1, pb.Anchor(boot=1, mono_ms=0, wall_ms=START_MS, err_ms=5), complete=(1, 30_000)),
            batch(1, *range(20), at_ms=1000, complete=(1, 30_000)),
        )
    trip = ["--from", "2025-11-22T10:00:00Z", "--to", "2025-11-22T10:00:25Z"]
    deadline, told = time.monotonic() + 60, ""
    while "10:00:25Z: recorded as a whole" not in told:  # once the worker has looked at it
        assert time.monotonic() < deadline, told
        time.sleep(0.1)
        assert main(["completeness", f"{GATEWAY}/probe", *admin, *trip]) in {0, 4}
        told = capsys.readouterr().out
    assert "probe" in told
    assert main(["completeness", GATEWAY, *admin, *trip[:3], "2025-11-22T11:00:00Z"]) == 0
    told = capsys.readouterr().out
    assert "NOT recorded as a whole" in told
    assert "not_here_yet" in told
    assert main(["completeness", GATEWAY, *admin, *trip, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["items"][0]["account"]["complete"] is True
    assert main(["completeness", *admin]) == 0
    assert GATEWAY in capsys.readouterr().out
    assert main(["completeness", "gw-nobody", *admin, *trip]) == 4
    assert main(["completeness", GATEWAY, *admin, *trip[:2]]) == 2
    assert main(["completeness", f"{GATEWAY}/probe", *admin]) == 2
