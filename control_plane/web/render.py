"""Templates to answers. Everything put into a template is escaped; a name it lacks is an error."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from flask import Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from control_plane.web import sentences
from control_plane.web.visit import Visit, path_of
from control_plane.web.words import LANGUAGES

HERE = Path(__file__).parent
STATIC = HERE / "static"
SCRIPTS = ("vendor/htmx.min.js", "vendor/hx-sse.min.js")
HTML = "text/html; charset=utf-8"


class Renderer:
    def __init__(self) -> None:
        self._versions = {
            str(path.relative_to(STATIC)): hashlib.sha256(path.read_bytes()).hexdigest()[:12]
            for path in sorted(STATIC.rglob("*"))
            if path.is_file()
        }
        self._templates = Environment(
            loader=FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.globals.update(
            path_of=path_of,
            static=self.static,
            say=sentences,
            languages=LANGUAGES,
            scripted=all(name in self._versions for name in SCRIPTS),
        )

    def static(self, name: str) -> str:
        """The address of a file under static/, new whenever its content is."""
        return f"/static/{name}?v={self._versions.get(name, '')}"

    def known(self, name: str) -> bool:
        return name in self._versions

    def fragment(self, visit: Visit, template: str, **values: Any) -> str:
        words = visit.words
        return self._templates.get_template(template).render(
            visit=visit, words=words, _=words.text, ngettext=words.plural, **values
        )

    def page(self, visit: Visit, template: str, *, status: int = 200, **values: Any) -> Response:
        response = Response(self.fragment(visit, template, **values), status=status, content_type=HTML)
        response.headers["Cache-Control"] = "no-store"
        return response
