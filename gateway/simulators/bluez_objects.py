"""The objects a BlueZ daemon shows on the bus, and the signals that tell of their changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dbus_fast import Message, Variant

ADAPTER = "org.bluez.Adapter1"
DEVICE = "org.bluez.Device1"
MONITORS = "org.bluez.AdvertisementMonitorManager1"
MONITOR = "org.bluez.AdvertisementMonitor1"
PROPERTIES = "org.freedesktop.DBus.Properties"
OBJECTS = "org.freedesktop.DBus.ObjectManager"
ROOT = "/org/bluez"

Interfaces = dict[str, dict[str, Variant]]


class Objects:
    """Path → interface → property. `send` puts a signal on the bus."""

    def __init__(self, *, send: Callable[[Message], Any]) -> None:
        self.tree: dict[str, Interfaces] = {}
        self._send = send

    def add(self, path: str, interfaces: Interfaces) -> None:
        self.tree.setdefault(path, {}).update(interfaces)
        self._signal("/", OBJECTS, "InterfacesAdded", "oa{sa{sv}}", [path, interfaces])

    def remove(self, path: str) -> None:
        gone = self.tree.pop(path, None)
        if gone is not None:
            self._signal("/", OBJECTS, "InterfacesRemoved", "oas", [path, list(gone)])

    def set(self, path: str, interface: str, changed: Mapping[str, Variant], gone: Sequence[str] = ()) -> None:
        """Change properties and say so, whether or not their values differ."""
        properties = self.tree[path][interface]
        properties.update(changed)
        for name in gone:
            properties.pop(name, None)
        self._signal(path, PROPERTIES, "PropertiesChanged", "sa{sv}as", [interface, dict(changed), list(gone)])

    def devices_of(self, adapter: str) -> list[str]:
        """Their paths, without those of what belongs to them."""
        return [path for path in self.tree if path.startswith(f"{ROOT}/{adapter}/dev_") and path.count("/") == 4]

    def clear(self) -> None:
        """As on a crash: nothing is said."""
        self.tree.clear()

    def _signal(self, path: str, interface: str, member: str, signature: str, body: list[Any]) -> None:
        self._send(Message.new_signal(path, interface, member, signature, body))


def adapter_interfaces(address: str, *, powered: bool, experimental: bool) -> Interfaces:
    """What an adapter shows; only a daemon with experimental interfaces offers passive scanning."""
    shown: Interfaces = {
        ADAPTER: {
            "Address": Variant("s", address),
            "AddressType": Variant("s", "public"),
            "Name": Variant("s", "simulated"),
            "Alias": Variant("s", "simulated"),
            "Powered": Variant("b", powered),
            "Discovering": Variant("b", False),
            "UUIDs": Variant("as", []),
        }
    }
    if experimental:
        shown[MONITORS] = {"SupportedMonitorTypes": Variant("as", ["or_patterns"])}
    return shown


def device_interfaces(adapter: str, address: str, *, bonded: bool = False) -> Interfaces:
    """What a device shows that was just heard for the first time."""
    return {
        DEVICE: {
            "Address": Variant("s", address),
            "AddressType": Variant("s", "random"),
            "Alias": Variant("s", address.replace(":", "-")),
            "Paired": Variant("b", bonded),
            "Bonded": Variant("b", bonded),
            "Trusted": Variant("b", False),
            "Blocked": Variant("b", False),
            "Connected": Variant("b", False),
            "ServicesResolved": Variant("b", False),
            "Adapter": Variant("o", f"{ROOT}/{adapter}"),
            "UUIDs": Variant("as", []),
        }
    }
