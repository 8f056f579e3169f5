from __future__ import annotations

import pytest

from gateway.uplink.progress import FIRST_S, FLOOR_S, INITIAL, REMEMBERED_MS, TARGET_S, Progress


def measured(*took_ms: int, cap_s: float = 60.0) -> Progress:
    progress = Progress(cap_s=cap_s)
    for number, took in enumerate(took_ms):
        progress.acknowledged(took, number * 1000)
    return progress


def test_before_anything_was_measured_patience_is_that_of_a_slow_link() -> None:
    assert measured().patience_s == FIRST_S
    assert measured(cap_s=2.0).patience_s == 2.0


def test_on_a_quick_link_a_dead_one_is_found_within_the_floor() -> None:
    assert measured(*[40] * 50).patience_s == FLOOR_S


def test_patience_is_never_shorter_than_the_slowest_commit_seen_of_late() -> None:
    progress = measured(8_000, *[40] * 200)
    assert progress.patience_s == pytest.approx(16.0)
    progress.acknowledged(40, 1000 + REMEMBERED_MS)
    assert progress.patience_s == FLOOR_S


def test_patience_follows_a_link_that_is_slow_throughout_up_to_the_cap() -> None:
    assert 18 <= measured(*[9_000] * 50).patience_s < 20
    assert measured(*[50_000] * 5).patience_s == 60.0


def test_each_time_in_vain_doubles_patience_until_something_is_acknowledged() -> None:
    progress = measured(*[40] * 20)
    for expected in (10.0, 20.0, 40.0, 60.0, 60.0):
        progress.gave_up()
        assert progress.patience_s == expected
    progress.acknowledged(40, 21_000)
    assert progress.patience_s == FLOOR_S


def test_the_backlog_may_fill_the_window_while_acknowledgements_come_as_fast_as_ever() -> None:
    progress = measured()
    assert progress.backlog(16) == INITIAL
    for number in range(20):
        progress.acknowledged(40, number)
    assert progress.backlog(16) == 16


def test_the_backlog_yields_once_a_queue_stands_on_the_link_but_never_to_nothing() -> None:
    progress = measured(*[40] * 20)
    assert progress.backlog(16) == 16
    late_ms = 41 + round(TARGET_S * 1000)
    progress.acknowledged(late_ms, 0)
    assert progress.backlog(16) == 8
    progress.acknowledged(late_ms, 0)  # was under way already
    assert progress.backlog(16) == 8
    for _ in range(100):
        progress.acknowledged(late_ms, 0)
    assert progress.backlog(16) == 1


def test_a_new_connection_keeps_patience_and_begins_the_backlog_carefully() -> None:
    progress = measured(8_000, *[40] * 200)
    progress.connected()
    assert progress.backlog(16) == INITIAL
    assert progress.patience_s == pytest.approx(16.0)
