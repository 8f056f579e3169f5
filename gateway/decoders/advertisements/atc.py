"""Thermometers with the firmware of atc1441 or pvvx: their service data 0x181A, plain and encrypted.

github.com/atc1441/ATC_MiThermometer and github.com/pvvx/ATC_MiThermometer, "Reading the measurements in advertising
mode". Four layouts, told apart by their lengths. Encrypted ones have a counter of 8 bits: it begins again soon, so a
measurement recorded long ago can't be told from a new one, as it can with BTHome.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESCCM

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

if TYPE_CHECKING:
    from firmware_configs.adverts import BleProfile

SERVICE = "0000181a-0000-1000-8000-00805f9b34fb"
ATC1441, CUSTOM, ATC1441_SEALED, CUSTOM_SEALED = 13, 15, 8, 11
AUTHENTICATED = b"\x11"


def payload(advert: Advert) -> bytes | None:
    return advert.service.get(SERVICE)


def decode(data: bytes, address: str, key: bytes | None) -> Fields:
    """Temperature in °C, humidity and battery in %, and of plain ones voltage in mV. Raises Undecodable."""
    if len(data) in {ATC1441_SEALED, CUSTOM_SEALED}:
        if key is None:
            raise Undecodable(NO_KEY, "no_key")
        return Fields(_sealed(_opened(data, address, key)), Counter(data[0], 8))
    if len(data) not in {ATC1441, CUSTOM}:
        raise Undecodable(f"none of its layouts has {len(data)} bytes")
    if key is not None:
        raise Undecodable(PLAIN, "plain")
    mac = data[:6] if len(data) == ATC1441 else data[5::-1]
    if mac != bytes.fromhex(address.replace(":", "")):
        raise Undecodable(f"the payload is {mac.hex(':').upper()}'s", "another_device")
    if len(data) == ATC1441:
        temperature, humidity, battery, voltage, count = struct.unpack(">hBBHB", data[6:])
        values = {"temperature": temperature / 10, "humidity": float(humidity)}
    else:
        temperature, humidity, voltage, battery, count, _ = struct.unpack("<hHHBBB", data[6:])
        values = {"temperature": temperature / 100, "humidity": humidity / 100}
    return Fields({**values, "battery": battery, "voltage": voltage}, Counter(count, 8))


def _opened(data: bytes, address: str, key: bytes) -> bytes:
    header = bytes([len(data) + 3, 0x16, 0x1A, 0x18, data[0]])
    nonce = bytes.fromhex(address.replace(":", ""))[::-1] + header
    try:
        return AESCCM(key, tag_length=4).decrypt(nonce, data[1:], AUTHENTICATED)
    except InvalidTag:
        raise Undecodable(WRONG_KEY, "wrong_key") from None


def _sealed(plain: bytes) -> dict[str, float]:
    if len(plain) == CUSTOM_SEALED - 5:
        temperature, humidity, battery, _ = struct.unpack("<hHBB", plain)
        return {"temperature": temperature / 100, "humidity": humidity / 100, "battery": battery}
    return {"temperature": plain[0] / 2 - 40, "humidity": plain[1] / 2, "battery": plain[2] & 0x7F}


def format_of(profile: BleProfile) -> Format:
    del profile
    return Format(payload, decode, (Pattern("service", b"\x1a\x18"),), key_bytes=(16,))
