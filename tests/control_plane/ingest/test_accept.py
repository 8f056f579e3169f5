from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from control_plane.ingest.accept import Lane
from control_plane.journal.journal import LaneMark

SEQS = st.integers(1, 40)


class LaneAgainstASet(RuleBasedStateMachine):
    """A lane is a set of numbers, whatever the order they come in and however often it is reloaded from its mark."""

    @initialize(held=st.sets(SEQS))
    def begin(self, held: set[int]) -> None:
        self.received: set[int] = set()
        self.lane = Lane("gw", 7, 0)
        for seq in sorted(held):
            self.offer(seq)

    @rule(seq=SEQS)
    def offer(self, seq: int) -> None:
        assert self.lane.accept(seq) == (seq not in self.received)
        self.received.add(seq)

    @rule()
    def reload(self) -> None:
        self.lane = Lane("gw", 7, 0, self.lane.mark())

    @rule(seq=SEQS)
    def a_mark_stays_what_it_was(self, seq: int) -> None:
        before = self.lane.mark()
        copy = LaneMark(*before)
        self.offer(seq)
        assert before == copy

    @invariant()
    def the_mark_says_the_set(self) -> None:
        mark = self.lane.mark()
        said = set(range(1, mark.cum + 1)) | {n for first, last in mark.above for n in range(first, last + 1)}
        assert said == self.received
        assert mark.cum + 1 not in self.received
        assert mark.max_seen == max(self.received, default=0)


TestLane = LaneAgainstASet.TestCase
TestLane.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
