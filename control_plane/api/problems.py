"""Every error of the API is `application/problem+json` (RFC 9457)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus

import msgspec
import structlog
from flask import Flask, Response
from werkzeug.exceptions import HTTPException

from control_plane.errors import Conflict, Denied, NotFound, Rejected, Retryable

MEDIA_TYPE = "application/problem+json"
TITLES = {413: "Request body too large", 422: "Request not valid"}  # worded differently between Python versions
KEPT_HEADERS = ("Allow", "Retry-After", "WWW-Authenticate")
STATUS_OF = {NotFound: 404, Conflict: 409, Denied: 403, Rejected: 422, Retryable: 503}

log = structlog.get_logger()


class FieldProblem(msgspec.Struct, frozen=True):
    """`pointer` is a JSON pointer into the body, or `?name` for a query parameter."""

    pointer: str
    message: str


class ProblemBody(msgspec.Struct, frozen=True, omit_defaults=True, rename={"kind": "type"}):
    title: str
    status: int
    kind: str = "about:blank"
    detail: str = ""
    errors: tuple[FieldProblem, ...] = ()


class Problem(Exception):  # noqa: N818 - the field's word for it
    """Raise anywhere in a request to end it with this answer."""

    def __init__(
        self,
        status: int,
        detail: str = "",
        *,
        errors: Sequence[FieldProblem] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.errors = tuple(errors)
        self.headers = dict(headers or {})


def register(app: Flask) -> None:
    """Answer every error of `app`, its own 404s and 405s included, as a problem."""
    app.register_error_handler(Exception, answer)


def answer(error: Exception) -> Response:
    return response_of(problem_of(error))


def problem_of(error: Exception) -> Problem:
    """What to tell of it: our errors and Flask's as they are, anything else is a 500 and logged."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, HTTPException):
        headers = {name: value for name, value in error.get_headers() if name in KEPT_HEADERS}
        return Problem(error.code or 500, error.description or "", headers=headers)
    for kind, status in STATUS_OF.items():
        if isinstance(error, kind):
            after_s = getattr(error, "after_s", None)
            headers = {"Retry-After": str(round(after_s))} if after_s is not None else {}
            return Problem(status, str(error), headers=headers)
    log.error("api.failed", exc_info=error)
    return Problem(500, "The server failed here; its log says more.")


def response_of(problem: Problem) -> Response:
    body = ProblemBody(
        title=TITLES.get(problem.status) or HTTPStatus(problem.status).phrase,
        status=problem.status,
        detail=problem.detail,
        errors=problem.errors,
    )
    response = Response(_document(body), status=problem.status, content_type=MEDIA_TYPE)
    response.headers.update({"Cache-Control": "no-store", **problem.headers})
    return response


def _document(body: ProblemBody) -> bytes:
    # `type` is always said, although it has a default.
    return msgspec.json.encode({"type": body.kind, **msgspec.to_builtins(body)})
