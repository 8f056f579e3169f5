"""GET /readings/export: any stretch of any series as a file, made while it is sent."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from control_plane.api import csv_file, parquet_file
from control_plane.api.binding import Download, Permission, Route
from control_plane.api.export_rows import Rows
from control_plane.api.readings import known_series, latest_since, quality_word, stretch_of
from control_plane.clock import Clock
from control_plane.errors import Retryable
from control_plane.fleet.rights import Caller
from control_plane.projections.kept import READINGS
from control_plane.projections.reading import HistoryReader
from control_plane.projections.stretches import Source, pages
from control_plane.reconcile.versions import rfc3339
from control_plane.store.engine import Store

AT_ONCE = 2
"""Of one process: each holds one of its threads until it is done."""
NOT_KEPT_BEFORE = "Comboio-Not-Kept-Before"
"""Header of an answer that leaves out what retention has dropped: readings that came before are in no file."""
FORMATS: dict[str, tuple[str, Callable[[Iterator[list[Rows]]], Iterator[bytes]]]] = {
    "csv": (csv_file.MEDIA_TYPE, csv_file.csv),
    "parquet": (parquet_file.MEDIA_TYPE, parquet_file.parquet),
}


class ExportQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"from_": "from"}):
    series: Annotated[list[str], Meta(min_length=1, max_length=500)]
    from_: datetime | None = None
    """Default: a day before `to`."""
    to: datetime | None = None
    """Default: now."""
    format: Literal["csv", "parquet"] = "csv"


class Exports:
    def __init__(self, *, telemetry: Store, reader: HistoryReader, clock: Clock) -> None:
        self._telemetry = telemetry
        self._reader = reader
        self._clock = clock
        self._places = threading.BoundedSemaphore(AT_ONCE)

    def routes(self) -> tuple[Route, ...]:
        return (
            Route(
                method="GET",
                path="/readings/export",
                view=self.export,
                permission=Permission.VIEWER,
                summary="Readings as a CSV or Parquet file, of any length",
                problems=(404, 503),
                files=tuple(media_type for media_type, _ in FORMATS.values()),
            ),
        )

    def export(self, query: ExportQuery, caller: Caller) -> Download:
        from_ms, to_ms = stretch_of(query.from_, query.to, self._clock)
        with self._telemetry.read() as connection:
            rows = list(known_series(connection, query.series, caller).values())
            gone_ms = latest_since(connection, {row.gateway for row in rows}).get(READINGS, 0)
        if not self._places.acquire(blocking=False):
            raise Retryable("As many exports as this process makes at a time are under way.", after_s=30)
        media_type, written = FORMATS[query.format]
        made = written(self._pages(rows, from_ms, to_ms))
        said = {NOT_KEPT_BEFORE: rfc3339(gone_ms)} if gone_ms > from_ms else {}
        name = f"readings.{query.format}"
        return Download(made, media_type, name, close=_once(self._places.release), headers=said)

    def _pages(self, rows: list[Any], from_ms: int, to_ms: int) -> Iterator[list[Rows]]:
        """One gateway after another; a page is some hours of all of its series."""
        for gateway in dict.fromkeys(row.gateway for row in rows):
            mine = [row for row in rows if row.gateway == gateway]
            keys, periods_ms = [(row.sensor, row.name) for row in mine], [row.period_ms for row in mine]
            source = Source(gateway, keys, periods_ms)
            for found in pages(self._reader, self._telemetry, source, from_ms=from_ms, to_ms=to_ms):
                yield [_rows(row, found[row.sensor, row.name]) for row in mine]


def _rows(row: Any, found: Any) -> Rows:
    quality = [quality_word(code) for code in found.quality]
    return Rows(row.key, row.unit, found.times_ms, found.values, quality, found.err_ms)


def _once(release: Callable[[], None]) -> Callable[[], None]:
    done = threading.Event()

    def close() -> None:
        if not done.is_set():
            done.set()
            release()

    return close
