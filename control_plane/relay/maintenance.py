"""When an ERP is known to be away: its maintenance calendar.

A window is `Sat 22:00-04:00`, `Mon-Fri 02:00-02:30`, `daily 01:00-03:00`, all in the destination's time zone and over
midnight where the end is not after the start, or one stretch `2026-12-24T20:00/2026-12-26T06:00`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_WEEKLY = re.compile(r"(daily|(?P<from>[a-z]{3})(?:-(?P<to>[a-z]{3}))?) +(?P<begin>\d\d:\d\d)-(?P<end>\d\d:\d\d)")


class _Weekly(NamedTuple):
    days: frozenset[int]
    begin: time
    end: time

    def around(self, day: date) -> Iterator[tuple[datetime, datetime]]:
        """What begins on that day and on the day before it."""
        for begins in (day - timedelta(1), day):
            if begins.weekday() in self.days:
                ends = begins if self.end > self.begin else begins + timedelta(1)
                yield datetime.combine(begins, self.begin), datetime.combine(ends, self.end)


class _Once(NamedTuple):
    begin: datetime
    end: datetime

    def around(self, day: date) -> Iterator[tuple[datetime, datetime]]:
        del day
        yield self.begin, self.end


class Calendar:
    """Raises ValueError that names the window, or the time zone, that makes no sense."""

    def __init__(self, windows: Sequence[str], zone: str) -> None:
        try:
            self._zone = ZoneInfo(zone)
        except (ZoneInfoNotFoundError, ValueError):
            raise ValueError(f"there is no time zone {zone!r}") from None
        self._windows = [_parsed(text) for text in windows]

    def until_ms(self, now_ms: int) -> int | None:
        """When the maintenance of now is over; None outside of any. Windows that touch are one."""
        end_ms, found = now_ms, bool(self._windows)
        while found and end_ms - now_ms < 366 * 86_400_000:
            found = False
            for begin, end in self._around(end_ms):
                if begin <= end_ms < end:
                    end_ms, found = end, True
        return end_ms if end_ms > now_ms else None

    def _around(self, at_ms: int) -> Iterator[tuple[int, int]]:
        day = datetime.fromtimestamp(at_ms / 1000, self._zone).date()
        for window in self._windows:
            for begin, end in window.around(day):
                yield self._ms(begin), self._ms(end)

    def _ms(self, local: datetime) -> int:
        return round(local.replace(tzinfo=self._zone).astimezone(UTC).timestamp() * 1000)


def _parsed(text: str) -> _Weekly | _Once:
    try:
        if "/" in text:
            begin, _, end = text.partition("/")
            once = _Once(datetime.fromisoformat(begin.strip()), datetime.fromisoformat(end.strip()))
            if once.begin.tzinfo is None and once.end.tzinfo is None and once.begin < once.end:
                return once
        elif (match := _WEEKLY.fullmatch(text.strip().lower())) is not None:
            return _Weekly(_days(match), time.fromisoformat(match["begin"]), time.fromisoformat(match["end"]))
    except ValueError:
        pass
    raise ValueError(f"{text!r} is no window; say it like 'Sat 22:00-04:00' or '2026-12-24T20:00/2026-12-26T06:00'")


def _days(match: re.Match[str]) -> frozenset[int]:
    if match["from"] is None:
        return frozenset(range(7))
    first = DAYS.index(match["from"])
    last = DAYS.index(match["to"] or match["from"])
    return frozenset((first + offset) % 7 for offset in range((last - first) % 7 + 1))
