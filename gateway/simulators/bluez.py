"""A BlueZ daemon that isn't there, good enough for unmodified bleak: `org.bluez` on a private bus.

Adapters that can be switched off, unplugged, deaf or stuck, discovery sessions per client, passive monitors, devices
with their advertised data, peripherals to connect to and pair with; stopping cleanly, being killed or frozen, property
changes without an advertisement.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from dbus_fast import Message, MessageType, Variant
from dbus_fast.aio import MessageBus

from gateway.simulators.bluez_bus import require_simulated
from gateway.simulators.bluez_errors import Answer, BluezError, LaterAnswer
from gateway.simulators.bluez_gatt import Gatt
from gateway.simulators.bluez_objects import (
    ADAPTER,
    DEVICE,
    MONITOR,
    MONITORS,
    OBJECTS,
    PROPERTIES,
    ROOT,
    Objects,
    adapter_interfaces,
    device_interfaces,
)
from gateway.simulators.bluez_pairing import AGENTS, Agents
from gateway.simulators.bluez_radio import Ear, Report, forget_signal, receive

BLUEZ = "org.bluez"
DBUS = "org.freedesktop.DBus"
DRAIN_EVERY = 20
ASK_MONITOR_TIMES = 50


class SimulatedBluez:
    """Life cycle: `start` (again after `stop` or `kill`), anything, `stop`. Raises ValueError for a real bus."""

    def __init__(
        self,
        address: str,
        *,
        adapters: Sequence[str] = ("hci0",),
        experimental: bool = True,
        most_links: int = 7,
    ) -> None:
        require_simulated(address)
        self.experimental = experimental
        self._address = address
        self._powered = dict.fromkeys(adapters, True)
        self._ears: dict[str, Ear] = {}
        self._bus: MessageBus | None = None
        self._objects = Objects(send=self._send)
        self._agents = Agents(ask=self._ask)
        self.gatt = Gatt(
            objects=self._objects,
            agents=self._agents,
            powered=lambda adapter: adapter in self._ears and self._ears[adapter].powered,
            most_links=most_links,
        )
        self.frozen = False
        """It answers nobody and says nothing, and is still there."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._sent = 0
        self._handlers: dict[tuple[str, str], Callable[[Message], Answer | None]] = {
            (OBJECTS, "GetManagedObjects"): lambda _: ("a{oa{sa{sv}}}", [self._objects.tree]),
            (PROPERTIES, "GetAll"): self._get_all,
            (PROPERTIES, "Get"): self._get,
            (PROPERTIES, "Set"): self._set_property,
            (ADAPTER, "SetDiscoveryFilter"): self._set_filter,
            (ADAPTER, "StartDiscovery"): self._start_discovery,
            (ADAPTER, "StopDiscovery"): self._stop_discovery,
            (MONITORS, "RegisterMonitor"): self._register_monitor,
            (MONITORS, "UnregisterMonitor"): self._unregister_monitor,
        }
        self._later: dict[tuple[str, str], LaterAnswer] = {**self.gatt.handlers, **self._agents.handlers}
        self._filters: dict[tuple[str, str], Mapping[str, Variant]] = {}

    # --- life ---------------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        return self._bus is not None

    @property
    def scanning(self) -> bool:
        """Somebody listens with an adapter that is on."""
        return any(ear.powered and (ear.sessions or ear.monitors) for ear in self._ears.values())

    async def start(self) -> None:
        if self._bus is not None:
            return
        self._bus = await MessageBus(bus_address=self._address).connect()
        self._bus.add_message_handler(self._on_message)
        rule = f"type='signal',sender='{DBUS}',member='NameOwnerChanged'"
        await self._ask(DBUS, "/org/freedesktop/DBus", DBUS, "AddMatch", "s", [rule])
        await self._bus.request_name(BLUEZ)
        self._objects.add(ROOT, {AGENTS: {}})
        for name in self._powered:
            self._show(name)

    async def stop(self) -> None:
        """As on SIGTERM: what it showed is taken back first."""
        for name in list(self._ears):
            self._hide(name)
        if self._bus is not None and not self.frozen:
            await self._drain()
        await self.kill()

    async def kill(self) -> None:
        """As by kill -9: only the bus tells that it is gone."""
        bus, self._bus, self.frozen = self._bus, None, False
        self.gatt.killed()
        self._agents.clear()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._ears, self._filters = {}, {}
        self._objects.clear()
        if bus is not None:
            bus.disconnect()
            await bus.wait_for_disconnect()  # type: ignore[no-untyped-call]

    # --- hands --------------------------------------------------------------------------------------

    def power(self, adapter: str, *, on: bool) -> None:
        """Switch an adapter; off ends every scan on it. Raises ValueError for one that isn't there."""
        if adapter not in self._powered:
            raise ValueError(f"there is no adapter {adapter}")
        self._powered[adapter] = on
        ear = self._ears.get(adapter)
        if ear is None:
            return
        ear.powered = on
        if not on:
            self.gatt.adapter_down(adapter)
            ear.sessions.clear()
            forget_signal(adapter, self._objects)
        self._objects.set(f"{ROOT}/{adapter}", ADAPTER, {"Powered": Variant("b", on)})

    def plug(self, adapter: str) -> None:
        self._powered[adapter] = True
        if self._bus is not None and adapter not in self._ears:
            self._show(adapter)

    def unplug(self, adapter: str) -> None:
        if self._powered.pop(adapter, None) is not None and adapter in self._ears:
            self._hide(adapter)

    def deaf(self, adapter: str, *, yes: bool) -> None:
        """It goes on scanning and hears nothing, as adapters do whose firmware hangs."""
        self._ear_of(adapter).deaf = yes

    def stuck(self, adapter: str, *, yes: bool) -> None:
        """It says that it is discovering, and every discovery is refused: InProgress."""
        ear = self._ear_of(adapter)
        ear.stuck = yes
        if yes:
            ear.sessions.clear()
        self._objects.set(f"{ROOT}/{adapter}", ADAPTER, {"Discovering": Variant("b", yes or bool(ear.sessions))})

    def _ear_of(self, adapter: str) -> Ear:
        if adapter not in self._ears:
            raise ValueError(f"there is no adapter {adapter}")
        return self._ears[adapter]

    def phantom(self, address: str) -> None:
        """A device connects and disconnects: its properties change, and nothing was advertised."""
        for adapter in self._ears:
            path = f"{ROOT}/{adapter}/dev_{address.replace(':', '_')}"
            if path in self._objects.tree:
                for name, value in (("Connected", True), ("ServicesResolved", True), ("Connected", False)):
                    self._objects.set(path, DEVICE, {name: Variant("b", value)})

    async def advertise(self, report: Report) -> None:
        """One report to every adapter in range."""
        if self.frozen:
            return
        known = self.gatt.peripherals.get(report.address)
        for name, ear in self._ears.items():
            receive(name, ear, report, self._objects, bonded=known is not None and known.bonded)
        self._sent += 1
        if self._sent % DRAIN_EVERY == 0 and self._bus is not None:
            await self._drain()

    # --- the bus ------------------------------------------------------------------------------------

    def _show(self, adapter: str) -> None:
        ear = self._ears[adapter] = Ear(powered=self._powered[adapter])
        address = f"C0:FF:EE:00:00:{int(adapter.removeprefix('hci') or 0) % 256:02X}"
        shown = adapter_interfaces(address, powered=ear.powered, experimental=self.experimental)
        self._objects.add(f"{ROOT}/{adapter}", shown)
        for bonded in self.gatt.bonded():
            path = f"{ROOT}/{adapter}/dev_{bonded.replace(':', '_')}"
            self._objects.add(path, device_interfaces(adapter, bonded, bonded=True))

    def _hide(self, adapter: str) -> None:
        self.gatt.adapter_down(adapter)
        for path in self._objects.devices_of(adapter):
            self.gatt.forget(path)
            self._objects.remove(path)
        self._objects.remove(f"{ROOT}/{adapter}")
        del self._ears[adapter]

    def _send(self, message: Message) -> None:
        if self._bus is not None and not self.frozen:
            self._bus.send(message)

    async def _ask(self, to: str, path: str, interface: str, member: str, signature: str, body: list[Any]) -> Message:
        assert self._bus is not None
        return await self._bus.call(
            Message(destination=to, path=path, interface=interface, member=member, signature=signature, body=body)
        )

    async def _drain(self) -> None:
        """A round trip: dbus-fast drops a connection whose socket is full."""
        await self._ask(DBUS, "/org/freedesktop/DBus", DBUS, "GetId", "", [])

    def _on_message(self, message: Message) -> Message | bool | None:
        if self._bus is None:
            return True  # killed with this still unread: nobody answers
        if self.frozen:
            return message.message_type is MessageType.METHOD_CALL
        if message.message_type is MessageType.SIGNAL:
            if message.member == "NameOwnerChanged" and not message.body[2]:
                self._client_gone(message.body[0])
            return None
        key = (message.interface or "", message.member or "")
        handler, later = self._handlers.get(key), self._later.get(key)
        if message.message_type is not MessageType.METHOD_CALL or (handler is None and later is None):
            return None
        try:
            self._require(message)
            if later is not None:
                self._start(self._answer_later(message, later(message)))
                return True
            assert handler is not None
            signature, body = handler(message) or ("", [])
        except BluezError as error:
            return Message.new_error(message, error.name, str(error))
        return Message.new_method_return(message, signature, body)

    def _require(self, message: Message) -> None:
        """The object is there and has that interface."""
        here = self._objects.tree.get(message.path or "")
        if message.path == "/":
            return
        if here is None:
            raise BluezError(f"{DBUS}.Error.UnknownObject", f"there is no {message.path}")
        if message.interface not in {*here, PROPERTIES}:
            raise BluezError(f"{DBUS}.Error.UnknownMethod", f"{message.member} isn't on {message.path}")

    async def _answer_later(self, message: Message, answer: Awaitable[Answer | None]) -> None:
        try:
            signature, body = await answer or ("", [])
            reply = Message.new_method_return(message, signature, body)
        except BluezError as error:
            reply = Message.new_error(message, error.name, str(error))
        self._send(reply)

    def _start(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _client_gone(self, client: str) -> None:
        self._agents.gone(client)
        self.gatt.client_gone(client)
        for name, ear in self._ears.items():
            for key in [key for key in ear.monitors if key[0] == client]:
                del ear.monitors[key]
            if ear.sessions.pop(client, None) is not None and not ear.sessions:
                forget_signal(name, self._objects)

    # --- methods ------------------------------------------------------------------------------------

    def _ear(self, message: Message) -> tuple[str, Ear]:
        name = (message.path or "").rsplit("/", 1)[-1]
        ear = self._ears[name]
        if not ear.powered:
            raise BluezError("NotReady", "Resource Not Ready")
        return name, ear

    def _get_all(self, message: Message) -> Answer:
        return "a{sv}", [self._objects.tree.get(message.path or "", {}).get(message.body[0], {})]

    def _get(self, message: Message) -> Answer:
        interface, name = message.body
        shown = self._objects.tree.get(message.path or "", {}).get(interface, {})
        if name not in shown:
            raise BluezError(f"{DBUS}.Error.InvalidArgs", f"No such property '{name}'")
        return "v", [shown[name]]

    def _set_property(self, message: Message) -> None:
        interface, name, value = message.body
        if (interface, name) == (ADAPTER, "Powered"):
            self.power((message.path or "").rsplit("/", 1)[-1], on=bool(value.value))
        else:
            self._objects.set(message.path or "", interface, {name: value})

    def _set_filter(self, message: Message) -> None:
        name, _ = self._ear(message)
        self._filters[name, message.sender or ""] = message.body[0]

    def _start_discovery(self, message: Message) -> None:
        name, ear = self._ear(message)
        client = message.sender or ""
        if client in ear.sessions or ear.stuck:
            raise BluezError("InProgress", "Operation already in progress")
        ear.sessions[client] = self._filters.get((name, client), {})
        self._objects.set(f"{ROOT}/{name}", ADAPTER, {"Discovering": Variant("b", True)})

    def _stop_discovery(self, message: Message) -> None:
        name, ear = self._ear(message)
        if ear.sessions.pop(message.sender or "", None) is None:
            raise BluezError("Failed", "No discovery started")
        if not ear.sessions:
            forget_signal(name, self._objects)

    def _register_monitor(self, message: Message) -> None:
        name, _ = self._ear(message)
        self._start(self._ask_monitor(name, message.sender or "", message.body[0]))

    def _unregister_monitor(self, message: Message) -> None:
        ear = self._ears[(message.path or "").rsplit("/", 1)[-1]]  # also of an adapter that is off
        ear.monitors.pop((message.sender or "", message.body[0]), None)

    async def _ask_monitor(self, adapter: str, client: str, path: str) -> None:
        """The client exports its monitor only after registering it: ask until it is there."""
        for _ in range(ASK_MONITOR_TIMES):
            reply = await self._ask(client, path, PROPERTIES, "GetAll", "s", [MONITOR])
            if reply.message_type is MessageType.METHOD_RETURN and adapter in self._ears:
                self._ears[adapter].monitors[client, path] = reply.body[0]["Patterns"].value
                await self._ask(client, path, MONITOR, "Activate", "", [])
                return
            await asyncio.sleep(0.01)
