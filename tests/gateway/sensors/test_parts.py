"""Schedule, breaker and outage: the pure parts, with time turned by hand."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from gateway.reading import Lost
from gateway.sensors.breaker import Breaker
from gateway.sensors.outage import Outage, Skipped
from gateway.sensors.schedule import Schedule
from protos.comboio.v1 import batch_pb2 as pb


def test_a_release_grid_does_not_drift_however_late_it_is_taken() -> None:
    schedule: Schedule[str] = Schedule()
    schedule.add("a", every_s=0.1, now_s=5.0)
    now_s = 5.0
    for n in range(1000):
        assert schedule.take(now_s) == ("a", 0)
        release_s = schedule.next_release_s()
        assert release_s is not None
        assert abs(release_s - (5.0 + 0.1 * (n + 1))) < 1e-9
        now_s = release_s + 0.03  # late each time, never more each time


def test_releases_that_passed_are_skipped_and_counted() -> None:
    schedule: Schedule[str] = Schedule()
    schedule.add("a", every_s=1.0, now_s=0.0)
    assert schedule.take(0.0) == ("a", 0)
    assert schedule.take(4.5) == ("a", 3)
    assert schedule.next_release_s() == 5.0


@given(st.lists(st.floats(0.0, 3.0), min_size=1, max_size=60), st.sampled_from([0.1, 0.25, 1.0, 7.0]))
def test_every_release_is_either_taken_or_counted_as_skipped(waits: list[float], every_s: float) -> None:
    schedule: Schedule[str] = Schedule()
    schedule.add("a", every_s=every_s, now_s=0.0)
    now_s, taken, skipped = 0.0, 0, 0
    for wait in waits:
        now_s += wait
        if (due := schedule.take(now_s)) is not None:
            taken += 1
            skipped += due[1]
    release_s = schedule.next_release_s()
    assert release_s is not None
    assert abs(release_s - (taken + skipped) * every_s) < 1e-6


def test_the_earliest_deadline_goes_first_not_the_longest_wait() -> None:
    schedule: Schedule[str] = Schedule()
    schedule.add("slow", every_s=60.0, now_s=0.0)
    schedule.add("fast", every_s=0.1, now_s=0.05)
    assert schedule.take(0.06) == ("fast", 0)
    assert schedule.take(0.06) == ("slow", 0)
    assert schedule.take(0.06) is None


def test_what_left_is_never_due_again() -> None:
    schedule: Schedule[str] = Schedule()
    schedule.add("a", every_s=1.0, now_s=0.0)
    schedule.remove("a")
    schedule.remove("stranger")
    assert schedule.take(10.0) is None
    assert schedule.next_release_s() is None
    assert len(schedule) == 0


def test_a_breaker_opens_after_three_silent_polls_and_lets_single_probes_through() -> None:
    breaker = Breaker(threshold=3, first_s=0.5)
    for _ in range(2):
        breaker.silent(0.0, most_s=2.0)
        assert breaker.allows(0.0)
    breaker.silent(0.0, most_s=2.0)
    probes = []
    for now_s in (n / 8 for n in range(1, 80)):
        if breaker.allows(now_s):
            probes.append(now_s)
            breaker.silent(now_s, most_s=2.0)
    assert probes == [0.5, 1.5, 3.5, 5.5, 7.5, 9.5]


def test_one_answer_closes_a_breaker() -> None:
    breaker = Breaker(threshold=1)
    breaker.silent(0.0, most_s=2.0)
    assert not breaker.allows(0.1)
    breaker.answered()
    assert breaker.allows(0.1)


def test_an_outage_is_one_gap_between_its_good_neighbours() -> None:
    outage = Outage(started_ms=100)
    assert outage.good(200) is None
    outage.failed(300)
    outage.failed(400)
    assert outage.since_ms == 300
    assert outage.good(500) == Lost(200, 500, 2, pb.GAP_UNREADABLE)
    assert outage.since_ms is None
    assert outage.good(600) is None


def test_an_outage_from_the_start_begins_at_the_start() -> None:
    outage = Outage(started_ms=100)
    outage.failed(150)
    assert outage.good(500) == Lost(100, 500, 1, pb.GAP_UNREADABLE)


def test_a_long_outage_is_closed_each_minute_and_goes_on_beside_it() -> None:
    outage = Outage(started_ms=0)
    outage.failed(1_000)
    assert outage.overdue(60_999) is None
    assert outage.overdue(61_000) == Lost(0, 61_000, 1, pb.GAP_UNREADABLE)
    assert outage.since_ms is None
    outage.failed(62_000)
    assert outage.good(63_000) == Lost(61_000, 63_000, 1, pb.GAP_UNREADABLE)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 40_000)), max_size=80))
def test_every_failed_read_is_strictly_inside_exactly_one_gap(reads: list[tuple[bool, int]]) -> None:
    outage = Outage(started_ms=0)
    gaps: list[Lost | None] = []
    failed, good, now_ms = [], [], 1
    for ok, wait_ms in reads:
        now_ms += 1 + wait_ms
        gaps.append(outage.overdue(now_ms))
        now_ms += 1
        if ok:
            gaps.append(outage.good(now_ms))
            good.append(now_ms)
        else:
            outage.failed(now_ms)
            failed.append(now_ms)
    gaps.append(outage.end(now_ms))
    told = [gap for gap in gaps if gap is not None]
    assert sum(gap.reads for gap in told) == len(failed)
    for at in failed:
        assert sum(gap.after_mono_ms < at < gap.before_mono_ms for gap in told) == 1
    for at in good:
        assert not any(gap.after_mono_ms < at < gap.before_mono_ms for gap in told)
    for one, following in itertools.pairwise(told):
        assert one.before_mono_ms <= following.after_mono_ms


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 20_000)), max_size=60), st.integers(1, 20_000))
def test_every_poll_that_fell_out_is_in_one_gap_and_no_good_read_inside_it(
    polls: list[tuple[int, int]], stopped_after_ms: int
) -> None:
    skipped = Skipped(started_ms=100, close_every_ms=60_000)
    now_ms, losts, rows = 100, list[Lost](), list[int]()
    for fell_out, passed_ms in polls:
        now_ms += passed_ms
        skipped.add(fell_out)
        lost = skipped.good(now_ms)
        rows.append(now_ms)
        losts += [lost] if lost is not None else []
    assert len(losts) <= (now_ms - 100) // 60_000, "more than one a minute"
    last = skipped.end(now_ms + stopped_after_ms)
    losts += [last] if last is not None else []
    assert sum(one.reads for one in losts) == sum(fell_out for fell_out, _ in polls)
    assert not any(one.after_mono_ms < at < one.before_mono_ms for one in losts for at in rows)
    assert {one.reason for one in losts} <= {pb.GAP_QUEUE_FULL}
