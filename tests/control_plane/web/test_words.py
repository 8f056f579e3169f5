"""Every message has its translation; numbers and dates read as each language writes them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from babel.messages.extract import extract
from babel.messages.pofile import read_po

from control_plane.web import words as module
from control_plane.web.words import LANGUAGES, SOURCE, Dictionary, Words, chosen

WEB = Path(module.__file__).parent
KEYWORDS = {"_": None, "text": None, "ngettext": (1, 2), "plural": (1, 2)}
PLACE = re.compile(r"%\(\w+\)s")
NOW_MS = 1_763_805_600_000  # 2025-11-22 10:00 UTC
Message = str | tuple[str, ...]


def frozen(text: object) -> Message:
    return tuple(str(part) for part in text) if isinstance(text, list | tuple) else str(text or "")


def said() -> set[Message]:
    """Every message of the code and the templates."""
    found: set[Message] = set()
    for path in (*WEB.glob("*.py"), *(WEB / "templates").glob("*.html")):
        method = "python" if path.suffix == ".py" else "jinja2.ext:babel_extract"
        with path.open("rb") as source:
            found |= {message for _, message, _, _ in extract(method, source, keywords=KEYWORDS)}
    assert len(found) > 200
    return found


@pytest.mark.parametrize("language", sorted(set(LANGUAGES) - {SOURCE}))
def test_every_message_is_translated_and_none_is_left_over(language: str) -> None:
    with (WEB / "translations" / f"{language}.po").open("rb") as source:
        catalog = read_po(source, locale=language)
    known = {frozen(one.id): frozen(one.string) for one in catalog if one.id}
    assert known.keys() == said()
    for message, translation in known.items():
        one, many = ((message,), (translation,)) if isinstance(message, str) else (message, translation)
        assert all(many), message
        places = {tuple(sorted(PLACE.findall(text))) for text in (*one, *many)}
        assert len(places) == 1, f"{message}: other places"
    assert not any(one.fuzzy for one in catalog)


def words(language: str = "en", zone: str = "America/Sao_Paulo") -> Words:
    return Dictionary().words(language=language, zone=zone, now_ms=NOW_MS)


def test_a_moment_is_told_in_the_visitors_zone_and_with_its_day_when_not_today() -> None:
    assert words().clock(NOW_MS - 60_000) == "06:59"
    assert words().clock(NOW_MS - 86_400_000) == "21 Nov, 07:00"
    assert words("pt").clock(NOW_MS - 86_400_000) == "21 de nov., 07:00"
    assert words(zone="../../etc/passwd").clock(NOW_MS) == "10:00"
    assert words(zone="Nowhere/Nothing").clock(NOW_MS) == "10:00"


@pytest.mark.parametrize(
    ("age_s", "english", "portuguese"),
    [
        (3, "just now", "agora"),
        (47, "40 s ago", "há 40 s"),
        (600, "10 min ago", "há 10 min"),
        (7_800, "2 h 10 min ago", "há 2 h 10 min"),
        (260_000, "3 days ago", "há 3 dias"),
    ],
)
def test_an_age_is_told_coarsely(age_s: int, english: str, portuguese: str) -> None:
    assert words().ago(NOW_MS - age_s * 1000) == english
    assert words("pt").ago(NOW_MS - age_s * 1000) == portuguese


def test_numbers_are_written_as_the_language_does() -> None:
    assert [words().number(one) for one in (4.0, 3.14159, 1234.5, -12.25, 1_000_000)] == [
        "4",
        "3.142",
        "1,234",
        "-12.25",
        "1,000,000",
    ]
    assert words("pt").number(3.14159) == "3,142"
    assert words("pt").size(2_400_000) == "2,4 MB"


@pytest.mark.parametrize(
    ("asked", "accepted", "language"),
    [
        (None, ["pt-BR", "en"], "pt"),
        (None, ["de", "pt"], "pt"),
        ("en", ["pt"], "en"),
        ("xx", ["de"], "en"),
        (None, [], "en"),
    ],
)
def test_the_visitors_choice_goes_before_the_browsers(asked: str | None, accepted: list[str], language: str) -> None:
    assert chosen(asked, accepted) == language
