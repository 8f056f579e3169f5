"""Answers and errors in the form that Prometheus' clients read."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
from flask import Response

from control_plane.api.prometheus.evaluate import Instants, Line, Scalar, Vector
from control_plane.api.prometheus.expression import QueryError

JSON = "application/json"
EXACT = 1e15


def success(data: Any) -> Response:
    return _response({"status": "success", "data": data}, 200)


def failure(error: QueryError, headers: dict[str, str] | None = None) -> Response:
    response = _response({"status": "error", "errorType": error.kind, "error": str(error)}, error.status)
    response.headers.update(headers or {})
    return response


def at_one(found: Scalar | Vector, instants: Instants) -> dict[str, Any]:
    """Of an instant query."""
    at = seconds(int(instants.times_ms[0]))
    if not isinstance(found, list):
        return {"resultType": "scalar", "result": [at, text(float(found[0]))]}
    here = [one for one in _sorted(found) if one.here[0]]
    result = [{"metric": one.labels, "value": [at, text(float(one.values[0]))]} for one in here]
    return {"resultType": "vector", "result": result}


def at_many(found: Scalar | Vector, instants: Instants) -> dict[str, Any]:
    """Of a range query; a number is a series without labels there."""
    if not isinstance(found, list):
        found = [Line({}, found, np.ones(found.size, bool))]
    times = [seconds(at) for at in instants.times_ms.tolist()]
    result = []
    for one in _sorted(found):
        which, values = np.flatnonzero(one.here).tolist(), one.values[one.here].tolist()
        if which:
            pairs = [(times[n], text(value)) for n, value in zip(which, values, strict=True)]
            result.append({"metric": one.labels, "values": pairs})
    return {"resultType": "matrix", "result": result}


def text(value: float) -> str:
    """Exactly this number, as Prometheus writes it."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    if value.is_integer() and abs(value) < EXACT:
        return "-0" if value == 0 and math.copysign(1, value) < 0 else str(int(value))
    return repr(value)


def seconds(at_ms: int) -> float | int:
    return at_ms // 1000 if at_ms % 1000 == 0 else at_ms / 1000


def _sorted(lines: Vector) -> Vector:
    return sorted(lines, key=lambda one: sorted(one.labels.items()))


def _response(body: Any, status: int) -> Response:
    response = Response(msgspec.json.encode(body), status=status, content_type=JSON)
    response.headers["Cache-Control"] = "no-store"
    return response
