from __future__ import annotations

import pytest

from control_plane.journal.lineage import Lineage
from protos.comboio.v1 import batch_pb2 as pb
from protos.comboio.v1 import link_pb2 as wire
from protos.ranges import Ranges
from tests.control_plane.sealing import ranges

A, B, C, D = 10, 20, 30, 40


def heir(epoch: int, of: int, *pairs: tuple[int, int], agreed: int = 100) -> wire.Hello:
    return wire.Hello(
        epoch=epoch, predecessor_epoch=of, moved=[wire.Moved(lane=pb.TELEMETRY, seqs=ranges(pairs), agreed=agreed)]
    )


def lineage(*hellos: wire.Hello) -> Lineage:
    of = Lineage()
    for said in hellos:
        of.add(said)
    return of


def living(of: Lineage, epoch: int, *pairs: tuple[int, int]) -> list[tuple[int, int]]:
    return list(iter(of.living(epoch, 0, Ranges(pairs))))


@pytest.mark.parametrize(("seq", "origin"), [(1, (A, 3)), (3, (A, 5)), (4, (A, 9)), (5, (B, 5)), (0, (B, 0))])
def test_a_batch_that_moved_speaks_of_the_numbers_it_was_sealed_among(seq: int, origin: tuple[int, int]) -> None:
    assert lineage(heir(B, A, (3, 5), (9, 9))).origin(B, 0, seq) == origin


def test_through_two_changes_of_epoch() -> None:
    of = lineage(heir(B, A, (3, 5)), heir(C, B, (2, 4)))
    assert [of.origin(C, 0, seq) for seq in (1, 2, 3, 4)] == [(A, 4), (A, 5), (B, 4), (C, 4)]


def test_every_name_a_batch_may_have_come_under() -> None:
    of = lineage(heir(B, A, (3, 5)), heir(C, A, (4, 6)), heir(D, B, (2, 3)))
    assert sorted(of.elsewhere(C, 0, 1)) == [(A, 4), (B, 2), (D, 1)]
    assert sorted(of.elsewhere(C, 0, 3)) == [(A, 6)]
    assert of.elsewhere(C, 0, 4) == []
    assert of.elsewhere(C, 1, 1) == []


def test_what_was_taken_along_for_certain_lives() -> None:
    of = lineage(heir(B, A, (3, 5), (8, 9), agreed=9))
    assert living(of, A, (1, 4), (7, 12)) == [(3, 4), (8, 8)]
    assert living(of, B, (1, 4)) == []


def test_what_two_heirs_took_along_lives_in_either() -> None:
    of = lineage(heir(B, A, (3, 5)), heir(C, A, (4, 6), agreed=6))
    assert living(of, B, (1, 9)) == [(2, 3)]  # the predecessor's 4 and 5


def test_numbers_that_go_in_a_circle_end() -> None:
    of = lineage(heir(B, A, (1, 5)), heir(A, B, (1, 5)))
    assert of.origin(A, 0, 1)[1] == 1
    assert sorted(of.elsewhere(A, 0, 1)) == [(B, 1)]


def test_a_hello_that_claims_everything_costs_nothing() -> None:
    of = lineage(heir(B, A, (1, 1 << 40), agreed=1 << 40), heir(C, A, (1, 1 << 40), agreed=1 << 40))
    assert living(of, B, (1, 1 << 39)) == [(1, 1 << 39)]
