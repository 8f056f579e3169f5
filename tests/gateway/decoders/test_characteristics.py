"""Values of characteristics as public documents lay them out, through the shipped profiles; and what can't be one."""

from __future__ import annotations

import contextlib
import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_configs.characteristics import GattProfile, GattValue, problems, whole
from firmware_configs.loader import Profiles
from firmware_configs.schema import Source
from gateway.decoders.characteristics import Malformed, columns, series
from gateway.simulators.bluez_connectable import _steps, encoded, meant
from gateway.simulators.waves import Wave
from protos.comboio.v1 import batch_pb2 as pb
from tests.gateway.decoders.test_heard_cases import CASES, cases, check, value

SHIPPED = list(Profiles().all_gatt())
SOURCES = (Source(id="manual", title="A manual"),)


@pytest.mark.parametrize(("name", "case"), list(cases("gatt", "visit")))
def test_a_documented_value_gives_the_documented_quantities(name: str, case: dict[str, Any]) -> None:
    profile = Profiles().gatt(name)
    said = {whole(uuid): bytes.fromhex(data) for uuid, data in case["said"].items()}
    found = columns(profile.value, said)
    shapes = series(profile.value, attrs={}, mark={})
    check(shapes, found.values, found.quality or (0,) * len(found.values), case["wanted"])


def test_every_shipped_profile_has_a_case() -> None:
    assert {f"{one.vendor}-{one.model}" for one in SHIPPED} == {path.name for path in (CASES / "gatt").iterdir()}


@pytest.mark.parametrize("profile", SHIPPED, ids=lambda one: one.name)
def test_what_the_simulator_means_is_what_is_decoded(profile: GattProfile) -> None:
    waves = {one.quantity: Wave(kind="counting") for one in profile.value}
    by = itertools.groupby(sorted(profile.value, key=lambda one: one.characteristic), lambda one: one.characteristic)
    for uuid, some in by:
        values = tuple(some)
        for k in (1, 7, 99):
            steps = {one.quantity: _steps(one, waves, k, 0.0) for one in values}
            found = columns(values, {whole(uuid): encoded(values, steps)})
            for one, shape, wire in zip(values, series(values, attrs={}, mark={}), found.values, strict=True):
                assert value(shape, wire) == meant(one, steps[one.quantity]), one.quantity


@given(data=st.binary(max_size=24), k=st.integers(0, len(SHIPPED) - 1))
def test_any_bytes_are_a_row_or_refused(data: bytes, k: int) -> None:
    profile = SHIPPED[k]
    said = {whole(one.characteristic): data for one in profile.value}
    with contextlib.suppress(Malformed):
        found = columns(profile.value, said)
        assert len(found.values) == len(profile.value)
        bad = [wire is None for wire in found.values]
        assert [code != pb.QUALITY_GOOD for code in found.quality or (0,) * len(bad)] == bad


def one(**more: Any) -> GattProfile:
    said: dict[str, Any] = {
        "quantity": "level", "service": "181a", "characteristic": "2a6e", "type": "u16", "source": "manual, 1",
    }  # fmt: skip
    keep = more.pop("keep_connected", False)
    others = more.pop("others", ())
    return GattProfile(
        vendor="acme",
        model="probe",
        version=1,
        description="It",
        sources=SOURCES,
        period_s=1.0,
        keep_connected=keep,
        value=(GattValue(**(said | more)), *(GattValue(**(said | other)) for other in others)),
    )


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"how": "notify"}, "notifications come only while it is connected"),
        ({"others": [{"quantity": "b", "how": "notify"}], "keep_connected": True}, "both read and notified"),
        ({"optional": True}, "the only one that is read can't be optional"),
        ({"source": "hearsay"}, "doesn't begin with one of manual"),
        ({"type": "string", "decimals": 1}, "a string has no scale"),
        ({"type": "f32", "scale": 0.1}, "a float is the value itself"),
        ({"decimals": 1, "scale": 0.1}, "either decimals, or scale and offset"),
        ({"scale": 0.0}, "scale can't be 0"),
        ({"bit": 3}, "bit and bits belong together"),
        ({"bit": 12, "bits": 5}, "it has 16 bits"),
        ({"type": "i16", "bit": 1, "bits": 2}, "belong to an unsigned integer"),
        ({"type": "bool", "bit": 9}, "a bool is one bit of its byte"),
        ({"others": [{}]}, "is listed twice"),
    ],
)
def test_a_mistaken_profile_is_told(more: dict[str, Any], why: str) -> None:
    assert any(why in text for text in problems(one(**more))), problems(one(**more))
    assert problems(one()) == []


def test_a_bool_is_its_bit_and_a_float_its_value() -> None:
    values = one(type="bool", bit=2, others=[{"quantity": "f", "type": "f32", "byte": 1, "order": "big"}]).value
    assert columns(values, {whole("2a6e"): bytes([4]) + bytes.fromhex("41ac0000")}).values == (True, 21.5)
