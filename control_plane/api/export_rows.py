"""What every form of an export is made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from control_plane.api.paging import moment
from protos.columns import Value


class Rows(NamedTuple):
    """Readings of one series, sorted by time: parallel lists, and the greatest error of their clock in ms."""

    series: str
    unit: str
    times_ms: Sequence[int]
    values: Sequence[Value | None]
    quality: Sequence[str]
    err_ms: int


def instant(at_ms: int) -> str:
    """2026-11-22T10:00:00.000Z."""
    return moment(at_ms).strftime("%Y-%m-%dT%H:%M:%S.") + f"{at_ms % 1000:03d}Z"
