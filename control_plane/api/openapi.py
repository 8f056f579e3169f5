"""The OpenAPI 3.1 document, made from the same types that check requests."""

from __future__ import annotations

import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

import msgspec

from control_plane.api.binding import EVENT_STREAM, JSON, Download, Endpoint, EventStream, Permission
from control_plane.api.problems import MEDIA_TYPE, TITLES, ProblemBody

REF = "#/components/schemas/{name}"
IF_MATCH_PATTERN = '^"[0-9]{1,15}"$'
IF_MATCH = (
    {"name": "If-Match", "in": "header", "required": True, "schema": {"type": "string", "pattern": IF_MATCH_PATTERN}},
)
IDEMPOTENCY_KEY = (
    {
        "name": "Idempotency-Key",
        "in": "header",
        "required": True,
        "description": "The caller's own name of this request: the same again is answered as before, and done once.",
        "schema": {"type": "string", "pattern": "^[!-~]{1,200}$"},
    },
)

LAST_EVENT_ID = (
    {
        "name": "Last-Event-ID",
        "in": "header",
        "required": False,
        "description": "The last `id` that was seen: the stream goes on from there.",
        "schema": {"type": "string", "pattern": "^([0-9]{1,18}[.][0-9]{1,18}[.][0-9]{1,18})?$"},
    },
)


def document(endpoints: Iterable[Endpoint], *, version: str) -> dict[str, Any]:
    endpoints = list(endpoints)
    kinds = [kind for e in endpoints for kind in (e.query, e.body, *_told(e)) if kind is not None]
    shapes, components = msgspec.json.schema_components([ProblemBody, *kinds], ref_template=REF)
    shape_of = dict(zip(map(repr, kinds), shapes[1:], strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        operation = _operation(endpoint, shape_of, components)
        paths.setdefault(endpoint.route.path, {})[endpoint.route.method.lower()] = operation
    for endpoint in endpoints:
        if endpoint.query is not None:
            components.pop(endpoint.query.__name__, None)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Comboio control plane", "version": version},
        "servers": [{"url": "/api/v1"}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "password": {"type": "http", "scheme": "basic"},
            },
        },
    }


def _operation(endpoint: Endpoint, shape_of: dict[str, Any], components: dict[str, Any]) -> dict[str, Any]:
    route = endpoint.route
    operation: dict[str, Any] = {
        "summary": route.summary,
        "operationId": re.sub(r"[^a-z]+", "_", route.name.lower()).strip("_"),
        "tags": [route.path.split("/")[1]],
        "parameters": [
            *_path_parameters(endpoint),
            *_query_parameters(endpoint, components),
            *(IF_MATCH if "if_match" in endpoint.hints else ()),
            *(IDEMPOTENCY_KEY if "idempotency_key" in endpoint.hints else ()),
            *(LAST_EVENT_ID if "last_event_id" in endpoint.hints else ()),
        ],
        "responses": _responses(endpoint, shape_of),
        "security": _security(route.permission),
    }
    if endpoint.body is not None:
        content = {JSON: {"schema": shape_of[repr(endpoint.body)]}}
        operation["requestBody"] = {"required": not endpoint.body_optional, "content": content}
    return operation


def _path_parameters(endpoint: Endpoint) -> list[dict[str, Any]]:
    """Of types that restrict nothing, all that is said is that there is something."""
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"minLength": 1} | msgspec.json.schema(endpoint.hints[name]),
        }
        for name in re.findall(r"{(\w+)}", endpoint.route.path)
    ]


def _query_parameters(endpoint: Endpoint, components: dict[str, Any]) -> list[dict[str, Any]]:
    if endpoint.query is None:
        return []
    shape = components[endpoint.query.__name__]
    required = shape.get("required", [])
    return [
        {"name": name, "in": "query", "required": name in required, "schema": schema}
        for name, schema in shape["properties"].items()
    ]


def _responses(endpoint: Endpoint, shape_of: dict[str, Any]) -> dict[str, Any]:
    answers: dict[str, Any] = {}
    if endpoint.returns is None:
        answers["204"] = {"description": "Done"}
    else:
        content = _stream(endpoint, shape_of) or {JSON: {"schema": shape_of[repr(endpoint.returns)]}}
        answers[str(endpoint.route.status)] = {"description": "Success", "content": content}
    problem = {MEDIA_TYPE: {"schema": {"$ref": REF.format(name="ProblemBody")}}}
    for status in sorted(_problem_statuses(endpoint)):
        phrase = TITLES.get(status) or HTTPStatus(status).phrase
        answers[str(status)] = {"description": phrase, "content": problem}
    return answers


def _told(endpoint: Endpoint) -> Iterable[Any]:
    """The types of what it answers."""
    if endpoint.returns is Download:
        return ()
    return endpoint.route.messages.values() if endpoint.returns is EventStream else (endpoint.returns,)


def _stream(endpoint: Endpoint, shape_of: dict[str, Any]) -> dict[str, Any]:
    """Messages have a name, `event`, and JSON in `data`; OpenAPI 3.1 has no word for their schemas."""
    if endpoint.returns is Download:
        return {kind: {"schema": {"type": "string", "format": "binary"}} for kind in endpoint.route.files}
    if endpoint.returns is not EventStream:
        return {}
    messages = {name: shape_of[repr(kind)] for name, kind in endpoint.route.messages.items()}
    return {EVENT_STREAM: {"schema": {"type": "string"}, "x-messages": messages}}


def _problem_statuses(endpoint: Endpoint) -> set[int]:
    statuses = {500, *endpoint.route.problems}
    if "{" in endpoint.route.path:
        statuses |= {404, 422}
    if "if_match" in endpoint.hints:
        statuses |= {412, 428}
    if "idempotency_key" in endpoint.hints:
        statuses |= {422, 428}
    if endpoint.route.method != "GET":
        statuses |= {409, 503}
    if endpoint.query is not None:
        statuses |= {422}
    if endpoint.body is not None:
        statuses |= {400, 413, 415, 422}
    if endpoint.route.permission is not Permission.PUBLIC:
        statuses |= {401}
    if isinstance(endpoint.route.permission.value, int):
        statuses |= {403}
    if endpoint.route.failures_per_minute is not None:
        statuses |= {429}
    return statuses


def _security(permission: Permission) -> list[dict[str, list[str]]]:
    if permission is Permission.PUBLIC:
        return []
    token: dict[str, list[str]] = {"token": []}
    return [{"password": []}, token] if permission is Permission.PASSWORD else [token]
