"""Numbers, switches and texts as devices say them → columns and wire values; shared by advertisements and messages."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from gateway.reading import SeriesShape, Wire
from protos.comboio.v1 import batch_pb2 as pb

Kind = Literal["number", "boolean", "string"]
MAX_TEXT = 256
_BIG_INTEGER = 1 << 53


def series_of(
    quantity: str,
    *,
    kind: Kind,
    unit: str = "",
    decimals: int | None = None,
    scale: float | None = None,
    offset: float = 0.0,
    integers: bool = False,
    attrs: Mapping[str, str],
) -> SeriesShape:
    """The column of one quantity. `integers`: numbers without decimals are mostly whole."""
    if kind == "boolean":
        return SeriesShape(name=quantity, unit=unit, type=pb.VT_BOOL, attrs=attrs)
    if kind == "string":
        return SeriesShape(name=quantity, unit=unit, type=pb.VT_STRING, attrs=attrs)
    if scale is not None or offset:
        return SeriesShape(name=quantity, unit=unit, scale=scale or 1.0, offset=offset, attrs=attrs)
    return SeriesShape(name=quantity, unit=unit, exp=decimals or 0, raw=decimals is None and not integers, attrs=attrs)


def wire(value: object, kind: Kind, decimals: int | None) -> Wire:
    """The wire value of a plain one; None where it isn't of its kind, or no finite number."""
    if kind == "boolean":
        return value if isinstance(value, bool) else None
    if kind == "string":
        return value if isinstance(value, str) and len(value) <= MAX_TEXT else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return _number(value, decimals)


def _number(value: float, decimals: int | None) -> Wire:
    if isinstance(value, int):
        if decimals == 0 and -_BIG_INTEGER < value < _BIG_INTEGER:
            return value
        try:
            value = float(value) if abs(value) >= _BIG_INTEGER else value
        except OverflowError:
            return None
    if not math.isfinite(value):
        return None
    if decimals is None:
        return float(value)
    power = 10**decimals
    if abs(value) * power >= _BIG_INTEGER:
        return float(value)
    number = round(value * power)
    same = number / power == value and (number or math.copysign(1.0, value) > 0)
    return number if same else float(value)
