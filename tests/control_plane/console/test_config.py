from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from control_plane.console.cli import main
from control_plane.fleet.accounts import Role
from control_plane.journal.sql import SqlJournal
from control_plane.store.engine import Stores
from tests.control import Up, running
from tests.control_plane.fleet.fleets import register
from tests.control_plane.sealing import GATEWAY, hello

FLEET = """\
[uplink]
window = 4
[[sensor]]
id = "probe"
driver = "simulated"
"""


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with running(tmp_path_factory.mktemp("control")) as up:
        with Stores(f"sqlite:///{up.data_dir}") as stores:
            register(stores, GATEWAY)
            SqlJournal(stores.journal).open_session(GATEWAY, hello(), now_ms=1)
        yield up


def test_layers_are_set_from_files_shown_compared_and_guarded(
    control: Up, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    admin = ("--server", control.http, "--token", control.api_token(Role.ADMIN))

    def comboio(*arguments: str, status: int = 0) -> str:
        assert main(["config", *arguments, *admin]) == status
        captured = capsys.readouterr()
        return captured.out + captured.err

    file = tmp_path / "fleet.toml"
    file.write_text(FLEET)
    assert "dry run" in comboio("set", "fleet", str(file), "--dry-run")
    assert "Saved as version 1" in comboio("set", "fleet", str(file))
    layer = tmp_path / "mine.json"
    layer.write_text('{"sensor": {"probe": {"every_s": 5}}, "uplink": {"window": null}}')
    assert GATEWAY in comboio("set", GATEWAY, str(layer))
    shown = comboio("show", GATEWAY)
    assert "PENDING" in shown
    assert [line.split() for line in shown.splitlines() if "/sensor/probe/every_s" in line] == [
        ["/sensor/probe/every_s", "5.0", "gateway"]
    ]
    assert "/uplink/window" not in shown
    assert "/sensor/probe/every_s" in comboio("diff", GATEWAY)
    assert "offered" in comboio("status") or "connects" in comboio("status")
    assert json.loads(comboio("status", GATEWAY, "--json"))["desired"]["generation"] == 2

    assert "version 1 now" in comboio("set", GATEWAY, str(layer), "--based-on", "0", status=1)
    layer.write_text('{"sensor": {"probe": {"evry_s": 5}}}')
    refused = comboio("set", GATEWAY, str(layer), status=1)
    assert "/sensor/probe/evry_s" in refused
    assert "did you mean every_s" in refused
    layer.write_text("{")
    assert str(layer) in comboio("set", GATEWAY, str(layer), status=2)
    assert "a target is" in comboio("show", "truck/17", status=2)
    assert "not reported" in comboio("adopt", GATEWAY, status=4)
