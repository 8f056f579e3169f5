"""Which seqs of one lane a stream has taken. Pure; a ten-line model in the tests is its specification."""

from __future__ import annotations

from control_plane.journal.journal import LaneMark
from protos.ranges import Ranges


class Lane:
    """Received seqs of (gateway, epoch, lane), ahead of the store by what is not yet committed.

    It belongs to one stream and is loaded from the store when that begins; a failed commit ends the stream, so it is
    never wrong for longer.
    """

    __slots__ = ("_above", "_cum", "_key", "_max_seen")

    def __init__(self, gateway: str, epoch: int, lane: int, mark: LaneMark | None = None) -> None:
        self._key = (gateway, epoch, lane)
        self._cum = mark.cum if mark else 0
        self._above = Ranges(mark.above) if mark else Ranges()
        self._max_seen = mark.max_seen if mark else 0

    def accept(self, seq: int) -> bool:
        """True if `seq` is new; it is then received."""
        if seq <= self._cum or (self._above and seq in self._above):
            return False
        self._max_seen = max(self._max_seen, seq)
        if seq == self._cum + 1:
            self._cum = seq
            if self._above:
                self._cum = self._above.through(seq + 1)
                self._above.discard_through(self._cum)
        else:
            self._above.add(seq)
        return True

    def mark(self) -> LaneMark:
        """A copy that stays what it is."""
        return LaneMark(*self._key, self._cum, tuple(self._above) if self._above else (), self._max_seen)
