from __future__ import annotations

import msgspec

from gateway.health.table import status
from tests.gateway.health.pictures import picture


def test_a_limited_way_says_how_much_of_the_day_is_left_and_why_telemetry_waits() -> None:
    well = picture()
    link = msgspec.structs.replace(
        well.link,
        via="mobile",
        day_bytes=50_000_000,
        day_limit_bytes=50_000_000,
        held_back="the 50 MB of today by mobile are used up",
    )
    lines = status(msgspec.structs.replace(well, link=link)).splitlines()
    assert any(line.startswith("link           connected for") and " by mobile, " in line for line in lines)
    assert "today          50 MB of 50 MB by mobile" in lines
    assert "telemetry      the 50 MB of today by mobile are used up" in lines


def test_where_nothing_is_limited_nothing_of_it_is_said() -> None:
    assert "telemetry  " not in status(picture())
    assert "today  " not in status(picture())


def test_what_was_thinned_and_an_urgent_lane_that_runs_full_are_said() -> None:
    well = picture()
    assert "thinned" not in status(well)
    assert "events  " not in status(well)
    buffer = msgspec.structs.replace(
        well.buffer, thinned_readings=5, urgent_bytes=40_000_000, urgent_limit_bytes=64_000_000
    )
    lines = status(msgspec.structs.replace(well, buffer=buffer)).splitlines()
    assert any("5 readings thinned out, 0 readings dropped" in line for line in lines)
    assert "events         40 MB of 64 MB; repeated alarms are joined" in lines
    buffer = msgspec.structs.replace(buffer, urgent_bytes=64_000_000)
    assert "field events are refused" in status(msgspec.structs.replace(well, buffer=buffer))
