"""The device library as a person at a terminal meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.cli import main
from gateway.lock import only_one
from tests.gateway.test_settings import GOOD, written

Said = pytest.CaptureFixture[str]


@pytest.fixture
def local(tmp_path: Path) -> Path:
    """A box with one profile of its own and one that replaces a shipped one."""
    folder = tmp_path / "profiles"
    assert main(["profiles", "new", "acme", "probe", "--profiles", str(folder)]) == 0
    shipped = Path(__file__).parents[3] / "firmware_configs" / "modbus" / "xy-md02.toml"
    (folder / "modbus" / "xy-md02.toml").write_text(shipped.read_text())
    return folder


def test_the_list_tells_shipped_and_local_profiles_apart(local: Path, capsys: Said) -> None:
    capsys.readouterr()
    assert main(["profiles", "list", "--profiles", str(local)]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "this box’s own" in lines["acme-probe@1"]
    assert "instead of the shipped one" in lines["xy-md02@1"]
    assert "own" not in lines["eastron-sdm120@1"]
    assert lines["ruuvi-ruuvitag@1"].split()[1] == "ble"


def test_the_list_shows_a_broken_profile_and_fails(local: Path, capsys: Said) -> None:
    (local / "modbus" / "acme-probe.toml").write_text("vendor = ")
    capsys.readouterr()
    assert main(["profiles", "list", "--profiles", str(local), "--json"]) == 1
    (broken,) = [one for one in json.loads(capsys.readouterr().out) if one["problem"]]
    assert (broken["name"], broken["local"]) == ("acme-probe", True)


def test_a_profile_is_shown_with_its_sources_and_its_requests(capsys: Said) -> None:
    assert main(["profiles", "show", "xy-md02@1"]) == 0
    said = capsys.readouterr().out
    assert "manual, frame 01 04 00 01 00 01" in said
    assert "Modbus TCP: 1 request," in said
    assert "RTU at 9600 baud: 1 request," in said
    assert main(["profiles", "show", "ruuvi-ruuvitag@1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["values"]


def test_a_profile_that_is_not_there_gets_a_suggestion(capsys: Said) -> None:
    assert main(["profiles", "show", "xy-md2@1"]) == 1
    assert "did you mean xy-md02@1?" in capsys.readouterr().err


def test_what_new_writes_passes_its_own_check_and_is_never_written_over(tmp_path: Path, capsys: Said) -> None:
    assert main(["profiles", "new", "acme", "probe-2", "--to", str(tmp_path)]) == 0
    assert main(["profiles", "check", str(tmp_path / "acme-probe-2.toml")]) == 0
    assert "acme-probe-2@1 is good; it has no case yet" in capsys.readouterr().out
    assert main(["profiles", "new", "acme", "probe-2", "--to", str(tmp_path)]) == 1
    assert "is there already" in capsys.readouterr().err


@pytest.mark.parametrize("folder", ["modbus", "mine"])
def test_editors_find_the_schema_that_a_new_profile_names(tmp_path: Path, folder: str) -> None:
    assert main(["profiles", "new", "acme", "probe", "--to", str(tmp_path / folder)]) == 0
    first = (tmp_path / folder / "acme-probe.toml").read_text().splitlines()[0]
    schema = tmp_path / folder / first.removeprefix("#:schema ")
    assert json.loads(schema.read_text())["title"] == "ModbusProfile"


def test_a_name_that_no_file_could_have_is_refused(capsys: Said) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["profiles", "new", "Acme!", "probe"])
    assert caught.value.code == 2
    assert "lower-case letters" in capsys.readouterr().err


def test_check_tells_mistakes_with_their_place(local: Path, capsys: Said) -> None:
    path = local / "modbus" / "acme-probe.toml"
    path.write_text(path.read_text().replace('type = "i16"', 'type = "int16"'))
    capsys.readouterr()
    assert main(["profiles", "check", str(path)]) == 1
    assert "acme-probe.toml: register[0].type: " in capsys.readouterr().err


def test_check_runs_the_cases_beside_the_profile(local: Path, capsys: Said) -> None:
    case = local / "modbus" / "cases" / "acme-probe" / "first.toml"
    case.parent.mkdir(parents=True)
    poll = '[[poll]]\nname = "one"\n[poll.holding]\n0 = [215]\n[poll.expect]\ntemperature = 21.5\n'
    case.write_text('profile = "acme-probe@1"\norigin = "recorded: mine"\n' + poll)
    path = str(local / "modbus" / "acme-probe.toml")
    assert main(["profiles", "check", path]) == 0
    assert "1 case agrees" in capsys.readouterr().out
    case.write_text(case.read_text().replace("21.5", "2.15"))
    assert main(["profiles", "check", path, "--json"]) == 1
    (found,) = json.loads(capsys.readouterr().out)
    assert found["problems"] == ["first.toml: one: temperature: is 21.5, expected 2.15"]
    assert main(["profiles", "check", path, "--cases", str(local)]) == 0


def test_check_knows_the_other_kinds_by_their_folder(capsys: Said) -> None:
    path = Path(__file__).parents[3] / "firmware_configs" / "ble" / "bthome-door.toml"
    assert main(["profiles", "check", str(path)]) == 0
    assert "bthome-door@1 is good" in capsys.readouterr().out


def test_a_configuration_may_name_a_profile_of_this_box(local: Path, tmp_path: Path, capsys: Said) -> None:
    config = written(tmp_path, GOOD.replace("xy-md02@1", "acme-probe@1"))
    assert main(["check-config", "--config", str(config), "--profiles", str(local)]) == 0
    assert main(["plan", "--config", str(config), "--profiles", str(local)]) == 0
    assert main(["check-config", "--config", str(config), "--profiles", str(tmp_path / "none")]) == 1
    assert "no such profile" in capsys.readouterr().err


def test_the_schema_is_printed_for_editors(capsys: Said) -> None:
    assert main(["profiles", "schema", "boards"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "Board"


def test_boards_are_listed_and_shown(capsys: Said) -> None:
    assert main(["boards", "list"]) == 0
    assert "siemens-iot2050" in capsys.readouterr().out
    assert main(["boards", "show", "siemens-iot2050"]) == 0
    assert "/dev/ttyS2" in capsys.readouterr().out
    assert main(["boards", "show", "siemens-iot250"]) == 1
    assert "did you mean siemens-iot2050?" in capsys.readouterr().err


def test_a_tags_profile_is_begun_checked_and_run_against_its_cases(tmp_path: Path, capsys: Said) -> None:
    folder = tmp_path / "ble"
    assert main(["profiles", "new", "--kind", "ble", "acme", "tag", "--to", str(folder)]) == 0
    path = folder / "acme-tag.toml"
    assert path.read_text().startswith("#:schema ../ble.schema.json\n")
    assert (tmp_path / "ble.schema.json").exists()
    assert main(["profiles", "check", str(path)]) == 0
    cases = folder / "cases"
    cases.mkdir()
    case = 'profile = "acme-tag@1"\n[[advert]]\nname = "{}"\naddress = "54:48:E6:8F:80:A5"\n{}\n[advert.expect]\n'
    good = case.format("warm", 'manufacturer = { 0 = "0000a608" }')
    (cases / "one.toml").write_text(good + "temperature = 22.14\n")
    assert main(["profiles", "check", str(path)]) == 0
    assert "1 case agrees" in capsys.readouterr().out
    (cases / "two.toml").write_text(good + "temperature = 22.15\n")
    (cases / "three.toml").write_text(case.format("cut off", 'manufacturer = { 0 = "00" }') + "temperature = 1\n")
    assert main(["profiles", "check", str(path)]) == 1
    told = capsys.readouterr().err
    assert "two.toml: warm: temperature is 22.14, expected 22.15" in told
    assert "three.toml: cut off: is refused: has 1 bytes, and is read up to byte 4" in told


def test_a_counter_is_forgotten_on_purpose_and_only_while_nothing_runs(tmp_path: Path, capsys: Said) -> None:
    (tmp_path / "ble").mkdir()
    kept = tmp_path / "ble" / "counters.json"
    kept.write_text('{"D4:12:43:55:AA:01 0011": 5, "D4:12:43:55:AA:02 0011": 7}')
    with only_one(tmp_path):
        assert main(["ble", "forget", "d4:12:43:55:aa:01", "--data-dir", str(tmp_path)]) != 0
    assert main(["ble", "forget", "d4:12:43:55:aa:01", "--data-dir", str(tmp_path)]) == 0
    assert json.loads(kept.read_text()) == {"D4:12:43:55:AA:02 0011": 7}
    assert main(["ble", "forget", "D4:12:43:55:AA:01", "--data-dir", str(tmp_path)]) == 1
    assert "no counter" in capsys.readouterr().out
