from __future__ import annotations

from datetime import UTC, datetime

import pytest

from control_plane.relay.maintenance import Calendar


def ms(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def over(windows: list[str], at: str, zone: str = "UTC") -> str | None:
    until = Calendar(windows, zone).until_ms(ms(at))
    return None if until is None else datetime.fromtimestamp(until / 1000, UTC).strftime("%a %H:%M")


@pytest.mark.parametrize(
    ("at", "until"),
    [
        ("2026-11-21T21:59", None),  # a Saturday
        ("2026-11-21T22:00", "Sun 04:00"),
        ("2026-11-22T03:59", "Sun 04:00"),
        ("2026-11-22T04:00", None),
        ("2026-11-23T23:00", None),
    ],
)
def test_a_window_over_midnight_belongs_to_the_day_it_begins(at: str, until: str | None) -> None:
    assert over(["Sat 22:00-04:00"], at) == until


def test_days_may_be_a_range_over_the_weekend() -> None:
    windows = ["Fri-Mon 02:00-02:30"]
    found = [day for day in range(16, 23) if over(windows, f"2026-11-{day}T02:10")]  # Monday to Sunday
    assert found == [16, 20, 21, 22]


def test_windows_are_in_the_destinations_time_zone_and_follow_its_summer_time() -> None:
    assert over(["daily 02:00-03:00"], "2026-11-23T05:30", "America/Sao_Paulo") == "Mon 06:00"
    assert over(["daily 04:00-05:00"], "2026-07-01T02:30", "Europe/Lisbon") is None
    assert over(["daily 04:00-05:00"], "2026-07-01T03:30", "Europe/Lisbon") == "Wed 04:00"
    assert over(["daily 04:00-05:00"], "2026-12-01T04:30", "Europe/Lisbon") == "Tue 05:00"


def test_windows_that_touch_are_one() -> None:
    assert over(["Sat 22:00-00:00", "Sun 00:00-06:00"], "2026-11-21T23:00") == "Sun 06:00"
    once = ["2026-12-24T20:00/2026-12-26T06:00"]
    assert over(once, "2026-12-25T12:00") == "Sat 06:00"
    assert over([*once, "Sat 05:00-08:00"], "2026-12-25T12:00") == "Sat 08:00"


def test_always_is_not_for_ever() -> None:
    assert Calendar(["daily 00:00-00:00"], "UTC").until_ms(ms("2026-11-21T00:00")) is not None


@pytest.mark.parametrize(
    "text", ["Sat", "sat 2-4", "Foo 01:00-02:00", "daily 25:00-26:00", "2026-12-24T20:00/2026-12-23T06:00", "a/b"]
)
def test_what_is_no_window_is_said(text: str) -> None:
    with pytest.raises(ValueError, match="is no window"):
        Calendar([text], "UTC")


def test_a_zone_that_does_not_exist_is_said() -> None:
    with pytest.raises(ValueError, match="no time zone 'Mars/Base'"):
        Calendar([], "Mars/Base")
