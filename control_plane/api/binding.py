"""Binds views to routes: a view's annotations are the contract, checked on the way in and documented in OpenAPI.

A view is a function or bound method whose parameters are any of

    query: Q     a frozen msgspec Struct; keys not in it are refused, repeated keys too unless the field is a list
    body: B      a msgspec Struct read from JSON; it may be absent when every field has a default
    caller: Caller     who asks; only where the route is not public
    if_match: int      the version the caller last saw, from If-Match: "N"; without that header 428. "0", or
                       If-None-Match: *, says that there is none yet
    idempotency_key: str   the caller's own name of this request, from Idempotency-Key; without that header 428
    last_event_id: str     what a reader of a stream saw last, from Last-Event-ID; empty without that header
    still: Callable[[], bool]      whether the caller is let in yet, as who it was; for streams
    <name>: str  a part of the path written {name}; its type may restrict it

and whose return annotation is the answer's type (None: 204; EventStream: messages without end; Download: a
file); its `etag`, if it has one, is also the header.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeVar, get_type_hints

import msgspec
from flask import Request, Response
from msgspec import inspect as types

from control_plane.api.mistakes import MOST, mistakes, with_nul
from control_plane.api.problems import FieldProblem, Problem
from control_plane.fleet.rights import Area, Caller, Mode, Role

JSON = "application/json"
EVENT_STREAM = "text/event-stream"
IDEMPOTENCY_KEY = re.compile(r"[!-~]{1,200}")
VERSION = re.compile(r'(?:W/)?"([0-9]{1,15})"')
Q = TypeVar("Q", bound=msgspec.Struct)


AREA_OF = {
    "gateways": Area.FLEET,
    "sensors": Area.FLEET,
    "assets": Area.FLEET,
    "places": Area.FLEET,
    "groups": Area.FLEET,
    "retention": Area.FLEET,
    "health": Area.FLEET,
    "config": Area.CONFIGURATION,
    "series": Area.DATA,
    "readings": Area.DATA,
    "gaps": Area.DATA,
    "completeness": Area.DATA,
    "ledger": Area.DATA,
    "events": Area.EVENTS,
    "deliveries": Area.DELIVERIES,
    "destinations": Area.DELIVERIES,
    "users": Area.ADMINISTRATION,
    "api-tokens": Area.ADMINISTRATION,
    "join-tokens": Area.ADMINISTRATION,
    "me": Area.SELF,
    "live": Area.SELF,
}
"""By the first word of the path; a gateway's configuration is configuration, its commands are commands, what events
rest on is data, and each kind of live message has its own area."""


@dataclass(frozen=True, slots=True)
class EventStream:
    """An answer of server-sent events; `close` may be called twice, and while `frames` waits."""

    frames: Iterator[bytes]
    close: Callable[[], None]

    def response(self) -> Response:
        response = Response(self.frames, content_type=EVENT_STREAM)
        response.headers.update({"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        response.call_on_close(self.close)
        return response


@dataclass(frozen=True, slots=True)
class Download:
    """A file that is made while it is sent. `close` is called in any case, once it was sent or nobody wants it more."""

    pieces: Iterator[bytes]
    media_type: str
    name: str
    close: Callable[[], None]
    headers: Mapping[str, str] = field(default_factory=dict)

    def response(self) -> Response:
        response = Response(self.pieces, content_type=self.media_type)
        response.headers.update(
            {"Cache-Control": "no-store", "Content-Disposition": f'attachment; filename="{self.name}"', **self.headers}
        )
        response.call_on_close(self.close)
        return response


class Permission(Enum):
    """What a request must show. PASSWORD, for making tokens: HTTP Basic, or an administrator's token."""

    PUBLIC = "public"
    PASSWORD = "password"  # noqa: S105
    VIEWER = Role.VIEWER
    OPERATOR = Role.OPERATOR
    ADMIN = Role.ADMIN


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One line of the route table. `problems`: error statuses of its own, besides those every route may have."""

    method: str
    path: str
    view: Callable[..., Any]
    permission: Permission
    summary: str
    status: int = 200
    problems: tuple[int, ...] = ()
    failures_per_minute: int | None = None
    deep: bool = False
    """The last part of the path may hold slashes."""
    messages: Mapping[str, type[msgspec.Struct]] = field(default_factory=dict)
    """Of an EventStream: by name, what their data is."""
    files: tuple[str, ...] = ()
    """Of a Download: the media types it may have."""

    @property
    def name(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def area(self) -> Area:
        """Raises KeyError: a new subject belongs into AREA_OF first."""
        words = [word for word in self.path.split("/") if word and not word.startswith("{")]
        if "commands" in words:
            return Area.COMMANDS
        if "evidence" in words:
            return Area.DATA
        return Area.CONFIGURATION if "config" in words else AREA_OF[words[0]]

    @property
    def mode(self) -> Mode:
        return "read" if self.method == "GET" else "write"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A route with its view's types taken apart once."""

    route: Route
    hints: Mapping[str, Any] = field(init=False)
    query: type[msgspec.Struct] | None = field(init=False)
    body: type[msgspec.Struct] | None = field(init=False)
    returns: Any = field(init=False)
    body_optional: bool = field(init=False)

    def __post_init__(self) -> None:
        hints = get_type_hints(self.route.view, include_extras=True)
        returns = hints.pop("return")
        body = hints.get("body")
        optional = body is not None and all(not part.required for part in msgspec.structs.fields(body))
        for name, value in {
            "hints": hints,
            "query": hints.get("query"),
            "body": body,
            "returns": None if returns is type(None) else returns,
            "body_optional": optional,
        }.items():
            object.__setattr__(self, name, value)
        wanted = set(inspect.signature(self.route.view).parameters)
        assert wanted == set(hints), f"{self.route.name}: every parameter of the view needs a type"

    def answer(
        self, request: Request, path: Mapping[str, str], caller: Caller | None, still: Callable[[], bool]
    ) -> Response:
        arguments: dict[str, Any] = dict(path)
        for name, value in path.items():
            wrong = [FieldProblem("{" + name + "}", w.message) for w in mistakes(value, self.hints[name])]
            if wrong:
                raise Problem(422, "The path is not valid.", errors=wrong)
        if self.query is not None:
            arguments["query"] = query_of(request, self.query)
        if self.body is not None:
            arguments["body"] = body_of(request, self.body, optional=self.body_optional)
        if "caller" in self.hints:
            arguments["caller"] = caller
        if "if_match" in self.hints:
            arguments["if_match"] = version_matched(request)
        if "idempotency_key" in self.hints:
            arguments["idempotency_key"] = key_given(request)
        if "last_event_id" in self.hints:
            arguments["last_event_id"] = request.headers.get("Last-Event-ID", "").strip()
        if "still" in self.hints:
            arguments["still"] = still
        return self._response(self.route.view(**arguments))

    def _response(self, value: Any) -> Response:
        if self.returns is None:
            return Response(status=204)
        if isinstance(value, EventStream | Download):
            return value.response()
        response = Response(msgspec.json.encode(value), status=self.route.status, content_type=JSON)
        response.headers["Cache-Control"] = "no-store"
        etag = getattr(value, "etag", None)
        if etag is not None:
            response.headers["ETag"] = etag
        return response


def version_matched(request: Request) -> int:
    """The number in If-Match: "N"."""
    given = request.headers.get("If-Match", "").strip()
    if not given and request.headers.get("If-None-Match", "").strip() == "*":
        return 0
    if not given:
        raise Problem(428, 'Say which version this is based on: If-Match with the ETag of the last GET, e.g. "3".')
    found = VERSION.fullmatch(given)
    if found is None:
        raise Problem(412, f'If-Match: {given[:40]} is not an ETag of this API; they look like "3".')
    return int(found[1])


def key_given(request: Request) -> str:
    """Idempotency-Key: the same again is the same request, not another one."""
    given = request.headers.get("Idempotency-Key", "").strip()
    if not given:
        raise Problem(428, "Give this request a name of its own, so that it can be sent again safely: Idempotency-Key.")
    if IDEMPOTENCY_KEY.fullmatch(given) is None:
        raise Problem(422, "Idempotency-Key: 1 to 200 visible ASCII characters, without blanks.")
    return given


def query_of(request: Request, kind: type[Q]) -> Q:
    """The query as `kind`; raises Problem 422 naming every parameter that is wrong."""
    info = types.type_info(kind)
    assert isinstance(info, types.StructType)
    fields = {part.encode_name: part.type for part in info.fields}
    raw: dict[str, str | list[str]] = {}
    wrong: list[FieldProblem] = []
    for name, values in request.args.lists():
        if name not in fields:
            wrong.append(FieldProblem(f"?{name}", "not a parameter of this request; known: " + ", ".join(fields)))
        elif any("\0" in value for value in values):
            wrong.append(FieldProblem(f"?{name}", "holds a NUL character"))
        elif isinstance(fields[name], types.ListType | types.VarTupleType):
            raw[name] = values
        elif len(values) > 1:
            wrong.append(FieldProblem(f"?{name}", "given more than once"))
        else:
            raw[name] = values[0]
    wrong += [FieldProblem("?" + w.pointer.lstrip("/"), w.message) for w in mistakes(raw, kind, strict=False)]
    wrong += [FieldProblem("?" + w.pointer.lstrip("/"), w.message) for w in with_nul(raw)]
    if wrong:
        raise Problem(422, "The query is not valid.", errors=wrong[:MOST])
    return msgspec.convert(raw, kind, strict=False)


def body_of(request: Request, kind: type[msgspec.Struct], *, optional: bool) -> msgspec.Struct:
    data = request.get_data(cache=False)
    if optional and not data:
        return kind()
    if request.mimetype != JSON:
        raise Problem(415, f"Send the body as {JSON}.", headers={"Accept": JSON})
    try:
        raw = msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise Problem(400, f"The body is not JSON: {error}") from None
    wrong = [*mistakes(raw, kind), *with_nul(raw)]
    if wrong:
        raise Problem(422, "The body is not valid.", errors=wrong[:MOST])
    return msgspec.convert(raw, kind)
