from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

NARROWEST = 8
NAMES = frozenset({"id", "gateway", "sensor", "slug", "name"})


def table(columns: Sequence[str], rows: Sequence[Mapping[str, Any]], *, width: int | None = None) -> str:
    """Aligned columns with a heading; absent values are dashes, numbers stand to the right.

    With `width` the widest columns are cut until it fits, names (`id` …) last.
    """
    cells = [[plain(row.get(column)) for column in columns] for row in rows]
    widths = [max([len(column), *(len(line[i]) for line in cells)]) for i, column in enumerate(columns)]
    if width is not None:
        widths = _fitting(columns, widths, width)
        cells = [[_cut(text, most) for text, most in zip(line, widths, strict=True)] for line in cells]
    right = [bool(rows) and all(_is_number(row.get(column)) for row in rows) for column in columns]
    lines = [_line([column.upper() for column in columns], widths, right)]
    return "\n".join([*lines, *(_line(line, widths, right) for line in cells)])


def _fitting(columns: Sequence[str], widths: Sequence[int], width: int) -> list[int]:
    """Narrower where there is most to cut; only headings are never cut."""
    found, least = list(widths), [max(NARROWEST, len(column)) for column in columns]
    for kept in (NAMES, frozenset[str]()):
        while sum(found) + 2 * (len(found) - 1) > width:
            free = [i for i, column in enumerate(columns) if column not in kept and found[i] > least[i]]
            if not free:
                break
            found[max(free, key=lambda i: found[i])] -= 1
    return found


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    aligned = (c.rjust(w) if r else c.ljust(w) for c, w, r in zip(cells, widths, right, strict=True))
    return "  ".join(aligned).rstrip()


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def plain(value: Any) -> str:
    """One line of printable characters, whatever somebody called a thing."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "".join(c if c.isprintable() else "�" for c in " ".join(str(value).split()))
