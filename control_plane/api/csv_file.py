"""Readings as CSV (RFC 4180), each value so that it reads back as it was.

Numbers as Python writes them (the shortest that reads back), `NaN`, `Infinity`, `-Infinity`; `true` and `false`; text
in quotation marks, always, so that the text "true" is not the truth; nothing at all for what could not be read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from control_plane.api.export_rows import Rows, instant
from protos.columns import Value

MEDIA_TYPE = "text/csv; charset=utf-8; header=present"
HEADER = b"series,unit,time,value,quality,clock_err_ms\r\n"


def csv(pages: Iterator[list[Rows]]) -> Iterator[bytes]:
    """The file, page by page."""
    yield HEADER
    for page in pages:
        for rows in page:
            if rows.times_ms:
                yield "".join(_lines(rows)).encode()


def _lines(rows: Rows) -> Iterator[str]:
    named, err = f"{_field(rows.series)},{_field(rows.unit)}", f",{rows.err_ms}\r\n"
    for at_ms, value, quality in zip(rows.times_ms, rows.values, rows.quality, strict=True):
        yield f"{named},{instant(at_ms)},{written(value)},{quality}{err}"


def written(value: Value | None) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return '"' + value.replace('"', '""') + '"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) or math.isfinite(value):
        return repr(value)
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _field(text: str) -> str:
    return written(text) if any(c in text for c in '",\r\n') else text
