"""What the kept parser packages are asked, and what they answer.

They remember what they were told before and give it again: old values beside new ones, the last good ones after a
replay. So each payload goes to a fresh parser, alone.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from bleak.backends.device import BLEDevice
from habluetooth import BluetoothServiceInfoBleak

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bluetooth_sensor_state_data import BluetoothData

    from gateway.reading import Wire

NOT_THEIRS = frozenset({"signal_strength", "packet_id"})
"""Told by the radio, and by the counter."""


def hush(package: str) -> None:
    """What is refused is counted by us; a neighbour's garbage must not fill the journal."""
    logging.getLogger(package).setLevel(logging.CRITICAL)


def ask(
    parser: BluetoothData,
    address: str,
    *,
    name: str = "",
    manufacturer: Mapping[int, bytes] | None = None,
    service: Mapping[str, bytes] | None = None,
) -> dict[str, Wire]:
    """The fields of one payload by the package's keys; empty if it found none."""
    found = parser.update(
        BluetoothServiceInfoBleak(
            name=name or address,
            address=address,
            rssi=0,
            manufacturer_data=dict(manufacturer or {}),
            service_data=dict(service or {}),
            service_uuids=[],
            source="",
            device=BLEDevice(address, None, None),
            advertisement=None,
            connectable=False,
            time=0.0,
            tx_power=None,
        )
    )
    values: dict[str, Wire] = {}
    for device, one in found.entity_values.items():
        if device.key not in NOT_THEIRS and isinstance(one.native_value, int | float | str):
            values[device.key] = one.native_value
    for device, switch in found.binary_entity_values.items():
        values[device.key] = switch.native_value
    return values
