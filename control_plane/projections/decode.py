"""Bulk decoding: many bodies in one numpy pass, with the results of `protos.columns.decode` to the bit.

Cost is per array operation, not per body, so the caller joins the schemas and gives as many bodies at once as memory
allows: about 60 bytes per reading while it runs.

The order of everything is that of the wire: bodies, their group occurrences, their columns, their rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from control_plane.projections.bulk import Bools, Bulk, Float64, Table, Tables, absent, exact, joined
from control_plane.projections.varints import Int64, Joined, doubles, join, positions, running_sums, sums
from protos import body_fields
from protos.body_fields import Fields
from protos.columns import MAX_COUNT, MAX_TIME_MS, BodyError
from protos.comboio.v1 import batch_pb2 as pb

__all__ = ["Bulk", "Table", "decode_all", "decode_many", "exact", "joined"]


def decode_many(table: Tables, bodies: Sequence[bytes], counts: Sequence[int]) -> Bulk:
    """All of them, or BodyError with the `index` of the first bad one, so that the caller can set it aside."""
    try:
        return decode_all(table, bodies, counts)
    except BodyError as error:
        last = error
    # Bodies don't depend on one another: the shortest prefix that fails ends with the first bad one.
    good, bad = 0, len(bodies)
    while bad - good > 1:
        middle = (good + bad) // 2
        try:
            decode_all(table, bodies[good:middle], counts[good:middle])
            good = middle
        except BodyError as error:
            bad, last = middle, error
    try:
        decode_all(table, bodies[good:bad], counts[good:bad])
    except BodyError as error:
        last = error
    raise BodyError(str(last), index=good)


@dataclass(slots=True)
class _Layout:
    """What the declared sizes imply, once they have been found to agree."""

    where: Int64  # per group occurrence: position in the table
    batch: Int64
    rows: Int64
    col_occ: Int64  # per column occurrence
    series: Int64
    col_rows: Int64
    scaled: Bools
    readings: Int64  # per body
    per_body: Int64  # column occurrences


def decode_all(
    table: Tables, bodies: Sequence[bytes], counts: Sequence[int], parts_of: Sequence[int] | None = None
) -> Bulk:
    """All of them or BodyError. `parts_of` names each body's part of a joined table."""
    parts = [body_fields.split(body) for body in bodies]
    base = np.array([part.base_mono_ms for part in parts], np.uint64)
    if (base >= MAX_TIME_MS).any():
        raise BodyError("the base time is out of range")
    part_of = np.zeros(len(parts), np.int64) if parts_of is None else np.array(parts_of, np.int64)
    layout = _layout(table, parts, np.array(counts, np.int64), part_of)
    base_ms = base.view(np.int64)
    times = _times(table, layout, parts, base_ms)
    val0 = np.cumsum(layout.col_rows) - layout.col_rows
    ints, values = _values(table, layout, parts)
    strings = _strings(parts)
    xpos, xval = _exceptions(table, layout, parts)
    values[xpos] = xval
    _check_types(table, layout, ints, strings)
    quality = _quality(layout, parts)
    if quality is not None:
        values[absent(quality)] = np.nan
    row0 = np.cumsum(layout.rows) - layout.rows
    last = _last_rows(times, layout.rows, row0)[layout.col_occ]
    last_reading = val0 + last
    return Bulk(
        table=table,
        boot=np.array([part.boot for part in parts], np.int64),
        base=base_ms,
        strings=strings,
        batch=layout.batch,
        group=table.group_ids[layout.where],
        rows=layout.rows,
        row0=row0,
        times=times,
        device_ms=_device_ms(table, layout, parts),
        col_occ=layout.col_occ,
        series=layout.series,
        val0=val0,
        last_time=times[row0[layout.col_occ] + last],
        last_value=values[last_reading],
        last_quality=np.zeros(last.size, np.uint8) if quality is None else quality[last_reading],
        values=values,
        ints=ints,
        quality=quality,
        xpos=xpos,
        events=_events(parts, base_ms),
    )


def _packed(parts: Sequence[Fields], number: int) -> list[bytes]:
    return [part.packed[number] for part in parts]


def _layout(table: Tables, parts: Sequence[Fields], counts: Int64, part_of: Int64) -> _Layout:
    groups, row_counts = join(_packed(parts, body_fields.GROUP)), join(_packed(parts, body_fields.ROWS))
    rows = row_counts.unsigned32()
    if (groups.lengths != row_counts.lengths).any() or not ((rows > 0) & (rows <= MAX_COUNT)).all():
        raise BodyError("groups and rows don't match")
    batch = np.repeat(np.arange(len(parts)), groups.lengths)
    where = table.find(groups.unsigned32(), part_of[batch])
    columns = table.columns[where]
    if not columns.all():
        raise BodyError("rows of a group without columns")
    readings = sums(rows * columns, groups.lengths)
    if (readings != counts).any() or (readings > MAX_COUNT).any():
        raise BodyError("readings and count don't match")
    col_occ = np.repeat(np.arange(where.size), columns)
    series = table.first_series[where][col_occ] + positions(columns)
    return _Layout(
        where=where,
        batch=batch,
        rows=rows,
        col_occ=col_occ,
        series=series,
        col_rows=rows[col_occ],
        scaled=~table.raw[series],
        readings=readings,
        per_body=sums(columns, groups.lengths),
    )


def _times(table: Tables, layout: _Layout, parts: Sequence[Fields], base: Int64) -> Int64:
    joined = join(_packed(parts, body_fields.T))
    _same_lengths(joined, layout, layout.rows, "times")
    steps = joined.zigzag()
    period = table.period_ms[layout.where]
    steps += np.repeat(period, layout.rows)
    steps[np.cumsum(layout.rows) - layout.rows] += base[layout.batch] - period
    times = running_sums(steps, layout.rows)
    # The first sum to leave the range lands outside of it even when it wraps: one step is at most 2^63.
    if times.size and (int(times.min()) < 0 or int(times.max()) >= MAX_TIME_MS):
        raise BodyError("a time is out of range")
    return times


def _same_lengths(joined: Joined, layout: _Layout, per_occurrence: Int64, what: str) -> None:
    wanted = np.bincount(layout.batch, weights=per_occurrence, minlength=joined.lengths.size)
    if (joined.lengths != wanted).any():
        raise BodyError(f"{what} and rows don't match")


def _device_ms(table: Tables, layout: _Layout, parts: Sequence[Fields]) -> Int64 | None:
    joined = join(_packed(parts, body_fields.DEVICE_MS))
    late = table.late[layout.where]
    _same_lengths(joined, layout, layout.rows * late, "device times")
    if not late.any():
        return None
    device_ms = np.zeros(int(layout.rows.sum()), np.int64)
    device_ms[np.repeat(late, layout.rows)] = running_sums(joined.zigzag(), layout.rows[late])
    return device_ms


def _values(table: Tables, layout: _Layout, parts: Sequence[Fields]) -> tuple[Int64, Float64]:
    """Integers as carried and real values, every column at its full length."""
    constant = _constant(layout, _packed(parts, body_fields.CONSTANT))
    series, rows = layout.series[layout.scaled], layout.col_rows[layout.scaled]
    carried = np.where(constant, 1, rows)
    joined = join(_packed(parts, body_fields.V))
    body = layout.batch[layout.col_occ]
    wanted = np.bincount(body[layout.scaled], weights=carried, minlength=len(parts))
    plain, plain_lengths = doubles(_packed(parts, body_fields.D))
    wanted_plain = np.bincount(body[~layout.scaled], weights=layout.col_rows[~layout.scaled], minlength=len(parts))
    if (joined.lengths != wanted).any() or (plain_lengths != wanted_plain).any():
        raise BodyError("integers or doubles and rows don't match")
    first = np.cumsum(carried) - carried
    steps = joined.zigzag()
    steps[first] += table.ref[series]
    ints = running_sums(steps, carried)
    real = scaled(table, series, carried, ints)
    if constant.any():
        repeats = np.ones(ints.size, np.int64)
        repeats[first[constant]] = rows[constant]
        ints, real = np.repeat(ints, repeats), np.repeat(real, repeats)
    if layout.scaled.all():
        return ints, real
    return _interleaved(np.repeat(layout.scaled, layout.col_rows), ints, real, plain)


def _interleaved(scaled: Bools, ints: Int64, real: Float64, plain: Float64) -> tuple[Int64, Float64]:
    all_ints, all_real = np.zeros(scaled.size, np.int64), np.empty(scaled.size, np.float64)
    all_ints[scaled], all_real[scaled], all_real[~scaled] = ints, real, plain
    return all_ints, all_real


def _constant(layout: _Layout, chunks: Sequence[bytes]) -> Bools:
    """Per scaled column occurrence; checks the bitmaps' sizes and their spare bits."""
    scaled = sums(layout.scaled.astype(np.int64), layout.per_body)
    sizes = np.fromiter(map(len, chunks), np.int64, len(chunks))
    if (sizes != (scaled + 7) >> 3).any():
        raise BodyError("the bitmap of constant columns has the wrong size")
    bits = np.unpackbits(np.frombuffer(b"".join(chunks), np.uint8), bitorder="little").astype(bool)
    used = positions(sizes << 3) < np.repeat(scaled, sizes << 3)
    if bits[~used].any():
        raise BodyError("the bitmap of constant columns has stray bits")
    result: Bools = bits[used]
    return result


def scaled(table: Tables, series: Int64, lengths: Int64, ints: Int64) -> Float64:
    """float64(v) / 10^exp or float64(v) * scale + offset, rounded to float32 where that is the type."""
    with np.errstate(over="ignore"):
        real = ints.astype(np.float64)
        if pb.VT_UINT64 in table.types:
            chosen = np.repeat(table.type[series] == pb.VT_UINT64, lengths)
            real[chosen] = ints[chosen].view(np.uint64)
        real /= np.repeat(table.power[series], lengths)
        if table.scale.any():
            chosen = np.repeat(table.scale[series] != 0, lengths)
            scale, offset = np.repeat(table.scale[series], lengths), np.repeat(table.offset[series], lengths)
            real[chosen] = real[chosen] * scale[chosen] + offset[chosen]
        if pb.VT_FLOAT32 in table.types:
            chosen = np.repeat(table.type[series] == pb.VT_FLOAT32, lengths)
            real[chosen] = real[chosen].astype(np.float32)
        if pb.VT_STRING in table.types:
            real[np.repeat(table.type[series] == pb.VT_STRING, lengths)] = np.nan
    return real


def _strings(parts: Sequence[Fields]) -> list[list[str]]:
    try:
        return [[text.decode() for text in part.strings] for part in parts]
    except UnicodeDecodeError as error:
        raise BodyError(f"a string is not UTF-8: {error}") from None


def _check_types(table: Tables, layout: _Layout, ints: Int64, strings: Sequence[Sequence[str]]) -> None:
    """Bools are 0 or 1, strings are in their body's table; stand-ins included."""
    limits: Mapping[int, NDArray[np.int64]] = {
        pb.VT_BOOL: np.full(len(strings), 2),
        pb.VT_STRING: np.array([len(table) for table in strings], np.int64),
    }
    for type_, limit in limits.items():
        if type_ in table.types:
            columns = table.type[layout.series] == type_
            chosen = np.repeat(columns, layout.col_rows)
            body = layout.batch[layout.col_occ[columns]]
            below = np.repeat(limit[body], layout.col_rows[columns])
            if not ((ints[chosen] >= 0) & (ints[chosen] < below)).all():
                raise BodyError("neither true nor false, or no such string")


def _exceptions(table: Tables, layout: _Layout, parts: Sequence[Fields]) -> tuple[Int64, Float64]:
    joined = join(_packed(parts, body_fields.XPOS))
    values, lengths = doubles(_packed(parts, body_fields.XVAL))
    if (joined.lengths != lengths).any():
        raise BodyError("exceptions don't match")
    relative = joined.unsigned32()
    if not relative.size:
        return relative, values
    if not (relative < np.repeat(layout.readings, lengths)).all():
        raise BodyError("an exception is out of range")
    absolute = relative + np.repeat(np.cumsum(layout.readings) - layout.readings, lengths)
    if not (np.diff(absolute) > 0).all():
        raise BodyError("exceptions are not ascending")
    column = np.searchsorted(np.cumsum(layout.col_rows), absolute, side="right")
    series = layout.series[column]
    if (table.raw[series] | (table.type[series] == pb.VT_STRING)).any():
        raise BodyError("an exception to no scale")
    return absolute, values


def _quality(layout: _Layout, parts: Sequence[Fields]) -> NDArray[np.uint8] | None:
    skipped, lengths, codes = (
        join(_packed(parts, number)) for number in (body_fields.Q_POS, body_fields.Q_LEN, body_fields.Q_CODE)
    )
    if (skipped.lengths != lengths.lengths).any() or (skipped.lengths != codes.lengths).any():
        raise BodyError("quality runs don't match")
    if not codes.values.size:
        return None
    length, code = lengths.unsigned32(), codes.unsigned32()
    if not ((length > 0) & (code > 0) & (code <= pb.QUALITY_SUBSTITUTED)).all():
        raise BodyError("a quality run is empty or of an unknown code")
    present = skipped.lengths[skipped.lengths > 0]
    ends = running_sums(skipped.unsigned32() + length, present)
    if not (ends <= np.repeat(layout.readings, skipped.lengths)).all():
        raise BodyError("a quality run is out of range")
    starts = ends - length + np.repeat(np.cumsum(layout.readings) - layout.readings, skipped.lengths)
    quality = np.zeros(int(layout.readings.sum()), np.uint8)
    quality[np.repeat(starts, length) + positions(length)] = np.repeat(code, length)
    return quality


def _last_rows(times: Int64, rows: Int64, row0: Int64) -> Int64:
    """Per group occurrence the row with the highest time, the later of equals."""
    last = rows - 1
    if not times.size:
        return last
    highest = np.maximum.reduceat(times, row0)
    for occurrence in np.flatnonzero(times[row0 + last] != highest).tolist():
        stretch = times[row0[occurrence] : row0[occurrence] + rows[occurrence]]
        last[occurrence] = np.flatnonzero(stretch == highest[occurrence])[-1]
    return last


def _events(parts: Sequence[Fields], base: Int64) -> list[tuple[int, int, pb.Event]]:
    events = []
    try:
        for batch, part in enumerate(parts):
            for content in part.events:
                event = pb.Event.FromString(content)
                at_ms = int(base[batch]) + event.t
                if not 0 <= at_ms < MAX_TIME_MS:
                    raise BodyError("the time of an event is out of range")
                event.ClearField("t")
                events.append((batch, at_ms, event))
    except DecodeError as error:
        raise BodyError(f"not an Event: {error}") from None
    return events
