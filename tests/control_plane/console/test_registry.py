"""The registry from the command line, against a running server."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from control_plane.clock import SystemClock
from control_plane.console.cli import main
from control_plane.console.show import age
from control_plane.console.table import table
from control_plane.fleet.accounts import Accounts, Role
from control_plane.store.engine import Stores
from tests.control import Up, running

Comboio = Callable[..., str]


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with running(tmp_path_factory.mktemp("control")) as up:
        yield up


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where a login is kept; nobody's yet."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for name in ("SERVER", "TOKEN", "CA"):
        monkeypatch.delenv(f"COMBOIO_{name}", raising=False)
    return tmp_path / "comboio" / "config.toml"


@pytest.fixture
def comboio(capsys: pytest.CaptureFixture[str], settings: Path) -> Comboio:
    def run(*arguments: str, status: int = 0) -> str:
        assert (main(arguments), arguments) == (status, arguments)
        said = capsys.readouterr()
        return said.out if status == 0 else said.err

    return run


@pytest.fixture
def admin(control: Up, monkeypatch: pytest.MonkeyPatch, settings: Path) -> None:
    monkeypatch.setenv("COMBOIO_SERVER", control.http)
    monkeypatch.setenv("COMBOIO_TOKEN", control.api_token(Role.ADMIN))


def test_a_login_is_kept_for_its_user_alone_and_ends_with_the_logout(
    control: Up, comboio: Comboio, settings: Path, tmp_path: Path
) -> None:
    with Stores(f"sqlite:///{control.data_dir}") as stores:
        password = Accounts(store=stores.business, clock=SystemClock()).reset_password("admin")
    (tmp_path / "password").write_text(password + "\n")
    assert "log in" in comboio("gateways", status=2)
    asked = ("login", "--server", control.http, "--password-file", str(tmp_path / "password"))
    assert "as admin, admin, until" in comboio(*asked)
    assert stat.S_IMODE(settings.stat().st_mode) == 0o600
    assert "admin, comboio login" in comboio("whoami")
    token = settings.read_text().partition('token = "')[2].partition('"')[0]
    comboio("logout")
    assert token not in settings.read_text()
    assert "not known" in comboio("whoami", "--token", token, status=1)
    (tmp_path / "password").write_text("wrong")
    assert "name and password" in comboio(*asked, status=1)


def test_gateways_are_registered_named_mounted_grouped_and_retired(admin: None, comboio: Comboio) -> None:
    gateway, token = comboio("gateways", "add", "truck 17").split()
    assert token.startswith("cj1.")
    comboio("assets", "set", "truck-17", "--kind", "vehicle", "--attr", "plate=ABC-1D23")
    comboio("groups", "set", "trucks", "--priority", "3")
    comboio("gateways", "rename", gateway, "Truck 17")
    comboio("gateways", "assign", gateway, "--asset", "truck-17", "--group", "trucks")
    one = json.loads(comboio("gateways", "show", gateway, "--json"))
    assert (one["name"], one["asset"], one["groups"]) == ("Truck 17", "truck-17", ["trucks"])
    assert gateway in comboio("gateways", "list", "--group", "trucks")
    assert "still has gateway" in comboio("assets", "delete", "truck-17", status=1)
    comboio("gateways", "assign", gateway, "--no-asset", "--no-groups")
    comboio("assets", "delete", "truck-17")
    assert "nothing to release" in comboio("gateways", "release-clone", gateway, status=1)
    comboio("gateways", "retire", gateway)
    assert "ago" in comboio("gateways", "show", gateway) or "now" in comboio("gateways", "show", gateway)
    assert "assign needs" in comboio("gateways", "assign", gateway, status=2)


def test_what_is_not_there_is_4(admin: None, comboio: Comboio) -> None:
    for command in (("gateways", "show", "gw-x"), ("assets", "show", "x"), ("events", "show", "x"), ("replay", "a:b")):
        assert "There is no" in comboio(*command, status=4)


def test_places_keep_their_outline_when_only_the_name_changes(admin: None, comboio: Comboio, tmp_path: Path) -> None:
    comboio("places", "set", "depot", "--circle", "-23.55", "-46.63", "250")
    comboio("places", "set", "depot", "--name", "Depot")
    assert "250 m around -23.55000, -46.63000" in comboio("places")
    (tmp_path / "ring.json").write_text("[[0,0],[1,1],[0,1],[1,0],[0,0]]")
    assert "/polygon/3" in comboio("places", "set", "depot", "--polygon", str(tmp_path / "ring.json"), status=1)
    assert "No such file" in comboio("places", "set", "depot", "--polygon", "nowhere", status=2)
    comboio("places", "delete", "depot")


def test_users_and_tokens_come_and_go(admin: None, control: Up, comboio: Comboio) -> None:
    assert len(comboio("users", "add", "ana", "--role", "operator").strip()) >= 15
    comboio("users", "set", "ana", "--role", "viewer")
    assert "viewer" in comboio("users")
    token = comboio("tokens", "create", "charts", "--role", "viewer", "--permission", "data:read").strip()
    assert "not given fleet:read" in comboio("gateways", "--token", token, status=1)
    assert comboio("gaps", "--token", token) == "None.\n"
    (made,) = [one for one in json.loads(comboio("tokens", "--json"))["items"] if one["name"] == "charts"]
    comboio("tokens", "revoke", made["id"])
    assert "not known" in comboio("gaps", "--token", token, status=1)
    comboio("users", "delete", "ana")


def test_lists_without_rows_say_so(admin: None, comboio: Comboio) -> None:
    for command in ("sensors", "completeness", "destinations", "events", "deliveries"):
        assert comboio(command) == "None.\n"


def test_a_table_fits_a_hundred_columns_and_cuts_what_is_longest() -> None:
    rows = [{"id": "evt_" + "a" * 40, "subject": "s" * 90, "error": "line\nbreak \x1b[31m"}]
    lines = table(("id", "subject", "error"), rows, width=100).splitlines()
    assert max(map(len, lines)) <= 100
    assert rows[0]["id"] in lines[1]
    assert "…" in lines[1]
    assert "\x1b" not in lines[1]
    assert len(lines) == 2


def test_ages_are_told_in_one_unit() -> None:
    from datetime import UTC, datetime

    now = datetime(2026, 1, 10, tzinfo=UTC)
    told = {
        "2026-01-09T23:59:30Z": "30 s ago",
        "2026-01-09T20:00:00Z": "4 h ago",
        "2026-01-13T00:00:00Z": "in 3 d",
        "2026-01-10T00:00:00Z": "now",
        "soon": "soon",
    }
    assert {text: age(text, now) for text in told} == told


def test_how_long_what_is_kept_is_told_and_changed(admin: None, comboio: Comboio) -> None:
    comboio("groups", "set", "pharma")
    comboio("retention", "set", "pharma", "--readings-days", "3650")
    comboio("retention", "set", "pharma", "--raw-days", "0")
    assert json.loads(comboio("retention", "show", "pharma", "--json"))["own"] == {"raw_days": 0, "readings_days": 3650}
    assert "(the server's setting)" in comboio("retention")
    assert "days" in comboio("retention", "set", "pharma", "--minutes-days", "0.1", status=1)
    assert "as the server's setting" in comboio("retention", "delete", "pharma")
