"""What is refused, and that nothing leaves a decoder but its fields or Undecodable."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_configs.adverts import BleProfile
from firmware_configs.loader import Profiles
from gateway.decoders.advertisements import DECODERS, Counter, Fields, Undecodable, resolve
from gateway.decoders.advertisements.columns import parts
from gateway.library.advert_cases import load
from gateway.simulators.bluez_payloads import BTHOME, FORMATS, RUUVI, bthome, ruuvi

ADDRESS = "54:48:E6:8F:80:A5"
KEY = bytes.fromhex("231d39c1d7cc1ab1aee224cd096db932")
EXAMPLE = bytes.fromhex("41a47266c95f730011223378237214")
STEPS = {"temperature": 2506, "relative_humidity": 5055, "battery_level": 97}


SHIPPED: dict[str, BleProfile] = {profile.format: profile for profile in Profiles().all_ble()}
"""One of each format."""


def decode(name: str, payload: bytes, key: bytes | None = None) -> Fields:
    return resolve(SHIPPED[name]).decode(payload, ADDRESS, key)


@pytest.mark.parametrize(
    ("payload", "key", "why"),
    [
        (EXAMPLE, None, "encrypted, and no key_file"),
        (bytes.fromhex("400009016102ca0903bf13"), KEY, "plain, from a sensor that has a key"),
        (EXAMPLE, bytes(16), "the key doesn't fit"),
        (EXAMPLE[:-1] + b"\0", KEY, "the key doesn't fit"),
        (bytes.fromhex("4102"), KEY, "too short to be encrypted"),
        (bytes.fromhex("400009016102ca0903bf"), None, "cut off"),
        (bytes.fromhex("40000902ca09fe"), None, "object 0xfe is unknown"),
        (bytes.fromhex("40"), None, "cut off"),
        (bytes.fromhex("400009"), None, "no measurement inside"),
        (bytes.fromhex("600009016102ca0903bf13"), None, "not BTHome version 2"),
        (b"", None, "not BTHome version 2"),
    ],
)
def test_bthome_that_cannot_be_trusted_or_read_is_refused(payload: bytes, key: bytes | None, why: str) -> None:
    with pytest.raises(Undecodable, match=why):
        decode("bthome-v2", payload, key)


def test_an_encrypted_counter_is_proven_and_a_packet_id_is_not() -> None:
    assert decode("bthome-v2", EXAMPLE, KEY).counter == Counter(0x33221100, 32, proven=True)
    assert decode("bthome-v2", bytes.fromhex("40000902ca09")).counter == Counter(9, 8)
    assert decode("bthome-v2", bytes.fromhex("4002ca09")).counter is None


def test_a_replayed_payload_gives_its_own_values_not_those_before_it() -> None:
    newer = bthome(ADDRESS, STEPS | {"temperature": 100}, 7, KEY).service[BTHOME]
    older = bthome(ADDRESS, STEPS, 6, KEY).service[BTHOME]
    values = [decode("bthome-v2", payload, KEY).values["temperature"] for payload in (older, newer, older)]
    assert values == [25.06, 1.0, 25.06]


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (bytes.fromhex("0512FC5394C37C0004FFFC040CAC364200CDCBB8334C884F"), "the payload is CB:B8:33:4C:88:4F's"),
        (bytes.fromhex("0512FC5394"), "RAWv2 has 24 bytes, not 5"),
    ],
)
def test_a_ruuvi_payload_that_is_not_whole_or_another_tags_is_refused(payload: bytes, why: str) -> None:
    with pytest.raises(Undecodable, match=why):
        decode("ruuvi-rawv2", payload)


def recorded() -> dict[str, list[tuple[str, bytes]]]:
    """Address and payload of every case, by format."""
    found: dict[str, list[tuple[str, bytes]]] = {}
    for path in (Path(__file__).parents[2] / "cases" / "ble").glob("*/*.toml"):
        cases = load(path)
        profile = Profiles().ble(cases.profile)
        for one in cases.advert:
            payload = resolve(profile).payload(one.advert())
            assert payload is not None
            found.setdefault(profile.format, []).append((one.address, payload))
    return found


RECORDED = recorded()


@pytest.mark.parametrize("name", sorted(DECODERS))
@settings(deadline=None)
@given(data=st.data(), key=st.sampled_from([None, KEY]))
def test_any_bytes_are_fields_or_refused(name: str, data: st.DataObject, key: bytes | None) -> None:
    address, good = data.draw(st.sampled_from(RECORDED[name]))
    payload = data.draw(st.binary(max_size=254))
    kept = data.draw(st.integers(0, len(good)))
    for made in (payload, good[:kept], good[:kept] + payload[: len(good) - kept], good[:kept] + payload):
        try:
            found = resolve(SHIPPED[name]).decode(made, address, key)
        except Undecodable:
            continue
        assert found.values
        for part in parts(SHIPPED[name]):
            part.columns(found, None)


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_the_simulators_payload_means_what_the_simulator_logs(name: str) -> None:
    quantities, encode = FORMATS[name]
    profile = Profiles().ble("ruuvi-ruuvitag@1" if name == "ruuvi-rawv2" else "bthome-thermometer@1")
    for k in (1, 2, 255, 70_000):
        steps = {q.name: q.steps(q.default, k, 37.5 * k) for q in quantities}
        made = encode(ADDRESS, steps, k, None)
        payload = made.service.get(BTHOME) or made.manufacturer[RUUVI]
        (part,) = parts(profile)
        columns = part.columns(decode(name, payload), None)
        assert columns is not None
        found = dict(zip(profile.quantities(), columns.values, strict=True))
        assert {q: found[q] for q in steps} == steps


def test_encoding_agrees_with_the_published_examples() -> None:
    values = {"temperature": 4860, "relative_humidity": 21396, "pressure": 50044, "acceleration_x": 4}
    values |= {"acceleration_y": -4, "acceleration_z": 1036, "battery_voltage": 1377, "tx_power": 22}
    made = ruuvi("CB:B8:33:4C:88:4F", values | {"movement_counter": 66}, 205, None)
    assert made.manufacturer[RUUVI].hex() == "0512fc5394c37c0004fffc040cac364200cdcbb8334c884f"
