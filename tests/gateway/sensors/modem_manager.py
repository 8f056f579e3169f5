"""A ModemManager on a private bus: as much of it as a reading of a modem needs."""

from __future__ import annotations

from typing import Any

from dbus_fast import Message, MessageType, Variant
from dbus_fast.aio import MessageBus
from dbus_fast.constants import ErrorType

from gateway.sensors.modem import GPP, MODEM, NAME, OBJECTS, PATH, SIGNAL


class FakeModemManager:
    """`modems`: path → interface → property → Variant; a call sees what they are then."""

    def __init__(self, address: str) -> None:
        self.modems: dict[str, dict[str, dict[str, Variant]]] = {}
        self.setups: list[tuple[str, int]] = []
        self.allowed = True
        self._address = address

    async def start(self) -> None:
        self._bus = await MessageBus(bus_address=self._address).connect()
        self._bus.add_message_handler(self._answer)
        await self._bus.request_name(NAME)

    async def stop(self) -> None:
        self._bus.disconnect()
        await self._bus.wait_for_disconnect()  # type: ignore[no-untyped-call]

    def plug(self, number: int, *, equipment: str, rsrp: float = -97.0) -> dict[str, dict[str, Variant]]:
        made = {
            MODEM: {
                "State": Variant("i", 11),
                "EquipmentIdentifier": Variant("s", equipment),
                "SignalQuality": Variant("(ub)", [61, True]),
                "AccessTechnologies": Variant("u", 1 << 14),
            },
            GPP: {"RegistrationState": Variant("u", 5), "OperatorName": Variant("s", "Vivo")},
            SIGNAL: {
                "Rate": Variant("u", 0),
                "Lte": Variant(
                    "a{sv}",
                    {
                        "rssi": Variant("d", -67.0),
                        "rsrp": Variant("d", rsrp),
                        "rsrq": Variant("d", -10.5),
                        "snr": Variant("d", 2.2250738585072014e-308),
                    },
                ),
                "Gsm": Variant("a{sv}", {}),
            },
        }
        self.modems[f"{PATH}/Modem/{number}"] = made
        return made

    def _answer(self, message: Message) -> Any:
        if message.message_type is not MessageType.METHOD_CALL or message.destination != NAME:
            return None
        if (message.interface, message.member) == (OBJECTS, "GetManagedObjects"):
            return Message.new_method_return(message, "a{oa{sa{sv}}}", [self.modems])
        if (message.interface, message.member) == (SIGNAL, "Setup"):
            if not self.allowed:
                return Message.new_error(message, ErrorType.ACCESS_DENIED.value, "not authorized")
            self.setups.append((message.path or "", int(message.body[0])))
            return Message.new_method_return(message)
        return None
