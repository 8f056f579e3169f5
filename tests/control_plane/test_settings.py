from __future__ import annotations

from pathlib import Path

import pytest

from control_plane import settings as settings_file
from control_plane.errors import Misconfigured
from control_plane.relay.connectors.webhook import WebhookDestination
from control_plane.relay.destinations import read_destinations
from control_plane.settings import Address, ColdChainRule, Destination, Settings


def written(folder: Path, text: str, name: str = "control.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def refusal(path: Path) -> str:
    with pytest.raises(Misconfigured) as caught:
        settings_file.read(path)
    return str(caught.value)


def test_nothing_written_means_defaults(tmp_path: Path) -> None:
    settings = settings_file.read(None, data_dir=str(tmp_path))
    assert settings.rules.cold_chain == (ColdChainRule(),)
    assert settings.database_url == f"sqlite:///{tmp_path}"
    assert settings.integrations == str(tmp_path / "integrations")


def test_control_toml_of_the_data_dir_is_found(tmp_path: Path) -> None:
    written(tmp_path, "[ingest]\nmax_inflight = 3")
    assert settings_file.read(None, data_dir=str(tmp_path)).ingest.max_inflight == 3


def test_the_command_line_wins(tmp_path: Path) -> None:
    path = written(tmp_path, 'http = "127.0.0.1:1"\ngrpc = "127.0.0.1:2"')
    settings = settings_file.read(path, http="127.0.0.1:3", grpc=None)
    assert (settings.http, settings.grpc) == ("127.0.0.1:3", "127.0.0.1:2")


def test_every_unknown_key_is_named_with_a_suggestion(tmp_path: Path) -> None:
    path = written(tmp_path, "[ingest]\nlinger_s = 1\n[[rules.cold_chain]]\nhigth = 9")
    assert refusal(path).splitlines() == [
        f"{path}: ingest.linger_s: not a setting of this section; did you mean linger_ms?",
        f"{path}: rules.cold_chain[0].higth: not a setting of this section; did you mean high?",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('http = "8443"', "http: '8443' is not HOST:PORT"),
        ('grpc = "a:99999"', "grpc: 'a:99999' is not HOST:PORT"),
        ("[ingest]\nmax_inflight = 0", "ingest.max_inflight: expected int >= 1"),
        ("[[rules.cold_chain]]\nlow = 9", "rules.cold_chain[0]: low + 2 × hysteresis must be below high"),
        ("[[rules.cold_chain]]\n[[rules.cold_chain]]", "two cold_chain rules have the same name"),
        ("= 1", "line 1, column 1"),
    ],
)
def test_a_wrong_value_is_said_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    assert said in refusal(written(tmp_path, text))


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "absent.toml")


@pytest.mark.parametrize(
    ("text", "host", "loopback", "any_host"),
    [
        ("127.0.0.1:0", "127.0.0.1", True, False),
        ("[::1]:8443", "::1", True, False),
        ("localhost:1", "localhost", True, False),
        ("0.0.0.0:1", "0.0.0.0", False, True),
        ("fleet.example.com:1", "fleet.example.com", False, False),
    ],
)
def test_addresses(text: str, host: str, loopback: bool, any_host: bool) -> None:
    address = Address.parse(text)
    assert (address.host, address.loopback, address.any_host) == (host, loopback, any_host)
    assert str(address) == text


def test_gateways_are_told_the_public_name_or_what_is_listened_on() -> None:
    assert Settings(public_name="fleet.example.com").advertised("0.0.0.0:8444") == "fleet.example.com:8444"
    assert Settings(http="127.0.0.1:1").advertised("127.0.0.1:8444") == "127.0.0.1:8444"
    assert Settings(http="10.0.0.1:1").advertised("0.0.0.0:8444") == "10.0.0.1:8444"


def destination(tmp_path: Path, text: str) -> tuple[Destination, ...]:
    written(tmp_path, text, "erp.toml")
    return read_destinations(tmp_path)


def test_a_destination_is_named_by_its_file(tmp_path: Path) -> None:
    written(tmp_path, "whsec_x", "erp.secret")
    (erp,) = destination(tmp_path, 'kind = "webhook"\nurl = "http://erp/"\nsecret_file = "erp.secret"')
    assert isinstance(erp, WebhookDestination)
    assert (erp.name, erp.secret_file, erp.finality) == ("erp", str(tmp_path / "erp.secret"), "final_only")
    assert read_destinations(tmp_path / "absent") == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('url = "http://erp/"\nsecret_file = "absent"', "secret_file: there is no file"),
        ('url = "ftp://erp/"\nsecret_file = "erp.toml"', "url: expected str"),
        ('url = "http://erp/"\nsecret_file = "erp.toml"\nretries = [1]', "did you mean retry?"),
        ('url = "http://erp/"\nsecret_file = "erp.toml"\nname = "crm"', "name: is 'crm', the file's name says 'erp'"),
        ('secret_file = "erp.toml"', "missing required field url"),
    ],
)
def test_a_wrong_destination_is_said_with_its_file(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        destination(tmp_path, text)
    assert said in str(caught.value)
    assert str(tmp_path / "erp.toml") in str(caught.value)


def test_event_types_are_exact_or_prefixes() -> None:
    chosen = Destination(event_types=("comboio.trip.ended.v1", "comboio.cold_chain.*"))
    assert chosen.wants("comboio.trip.ended.v1")
    assert chosen.wants("comboio.cold_chain.excursion.opened.v1")
    assert not chosen.wants("comboio.trip.ended.v2")
    assert Destination().wants("anything")


def test_an_unknown_kind_is_said_with_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"there is no connector 'webhok'; did you mean webhook\?"):
        destination(tmp_path, 'kind = "webhok"')
