from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "systemd"
UNITS = sorted(FOLDER.glob("*.service"))
ROLES = ("history", "ingest", "web", "worker")


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        if os.environ.get("CI"):
            pytest.fail(f"{name} is not installed and CI is set")
        pytest.skip(f"{name} is not installed")
    return found


@pytest.fixture
def analyze() -> str:
    return tool("systemd-analyze")


@pytest.fixture
def copies(tmp_path: Path) -> Path:
    """All units beside one another; the programs need not be installed for their units to be right."""
    for path in FOLDER.iterdir():
        text = re.sub(r"^(ExecStart(Pre)?=)\S+", r"\1/bin/true", path.read_text(), flags=re.MULTILINE)
        (tmp_path / path.name).write_text(text)
    return tmp_path


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_a_unit_verifies_without_a_word_and_is_well_confined(unit: Path, analyze: str, copies: Path) -> None:
    copy = copies / unit.name
    said = subprocess.run([analyze, "verify", copy], capture_output=True, text=True, check=False)
    assert (said.returncode, said.stdout + said.stderr) == (0, "")
    score = subprocess.run(
        [analyze, "security", "--offline=true", "--no-pager", copy], capture_output=True, text=True, check=True
    ).stdout
    match = re.search(r"Overall exposure level for \S+: ([\d.]+)", score)
    assert match is not None
    assert float(match[1]) <= 2.0


def test_the_target_verifies_without_a_word(analyze: str, copies: Path) -> None:
    said = subprocess.run(
        [analyze, "verify", copies / "comboio-control.target"], capture_output=True, text=True, check=False
    )
    assert (said.returncode, said.stdout + said.stderr) == (0, "")


def test_the_target_starts_every_role_and_excludes_the_form_on_one_machine() -> None:
    target = read("comboio-control.target")["Unit"]
    wanted = {f"comboio-control-{role}.service" for role in ROLES}
    assert set(target["Wants"].split()) == wanted
    assert target["Conflicts"] == "comboio-control.service"
    for name in wanted:
        unit = read(name)["Unit"]
        assert (unit["PartOf"], unit["Conflicts"]) == ("comboio-control.target", "comboio-control.service")
        assert " migrate " in read(name)["Service"]["ExecStartPre"]


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_a_unit_calls_its_program_as_the_program_understands_it(unit: Path) -> None:
    from control_plane.cli import _parser as control
    from gateway.cli import _parser as gateway

    parsers = {"/usr/bin/comboio-control": control(), "/usr/bin/comboio-gateway": gateway()}
    commands = [said for name, said in read(unit.name)["Service"].items() if name in {"ExecStart", "ExecStartPre"}]
    assert commands
    for program, *arguments in map(str.split, commands):
        assert parsers[program].parse_args(arguments).run


def test_the_roles_are_confined_like_the_whole() -> None:
    whole = confinement("comboio-control.service")
    assert len(whole) > 20
    for role in ROLES:
        assert confinement(f"comboio-control-{role}.service") == whole


def test_a_gateway_that_stands_still_is_started_again() -> None:
    service = read("comboio-gateway.service")["Service"]
    assert (service["Type"], service["WatchdogSec"], service["Restart"]) == ("notify", "60", "always")


def test_the_gateway_may_ask_how_right_its_clock_is_and_has_no_means_to_set_it(analyze: str) -> None:
    allowed = filtered("comboio-gateway.service", analyze)
    assert {"adjtimex", "clock_adjtime", "clock_adjtime64"} <= allowed
    assert allowed.isdisjoint({"clock_settime", "settimeofday", "init_module", "reboot", "swapon", "mount"})
    service = read("comboio-gateway.service")["Service"]
    assert "ProtectClock" not in service, "it forbids adjtimex, whatever is asked of it"
    assert (service["CapabilityBoundingSet"], service["AmbientCapabilities"]) == ("", "")


def filtered(name: str, analyze: str) -> set[str]:
    """System calls that the unit's filters leave, applied in their order."""
    allowed: set[str] = set()
    for line in (FOLDER / name).read_text().splitlines():
        key, _, value = line.partition("=")
        if key == "SystemCallFilter":
            calls = set().union(*(expanded(word, analyze) for word in value.removeprefix("~").split()))
            allowed = allowed - calls if value.startswith("~") else allowed | calls
    return allowed


def expanded(word: str, analyze: str) -> set[str]:
    if not word.startswith("@"):
        return {word}
    said = subprocess.run([analyze, "syscall-filter", word], capture_output=True, text=True, check=True).stdout
    words = [line.strip() for line in said.splitlines()[1:] if line.strip() and not line.strip().startswith("#")]
    return set().union(*(expanded(one, analyze) for one in words))


def test_folders_and_users_are_made_as_the_units_expect_them(tmp_path: Path) -> None:
    users = tool("systemd-sysusers"), f"--root={tmp_path}", FOLDER / "comboio.sysusers"
    (tmp_path / "etc").mkdir()
    subprocess.run(users, check=True, capture_output=True)
    assert {"comboio-gateway", "comboio-control"} <= {
        line.partition(":")[0] for line in (tmp_path / "etc/passwd").read_text().splitlines()
    }
    folders = [line.split() for line in (FOLDER / "comboio.tmpfiles").read_text().splitlines() if line[0] != "#"]
    kept = {path: (mode, user) for _, path, mode, user, *_ in folders}
    for unit in UNITS:
        service = read(unit.name)["Service"]
        assert kept[f"/var/lib/{service['StateDirectory']}"] == (service["StateDirectoryMode"], service["User"])
    if os.geteuid() == 0:
        made = tool("systemd-tmpfiles"), f"--root={tmp_path}", "--create", FOLDER / "comboio.tmpfiles"
        said = subprocess.run(made, check=True, capture_output=True, text=True)
        assert said.stdout + said.stderr == ""
        assert (tmp_path / "var/lib/comboio-gateway").stat().st_mode & 0o777 == 0o700


def test_there_are_units_for_both_programs() -> None:
    roles = [f"comboio-control-{role}.service" for role in ROLES]
    assert [unit.name for unit in UNITS] == [*roles, "comboio-control.service", "comboio-gateway.service"]


def read(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string((FOLDER / name).read_text())
    return parser


def confinement(name: str) -> list[str]:
    """The lines from NoNewPrivileges= on: the sandbox."""
    text = (FOLDER / name).read_text()
    return text[text.index("NoNewPrivileges=") : text.index("[Install]")].splitlines()
