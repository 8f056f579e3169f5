"""Xiaomi MiBeacon versions 2 to 5, through the kept package, which is heavy: imported for a profile that names it.

One advertisement carries one object or two; a device sends its objects in turn, each an own packet with a number of its
own. Encryption of versions 4 and 5 proves its sender; that of 2 and 3 proves nothing, and is not taken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xiaomi_ble import XiaomiBluetoothDeviceData

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

SERVICE = "0000fe95-0000-1000-8000-00805f9b34fb"
ENCRYPTED, WITH_OBJECT = 1 << 3, 1 << 6
HEADER = 5
COUNTER_AND_MIC = 7
FIRST_PROVEN = 4

hush("xiaomi_ble")


def payload(advert: Advert) -> bytes | None:
    """Advertisements without an object only say that the device is there."""
    data = advert.service.get(SERVICE)
    return data if data is None or len(data) < HEADER or data[0] & WITH_OBJECT else None


def decode(data: bytes, address: str, key: bytes | None) -> Fields:
    """Fields by the package's keys (temperature, humidity, battery, …). Raises Undecodable."""
    if len(data) <= HEADER:
        raise Undecodable("cut off")
    encrypted = bool(data[0] & ENCRYPTED)
    if key is None and encrypted:
        raise Undecodable(NO_KEY, "no_key")
    if key is not None and not encrypted:
        raise Undecodable(PLAIN, "plain")
    if encrypted and data[1] >> 4 < FIRST_PROVEN:
        raise Undecodable(f"MiBeacon version {data[1] >> 4} encrypts without proof of who sent it")
    parser = XiaomiBluetoothDeviceData(bindkey=key)
    values = ask(parser, address, service={SERVICE: data})
    if encrypted and len(data) > HEADER + COUNTER_AND_MIC and not parser.bindkey_verified:
        raise Undecodable(WRONG_KEY, "wrong_key")
    if not values:
        raise Undecodable("no measurement of a model that is known inside")
    if encrypted:
        number = int.from_bytes(data[-7:-4], "little") << 8 | data[4]
        return Fields(values, Counter(number, 32, proven=True))
    return Fields(values, Counter(data[4], 8))


def format_of(profile: BleProfile) -> Format:
    del profile
    return Format(payload, decode, (Pattern("service", b"\x95\xfe"),), key_bytes=(16,))
