"""What a wire value means, for stages that compare it: the number a person would see."""

from __future__ import annotations

from collections.abc import Callable

from gateway.reading import SeriesShape, Wire
from protos.comboio.v1 import batch_pb2 as pb

Real = Callable[[Wire], float | None]


def real_of(series: SeriesShape) -> Real:
    """A function from wire value to real value; None for "no value" and for texts."""
    if series.raw or series.type in (pb.VT_BOOL, pb.VT_STRING):
        return _plain
    if series.scale:
        return _scaled(series.scale, series.offset)
    return _decimals(float(10**series.exp)) if series.exp else _plain


def _plain(value: Wire) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _scaled(scale: float, offset: float) -> Real:
    """A float is an exception to the scale: it is real already."""

    def real(value: Wire) -> float | None:
        return value * scale + offset if isinstance(value, int) else _plain(value)

    return real


def _decimals(power: float) -> Real:
    def real(value: Wire) -> float | None:
        return value / power if isinstance(value, int) else _plain(value)

    return real
