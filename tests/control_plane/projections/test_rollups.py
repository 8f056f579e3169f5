"""Charts say the same from rollups as from readings, whatever came in between."""

from __future__ import annotations

import random
from typing import Any

import pytest
from sqlalchemy import delete, select

from control_plane.projections import rollups
from control_plane.projections.rollup import DAY_MS, HOUR_MS, names
from control_plane.projections.rollups import STEP_MS, Charts, Roller, standing
from control_plane.store.tables import rolled, rollup
from tests.control_plane.conftest import START_MS
from tests.control_plane.projections.conftest import Road
from tests.control_plane.projections.test_readings import anchor
from tests.control_plane.sealing import EPOCH, GATEWAY, batch, declare, urgent

KEYS = [("probe", "temperature"), ("door", "open")]
SPAN_MS = 40 * HOUR_MS
LEVELS = range(len(STEP_MS))


def told(road: Road, level: int, from_ms: int = START_MS - HOUR_MS, to_ms: int = START_MS + SPAN_MS) -> list[Any]:
    with Charts(telemetry=road.stores.telemetry, reader=road.reader()).of(GATEWAY, KEYS) as chart:
        steps = chart.steps(level, from_ms, to_ms)
    names = [steps.names[number] for number in steps.series.tolist()]
    columns = [column.tolist() for column in steps.columns()[1:]]
    return sorted(zip(names, *([round(one, 6) for one in column] for column in columns), strict=True))


def levels(road: Road) -> list[list[Any]]:
    return [told(road, level) for level in LEVELS]


def without_rollups(road: Road) -> list[list[Any]]:
    """What the readings themselves say: nothing is known to be rolled up, and nothing is."""
    with road.stores.telemetry.write() as connection:
        kept = connection.execute(select(rolled)).mappings().all()
        connection.execute(delete(rolled))
        bodies = connection.execute(select(rollup)).mappings().all()
        connection.execute(delete(rollup))
    try:
        return levels(road)
    finally:
        with road.stores.telemetry.write() as connection:
            if kept:
                connection.execute(rolled.insert(), [dict(one) for one in kept])
            if bodies:
                connection.execute(rollup.insert(), [dict(one) for one in bodies])


def stale(road: Road) -> set[int]:
    with road.stores.telemetry.read(snapshot=True) as connection:
        return standing(connection, GATEWAY).stale


@pytest.fixture
def days(road: Road) -> Road:
    """A day and a half of a probe each 10 s, and a door that is told each minute."""
    chance = random.Random(5)
    road.declare()
    road.arrive(urgent(1, anchor(0, START_MS + 1234)))
    level, seq = 40, 0
    for hour in range(0, 36, 2):
        tenths = []
        for _ in range(720):
            level += chance.choice((-1, 0, 0, 1))
            tenths.append(level)
        seq += 2
        road.arrive(
            batch(seq - 1, *tenths, at_ms=hour * HOUR_MS, step_ms=10_000),
            batch(seq, *(minute // 7 % 2 for minute in range(120)), at_ms=hour * HOUR_MS, step_ms=60_000, group=2),
        )
    road.project()
    return road


def test_rollups_say_what_the_readings_say(days: Road) -> None:
    before = levels(days)
    assert [sum(row[2] for row in one) for one in before] == [18 * (720 + 120)] * len(LEVELS)
    assert (len(before[0]), len(before[1])) == (2 * 36 * 60, 2 * 36)
    assert stale(days)
    days.seal()
    assert not stale(days)
    assert levels(days) == before == without_rollups(days)


def test_ends_within_a_step_are_taken_from_finer_ones(days: Road) -> None:
    days.seal()
    from_ms, to_ms = START_MS + 7 * HOUR_MS + 61_234, START_MS + 31 * HOUR_MS + 5_000
    for level in LEVELS:
        found = told(days, level, from_ms, to_ms)
        assert sum(row[2] for row in found if row[0] == "probe/temperature") == (to_ms - from_ms) // 10_000 + 1


def test_what_comes_late_is_seen_at_once_and_rolled_up_again(days: Road) -> None:
    days.seal()
    days.arrive(batch(90, 900, 901, at_ms=5 * HOUR_MS + 5))
    days.project()
    assert len(stale(days)) == 1
    fresh = levels(days)
    assert max(row[4] for row in fresh[2]) == 90.1
    days.seal()
    assert not stale(days)
    assert levels(days) == fresh == without_rollups(days)


def test_a_better_anchor_makes_only_what_it_moves_stale(days: Road) -> None:
    days.seal()
    days.arrive(
        urgent(2, anchor(30 * HOUR_MS, START_MS + 1234 + 30 * HOUR_MS), anchor(35 * HOUR_MS, START_MS + 35 * HOUR_MS))
    )
    days.project()
    assert len(stale(days)) in {6, 7}, "only what lies after the anchor that changed nothing"
    moved = levels(days)
    roller = Roller(telemetry=days.stores.telemetry, reader=days.reader())
    roller.sealed(GATEWAY)
    roller.step()
    assert not stale(days)
    assert levels(days) == moved == without_rollups(days)


def test_a_boot_that_is_placed_late_is_rolled_up_then(days: Road) -> None:
    days.seal()
    days.arrive(batch(91, *range(100), at_ms=1000, boot=2))
    days.project()
    days.seal()
    before = levels(days)
    days.arrive(urgent(3, anchor(0, START_MS + 38 * HOUR_MS, boot=2), boot=2))
    days.project()
    after = levels(days)
    assert len(after[1]) == len(before[1]) + 1
    Roller(telemetry=days.stores.telemetry, reader=days.reader()).step()
    assert levels(days) == after == without_rollups(days)


def test_rows_of_two_stores_of_one_boot_count_once(days: Road) -> None:
    """A restored image brought rows again that had come before."""
    days.seal()
    days.declare(declare(epoch=EPOCH + 1))
    days.arrive(batch(1, 40, 41, at_ms=0, step_ms=10_000, epoch=EPOCH + 1))
    days.project()
    days.seal()
    assert levels(days) == without_rollups(days)


def test_a_kill_between_the_hours_leaves_them_to_the_readings(days: Road, monkeypatch: pytest.MonkeyPatch) -> None:
    before = levels(days)
    days.sealing = False
    calls = []

    def killed(*args: Any) -> None:
        calls.append(1)
        if len(calls) > 9:
            raise KeyboardInterrupt
        write(*args)

    write = rollups._write
    monkeypatch.setattr(rollups, "_write", killed)
    with pytest.raises(KeyboardInterrupt):
        days.seal()
    assert levels(days) == before
    monkeypatch.undo()
    roller = Roller(telemetry=days.stores.telemetry, reader=days.reader())
    while roller.step():
        pass
    assert not stale(days)
    assert levels(days) == before


def test_minutes_are_kept_of_what_is_read_often_only(days: Road) -> None:
    days.seal()
    with days.stores.telemetry.read() as connection:
        minutes = [names(row.body) for row in connection.execute(select(rollup).where(rollup.c.level == 0))]
    assert {name for some in minutes for name in some} == {"probe/temperature"}
    assert told(days, 0, START_MS, START_MS + DAY_MS)[0][0] == "door/open"
