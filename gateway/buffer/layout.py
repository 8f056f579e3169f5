"""How rows of the declared groups are packed into tail records and back.

A record's payload: boot u32, then runs: group u16, rows u16, and per row mono_ms u64, a kind byte, and the values as
one struct of the group (kind 0), or as MessagePack where the struct can't say it: exceptions, missing values,
qualities, device times, integers of 64 bits unsigned (kind 1, with a u32 length before it).

Before the rows may stand a run of group 0: the gap records that precede them, per gap its number u64, a length u32 and
the Gap message. They share a record, and so its checksum, because a power cut may keep any part of what was not synced:
no row is there without them. Earlier versions wrote them in a record of their own, of schema 0.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter

import msgspec

from gateway.reading import Row
from protos.comboio.v1 import batch_pb2 as pb

GAPS_SCHEMA = 0
"""Stands where a declaration's number would: those begin at 1."""
_RUN = struct.Struct("<HH")
_ROW = struct.Struct("<QB")
_BOOT = struct.Struct("<I")
_LENGTH = struct.Struct("<I")
_GAP = struct.Struct("<QI")
_PLAIN, _PACKED = 0, 1
_MAX_RUN = 0xFFFF
_GAPS_GROUP = 0  # groups begin at 1
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


def values_struct(series: Iterable[tuple[int, bool]]) -> struct.Struct | None:
    """The struct of one row's values from (type, raw) per column; None if a column is text."""
    codes = ""
    for type_, raw in series:
        if type_ == pb.VT_STRING:
            return None
        codes += "d" if raw else "q"
    return struct.Struct("<" + codes)


def pack(
    boot: int,
    rows: Sequence[tuple[int, Row]],
    structs: dict[int, struct.Struct | None],
    gaps: Sequence[tuple[int, pb.Gap]] = (),
) -> bytes:
    """Payload of one record from (group, row) pairs in order, and the (number, gap) pairs before them."""
    parts = [_BOOT.pack(boot)]
    if gaps:
        parts += _RUN.pack(_GAPS_GROUP, len(gaps)), pack_gaps(gaps)
    for group, run in groupby(rows, key=itemgetter(0)):
        members = list(run)
        for start in range(0, len(members), _MAX_RUN):
            chunk = members[start : start + _MAX_RUN]
            parts.append(_RUN.pack(group, len(chunk)))
            pack_row(parts, chunk, structs[group])
    return b"".join(parts)


def pack_row(parts: list[bytes], rows: Sequence[tuple[int, Row]], values: struct.Struct | None) -> None:
    for _, row in rows:
        if values is not None and row.quality is None and row.device_ms is None:
            try:
                parts += _ROW.pack(row.mono_ms, _PLAIN), values.pack(*row.values)
            except struct.error:
                pass
            else:
                continue
        parts += _ROW.pack(row.mono_ms, _PACKED), packed(row)


def packed(row: Row) -> bytes:
    """Everything of a row but its time, as MessagePack after its length."""
    try:
        body = _encode((row.values, row.quality, row.device_ms))
    except (OverflowError, TypeError):  # no wire value: it keeps its place, and whoever seals it refuses it
        body = _encode(((None,) * len(row.values), None, None))
    return _LENGTH.pack(len(body)) + body


def unpacked(payload: bytes, at: int, mono_ms: int) -> tuple[Row, int]:
    """That row, and where it ends."""
    (length,) = _LENGTH.unpack_from(payload, at)
    at += _LENGTH.size
    wires, quality, device_ms = _decode(payload[at : at + length])
    return Row(mono_ms, tuple(wires), tuple(quality) if quality else None, device_ms), at + length


def unpack(
    payload: bytes, structs: dict[int, struct.Struct | None]
) -> tuple[int, list[tuple[int, pb.Gap]], Iterator[tuple[int, Row]]]:
    """(boot, gaps, rows) of one record. The record's checksum has vouched for every length in it."""
    (boot,) = _BOOT.unpack_from(payload)
    at, gaps = _BOOT.size, list[tuple[int, pb.Gap]]()
    if at < len(payload):
        group, count = _RUN.unpack_from(payload, at)
        if group == _GAPS_GROUP:
            gaps, at = unpack_gaps(payload, at + _RUN.size, count)
    return boot, gaps, _rows(payload, at, structs)


def _rows(payload: bytes, at: int, structs: dict[int, struct.Struct | None]) -> Iterator[tuple[int, Row]]:
    while at < len(payload):
        group, count = _RUN.unpack_from(payload, at)
        at += _RUN.size
        values = structs[group]
        for _ in range(count):
            mono_ms, kind = _ROW.unpack_from(payload, at)
            at += _ROW.size
            if kind == _PLAIN and values is not None:
                yield group, Row(mono_ms, values.unpack_from(payload, at))
                at += values.size
            else:
                row, at = unpacked(payload, at, mono_ms)
                yield group, row


def pack_gaps(gaps: Iterable[tuple[int, pb.Gap]]) -> bytes:
    """Payload of one record of (number, gap) pairs."""
    parts: list[bytes] = []
    for number, gap in gaps:
        body = gap.SerializeToString()
        parts += _GAP.pack(number, len(body)), body
    return b"".join(parts)


def unpack_gaps(payload: bytes, at: int = 0, count: int | None = None) -> tuple[list[tuple[int, pb.Gap]], int]:
    """So many (number, gap) pairs, or all there are to the payload's end (a record of schema 0), and where they end."""
    gaps: list[tuple[int, pb.Gap]] = []
    while at < len(payload) and (count is None or len(gaps) < count):
        number, length = _GAP.unpack_from(payload, at)
        at += _GAP.size
        gaps.append((number, pb.Gap.FromString(payload[at : at + length])))
        at += length
    return gaps, at


def structs_of(shape: pb.Declare) -> dict[int, struct.Struct | None]:
    """Per group id, from the declaration as the drivers gave it (before any scale was learnt)."""
    return {g.id: values_struct((s.type, s.raw) for s in g.series) for g in shape.groups}
