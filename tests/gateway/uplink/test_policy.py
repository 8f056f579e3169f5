from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from gateway.uplink.policy import METERED_S, leave
from gateway.uplink.spending import Spending
from gateway.uplink.ways import MOST_REST_MS, PROOFS, PROVED_MS, REST_MS, Ways, present
from protos.config import Via
from tests.gateway.buffer.boxes import TurnedClock

NOON_MS = round(datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp() * 1000)
HOUR_MS = 3_600_000


def at(hours: float) -> int:
    return NOON_MS + round(hours * HOUR_MS)


def test_a_free_way_lets_everything_go_as_it_comes() -> None:
    assert leave(Via(id="lan"), used_bytes=10**12, wall_ms=NOON_MS) == (True, 0.0, "")


def test_a_metered_way_makes_batches_of_a_minute() -> None:
    assert leave(Via(id="lte", policy="metered"), used_bytes=0, wall_ms=NOON_MS) == (True, METERED_S, "")


def test_a_roaming_way_is_for_what_is_urgent() -> None:
    now = leave(Via(id="abroad", policy="roaming"), used_bytes=0, wall_ms=NOON_MS)
    assert (now.telemetry, now.why) == (False, "abroad is roaming")


@pytest.mark.parametrize(
    ("hours", "open_at", "shut_at"),
    [("10:00-14:00", 0, 2), ("22:00-05:30", 11, 0), ("12:00-12:00", 5, None), ("11:00-12:00", -0.5, 0)],
)
def test_telemetry_keeps_to_the_hours_also_over_midnight(hours: str, open_at: float, shut_at: float | None) -> None:
    via = Via(id="night", hours=(hours,))
    assert leave(via, used_bytes=0, wall_ms=at(open_at)).telemetry
    if shut_at is not None:
        now = leave(via, used_bytes=0, wall_ms=at(shut_at))
        assert (now.telemetry, now.why) == (False, f"night is outside its hours ({hours} UTC)")


def test_as_the_days_bytes_go_batches_grow_and_at_the_end_telemetry_waits() -> None:
    via = Via(id="lte", policy="metered", daily_mb=50)
    said = [leave(via, used_bytes=round(share * 50e6), wall_ms=NOON_MS) for share in (0.1, 0.5, 0.8, 1.0)]
    assert [(one.telemetry, one.interval_s) for one in said] == [(True, 60), (True, 300), (True, 600), (False, 0)]
    assert [one.why for one in said[2:]] == [
        "80% of today's 50 MB by lte are used",
        "the 50 MB of today by lte are used up",
    ]


def test_the_days_bytes_outlive_a_restart_and_end_with_the_day(tmp_path: Path) -> None:
    clock, path = TurnedClock(wall=NOON_MS), tmp_path / "day.json"
    spending = Spending(path, clock=clock)
    spending.add("lte", 700)
    spending.add("lte", 42)
    spending.save(at_bytes=1000)  # not worth a write yet
    assert not path.exists()
    spending.save()
    again = Spending(path, clock=clock)
    assert (again.of("lte"), again.of("lan")) == (742, 0)
    clock.wall = at(12)
    assert again.of("lte") == 0


def test_a_clock_set_back_over_midnight_gives_no_second_allowance_one_set_back_by_years_does(tmp_path: Path) -> None:
    clock = TurnedClock(wall=at(12.5))
    spending = Spending(tmp_path / "day.json", clock=clock)
    spending.add("lte", 10)
    clock.wall = at(11.5)
    assert spending.of("lte") == 10
    clock.wall = 0
    assert spending.of("lte") == 0


@pytest.mark.parametrize("content", [b"", b"{", b'{"day": 3}', b'{"day": "never", "bytes": {"lte": 1}}'])
def test_an_unreadable_day_begins_anew(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "day.json").write_bytes(content)
    spending = Spending(tmp_path / "day.json", clock=TurnedClock(wall=NOON_MS))
    spending.add("lte", 5)
    assert spending.of("lte") == 5


LAN, LTE, SATELLITE = Via(id="lan"), Via(id="lte"), Via(id="satellite")


def ways(clock: TurnedClock, *, absent: set[str] | None = None) -> Ways:
    gone = absent if absent is not None else set()
    return Ways((LAN, LTE, SATELLITE), clock=clock, present=lambda via: via.id not in gone)


def test_the_first_way_is_taken_and_after_a_failure_the_next() -> None:
    clock = TurnedClock()
    several = ways(clock)
    for expected in (LAN, LTE, SATELLITE):
        assert several.choose() == expected
        several.failed(expected)
    assert several.choose() == LAN  # all rest; it rests least
    clock.mono += REST_MS
    assert several.choose() == LAN


def test_a_way_whose_interface_is_away_is_not_tried() -> None:
    assert ways(TurnedClock(), absent={"lan"}).choose() == LTE
    assert ways(TurnedClock(), absent={"lan", "lte", "satellite"}).choose() == LAN


def test_a_way_that_keeps_failing_rests_longer_each_time_until_it_has_proved_itself() -> None:
    clock = TurnedClock()
    several = ways(clock)
    for rest_ms in (REST_MS, 2 * REST_MS, 4 * REST_MS):
        several.failed(LAN)
        clock.mono += rest_ms - 1
        assert several.choose() == LTE
        clock.mono += 1
        assert several.choose() == LAN
    for _ in range(10):
        several.failed(LAN)
    clock.mono += MOST_REST_MS
    several.carried_for(LAN, PROVED_MS)
    several.failed(LAN)
    clock.mono += REST_MS
    assert several.choose() == LAN


def test_a_better_way_is_taken_again_only_after_it_was_reached_several_times_in_a_row() -> None:
    clock = TurnedClock()
    several = ways(clock)
    several.failed(LAN)
    assert several.better(LTE) == []
    assert several.better(SATELLITE) == [LTE]
    clock.mono += REST_MS
    assert several.better(LTE) == [LAN]
    answers = [several.looked(LAN, reached=reached) for reached in (True, False, *[True] * PROOFS)]
    assert answers == [False] * (1 + PROOFS) + [True]


def test_without_ways_there_is_no_choice() -> None:
    assert Ways((), clock=TurnedClock()).choose() is None


@pytest.mark.parametrize(("state", "there"), [("up", True), ("unknown", True), ("down", False), (None, False)])
def test_an_interface_is_there_as_the_kernel_says(state: str | None, there: bool, tmp_path: Path) -> None:
    if state is not None:
        (tmp_path / "wwan0").mkdir()
        (tmp_path / "wwan0" / "operstate").write_text(state + "\n")
    assert present(Via(id="lte", interface="wwan0"), tmp_path) is there
    assert present(Via(id="any"), tmp_path)
