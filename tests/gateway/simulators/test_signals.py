"""Signals are functions of time; registers made from them decode to what they were made from."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_configs.budget import Request
from firmware_configs.schema import MOMENTS, WIDTHS, Register
from gateway.decoders.registers import compile_registers, series_of
from gateway.simulators.registers import encode
from gateway.simulators.signals import cold_box, constant, replay, sine
from tests.effort import tries


def test_a_constant_is_constant() -> None:
    assert {constant(4.5)(t) for t in (0.0, 1e6)} == {4.5}


def test_a_sine_is_the_same_for_the_same_seed_and_within_its_noise() -> None:
    one = sine(mean=20, amplitude=5, period_s=60, noise=0.5, seed=3)
    other = sine(mean=20, amplitude=5, period_s=60, noise=0.5, seed=4)
    times = [t / 10 for t in range(600)]
    assert [one(t) for t in times] == [sine(mean=20, amplitude=5, period_s=60, noise=0.5, seed=3)(t) for t in times]
    assert [one(t) for t in times] != [other(t) for t in times]
    assert max(abs(one(t) - 20) for t in times) <= 5.5


def test_a_cold_box_warms_up_when_scheduled_and_comes_back() -> None:
    box = cold_box(setpoint=4, ambient=25, warm_ups=[(100, 300)], warm_tau_s=120, cool_tau_s=60, ripple=0.2)
    assert all(abs(box(t) - 4) <= 0.2 for t in range(100))
    assert box(110) < box(200) < box(390)
    assert 20 < box(400) < 25
    assert abs(box(1000) - 4) < 0.3


def test_a_cold_box_has_no_jumps() -> None:
    box = cold_box(warm_ups=[(100, 50), (180, 50), (240, 500)])
    assert max(abs(box(t + 0.1) - box(t)) for t in (n / 10 for n in range(9000))) < 0.1


def test_a_recorded_column_is_held_between_its_samples_and_repeated(tmp_path: Path) -> None:
    path = tmp_path / "run.csv.gz"
    with gzip.open(path, "wt") as file:
        file.write("ts_ms,a,b\n1000,1.5,\n3000,2.5,9\n4000,,8\n")
    signal = replay(path, "a")
    assert [signal(t) for t in (0.0, 1.9, 2.0, 3.9, 4.0, 6.0)] == [1.5, 1.5, 2.5, 2.5, 1.5, 2.5]


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / "run.csv"
    path.write_text("ts_ms,a\n1,2\n")
    with pytest.raises(ValueError, match="no column 'b'; it has ts_ms, a"):
        replay(path, "b")


def test_a_real_recording_replays() -> None:
    if "COMBOIO_DATA" not in os.environ:
        pytest.skip("COMBOIO_DATA names no folder of recordings")
    signal = replay(Path(os.environ["COMBOIO_DATA"]) / "nab_machine_temp.csv.gz", "value")
    assert 0 < signal(0.0) < 200


@pytest.mark.parametrize("byte_order", ["big", "little"])
@pytest.mark.parametrize("word_order", ["big", "little", "swapped_pairs", "reversed_pairs"])
@pytest.mark.parametrize("type_", sorted(WIDTHS.keys() - MOMENTS - {"bool", "u8", "i8", "f16"}))
@settings(max_examples=tries(5), deadline=None)
@given(value=st.integers(0, 999))
def test_what_is_encoded_decodes(type_: str, word_order: str, byte_order: str, value: int) -> None:
    register = Register(
        quantity="q",
        function="holding",
        address=0,
        type=type_,  # type: ignore[arg-type]
        decimals=1,
        byte_order=byte_order,  # type: ignore[arg-type]
        word_order=word_order,  # type: ignore[arg-type]
        source="s",
    )
    words = encode(register, value / 10)
    (wire,), quality = compile_registers([register], [Request("holding", 0, len(words))])([words])
    assert (wire, quality) == (value, None)
    assert series_of(register).exp == 1


@pytest.mark.parametrize(
    ("type_", "value", "words"), [("u16", -5, [0]), ("u16", 1e9, [65535]), ("i16", -1e9, [0x8000])]
)
def test_a_value_a_register_cannot_hold_is_clamped(type_: str, value: float, words: list[int]) -> None:
    register = Register(quantity="q", function="holding", address=0, type=type_, source="s")  # type: ignore[arg-type]
    assert encode(register, value) == words


@pytest.mark.parametrize(
    "more",
    [
        {"type": "u8", "byte": "high"},
        {"type": "i8", "byte": "low"},
        {"type": "u16", "bit": 3, "bits": 6},
        {"type": "i32", "magnitude": True},
        {"type": "unix32"},
        {"type": "ymdhms"},
        {"type": "iec870"},
    ],
)
def test_parts_of_registers_and_moments_decode_too(more: dict[str, object]) -> None:
    register = Register(quantity="q", function="holding", address=0, source="s", **more)  # type: ignore[arg-type]
    value = 1_700_000_000_000 if more["type"] in MOMENTS else 42
    words = encode(register, value)
    assert compile_registers([register], [Request("holding", 0, len(words))])([words]) == ((value,), None)
