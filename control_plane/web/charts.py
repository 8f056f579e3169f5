"""What charts draw, under the session: the API's own answer, and the same as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

import msgspec
from flask import Response

from control_plane.api.binding import JSON, Permission, query_of
from control_plane.api.paging import moment
from control_plane.api.readings import ReadingsAnswer, ReadingsQuery, ReadingsRoutes, SeriesReadings
from control_plane.web.visit import PageRoute, Visit

FORMULA = ("=", "+", "-", "@", "\t", "\r")


class ChartData:
    def __init__(self, *, readings: ReadingsRoutes) -> None:
        self._readings = readings

    def routes(self) -> tuple[PageRoute, ...]:
        viewer = Permission.VIEWER
        return (
            PageRoute(method="GET", path="/data/readings", view=self.json, permission=viewer),
            PageRoute(method="GET", path="/data/readings.csv", view=self.csv, permission=viewer),
        )

    def json(self, visit: Visit) -> Response:
        response = Response(msgspec.json.encode(self._answer(visit)), content_type=JSON)
        response.headers["Cache-Control"] = "no-store"
        return response

    def csv(self, visit: Visit) -> Response:
        answer = self._answer(visit)
        response = Response(_csv(answer), content_type="text/csv; charset=utf-8")
        response.headers["Content-Disposition"] = 'attachment; filename="readings.csv"'
        response.headers["Cache-Control"] = "no-store"
        return response

    def _answer(self, visit: Visit) -> ReadingsAnswer:
        query = query_of(visit.request, ReadingsQuery)
        return self._readings.readings(query)


def _csv(answer: ReadingsAnswer) -> Iterator[str]:
    stepped = answer.resolution != "raw"
    columns = ("min", "max", "mean", "last", "count") if stepped else ("values", "quality")
    yield _line(["time", "series", "unit", *(name.removesuffix("s") if name == "values" else name for name in columns)])
    for one in answer.series:
        yield "".join(_rows(one, columns))
    for gap in answer.gaps:
        yield _line([_time(gap.from_ms), gap.series, "", f"# lost until {_time(gap.to_ms)}: {gap.reason}"])


def _rows(one: SeriesReadings, columns: tuple[str, ...]) -> Iterator[str]:
    for at_ms, *rest in zip(one.times_ms, *(getattr(one, name) for name in columns), strict=True):
        yield _line([_time(at_ms), one.key, one.unit, *rest])


def _line(cells: list[Any]) -> str:
    written = io.StringIO()
    csv.writer(written, lineterminator="\r\n").writerow([_safe(cell) for cell in cells])
    return written.getvalue()


def _safe(cell: Any) -> Any:
    """Text that a spreadsheet would run as a formula gets an apostrophe; numbers stay numbers."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell


def _time(at_ms: int) -> str:
    return moment(at_ms).isoformat(timespec="milliseconds").replace("+00:00", "Z")
