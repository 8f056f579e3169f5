"""Cases of MQTT profiles: payloads from documents or recordings, and the values that they mean."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from firmware_configs.messages import Message, MqttProfile, filled, matches, parts, topic_filter
from gateway.decoders.json_path import Unreadable
from gateway.decoders.payloads import Decoded, compile_payload
from gateway.decoders.values import series_of
from gateway.errors import Misconfigured
from gateway.library.cases import meaning
from protos.comboio.v1 import batch_pb2 as pb
from protos.strict import DocumentError, convert

ABSENT: dict[int, str] = {pb.QUALITY_BAD_SENSOR: "not available", pb.QUALITY_BAD_COMM: "not sent"}
Meant = bool | int | float | str


class Published(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One payload, and what it means: `expect` of one row, `rows` of several, or `refused` with the cause."""

    name: str
    payload: str
    topic: str = ""
    device: str = ""
    expect: dict[str, Meant] = {}
    rows: tuple[dict[str, Meant], ...] = ()
    time_ms: tuple[int, ...] = ()
    """What the device's clock said, row by row; 0: nothing that can be used."""
    refused: str = ""


class MqttCase(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A case file."""

    profile: str
    origin: str = ""
    """Where the payloads come from: a document, or "recorded: …"."""
    message: tuple[Published, ...]


def load(path: Path) -> MqttCase:
    """Raises Misconfigured with every mistake."""
    try:
        return convert(tomllib.loads(path.read_text(encoding="utf-8")), MqttCase)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, DocumentError) as error:
        raise Misconfigured("\n".join(f"{path.name}: {line}" for line in str(error).splitlines())) from None


def disagreements(case: MqttCase, profile: MqttProfile) -> Iterator[str]:
    """One sentence per value that is another than the case says."""
    for published in case.message:
        for problem in _of(published, profile):
            yield f"{published.name}: {problem}"


def message_of(profile: MqttProfile, topic: str, device: str) -> Message | None:
    """What the profile says of this topic; an empty one: its only message."""
    messages = profile.messages()
    if len(messages) == 1 and not topic:
        return messages[0]
    return next((one for one in messages if matches(topic_filter(filled(one.topic, device)), topic)), None)


def decoded(message: Message, payload: bytes, topic: str, device: str) -> list[Decoded]:
    """Raises Unreadable."""
    return compile_payload(message)(payload, parts(filled(message.topic, device), topic))


def values_of(message: Message, row: Decoded) -> dict[str, Meant]:
    """Quantity → what it means to a person."""
    shapes = [
        series_of(
            v.quantity, kind=v.type, unit=v.unit, decimals=v.decimals, scale=v.scale, offset=v.offset, attrs=v.attrs
        )
        for v in message.value
    ]
    quality = row.quality or (pb.QUALITY_GOOD,) * len(shapes)
    return {
        shape.name: meaning(shape, wire) if wire is not None else ABSENT[code]
        for shape, wire, code in zip(shapes, row.values, quality, strict=True)
    }


def _of(published: Published, profile: MqttProfile) -> Iterator[str]:
    message = message_of(profile, published.topic, published.device)
    if message is None:
        yield f"topic {published.topic!r} is none of {profile.name}"
        return
    try:
        rows = decoded(message, published.payload.encode(), published.topic, published.device)
    except Unreadable as error:
        if error.cause != published.refused:
            yield f"is refused ({error.cause}): {error}"
        return
    if published.refused:
        yield f"is taken, and should be refused ({published.refused})"
        return
    wanted = published.rows or (published.expect,)
    if len(rows) != len(wanted):
        yield f"has {len(rows)} rows, not {len(wanted)}"
        return
    for row, expect in zip(rows, wanted, strict=True):
        yield from _differences(values_of(message, row), expect)
    times = tuple(row.device_ms or 0 for row in rows)
    if published.time_ms and times != published.time_ms:
        yield f"its times are {times}, not {published.time_ms}"


def _differences(found: Mapping[str, Meant], expect: Mapping[str, Meant]) -> Iterator[str]:
    for quantity in dict.fromkeys((*found, *expect)):
        if quantity not in found:
            yield f"{quantity} is no quantity of this message"
        elif quantity not in expect:
            yield f"{quantity} is {found[quantity]!r}, and the case doesn't say"
        elif not _same(found[quantity], expect[quantity]):
            yield f"{quantity} is {found[quantity]!r}, not {expect[quantity]!r}"


def _same(found: Meant, wanted: Meant) -> bool:
    if isinstance(found, str | bool) or isinstance(wanted, str | bool):
        return type(found) is type(wanted) and found == wanted
    return math.isclose(found, wanted, rel_tol=1e-9, abs_tol=1e-9)


def case_text(profile: MqttProfile, heard: list[tuple[str, bytes]], *, device: str, what: str) -> str:
    """A case file of what was heard; its expectations are what the profile makes of it."""
    lines = [
        "# What the profile makes of these payloads is under `expect`: compare it with what the device shows.",
        f"profile = {_toml(profile.name)}",
        f"origin = {_toml(f'recorded: {what}')}",
    ]
    for number, (topic, payload) in enumerate(heard, 1):
        lines += ["", "[[message]]", f'name = "message {number}"', f"topic = {_toml(topic)}"]
        lines += [f"device = {_toml(device)}"] if device else []
        lines += [f"payload = {_toml(payload.decode(errors='replace'))}", *_expected(profile, topic, device, payload)]
    return "\n".join(lines) + "\n"


def _expected(profile: MqttProfile, topic: str, device: str, payload: bytes) -> Iterator[str]:
    message = message_of(profile, topic, device)
    if message is None:
        return
    try:
        rows = decoded(message, payload, topic, device)
    except Unreadable as error:
        yield f"refused = {_toml(error.cause)}"
        return
    for row in rows:
        yield "[[message.rows]]" if message.each is not None else "[message.expect]"
        yield from (f"{quantity} = {_toml(meant)}" for quantity, meant in values_of(message, row).items())


def _toml(value: Any) -> str:
    return msgspec.json.encode(value).decode()
