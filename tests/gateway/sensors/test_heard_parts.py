"""Freshness and gaps of sensors that can only be listened to: pure, on turned time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.decoders.advertisements import Counter
from gateway.reading import Lost
from gateway.sensors.freshness import Freshness, News
from gateway.sensors.heard import Heard
from protos.comboio.v1 import batch_pb2 as pb

NEW, REPEATED, OLDER = News.NEW, News.REPEATED, News.OLDER


def judged(*counters: tuple[int, int], bits: int = 16, proven: bool = False) -> list[News]:
    fresh = Freshness(restart_ms=60_000)
    found = []
    for value, at_ms in counters:
        fresh.repeats(f"{value} {at_ms}".encode())
        found.append(fresh.judge(Counter(value, bits, proven), at_ms))
    return found


def test_a_counter_that_rises_is_news_and_one_that_falls_is_not() -> None:
    assert judged((5, 0), (6, 1), (6, 2), (4, 3), (7, 4)) == [NEW, NEW, REPEATED, OLDER, NEW]


def test_a_counter_that_starts_over_at_its_end_goes_on() -> None:
    assert judged((254, 0), (255, 1), (0, 2), (255, 3), bits=8) == [NEW, NEW, NEW, OLDER]


def test_a_device_that_was_quiet_and_counts_from_zero_has_a_new_battery() -> None:
    assert judged((4000, 0), (3, 59_999), (3, 60_000), (4, 60_001)) == [NEW, OLDER, NEW, NEW]


def test_a_proven_counter_never_falls_however_long_it_was_quiet() -> None:
    assert judged((4000, 0), (3999, 10**9), (0, 2 * 10**9), (4001, 3 * 10**9), bits=32, proven=True) == [
        NEW,
        OLDER,
        OLDER,
        NEW,
    ]


def test_the_same_bytes_are_never_news_not_even_after_garbage() -> None:
    fresh = Freshness(restart_ms=60_000)
    assert not fresh.repeats(b"one")
    assert fresh.judge(None, 0) is NEW
    assert fresh.repeats(b"one")
    assert not fresh.repeats(b"garbage")
    assert fresh.repeats(b"one")
    assert not fresh.repeats(b"two")


@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 1000)), max_size=30))
def test_accepted_proven_counters_always_rise(counters: list[tuple[int, int]]) -> None:
    verdicts = judged(*counters, bits=32, proven=True)
    accepted = [value for (value, _), news in zip(counters, verdicts, strict=True) if news is NEW]
    assert accepted == sorted(set(accepted))


def heard(period_ms: int = 1000) -> Heard:
    return Heard(started_ms=0, period_ms=period_ms)


def test_deaf_for_less_than_a_period_at_the_start_is_no_loss() -> None:
    assert list(heard().hears(999)) == []


def test_deaf_for_longer_is_one_gap_with_what_was_due() -> None:
    assert list(heard().hears(5500)) == [Lost(0, 5500, 5, pb.GAP_UNREADABLE)]


def test_deaf_later_is_always_a_gap_from_the_last_row() -> None:
    one = heard()
    assert list(one.hears(10)) == list(one.good(100)) == []
    one.deaf(200)
    assert one.since_ms == 200
    assert list(one.hears(300)) == [Lost(100, 300, 1, pb.GAP_UNREADABLE)]
    assert one.since_ms is None


def test_what_a_broker_kept_is_no_loss() -> None:
    one = heard()
    assert list(one.hears(10)) == []
    one.deaf(200)
    assert list(one.hears(5000, kept=True)) == []


def test_a_long_silence_gives_a_gap_a_minute_and_moves_on() -> None:
    one = heard()
    assert list(one.overdue(59_000)) == []
    assert list(one.overdue(60_000)) == [Lost(0, 60_000, 60, pb.GAP_UNREADABLE)]
    assert one.since_ms == 60_000
    assert list(one.hears(61_500)) == [Lost(60_000, 61_500, 1, pb.GAP_UNREADABLE)]


def test_each_reason_has_its_own_gap_before_the_next_row() -> None:
    one = heard()
    assert list(one.hears(0)) == []
    one.failed(50, pb.GAP_REFUSED)
    one.failed(60, pb.GAP_REFUSED)
    one.failed(70, pb.GAP_QUEUE_FULL)
    assert one.since_ms == 50
    assert list(one.good(100)) == [Lost(0, 100, 2, pb.GAP_REFUSED), Lost(0, 100, 1, pb.GAP_QUEUE_FULL)]
    assert list(one.good(200)) == []


def test_whoever_stops_while_deaf_says_so() -> None:
    one = heard()
    assert list(one.hears(0)) == []
    one.deaf(100)
    assert list(one.end(400)) == [Lost(0, 400, 1, pb.GAP_UNREADABLE)]
