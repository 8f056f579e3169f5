"""What thinning keeps of a group's rows. Pure: no files, no clock.

Rows are kept or dropped whole, as they were measured: no value and no time changes. Of each stretch of time a row stays
if it holds the lowest or highest value of any column (of all values, and of the good ones), the last of the stretch, a
change of a quality, or a change of a text.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from protos.comboio.v1 import batch_pb2 as pb
from protos.config import SensorBase
from protos.hours import HOUR_MS, Cell, counted, listed
from protos.scaling import to_wire
from protos.schema import Block, DecodedBlock, GroupColumns, Value

STEPS_MS = (60_000, 600_000)
LOW, NORMAL, HIGH = CLASSES = range(3)
STAGES = range(1, 1 + len(STEPS_MS) * len(CLASSES))
"""Stage by stage more is thinned: the low class per minute, then normal, then high; then the same per ten minutes."""
LAST_STAGE = STAGES[-1]


def every_ms(stage: int, class_: int) -> int | None:
    """Of how long a stretch this class keeps its extremes at this stage; None: it is kept whole."""
    step, up_to = divmod(stage - 1, len(CLASSES))
    if class_ <= up_to:
        return STEPS_MS[step]
    return STEPS_MS[step - 1] if step else None


def step_ms(stage: int) -> int:
    """The stretch that the stage brings to one class more."""
    return STEPS_MS[(stage - 1) // len(CLASSES)]


def thinned_class(stage: int) -> int:
    """The class that the stage thins, beside those before it."""
    return (stage - 1) % len(CLASSES)


def priorities(sensors: Iterable[SensorBase]) -> dict[str, int]:
    """Sensor → class, of those whose configuration names one."""
    named = {"low": LOW, "normal": NORMAL, "high": HIGH}
    return {sensor.id: named[sensor.priority] for sensor in sensors if sensor.priority is not None}


@dataclass(slots=True)
class Rows:
    """All rows of one group in a run of batches, column-major, in the order of their times."""

    group: GroupColumns
    times: list[int] = field(default_factory=list)
    columns: list[list[Value]] = field(default_factory=list)
    quality: list[list[int]] = field(default_factory=list)
    device_ms: list[int] = field(default_factory=list)

    def add(self, block: DecodedBlock) -> None:
        rows, width = len(block.times), len(self.group.columns)
        if not self.columns:
            self.columns = [[] for _ in range(width)]
            self.quality = [[] for _ in range(width)]
        self.times += block.times
        for index in range(width):
            self.columns[index] += block.columns[index]
            codes = block.quality[index] if block.quality else None
            self.quality[index] += codes or [0] * rows
        self.device_ms += block.device_ms or ()

    @property
    def readings(self) -> int:
        return len(self.times) * len(self.columns)

    def sort(self) -> None:
        """By time; rows of one instant stay in their order."""
        if all(before <= after for before, after in pairwise(self.times)):
            return
        order = sorted(range(len(self.times)), key=self.times.__getitem__)
        self.times = [self.times[row] for row in order]
        self.columns = [[values[row] for row in order] for values in self.columns]
        self.quality = [[codes[row] for row in order] for codes in self.quality]
        self.device_ms = [self.device_ms[row] for row in order] if self.device_ms else []

    def block(self, kept: Sequence[int]) -> Block:
        """These rows as they are encoded."""
        quality = [[codes[row] for row in kept] for codes in self.quality]
        wires = [
            to_wire(spec, [values[row] for row in kept])
            for spec, values in zip(self.group.columns, self.columns, strict=True)
        ]
        return Block(
            self.group.id,
            [self.times[row] for row in kept],
            wires,
            quality if any(map(any, quality)) else None,
            [self.device_ms[row] for row in kept] if self.group.late_source else None,
        )


def kept_rows(rows: Rows, stretch_ms: int) -> list[int]:
    """Which rows stay, ascending. The rows must be sorted."""
    stretches = list(_stretches(rows.times, stretch_ms))
    kept = {end - 1 for _, end in stretches}
    for values, codes in zip(rows.columns, rows.quality, strict=True):
        graded = any(codes)
        if graded:
            kept.update(_changes([0, *codes]))
        if any(isinstance(value, str) for value in values):
            kept.update(row + 1 for row in _changes(values))
            continue
        for start, end in stretches:
            kept.update(start + row for row in _extremes(values[start:end]))
            if graded and any(codes[start:end]):
                good = [None if code else v for v, code in zip(values[start:end], codes[start:end], strict=True)]
                kept.update(start + row for row in _extremes(good))
    return sorted(kept)


def _stretches(times: Sequence[int], stretch_ms: int) -> Iterable[tuple[int, int]]:
    """(first row, row after the last) of each stretch that has rows."""
    start = 0
    while start < len(times):
        end = bisect_left(times, (times[start] // stretch_ms + 1) * stretch_ms, start)
        yield start, end
        start = end


def _changes(items: Sequence[Value]) -> Iterable[int]:
    """Where the next one differs."""
    return (at for at, (one, other) in enumerate(pairwise(items)) if one != other)


def _extremes(values: Sequence[Value]) -> Iterable[int]:
    """Where the lowest and the highest number first stand; nothing where there is no number."""
    try:
        total = sum(values)  # type: ignore[arg-type]  # None and text raise TypeError below
        plain = total == total  # noqa: PLR0124 - a NaN shows in the sum
    except (TypeError, OverflowError):
        plain = False
    numbers: Sequence[Value] = values
    if not plain:
        numbers = [value for value in values if isinstance(value, int | float) and value == value]  # noqa: PLR0124
    if not numbers:
        return ()
    return values.index(min(numbers)), values.index(max(numbers))  # type: ignore[type-var]


def gone(rows: Rows, kept: Sequence[int], *, boot: int) -> pb.Gap | None:
    """The gap record of the rows that do not stay, counted in rows; None if all do."""
    stay = set(kept)
    times = [at for row, at in enumerate(rows.times) if row not in stay]
    if not times:
        return None
    return pb.Gap(
        group=rows.group.id,
        from_boot=boot,
        from_mono_ms=max(0, times[0] - 1),
        to_boot=boot,
        to_mono_ms=times[-1] + 1,
        count=len(times),
        count_exact=True,
        reason=pb.GAP_THINNED,
        rows=listed(Counter(Cell(rows.group.id, boot, at // HOUR_MS) for at in times)),
    )


def united(gaps: Iterable[pb.Gap]) -> list[pb.Gap]:
    """One record per group for all that was ever thinned of it here."""
    found: dict[int, pb.Gap] = {}
    for gap in gaps:
        whole = found.get(gap.group)
        if whole is None:
            whole = found[gap.group] = pb.Gap()
            whole.CopyFrom(gap)
            continue
        whole.from_mono_ms = min(whole.from_mono_ms, gap.from_mono_ms)
        whole.to_mono_ms = max(whole.to_mono_ms, gap.to_mono_ms)
        whole.count += gap.count
        whole.count_exact = whole.count_exact and gap.count_exact
        lost = counted(whole)
        lost.update(counted(gap))
        del whole.rows[:]
        whole.rows.extend(listed(lost))
    return [found[group] for group in sorted(found)]
