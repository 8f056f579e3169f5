"""Readings as Parquet, one row group for each series and page.

A value stands in the column of its kind: `number` for every number (float64), beside it `integer`, exact, for integers
(`unsigned` for those of 2^63 and more), `boolean`, `text`. In none of them: it could not be read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from control_plane.api.export_rows import Rows
from protos.columns import Value

if TYPE_CHECKING:
    import pyarrow as pa

MEDIA_TYPE = "application/vnd.apache.parquet"
INT64 = 1 << 63


class Sink:
    """What the writer takes for a file; `taken` gives what was written since the last time."""

    closed = False

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._at = 0

    def write(self, data: Any) -> int:
        part = bytes(data)
        self._parts.append(part)
        self._at += len(part)
        return len(part)

    def tell(self) -> int:
        return self._at

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        self.closed = True

    def taken(self) -> bytes:
        parts, self._parts = self._parts, []
        return b"".join(parts)


def parquet(pages: Iterator[list[Rows]]) -> Iterator[bytes]:
    """The file, page by page; its index comes last, so half a file is none."""
    import pyarrow as pa  # noqa: PLC0415 - large, and hardly ever needed
    from pyarrow import parquet as files  # noqa: PLC0415

    schema, sink = _schema(pa), Sink()
    with files.ParquetWriter(sink, schema, compression="zstd", use_dictionary=["series", "unit", "quality"]) as writer:
        for page in pages:
            for rows in page:
                if rows.times_ms:
                    writer.write_table(_table(pa, schema, rows))
                    yield sink.taken()
    yield sink.taken()


def _schema(pa: Any) -> pa.Schema:
    return pa.schema(
        [
            pa.field("series", pa.string(), nullable=False),
            pa.field("unit", pa.string(), nullable=False),
            pa.field("time", pa.timestamp("ms", tz="UTC"), nullable=False),
            pa.field("number", pa.float64()),
            pa.field("integer", pa.int64()),
            pa.field("unsigned", pa.uint64()),
            pa.field("boolean", pa.bool_()),
            pa.field("text", pa.string()),
            pa.field("quality", pa.string(), nullable=False),
            pa.field("clock_err_ms", pa.int64(), nullable=False),
        ]
    )


def _table(pa: Any, schema: pa.Schema, rows: Rows) -> pa.Table:
    many = len(rows.times_ms)
    columns: dict[str, Sequence[Any]] = {
        "series": [rows.series] * many,
        "unit": [rows.unit] * many,
        "time": rows.times_ms,
        **_values(rows.values),
        "quality": rows.quality,
        "clock_err_ms": [rows.err_ms] * many,
    }
    return pa.table(
        [pa.array(columns[field.name], type=field.type, from_pandas=False) for field in schema], schema=schema
    )


def _values(values: Sequence[Value | None]) -> dict[str, list[Any]]:
    whole = [value if isinstance(value, int) and not isinstance(value, bool) else None for value in values]
    return {
        "number": [float(v) if isinstance(v, int | float) and not isinstance(v, bool) else None for v in values],
        "integer": [v if v is not None and v < INT64 else None for v in whole],
        "unsigned": [v if v is not None and v >= INT64 else None for v in whole],
        "boolean": [v if isinstance(v, bool) else None for v in values],
        "text": [v if isinstance(v, str) else None for v in values],
    }
