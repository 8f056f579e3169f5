"""The oracle of the journeys: what happened, what may have, and whether the ERP heard of just that."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from control_plane.simulators import expected
from control_plane.simulators.balance import Read

RULE = expected.Rule(high=8.0, hysteresis=0.5, open_after_ms=2000, close_after_ms=2000, gap_ms=8000)
BEGIN_MS = 10_000
CROSSED_MS = BEGIN_MS - 40  # evenly from 4.0 to 9.0 in 200 ms


def reads(warm_ms: int, cold_after_ms: int) -> list[Read]:
    """One every 200 ms: cold, then warm, then cold for so long."""
    end = BEGIN_MS + warm_ms
    values = [(at, 9.0 if BEGIN_MS <= at <= end else 4.0) for at in range(0, end + cold_after_ms + 1, 200)]
    return [Read(at, (value,)) for at, value in values]


def happened(warm_ms: int, cold_after_ms: int) -> expected.Expected:
    return expected.excursions(RULE, reads(warm_ms, cold_after_ms), 0, slack_ms=400)


def told(*effects: tuple[str, int]) -> dict[str, Any]:
    """What the ERP stand-in says it got: (kind, begin in ms)."""
    return {
        "conflicts": [],
        "requests": len(effects),
        "effects": [
            {
                "id": f"{kind}-{begin}",
                "entityid": str(begin),
                "entityversion": 1,
                "change": "create",
                "type": f"comboio.cold_chain.excursion.{kind}.v1",
                "data": {"opened_at": datetime.fromtimestamp(begin / 1000, UTC).isoformat()},
            }
            for kind, begin in effects
        ],
    }


def problems(want: expected.Expected, *effects: tuple[str, int]) -> list[str]:
    finals = [{"finality": "final"}] * len(effects)
    return expected.judge(want, finals, [], told(*effects), tolerance_ms=1000).problems


def test_a_long_excursion_surely_happened() -> None:
    want = happened(4000, 4000)
    assert want.sure == want.possible == [expected.Happened(CROSSED_MS, ended=True)]
    assert problems(want, ("opened", BEGIN_MS), ("closed", BEGIN_MS)) == []
    assert len(problems(want)) == 2
    assert len(problems(want, ("opened", BEGIN_MS))) == 1


@pytest.mark.parametrize("warm_ms", [1800, 2000, 2200])
def test_one_that_lasted_just_about_long_enough_may_have_happened(warm_ms: int) -> None:
    want = happened(warm_ms, 4000)
    assert want.sure == []
    assert len(want.possible) == 1
    assert problems(want) == []
    assert problems(want, ("opened", BEGIN_MS), ("closed", BEGIN_MS)) == []


def test_an_excursion_begins_where_the_limit_was_crossed_between_the_reads_that_were_kept() -> None:
    kept = [read for read in reads(3000, 4000) if not BEGIN_MS - 3000 < read.wall_ms < BEGIN_MS + 2000]
    (found,) = expected.excursions(RULE, kept, 0, slack_ms=0).sure
    assert found == expected.Happened(BEGIN_MS + 1000, ended=True), "4.0 at -3.0 s, 9.0 at +2.0 s"
    apart = [read for read in reads(3000, 4000) if not BEGIN_MS - 8000 < read.wall_ms < BEGIN_MS + 2000]
    assert expected.excursions(RULE, apart, 0, slack_ms=0).sure == [], "too far apart: 1 s warm is all that is known"


def test_one_that_may_have_ended_need_not_be_closed() -> None:
    want = happened(4000, 2200)
    assert problems(want, ("opened", BEGIN_MS)) == []
    assert problems(want, ("opened", BEGIN_MS), ("closed", BEGIN_MS)) == []
    assert len(problems(want, ("closed", BEGIN_MS))) == 1


def test_what_surely_did_not_happen_is_invented() -> None:
    want = happened(1200, 4000)
    assert want.possible == []
    assert len(problems(want, ("opened", BEGIN_MS))) == 1
    assert len(problems(happened(4000, 4000), ("opened", BEGIN_MS), ("closed", BEGIN_MS), ("opened", 500_000))) == 1
    assert len(problems(happened(4000, 1000), ("opened", BEGIN_MS), ("closed", BEGIN_MS))) == 1


def test_one_excursion_told_twice_is_once_too_often() -> None:
    want = happened(4000, 1000)
    assert len(problems(want, ("opened", BEGIN_MS), ("opened", BEGIN_MS + 400))) == 1


def test_nothing_is_expected_of_what_lies_in_a_gap() -> None:
    """Warm at both sides of nine seconds without a read: nobody knows of four seconds in a row, then of five."""
    known = [Read(at, (9.0,)) for at in (*range(0, 1600, 200), *range(11_000, 16_001, 200))]
    known += [Read(at, (4.0,)) for at in range(16_200, 20_001, 200)]
    want = expected.excursions(RULE, known, 0, slack_ms=400)
    assert want.sure == want.possible == [expected.Happened(11_000, ended=True)]


def test_an_excursion_does_not_close_over_a_gap() -> None:
    known = reads(4000, 1000)
    end = known[-1].wall_ms
    later = [Read(end + after, (4.0,)) for after in range(9000, 10_600, 200)]
    assert [one.ended for one in expected.excursions(RULE, [*known, *later], 0, slack_ms=400).possible] == [False]
