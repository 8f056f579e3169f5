"""A mobile modem by ModemManager (org.freedesktop.ModemManager1), over the system's message bus.

One call per reading: everything that ModemManager's object manager holds. Extended signal figures are only refreshed
when somebody asked for it (Modem.Signal.Setup), which is done once; where that is not allowed, only `quality` is told.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import structlog
from dbus_fast import BusType, Message, MessageType, unpack_variants
from dbus_fast.aio import MessageBus
from dbus_fast.errors import DBusError

from firmware_configs.host import HostProfile
from firmware_configs.loader import Profiles
from gateway.clock import Clock
from gateway.errors import Retryable
from gateway.sensors import Built, BuiltSensor
from gateway.sensors.host import HostSensor
from gateway.sensors.host_build import profile_of
from gateway.sensors.host_facts import Fact
from protos.config import GatewayConfig
from protos.config import ModemSensor as SensorOptions

NAME = "org.freedesktop.ModemManager1"
PATH = "/org/freedesktop/ModemManager1"
MODEM = f"{NAME}.Modem"
SIGNAL = f"{MODEM}.Signal"
GPP = f"{MODEM}.Modem3gpp"
OBJECTS = "org.freedesktop.DBus.ObjectManager"
CALL_S = 5.0
STATES = {
    -1: "failed", 0: "unknown", 1: "initializing", 2: "locked", 3: "disabled", 4: "disabling", 5: "enabling",
    6: "enabled", 7: "searching", 8: "registered", 9: "disconnecting", 10: "connecting", 11: "connected",
}  # fmt: skip
"""MMModemState."""
REGISTRATIONS = {0: "idle", 1: "home", 2: "searching", 3: "denied", 4: "unknown", 5: "roaming"}
"""MMModem3gppRegistrationState."""
TECHNOLOGIES = (
    (15, "5gnr"), (14, "lte"), (9, "hspa-plus"), (8, "hspa"), (7, "hsupa"), (6, "hsdpa"), (5, "umts"), (4, "edge"),
    (3, "gprs"), (2, "gsm-compact"), (1, "gsm"),
)  # fmt: skip
"""Bits of MMModemAccessTechnology, the newest first."""
FIGURES = ("Nr5g", "Lte", "Umts", "Gsm")
BUS_VARIABLE = "DBUS_SYSTEM_BUS_ADDRESS"
SIMULATED_BUS = "comboio-simulated"

log = structlog.get_logger("gateway.host")


def build(config: GatewayConfig, *, clock: Clock, profiles: Profiles, data_dir: Path | None = None) -> Built:
    """One driver per [[sensor]]. Raises Misconfigured."""
    del data_dir
    wanted = [options for options in config.sensor if isinstance(options, SensorOptions)]
    made = [ModemSensor(options=options, profile=_profile(options, profiles), clock=clock) for options in wanted]
    return Built(sensors=tuple(BuiltSensor(one.id, one) for one in made))


def _profile(options: SensorOptions, profiles: Profiles) -> HostProfile:
    return profile_of(options.id, options.profile, profiles, ("modemmanager",))


class ModemSensor(HostSensor):
    """A `Driver`. Whatever goes wrong is a failed reading and asked again at the next one."""

    def __init__(self, *, options: SensorOptions, profile: HostProfile, clock: Clock) -> None:
        super().__init__(
            sensor=options.id,
            values=profile.value,
            read=self._never,
            every_s=options.every_s,
            clock=clock,
            mark={"simulated": "true"} if SIMULATED_BUS in os.environ.get(BUS_VARIABLE, "") else {},
        )
        self._equipment = options.equipment
        self._bus: MessageBus | None = None
        self._asked_for: set[str] = set()

    @staticmethod
    def _never() -> Mapping[str, Fact]:
        raise AssertionError("facts of a modem are awaited")

    async def facts(self) -> Mapping[str, Fact]:
        try:
            async with asyncio.timeout(CALL_S):
                if self._bus is None or not self._bus.connected:
                    self._asked_for.clear()
                    self._bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
                (objects,) = await self._call(PATH, OBJECTS, "GetManagedObjects")
                path, modem = self._chosen(unpack_variants(objects))
                await self._ask_for_figures(path, modem)
        except FileNotFoundError:
            raise Retryable("no word from ModemManager: there is no system message bus") from None
        except (OSError, EOFError, ValueError, TimeoutError, DBusError) as error:
            self._close()
            raise Retryable(f"no word from ModemManager: {str(error) or 'no answer'}") from None
        return facts_of(modem)

    async def _closed(self) -> None:
        self._close()

    def _chosen(self, objects: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
        """The modem that is wanted, else the one of the lowest number."""
        modems = {path: one for path, one in objects.items() if MODEM in one}
        for path in sorted(modems, key=lambda path: int("0" + path.rpartition("/")[2])):
            if self._equipment in {"", modems[path][MODEM].get("EquipmentIdentifier")}:
                return path, modems[path]
        known = [str(one[MODEM].get("EquipmentIdentifier", "?")) for one in modems.values()]
        if not known:
            raise Retryable("there is no modem")
        raise Retryable(f"there is no modem {self._equipment}; there is {', '.join(known)}")

    async def _ask_for_figures(self, path: str, modem: Mapping[str, Any]) -> None:
        if path in self._asked_for or SIGNAL not in modem:
            return
        self._asked_for.add(path)
        if modem[SIGNAL].get("Rate"):
            return
        try:
            await self._call(path, SIGNAL, "Setup", "u", [max(5, round(self._every_s))])
        except DBusError as error:
            log.warning("modem.no_figures", sensor=self.id, why=str(error))

    async def _call(self, path: str, interface: str, member: str, signature: str = "", body: Any = ()) -> list[Any]:
        assert self._bus is not None
        reply = await self._bus.call(
            Message(
                destination=NAME, path=path, interface=interface, member=member, signature=signature, body=list(body)
            )
        )
        assert reply is not None
        if reply.message_type is MessageType.ERROR:
            said = str(reply.body[0]) if reply.body else reply.error_name
            raise DBusError(reply.error_name or "", str(said))
        return list(reply.body)

    def _close(self) -> None:
        if self._bus is not None:
            with contextlib.suppress(Exception):
                self._bus.disconnect()
        self._bus = None


def facts_of(interfaces: Mapping[str, Any]) -> dict[str, Fact]:
    """What ModemManager's properties of one modem say; what it leaves out is left out."""
    modem, registration = interfaces[MODEM], interfaces.get(GPP, {})
    found: dict[str, Fact] = {}
    if (state := modem.get("State")) in STATES:
        found["state"] = STATES[state]
    quality = modem.get("SignalQuality")
    if isinstance(quality, list | tuple) and len(quality) == 2:
        found["quality"] = int(quality[0])
    bits = modem.get("AccessTechnologies")
    if isinstance(bits, int) and 0 < bits < 0xFFFFFFFF:
        found["technology"] = next((name for bit, name in TECHNOLOGIES if bits >> bit & 1), "other")
    if (how := registration.get("RegistrationState")) in REGISTRATIONS:
        found["registration"] = REGISTRATIONS[how]
    if registration.get("OperatorName"):
        found["operator"] = str(registration["OperatorName"])
    figures = interfaces.get(SIGNAL, {})
    told: Mapping[str, Any] = next((figures[name] for name in FIGURES if figures.get(name)), {})
    for name in ("rssi", "rsrp", "rsrq", "snr"):
        value = told.get(name)
        if isinstance(value, float) and -1000 < value < 1000:  # the smallest double stands for unknown
            found |= {f"signal.{name}": value} if abs(value) > 1e-300 or value == 0 else {}
    return found
