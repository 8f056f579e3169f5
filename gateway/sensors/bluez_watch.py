"""What becomes of bluetoothd and its adapters, over the system's message bus.

bleak's scanner falls silent for good, without a word, when its adapter is switched off or unplugged and when bluetoothd
restarts or is killed. Each of these is one signal here and ends a scan: `generation` moves on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

from dbus_fast import BusType, Message, MessageType, Variant, unpack_variants
from dbus_fast.aio import MessageBus
from dbus_fast.errors import DBusError

from gateway.errors import Retryable

BLUEZ = "org.bluez"
ADAPTER = "org.bluez.Adapter1"
MONITORS = "org.bluez.AdvertisementMonitorManager1"
PROPERTIES = "org.freedesktop.DBus.Properties"
OBJECTS = "org.freedesktop.DBus.ObjectManager"
DBUS = "org.freedesktop.DBus"
BUS_VARIABLE = "DBUS_SYSTEM_BUS_ADDRESS"
SIMULATED_BUS = "comboio-simulated-bluez"
"""Part of every address of a simulated bus: what is heard there can't be taken for a reading."""
CALL_S = 5.0
LOOK_AGAIN_S = 30.0
POWER_TIMES = 3
NO_ANSWER = "bluetoothd doesn't answer (systemctl restart bluetooth)"

RULES = (
    f"type='signal',sender='{DBUS}',member='NameOwnerChanged',arg0='{BLUEZ}'",
    f"type='signal',sender='{BLUEZ}',interface='{OBJECTS}',path='/'",
    f"type='signal',sender='{BLUEZ}',interface='{PROPERTIES}',member='PropertiesChanged',arg0='{ADAPTER}'",
)


@dataclass(frozen=True, slots=True)
class Adapter:
    """One adapter as it is now; `monitors`: BlueZ offers passive scanning on it."""

    name: str
    powered: bool
    monitors: bool
    address: str = ""


class BluezWatch:
    """An async context. `wanted`: a name (hci0), or an address, which stays when names change places; None: any.

    Raises Retryable when there is no bus, and from `ready` when it is gone.
    """

    def __init__(self, *, wanted: str | None) -> None:
        self.generation = 0
        """Raised by everything that ends a scan."""
        self.last = ""
        """What raised it last."""
        self.changed = asyncio.Event()
        self.problem: str | None = None
        self._wanted = wanted
        self._adapters: dict[str, Adapter] = {}
        self._in_use: str | None = None
        self._stale = True
        self._gone = False
        self._mute = False
        self._bus: MessageBus | None = None
        self._end: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        try:
            async with asyncio.timeout(CALL_S):
                self._bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
                self._bus.add_message_handler(self._on_message)
                for rule in RULES:
                    await self._call(DBUS, "/org/freedesktop/DBus", DBUS, "AddMatch", "s", [rule])
        except (OSError, EOFError, TimeoutError, DBusError, ValueError) as error:
            self._close()
            raise Retryable(f"no Bluetooth: the system's message bus can't be reached ({error})") from error
        except BaseException:
            self._close()
            raise
        self._end = asyncio.create_task(self._wait_for_end(self._bus), name="bluez.watch")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._end is not None:
            self._end.cancel()
            await asyncio.wait([self._end])
        self._close()

    async def ready(self) -> Adapter:
        """Wait for an adapter that is there and on; `problem` says what is missing meanwhile."""
        while True:
            self.changed.clear()
            if self._gone:
                raise Retryable("no Bluetooth: the system's message bus went away")
            if self._stale:
                await self._reload()
            adapter = self._choose()
            if adapter is not None and adapter.powered:
                self.problem = None
                self._in_use = adapter.name
                return adapter
            self.problem = self._missing(adapter)
            try:
                async with asyncio.timeout(LOOK_AGAIN_S):
                    await self.changed.wait()
            except TimeoutError:
                self._stale = True

    async def power_cycle(self, adapter: str) -> None:
        """Switch it off, and on again whatever happens. Raises Retryable when it stays off or doesn't answer."""
        try:
            await self._power(adapter, on=False)
        finally:
            for left in reversed(range(POWER_TIMES)):
                try:
                    await self._power(adapter, on=True)
                    break
                except Retryable:
                    if not left:
                        raise

    async def _power(self, adapter: str, *, on: bool) -> None:
        body = [ADAPTER, "Powered", Variant("b", on)]
        try:
            async with asyncio.timeout(CALL_S):
                await self._call(BLUEZ, f"/org/bluez/{adapter}", PROPERTIES, "Set", "ssv", body)
        except (DBusError, TimeoutError, OSError, EOFError) as error:
            said = str(error) or "no answer"
            raise Retryable(f"{adapter} can't be switched {'on' if on else 'off'} ({said})") from error

    # --- state --------------------------------------------------------------------------------------

    def _choose(self) -> Adapter | None:
        if self._wanted is not None:
            return next((a for a in self._adapters.values() if self._wanted in {a.name, a.address}), None)
        on = sorted((a for a in self._adapters.values()), key=lambda a: (not a.powered, len(a.name), a.name))
        return on[0] if on else None

    def _missing(self, adapter: Adapter | None) -> str:
        if adapter is not None:
            return f"{adapter.name} is switched off (bluetoothctl power on, or rfkill unblock bluetooth)"
        if self._mute:
            return NO_ANSWER
        if not self._adapters:
            return "bluetoothd isn't running, or there is no adapter"
        here = ", ".join(f"{a.name} ({a.address})" for _, a in sorted(self._adapters.items()))
        return f"there is no adapter {self._wanted}; there is {here}"

    async def _reload(self) -> None:
        """Ask for everything; a bluetoothd that doesn't answer has no adapters."""
        self._stale = self._mute = False
        try:
            async with asyncio.timeout(CALL_S):
                (found,) = await self._call(BLUEZ, "/", OBJECTS, "GetManagedObjects")
        except (DBusError, TimeoutError, OSError, EOFError) as error:
            found, self._mute = {}, isinstance(error, TimeoutError)
        self._adapters = {}
        for path, interfaces in found.items():
            self._added(path, unpack_variants(interfaces))

    def _added(self, path: str, interfaces: Mapping[str, Mapping[str, Any]]) -> None:
        name = path.rsplit("/", 1)[-1]
        properties = interfaces.get(ADAPTER)
        before = self._adapters.get(name)
        if properties is not None:
            address = str(properties.get("Address", ""))
            self._adapters[name] = Adapter(name, bool(properties.get("Powered")), MONITORS in interfaces, address)
        elif MONITORS in interfaces and before is not None:
            self._adapters[name] = replace(before, monitors=True)

    def _ended(self, why: str) -> None:
        self.generation += 1
        self.last = why

    # --- signals ------------------------------------------------------------------------------------

    def _on_message(self, message: Message) -> None:
        if message.message_type is not MessageType.SIGNAL:
            return
        name = (message.path or "").rsplit("/", 1)[-1]
        match message.member:
            case "NameOwnerChanged" if message.body[0] == BLUEZ:
                self._stale = True
                self._ended("bluetoothd started anew" if message.body[2] else "bluetoothd went away")
            case "InterfacesAdded":
                self._added(message.body[0], unpack_variants(message.body[1]))
            case "InterfacesRemoved" if ADAPTER in message.body[1]:
                gone = message.body[0].rsplit("/", 1)[-1]
                self._adapters.pop(gone, None)
                if gone == self._in_use:
                    self._ended(f"{gone} was unplugged")
            case "PropertiesChanged" if message.body[0] == ADAPTER and "Powered" in message.body[1]:
                self._powered(name, on=bool(message.body[1]["Powered"].value))
            case _:
                return
        self.changed.set()

    def _powered(self, name: str, *, on: bool) -> None:
        before = self._adapters.get(name)
        if before is not None:
            self._adapters[name] = replace(before, powered=on)
        if not on and name == self._in_use:
            self._ended(f"{name} was switched off")

    # --- the bus ------------------------------------------------------------------------------------

    async def _call(
        self, destination: str, path: str, interface: str, member: str, signature: str = "", body: Any = ()
    ) -> list[Any]:
        assert self._bus is not None
        message = Message(
            destination=destination,
            path=path,
            interface=interface,
            member=member,
            signature=signature,
            body=list(body),
        )
        reply = await self._bus.call(message)
        if reply.message_type is MessageType.ERROR:
            raise DBusError._from_message(reply)  # noqa: SLF001 - the only way to keep its name and text
        return list(reply.body)

    async def _wait_for_end(self, bus: MessageBus) -> None:
        with contextlib.suppress(OSError, EOFError, DBusError):
            await bus.wait_for_disconnect()  # type: ignore[no-untyped-call]
        self._gone = True
        self._ended("the system's message bus went away")
        self.changed.set()

    def _close(self) -> None:
        if self._bus is not None and self._bus.connected:
            self._bus.disconnect()
        self._bus = None
