"""Answers for people: tables that fit a terminal, one thing as a sheet, times as ages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from control_plane.console.table import plain, table

WIDTH = 100
UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
TIMES = frozenset(
    {
        "time", "recorded", "created", "enrolled", "retired", "expires", "certificate_expires", "revoked", "delivered",
        "next_at", "sent", "watermark", "oldest_open", "complete_to", "used", "started", "asked", "ended",
    }
)  # fmt: skip


def rows(columns: Sequence[str], *, of: Callable[[Any], Mapping[str, Any]] | None = None) -> Callable[[Any], None]:
    """Prints `items` as a table; `of` makes a row of an item."""

    def show(answer: Any) -> None:
        items = [of(item) if of is not None else item for item in answer["items"]]
        now = datetime.now(UTC)
        shown = [{name: cell(name, item.get(name), now) for name in columns} for item in items]
        print(table(columns, shown, width=WIDTH) if shown else "None.")
        if answer.get("next"):
            print(f"There are more; --limit {len(items) * 2} shows them.")

    return show


def sheet(answer: Any) -> None:
    """One thing: a line per field, times in full with their age."""
    now = datetime.now(UTC)
    shown = [(name, value) for name, value in answer.items() if name != "etag"]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        text = cell(name, value, now)
        if name in TIMES and isinstance(value, str):
            text = f"{value} ({text})"
        print(f"{name.ljust(width)}  {plain(text)}")


def said(text: str) -> Callable[[Any], None]:
    """Prints a sentence with the answer's fields in it."""
    return lambda answer: print(text.format_map(answer))


def cell(name: str, value: Any, now: datetime) -> Any:
    if name in TIMES and isinstance(value, str):
        return age(value, now)
    if isinstance(value, list):
        return ", ".join(item if isinstance(item, str) else _json(item) for item in value) or None
    if isinstance(value, dict):
        return ", ".join(f"{key}={_plain(item)}" for key, item in value.items()) or None
    return value


def age(text: str, now: datetime) -> str:
    """'3 min ago', 'in 12 d'; what is no time stays as it is."""
    try:
        away = datetime.fromisoformat(text) - now
    except ValueError:
        return text
    seconds = abs(away.total_seconds())
    if seconds < 1:
        return "now"
    size, unit = next((one for one in UNITS if seconds >= one[0]), UNITS[-1])
    told = f"{int(seconds // size)} {unit}"
    return f"in {told}" if away > timedelta(0) else f"{told} ago"


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else _json(value)


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
