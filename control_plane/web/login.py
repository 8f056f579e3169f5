"""Signing in and out, and choosing a language."""

from __future__ import annotations

from flask import Response, redirect

from control_plane.api.binding import Permission
from control_plane.fleet.accounts import Accounts
from control_plane.fleet.browser_sessions import LIFE_MS, BrowserSessions
from control_plane.web.app import LANGUAGE, SESSION, set_cookie
from control_plane.web.render import Renderer
from control_plane.web.visit import PageRoute, Visit, local_path
from control_plane.web.words import LANGUAGES

YEAR_S = 365 * 86_400


class Login:
    def __init__(
        self, *, accounts: Accounts, sessions: BrowserSessions, renderer: Renderer, failures_per_minute: int
    ) -> None:
        self._accounts = accounts
        self._sessions = sessions
        self._renderer = renderer
        self._failures_per_minute = failures_per_minute

    def routes(self) -> tuple[PageRoute, ...]:
        public, viewer = Permission.PUBLIC, Permission.VIEWER
        return (
            PageRoute(method="GET", path="/login", view=self.show, permission=public),
            PageRoute(
                method="POST",
                path="/login",
                view=self.enter,
                permission=public,
                failures_per_minute=self._failures_per_minute,
            ),
            PageRoute(method="POST", path="/logout", view=self.leave, permission=viewer),
            PageRoute(method="POST", path="/language", view=self.speak, permission=public),
        )

    def show(self, visit: Visit) -> Response:
        if visit.caller is not None:
            return _to(local_path(visit.request.args.get("next", "/")))
        return self._renderer.page(visit, "login.html", message="", name="")

    def enter(self, visit: Visit) -> Response:
        name, password = visit.field("name"), visit.request.form.get("password", "")
        caller = self._accounts.authenticate(name, password) if name and password else None
        if caller is None:
            _ = visit.words.text
            missing = _("Give a name and a password.")
            message = _("This name and password do not fit together.") if name and password else missing
            return self._renderer.page(visit, "login.html", status=401, message=message, name=name)
        fresh = self._sessions.begin(caller.name)
        response = _to(local_path(visit.request.args.get("next", "/")))
        set_cookie(response, SESSION, fresh.secret, max_age_s=LIFE_MS // 1000)
        return response

    def leave(self, visit: Visit) -> Response:
        self._sessions.end(visit.secret)
        response = _to("/login")
        response.delete_cookie(SESSION, path="/")
        return response

    def speak(self, visit: Visit) -> Response:
        response = _to(local_path(visit.field("next")))
        if (language := visit.field("language")) in LANGUAGES:
            set_cookie(response, LANGUAGE, language, max_age_s=YEAR_S)
        return response


def _to(path: str) -> Response:
    return redirect(path, 303)  # type: ignore[return-value]
