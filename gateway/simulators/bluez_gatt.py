"""Connections to peripherals: `Device1.Connect`, their services, characteristics and descriptors on the bus.

From BlueZ's own behaviour as it is known: services stay on the bus after a disconnection, with the values read last;
every read also changes `Value`, which looks like a notification; a connection under way is told by InProgress; what is
out of range is waited for. Answers come later: each call is a task.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from dbus_fast import Message, Variant

from gateway.simulators.bluez_errors import Answer, BluezError, LaterAnswer
from gateway.simulators.bluez_objects import ADAPTER, DEVICE, ROOT, Interfaces, Objects
from gateway.simulators.bluez_pairing import Agents
from gateway.simulators.bluez_peripheral import Characteristic, Descriptor, Peripheral

SERVICE = "org.bluez.GattService1"
CHARACTERISTIC = "org.bluez.GattCharacteristic1"
DESCRIPTOR = "org.bluez.GattDescriptor1"
CONNECT_S = 20.0
"""How long BlueZ waits for a peripheral that is not there."""


@dataclass(slots=True)
class _Found:
    """One characteristic or descriptor of one device on the bus."""

    device: str
    peripheral: Peripheral
    what: Characteristic | Descriptor
    notifying: set[str] = field(default_factory=set)


class Gatt:
    """The peripherals of one simulated BlueZ, by address. `most_links`: what one adapter can hold at a time."""

    def __init__(
        self, *, objects: Objects, agents: Agents, powered: Callable[[str], bool], most_links: int = 7
    ) -> None:
        self.peripherals: dict[str, Peripheral] = {}
        self.peak_links = 0
        """The most connections there were at a time."""
        self._objects = objects
        self._agents = agents
        self._powered = powered
        self._most_links = most_links
        self._connecting: dict[str, asyncio.Task[None]] = {}
        self._found: dict[str, _Found] = {}
        self.handlers: Mapping[tuple[str, str], LaterAnswer] = {
            (DEVICE, "Connect"): self._connect,
            (DEVICE, "Disconnect"): self._disconnect,
            (DEVICE, "Pair"): self._pair,
            (ADAPTER, "RemoveDevice"): self._remove_device,
            (CHARACTERISTIC, "ReadValue"): self._read,
            (CHARACTERISTIC, "WriteValue"): self._write,
            (CHARACTERISTIC, "StartNotify"): self._start_notify,
            (CHARACTERISTIC, "StopNotify"): self._stop_notify,
            (DESCRIPTOR, "ReadValue"): self._read,
            (DESCRIPTOR, "WriteValue"): self._write,
        }

    # --- hands --------------------------------------------------------------------------------------

    def add(self, peripheral: Peripheral) -> Peripheral:
        self.peripherals[peripheral.address] = peripheral
        return peripheral

    def out_of_range(self, address: str) -> None:
        """It is carried away: its link breaks, it is not heard any more."""
        self.peripherals[address].in_range = False
        self.hang_up(address)

    def hang_up(self, address: str) -> None:
        """The peripheral ends its connection."""
        for path in self._paths(address):
            self.link_down(path)

    def notify(self, address: str, uuid: str, value: bytes) -> int:
        """Send to who asked for it; how many were told."""
        told = 0
        wanted = self.peripherals[address].characteristic(uuid)
        wanted.value = value
        for path, one in self._found.items():
            if one.what is wanted and one.notifying and self._is_connected(one.device):
                self._objects.set(path, CHARACTERISTIC, {"Value": Variant("ay", value)})
                told += len(one.notifying)
        return told

    def subscribed(self, address: str, uuid: str) -> bool:
        wanted = self.peripherals[address].characteristic(uuid)
        return any(one.what is wanted and one.notifying for one in self._found.values())

    def links(self, adapter: str | None = None) -> int:
        prefix = f"{ROOT}/{adapter}/" if adapter is not None else f"{ROOT}/"
        return sum(
            path.startswith(prefix) and bool(shown[DEVICE]["Connected"].value)
            for path, shown in self._objects.tree.items()
            if DEVICE in shown
        )

    # --- what becomes of the daemon -----------------------------------------------------------------

    def bonded(self) -> list[str]:
        """Addresses of those that are on the bus before they are heard."""
        return [one.address for one in self.peripherals.values() if one.bonded]

    def adapter_down(self, adapter: str) -> None:
        """Switched off or unplugged: every link of it breaks."""
        for path in self._objects.devices_of(adapter):
            if DEVICE in self._objects.tree[path]:
                self.link_down(path)

    def forget(self, device: str) -> None:
        """Its objects leave the bus."""
        for path in sorted((path for path in self._found if path.startswith(device + "/")), reverse=True):
            del self._found[path]
        for path in sorted((path for path in self._objects.tree if path.startswith(device + "/")), reverse=True):
            self._objects.remove(path)

    def client_gone(self, client: str) -> None:
        for one in self._found.values():
            one.notifying.discard(client)

    def killed(self) -> None:
        """Nothing is said; the links end with the daemon."""
        for task in self._connecting.values():
            task.cancel()
        self._connecting.clear()
        self._found.clear()
        for one in self.peripherals.values():
            one.connected = False

    def link_down(self, device: str) -> None:
        if (task := self._connecting.pop(device, None)) is not None:
            task.cancel()
        if not self._is_connected(device):
            return
        peripheral = self.peripherals.get(_address(device))
        if peripheral is not None:
            peripheral.connected = False
        for path, one in self._found.items():
            if one.device == device and one.notifying:
                one.notifying.clear()
                self._objects.set(path, CHARACTERISTIC, {"Notifying": Variant("b", False)})
        self._objects.set(device, DEVICE, {"ServicesResolved": Variant("b", False)})
        self._objects.set(device, DEVICE, {"Connected": Variant("b", False)})

    # --- connecting ---------------------------------------------------------------------------------

    async def _connect(self, message: Message) -> Answer | None:
        path = message.path or ""
        if path in self._connecting:
            raise BluezError("InProgress", "Operation already in progress")
        if self._is_connected(path):
            return None
        task = self._connecting[path] = asyncio.ensure_future(self._link_up(path))
        try:
            await asyncio.wait([task])
        finally:
            task.cancel()
            if self._connecting.get(path) is task:
                del self._connecting[path]
        if task.cancelled():
            raise BluezError("Failed", "le-connection-abort-by-local")
        task.result()
        return None

    async def _link_up(self, path: str) -> None:
        adapter = path.split("/")[3]
        peripheral = self.peripherals.get(_address(path))
        if not self._powered(adapter):
            raise BluezError("NotReady", "Resource Not Ready")
        if self.links(adapter) >= self._most_links:
            raise BluezError("Failed", "le-connection-concurrent-connection-limit")
        await asyncio.sleep(peripheral.connect_s if peripheral is not None else 0.0)
        if peripheral is None or not peripheral.in_range:
            await asyncio.sleep(CONNECT_S)
            raise BluezError("Failed", "Software caused connection abort")
        if peripheral.refuse:
            raise BluezError("Failed", peripheral.refuse)
        peripheral.connected = True
        peripheral.connections += 1
        self._objects.set(path, DEVICE, {"Connected": Variant("b", True)})
        self.peak_links = max(self.peak_links, self.links())
        if peripheral.resolves:
            asyncio.get_running_loop().call_later(peripheral.resolve_s, self._resolve, path, peripheral)

    def _resolve(self, device: str, peripheral: Peripheral) -> None:
        """Its services as they are now; those of before that are gone leave the bus."""
        if not self._is_connected(device):
            return
        shown = dict(_attributes(device, peripheral))
        here = {path: known for path, known in self._objects.tree.items() if path.startswith(device + "/")}
        gone = [path for path, known in here.items() if path not in shown or _uuids(known) != _uuids(shown[path][0])]
        for path in sorted(gone, reverse=True):
            self._found.pop(path, None)
            self._objects.remove(path)
        for path, (interfaces, what) in shown.items():
            if path in self._objects.tree:
                continue
            self._objects.add(path, interfaces)
            if what is not None:
                self._found[path] = _Found(device, peripheral, what)
        self._objects.set(device, DEVICE, {"ServicesResolved": Variant("b", True)})

    async def _disconnect(self, message: Message) -> Answer | None:
        path = message.path or ""
        if path not in self._connecting and not self._is_connected(path):
            raise BluezError("NotConnected", "Not Connected")
        self.link_down(path)
        return None

    async def _remove_device(self, message: Message) -> Answer | None:
        device = message.body[0]
        if device not in self._objects.tree:
            raise BluezError("DoesNotExist", "Does Not Exist")
        peripheral = self.peripherals.get(_address(device))
        if peripheral is not None:
            peripheral.bonded = False
        self.link_down(device)
        self.forget(device)
        self._objects.remove(device)
        return None

    async def _pair(self, message: Message) -> Answer | None:
        path = message.path or ""
        peripheral = self.peripherals.get(_address(path))
        if peripheral is None or not peripheral.in_range:
            raise BluezError("ConnectionAttemptFailed", "Page Timeout")
        if not self._is_connected(path):
            await self._connect(message)
        try:
            await self._agents.bond(message.sender or "", path, peripheral)
        except BluezError as error:
            if error.name != "org.bluez.Error.AlreadyExists":
                self.link_down(path)
            raise
        if path in self._objects.tree:
            self._objects.set(path, DEVICE, {"Paired": Variant("b", True), "Bonded": Variant("b", True)})
        return None

    # --- characteristics and descriptors ------------------------------------------------------------

    async def _read(self, message: Message) -> Answer | None:
        path = message.path or ""
        one = await self._asked(path, needs=("read",))
        if one.peripheral.drops_on_read:
            self.hang_up(one.peripheral.address)
            raise BluezError("Failed", "Not connected")
        read = one.what.read if isinstance(one.what, Characteristic) else None
        value = one.what.value if read is None else read()
        interface = CHARACTERISTIC if isinstance(one.what, Characteristic) else DESCRIPTOR
        self._objects.set(path, interface, {"Value": Variant("ay", value)})
        return "ay", [value]

    async def _write(self, message: Message) -> Answer | None:
        one = await self._asked(message.path or "", needs=("write", "write-without-response"))
        value = one.what.value = bytes(message.body[0])
        if isinstance(one.what, Characteristic) and one.what.wrote is not None:
            one.what.wrote(value)
        return None

    async def _start_notify(self, message: Message) -> Answer | None:
        path = message.path or ""
        one = await self._asked(path, needs=("notify", "indicate"))
        one.notifying.add(message.sender or "")
        self._objects.set(path, CHARACTERISTIC, {"Notifying": Variant("b", True)})
        return None

    async def _stop_notify(self, message: Message) -> Answer | None:
        path = message.path or ""
        one = self._found.get(path)
        if one is not None:
            one.notifying.discard(message.sender or "")
            self._objects.set(path, CHARACTERISTIC, {"Notifying": Variant("b", bool(one.notifying))})
        return None

    async def _asked(self, path: str, *, needs: tuple[str, ...]) -> _Found:
        """The characteristic or descriptor, if it may be asked that now; one that is silent is waited for in vain."""
        one = self._found.get(path)
        if one is None or not self._is_connected(one.device):
            raise BluezError("Failed", "Not connected")
        what = one.what
        if isinstance(what, Characteristic):
            if what.silent:
                await asyncio.Event().wait()
            if what.needs_bond and not one.peripheral.bonded:
                raise BluezError("NotPermitted", "Not paired")
            if not set(needs) & set(what.flags):
                raise BluezError("NotSupported", "Operation is not supported")
            if what.att_error:
                raise BluezError("Failed", f"Operation failed with ATT error: 0x{what.att_error:02x}")
        return one

    def _is_connected(self, device: str) -> bool:
        shown = self._objects.tree.get(device, {}).get(DEVICE)
        return shown is not None and bool(shown["Connected"].value)

    def _paths(self, address: str) -> list[str]:
        name = f"/dev_{address.replace(':', '_')}"
        return [path for path in self._objects.tree if path.endswith(name)]


def _address(device: str) -> str:
    return device.rsplit("/", 1)[-1].removeprefix("dev_").replace("_", ":")


def _attributes(
    device: str, peripheral: Peripheral
) -> Iterator[tuple[str, tuple[Interfaces, Characteristic | Descriptor | None]]]:
    """Path → interfaces of all of it, with handles as a peripheral numbers them."""
    handle = 1
    for service, characteristics in peripheral.services.items():
        at_service = f"{device}/service{handle:04x}"
        yield at_service, ({SERVICE: _service(device, service)}, None)
        for one in characteristics:
            handle += 1
            at = f"{at_service}/char{handle:04x}"
            handle += 1  # its value has a handle of its own
            yield at, ({CHARACTERISTIC: _characteristic(at_service, one)}, one)
            for descriptor in one.descriptors:
                handle += 1
                yield f"{at}/desc{handle:04x}", ({DESCRIPTOR: _descriptor(at, descriptor)}, descriptor)
        handle += 1


def _uuids(interfaces: Interfaces) -> list[str]:
    return [str(properties["UUID"].value) for properties in interfaces.values()]


def _service(device: str, uuid: str) -> dict[str, Variant]:
    return {
        "UUID": Variant("s", uuid),
        "Primary": Variant("b", True),
        "Device": Variant("o", device),
        "Includes": Variant("ao", []),
    }


def _characteristic(service: str, one: Characteristic) -> dict[str, Variant]:
    return {
        "UUID": Variant("s", one.uuid),
        "Service": Variant("o", service),
        "Value": Variant("ay", b""),
        "Notifying": Variant("b", False),
        "Flags": Variant("as", list(one.flags)),
        "MTU": Variant("q", 247),
    }


def _descriptor(characteristic: str, one: Descriptor) -> dict[str, Variant]:
    return {
        "UUID": Variant("s", one.uuid),
        "Characteristic": Variant("o", characteristic),
        "Value": Variant("ay", b""),
    }
