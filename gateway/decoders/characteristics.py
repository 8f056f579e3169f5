"""From the values of characteristics to columns. Pure: the same bytes give the same row."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from firmware_configs.characteristics import GattValue, whole
from gateway.decoders.values import series_of, wire
from gateway.errors import ComboioError
from gateway.reading import SeriesShape, Wire
from protos.comboio.v1 import batch_pb2 as pb

_KINDS: dict[str, Literal["boolean", "string"]] = {"bool": "boolean", "string": "string"}


class Malformed(ComboioError):  # noqa: N818 - named for what it says of the value
    """These bytes can't be what the profile describes; the message says why."""


class Columns(NamedTuple):
    """One wire value and one quality per column; None = all good."""

    values: tuple[Wire, ...]
    quality: tuple[int, ...] | None


def series(
    values: Sequence[GattValue], *, attrs: Mapping[str, Mapping[str, str]], mark: Mapping[str, str]
) -> tuple[SeriesShape, ...]:
    """`attrs` per quantity over those of the profile, `mark` over all."""
    return tuple(
        series_of(
            value.quantity,
            kind=_KINDS.get(value.type, "number"),
            unit=value.unit,
            decimals=value.decimals,
            scale=value.scale,
            offset=value.offset,
            integers=value.type != "f32",
            attrs={**value.attrs, **attrs.get(value.quantity, {}), **mark},
        )
        for value in values
    )


def columns(values: Sequence[GattValue], said: Mapping[str, bytes]) -> Columns:
    """`said`: characteristic (a whole UUID) → its value. One that is optional and not there is BAD_COMM.

    Raises Malformed.
    """
    found = [_one(value, said.get(whole(value.characteristic))) for value in values]
    quality = tuple(code for _, code in found)
    return Columns(tuple(one for one, _ in found), quality if any(quality) else None)


def _one(value: GattValue, data: bytes | None) -> tuple[Wire, int]:
    if data is None:
        return None, pb.QUALITY_BAD_COMM
    if len(data) < value.end:
        raise Malformed(
            f"{value.quantity}: characteristic {value.characteristic} has {len(data)} bytes, "
            f"the profile needs {value.end}; it said {data.hex(' ') or 'nothing'}"
        )
    raw = _raw(value, data)
    beyond = value.invalid_above is not None and not isinstance(raw, str) and raw > value.invalid_above
    if raw in value.sentinels or beyond:
        return None, pb.QUALITY_BAD_SENSOR
    if value.type == "f32":
        found = wire(raw, "number", value.decimals)
    else:
        found = wire(raw, _KINDS.get(value.type, "number"), 0)
    return found, pb.QUALITY_GOOD if found is not None else pb.QUALITY_BAD_SENSOR


def _raw(value: GattValue, data: bytes) -> bool | int | float | str:
    part = data[value.byte : value.end]
    match value.type:
        case "string":
            try:
                return data[value.byte :].decode("utf-8").rstrip("\x00").strip()
            except UnicodeDecodeError:
                raise Malformed(f"{value.quantity}: {value.characteristic} isn't text: {data.hex(' ')}") from None
        case "bool":
            return bool(part[0] >> value.bit & 1) if value.bit is not None else bool(part[0])
        case "f32":
            (number,) = struct.unpack("<f" if value.order == "little" else ">f", part)
            return float(number)
    integer = int.from_bytes(part, value.order, signed=value.type.startswith("i"))
    if value.bit is not None and value.bits is not None:
        return integer >> value.bit & ((1 << value.bits) - 1)
    return integer
