"""Formats of Bluetooth LE advertisements, one file each, imported only when a profile names them.

A decoder is pure: the same bytes, address and key give the same fields. Whether they are news is the driver's question,
which is why it is told the counter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import NamedTuple, cast

from gateway.errors import ComboioError
from gateway.reading import Wire

DECODERS = {
    "bthome-v2": "gateway.decoders.advertisements.bthome:FORMAT",
    "ruuvi-rawv2": "gateway.decoders.advertisements.ruuvi:FORMAT",
}
"""format = "…" of a profile → its Format."""


class Undecodable(ComboioError):  # noqa: N818 - named for what it says of the payload
    """This payload is none of its format, or not from who it claims; the message says why."""


class Advert(NamedTuple):
    """What the radio heard of one device at one moment, as far as the system tells."""

    address: str
    manufacturer: Mapping[int, bytes]
    service: Mapping[str, bytes]
    rssi: int | None
    mono_ms: int


class Counter(NamedTuple):
    """A number the device raises by one per measurement."""

    value: int
    bits: int
    proven: bool = False
    """Encrypted with the measurement: nobody else can have made it."""


class Fields(NamedTuple):
    """One measurement: the format's field names and its own numbers."""

    values: Mapping[str, Wire]
    counter: Counter | None


@dataclass(frozen=True, slots=True)
class Format:
    """`payload`: this format's bytes in an advertisement, None if there are none.

    `decode(payload, address, key)`: its fields; raises Undecodable, and nothing else is expected of it.
    """

    payload: Callable[[Advert], bytes | None]
    decode: Callable[[bytes, str, bytes | None], Fields]


def resolve(name: str) -> Format:
    """The format of that name in DECODERS."""
    module, _, attribute = DECODERS[name].partition(":")
    return cast("Format", getattr(import_module(module), attribute))
