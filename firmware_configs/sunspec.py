"""SunSpec: from the models that a device says it has, the registers that they are. Pure.

A SunSpec device tells where its values are: a marker, then one model after the other, each with its id and its length.
What the points of a model are is in `sunspec.toml` beside this file.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from msgspec import Struct, field

from firmware_configs.schema import Limits, ModbusProfile, Register, RegisterType, Source

BASES = (40_000, 50_000, 0)
"""Where the marker may be, in the order of asking."""
MARKER = (0x5375, 0x6E53)
"""The letters SunS."""
END = 0xFFFF
"""The id after the last model."""
SOURCE = Source(
    id="sunspec", title="SunSpec information models, json/model_<id>.json", url="https://github.com/sunspec/models"
)
_TYPES: dict[str, tuple[RegisterType, tuple[int, ...]]] = {
    "u16": ("u16", (0xFFFF,)),
    "i16": ("i16", (-0x8000,)),
    "sf": ("i16", (-0x8000,)),
    "u32": ("u32", (0xFFFF_FFFF,)),
    "acc32": ("u32", (0,)),
    "f32": ("f32", ()),
    "enum": ("u16", (0xFFFF,)),
    "bits32": ("u32", (0xFFFF_FFFF,)),
}
"""By the table's type: the profile's, and what it reads as where a device lacks it; a float is a NaN then."""


class Point(Struct, frozen=True, array_like=True):
    """A row of the table."""

    offset: int
    name: str
    quantity: str
    type: str
    unit: str = ""
    scale: str = ""


class Model(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Points of the models that share them; `repeated` ones come again every `repeat_length` registers."""

    ids: tuple[int, ...]
    role: str
    points: tuple[Point, ...]
    repeated: tuple[Point, ...] = ()
    repeat_from: int = 0
    repeat_length: int = 0
    labels: dict[str, dict[str, str]] = field(default_factory=dict)
    identifying: tuple[str, ...] = ()


class _Table(Struct, frozen=True, forbid_unknown_fields=True):
    model: tuple[Model, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Present:
    """A model that a device has: the address of its id, and how many registers follow id and length."""

    id: int
    address: int
    length: int


def known_models() -> dict[int, Model]:
    """By id."""
    text = Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")
    table = msgspec.convert(tomllib.loads(text), _Table)
    return {number: model for model in table.model for number in model.ids}


def profile_of(present: Sequence[Present], *, vendor: str, model: str, description: str) -> ModbusProfile:
    """What is known of these models as a profile; models that aren't known are passed over.

    Of several of one kind, the second's quantities begin meter_2_ and so on. Raises ValueError if none is known.
    """
    known = known_models()
    seen: Counter[str] = Counter()
    registers: list[Register] = []
    for one in present:
        if one.id in known:
            role = known[one.id].role
            seen[role] += 1
            prefix = role if seen[role] == 1 else f"{role}_{seen[role]}"
            registers += _registers(known[one.id], one, prefix)
    if not registers:
        ids = ", ".join(str(one.id) for one in present) or "none"
        raise ValueError(f"no model of this device is known here; it has {ids}")
    return ModbusProfile(
        vendor=vendor,
        model=model,
        version=1,
        description=description,
        sources=(SOURCE,),
        limits=Limits(max_gap=40),
        register=tuple(registers),
    )


def _registers(model: Model, present: Present, prefix: str) -> Iterator[Register]:
    points = [point for point in model.points if _fits(point, present)]
    scales = {point.name: f"{prefix}_{point.quantity}" for point in points if point.type == "sf"}
    yield from (_register(point, model, present, prefix, scales, present.address) for point in points)
    if not model.repeat_length:
        return
    for number in range((present.length + 2 - model.repeat_from) // model.repeat_length):
        start = present.address + model.repeat_from + number * model.repeat_length
        named = f"{prefix}_{number + 1}"
        yield from (_register(point, model, present, named, scales, start) for point in model.repeated)


def _fits(point: Point, present: Present) -> bool:
    """Devices of an older revision have shorter models."""
    return point.offset + _words(point) <= present.length + 2


def _words(point: Point) -> int:
    if point.type.startswith("string"):
        return int(point.type.removeprefix("string"))
    return 2 if point.type in {"u32", "acc32", "f32", "bits32"} else 1


def _register(
    point: Point, model: Model, present: Present, prefix: str, scales: dict[str, str], start: int
) -> Register:
    text = point.type.startswith("string")
    type_, missing = ("string", ()) if text else _TYPES[point.type]
    return Register(
        quantity=f"{prefix}_{point.quantity}",
        function="holding",
        address=start + point.offset,
        type=type_,
        unit=point.unit,
        words=_words(point) if text else None,
        scale_from=scales.get(point.scale),
        labels=model.labels.get(point.quantity, {}) if point.type == "enum" else {},
        sentinels=missing,
        identifying=point.quantity in model.identifying,
        source=f"sunspec, model {present.id}, point {point.name}",
    )
