"""BTHome v2, bthome.io/format and bthome.io/encryption, through the kept package.

A device with a key must encrypt; plain bytes from it are refused, whoever sent them.

What an object id means is the package's table. A payload of whole numbers and switches, each once, as most are, is
read here by that table, in a fifth of the time; every other is handed to the package.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import TYPE_CHECKING, NamedTuple

from bthome_ble import BTHomeBluetoothDeviceData
from bthome_ble.const import MEAS_TYPES
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESCCM
from sensor_state_data.description import BaseBinarySensorDescription, BaseSensorDescription

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
PACKET = "packet_id"
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
    if key is not None:
        if not encrypted:
            raise Undecodable(PLAIN, "plain")
        if len(body) <= COUNTER_AND_MIC:
            raise Undecodable("too short to be encrypted")
        values, _ = _read(_opened(data, body, address, key)) or _asked(data, address, key)
        return Fields(_some(values), Counter(int.from_bytes(data[-8:-4], "little"), 32, proven=True))
    if encrypted:
        raise Undecodable(NO_KEY, "no_key")
    found = _read(body)
    if found is None:
        _require_whole(body)
        found = _asked(data, address, None)
    values, packet = found
    return Fields(_some(values), None if packet is None else Counter(packet, 8))


def _some(values: dict[str, Wire]) -> dict[str, Wire]:
    if not values:
        raise Undecodable("no measurement inside")
    return values


def _opened(data: bytes, body: bytes, address: str, key: bytes) -> bytes:
    """The objects, decrypted."""
    mac = data[6:0:-1] if data[0] & WITH_ADDRESS else bytes.fromhex(address.replace(":", ""))
    try:
        return _cipher(key).decrypt(mac + b"\xd2\xfc" + data[:1] + body[-8:-4], body[:-8] + body[-4:], None)
    except InvalidTag:
        raise Undecodable(WRONG_KEY, "wrong_key") from None


@lru_cache(maxsize=256)
def _cipher(key: bytes) -> AESCCM:
    return AESCCM(key, tag_length=4)


class _Number(NamedTuple):
    """An object that is one whole number times a factor."""

    length: int
    signed: bool
    factor: float
    decimals: int
    key: str
    switch: bool


def _read(body: bytes) -> tuple[dict[str, Wire], int | None] | None:
    """Fields and packet number of a payload that is whole; None: this is one for the package."""
    values: dict[str, Wire] = {}
    packet, at = None, 0
    while at < len(body):
        kind = _number(body[at])
        if kind is None or at + 1 + kind.length > len(body):
            return None
        raw = int.from_bytes(body[at + 1 : at + 1 + kind.length], "little", signed=kind.signed)
        if kind.key in values or (kind.key == PACKET and packet is not None):
            return None
        if kind.key == PACKET:
            packet = raw
        else:
            values[kind.key] = bool(raw) if kind.switch else round(raw * kind.factor, kind.decimals)
        at += 1 + kind.length
    return (values, packet) if body else None


@cache
def _number(object_id: int) -> _Number | None:
    """None: it is none, or unknown."""
    kind = MEAS_TYPES.get(object_id)
    if kind is None or kind.data_format not in {"unsigned_integer", "signed_integer"}:
        return None
    told = kind.meas_format
    if not isinstance(told, BaseSensorDescription | BaseBinarySensorDescription) or not told.device_class:
        return None
    decimals = -int(f"{kind.factor:e}".split("e")[-1])
    switch, signed = isinstance(told, BaseBinarySensorDescription), kind.data_format == "signed_integer"
    return _Number(kind.data_length, signed, kind.factor, decimals, str(told.device_class), switch)


def _asked(data: bytes, address: str, key: bytes | None) -> tuple[dict[str, Wire], int | None]:
    """The package's answer."""
    parser = BTHomeBluetoothDeviceData(bindkey=key)
    values = ask(parser, address, service={SERVICE: data})
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
