"""Tail records whose rows say only what changed since the row of their group before them: a third of the flash.

Two forms of record. A *full* one (see `layout`) needs nothing but its declaration. In a *relative* one a row may be the
difference to the last row of its group in the records before it, so a reader must have read them.

Invariants
1. A full record forgets everything, on both sides: reading may begin at any full record.
2. The first record after a sealed position is full: whoever takes such a position calls `Writer.forget`. So is the
   first after an append that failed, for nobody knows then what the file has.
3. What a reader remembers of a group is what the writer remembered after the same record: it follows from the rows as
   they are read back, by one function.

Crash argument. A kill or a power cut leaves a prefix of the records that were synced, and any of the later ones; what
stands behind a hole is read as far as it needs nothing from before it, and the hole's gap record reaches to the first
row of each group that could be read again. Damage at rest so costs up to FULL_EVERY records more than itself: never
silently, and no difference is ever added to a row that it was not taken from.

Payload, little-endian: boot u32, base mono_ms u64, number of gap records u16 and these as in `layout`; per row group
u16, ms after base i16, kind u8, and by kind the group's struct (0), a u32 length and MessagePack (1), or the difference
(2 to 5): a bit per column that changed, LSB first, and for each of those the difference as i8, i16, i32, i64.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence

from gateway.buffer import layout
from gateway.reading import Row
from protos.columns import Value
from protos.comboio.v1 import batch_pb2 as pb

MOST_ROWS = 1000
"""More in one record, and there are several of each group: compression finds what repeats, at less cost."""
FURTHEST_MS = 0x7FFF
FULL_EVERY = 128
"""Records: what damage at rest may cost beyond itself, 25 seconds."""
_HEAD = struct.Struct("<IQH")
_ROW = struct.Struct("<HhB")
_PLAIN, _PACKED, _CHANGED = 0, 1, 2
_WIDTHS = ("b", "h", "i", "q")
_SIZES = (1, 2, 4, 8)

Structs = Mapping[int, struct.Struct | None]
Values = Sequence[Value | None]
Gaps = Sequence[tuple[int, pb.Gap]]


class Writer:
    """Packs the rows of one declaration. One caller at a time."""

    def __init__(self, structs: dict[int, struct.Struct | None]) -> None:
        self._structs = structs
        self._before: dict[int, Values] = {}
        self._since_full = 0

    def forget(self) -> None:
        """Make the next record a full one."""
        self._before.clear()

    def pack(self, boot: int, rows: Sequence[tuple[int, Row]], gaps: Gaps = ()) -> tuple[bytes, bool]:
        """(payload, whether it is relative) of one record; at least one row."""
        base_ms = rows[0][1].mono_ms
        self._since_full += 1
        few = len(rows) <= MOST_ROWS and len(gaps) <= 0xFFFF
        relative = few and self._before and self._since_full < FULL_EVERY
        if relative and all(abs(row.mono_ms - base_ms) <= FURTHEST_MS for _, row in rows):
            return b"".join(self._relative(boot, base_ms, rows, gaps)), True
        self.forget()
        self._since_full = 0
        for group, row in dict(rows).items():
            _remember(self._before, group, row.values, self._structs)
        return layout.pack(boot, rows, self._structs, gaps), False

    def _relative(self, boot: int, base_ms: int, rows: Sequence[tuple[int, Row]], gaps: Gaps) -> Iterator[bytes]:
        yield _HEAD.pack(boot, base_ms, len(gaps))
        yield layout.pack_gaps(gaps)
        for group, row in rows:
            kind, body = self._row(group, row)
            yield _ROW.pack(group, row.mono_ms - base_ms, kind)
            yield body
            _remember(self._before, group, row.values, self._structs)

    def _row(self, group: int, row: Row) -> tuple[int, bytes]:
        values = self._structs[group]
        if values is not None and row.quality is None and row.device_ms is None:
            before = self._before.get(group)
            changed = _difference(row.values, before) if before is not None else None
            if changed is not None:
                return changed
            try:
                return _PLAIN, values.pack(*row.values)
            except struct.error:
                pass
        return _PACKED, layout.packed(row)


class Reader:
    """Reads records in their order, of any declarations."""

    def __init__(self) -> None:
        self._before: dict[int, Values] = {}

    def forget(self) -> None:
        """Something between the last record and the next is missing."""
        self._before.clear()

    def unpack(
        self, payload: bytes, structs: dict[int, struct.Struct | None], *, relative: bool
    ) -> tuple[int, list[tuple[int, pb.Gap]], Iterator[tuple[int, Row]]]:
        """(boot, gaps, rows) of one record; take all rows before the next record.

        A row that needs one that is missing is left out, and so are those that need it in turn.
        """
        if not relative:
            self.forget()
            boot, gaps, rows = layout.unpack(payload, structs)
            return boot, gaps, self._noted(rows, structs)
        boot, base_ms, count = _HEAD.unpack_from(payload)
        gaps, at = layout.unpack_gaps(payload, _HEAD.size, count)
        return boot, gaps, self._noted(self._rows(payload, at, base_ms, structs), structs)

    def _noted(self, rows: Iterable[tuple[int, Row]], structs: Structs) -> Iterator[tuple[int, Row]]:
        for group, row in rows:
            _remember(self._before, group, row.values, structs)
            yield group, row

    def _rows(self, payload: bytes, at: int, base_ms: int, structs: Structs) -> Iterator[tuple[int, Row]]:
        while at < len(payload):
            group, after_ms, kind = _ROW.unpack_from(payload, at)
            at += _ROW.size
            values = structs[group]
            if kind == _PACKED or values is None:
                row, at = layout.unpacked(payload, at, base_ms + after_ms)
                yield group, row
            elif kind == _PLAIN:
                yield group, Row(base_ms + after_ms, values.unpack_from(payload, at))
                at += values.size
            else:
                before = self._before.get(group)
                changes, at = _changes(payload, at, kind - _CHANGED, values.size // 8)
                if before is not None:
                    added = tuple(was + change for was, change in zip(before, changes, strict=True))  # type: ignore[operator]  # integers: see _remember
                    yield group, Row(base_ms + after_ms, added)


def _remember(before: dict[int, Values], group: int, values: Values, structs: Structs) -> None:
    """Differences are taken of integers only, in groups that have nothing else: they read back as they were."""
    form = structs[group]
    if form is not None and "d" not in form.format and all(isinstance(value, int) for value in values):
        before[group] = values
    else:
        before.pop(group, None)


def _difference(values: Values, before: Values) -> tuple[int, bytes] | None:
    """(kind, body); None where it can't be said."""
    try:
        changes = [now - was for now, was in zip(values, before, strict=True)]  # type: ignore[operator]  # a TypeError is an answer
    except TypeError:
        return None
    mask = 0
    for column, change in enumerate(changes):
        if change:
            mask |= 1 << column
    moved = [change for change in changes if change]
    head = mask.to_bytes(-(-len(changes) // 8), "little")
    for index, width in enumerate(_WIDTHS):
        try:
            return _CHANGED + index, head + struct.pack(f"<{len(moved)}{width}", *moved)
        except struct.error:
            continue
    return None


def _changes(payload: bytes, at: int, index: int, columns: int) -> tuple[list[int], int]:
    """The difference per column, and where it ends."""
    head = -(-columns // 8)
    mask = int.from_bytes(payload[at : at + head], "little")
    count = mask.bit_count()
    moved = iter(struct.unpack_from(f"<{count}{_WIDTHS[index]}", payload, at + head))
    return [next(moved) if mask >> column & 1 else 0 for column in range(columns)], at + head + count * _SIZES[index]
