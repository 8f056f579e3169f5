from __future__ import annotations

from pathlib import Path

import pytest

from control_plane.cli import main
from control_plane.clock import SystemClock
from control_plane.fleet.accounts import Accounts, Role
from control_plane.fleet.authority import Authority
from control_plane.store.engine import Stores


@pytest.fixture(autouse=True)
def this_process_keeps_its_logging(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("control_plane.logs.configure", lambda **_: None)


def accounts(data_dir: Path) -> Accounts:
    return Accounts(store=Stores(f"sqlite:///{data_dir}").business, clock=SystemClock())


def test_a_token_made_on_the_machine_is_valid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["token", "create", "--data-dir", str(tmp_path), "--role", "operator", "--name", "ci", "--ttl-days", "1"]
    assert main(given) == 0
    caller = accounts(tmp_path).caller(capsys.readouterr().out.strip())
    assert caller is not None
    assert (caller.name, caller.role) == ("ci", Role.OPERATOR)


def test_a_join_token_can_be_made_before_the_first_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["join-token", "create", "--data-dir", str(tmp_path), "--name", "truck 17"]) == 0
    printed = capsys.readouterr().out.strip()
    assert printed.endswith(Authority.open(tmp_path).fingerprint)


def test_a_lost_password_is_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["password", "reset", "--data-dir", str(tmp_path)]) == 0
    assert accounts(tmp_path).authenticate("admin", capsys.readouterr().out.strip()) is not None


def test_wrong_settings_are_78_with_their_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "control.toml").write_text('htp = "x"')
    assert main(["migrate", "--data-dir", str(tmp_path)]) == 78
    assert "control.toml: htp: not a setting of this section; did you mean http?" in capsys.readouterr().err


def test_an_unknown_simulator_is_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "nothing"]) == 2
    assert "simulate NAME" in capsys.readouterr().err
