"""The page's HTTP surface: sign in, three pages, the same as JSON, two static files.

Every answer forbids what the page does not need: other origins, inline scripts, frames, caches. A POST is taken only
from our own pages: by SameSite=Strict, by the browser's word on the origin, and by a token once signed in.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import structlog
from aiohttp import web

from gateway.errors import Misconfigured
from gateway.field import views
from gateway.field.pin import Door, fingerprint
from gateway.field.sessions import Session, Sessions
from gateway.field.words import Words, load, preferred
from gateway.health.picture import Picture

COOKIE = "comboio_field"
STATIC = Path(__file__).with_name("static")
FILES = {"style.css": "text/css", "page.js": "text/javascript"}
FORM_BYTES = 4096
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    # Not no-referrer: under that a browser says "Origin: null" of our own forms.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

log = structlog.get_logger("gateway.field")


class Surface:
    """`app()` is what a server runs. `pin_path`: the hashed PIN. `take` gives the picture; it must be cheap."""

    def __init__(self, *, take: Callable[[], Picture], door: Door, sessions: Sessions, pin_path: Path) -> None:
        self._take = take
        self._door = door
        self._sessions = sessions
        self._pin_path = pin_path
        self._words = load()
        self._files = {name: (STATIC / name).read_bytes() for name in FILES}

    def app(self) -> web.Application:
        app = web.Application(middlewares=[_confined, self._spoken], client_max_size=FORM_BYTES)
        app.add_routes(
            [
                web.get("/login", self._login_form),
                web.post("/login", self._login),
                web.post("/logout", self._logout),
                web.get("/api/now", self._as_json),
                web.get("/static/{name}", self._static),
                *(web.get(path, self._page(name)) for name, path in views.PAGES.items()),
            ]
        )
        return app

    @web.middleware
    async def _spoken(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """What aiohttp would say in plain English of a path or a form is said as a page."""
        try:
            return await handler(request)
        except web.HTTPRedirection:
            raise
        except web.HTTPException as error:
            words = self._words_for(request)
            said = words("not_found") if error.status == web.HTTPNotFound.status_code else error.reason
            return _html(views.refused(words, said), status=error.status)

    # --- signing in ----------------------------------------------------------------------------------

    async def _login_form(self, request: web.Request) -> web.StreamResponse:
        return _html(views.login(self._words_for(request)))

    async def _login(self, request: web.Request) -> web.StreamResponse:
        words = self._words_for(request)
        if not _from_here(request):
            return _html(views.refused(words, words("form_refused")), status=403)
        wait_s = self._door.wait_s()
        if wait_s > 0:
            return _too_often(words, wait_s)
        pin = (await request.post()).get("pin", "")
        known = fingerprint(self._pin_path)
        try:
            right = isinstance(pin, str) and await self._door.opens(pin)
        except Misconfigured as error:
            log.warning("field.no_pin", why=str(error))
            return _html(views.login(words, wrong=words("pin_missing")), status=403)
        if not right:
            log.warning("field.pin_wrong", peer=request.remote)
            return _html(views.login(words, wrong=words("pin_wrong")), status=403)
        answer = web.HTTPSeeOther("/")
        name = self._sessions.begin(pin=known)
        answer.set_cookie(COOKIE, name, httponly=True, samesite="Strict", path="/", secure=request.secure)
        log.info("field.signed_in", peer=request.remote)
        raise answer

    async def _logout(self, request: web.Request) -> web.StreamResponse:
        session, words = self._session(request), self._words_for(request)
        token = (await request.post()).get("csrf", "")
        if session is not None:
            if not _from_here(request) or not isinstance(token, str) or not session.sent(token):
                return _html(views.refused(words, words("form_refused")), status=403)
            self._sessions.end(request.cookies[COOKIE])
        answer = web.HTTPSeeOther("/login")
        answer.del_cookie(COOKIE, path="/")
        raise answer

    def _session(self, request: web.Request) -> Session | None:
        name = request.cookies.get(COOKIE, "")
        return self._sessions.of(name, pin=fingerprint(self._pin_path)) if name else None

    # --- looking -------------------------------------------------------------------------------------

    def _page(self, name: str) -> Handler:
        async def shown(request: web.Request) -> web.StreamResponse:
            session, live = self._session(request), "live" in request.query
            if session is None:
                if live:
                    return web.Response(status=401, text="")
                raise web.HTTPSeeOther("/login")
            words = self._words_for(request)
            if live:
                return _html(views.part(name, self._take(), words))
            return _html(views.page(name, self._take(), words, csrf=session.csrf))

        return shown

    async def _as_json(self, request: web.Request) -> web.StreamResponse:
        if self._session(request) is None:
            return web.json_response({"error": "sign in at /login"}, status=401)
        return web.Response(body=msgspec.json.encode(self._take()), content_type="application/json")

    async def _static(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        if name not in self._files:
            raise web.HTTPNotFound
        return web.Response(body=self._files[name], content_type=FILES[name], charset="utf-8")

    def _words_for(self, request: web.Request) -> Words:
        return self._words[preferred(request.headers.get("Accept-Language", ""))]


@web.middleware
async def _confined(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        answer = await handler(request)
    except web.HTTPException as refusal:
        refusal.headers.update(HEADERS)
        raise
    answer.headers.update(HEADERS)
    return answer


def _from_here(request: web.Request) -> bool:
    """By the word of the browser; programs that say nothing of an origin carry nobody's cookie."""
    origin = request.headers.get("Origin")
    site = request.headers.get("Sec-Fetch-Site", "same-origin")
    return site in {"same-origin", "none"} and (origin is None or origin == f"{request.scheme}://{request.host}")


def _html(body: str, *, status: int = 200) -> web.Response:
    return web.Response(text=body, status=status, content_type="text/html")


def _too_often(words: Words, wait_s: float) -> web.Response:
    seconds = math.ceil(wait_s)
    answer = _html(views.login(words, wrong=words("pin_wait", seconds=seconds)), status=429)
    answer.headers["Retry-After"] = str(seconds)
    return answer
