"""MQTT payloads → rows, as a profile describes them: JSON, a CSV line or a plain value. Pure.

A message that can't be read, or has none of the wanted values, is refused whole. Of one that has some, a value that
isn't there is BAD_COMM, one of another type (null included) or a sentinel BAD_SENSOR.

A time in the payload is what the device's clock said. It becomes the row's `device_ms` and never its time; a row whose
time can't be used has none.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, NamedTuple

from firmware_configs.messages import Message, MessageTime, MessageValue
from gateway.decoders.json_path import ABSENT, MAX_BYTES, Unreadable, at, document, names_of, tokens
from gateway.decoders.values import wire
from gateway.reading import Wire
from protos.comboio.v1 import batch_pb2 as pb

MAX_ROWS = 1000
"""Of one message."""
LATEST_MS = 253_402_300_800_000
"""The year 10000; what is later is no time."""
_PER_MS = {"unix_s": 0.001, "unix_ms": 1.0, "unix_us": 1000.0}
_NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d{1,4})?", re.ASCII)
_NOTHING: Mapping[str, str] = {}


class Decoded(NamedTuple):
    """One row: a wire value per column, a quality per column (None: all good), what the device's clock said."""

    values: tuple[Wire, ...]
    quality: tuple[int, ...] | None
    device_ms: int | None = None


Decode = Callable[[bytes, Mapping[str, str]], list[Decoded]]
"""(payload, what stands for the placeholders of its topic) → rows, in the order of the message."""


def compile_payload(message: Message) -> Decode:
    """A decoder of messages. It raises Unreadable with the cause, and nothing else."""
    read = _reader(message)
    array = None if message.each is None else tokens(message.each)
    columns = [(value, tokens(value.path), _column(value, message)) for value in message.value]
    time_of = _clock(message.time)

    def decode(payload: bytes, parts: Mapping[str, str] = _NOTHING) -> list[Decoded]:
        whole = read(payload)
        items = [whole] if array is None else _items(at(whole, array))
        rows = [_row(columns, item, parts, time_of) for item in items]
        good = [row for row in rows if row is not None]
        if not good:
            raise Unreadable("nothing_wanted", "none of the wanted values is in the message")
        return good

    return decode


def _reader(message: Message) -> Callable[[bytes], Any]:
    if message.format == "json":
        paths = [tokens(value.path) for value in message.value]
        paths += [tokens(message.each)] if message.each is not None else []
        names = () if message.each is not None else names_of(paths)
        return lambda payload: document(payload, names)
    return _cells if message.format == "csv" else _text


def _text(payload: bytes) -> str:
    if len(payload) > MAX_BYTES:
        raise Unreadable("too_large", f"{len(payload)} bytes are more than the {MAX_BYTES} a message may have")
    try:
        text = payload.decode().strip("\x00 \t\r\n")
    except UnicodeDecodeError as error:
        raise Unreadable("not_text", f"byte {error.start} is no UTF-8") from None
    if not text:
        raise Unreadable("empty", "it is empty")
    return text


def _cells(payload: bytes) -> Any:
    """Cells of one line, or a list of them of several."""
    text = _text(payload)
    try:
        lines = list(csv.reader(text.splitlines(), delimiter=";" if ";" in text else ","))
    except csv.Error as error:
        raise Unreadable("not_csv", f"not CSV: {error}") from None
    cells = [[cell.strip() for cell in line] for line in lines if line]
    return cells[0] if len(cells) == 1 else cells


def _items(found: Any) -> list[Any]:
    if not isinstance(found, list):
        raise Unreadable("wrong_shape", "there is no array where its measurements should be")
    if len(found) > MAX_ROWS:
        raise Unreadable("too_many_rows", f"{len(found)} measurements are more than the {MAX_ROWS} a message may have")
    if not found:
        raise Unreadable("empty", "its array is empty")
    return found


Column = Callable[[Any], tuple[Wire, int, bool]]
"""Its wire value, its quality, and whether it was understood: a sentinel is."""


def _row(
    columns: Sequence[tuple[MessageValue, Sequence[str], Column]],
    item: Any,
    parts: Mapping[str, str],
    time_of: Callable[[Any], int | None],
) -> Decoded | None:
    found = [
        column(parts.get(value.topic_part, ABSENT) if value.topic_part else at(item, path))
        for value, path, column in columns
    ]
    told = zip(found, columns, strict=True)
    if not any(understood and not value.topic_part for (_, _, understood), (value, _, _) in told):
        return None
    quality = tuple(code for _, code, _ in found)
    return Decoded(tuple(one for one, _, _ in found), quality if any(quality) else None, time_of(item))


def _column(value: MessageValue, message: Message) -> Column:
    texts = message.format != "json" or bool(value.topic_part) or value.quoted
    labels = value.labels
    scaled = value.scale is not None or bool(value.offset)

    def one(said: Any) -> tuple[Wire, int, bool]:
        if said is ABSENT:
            return None, pb.QUALITY_BAD_COMM, False
        if isinstance(said, int | float | str) and not isinstance(said, bool) and said in value.sentinels:
            return None, pb.QUALITY_BAD_SENSOR, True
        if labels:
            said = labels.get(_spelled(said), None if value.type != "string" else said)
        elif texts and value.type != "string":
            said = _parsed(said, value)
        found = _scaled(said, value) if scaled else wire(said, value.type, value.decimals)
        return found, pb.QUALITY_GOOD if found is not None else pb.QUALITY_BAD_SENSOR, found is not None

    return one


def _spelled(said: Any) -> str:
    """As a profile writes it: true, 1, 21.5, ON."""
    if isinstance(said, bool):
        return "true" if said else "false"
    return said if isinstance(said, str) else repr(said) if isinstance(said, int | float) else ""


def _parsed(said: Any, value: MessageValue) -> Any:
    """A number or switch out of a text; a number that is one already stays, unless it is no JSON."""
    if not isinstance(said, str):
        return said
    text = said.strip()
    if value.type == "boolean":
        return {"true": True, "false": False, "1": True, "0": False}.get(text.lower())
    if not _NUMBER.fullmatch(text):
        return None
    text = text.replace(",", ".")
    return int(text) if text.lstrip("+-").isdecimal() and len(text) < 20 else float(text)


def _scaled(said: Any, value: MessageValue) -> Wire:
    """An integer travels as it is, with the declared scale; another number as what it means."""
    plain = wire(said, "number", 0)
    if isinstance(plain, int):
        return plain
    if not isinstance(plain, float):
        return None
    meant = plain * (value.scale or 1.0) + value.offset
    return meant if math.isfinite(meant) else None


def _clock(time: MessageTime | None) -> Callable[[Any], int | None]:
    if time is None:
        return lambda _: None
    path = tokens(time.path)
    if time.format == "iso8601":
        zone = None if time.utc_offset_min is None else timezone(timedelta(minutes=time.utc_offset_min))
        return lambda item: _plausible(_written(at(item, path), zone))
    per_ms = _PER_MS[time.format]
    return lambda item: _plausible(_counted(at(item, path), per_ms))


def _counted(said: Any, per_ms: float) -> float | None:
    if isinstance(said, str) and _NUMBER.fullmatch(said):
        said = float(said.replace(",", "."))
    if isinstance(said, bool) or not isinstance(said, int | float):
        return None
    try:
        return said / per_ms
    except OverflowError:
        return None


def _written(said: Any, zone: timezone | None) -> float | None:
    if not isinstance(said, str):
        return None
    try:
        found = datetime.fromisoformat(said)
        found = found.replace(tzinfo=found.tzinfo or zone)
        return None if found.tzinfo is None else (found - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1000
    except (ValueError, OverflowError):
        return None


def _plausible(ms: float | None) -> int | None:
    """After 1970 and before the year 10000."""
    return round(ms) if ms is not None and 0 < ms < LATEST_MS else None
