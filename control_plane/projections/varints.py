"""Protobuf's packed varints as numpy arrays, many fields at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from protos.schema import BodyError

Int64 = NDArray[np.int64]
Uint64 = NDArray[np.uint64]

_LONGEST = 10


@dataclass(slots=True)
class Joined:
    """The numbers of one field of every body, one after another, and how many each body has."""

    values: Uint64
    lengths: Int64

    def unsigned32(self) -> Int64:
        """A parser keeps the low 32 bits of a uint32."""
        return (self.values & np.uint64(0xFFFFFFFF)).view(np.int64)

    def zigzag(self) -> Int64:
        one = np.uint64(1)
        return (self.values >> one).view(np.int64) ^ -(self.values & one).view(np.int64)


def join(chunks: Sequence[bytes]) -> Joined:
    """Decode in one pass. Raises BodyError where a number is cut off or too long; bits above the 64th are dropped."""
    raw = np.frombuffer(b"".join(chunks), np.uint8)
    bounds = np.cumsum(np.fromiter(map(len, chunks), np.int64, len(chunks)))
    last = raw < 128
    ends = np.flatnonzero(last)
    if raw.size and not last[bounds[bounds > 0] - 1].all():
        raise BodyError("a packed field ends in the middle of a number")
    upto = np.searchsorted(ends, bounds)
    return Joined(_assemble(raw, ends), np.diff(upto, prepend=0).astype(np.int64))


def _assemble(raw: NDArray[np.uint8], ends: NDArray[np.intp]) -> Uint64:
    sizes = np.diff(ends, prepend=-1)
    longest = int(sizes.max(initial=0))
    values = raw[ends].astype(np.uint64)
    if longest > _LONGEST:
        raise BodyError("a number has more than 10 bytes")
    where = np.arange(ends.size)
    for size in range(1, longest):
        where = where[sizes[where] > size]
        values[where] = values[where] << np.uint64(7) | (raw[ends[where] - size] & 127)
    return values


def doubles(chunks: Sequence[bytes]) -> tuple[NDArray[np.float64], Int64]:
    """The same for packed doubles."""
    lengths = np.fromiter(map(len, chunks), np.int64, len(chunks))
    if (lengths & 7).any():
        raise BodyError("a packed field ends in the middle of a double")
    return np.frombuffer(b"".join(chunks), "<f8"), lengths >> 3


def positions(lengths: Int64) -> Int64:
    """0, 1, … lengths[0]-1, 0, 1, … for each length."""
    ends = np.cumsum(lengths)
    return np.arange(int(ends[-1]) if ends.size else 0) - np.repeat(ends - lengths, lengths)


def ranges(starts: Int64, lengths: Int64) -> Int64:
    """starts[0], starts[0]+1, … of each length, one after another."""
    ends = np.cumsum(lengths)
    found: Int64 = np.repeat(starts - (ends - lengths), lengths) + np.arange(int(ends[-1]) if ends.size else 0)
    return found


def sums(values: Int64, lengths: Int64) -> Int64:
    """Sums of consecutive stretches; a stretch may be empty."""
    running = np.concatenate(([0], np.cumsum(values)))
    ends = np.cumsum(lengths)
    result: Int64 = running[ends] - running[ends - lengths]
    return result


def running_sums(steps: Int64, lengths: Int64) -> Int64:
    """Cumulative sum that starts again at each stretch, modulo 2^64. No stretch is empty."""
    starts = np.cumsum(lengths) - lengths
    total = np.cumsum(steps)
    total -= np.repeat(total[starts] - steps[starts], lengths)
    return total
