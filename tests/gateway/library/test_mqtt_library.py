"""Profiles of MQTT devices: written, checked with their cases, and recorded from a live broker."""

from __future__ import annotations

import asyncio
import json
import tomllib
from collections.abc import Iterator
from pathlib import Path

import aiomqtt
import pytest

from firmware_configs.loader import ProfileError, load
from firmware_configs.messages import MqttProfile
from gateway.cli import main
from tests.servers import Mosquitto, mosquitto

Said = pytest.CaptureFixture[str]
TOPIC = "shellies/plug-1/relay/0/power"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with mosquitto(tmp_path) as started:
        yield started


def test_what_new_writes_for_mqtt_passes_its_own_check(tmp_path: Path, capsys: Said) -> None:
    for folder in (tmp_path / "mqtt", tmp_path / "mine"):
        assert main(["profiles", "new", "acme", "probe", "--kind", "mqtt", "--to", str(folder)]) == 0
        path = folder / "acme-probe.toml"
        assert main(["profiles", "check", str(path)]) == 0
        schema = folder / path.read_text().splitlines()[0].removeprefix("#:schema ")
        assert json.loads(schema.read_text())["title"] == "MqttProfile"
    assert "is good; it has no case yet" in capsys.readouterr().out


def test_a_case_that_disagrees_is_told_with_its_message(tmp_path: Path, capsys: Said) -> None:
    main(["profiles", "new", "acme", "probe", "--kind", "mqtt", "--to", str(tmp_path / "mqtt")])
    cases = tmp_path / "mqtt" / "cases" / "acme-probe"
    cases.mkdir(parents=True)
    (cases / "wrong.toml").write_text(
        'profile = "acme-probe@1"\norigin = "here"\n'
        '[[message]]\nname = "warm"\ntopic = "x/state"\ndevice = "x"\npayload = \'{"temperature": 21.5}\'\n'
        "[message.expect]\ntemperature = 21.6\nhumidity = 4\n"
        '[[message]]\nname = "other"\ntopic = "x/other"\ndevice = "x"\npayload = "{}"\n'
        '[[message]]\nname = "cold"\ntopic = "x/state"\ndevice = "x"\npayload = "{"\nrefused = "empty"\n'
    )
    assert main(["profiles", "check", str(tmp_path / "mqtt" / "acme-probe.toml")]) == 1
    said = capsys.readouterr().err
    assert "warm: temperature is 21.5, not 21.6" in said
    assert "warm: humidity is no quantity of this message" in said
    assert "other: topic 'x/other' is none of acme-probe@1" in said
    assert "cold: is refused (not_json)" in said


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (('topic = "{device}/state"', 'topic = "{device}/+x"'), r"message\[0\]\.topic: \+ stands for one whole level"),
        (('path = "/temperature" ', 'topic_part = "by" '), "topic_part 'by' is no placeholder"),
        (('unit = "Cel"', "labels = { ON = true }"), "labels.ON: True is no number"),
        (('# format = "json" ', 'format = "plain" '), "a plain payload is one value and has no path"),
        (("[[message.value]]", "[[message.value]]\nquantity = 'x'\nsource = 'docs'\n[[message.value]]\n"), "."),
        (('source = "docs, section 2"', 'source = "hearsay"'), "doesn't begin with one of docs"),
    ],
)
def test_a_mistake_is_told_with_its_place(tmp_path: Path, change: tuple[str, str], why: str) -> None:
    main(["profiles", "new", "acme", "probe", "--kind", "mqtt", "--to", str(tmp_path / "mqtt")])
    path = tmp_path / "mqtt" / "acme-probe.toml"
    path.write_text(path.read_text().replace(*change))
    if change[1].startswith("[[message.value]]\nquantity = 'x'"):
        assert load(path, MqttProfile).quantities() == ("x", "temperature")
        return
    with pytest.raises(ProfileError, match=why):
        load(path, MqttProfile)


async def test_what_a_device_publishes_becomes_a_case_that_agrees(
    tmp_path: Path, broker: Mosquitto, capsys: Said
) -> None:
    config = tmp_path / "gateway.toml"
    config.write_text(f'config_version = 1\n[[broker]]\nid = "hall"\nhost = "127.0.0.1"\nport = {broker.port}\n')
    case = tmp_path / "cases" / "case.toml"
    case.parent.mkdir()
    command = ["capture", "--config", str(config), "--broker", "hall", "--profile", "shelly-1pm@1", "--within", "60"]
    capturing = asyncio.create_task(
        asyncio.to_thread(main, [*command, "--device", "plug-1", "--rounds", "2", "--out", str(case)])
    )
    async with aiomqtt.Client("127.0.0.1", broker.port) as client:
        while not capturing.done():
            await client.publish(TOPIC, "61.7")
            await asyncio.sleep(0.02)
    assert await capturing == 0
    found = tomllib.loads(case.read_text())
    assert [one["expect"] for one in found["message"]] == [{"active_power": 61.7}] * 2
    shipped = Path(__file__).parents[3] / "firmware_configs" / "mqtt" / "shelly-1pm.toml"
    assert main(["profiles", "check", str(shipped), "--cases", str(case.parent)]) == 0
    assert await asyncio.to_thread(main, [*command, "--rounds", "1"]) == 1
    assert "needs --device" in capsys.readouterr().err
    assert await asyncio.to_thread(main, [*command, "--device", "other", "--within", "0.05"]) == 3
    assert "nothing came on shellies/other/relay/0" in capsys.readouterr().err
