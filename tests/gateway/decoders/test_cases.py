"""Register images derived from public documents, through the shipped profiles, to the values the documents give."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from firmware_configs.budget import plan
from firmware_configs.loader import Profiles
from gateway.decoders.registers import compile_registers, series_of
from protos.comboio.v1 import batch_pb2 as pb

CASES = Path(__file__).parents[2] / "cases" / "modbus"
POLLS = [
    pytest.param(document["profile"], poll, id=f"{path.parent.name}: {poll['name']}")
    for path in sorted(CASES.glob("*/*.toml"))
    for document in [tomllib.loads(path.read_text(encoding="utf-8"))]
    for poll in document["poll"]
]


def answer(image: dict[str, list[int]], address: int, length: int) -> list[int]:
    words = {int(start) + n: word for start, block in image.items() for n, word in enumerate(block)}
    return [words.get(a, 0) for a in range(address, address + length)]


@pytest.mark.parametrize(("name", "poll"), POLLS)
def test_a_documented_image_gives_the_documented_values(name: str, poll: dict[str, Any]) -> None:
    profile = Profiles().modbus(name)
    registers = profile.expanded()
    requests = plan(registers, profile.limits)
    answers = [answer(poll.get(r.function, {}), r.address, r.length) for r in requests]
    values, quality = compile_registers(registers, requests)(answers)
    for column, (register, wire) in enumerate(zip(registers, values, strict=True)):
        wanted = poll["expect"].get(register.quantity)
        if wanted == "not available":
            assert (wire, quality and quality[column]) == (None, pb.QUALITY_BAD_SENSOR)
        elif wanted is not None:
            assert isinstance(wire, int | float)
            assert wire / 10 ** series_of(register).exp == pytest.approx(wanted, rel=1e-7)


def test_every_real_profile_has_a_case() -> None:
    real = {p.name for p in Profiles().all_modbus() if not p.simulated}
    assert {poll.values[0] for poll in POLLS} == real
