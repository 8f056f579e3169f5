"""A bug in a decoder or a projection costs nothing for good: its batches are set aside, and projected after the fix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from control_plane.projections import again
from control_plane.projections.history import HistoryProjection
from control_plane.projections.ledger import unpack
from control_plane.projections.projection import Portion
from control_plane.projections.projector import MOST_BROKEN
from control_plane.store.tables import cursor, gap, history, loss, quarantine, received
from protos.comboio.v1 import batch_pb2 as pb
from tests.control_plane.projections.conftest import Road
from tests.control_plane.sealing import batch, urgent

Apply = Callable[[HistoryProjection, Any, Portion], None]


class Bug:
    """In the history's projection, for batches of these seqs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *seqs: int) -> None:
        self.real: Apply = HistoryProjection.apply
        self.seqs = seqs
        monkeypatch.setattr(HistoryProjection, "apply", self._apply_of())

    def _apply_of(self) -> Apply:
        bug = self

        def apply(projection: HistoryProjection, connection: Any, portion: Portion) -> None:
            bug.real(projection, connection, portion)
            seqs = {envelope.seq for one in portion.decoded for envelope in one.envelopes}
            if seqs & set(bug.seqs):
                raise KeyError("a bug")

        return apply

    def fix(self) -> None:
        self.seqs = ()


def ask(road: Road) -> int:
    """As `comboio-control quarantine --again`, and a worker that looks at once."""
    found = again.ask(road.stores.telemetry)
    road.projector._looked_s = float("-inf")
    road.project()
    return found


def facts(road: Road) -> dict[str, Any]:
    """Everything that a person can ask, but for what tells that there was a quarantine."""
    left = road.everything()
    del left["cursor"], left["gap"], left["progress"]
    return left


def filled(road: Road) -> None:
    road.declare()
    road.arrive(*(batch(seq, seq, seq, at_ms=1000 * seq, step_ms=400) for seq in range(1, 9)))
    road.project()


def test_a_projection_that_fails_on_one_batch_goes_on_with_the_others(
    road: Road, monkeypatch: pytest.MonkeyPatch
) -> None:
    Bug(monkeypatch, 5)
    filled(road)
    (row,) = road.rows(quarantine)
    assert row.error == "KeyError: 'a bug'"
    assert road.gaps() == [("GAP_UNDECODABLE", [(5, 5)])]
    assert road.lane()[0] == 8
    assert len(road.rows(history)) == 7


def test_after_the_fix_everything_is_as_if_there_had_been_no_bug(road: Road, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(road)
    want = facts(road)
    road.wipe()
    bug = Bug(monkeypatch, 3, 4, 7)
    road.projector = road.new_projector()
    road.project()
    assert len(road.rows(quarantine)) == 3
    assert facts(road) != want
    bug.fix()
    assert ask(road) == 3
    assert facts(road) == want
    assert road.rows(quarantine) == []
    assert {row.joined_to for row in road.rows(gap)} == {""}  # withdrawn: no reader shows them


def test_what_can_still_not_be_read_stays_as_it_is(road: Road, monkeypatch: pytest.MonkeyPatch) -> None:
    bug = Bug(monkeypatch, 3, 6)
    filled(road)
    bug.seqs = (6,)
    assert ask(road) == 2
    (row,) = road.rows(quarantine)
    assert row.error == "KeyError: 'a bug'"
    shown = [row.id for row in road.rows(gap) if row.joined_to is None]
    assert shown == [f"undecodable-{row.batch_id}"]
    (left,) = road.rows(loss)  # the hour that both were of
    assert left.unknown == 1
    bug.fix()
    assert ask(road) == 1
    assert road.rows(loss) == []


def test_those_who_follow_the_history_are_told_how_far_back_it_grew(
    road: Road, monkeypatch: pytest.MonkeyPatch
) -> None:
    bug = Bug(monkeypatch, 3, 6)
    filled(road)
    ids = [row.batch_id for row in road.rows(quarantine)]
    bug.fix()
    with road.stores.telemetry.read() as connection:
        assert again.late(connection) is None
    ask(road)
    with road.stores.telemetry.read() as connection:
        assert again.late(connection) == again.Late(2, min(ids))
    assert again.AGAIN not in {row.name for row in road.rows(cursor)}


def test_a_bug_that_meets_every_batch_stops_instead_of_setting_all_aside(
    road: Road, monkeypatch: pytest.MonkeyPatch
) -> None:
    road.declare()
    road.arrive(*(batch(seq, seq, at_ms=1000 * seq) for seq in range(1, 24)))
    bug = Bug(monkeypatch, *range(1, 24))
    with pytest.raises(KeyError):
        road.project()
    assert len(road.rows(quarantine)) == MOST_BROKEN
    bug.fix()
    road.project()
    assert ask(road) == MOST_BROKEN
    assert road.rows(quarantine) == []
    assert len(road.rows(received)) == 1


def test_a_portion_is_halved_down_to_the_one(road: Road, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is in the same portion is written once."""
    Bug(monkeypatch, 17)
    road.declare()
    road.arrive(*(batch(seq, seq, at_ms=1000 * seq) for seq in range(1, 40)))
    road.arrive(urgent(1))
    road.project()
    assert len(road.rows(quarantine)) == 1
    (hour,) = road.rows(received)
    assert unpack(hour.body) == {1: 38}
    assert road.lane()[0] == 39
    assert road.lane(pb.URGENT)[0] == 1
