"""BTHome v2, bthome.io/format and bthome.io/encryption, through the kept package.

A device with a key must encrypt; plain bytes from it are refused, whoever sent them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bthome_ble import BTHomeBluetoothDeviceData
from bthome_ble.const import MEAS_TYPES

from gateway.decoders.advertisements import (
    NO_KEY,
    PLAIN,
    WRONG_KEY,
    Advert,
    Counter,
    Fields,
    Format,
    Pattern,
    Undecodable,
)
from gateway.decoders.advertisements.kept import ask, hush

if TYPE_CHECKING:
    from firmware_configs.adverts import BleProfile
    from gateway.reading import Wire

SERVICE = "0000fcd2-0000-1000-8000-00805f9b34fb"
ENCRYPTED, WITH_ADDRESS = 1, 2
COUNTER_AND_MIC = 8

hush("bthome_ble")


def payload(advert: Advert) -> bytes | None:
    return advert.service.get(SERVICE)


def decode(data: bytes, address: str, key: bytes | None) -> Fields:
    """Fields by the package's keys (temperature, humidity, …). Raises Undecodable."""
    if not data or data[0] >> 5 != 2:
        raise Undecodable("not BTHome version 2")
    encrypted = bool(data[0] & ENCRYPTED)
    body = data[7:] if data[0] & WITH_ADDRESS else data[1:]
    if key is None and encrypted:
        raise Undecodable(NO_KEY, "no_key")
    if key is not None and not encrypted:
        raise Undecodable(PLAIN, "plain")
    if encrypted and len(body) <= COUNTER_AND_MIC:
        raise Undecodable("too short to be encrypted")
    if not encrypted:
        _require_whole(body)
    values, packet = _parsed(data, address, key)
    if encrypted:
        return Fields(values, Counter(int.from_bytes(data[-8:-4], "little"), 32, proven=True))
    return Fields(values, None if packet is None else Counter(packet, 8))


def _parsed(data: bytes, address: str, key: bytes | None) -> tuple[dict[str, Wire], int | None]:
    parser = BTHomeBluetoothDeviceData(bindkey=key)
    values = ask(parser, address, service={SERVICE: data})
    if key is not None and not parser.bindkey_verified:
        raise Undecodable(WRONG_KEY, "wrong_key")
    if not values:
        raise Undecodable("no measurement inside")
    return values, None if parser.packet_id is None else int(parser.packet_id)


def _require_whole(body: bytes) -> None:
    """The package stops at the first object it can't read and keeps those before: half a measurement."""
    at = 0
    while at < len(body):
        kind = MEAS_TYPES.get(body[at])
        if kind is None:
            raise Undecodable(f"object 0x{body[at]:02x} is unknown")
        sized = kind.data_format in {"raw", "string", "command"}
        if sized and at + 1 >= len(body):
            raise Undecodable("cut off")
        length = 1 + ((body[at + 1] & 31) + 1 if kind.data_format == "command" else body[at + 1]) if sized else 0
        at += 1 + (length or kind.data_length)
    if at != len(body) or not body:
        raise Undecodable("cut off")


def format_of(profile: BleProfile) -> Format:
    del profile
    return Format(payload, decode, (Pattern("service", b"\xd2\xfc"),), key_bytes=(16,))
