"""What is exported is what was read, whatever it is and however long."""

from __future__ import annotations

import csv
import io
import math
import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow.parquet as files
import pytest
from flask import Flask
from flask.testing import FlaskClient

from control_plane.api.app import create_app
from control_plane.api.export import AT_ONCE, Exports
from control_plane.api.readings import quality_word
from control_plane.fleet.accounts import Accounts, Role
from control_plane.projections import stretches
from control_plane.projections.reading import HistoryReader, Key, Readings
from control_plane.settings import WebSection
from control_plane.store.engine import Stores
from protos.columns import Block, Schema, encode
from protos.comboio.v1 import batch_pb2 as pb
from tests.control_plane.conftest import START_MS, TurnedClock
from tests.control_plane.projections.conftest import Road
from tests.control_plane.sealing import EPOCH, GATEWAY, OTHER, urgent

HOUR_MS = 3_600_000
COLUMNS: dict[str, tuple[pb.ValueType.ValueType, list[Any]]] = {
    "plain": (pb.VT_FLOAT64, [0.1, -0.0, math.nan, math.inf, -math.inf, 5e-324]),
    "counter": (pb.VT_INT64, [2**63 - 1, -(2**63), 2**53 + 1, 0, -1, 7]),
    "serial": (pb.VT_UINT64, [2**64 - 1, 2**63, 2**63 - 1, 0, 1, 2]),
    "open": (pb.VT_BOOL, [True, False, True, True, False, None]),
    "words": (pb.VT_STRING, ["", 'say "yes",\r\nor NaN', "true", "1.5", "é☃", None]),
}
KEYS = [f"{GATEWAY}/box/{name}" for name in COLUMNS]


def declared() -> pb.Declare:
    series = [
        pb.Series(id=n, name=name, unit="u", type=kind, raw=kind == pb.VT_FLOAT64)
        for n, (name, (kind, _)) in enumerate(COLUMNS.items(), start=1)
    ]
    return pb.Declare(epoch=EPOCH, schema=1, groups=[pb.Group(id=1, sensor="box", period_ms=60_000, series=series)])


def batch(seq: int, at_ms: int) -> pb.Batch:
    columns = [values for _, values in COLUMNS.values()]
    quality = [[0 if value is not None else int(pb.QUALITY_BAD_COMM) for value in column] for column in columns]
    times = [at_ms + 60_000 * n for n in range(6)]
    block = Block(1, times, columns, quality=quality)
    body, count = encode(Schema.from_declare(declared()), boot=1, blocks=[block])
    return pb.Batch(
        epoch=EPOCH,
        lane=pb.TELEMETRY,
        seq=seq,
        schema=1,
        count=count,
        body_len=len(body),
        body=body,
        crc32=zlib.crc32(body),
        complete_boot=1,
        complete_mono_ms=at_ms,
    )


class Counting(HistoryReader):
    """Also says how many pages were read."""

    reads = 0

    def read(self, *arguments: Any, **more: Any) -> dict[Key, Readings]:
        self.reads += 1
        return super().read(*arguments, **more)


@pytest.fixture
def reader(stores: Stores) -> Counting:
    return Counting(journal=stores.journal, telemetry=stores.telemetry)


@pytest.fixture
def road(stores: Stores, clock: TurnedClock) -> Road:
    """Some rows an hour, in hours a week apart, the older ones sealed."""
    made = Road(stores, clock)
    made.declare(declared())
    made.arrive(urgent(1, pb.Anchor(boot=1, mono_ms=0, wall_ms=START_MS, err_ms=5, source=pb.CLOCK_NTP)))
    made.arrive(*(batch(seq, HOUR_MS * 24 * 7 * seq + 59 * 60_000) for seq in range(1, 4)))
    made.project()
    made.seal()
    made.arrive(*(batch(seq, HOUR_MS * 24 * 7 * seq) for seq in range(4, 6)))
    made.project()
    return made


@pytest.fixture
def app(road: Road, reader: Counting, stores: Stores, accounts: Accounts, clock: TurnedClock) -> Flask:
    exports = Exports(telemetry=stores.telemetry, reader=reader, clock=clock)
    return create_app(exports.routes(), accounts=accounts, web=WebSection())


@pytest.fixture
def client(app: Flask, accounts: Accounts) -> FlaskClient:
    made = app.test_client()
    token = accounts.create_token(name="test", role=Role.VIEWER).token
    made.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {token}"
    return made


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stretches, "PAGE_READINGS", 300)


def address(form: str, *keys: str) -> str:
    asked = "&".join(f"series={key}" for key in keys)
    return f"/api/v1/readings/export?{asked}&from=1970-01-01T00:00:00Z&to=2100-01-01T00:00:00Z&format={form}"


def whole(road: Road) -> dict[str, Readings]:
    keys = [("box", name) for name in COLUMNS]
    found = road.reader().read(GATEWAY, keys, from_ms=0, to_ms=START_MS + HOUR_MS * 24 * 365)
    assert all(len(one.times_ms) == 30 for one in found.values())
    return {f"{GATEWAY}/box/{name}": found["box", name] for name in COLUMNS}


def same(value: Any, other: Any) -> bool:
    if isinstance(value, float) and isinstance(other, float):
        return struct.pack("<d", value) == struct.pack("<d", other) or (math.isnan(value) and math.isnan(other))
    return type(value) is type(other) and value == other


def fields(line: str) -> list[str]:
    """A line's fields with their quotation marks, which tell text from what looks like it."""
    found, field, inside = [], "", False
    for character in line:
        inside ^= character == '"'
        if character == "," and not inside:
            found.append(field)
            field = ""
        else:
            field += character
    return [*found, field]


def lines(text: str) -> Iterator[str]:
    """Line ends within quotation marks end no line."""
    line, inside = "", False
    for character in text:
        inside ^= character == '"'
        line += character
        if line.endswith("\r\n") and not inside:
            yield line[:-2]
            line = ""
    assert not line


def value_of(text: str) -> Any:
    named = {"": None, "true": True, "false": False, "NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
    if text.startswith('"'):
        return text[1:-1].replace('""', '"')
    return named[text] if text in named else float(text) if set(text) & set(".en") else int(text)


def test_a_csv_file_says_to_the_bit_what_was_read(client: FlaskClient, road: Road, small_pages: None) -> None:
    answer = client.get(address("csv", *KEYS))
    assert answer.headers["Content-Disposition"] == 'attachment; filename="readings.csv"'
    header, *rows = [fields(line) for line in lines(answer.text)]
    assert header == ["series", "unit", "time", "value", "quality", "clock_err_ms"]
    for key, expected in whole(road).items():
        mine = [row for row in rows if row[0] == key]
        assert [row[2] for row in mine[:1]] == ["2025-11-29T10:59:00.000Z"]
        assert [row[4] for row in mine] == [quality_word(code) for code in expected.quality]
        for row, value in zip(mine, expected.values, strict=True):
            assert same(value_of(row[3]), value), (key, row, value)
        assert all(0 < int(row[5]) <= expected.err_ms for row in mine)
    plain = list(csv.reader(io.StringIO(answer.text, newline="")))
    assert len(plain) == len(rows) + 1
    assert {len(row) for row in plain} == {6}


def test_a_parquet_file_says_to_the_bit_what_was_read(client: FlaskClient, road: Road, small_pages: None) -> None:
    answer = client.get(address("parquet", *KEYS))
    assert answer.content_type == "application/vnd.apache.parquet"
    file = files.ParquetFile(io.BytesIO(answer.data))
    assert file.metadata.num_row_groups > len(KEYS)
    rows = file.read().to_pylist()
    for key, expected in whole(road).items():
        mine = [row for row in rows if row["series"] == key]
        assert [round(row["time"].timestamp() * 1000) for row in mine] == expected.times_ms
        assert [row["quality"] for row in mine] == [quality_word(code) for code in expected.quality]
        for row, value in zip(mine, expected.values, strict=True):
            assert same(told(row), value), (key, row, value)


def told(row: Mapping[str, Any]) -> Any:
    exact = ("integer", "unsigned", "boolean", "text", "number")
    return next((row[name] for name in exact if row[name] is not None), None)


def test_only_hours_with_readings_are_read_and_none_after_the_reader_has_gone(
    client: FlaskClient, reader: Counting, small_pages: None
) -> None:
    assert client.get(address("csv", *KEYS)).data
    assert 5 <= reader.reads <= 10  # five hours, some of them on both sides of a page's edge
    reader.reads = 0
    answer = client.get(address("csv", *KEYS), buffered=False)
    pieces = answer.iter_encoded()
    next(pieces)
    next(pieces)
    answer.close()
    assert reader.reads == 1


def test_more_exports_than_there_are_places_for_wait(client: FlaskClient) -> None:
    kept = [client.get(address("csv", KEYS[0]), buffered=False) for _ in range(AT_ONCE)]
    refused = client.get(address("csv", KEYS[0]))
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "30")
    for answer in kept:
        answer.close()
    assert client.get(address("csv", KEYS[0])).status_code == 200


def test_a_batch_that_comes_and_a_clock_that_is_corrected_meanwhile_double_nothing(
    client: FlaskClient, road: Road, small_pages: None
) -> None:
    expected = sorted(at for one in whole(road).values() for at in one.times_ms)
    answer = client.get(address("parquet", *KEYS), buffered=False)
    pieces = answer.iter_encoded()
    data = next(pieces)
    road.arrive(urgent(2, pb.Anchor(boot=1, mono_ms=HOUR_MS * 24 * 40, wall_ms=START_MS + HOUR_MS * 24 * 60, err_ms=5)))
    road.project()
    data += b"".join(pieces)
    answer.close()
    rows = files.ParquetFile(io.BytesIO(data)).read().to_pylist()
    assert sorted(round(row["time"].timestamp() * 1000) for row in rows) == expected


def test_what_is_not_there_or_not_given_is_not_exported(client: FlaskClient, app: Flask, accounts: Accounts) -> None:
    assert client.get(address("csv", f"{OTHER}/box/plain")).status_code == 404
    assert client.get(address("xml", KEYS[0])).status_code == 422
    token = accounts.create_token(name="others", role=Role.VIEWER, groups=frozenset({"others"})).token
    mine = app.test_client().get(address("csv", KEYS[0]), headers={"Authorization": f"Bearer {token}"})
    assert mine.status_code == 404
