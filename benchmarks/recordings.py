"""Recorded or generated sensor data as groups of columns, and how a gateway would declare and send them.

A CSV's first column is `ts_ms`. Its cells are text; a column is an integer or a float as the text of its first part
shows. Blank cells split a file into groups: columns present in the same rows share a time.
"""

from __future__ import annotations

import csv
import gzip
import io
import os
import statistics
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from protos.columns import Block, Schema, Value, Wire, propose, to_wire
from protos.comboio.v1 import batch_pb2 as pb

LEARNT = 0.5  # what is declared is learnt from this first part; the rest is measured
LONGEST_GAP_PERIODS = 10  # sessions of a recording are joined


@dataclass(slots=True)
class Column:
    name: str
    values: list[int | float]


@dataclass(slots=True)
class Recording:
    """One group: what one poll, advertisement or fix gives."""

    name: str
    period_ms: int
    times: list[int]
    columns: list[Column]


def folder() -> Path | None:
    """Where recordings are, if anywhere."""
    named = os.environ.get("COMBOIO_DATA")
    return Path(named) if named else None


def read_csv(path: Path) -> list[Recording]:
    """One recording per pattern of blank cells. Raises ValueError for a file without ts_ms."""
    times, cells = read_cells(path)
    patterns: dict[tuple[int, ...], list[str]] = {}
    for name, texts in cells.items():
        patterns.setdefault(tuple(row for row, text in enumerate(texts) if text), []).append(name)
    stem = path.name.split(".")[0]
    return [
        _recording(
            f"{stem}-{number}",
            [times[row] for row in rows],
            [Column(name, numbers([cells[name][row] for row in rows])) for name in names],
        )
        for number, (rows, names) in enumerate(patterns.items())
        if len(rows) > 1
    ]


def read_cells(path: Path) -> tuple[list[int], dict[str, list[str]]]:
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    rows = list(csv.reader(io.StringIO(raw.decode())))
    if not rows or rows[0][0] != "ts_ms":
        raise ValueError(f"{path}: the first column must be ts_ms")
    columns = list(zip(*rows[1:], strict=True))
    return [int(text) for text in columns[0]], {
        name: list(column) for name, column in zip(rows[0][1:], columns[1:], strict=True)
    }


def numbers(texts: Sequence[str]) -> list[int | float]:
    """Integers where the first part of the text shows no other, exactly what the text says in any case."""
    learnt = texts[: max(1, int(len(texts) * LEARNT))]
    if any(not _integer(text) for text in learnt):
        return [float(text) for text in texts]
    return [int(text) if _integer(text) else float(text) for text in texts]


def _integer(text: str) -> bool:
    return not set(text) & set(".eEnN")


def _recording(name: str, times: list[int], columns: list[Column]) -> Recording:
    steps = [after - before for before, after in pairwise(times)]
    period = max(1, round(statistics.median(steps)))
    joined = [0]
    for step in steps:
        joined.append(joined[-1] + (step if 0 < step <= LONGEST_GAP_PERIODS * period else period))
    return Recording(name, period, joined, columns)


# --- as a gateway sends it ----------------------------------------------------------------------------


@dataclass(slots=True)
class Traffic:
    """Recordings as declared groups, with their wire values ready to be cut into batches."""

    declare: pb.Declare
    schema: Schema
    recordings: list[Recording]
    wires: list[list[list[Wire]]]

    @property
    def span(self) -> tuple[int, int]:
        """From the first time to just after the last."""
        return min(one.times[0] for one in self.recordings), 1 + max(one.times[-1] for one in self.recordings)


@dataclass(slots=True)
class Cut:
    """One batch: its blocks and the real values that must come out of it."""

    end_ms: int
    blocks: list[Block]
    values: list[list[Sequence[Value]]]
    count: int


def traffic(recordings: Sequence[Recording], *, epoch: int = 0x6723A1F0, schema: int = 3) -> Traffic:
    declare = pb.Declare(epoch=epoch, schema=schema)
    number = 0
    for group_id, recording in enumerate(recordings, start=1):
        group = declare.groups.add(id=group_id, sensor=recording.name, period_ms=recording.period_ms)
        for column in recording.columns:
            number += 1
            group.series.append(_learnt(number, column))
    compiled = Schema.from_declare(declare)
    wires = [
        [to_wire(spec, column.values) for spec, column in zip(compiled.groups[at].columns, one.columns, strict=True)]
        for at, one in enumerate(recordings, start=1)
    ]
    return Traffic(declare, compiled, list(recordings), wires)


def _learnt(number: int, column: Column) -> pb.Series:
    """Declared from the first part only: type, decimals, and the median as the reference."""
    first = column.values[: max(1, int(len(column.values) * LEARNT))]
    if all(isinstance(value, int) for value in first):
        return pb.Series(id=number, name=column.name, type=pb.VT_INT64, ref=int(statistics.median(first)))
    exp, raw = propose([float(value) for value in first], pb.VT_FLOAT64)
    series = pb.Series(id=number, name=column.name, type=pb.VT_FLOAT64, exp=exp, raw=raw)
    if not raw:
        series.ref = round(statistics.median(first) * 10**exp)
    return series


def cuts(source: Traffic, *, batch_ms: int, from_ms: int, to_ms: int) -> Iterator[Cut]:
    """Batches of everything read in consecutive windows, whole windows only."""
    for start in range(from_ms, to_ms - batch_ms + 1, batch_ms):
        cut = Cut(start + batch_ms, [], [], 0)
        for at, recording in enumerate(source.recordings):
            low, high = (bisect_left(recording.times, edge) for edge in (start, start + batch_ms))
            if low < high:
                wires = [column[low:high] for column in source.wires[at]]
                cut.blocks.append(Block(at + 1, recording.times[low:high], wires))
                cut.values.append([column.values[low:high] for column in recording.columns])
                cut.count += (high - low) * len(wires)
        if cut.blocks:
            yield cut
