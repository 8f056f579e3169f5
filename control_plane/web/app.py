"""Puts the pages beside the API: sessions, form keys, language, headers, and errors that look like pages."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any

from flask import Flask, Request, Response, g, redirect, request
from flask_limiter import Limiter
from werkzeug.exceptions import HTTPException

from control_plane.api.app import BASE
from control_plane.api.binding import Permission
from control_plane.api.problems import Problem, answer, problem_of
from control_plane.clock import Clock
from control_plane.errors import NotFound
from control_plane.fleet.accounts import Caller, Role
from control_plane.fleet.browser_sessions import BrowserSessions
from control_plane.web.render import Renderer
from control_plane.web.visit import PageRoute, Visit, path_of
from control_plane.web.words import Dictionary, chosen

SESSION, VISITOR, LANGUAGE, ZONE = "comboio_session", "comboio_visitor", "comboio_language", "comboio_zone"
FORM_KEY = "form_key"
COOKIE_CHARS = 100
NUL = "\0"
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; "
        "frame-ancestors 'none'; form-action 'self'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class Pages:
    """`mount` adds the routes to an application; the error handlers then serve both pages and API."""

    def __init__(
        self, routes: Iterable[PageRoute], *, sessions: BrowserSessions, renderer: Renderer, clock: Clock
    ) -> None:
        self._routes = tuple(routes)
        self._sessions = sessions
        self._renderer = renderer
        self._clock = clock
        self._dictionary = Dictionary()

    def mount(self, app: Flask, limiter: Limiter) -> None:
        for route in self._routes:
            app.add_url_rule(
                route.path,
                endpoint=route.name,
                view_func=self._limited(route, limiter),
                methods=[route.method],
                provide_automatic_options=False,
            )
        app.register_error_handler(Exception, self._failed)
        app.after_request(_finished)

    def _limited(self, route: PageRoute, limiter: Limiter) -> Callable[..., Any]:
        def serve(**path: str) -> Response:
            return self._serve(route, path)

        if route.failures_per_minute is None:
            return serve
        serve.__name__ = route.name
        limit = f"{route.failures_per_minute}/minute"
        return limiter.limit(limit, deduct_when=lambda response: response.status_code == 401)(serve)

    def _serve(self, route: PageRoute, path: dict[str, str]) -> Response:
        visit = self._visit(request)
        if isinstance(needed := route.permission.value, Role):
            if visit.caller is None:
                return self._sign_in_first(visit)
            if visit.caller.role < needed:
                _ = visit.words.text
                raise Problem(
                    403, _("This needs the role %(role)s; you have %(mine)s.", **_roles(needed, visit.caller))
                )
        sent = request.form.get(FORM_KEY, "").encode() if route.method == "POST" else b""
        if route.method == "POST" and not hmac.compare_digest(sent, visit.form_key.encode()):
            raise Problem(
                403, visit.words.text("This form is no longer valid. Go back, reload the page, send it again.")
            )
        if any(NUL in part for part in path.values()):
            raise NotFound("")  # no name holds one, and PostgreSQL takes none
        return route.view(visit, **path)

    def _visit(self, asked: Request) -> Visit:
        """Made once a request, and available to error pages whatever went wrong before."""
        if "visit" in g:
            known: Visit = g.visit
            return known
        cookies = {name: asked.cookies.get(name, "")[:COOKIE_CHARS] for name in (SESSION, VISITOR, LANGUAGE, ZONE)}
        caller = self._caller(cookies[SESSION])
        now_ms = self._clock.now_ms()
        language = chosen(cookies[LANGUAGE], [tag for tag, _ in asked.accept_languages])
        words = self._dictionary.words(language=language, zone=cookies[ZONE].replace("%2F", "/"), now_ms=now_ms)
        if not caller and not cookies[VISITOR]:
            g.new_visitor = cookies[VISITOR] = secrets.token_urlsafe(24)
        secret = cookies[SESSION] if caller else cookies[VISITOR]
        g.visit = visit = Visit(
            request=asked, caller=caller, words=words, form_key=form_key(secret), secret=secret, now_ms=now_ms
        )
        return visit

    def _caller(self, secret: str) -> Caller | None:
        return self._sessions.caller(secret) if secret else None

    def _sign_in_first(self, visit: Visit) -> Response:
        if visit.request.method != "GET" or visit.request.path.startswith(("/live", "/data")):
            raise Problem(
                401,
                visit.words.text("Your session has ended. Sign in again; what you typed is still here, one page back."),
            )
        asked = visit.request.full_path.removesuffix("?")
        return redirect(path_of("login", next=None if asked == "/" else asked), 303)  # type: ignore[return-value]

    def _failed(self, error: Exception) -> Response:
        if request.path.startswith(BASE + "/") or request.path == BASE:
            return answer(error)
        problem = problem_of(error)
        try:
            visit = self._visit(request)
        except Exception:  # the store is away: then without a session
            return answer(error)
        if problem.status == 429 and request.path == "/login":
            message = visit.words.text("Too many attempts. Wait a minute, then try again.")
            return self._renderer.page(visit, "login.html", status=429, message=message, name=visit.field("name"))
        page = self._renderer.page(
            visit,
            "error.html",
            status=problem.status,
            problem=problem,
            title=_title(visit, problem.status),
            detail=_detail(visit, problem.status, "" if isinstance(error, HTTPException) else problem.detail),
        )
        page.headers.update({key: value for key, value in problem.headers.items() if key != "WWW-Authenticate"})
        return page


def form_key(secret: str) -> str:
    """Proves that a form was made by us for the holder of this cookie."""
    return hashlib.sha256(f"form.{secret}".encode()).hexdigest()


def _finished(response: Response) -> Response:
    if not request.path.startswith(BASE):
        response.headers.update(HEADERS)
    if "new_visitor" in g and response.mimetype == "text/html":
        set_cookie(response, VISITOR, g.new_visitor)
    return response


def set_cookie(response: Response, name: str, value: str, *, max_age_s: int | None = None) -> None:
    response.set_cookie(
        name, value, max_age=max_age_s, secure=request.is_secure, httponly=True, samesite="Lax", path="/"
    )


def _roles(needed: Role, caller: Caller) -> dict[str, str]:
    return {"role": needed.word, "mine": caller.role.word}


def _title(visit: Visit, status: int) -> str:
    _ = visit.words.text
    return {
        401: _("Signed out"),
        403: _("Not allowed"),
        404: _("Not found"),
        405: _("Not possible here"),
        413: _("Too large"),
        422: _("That could not be understood"),
        429: _("Too many requests"),
        500: _("Something failed here"),
        503: _("Busy"),
    }.get(status, HTTPStatus(status).phrase)


def _detail(visit: Visit, status: int, ours: str) -> str:
    """Our own sentence, but for failures, whose words are for the log."""
    _ = visit.words.text
    general = {
        404: _("There is nothing at this address."),
        405: _("This address does not take that kind of request."),
        413: _("More was sent than this server takes at once."),
        422: _("The address asks for something this page does not know."),
        429: _("Wait a minute, then try again."),
        500: _("Nothing of yours was lost. The server's log says more; try again in a moment."),
    }
    if status in {422, 500} or not ours:
        return general.get(status, ours)
    return ours


def permissions(routes: Iterable[PageRoute]) -> dict[str, Permission]:
    return {route.name: route.permission for route in routes}
