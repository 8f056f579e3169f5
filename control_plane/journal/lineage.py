"""Which batch of which epoch is which, after ordered changes of epoch. Pure.

A gateway that is ordered a new epoch gives what it still holds new numbers and says which old ones these were. So a
batch may have been sent under several names: by the store before it was put back from an image, by that image, and by
the same image put back again. Names are connected by what the Hellos said; whether two of them really stand for the
same batch only its bytes can tell.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import accumulate, chain

from protos.comboio.v1 import link_pb2 as wire
from protos.ranges import Ranges

Place = tuple[int, int]  # (epoch, seq)


class Renumbered:
    """The predecessor's seqs of one lane, in the order in which they live on, numbered from 1."""

    __slots__ = ("_first", "_last", "_replaced", "_through", "agreed")

    def __init__(self, ranges: Ranges, *, agreed: int, replaced: Ranges | None = None) -> None:
        pairs = list(iter(ranges))  # not by its length, which a Hello may make as large as it likes
        self._first = [first for first, _ in pairs]
        self._last = [last for _, last in pairs]
        self._through = list(accumulate(last - first + 1 for first, last in pairs))
        self._replaced = replaced or Ranges()
        self.agreed = agreed
        """Below it a seq is certainly the batch that the server knows by it."""

    @property
    def through(self) -> int:
        """The highest new seq."""
        return self._through[-1] if self._through else 0

    def before(self, seq: int) -> int:
        """The predecessor's seq that lives on as `seq`; 0 if none does."""
        if not 0 < seq <= self.through:
            return 0
        at = bisect_left(self._through, seq)
        return self._last[at] - (self._through[at] - seq)

    def after(self, old: int) -> int:
        """As what the predecessor's `old` lives on; 0 if it does not."""
        at = bisect_right(self._first, old) - 1
        if at < 0 or old > self._last[at]:
            return 0
        return self._through[at] - (self._last[at] - old)

    def ranges(self) -> Ranges:
        """The predecessor's seqs."""
        return Ranges(zip(self._first, self._last, strict=True))

    def certain(self) -> Ranges:
        """Of these, and of what thinned ones among them stand for, those of which the server may say: they live on."""
        found = Ranges()
        for first, last in chain(self.ranges(), self._replaced):
            found.add(first, min(last, self.agreed - 1))
        return found


class Heir:
    """An epoch that was begun on the server's order, as its Hello says."""

    __slots__ = ("lanes", "predecessor")

    def __init__(self, hello: wire.Hello) -> None:
        self.predecessor = hello.predecessor_epoch
        self.lanes = {
            int(said.lane): Renumbered(
                Ranges((r.first, r.last) for r in said.seqs),
                agreed=said.agreed,
                replaced=Ranges((r.first, r.last) for r in said.replaced),
            )
            for said in hello.moved
        }


class Lineage:
    """All ordered changes of epoch of one gateway."""

    def __init__(self) -> None:
        self._heirs: dict[int, Heir] = {}

    def add(self, hello: wire.Hello) -> None:
        """Take what a Hello says of its epoch; one without a predecessor says nothing here."""
        if hello.predecessor_epoch:
            self._heirs[hello.epoch] = Heir(hello)

    @property
    def epochs(self) -> set[int]:
        """All that were ever named."""
        return self._heirs.keys() | {heir.predecessor for heir in self._heirs.values()}

    def living(self, epoch: int, lane: int, seqs: Ranges) -> Ranges:
        """Which of these seqs of an epoch that is over were taken along by another one, for certain.

        By an heir, or by another heir of where they come from: a store that was put back twice.
        """
        own, found = self._heirs.get(epoch), Ranges()
        for other, heir in self._heirs.items():
            if other == epoch or lane not in heir.lanes:
                continue
            certain = heir.lanes[lane].certain()
            if heir.predecessor == epoch:
                found.update(certain)
            elif own is not None and own.predecessor == heir.predecessor and lane in own.lanes:
                here = own.lanes[lane]
                for first, last in _overlap(here.ranges(), certain):
                    found.add(here.after(first), here.after(last))
        return Ranges(_overlap(found, seqs))

    def origin(self, epoch: int, lane: int, seq: int) -> Place:
        """Where a batch got its first number: by the numbers of that epoch it speaks of others."""
        seen: set[int] = set()
        while epoch not in seen and (old := self._before(epoch, lane, seq)):
            seen.add(epoch)
            epoch, seq = self._heirs[epoch].predecessor, old
        return epoch, seq

    def elsewhere(self, epoch: int, lane: int, seq: int) -> list[Place]:
        """Every other name that the same batch may have been sent under."""
        found = [(epoch, seq)]
        for place in found:  # it grows
            for other in self._next(*place, lane):
                if other not in found:
                    found.append(other)
        return found[1:]

    def _next(self, epoch: int, seq: int, lane: int) -> Iterator[Place]:
        if old := self._before(epoch, lane, seq):
            yield self._heirs[epoch].predecessor, old
        for other, heir in self._heirs.items():
            if heir.predecessor == epoch and lane in heir.lanes and (new := heir.lanes[lane].after(seq)):
                yield other, new

    def _before(self, epoch: int, lane: int, seq: int) -> int:
        heir = self._heirs.get(epoch)
        return heir.lanes[lane].before(seq) if heir is not None and lane in heir.lanes else 0


def _overlap(one: Ranges, other: Ranges) -> Iterator[tuple[int, int]]:
    """The ranges that are in both; each lies within one of either."""
    theirs = list(iter(other))
    at = 0
    for first, last in one:
        while at < len(theirs) and theirs[at][1] < first:
            at += 1
        for lo, hi in theirs[at:]:
            if lo > last:
                break
            yield max(first, lo), min(last, hi)
