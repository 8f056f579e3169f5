"""Sets of sequence numbers as sorted, disjoint, inclusive ranges.

A lane's numbers are nearly contiguous, so a set is a handful of ranges however many numbers it holds.
Packed form: little-endian uint64 pairs (first, last).
"""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

_PAIR = struct.Struct("<QQ")


class Ranges:
    """A mutable set of non-negative integers. All operations are O(number of ranges) or better."""

    __slots__ = ("_first", "_last")

    def __init__(self, pairs: Iterable[tuple[int, int]] = ()) -> None:
        self._first: list[int] = []
        self._last: list[int] = []
        for first, last in pairs:
            self.add(first, last)

    @classmethod
    def unpack(cls, data: bytes) -> Ranges:
        return cls(_PAIR.iter_unpack(data))

    def pack(self) -> bytes:
        return b"".join(map(_PAIR.pack, self._first, self._last))

    def copy(self) -> Ranges:
        other = Ranges()
        other._first, other._last = self._first.copy(), self._last.copy()
        return other

    def add(self, first: int, last: int | None = None) -> None:
        """Put every number of first..last in; what is in already stays."""
        last = first if last is None else last
        if last < first:
            return
        left = bisect_left(self._last, first - 1)
        right = bisect_right(self._first, last + 1)
        if left < right:
            first = min(first, self._first[left])
            last = max(last, self._last[right - 1])
        self._first[left:right] = [first]
        self._last[left:right] = [last]

    def update(self, other: Ranges) -> None:
        for first, last in other:
            self.add(first, last)

    def discard_through(self, last: int) -> None:
        """Take out every number <= last."""
        cut = bisect_right(self._last, last)
        del self._first[:cut], self._last[:cut]
        if self._first and self._first[0] <= last:
            self._first[0] = last + 1

    def missing(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """The ranges of first..last that are not in, in order."""
        position = first
        for lo, hi in self:
            if hi < position:
                continue
            if lo > last:
                break
            if lo > position:
                yield position, lo - 1
            position = hi + 1
        if position <= last:
            yield position, last

    def through(self, start: int = 1) -> int:
        """The highest n such that every number of start..n is in; start - 1 if start is not in."""
        index = bisect_right(self._first, start) - 1
        if index >= 0 and self._last[index] >= start:
            return self._last[index]
        return start - 1

    @property
    def highest(self) -> int:
        """The highest number in, 0 if empty."""
        return self._last[-1] if self._last else 0

    def __contains__(self, number: int) -> bool:
        index = bisect_right(self._first, number) - 1
        return index >= 0 and self._last[index] >= number

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(list(zip(self._first, self._last, strict=True)))

    def __len__(self) -> int:
        """How many numbers are in (not how many ranges)."""
        return sum(self._last) - sum(self._first) + len(self._first)

    def __bool__(self) -> bool:
        return bool(self._first)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ranges) and self._first == other._first and self._last == other._last

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Ranges({list(self)})"
