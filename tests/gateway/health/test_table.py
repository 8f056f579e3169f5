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
