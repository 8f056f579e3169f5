"""One request of a person, and the line of the page table that answers it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

from flask import Request, Response

from control_plane.api.binding import Permission
from control_plane.fleet.accounts import Caller, Role
from control_plane.web.words import Words


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """`form_key` must come back with every form; `secret` is the cookie's, empty before signing in."""

    request: Request
    caller: Caller | None
    words: Words
    form_key: str
    secret: str
    now_ms: int

    def field(self, name: str) -> str:
        """A field of the posted form, without blanks around it and without NUL, which PostgreSQL takes nowhere."""
        return self.request.form.get(name, "").replace("\0", "").strip()

    def later(self, now_ms: int) -> Visit:
        """The same visit as its stream sees it at another moment."""
        return replace(self, words=self.words.later(now_ms), now_ms=now_ms)

    def may(self, role: str) -> bool:
        return self.caller is not None and self.caller.role >= Role.named(role)


@dataclass(frozen=True, slots=True, kw_only=True)
class PageRoute:
    """`path` in Flask's notation; `view(visit, **parts of the path)`. Every POST needs its form key."""

    method: str
    path: str
    view: Callable[..., Response]
    permission: Permission
    failures_per_minute: int | None = None

    @property
    def name(self) -> str:
        return f"page {self.method} {self.path}"


def path_of(*parts: str, **query: Any) -> str:
    """A path of this site; parts are escaped but for their slashes, None is left out of the query."""
    path = "/" + "/".join(quote(part, safe="/:") for part in parts)
    asked = [
        f"{quote(key.rstrip('_'))}={quote(str(value), safe=':')}"
        for key, value in query.items()
        if value not in (None, "")
    ]
    return path + ("?" + "&".join(asked) if asked else "")


def local_path(text: str) -> str:
    """`text` if it is a path of this site, else the home page: nobody is sent elsewhere by a link to us."""
    if text.startswith("/") and not text.startswith(("//", "/\\")) and text.isprintable():
        return text
    return "/"
