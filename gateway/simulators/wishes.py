"""What a simulated device shall show, as somebody writes it on a command line."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from pathlib import Path

from firmware_configs.schema import ModbusProfile
from gateway.simulators.signals import Signal, columns, constant, ramp, replay, sine, walk

SHAPES = "VALUE, sine:MEAN,AMPLITUDE,PERIOD_S, ramp:FROM,TO,PERIOD_S or walk:MEAN,AMPLITUDE,PERIOD_S"
TIME = "ts_ms"


def shape(text: str) -> tuple[str, Signal]:
    """`QUANTITY=SHAPE`. Raises ValueError."""
    quantity, _, told = text.partition("=")
    kind, colon, numbers = told.partition(":")
    try:
        values = [float(one) for one in (numbers if colon else told).split(",")]
        if not all(map(math.isfinite, values)):
            raise ValueError(told)
        return quantity, _made(kind if colon else "", values)
    except (ValueError, IndexError):
        raise ValueError(f"--set {text!r} is not QUANTITY=SHAPE; a shape is {SHAPES}") from None


def _made(kind: str, values: list[float]) -> Signal:
    if not kind:
        (value,) = values
        return constant(value)
    first, second, period_s = values
    if period_s <= 0:
        raise ValueError(kind)
    if kind == "sine":
        return sine(mean=first, amplitude=second, period_s=period_s)
    if kind == "ramp":
        return ramp(start=first, end=second, period_s=period_s)
    if kind == "walk":
        return walk(mean=first, amplitude=second, period_s=period_s)
    raise ValueError(kind)


def wished(option: str, pairs: Iterable[tuple[str, Signal]], profile: ModbusProfile) -> dict[str, Signal]:
    """By quantity. Raises ValueError for one that the profile does not have."""
    chosen = dict(pairs)
    known = [register.quantity for register in profile.expanded()]
    if unknown := sorted(chosen.keys() - set(known)):
        close = difflib.get_close_matches(unknown[0], known, n=1)
        meant = f"; did you mean {close[0]}?" if close else ""
        raise ValueError(f"{option}: {', '.join(unknown)} is no quantity of {profile.name}{meant}")
    return chosen


def replayed(path: Path, profile: ModbusProfile) -> dict[str, Signal]:
    """A signal per column that is named as a quantity; others are passed over. Raises ValueError if none is."""
    known = {register.quantity for register in profile.expanded()}
    mine = [name for name in columns(path) if name in known]
    if not mine:
        raise ValueError(f"--replay {path}: no column is a quantity of {profile.name} ({', '.join(sorted(known))})")
    return {name: replay(path, name, time_column=TIME) for name in mine}
