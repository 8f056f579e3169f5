"""RuuviTag data format 5 (RAWv2), docs.ruuvi.com: the tag's own integers; scales are the profile's.

The kept package unpacks; its rounded values are not used, because they lose half of the tag's resolution.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ruuvitag_ble.df5_decoder import DataFormat5Decoder

from gateway.decoders.advertisements import Advert, Counter, Fields, Format, Pattern, Undecodable

if TYPE_CHECKING:
    from firmware_configs.adverts import BleProfile

MANUFACTURER = 0x0499
DATA_FORMAT = 5
SIZE = 24
NO_SEQUENCE = 0xFFFF


def payload(advert: Advert) -> bytes | None:
    """The tag's bytes if they are of this format; its other formats are none of ours."""
    data = advert.manufacturer.get(MANUFACTURER)
    return data if data and data[0] == DATA_FORMAT else None


def decode(data: bytes, address: str, key: bytes | None) -> Fields:
    """Raises Undecodable for a wrong length or another tag's address inside."""
    del key
    if len(data) != SIZE:
        raise Undecodable(f"RAWv2 has {SIZE} bytes, not {len(data)}")
    _, temperature, humidity, pressure, x, y, z, power, moves, sequence, *mac = DataFormat5Decoder(data).data
    said = ":".join(f"{byte:02X}" for byte in mac)
    if said not in {address, "FF:FF:FF:FF:FF:FF"}:
        raise Undecodable(f"the payload is {said}'s", "another_device")
    values = {
        "temperature": temperature,
        "humidity": humidity,
        "pressure": pressure,
        "acceleration_x": x,
        "acceleration_y": y,
        "acceleration_z": z,
        "battery_voltage": power >> 5,
        "tx_power": power & 31,
        "movement_counter": moves,
    }
    return Fields(values, None if sequence == NO_SEQUENCE else Counter(sequence, 16))


def format_of(profile: BleProfile) -> Format:
    del profile
    return Format(payload, decode, (Pattern("manufacturer", b"\x99\x04"),))
