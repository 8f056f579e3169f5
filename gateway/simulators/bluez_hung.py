"""A BlueZ whose radio hangs: it says that it scans, and reports nothing until the right remedy is tried.

As firmware of adapters does after days, or a daemon that lost its own state: no signal, no error, only silence.
"""

from __future__ import annotations

from typing import Any, Literal

from dbus_fast import Message, Variant

from gateway.simulators.bluez import SimulatedBluez
from gateway.simulators.bluez_objects import ADAPTER, MONITORS, PROPERTIES
from gateway.simulators.bluez_radio import Report

Remedy = Literal["discovery", "power", "bus", "nothing"]
"""What ends it: a fresh discovery, switching the adapter off and on, a client not seen before, or only `mend`."""


class HungBluez(SimulatedBluez):
    """Works until `hang`."""

    def __init__(self, address: str, **options: Any) -> None:
        super().__init__(address, **options)
        self.hung: Remedy | None = None
        self.refuses = False
        """Discovery is "in progress" for ever, until the adapter is switched off and on."""
        self.mute = False
        """It answers nobody, and doesn't go away."""
        self.power_switched = 0
        self._clients: set[str] = set()
        for method in ((ADAPTER, "StartDiscovery"), (MONITORS, "RegisterMonitor")):
            self._handlers[method] = self._begun(self._handlers[method])
        self._handlers[PROPERTIES, "Set"] = self._switch

    def hang(self, remedy: Remedy) -> None:
        self.hung = remedy

    def mend(self) -> None:
        self.hung = None

    def _on_message(self, message: Message) -> Message | bool | None:
        return True if self.mute else super()._on_message(message)

    async def advertise(self, report: Report) -> None:
        if self.hung is None and not self.mute:
            await super().advertise(report)

    def _begun(self, handler: Any) -> Any:
        def begun(message: Message) -> Any:
            client = message.sender or ""
            if self.hung == "discovery" or (self.hung == "bus" and client not in self._clients):
                self.mend()
            self._clients.add(client)
            if self.refuses:
                self._ears[(message.path or "").rsplit("/", 1)[-1]].sessions[client] = {}
            return handler(message)

        return begun

    def _switch(self, message: Message) -> None:
        _, name, value = message.body
        if name == "Powered" and isinstance(value, Variant):
            self.power_switched += not value.value
            if value.value:
                self.refuses = False
                self.hung = None if self.hung == "power" else self.hung
            self.power((message.path or "").rsplit("/", 1)[-1], on=bool(value.value))
