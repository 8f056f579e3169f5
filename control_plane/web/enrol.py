"""Bringing a gateway into the fleet: a join token, shown once, with the command to paste and a code to scan."""

from __future__ import annotations

import segno
from flask import Response, redirect
from markupsafe import Markup

from control_plane.api.binding import Permission
from control_plane.errors import Conflict
from control_plane.fleet.join_tokens import JoinTokens
from control_plane.settings import Settings
from control_plane.web.render import Renderer
from control_plane.web.visit import PageRoute, Visit

LIFE_S = (3_600, 86_400, 7 * 86_400, 30 * 86_400)
NAME_LIMIT, ASSET_LIMIT = 100, 200
OPEN_SHOWN = 200


class EnrolPages:
    def __init__(self, *, join_tokens: JoinTokens, settings: Settings, renderer: Renderer) -> None:
        self._join_tokens = join_tokens
        self._settings = settings
        self._renderer = renderer

    def routes(self) -> tuple[PageRoute, ...]:
        admin = Permission.ADMIN
        return (
            PageRoute(method="GET", path="/enrol", view=self.show, permission=admin),
            PageRoute(method="POST", path="/enrol", view=self.create, permission=admin),
            PageRoute(method="POST", path="/enrol/<token_id>/revoke", view=self.revoke, permission=admin),
        )

    def show(self, visit: Visit) -> Response:
        return self._page(visit)

    def create(self, visit: Visit) -> Response:
        name, asset, life = visit.field("name"), visit.field("asset"), visit.field("life_s")
        problems = _problems(visit, name, asset, life)
        if problems:
            return self._page(visit, status=422, problems=problems)
        made = self._join_tokens.create(gateway_name=name, asset=asset or None, ttl_s=int(life))
        command = f"comboio-gateway enrol --server {self._server(visit)} --token {made.token}"
        code = Markup(segno.make(made.token, error="m").svg_inline(scale=4, border=3, light="white"))  # noqa: S704 - segno's own
        shown = {"name": name, "token": made.token, "command": command, "code": code, "expires_ms": made.expires_ms}
        return self._page(visit, made=shown)

    def revoke(self, visit: Visit, token_id: str) -> Response:
        try:
            self._join_tokens.revoke(token_id)
        except Conflict as used:
            return self._page(visit, status=409, problems={"": str(used)})
        return redirect("/enrol", 303)  # type: ignore[return-value]

    def _page(
        self,
        visit: Visit,
        *,
        status: int = 200,
        problems: dict[str, str] | None = None,
        made: dict[str, object] | None = None,
    ) -> Response:
        typed = {} if made else {name: visit.field(name) for name in ("name", "asset", "life_s")}
        return self._renderer.page(
            visit,
            "enrol.html",
            status=status,
            problems=problems or {},
            made=made,
            typed={"name": "", "asset": "", "life_s": "86400", **{key: text for key, text in typed.items() if text}},
            lives=[(str(life), visit.words.length_s(life)) for life in LIFE_S],
            still_open=self._join_tokens.still_open(limit=OPEN_SHOWN),
            now_ms=visit.now_ms,
        )

    def _server(self, visit: Visit) -> str:
        """What the gateway will call this server: its public name, else what this browser calls it."""
        if self._settings.public_name:
            scheme = "http" if self._settings.http_address.loopback else "https"
            return f"{scheme}://{self._settings.advertised(self._settings.http)}"
        return visit.request.host_url.rstrip("/")


def _problems(visit: Visit, name: str, asset: str, life: str) -> dict[str, str]:
    """By field, what is wrong with it."""
    _ = visit.words.text
    found = {}
    if not name:
        found["name"] = _("Give the gateway a name, such as the vehicle it rides in.")
    elif len(name) > NAME_LIMIT:
        found["name"] = _("At most %(n)s characters.", n=NAME_LIMIT)
    if len(asset) > ASSET_LIMIT:
        found["asset"] = _("At most %(n)s characters.", n=ASSET_LIMIT)
    if life not in {str(one) for one in LIFE_S}:
        found["life_s"] = _("Choose one of these.")
    return found
