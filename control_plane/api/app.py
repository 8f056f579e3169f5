"""The WSGI application around a route table."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import msgspec
from flask import Flask, Response, request
from flask_limiter import Limiter

from control_plane.api import attempts, openapi, problems
from control_plane.api.auth import authorise, still_allowed
from control_plane.api.binding import Endpoint, Permission, Route
from control_plane.api.problems import Problem
from control_plane.fleet.accounts import Accounts
from control_plane.settings import WebSection
from control_plane.store.engine import Store

BASE = "/api/v1"


Mount = Callable[[Flask, Limiter], None]


def create_app(
    routes: Iterable[Route],
    *,
    accounts: Accounts,
    web: WebSection,
    mounts: Iterable[Mount] = (),
    shared: Store | None = None,
) -> Flask:
    """`routes` under /api/v1, with their OpenAPI document beside them; `mounts` add what else the process serves.

    `shared` is the business store, where other processes serve the same installation.
    """
    app = Flask("control_plane", static_folder=None)
    app.config.update(MAX_CONTENT_LENGTH=web.max_request_bytes, SECRET_KEY=uuid.uuid4().bytes)
    app.url_map.strict_slashes = True
    app.url_map.merge_slashes = False  # a redirect is no answer of this API
    problems.register(app)
    limiter = attempts.limiter(app, web, shared)
    table = [Endpoint(route) for route in (*routes, _document_route(lambda: table))]
    for endpoint in table:
        _add(app, endpoint, accounts=accounts, limiter=limiter)
    for mount in mounts:
        mount(app, limiter)
    return app


def _add(app: Flask, endpoint: Endpoint, *, accounts: Accounts, limiter: Limiter) -> None:
    route = endpoint.route

    def view(**path: str) -> Response:
        caller = authorise(request, route, accounts)
        if any("\0" in part for part in path.values()):
            raise Problem(404, "Nothing has a NUL character in its name.")
        return endpoint.answer(request, path, caller, still_allowed(request, route, accounts, caller))

    serve: Callable[..., Any] = view
    serve.__name__ = route.name
    if route.failures_per_minute is not None:
        limit = f"{route.failures_per_minute}/minute"
        # The decorator would count before authorise() has spoken; only refused attempts are to count.
        serve = limiter.limit(limit, deduct_when=lambda response: response.status_code == 401)(serve)
    rule = BASE + route.path.replace("{", "<").replace("}", ">")
    if route.deep:
        head, _, tail = rule.rpartition("<")
        rule = f"{head}<path:{tail}"
    app.add_url_rule(
        rule, endpoint=route.name, view_func=serve, methods=[route.method], provide_automatic_options=False
    )


def _document_route(table: Callable[[], list[Endpoint]]) -> Route:
    def document() -> msgspec.Raw:
        return msgspec.Raw(msgspec.json.encode(openapi.document(table(), version=installed_version())))

    return Route(
        method="GET",
        path="/openapi.json",
        view=document,
        permission=Permission.PUBLIC,
        summary="This document",
    )


def installed_version() -> str:
    try:
        return version("comboio")
    except PackageNotFoundError:
        return "0"
