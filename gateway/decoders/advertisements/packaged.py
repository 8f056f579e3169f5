"""Formats that a kept package reads from manufacturer data and the model's name: Govee, Inkbird, SensorPush, ThermoPro.

The name is the profile's, not what was heard: it comes in a scan response, later or never, and anybody can use it.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING

from gateway.decoders.advertisements import Advert, Fields, Format, Pattern, Undecodable
from gateway.decoders.advertisements.kept import ask, hush

if TYPE_CHECKING:
    from bluetooth_sensor_state_data import BluetoothData

    from firmware_configs.adverts import BleProfile

FOREIGN = frozenset({0x004C})
"""Apple's: such devices send iBeacons beside their measurements."""


def govee(profile: BleProfile) -> Format:
    """Its sensors use company numbers of their own choice, which stay the same for one device."""
    return _format(profile, "govee_ble", "GoveeBluetoothDeviceData", rotating=False)


def inkbird(profile: BleProfile) -> Format:
    return _format(profile, "inkbird_ble", "INKBIRDBluetoothDeviceData", rotating=True)


def sensorpush(profile: BleProfile) -> Format:
    return _format(profile, "sensorpush_ble", "SensorPushBluetoothDeviceData", rotating=True)


def thermopro(profile: BleProfile) -> Format:
    return _format(profile, "thermopro_ble", "ThermoProBluetoothDeviceData", rotating=True)


def _format(profile: BleProfile, package: str, name: str, *, rotating: bool) -> Format:
    parser: Callable[[], BluetoothData] = getattr(import_module(package), name)
    hush(package)
    local_name = profile.local_name

    def decode(data: bytes, address: str, key: bytes | None) -> Fields:
        """Raises Undecodable when the package finds nothing in it."""
        del key
        if len(data) <= 2:
            raise Undecodable("cut off")
        manufacturer = {int.from_bytes(data[:2], "little"): data[2:]}
        values = ask(parser(), address, name=local_name, manufacturer=manufacturer)
        if not values:
            raise Undecodable(f"no measurement of a {local_name} inside")
        return Fields(values, None)

    return Format(_last if rotating else _first, decode, _patterns(package), rotating=rotating)


def _patterns(package: str) -> tuple[Pattern, ...]:
    """Only some begin alike."""
    return (Pattern("manufacturer", b"\x88\xec"),) if package == "govee_ble" else ()


def _first(advert: Advert) -> bytes | None:
    """The company's own bytes, with its number before them."""
    for company, data in advert.manufacturer.items():
        if company not in FOREIGN:
            return company.to_bytes(2, "little") + data
    return None


def _last(advert: Advert) -> bytes | None:
    """The only entry: the driver has left out those of earlier advertisements."""
    found = [(company, data) for company, data in advert.manufacturer.items() if company not in FOREIGN]
    if len(found) != 1:
        return None
    ((company, data),) = found
    return company.to_bytes(2, "little") + data
