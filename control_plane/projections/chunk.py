"""A sealed chunk: the readings of one boot's hour, column by column, smaller than the batches they came in.

Lossless: a chunk gives back what `decode_many` gave, to the bit: integers as carried, exceptions, quality, strings, the
sensors' own times, the order of the rows, and when each batch was received. Times are the boot's own, so that no anchor
ever changes a chunk. One column of one group can be read without the others.

    toc    MessagePack: [batches, received, [section, …]] and its CRC-32; a section is one group of one schema
    body   the columns' bytes, one after another; the toc has their lengths, and a CRC-32 for each section

A column is a byte that names its form, then the numbers in it:

    0 constant · 1 zigzag deltas as packed varints · 2 pcodec of int64 · 3 pcodec of float64 · 4 float64, little-endian
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray
from pcodec import ChunkConfig, standalone

from control_plane.projections.bulk import Bools, Bulk, Float64, Table, absent
from control_plane.projections.decode import scaled
from control_plane.projections.varints import Int64, join, ranges
from protos.columns import BodyError
from protos.comboio.v1 import batch_pb2 as pb

CONSTANT, DELTAS, PCO_INTS, PCO_FLOATS, PLAIN = range(5)
SHORT = 64
"""Below this pcodec's own header is more than it saves."""
_CONFIG = ChunkConfig(compression_level=4)


class Odd(Struct, array_like=True, frozen=True):
    """What of a column is not just a number: positions are rows of the section."""

    exceptions: int = 0
    xpos: bytes = b""
    xval: bytes = b""
    quality: bytes = b""
    """One byte per row, packed as numbers."""


class Section(Struct, array_like=True, frozen=True):
    """One group of one schema. Lengths are bytes of the body; what stands before is the sum of what came before."""

    schema: int
    group: int
    rows: int
    first_ms: int
    last_ms: int
    times: int
    batches: int
    """Rows of each batch: as many numbers as the chunk has batches."""
    device: int
    columns: list[int]
    crc32: int
    odd: dict[int, Odd] = {}
    strings: list[str] = []

    @property
    def size(self) -> int:
        return self.times + self.batches + self.device + sum(self.columns)


class Toc(Struct, array_like=True, frozen=True):
    batches: int
    received: bytes
    """ms since 1970 of each batch."""
    sections: list[Section]


@dataclass(frozen=True, slots=True)
class Part:
    """Batches of one schema, decoded together."""

    schema: int
    bulk: Bulk
    received_ms: Sequence[int]


_CRC = struct.Struct("<I")
_toc = msgspec.msgpack.Decoder(Toc)


# --- numbers ---------------------------------------------------------------------------------------------


def pack_ints(values: Int64) -> bytes:
    """Any int64, in the shortest of the forms."""
    if values.size and (values == values[0]).all():
        return bytes([CONSTANT]) + _varints(values[:1])
    steps = np.empty_like(values)
    steps[:1] = values[:1]
    np.subtract(values[1:], values[:-1], out=steps[1:])
    if values.size >= SHORT:
        packed = standalone.simple_compress(values, _CONFIG)
        if len(packed) < _varint_bytes(steps):
            return bytes([PCO_INTS]) + bytes(packed)
    return bytes([DELTAS]) + _varints(steps)


def pack_floats(values: Float64) -> bytes:
    """Any float64, to the bit."""
    plain = bytes([PLAIN]) + values.astype("<f8").tobytes()
    if values.size < SHORT:
        return plain
    packed = bytes(standalone.simple_compress(values, _CONFIG))
    same = _floats(packed).view(np.int64) == values.view(np.int64)
    return bytes([PCO_FLOATS]) + packed if same.all() and len(packed) < len(plain) else plain


def unpack_ints(data: bytes, count: int) -> Int64:
    """Raises BodyError for what `pack_ints` did not make of so many."""
    form, rest = data[0], data[1:]
    if form == PCO_INTS:
        return _whole(_ints(rest), count)
    if form not in {CONSTANT, DELTAS}:
        raise BodyError(f"a column of form {form}")
    numbers = join([rest]).zigzag()
    if form == CONSTANT:
        return np.repeat(_whole(numbers, 1), count)
    return np.cumsum(_whole(numbers, count))


def unpack_floats(data: bytes, count: int) -> Float64:
    """As `unpack_ints`."""
    form, rest = data[0], data[1:]
    if form == PCO_FLOATS:
        found = _floats(rest)
    elif form == PLAIN and len(rest) == 8 * count:
        found = np.frombuffer(rest, "<f8").astype(np.float64)
    else:
        raise BodyError(f"a column of form {form}")
    if found.size != count:
        raise BodyError(f"{found.size} numbers where {count} belong")
    return found


def _varints(values: Int64) -> bytes:
    """The payload of a packed sint64 field."""
    message = pb.Body(v=values.tolist()).SerializeToString()
    at = 1
    while message and message[at] > 127:
        at += 1
    return message[at + 1 :]


def _varint_bytes(values: Int64) -> int:
    """The length of that payload, without making it."""
    left = (values << 1 ^ values >> 63).view(np.uint64)
    total = left.size
    while more := int(np.count_nonzero(left := left >> np.uint64(7))):
        total += more
    return total


def _ints(data: bytes) -> Int64:
    found: Int64 = _decompressed(data, np.int64)
    return found


def _floats(data: bytes) -> Float64:
    found: Float64 = _decompressed(data, np.float64)
    return found


def _decompressed(data: bytes, dtype: type) -> Any:
    found = standalone.simple_decompress(data)
    if found is None:
        return np.empty(0, dtype)
    if found.dtype != dtype:
        raise BodyError(f"numbers of type {found.dtype}")
    return found


def _whole(numbers: Int64, count: int) -> Int64:
    if numbers.size != count:
        raise BodyError(f"{numbers.size} numbers where {count} belong")
    return numbers


# --- packing ---------------------------------------------------------------------------------------------


def pack(parts: Sequence[Part]) -> tuple[bytes, bytes]:
    """(toc, body)."""
    sections: list[Section] = []
    pieces: list[bytes] = []
    total = sum(len(part.received_ms) for part in parts)
    before = 0
    for part in parts:
        odd = _marked(part.bulk)
        for group in np.unique(part.bulk.group).tolist():
            section, found = _section(part, group, before, total, odd)
            sections.append(section)
            pieces += found
        before += len(part.received_ms)
    received = np.array([ms for part in parts for ms in part.received_ms], np.int64)
    toc = msgspec.msgpack.encode(Toc(total, pack_ints(received), sections))
    return toc + _CRC.pack(zlib.crc32(toc)), b"".join(pieces)


def _section(part: Part, group: int, before: int, total: int, odd: Bools | None) -> tuple[Section, list[bytes]]:
    """`odd`: see `_marked`."""
    bulk = part.bulk
    occurrences = np.flatnonzero(bulk.group == group)
    rows = bulk.rows[occurrences]
    at = ranges(bulk.row0[occurrences], rows)
    times = bulk.times[at]
    per_batch = np.zeros(total, np.int64)
    np.add.at(per_batch, bulk.batch[occurrences] + before, rows)
    device = b"" if bulk.device_ms is None or not bulk.device_ms[at].any() else pack_ints(bulk.device_ms[at])
    first = np.searchsorted(bulk.col_occ, occurrences)
    width = int(np.searchsorted(bulk.col_occ, occurrences[0], side="right") - first[0])
    # An occurrence's columns follow one another: row by row, `where` is one column of all of them.
    where = ranges(bulk.val0[first], rows) + np.repeat(rows, rows) * np.arange(width)[:, np.newaxis]
    strings: dict[str, int] = {}
    columns = [
        _column(bulk, int(bulk.series[first[0] + column]), where[column], bulk.batch[occurrences], rows, strings)
        for column in range(width)
    ]
    pieces = [pack_ints(times), pack_ints(per_batch), device, *columns]
    section = Section(
        schema=part.schema,
        group=group,
        rows=int(times.size),
        first_ms=int(times.min()),
        last_ms=int(times.max()),
        times=len(pieces[0]),
        batches=len(pieces[1]),
        device=len(device),
        columns=[len(one) for one in columns],
        crc32=zlib.crc32(b"".join(pieces)),
        odd=_odd(bulk, where, odd) if odd is not None else {},
        strings=list(strings),
    )
    return section, pieces


def _column(bulk: Bulk, series: int, where: Int64, batch: Int64, rows: Int64, strings: dict[str, int]) -> bytes:
    if bulk.table.raw[series]:
        return pack_floats(bulk.values[where])
    ints = bulk.ints[where]
    if bulk.table.type[series] == pb.VT_STRING:
        of_row = np.repeat(batch, rows).tolist()
        words = (bulk.strings[body][index] for body, index in zip(of_row, ints.tolist(), strict=True))
        ints = np.fromiter((strings.setdefault(word, len(strings)) for word in words), np.int64, ints.size)
    return pack_ints(ints)


def _marked(bulk: Bulk) -> Bools | None:
    """Which readings are not just a number; None: all are."""
    if not bulk.xpos.size and bulk.quality is None:
        return None
    marked = np.zeros(bulk.values.size, bool) if bulk.quality is None else bulk.quality != 0
    marked[bulk.xpos] = True
    return marked


def _odd(bulk: Bulk, where: Int64, marked: Bools) -> dict[int, Odd]:
    """Of each column that has such readings."""
    return {column: _odd_column(bulk, where[column]) for column in np.flatnonzero(marked[where].any(axis=1)).tolist()}


def _odd_column(bulk: Bulk, where: Int64) -> Odd:
    xpos = np.flatnonzero(np.isin(where, bulk.xpos)) if bulk.xpos.size else where[:0]
    quality = bulk.quality[where] if bulk.quality is not None else None
    if quality is not None and not quality.any():
        quality = None
    return Odd(
        exceptions=int(xpos.size),
        xpos=pack_ints(xpos) if xpos.size else b"",
        xval=pack_floats(bulk.values[where][xpos]) if xpos.size else b"",
        quality=pack_ints(quality.astype(np.int64)) if quality is not None else b"",
    )


# --- reading ---------------------------------------------------------------------------------------------


def contents(toc: bytes) -> Toc:
    """Raises BodyError for damaged bytes."""
    if len(toc) < _CRC.size or zlib.crc32(toc[: -_CRC.size]) != _CRC.unpack(toc[-_CRC.size :])[0]:
        raise BodyError("a chunk's table of contents is damaged")
    return _toc.decode(toc[: -_CRC.size])


def check(section: Section, piece: bytes) -> None:
    """Raises BodyError where the section's bytes are not those that were written."""
    if len(piece) != section.size or zlib.crc32(piece) != section.crc32:
        raise BodyError(f"group {section.group} of a chunk is damaged")


def starts(toc: Toc) -> Iterator[tuple[Section, int]]:
    """Each section and where it begins in the body."""
    at = 0
    for section in toc.sections:
        yield section, at
        at += section.size


def received_ms(toc: Toc, section: Section, piece: bytes) -> Int64:
    """When the batch of each row came. `piece`: the section's bytes, checked."""
    per_batch = unpack_ints(piece[section.times : section.times + section.batches], toc.batches)
    return np.repeat(unpack_ints(toc.received, toc.batches), per_batch)


def read(section: Section, piece: bytes, table: Table, columns: Sequence[int] | None = None) -> Bulk:
    """Some columns of a section, all by default, as one occurrence of the group.

    `piece`: the section's bytes, checked. `table`: of the section's schema. Raises BodyError where that is another's.
    """
    where = int(table.find(np.array([section.group]), np.zeros(1, np.int64))[0])
    if len(section.columns) != table.columns[where]:
        raise BodyError(f"{len(section.columns)} columns where {table.columns[where]} are declared")
    chosen = np.arange(len(section.columns)) if columns is None else np.array(columns, np.int64)
    series, rows = table.first_series[where] + chosen, section.rows
    ints, values = _numbers(section, piece, table, series, chosen)
    quality = _qualities(section, chosen)
    xpos, xval = _exceptions(section, chosen)
    values[xpos] = xval
    if quality is not None:
        values[absent(quality)] = np.nan
    times = unpack_ints(piece[: section.times], rows)
    device_at = section.times + section.batches
    device = piece[device_at : device_at + section.device]
    last = rows - 1 - int(np.argmax(times[::-1]))
    at = np.arange(chosen.size) * rows + last
    return Bulk(
        table=table,
        boot=np.zeros(1, np.int64),
        base=np.zeros(1, np.int64),
        strings=[section.strings],
        batch=np.zeros(1, np.int64),
        group=np.array([section.group]),
        rows=np.array([rows]),
        row0=np.zeros(1, np.int64),
        times=times,
        device_ms=unpack_ints(device, rows) if device else None,
        col_occ=np.zeros(chosen.size, np.int64),
        series=series,
        val0=np.arange(chosen.size) * rows,
        last_time=np.repeat(times[last], chosen.size),
        last_value=values[at],
        last_quality=np.zeros(chosen.size, np.uint8) if quality is None else quality[at],
        values=values,
        ints=ints,
        quality=quality,
        xpos=xpos,
        events=[],
    )


def _numbers(section: Section, piece: bytes, table: Table, series: Int64, chosen: Int64) -> tuple[Int64, Float64]:
    ends = section.times + section.batches + section.device + np.cumsum(section.columns)
    rows = section.rows
    ints, values = np.zeros(chosen.size * rows, np.int64), np.empty(chosen.size * rows, np.float64)
    is_raw = table.raw[series]
    for place, (column, raw) in enumerate(zip(chosen.tolist(), is_raw.tolist(), strict=True)):
        data = piece[int(ends[column]) - section.columns[column] : int(ends[column])]
        stretch = slice(place * rows, (place + 1) * rows)
        if raw:
            values[stretch] = unpack_floats(data, rows)
        else:
            ints[stretch] = unpack_ints(data, rows)
    carried = np.repeat(~is_raw, rows)
    count = int((~is_raw).sum())
    values[carried] = scaled(table, series[~is_raw], np.full(count, rows), ints[carried])
    return ints, values


def _qualities(section: Section, chosen: Int64) -> NDArray[np.uint8] | None:
    odd = {place: one.quality for place, column in enumerate(chosen.tolist()) if (one := section.odd.get(column))}
    found = {place: data for place, data in odd.items() if data}
    if not found:
        return None
    quality = np.zeros((chosen.size, section.rows), np.uint8)
    for place, data in found.items():
        quality[place] = unpack_ints(data, section.rows)
    return quality.reshape(-1)


def _exceptions(section: Section, chosen: Int64) -> tuple[Int64, Float64]:
    places, numbers = [np.empty(0, np.int64)], [np.empty(0, np.float64)]
    for place, column in enumerate(chosen.tolist()):
        odd = section.odd.get(column)
        if odd is not None and odd.xpos:
            places.append(unpack_ints(odd.xpos, odd.exceptions) + place * section.rows)
            numbers.append(unpack_floats(odd.xval, odd.exceptions))
    return np.concatenate(places), np.concatenate(numbers)
