"""Eddystone TLM (plain) and UID, github.com/google/eddystone: service data 0xFEAA, big endian."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from gateway.decoders.advertisements import Advert, Counter, Fields, Format, Pattern, Undecodable

if TYPE_CHECKING:
    from collections.abc import Callable

    from firmware_configs.adverts import BleProfile

SERVICE = "0000feaa-0000-1000-8000-00805f9b34fb"
UID, TLM = 0x00, 0x20
TLM_SIZE, UID_SIZES = 14, (18, 20)


def decode_tlm(data: bytes, address: str, key: bytes | None) -> Fields:
    """Fields: adverts, and uptime in 0.1 s, since the beacon started; voltage and temperature. Raises Undecodable.

    Voltage is in mV (0: not measured), temperature in 1/256 °C (-32768: not measured).
    """
    del address, key
    if len(data) != TLM_SIZE or data[1] != 0:
        raise Undecodable("not plain telemetry of 14 bytes")
    voltage, temperature, adverts, uptime = struct.unpack(">HhII", data[2:])
    values = {"voltage": voltage, "temperature": temperature, "adverts": adverts, "uptime": uptime}
    return Fields(values, Counter(uptime, 32))


def decode_uid(data: bytes, address: str, key: bytes | None) -> Fields:
    """Namespace and instance in hexadecimal, tx_power in dBm at 0 m. Raises Undecodable."""
    del address, key
    if len(data) not in UID_SIZES:
        raise Undecodable("cut off")
    power = int.from_bytes(data[1:2], signed=True)
    return Fields({"namespace": data[2:12].hex(), "instance": data[12:18].hex(), "tx_power": power}, None)


def tlm(profile: BleProfile) -> Format:
    del profile
    return Format(_frames(TLM), decode_tlm, (Pattern("service", bytes([0xAA, 0xFE, TLM])),))


def uid(profile: BleProfile) -> Format:
    del profile
    return Format(_frames(UID), decode_uid, (Pattern("service", bytes([0xAA, 0xFE, UID])),))


def _frames(kind: int) -> Callable[[Advert], bytes | None]:
    """A beacon sends frames of several kinds in turn."""

    def payload(advert: Advert) -> bytes | None:
        data = advert.service.get(SERVICE)
        return data if data and data[0] == kind else None

    return payload
