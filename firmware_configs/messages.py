"""What an MQTT profile may say: which topics a device model publishes to, and where its quantities stand there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from firmware_configs.schema import Frozen, Name, Slug, Source

Pointer = Annotated[str, Meta(pattern=r"^(/([^~/]|~[01])*)*$", title="JSON pointer, e.g. /battery/level")]
Topic = Annotated[str, Meta(max_length=1024, pattern=r"^[^\x00]*$", title="a topic, e.g. tele/{device}/SENSOR")]
Format = Literal["json", "csv", "plain"]
TimeFormat = Literal["unix_s", "unix_ms", "unix_us", "iso8601"]
DEVICE = "device"
_PLACEHOLDER = re.compile(r"\{([a-z][a-z0-9_]*)\}")


class MessageTime(Frozen, frozen=True, kw_only=True):
    """Where a message says when it was measured: by the device's clock, so it corrects and never orders."""

    path: Pointer
    format: TimeFormat
    utc_offset_min: Annotated[int, Meta(ge=-840, le=840)] | None = None
    """Of an iso8601 time without an offset of its own; without this setting such a time can't be used."""


class MessageValue(Frozen, frozen=True, kw_only=True):
    """One quantity and its JSON pointer (RFC 6901): of a CSV line /0 is the first cell, of a plain payload all."""

    quantity: Name
    path: Pointer = ""
    topic_part: str = ""
    """Not in the payload, but in the topic: the name of a {placeholder} of it."""
    type: Literal["number", "boolean", "string"] = "number"
    unit: str = ""
    """UCUM code."""
    decimals: Annotated[int, Meta(ge=0, le=9)] | None = None
    """What the device resolves; a number that doesn't fit travels as it is."""
    scale: float | None = None
    """value = number × scale + offset."""
    offset: float = 0.0
    quoted: bool = False
    """The number stands in a text, e.g. "21.5"."""
    labels: dict[str, bool | int | float | str] = msgspec.field(default_factory=dict)
    """What the device says, spelled as in its message, and the value it means, e.g. { ON = true, OFF = false }."""
    sentinels: tuple[int | float | str, ...] = ()
    """Values by which the device says "not available"."""
    attrs: dict[str, str] = msgspec.field(default_factory=dict)
    source: Annotated[str, Meta(min_length=1)]
    """Source id and section."""


class Message(Frozen, frozen=True, kw_only=True):
    """What comes on one topic: one group of quantities with one time."""

    topic: Topic = ""
    """{device} is filled in by the sensor; any other {name} stands for one level of any text. Empty: as the sensor
    says."""
    format: Format = "json"
    """plain: the payload is the value; csv: a line of cells between commas or semicolons."""
    each: Pointer | None = None
    """An array of measurements: each of its elements is a row, and paths begin there."""
    time: MessageTime | None = None
    period_s: Annotated[float, Meta(gt=0)] | None = None
    """This message comes at least about this often; left out: as the profile says."""
    value: Annotated[tuple[MessageValue, ...], Meta(min_length=1)]


class Availability(Frozen, frozen=True, kw_only=True):
    """Where the broker tells whether the device is there (its last will). It is told as a state, never as a reading."""

    topic: Topic
    path: Pointer = ""
    """Where a JSON message says it; empty: the payload itself."""
    online: str = "online"
    offline: str = "offline"


class MqttProfile(Frozen, frozen=True, kw_only=True):
    """One device model. Its name is `vendor-model@version`, its file `mqtt/<vendor>-<model>.toml`.

    Either `value`, where quantities stand in JSON on one topic, or one or more `message`.
    """

    vendor: Slug
    model: Slug
    version: Annotated[int, Meta(ge=1)]
    description: Annotated[str, Meta(min_length=1)]
    simulated: bool = False
    sources: Annotated[tuple[Source, ...], Meta(min_length=1)]
    period_s: Annotated[float, Meta(gt=0)]
    """A message is published at least about this often."""
    value: tuple[MessageValue, ...] = ()
    message: tuple[Message, ...] = ()
    availability: Availability | None = None

    @property
    def name(self) -> str:
        return f"{self.vendor}-{self.model}@{self.version}"

    def messages(self) -> tuple[Message, ...]:
        return (Message(value=self.value), *self.message) if self.value else self.message

    def values(self) -> tuple[MessageValue, ...]:
        """In column order, message by message."""
        return tuple(value for message in self.messages() for value in message.value)

    def quantities(self) -> tuple[str, ...]:
        """In column order."""
        return tuple(value.quantity for value in self.values())


def placeholders(topic: str) -> list[str]:
    """Names between braces, in their order."""
    return _PLACEHOLDER.findall(topic)


def filled(topic: str, device: str) -> str:
    """The topic of one device; other placeholders stay."""
    return topic.replace(f"{{{DEVICE}}}", device)


def topic_filter(topic: str) -> str:
    """What to subscribe to: each placeholder is one level."""
    return "/".join("+" if _PLACEHOLDER.fullmatch(level) else level for level in topic.split("/"))


def parts(topic: str, said: str) -> Mapping[str, str]:
    """Placeholder → what stands there in a topic that matches."""
    found = {}
    for level, text in zip(topic.split("/"), said.split("/"), strict=False):
        match = _PLACEHOLDER.fullmatch(level)
        if match:
            found[match[1]] = text
    return found


def matches(wanted: str, topic: str) -> bool:
    """Whether a topic is meant by a filter (MQTT 5.0, section 4.7): + is one level, # any number at the end."""
    levels, said = wanted.split("/"), topic.split("/")
    if topic.startswith("$") and levels[0] in {"+", "#"}:
        return False
    for at, level in enumerate(levels):
        if level == "#":
            return True
        if at >= len(said) or level not in {"+", said[at]}:
            return False
    return len(levels) == len(said)


def covers(wide: str, narrow: str) -> bool:
    """Whether every topic that one filter means is meant by the other."""
    levels, inner = wide.split("/"), narrow.split("/")
    if narrow.startswith("$") and levels[0] in {"+", "#"}:
        return False
    for at, level in enumerate(levels):
        if level == "#":
            return True
        if at >= len(inner) or inner[at] == "#" or level not in {"+", inner[at]}:
            return False
    return len(levels) == len(inner)


def problem_of_filter(topic: str) -> str | None:
    """Why nothing can be subscribed to so."""
    levels = topic.split("/")
    for at, level in enumerate(levels):
        if "#" in level and (level != "#" or at != len(levels) - 1):
            return "# stands alone, for all that follows, at the end"
        if "+" in level and level != "+":
            return "+ stands for one whole level"
        if _PLACEHOLDER.search(level) and not _PLACEHOLDER.fullmatch(level):
            return "a {placeholder} stands for one whole level"
    return None
