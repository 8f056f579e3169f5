"""iBeacon, Apple's "Proximity Beacon Specification" R1: manufacturer data 0x004C, type 0x02, length 0x15."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING
from uuid import UUID

from gateway.decoders.advertisements import Advert, Fields, Format, Pattern, Undecodable

if TYPE_CHECKING:
    from firmware_configs.adverts import BleProfile

APPLE = 0x004C
PREFIX = b"\x02\x15"
SIZE = 23


def payload(advert: Advert) -> bytes | None:
    data = advert.manufacturer.get(APPLE)
    return data if data and data.startswith(PREFIX) else None


def decode(data: bytes, address: str, key: bytes | None) -> Fields:
    """uuid, major, minor, and tx_power in dBm as it would be measured at 1 m. Raises Undecodable."""
    del address, key
    if len(data) != SIZE or not data.startswith(PREFIX):
        raise Undecodable(f"an iBeacon has {SIZE} bytes, not {len(data)}")
    major, minor, power = struct.unpack(">HHb", data[18:])
    return Fields({"uuid": str(UUID(bytes=data[2:18])), "major": major, "minor": minor, "tx_power": power}, None)


def format_of(profile: BleProfile) -> Format:
    del profile
    return Format(payload, decode, (Pattern("manufacturer", b"\x4c\x00" + PREFIX),))
