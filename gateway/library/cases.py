"""A case: registers of a device, from a document or from the device itself, and the values that they mean.

A case file is TOML: the profile, where its registers come from (`origin`), and one or more polls, each with the raw
registers by table and address, and the values expected of them.
"""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct, field

from firmware_configs.budget import Request, plan
from firmware_configs.schema import BITS, ModbusProfile, Register, RegisterFunction
from gateway.decoders.registers import compile_registers, series_of
from gateway.errors import Misconfigured
from gateway.reading import SeriesShape, Wire
from protos.comboio.v1 import batch_pb2 as pb
from protos.strict import DocumentError, convert

ABSENT = "not available"
"""What a case expects where the device says so."""
RELATIVE = 1e-6
"""How far a value may be off: what a binary32 resolves."""
Word = Annotated[int, Meta(ge=0, le=65535)]
Image = Mapping[tuple[str, int], int]
"""Raw registers by table and address."""


class Poll(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was read at once. Tables map the first address (decimal or 0x…) to the registers from there."""

    name: str
    coil: dict[str, list[Word]] = field(default_factory=dict)
    discrete: dict[str, list[Word]] = field(default_factory=dict)
    holding: dict[str, list[Word]] = field(default_factory=dict)
    input: dict[str, list[Word]] = field(default_factory=dict)
    expect: dict[str, bool | int | float | str]
    """Quantity → value, or "not available"."""

    def image(self) -> Image:
        tables = {"coil": self.coil, "discrete": self.discrete, "holding": self.holding, "input": self.input}
        return {
            (table, int(start, 0) + n): word
            for table, blocks in tables.items()
            for start, words in blocks.items()
            for n, word in enumerate(words)
        }


class Case(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    profile: str
    origin: Annotated[str, Meta(pattern=r"^(recorded|derived from )", title="recorded … or derived from …")]
    poll: Annotated[tuple[Poll, ...], Meta(min_length=1)]


def load(path: Path) -> Case:
    """Raises Misconfigured with every mistake, each with its path."""
    try:
        case = convert(tomllib.loads(path.read_text(encoding="utf-8")), Case)
        for poll in case.poll:
            poll.image()
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, DocumentError, ValueError) as error:
        raise Misconfigured("\n".join(f"{path.name}: {line}" for line in str(error).splitlines())) from error
    return case


def disagreements(case: Case, profile: ModbusProfile) -> Iterator[str]:
    """What the profile makes of the registers and the case does not expect: a sentence each."""
    if case.profile != profile.name:
        yield f"is for {case.profile}, not for {profile.name}"
        return
    for poll in case.poll:
        for text in _of_poll(poll, profile):
            yield f"{poll.name}: {text}"


def _of_poll(poll: Poll, profile: ModbusProfile) -> Iterator[str]:
    image, known = poll.image(), profile.quantities()
    registers = {one.quantity: one for one in profile.expanded()}
    covered = []
    for quantity in poll.expect:
        if quantity not in known:
            yield f"{quantity}: is no quantity of {profile.name}{_near(quantity, known)}"
        elif missing := _missing(profile.only([quantity]).expanded(), image):
            yield f"{quantity}: the case has no {missing}"
        else:
            covered.append(quantity)
    shown = decoded(profile.only(covered), image) if covered else {}
    for quantity in covered:
        wanted, found = poll.expect[quantity], shown[quantity]
        identifying = quantity in registers and registers[quantity].identifying
        if not identifying and not _same(found, wanted):
            yield f"{quantity}: is {found!r}, expected {wanted!r}"


def decoded(profile: ModbusProfile, image: Image) -> dict[str, bool | int | float | str]:
    """What a sensor of this profile would deliver of these registers; what the image lacks reads as 0."""
    registers = profile.expanded()
    requests = plan(registers, profile.limits, timing=profile.timing)
    answers = [_answer(image, request) for request in requests]
    values, _ = compile_registers(registers, requests, profile.derived)(answers)
    shapes = [*map(series_of, registers), *map(series_of, profile.derived)]
    return {shape.name: meaning(shape, wire) for shape, wire in zip(shapes, values, strict=True)}


def meaning(shape: SeriesShape, wire: Wire) -> bool | int | float | str:
    """What a wire value of this column says to a person."""
    if wire is None:
        return ABSENT
    if shape.type == pb.VT_BOOL:
        return bool(wire)
    if not isinstance(wire, int) or shape.raw:
        return wire
    if shape.scale:
        return wire * shape.scale + shape.offset
    return wire / 10**shape.exp if shape.exp else wire


def _answer(image: Image, request: Request) -> list[int]:
    words = [image.get((request.function, at), 0) for at in range(request.address, request.address + request.length)]
    return [int(word != 0) for word in words] if request.function in BITS else words


def _missing(registers: Sequence[Register], image: Image) -> str:
    for one in registers:
        for at in range(one.address, one.address + one.width):
            if (one.function, at) not in image:
                return f"{_table(one.function)} {at}"
    return ""


def _table(function: RegisterFunction) -> str:
    return {"coil": "coil", "discrete": "discrete input", "holding": "holding register", "input": "input register"}[
        function
    ]


def _same(found: bool | float | str, wanted: bool | float | str) -> bool:
    if isinstance(found, str) or isinstance(wanted, str) or isinstance(found, bool) or isinstance(wanted, bool):
        return type(found) is type(wanted) and found == wanted
    return math.isclose(found, wanted, rel_tol=RELATIVE, abs_tol=1e-9)


def _near(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""
