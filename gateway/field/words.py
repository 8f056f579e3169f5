"""The page's sentences in the reader's language; catalogues are TOML files beside this one."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path

from gateway.health import written

FOLDER = Path(__file__).with_name("catalogue")
LANGUAGES = ("en", "pt")


class Words:
    """One language. A missing sentence is a KeyError: a test reads them all."""

    def __init__(self, language: str, sentences: Mapping[str, str]) -> None:
        self.language = language
        self.sentences = sentences

    def __call__(self, key: str, **facts: object) -> str:
        return self.sentences[key].format(**facts) if facts else self.sentences[key]

    def number(self, value: float, digits: int = 5, *, code: str = "") -> str:
        """With the language's decimal sign, and a thin space after thousands. `code`: its UCUM unit."""
        if abs(value) >= 10**digits:
            return f"{value:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}")
        text = written.number(value, code=code, digits=digits)
        return text.replace(".", ",") if self.language == "pt" else text

    def span(self, seconds: float) -> str:
        """A length of time in its largest fitting unit."""
        for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
            if seconds >= 2 * size:
                return f"{self.number(seconds // size)} {unit}"
        return f"{self.number(round(seconds, 1) if seconds < 10 else round(seconds))} s"

    def size(self, count: float) -> str:
        for unit in ("B", "kB", "MB"):
            if count < 1000:
                return f"{self.number(count, 3)} {unit}"
            count /= 1000
        return f"{self.number(count, 3)} GB"


def load() -> dict[str, Words]:
    """Every language by its code."""
    return {
        language: Words(language, tomllib.loads((FOLDER / f"{language}.toml").read_text(encoding="utf-8")))
        for language in LANGUAGES
    }


def preferred(accept_language: str) -> str:
    """The better liked of our languages by an Accept-Language header; English if it says neither."""
    best, liked = "en", 0.0
    for part in accept_language[:200].split(","):
        name, _, weight = part.partition(";q=")
        language = name.strip().lower()[:2]
        try:
            likes = float(weight or 1)
        except ValueError:
            continue
        if language in LANGUAGES and likes > liked:
            best, liked = language, likes
    return best
