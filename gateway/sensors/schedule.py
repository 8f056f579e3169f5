"""Who is due next on a bus. Pure: it is told the time and never asks for it.

Every item is released on a grid, `origin + n × period`, so that lateness never adds up. Among the released ones the
earliest deadline goes first (the end of its period), which serves every period that can be served. An item whose next
release has already passed when it is taken skips to the present; what it skipped is returned to be counted.
"""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(slots=True)
class _Slot(Generic[T]):
    item: T
    every_s: float
    origin_s: float
    n: int = 0
    gone: bool = False

    @property
    def release_s(self) -> float:
        return self.origin_s + self.n * self.every_s


class Schedule(Generic[T]):
    """Items with periods. Times are seconds of any monotonic clock."""

    def __init__(self) -> None:
        self._waiting: list[tuple[float, int, _Slot[T]]] = []
        self._released: list[tuple[float, int, _Slot[T]]] = []
        self._slots: dict[int, _Slot[T]] = {}
        self._tie = itertools.count()

    def add(self, item: T, *, every_s: float, now_s: float) -> None:
        """First due now."""
        slot = _Slot(item, every_s, now_s)
        self._slots[id(item)] = slot
        heapq.heappush(self._waiting, (now_s, next(self._tie), slot))

    def remove(self, item: T) -> None:
        """Never due again; unknown items are ignored."""
        slot = self._slots.pop(id(item), None)
        if slot is not None:
            slot.gone = True

    def __len__(self) -> int:
        return len(self._slots)

    def next_release_s(self) -> float | None:
        """When something is due, if anything is scheduled; in the past when it already is."""
        for heap in (self._released, self._waiting):
            while heap and heap[0][2].gone:
                heapq.heappop(heap)
        if self._released:
            return self._released[0][2].release_s
        return self._waiting[0][0] if self._waiting else None

    def take(self, now_s: float) -> tuple[T, int] | None:
        """The due item with the earliest deadline and how many of its releases were skipped; None if none is due."""
        while self._waiting and self._waiting[0][0] <= now_s:
            release_s, tie, slot = heapq.heappop(self._waiting)
            heapq.heappush(self._released, (release_s + slot.every_s, tie, slot))
        while self._released:
            _, _, slot = heapq.heappop(self._released)
            if not slot.gone:
                skipped = max(0, int((now_s - slot.release_s) / slot.every_s))
                slot.n += 1 + skipped
                heapq.heappush(self._waiting, (slot.release_s, next(self._tie), slot))
                return slot.item, skipped
        return None
