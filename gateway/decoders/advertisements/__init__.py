"""Formats of Bluetooth LE advertisements, one file each, imported only when a profile names them.

A decoder is pure: the same bytes, address and key give the same fields. Whether they are news is the driver's question,
which is why it is told the counter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Literal, NamedTuple, cast

from gateway.errors import ComboioError, Misconfigured
from gateway.reading import Wire

if TYPE_CHECKING:
    from firmware_configs.adverts import BleProfile

DECODERS = {
    "atc": "gateway.decoders.advertisements.atc:format_of",
    "bthome-v2": "gateway.decoders.advertisements.bthome:format_of",
    "eddystone-tlm": "gateway.decoders.advertisements.eddystone:tlm",
    "eddystone-uid": "gateway.decoders.advertisements.eddystone:uid",
    "govee": "gateway.decoders.advertisements.packaged:govee",
    "ibeacon": "gateway.decoders.advertisements.ibeacon:format_of",
    "inkbird": "gateway.decoders.advertisements.packaged:inkbird",
    "layout": "gateway.decoders.advertisements.layout:format_of",
    "ruuvi-rawv2": "gateway.decoders.advertisements.ruuvi:format_of",
    "sensorpush": "gateway.decoders.advertisements.packaged:sensorpush",
    "thermopro": "gateway.decoders.advertisements.packaged:thermopro",
    "xiaomi": "gateway.decoders.advertisements.xiaomi:format_of",
}
"""format = "…" of a profile → what makes its Format of the profile."""

Cause = Literal["unreadable", "another_device", "no_key", "plain", "wrong_key"]
WRONG_KEY = (
    "the key doesn't fit: compare key_file with the bind key that the maker's app shows for this address; "
    "pairing the sensor anew gives it another"
)
NO_KEY = "encrypted, and no key_file is configured: take the bind key from the maker's app"
PLAIN = "plain, from a sensor that has a key: somebody else may have sent it, or encryption was switched off there"


class Undecodable(ComboioError):  # noqa: N818 - named for what it says of the payload
    """This payload is none of its format, or not from who it claims; the message says why."""

    def __init__(self, why: str, cause: Cause = "unreadable") -> None:
        super().__init__(why)
        self.cause = cause


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


class Pattern(NamedTuple):
    """What every advertisement of a format begins with: bytes of service data (with its UUID) or manufacturer data."""

    kind: Literal["service", "manufacturer"]
    data: bytes


@dataclass(frozen=True, slots=True)
class Format:
    """`payload`: this format's bytes in an advertisement, None if there are none.

    `decode(payload, address, key)`: its fields; raises Undecodable, and nothing else is expected of it.
    """

    payload: Callable[[Advert], bytes | None]
    decode: Callable[[bytes, str, bytes | None], Fields]
    patterns: tuple[Pattern, ...] = ()
    """For passive scanning; empty: no two of its advertisements begin alike."""
    key_bytes: tuple[int, ...] = ()
    """Lengths of its keys; empty: it knows none."""
    rotating: bool = False
    """Its manufacturer data carries measurements where the company number should be, so that each is another entry."""


def resolve(profile: BleProfile) -> Format:
    """The format of a profile. Raises Misconfigured for one whose decoder isn't installed."""
    module, _, attribute = DECODERS[profile.format].partition(":")
    try:
        make = cast("Callable[[BleProfile], Format]", getattr(import_module(module), attribute))
        return make(profile)
    except ModuleNotFoundError as error:
        raise Misconfigured(
            f"{profile.name}: the decoder of {profile.format} needs {error.name}, which isn't installed"
        ) from error
