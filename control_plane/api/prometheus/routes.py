"""/prometheus/api/v1: what Grafana and promtool read series by, as if this were a Prometheus.

Its forms and errors are Prometheus' own, and so are GET or a form by POST. The caller shows an API token that may read
data: as Bearer, or as the password of HTTP Basic, whatever the name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from itertools import islice
from typing import Any

import numpy as np
import structlog
from flask import Flask, Request, Response, request
from flask_limiter import Limiter
from sqlalchemy import select
from werkzeug.exceptions import HTTPException

from control_plane.api.auth import BEARER
from control_plane.api.prometheus.answers import at_many, at_one, failure, success
from control_plane.api.prometheus.catalog import COLUMN_OF, LABELS, NAME, Known, Selection, metric
from control_plane.api.prometheus.evaluate import Evaluation, Instants
from control_plane.api.prometheus.expression import EXECUTION, QueryError
from control_plane.api.prometheus.parser import parse, parse_selector
from control_plane.api.prometheus.source import Source
from control_plane.api.prometheus.tokens import duration_ms
from control_plane.clock import Clock
from control_plane.errors import Retryable
from control_plane.fleet.accounts import Accounts
from control_plane.fleet.rights import Area, Caller, Role
from control_plane.projections.reading import HistoryReader
from control_plane.store.engine import Store
from control_plane.store.tables import series

BASE = "/prometheus/api/v1"
SPEAKS = "2.42.0"
"""The version whose API this is: clients choose by it how they ask."""
MOST_INSTANTS = 11_000
LATEST_MS = 1 << 52
MOST_LISTED = 10_000
View = Callable[[Request, Caller], Any]

log = structlog.get_logger()


class PrometheusApi:
    def __init__(self, *, telemetry: Store, reader: HistoryReader, accounts: Accounts, clock: Clock) -> None:
        self._telemetry = telemetry
        self._source = Source(telemetry=telemetry, reader=reader)
        self._accounts = accounts
        self._clock = clock

    def mount(self, app: Flask, _: Limiter) -> None:
        both: tuple[tuple[str, View], ...] = (
            ("/query", self._query),
            ("/query_range", self._query_range),
            ("/labels", self._labels),
            ("/series", self._series),
        )
        reading: tuple[tuple[str, View], ...] = (("/metadata", self._metadata), ("/status/buildinfo", _buildinfo))
        for path, view in both:
            self._add(app, path, ["GET", "POST"], view)
        for path, view in reading:
            self._add(app, path, ["GET"], view)
        self._add(app, "/label/<label>/values", ["GET"], self._values)
        self._add(app, "/<path:rest>", ["GET", "POST", "PUT", "DELETE", "PATCH"], _nothing)

    def _add(self, app: Flask, path: str, methods: list[str], view: View) -> None:
        def serve(**_: str) -> Response:
            return self._answer(view)

        name = f"prometheus {path}"
        app.add_url_rule(BASE + path, endpoint=name, view_func=serve, methods=methods, provide_automatic_options=False)

    def _answer(self, view: View) -> Response:
        try:
            return success(view(request, self._caller(request)))
        except QueryError as error:
            return failure(error, BEARER if error.status == 401 else None)
        except HTTPException as error:
            return failure(QueryError(error.description or error.name, status=error.code))
        except Retryable as error:
            return failure(QueryError(str(error), kind="unavailable", status=503))
        except Exception as error:
            log.error("prometheus.failed", exc_info=error)
            return failure(QueryError("The server failed here; its log says more.", kind="internal", status=500))

    def _caller(self, asked: Request) -> Caller:
        given = asked.authorization
        token = None
        if given is not None:
            token = given.token if given.type == "bearer" else given.password if given.type == "basic" else None
        caller = self._accounts.caller(token) if token else None
        if caller is None:
            said = "Give an API token of this installation: as Bearer, or as the password of HTTP Basic."
            raise QueryError(said, kind="unauthorized", status=401)
        why_not = caller.lacks(Role.VIEWER, Area.DATA, "read")
        if why_not is not None:
            raise QueryError(why_not, kind="forbidden", status=403)
        return caller

    # --- values ----------------------------------------------------------------------------------------

    def _query(self, asked: Request, caller: Caller) -> Any:
        given = asked.values.get("time")
        at_ms = _instant(given, "time") if given else self._clock.now_ms()
        instants = Instants(np.array([at_ms], np.int64))
        return at_one(self._evaluation(instants, caller).of(parse(_needed(asked, "query"))), instants)

    def _query_range(self, asked: Request, caller: Caller) -> Any:
        start, end = (_instant(_needed(asked, name), name) for name in ("start", "end"))
        step = _step(_needed(asked, "step"))
        if end < start:
            raise QueryError("start lies after end.")
        if (end - start) // step >= MOST_INSTANTS:
            least = math.ceil((end - start) / MOST_INSTANTS / 1000)
            raise QueryError(f"That is more than {MOST_INSTANTS} points per series; step={least} fits.")
        instants = Instants(np.arange(start, end + 1, step, dtype=np.int64), step)
        return at_many(self._evaluation(instants, caller).of(parse(_needed(asked, "query"))), instants)

    def _evaluation(self, instants: Instants, caller: Caller) -> Evaluation:
        def chosen(selection: Selection) -> Sequence[Known]:
            with self._telemetry.read() as connection:
                return selection.series(connection, caller)

        return Evaluation(source=self._source, select=chosen, instants=instants)

    # --- what there is ---------------------------------------------------------------------------------

    def _labels(self, asked: Request, caller: Caller) -> Any:
        found = {label for one in self._matched(asked, caller) for label in one.labels} if _matches(asked) else LABELS
        return _some(asked, sorted(found))

    def _series(self, asked: Request, caller: Caller) -> Any:
        if not _matches(asked):
            raise QueryError("match[] is missing: at least one selector.")
        found = [one.labels for one in islice(self._matched(asked, caller), MOST_LISTED + 1)]
        if len(found) > MOST_LISTED and not _limit(asked):
            raise QueryError(f"More than {MOST_LISTED} series; choose fewer of them by their labels.", kind=EXECUTION)
        return _some(asked, found)

    def _values(self, asked: Request, caller: Caller) -> Any:
        label = (asked.view_args or {}).get("label", "")
        if _matches(asked):
            found = {one.labels.get(label, "") for one in self._matched(asked, caller)}
        elif label == NAME:
            found = {metric(name) for name in self._distinct("quantity", caller)}
        else:
            found = set(self._distinct(label, caller)) if label in COLUMN_OF else set()
        return _some(asked, sorted(found - {""}))

    def _metadata(self, asked: Request, caller: Caller) -> Any:
        wanted = asked.values.get("metric")
        with self._telemetry.read() as connection:
            query = select(series.c.name, series.c.unit).where(*caller.within(series.c.gateway)).distinct()
            rows = sorted(connection.execute(query).all())
        found: dict[str, list[dict[str, str]]] = {}
        for name, unit in rows:
            if wanted in {None, "", metric(name)}:
                said = {"type": "unknown", "help": f"{name}, as gateways measured it", "unit": unit}
                found.setdefault(metric(name), []).append(said)
        return dict(_some(asked, list(found.items())))

    def _distinct(self, label: str, caller: Caller) -> Sequence[str]:
        query = select(COLUMN_OF[label]).where(*caller.within(series.c.gateway)).distinct()
        with self._telemetry.read() as connection:
            return connection.execute(query).scalars().all()

    def _matched(self, asked: Request, caller: Caller) -> Iterator[Known]:
        """What any of the selectors means, each series once."""
        seen: set[tuple[str, tuple[str, str]]] = set()
        for text in _matches(asked):
            selection = Selection(parse_selector(text).matchers)
            with self._telemetry.read() as connection:
                for one in selection.walk(connection, caller):
                    if (one.gateway, one.key) not in seen:
                        seen.add((one.gateway, one.key))
                        yield one


def _buildinfo(_asked: Request, _caller: Caller) -> Any:
    names = ("revision", "branch", "buildUser", "buildDate", "goVersion")
    return {"version": SPEAKS, "application": "Comboio", **dict.fromkeys(names, "")}


def _nothing(asked: Request, _caller: Caller) -> Any:
    raise QueryError(f"{asked.path} is not answered here.", kind="not_found", status=404)


def _matches(asked: Request) -> list[str]:
    return asked.values.getlist("match[]")


def _some(asked: Request, found: list[Any]) -> list[Any]:
    return found[: _limit(asked) or None]


def _limit(asked: Request) -> int:
    """0: as many as there are."""
    given = asked.values.get("limit", "0")
    return int(given[:9]) if given.isascii() and given.isdigit() else 0


def _needed(asked: Request, name: str) -> str:
    given = asked.values.get(name, "")
    if not given:
        raise QueryError(f"{name} is missing.")
    return given


def _instant(given: str, name: str) -> int:
    """Seconds since 1970, or RFC 3339; in milliseconds."""
    wrong = QueryError(f"{name}={given[:40]} is no instant: write seconds since 1970, or e.g. 2026-11-22T10:00:00Z.")
    at = _float(given)
    if at is None:
        try:
            parsed = datetime.fromisoformat(given)
        except ValueError:
            raise wrong from None
        if parsed.tzinfo is None:
            raise wrong
        at = parsed.timestamp()
    if not 0 <= at * 1000 <= LATEST_MS:
        raise wrong
    return round(at * 1000)


def _step(given: str) -> int:
    """Seconds, or a duration; in milliseconds."""
    at = _float(given)
    if at is None:
        return duration_ms(given)
    if not 0.001 <= at <= LATEST_MS / 1000:
        raise QueryError("step has to be more than nothing: seconds, or a duration as 30s.")
    return round(at * 1000)


def _float(given: str) -> float | None:
    try:
        return float(given)
    except ValueError:
        return None
