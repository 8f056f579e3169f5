"""Languages: messages from translations/<locale>.po, dates and numbers as each locale writes them.

A message's key is its English text. Values are put into a message by name: `text("No word since %(time)s", time=…)`.
What comes out is plain text; templates escape it.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, timedelta, tzinfo
from functools import cached_property
from gettext import GNUTranslations, NullTranslations
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from babel import Locale, dates, numbers
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po

from control_plane.api.problems import FieldProblem, Problem

FOLDER = Path(__file__).parent / "translations"
SOURCE = "en"
LANGUAGES: Mapping[str, str] = {"en": "English", "pt": "Português"}
LOCALES: Mapping[str, str] = {"en": "en_GB", "pt": "pt_BR"}  # both write 24 hours and the day first
ZONE = re.compile(r"[A-Za-z0-9_+\-]+(/[A-Za-z0-9_+\-]+){0,2}")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SIZES = ("B", "kB", "MB", "GB", "TB")


class Words:
    """One visitor's language, locale and time zone."""

    def __init__(self, *, language: str, messages: NullTranslations, zone: tzinfo, now_ms: int) -> None:
        self.language = language
        self._messages = messages
        self._zone = zone
        self._now_ms = now_ms

    def later(self, now_ms: int) -> Words:
        """The same words at another moment."""
        return Words(language=self.language, messages=self._messages, zone=self._zone, now_ms=now_ms)

    @property
    def habits(self) -> tuple[str, str]:
        """Texts for visitors with equal habits are equal."""
        return self.language, str(self._zone)

    @cached_property
    def locale(self) -> Locale:
        return Locale.parse(LOCALES[self.language])

    @property
    def html_language(self) -> str:
        return LOCALES[self.language].replace("_", "-")

    def text(self, message: str, **values: object) -> str:
        found = self._messages.gettext(message)
        return found % values if values else found

    def plural(self, one: str, many: str, number: int, **values: object) -> str:
        """`%(n)s` stands for the number."""
        return self._messages.ngettext(one, many, number) % {"n": self.number(number), **values}

    # --- moments ---------------------------------------------------------------------------------------

    def at(self, at_ms: int) -> datetime:
        return (EPOCH + timedelta(milliseconds=at_ms)).astimezone(self._zone)

    def moment(self, at_ms: int | None) -> str:
        """14:02:31 today, else with its date."""
        return self._when(at_ms, "HH:mm:ss")

    def clock(self, at_ms: int | None) -> str:
        """14:02 today, else with its date."""
        return self._when(at_ms, "HH:mm")

    def full(self, at_ms: int) -> str:
        """Date, time to the millisecond and offset: for titles."""
        return dates.format_datetime(self.at(at_ms), "yyyy-MM-dd HH:mm:ss.SSS XXX", locale=self.locale)

    def date(self, at_ms: int) -> str:
        return dates.format_date(self.at(at_ms).date(), "medium", locale=self.locale)

    def _when(self, at_ms: int | None, pattern: str) -> str:
        if at_ms is None:
            return "–"
        at, today = self.at(at_ms), self.at(self._now_ms)
        time = dates.format_time(at, pattern, tzinfo=self._zone, locale=self.locale)
        if at.date() == today.date():
            return time
        day = dates.format_skeleton("MMMd" if at.year == today.year else "yMMMd", at, self._zone, locale=self.locale)
        return f"{day}, {time}"

    def day(self, text: str, *, after: bool = False) -> datetime:
        """The visitor's midnight that begins (or, `after`, ends) the day written YYYY-MM-DD; raises Problem 422."""
        try:
            day = date.fromisoformat(text)
            return datetime.combine(day + timedelta(days=int(after)), datetime.min.time(), tzinfo=self._zone)
        except (ValueError, OverflowError):
            wrong = FieldProblem("?to" if after else "?from", self.text("Write a day as 2026-11-22."))
            raise Problem(422, self.text("This is not a day."), errors=[wrong]) from None

    # --- lengths of time -------------------------------------------------------------------------------

    def ago(self, at_ms: int | None) -> str:
        """In steps coarse enough that a page at rest stays the same."""
        if at_ms is None:
            return "–"
        seconds = (self._now_ms - at_ms) / 1000
        if seconds < 10:
            return self.text("just now")
        return self.text("%(time)s ago", time=self.length_s(seconds // 10 * 10 if seconds < 60 else seconds))

    def length_s(self, seconds: float) -> str:
        """45 s, 12 min, 3 h 20 min, 5 days."""
        whole = max(0, int(seconds))
        if whole < 60:
            return f"{self.number(whole)} s"
        if whole < 3600:
            return f"{whole // 60} min"
        if whole < 48 * 3600:
            hours, minutes = divmod(whole // 60, 60)
            return f"{hours} h {minutes} min" if minutes else f"{hours} h"
        return self.plural("%(n)s day", "%(n)s days", whole // 86_400)

    def length_ms(self, milliseconds: int) -> str:
        if milliseconds < 1000:
            return f"{self.number(milliseconds)} ms"
        return f"{self.number(milliseconds / 1000)} s" if milliseconds < 60_000 else self.length_s(milliseconds / 1000)

    # --- numbers ---------------------------------------------------------------------------------------

    def number(self, value: float, *, places: int = 3) -> str:
        """So many decimals at most, and with three of them five digits in all, where that says enough."""
        digits = places if places > 3 else min(places, 4 - len(str(int(abs(value)))))
        places = max(0, digits) if isinstance(value, float) else 0
        pattern = "#,##0." + "#" * places if places else "#,##0"
        return numbers.format_decimal(value, format=pattern, locale=self.locale)

    def size(self, count: int) -> str:
        value, unit = float(count), 0
        while value >= 1000 and unit < len(SIZES) - 1:
            value, unit = value / 1000, unit + 1
        return f"{self.number(round(value, 1) if unit else int(value))} {SIZES[unit]}"


class Dictionary:
    """Every language, read once."""

    def __init__(self) -> None:
        self._messages: dict[str, NullTranslations] = {SOURCE: NullTranslations()}
        for language in LANGUAGES:
            if language != SOURCE:
                self._messages[language] = _read(FOLDER / f"{language}.po")

    def words(self, *, language: str, zone: str, now_ms: int) -> Words:
        """`language` as `chosen` gave it; an unknown `zone` is UTC."""
        return Words(language=language, messages=self._messages[language], zone=_zone(zone), now_ms=now_ms)


def chosen(asked: str | None, accepted: Iterable[str]) -> str:
    """The visitor's own choice, else the first language the browser accepts and we speak, else English."""
    for tag in (asked or "", *accepted):
        language = tag.replace("_", "-").partition("-")[0].lower()
        if language in LANGUAGES:
            return language
    return SOURCE


def _read(path: Path) -> GNUTranslations:
    with path.open("rb") as source:
        catalog = read_po(source, locale=path.stem)
    compiled = io.BytesIO()
    write_mo(compiled, catalog)
    compiled.seek(0)
    return GNUTranslations(compiled)


def _zone(name: str) -> tzinfo:
    if not ZONE.fullmatch(name):
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, OSError, ValueError):
        return UTC
