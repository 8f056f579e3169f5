"""What travels from a driver to the buffer.

A *group* is everything read in one poll, advertisement or fix: its columns share one time. A *row* is one such
read. Values in a row are *wire values*, chosen so that nothing is scaled twice:

* a column with a declared scale (`exp`, or `scale` and `offset`) holds the device's raw integer;
  a float in its place is an exception to the scale and travels exactly;
* a `raw` column holds floats; a boolean column 0, 1 or bools; a string column strings;
* `None` means "no value" and needs a quality that says so (BAD_COMM, BAD_SENSOR).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from protos.comboio.v1 import batch_pb2 as pb

Wire = int | float | str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesShape:
    """One column of a group; the meaning of its wire values is that of `protos` Series."""

    name: str
    unit: str = ""
    type: pb.ValueType.ValueType = pb.VT_FLOAT64
    exp: int = 0
    scale: float = 0.0
    offset: float = 0.0
    raw: bool = False
    attrs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupShape:
    """A group before it has a number. `sensor` + `part` is its identity on this gateway."""

    sensor: str
    period_ms: int
    series: tuple[SeriesShape, ...]
    part: str = ""  # tells the groups of one sensor apart
    late_source: bool = False


class Row(NamedTuple):
    """One read of one group.

    `mono_ms`: when it was measured (for a request, the middle between asking and answer), CLOCK_BOOTTIME ms.
    `values`: one wire value per column. `quality`: one code per column, None = all good.
    `device_ms`: the device's own time stamp (wall ms), for late sources only.
    """

    mono_ms: int
    values: tuple[Wire, ...]
    quality: tuple[int, ...] | None = None
    device_ms: int | None = None


class Lost(NamedTuple):
    """Reads that gave nothing, between two instants that are both outside the loss."""

    after_mono_ms: int
    before_mono_ms: int
    reads: int
    reason: pb.GapReason.ValueType


class Receipt(Protocol):
    """What became of one row."""

    async def durable(self) -> None:
        """Return once a power cut can no longer lose the row; raise `Rejected` if it was dropped."""
