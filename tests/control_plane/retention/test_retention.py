"""What is over is dropped in whole units, what is needed outlives it, and what is gone is said to be gone."""

from __future__ import annotations

from control_plane.store.tables import batch, chunk, rollup
from control_plane.store.units import BASE
from tests.control_plane.reconcile.plant import WALL0_MS, Gateway, steady
from tests.control_plane.retention.conftest import DAY_MS, Kept

FAR = (1, 1 << 40)
HOUR_MS = 3_600_000


def send_days(kept: Kept, *boxes: Gateway, days: int) -> None:
    """Each day one batch of each of them, of that hour; the worker's loops pass over it."""
    for one in boxes:
        if not one.seqs[0] and not one.seqs[1]:
            kept.deliver(one, [one.anchors((1, 0, WALL0_MS), complete=FAR)])
    for _ in range(days):
        start_s = (kept.clock.now_ms() - WALL0_MS) // 1000 + 1
        for one in boxes:
            kept.deliver(one, [one.readings(steady(start_s, 4.0, 4.1, 4.2))])
        kept.day()


def test_nothing_is_divided_where_everything_is_kept_for_ever(kept: Kept, box: Gateway) -> None:
    kept.set()
    send_days(kept, box, days=3)
    assert kept.units(batch) == kept.units(chunk) == kept.units(rollup) == []
    assert len(kept.rows(batch)) == 4


def test_raw_batches_go_once_their_time_is_over_and_readings_stay(kept: Kept, box: Gateway) -> None:
    send_days(kept, box, days=2)
    before = kept.read(box).values
    send_days(kept, box, days=6)
    assert len(kept.rows(batch)) <= 4
    assert kept.read(box).values[: len(before)] == before
    assert len(kept.read(box).values) == 8 * 3


def test_ids_rise_over_all_units_also_when_every_row_is_gone(kept: Kept, box: Gateway) -> None:
    send_days(kept, box, days=2)
    highest = max(row.id for row in kept.rows(batch))
    for _ in range(8):
        kept.day()
    assert kept.rows(batch) == []
    send_days(kept, box, days=1)
    assert [row.id for row in kept.rows(batch)][-1] > highest
    assert len(kept.read(box).values) == 3 * 3


def test_a_unit_stays_until_it_was_projected_and_reconciled(kept: Kept, box: Gateway) -> None:
    kept.deliver(box, [box.anchors((1, 0, WALL0_MS), complete=FAR), box.readings(steady(1, 4, 4))])
    for _ in range(5):
        kept.forward(days=1)
        kept.drop()
    assert len(kept.rows(batch)) == 2
    kept.settle()
    kept.seal()
    kept.forward(days=1)
    assert kept.drop() == 1
    assert kept.rows(batch) == []
    assert len(kept.read(box).values) == 2


def test_what_is_not_sealed_moves_on_instead_of_going(kept: Kept, box: Gateway) -> None:
    kept.deliver(box, [box.anchors((1, 0, WALL0_MS), complete=FAR), box.readings(steady(1, 4, 5))])
    kept.settle()
    before = kept.rows(batch)
    for _ in range(6):
        kept.forward(days=1)
        kept.settle()
        kept.drop()
    (left,) = kept.rows(batch)
    assert left in before
    assert left.body == before[1].body
    assert kept.read(box).values == [4, 5]


def test_readings_go_and_it_is_said_from_when_on_there_are_some(kept: Kept, box: Gateway) -> None:
    kept.set(raw_days=1, readings_days=3)
    send_days(kept, box, days=10)
    left = kept.read(box).times_ms
    assert 3 * 3 <= len(left) <= 5 * 3
    now_ms = kept.clock.now_ms()
    answer = kept.answer(
        [box.subject], WALL0_MS, now_ms, as_of_ms=now_ms
    )  # for which readings are looked at one by one
    assert answer.series[0].times_ms == left
    assert answer.not_kept_before is not None
    from_ms = round(answer.not_kept_before.timestamp() * 1000)
    assert WALL0_MS < from_ms <= left[0] + HOUR_MS
    assert kept.answer([box.subject], left[-1] - HOUR_MS, kept.clock.now_ms()).not_kept_before is None


def test_charts_of_what_is_gone_come_from_rollups(kept: Kept, box: Gateway) -> None:
    send_days(kept, box, days=3)
    before = kept.answer([box.subject], WALL0_MS, WALL0_MS + 3 * DAY_MS, max_points=1)
    kept.set(raw_days=1, readings_days=2)
    send_days(kept, box, days=8)
    assert kept.read(box, to_ms=WALL0_MS + 3 * DAY_MS).values == []
    after = kept.answer([box.subject], WALL0_MS, WALL0_MS + 3 * DAY_MS)
    assert after.resolution == "1h"
    assert sum(after.series[0].count or []) == sum(before.series[0].count or []) == 9
    assert after.not_kept_before is None  # hours are kept for ever


def test_what_comes_late_leaves_rollups_of_dropped_readings_as_they_were(kept: Kept, box: Gateway) -> None:
    kept.set(raw_days=1, readings_days=2)
    send_days(kept, box, days=8)
    (before,) = kept.answer([box.subject], WALL0_MS, WALL0_MS + DAY_MS).series
    kept.deliver(box, [box.readings([(1500, 60.0)])])
    kept.day()
    (after,) = kept.answer([box.subject], WALL0_MS, WALL0_MS + DAY_MS).series
    assert (after.times_ms, after.max, after.count) == (before.times_ms, before.max, before.count)
    assert before.count == [3]


def test_a_group_keeps_its_own_longer_and_nobody_elses(kept: Kept, box: Gateway, other: Gateway) -> None:
    kept.set(raw_days=1, readings_days=2)
    kept.group("pharma", other.id, raw_days=30, readings_days=0)
    send_days(kept, box, other, days=9)
    assert kept.count(batch, other) == 10
    assert kept.count(batch, box) <= 3
    assert len(kept.read(other).values) == 27
    assert len(kept.read(box).values) <= 4 * 3
    assert kept.answer([other.subject], WALL0_MS, kept.clock.now_ms()).not_kept_before is None


def test_a_gateway_that_changes_its_group_has_its_next_units_there(kept: Kept, box: Gateway, other: Gateway) -> None:
    kept.set(raw_days=1)
    kept.group("pharma", other.id, raw_days=30)
    kept.drop()  # divides: what came before stays together, as long as the longest says
    send_days(kept, box, other, days=2)
    kept.group("pharma", box.id)
    send_days(kept, box, other, days=6)
    ours = {row.seq for row in kept.rows(batch) if row.gateway == box.id}
    theirs = {row.seq for row in kept.rows(batch) if row.gateway == other.id}
    assert len(ours) == 6  # since it came; what it had before went as its old group says
    assert {1, 2} <= theirs  # and what the other had stays as it was to be kept
    assert len(theirs) <= 5


def test_of_several_groups_the_one_of_the_highest_priority_decides(kept: Kept, box: Gateway) -> None:
    kept.group("all", box.id, raw_days=5, priority=1)
    kept.group("more", box.id, raw_days=9, priority=2)
    assert kept.policies.kept_as(box.id) == "more"
    kept.group("all", box.id, raw_days=5, priority=3)
    assert kept.policies.kept_as(box.id) == "all"


def test_rollups_go_by_level(kept: Kept, box: Gateway) -> None:
    kept.set(minutes_days=2, hours_days=40)
    kept.drop()  # divides, before anything is rolled up
    send_days(kept, box, days=6)
    kept.forward(days=3)
    kept.seal()
    kept.drop()
    levels = [row.level for row in kept.rows(rollup)]
    assert levels.count(1) == 6
    assert levels.count(0) < 6
    assert levels.count(3) >= 1
    for _ in range(10):
        kept.forward(days=9)
        kept.drop()
    levels = [row.level for row in kept.rows(rollup)]
    assert levels.count(0) == levels.count(1) == 0
    assert levels.count(3) >= 1
    assert [unit.number for unit in kept.units(rollup) if unit.level == 0] == [BASE]


def test_a_second_pass_finds_nothing_to_do(kept: Kept, box: Gateway) -> None:
    send_days(kept, box, days=6)
    before = kept.units(batch), kept.rows(batch)
    assert kept.drop() == 0
    assert (kept.units(batch), kept.rows(batch)) == before


def test_on_sqlite_a_unit_is_closed_when_it_is_large(kept: Kept, box: Gateway) -> None:
    kept.retention.unit_bytes = 1
    kept.deliver(box, [box.anchors((1, 0, WALL0_MS), complete=FAR)])
    kept.day()
    kept.drop()
    for number in range(3):
        kept.deliver(box, [box.readings(steady(number * 10 + 1, 4, 4))])
        kept.drop()
    units = [unit for unit in kept.units(batch) if unit.number > BASE]
    assert len(units) == (4 if kept.stores.journal.sqlite else 1)
