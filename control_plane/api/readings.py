"""GET /series and GET /readings: what there is, and what was measured, with its gaps and the error of its clock."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta
from sqlalchemy import Connection, select

from control_plane.api.binding import Permission, Route
from control_plane.api.paging import Page, PageQuery, milliseconds, moment, page
from control_plane.api.problems import FieldProblem, Problem
from control_plane.clock import Clock
from control_plane.fleet.rights import EVERYTHING, Caller
from control_plane.projections import rollup
from control_plane.projections.kept import LEVELS, READINGS
from control_plane.projections.kept import since as since_of
from control_plane.projections.lost import placed_gaps
from control_plane.projections.reading import HistoryReader, Readings
from control_plane.projections.rollup import DAY_MS, HOUR_MS, MINUTE_MS, Steps
from control_plane.projections.rollups import DAYS, HOURS, STEP_MS, Charts
from control_plane.store.engine import Store
from control_plane.store.tables import series
from protos.comboio.v1 import batch_pb2 as pb

QUALITY = {
    pb.QUALITY_GOOD: "good",
    pb.QUALITY_UNCERTAIN: "uncertain",
    pb.QUALITY_BAD_COMM: "bad_comm",
    pb.QUALITY_BAD_SENSOR: "bad_sensor",
    pb.QUALITY_OUT_OF_RANGE: "out_of_range",
    pb.QUALITY_STALE: "stale",
    pb.QUALITY_SUBSTITUTED: "substituted",
}
STEPS_MS = (1_000, 5_000, 15_000, 60_000, 300_000, 900_000, 3_600_000, 21_600_000, DAY_MS, 7 * DAY_MS)
MOST_AS_OF = 500_000
COUNTED_BY_HOURS_MS = 5 * DAY_MS
Value = float | int | bool | str | None


class SeriesItem(msgspec.Struct, frozen=True):
    key: str
    gateway: str
    sensor: str
    quantity: str
    unit: str
    period_ms: int
    attrs: dict[str, str]


class SeriesQuery(PageQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    filter: str | None = None
    """Part of the key."""
    gateway: str | None = None


class ReadingsQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"from_": "from"}):
    series: Annotated[list[str], Meta(min_length=1, max_length=50)]
    from_: datetime | None = None
    """Default: a day before `to`."""
    to: datetime | None = None
    """Default: now."""
    max_points: Annotated[int, Meta(ge=1, le=100_000)] = 1200
    as_of: datetime | None = None
    """What was known then: without what was received later. Clocks are today's all the same."""


class SeriesReadings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Parallel lists. Raw: `values` and `quality`; in steps: `min`, `max`, `mean`, `last`, `count` per step."""

    key: str
    unit: str
    coverage: float
    clock_err_ms: int
    times_ms: list[int]
    values: list[Value] | msgspec.UnsetType = msgspec.UNSET
    quality: list[str] | msgspec.UnsetType = msgspec.UNSET
    min: list[float | None] | msgspec.UnsetType = msgspec.UNSET
    max: list[float | None] | msgspec.UnsetType = msgspec.UNSET
    mean: list[float | None] | msgspec.UnsetType = msgspec.UNSET
    last: list[float | None] | msgspec.UnsetType = msgspec.UNSET
    count: list[int] | msgspec.UnsetType = msgspec.UNSET


class SeriesGap(msgspec.Struct, frozen=True):
    series: str
    from_ms: int
    to_ms: int
    reason: str


class ReadingsAnswer(msgspec.Struct, frozen=True, kw_only=True, rename={"from_": "from"}):
    from_: datetime
    to: datetime
    resolution: str
    series: list[SeriesReadings]
    gaps: list[SeriesGap]
    """Of today, whatever `as_of` is."""
    not_kept_before: datetime | None = None
    """From then on all that came is kept, in this resolution; before, none or not all. Null: all that is asked for."""
    as_of: datetime | None = None
    """Null: everything that is known. Else readings received later are left out, and the clocks of the rest are
    today's: when an anchor came is not kept."""


class ReadingsRoutes:
    def __init__(self, *, telemetry: Store, reader: HistoryReader, clock: Clock) -> None:
        self._telemetry = telemetry
        self._reader = reader
        self._charts = Charts(telemetry=telemetry, reader=reader)
        self._clock = clock

    def routes(self) -> tuple[Route, ...]:
        return (
            Route(
                method="GET",
                path="/series",
                view=self.list_series,
                permission=Permission.VIEWER,
                summary="Series, by key",
            ),
            Route(
                method="GET",
                path="/readings",
                view=self.readings,
                permission=Permission.VIEWER,
                summary="Readings of some series, raw or in steps, with gaps",
                problems=(404,),
            ),
        )

    def list_series(self, query: SeriesQuery, caller: Caller) -> Page[SeriesItem]:
        (after,) = query.after(str) or ("",)
        chosen = select(series).where(series.c.key > after, *caller.within(series.c.gateway))
        if query.gateway is not None:
            chosen = chosen.where(series.c.gateway == query.gateway)
        if query.filter is not None:
            chosen = chosen.where(series.c.key.contains(query.filter, autoescape=True))
        with self._telemetry.read() as connection:
            rows = connection.execute(chosen.order_by(series.c.key).limit(query.limit + 1)).all()
        return page(rows, limit=query.limit, item=_series_item, key=lambda row: (row.key,))

    def readings(self, query: ReadingsQuery, caller: Caller = EVERYTHING) -> ReadingsAnswer:
        from_ms, to_ms = stretch_of(query.from_, query.to, self._clock)
        with self._telemetry.read() as connection:
            rows = list(known_series(connection, query.series, caller).values())
            gaps = [one for row in rows for one in _gaps(connection, row, from_ms, to_ms)]
            since = latest_since(connection, {row.gateway for row in rows})
        as_of_ms = milliseconds(query.as_of, "?as_of") if query.as_of else None
        if as_of_ms is None:
            gone = from_ms < since.get(READINGS, 0)
            step, made = self._rolled(rows, from_ms, to_ms, query.max_points, gone=gone) or (None, None)
        else:
            step, made = None, None
            self._check_short(rows, from_ms, to_ms)
        rolled = made is not None
        if made is None:
            found = self._read(rows, from_ms, to_ms, as_of_ms)
            step = _step_ms(max(len(r.times_ms) for r in found.values()), to_ms - from_ms, query.max_points)
            made = [_series_readings(row, found[row.key], step, from_ms, to_ms) for row in rows]
        return ReadingsAnswer(
            from_=moment(from_ms),
            to=moment(to_ms),
            resolution=_resolution(step),
            series=made,
            gaps=gaps,
            not_kept_before=_not_kept(since, step if rolled else None, from_ms),
            as_of=moment(as_of_ms),
        )

    def _check_short(self, rows: list[Any], from_ms: int, to_ms: int) -> None:
        """Rollups hold what came late too, so that every reading has to be looked at."""
        many = sum(int(one.count.sum()) for one, _ in self._steps(rows, from_ms, to_ms, HOURS).values())
        if many > MOST_AS_OF:
            wrong = FieldProblem("?as_of", f"asks for {many} readings; at most {MOST_AS_OF}: ask for less at a time")
            raise Problem(422, "That is too much to look at one by one.", errors=[wrong])

    def _rolled(
        self, rows: list[Any], from_ms: int, to_ms: int, max_points: int, *, gone: bool = False
    ) -> tuple[int, list[SeriesReadings]] | None:
        """By rollups, unless the stretch is so short or holds so little that its readings do. `gone`: some of them."""
        if to_ms - from_ms <= 2 * HOUR_MS and not gone:
            return None
        counted = HOURS if to_ms - from_ms <= COUNTED_BY_HOURS_MS else DAYS
        counts = self._steps(rows, from_ms, to_ms, counted)
        many = max(int(one.count.sum()) for one, _ in counts.values())
        step = _step_ms(many, to_ms - from_ms, max_points)
        if gone:
            step = self._kept_step(rows, from_ms, to_ms, step or MINUTE_MS, counts)
        if step is None or step < MINUTE_MS:
            return None
        level = max(level for level, of_level_ms in enumerate(STEP_MS) if of_level_ms <= step)
        found = self._steps(rows, from_ms, to_ms, level)
        return step, [_of_steps(row, *found[row.key], step, from_ms, to_ms) for row in rows]

    def _kept_step(
        self, rows: list[Any], from_ms: int, to_ms: int, step: int, counted: dict[str, tuple[Steps, int]]
    ) -> int:
        """The shortest of at least `step` of which there is as much as was counted."""
        for level, of_level_ms in enumerate(STEP_MS[:-1]):
            if STEP_MS[level + 1] > step:
                found = self._steps(rows, from_ms, to_ms, level)
                if all(int(found[key][0].count.sum()) >= int(one.count.sum()) for key, (one, _) in counted.items()):
                    return max(step, of_level_ms)
        return max(step, DAY_MS)

    def _steps(self, rows: list[Any], from_ms: int, to_ms: int, level: int) -> dict[str, tuple[Steps, int]]:
        """By key: the steps, and how far their readings may be from the truth, in ms."""
        found: dict[str, tuple[Steps, int]] = {}
        for gateway in dict.fromkeys(row.gateway for row in rows):
            mine = [row for row in rows if row.gateway == gateway]
            with self._charts.of(gateway, [(row.sensor, row.name) for row in mine]) as chart:
                steps, err_ms = chart.steps(level, from_ms, to_ms), chart.error_ms(from_ms, to_ms)
            found |= {row.key: (steps.of({f"{row.sensor}/{row.name}"}), err_ms) for row in mine}
        return found

    def _read(self, rows: list[Any], from_ms: int, to_ms: int, as_of_ms: int | None) -> dict[str, Readings]:
        found: dict[str, Readings] = {}
        for gateway in dict.fromkeys(row.gateway for row in rows):
            mine = [row for row in rows if row.gateway == gateway]
            keys = [(row.sensor, row.name) for row in mine]
            read = self._reader.read(gateway, keys, from_ms=from_ms, to_ms=to_ms, as_of_ms=as_of_ms)
            found |= {row.key: read[row.sensor, row.name] for row in mine}
        return found


def latest_since(connection: Connection, gateways: Collection[str]) -> dict[str, int]:
    """What → wall ms since when all of it is kept of all these gateways."""
    found: dict[str, int] = {}
    for gateway in gateways:
        for what, from_ms in since_of(connection, gateway).items():
            found[what] = max(found.get(what, 0), from_ms)
    return found


def _not_kept(since: dict[str, int], step_ms: int | None, from_ms: int) -> datetime | None:
    """`step_ms`: of what was made of rollups; None: of readings."""
    what = READINGS
    if step_ms is not None:
        what = LEVELS[max(level for level, of_level_ms in enumerate(STEP_MS) if of_level_ms <= step_ms)]
    return moment(since[what]) if since.get(what, 0) > from_ms else None


def stretch_of(from_: datetime | None, to: datetime | None, clock: Clock) -> tuple[int, int]:
    """The last day by default. Raises Problem 422."""
    to_ms = milliseconds(to, "?to") if to else clock.now_ms()
    from_ms = milliseconds(from_, "?from") if from_ else to_ms - DAY_MS
    if from_ms >= to_ms:
        raise Problem(422, "Nothing lies between from and to.", errors=[FieldProblem("?from", "must be before to")])
    return from_ms, to_ms


def known_series(connection: Connection, keys: Sequence[str], caller: Caller) -> dict[str, Any]:
    """Rows of `series` by key, each once, in the order asked for. Raises Problem 404."""
    keys = list(dict.fromkeys(keys))
    known = {row.key: row for row in connection.execute(select(series).where(series.c.key.in_(keys)))}
    unknown = [key for key in keys if key not in known or not caller.sees(known[key].gateway)]
    if unknown:
        raise Problem(404, f"There is no series {unknown[0]}.")
    return {key: known[key] for key in keys}


def quality_word(code: int) -> str:
    return QUALITY.get(pb.Quality.ValueType(code), str(code))


def _series_item(row: Any) -> SeriesItem:
    return SeriesItem(row.key, row.gateway, row.sensor, row.name, row.unit, row.period_ms, json.loads(row.attrs))


def _of_steps(row: Any, found: Steps, err_ms: int, step_ms: int, from_ms: int, to_ms: int) -> SeriesReadings:
    made = rollup.coarser(found, step_ms)
    expected = max(1, (to_ms - from_ms) // max(1, row.period_ms))
    return SeriesReadings(
        key=row.key,
        unit=row.unit,
        coverage=round(min(1.0, int(made.count.sum()) / expected), 4),
        clock_err_ms=err_ms,
        times_ms=made.start_ms.tolist(),
        min=made.least.tolist(),
        max=made.greatest.tolist(),
        mean=(made.total / made.count).tolist(),
        last=made.last.tolist(),
        count=made.count.tolist(),
    )


def _series_readings(row: Any, found: Readings, step_ms: int | None, from_ms: int, to_ms: int) -> SeriesReadings:
    expected = max(1, (to_ms - from_ms) // max(1, row.period_ms))
    coverage = round(min(1.0, len(found.times_ms) / expected), 4)
    facts: dict[str, Any] = {"key": row.key, "unit": row.unit, "coverage": coverage, "clock_err_ms": found.err_ms}
    if step_ms is None:
        values = [_jsonable(value) for value in found.values]
        quality = [quality_word(code) for code in found.quality]
        return SeriesReadings(**facts, times_ms=found.times_ms, values=values, quality=quality)
    return SeriesReadings(**facts, **_stepped(found, step_ms))


def _stepped(found: Readings, step_ms: int) -> dict[str, Any]:
    """Per step with at least one reading: min, max, mean, last and count of its numbers."""
    times = np.array(found.times_ms, np.int64)
    numbers = np.array([v if isinstance(v, int | float) else math.nan for v in found.values], np.float64)
    good = np.isfinite(numbers)
    times, numbers = times[good], numbers[good]
    if not len(times):
        return {"times_ms": [], "min": [], "max": [], "mean": [], "last": [], "count": []}
    steps = times // step_ms
    starts = np.flatnonzero(np.append([True], steps[1:] != steps[:-1]))
    counts = np.diff(np.append(starts, [len(steps)]))
    return {
        "times_ms": (steps[starts] * step_ms).tolist(),
        "min": np.minimum.reduceat(numbers, starts).tolist(),
        "max": np.maximum.reduceat(numbers, starts).tolist(),
        "mean": (np.add.reduceat(numbers, starts) / counts).tolist(),
        "last": numbers[starts + counts - 1].tolist(),
        "count": counts.tolist(),
    }


def _gaps(connection: Connection, row: Any, from_ms: int, to_ms: int) -> list[SeriesGap]:
    """Gap records of the series' sensor, cut to the stretch; what can't be placed in time yet is left out."""
    placed = placed_gaps(connection, row.gateway, sensor=row.sensor, from_ms=from_ms, to_ms=to_ms)
    return [SeriesGap(row.key, max(one.from_ms, from_ms), min(one.to_ms, to_ms), one.reason) for one in placed]


def _step_ms(points: int, span_ms: int, max_points: int) -> int | None:
    """None: raw fits. Else the shortest usual step that gives at most `max_points`."""
    if points <= max_points:
        return None
    return next((step for step in STEPS_MS if span_ms / step <= max_points), STEPS_MS[-1])


def _resolution(step_ms: int | None) -> str:
    if step_ms is None:
        return "raw"
    for size, letter in ((DAY_MS, "d"), (3_600_000, "h"), (60_000, "m")):
        if step_ms % size == 0:
            return f"{step_ms // size}{letter}"
    return f"{step_ms // 1000}s"


def _jsonable(value: Value) -> Value:
    return None if isinstance(value, float) and not math.isfinite(value) else value
