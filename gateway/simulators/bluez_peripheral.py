"""A peripheral to connect to: its services, what it answers, and what it does wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

Pairing = Literal["none", "just_works", "passkey"]
BASE_UUID = "-0000-1000-8000-00805f9b34fb"


def uuid_of(short: str) -> str:
    """`2a6e` or a whole UUID, in whatever case → as BlueZ writes it."""
    text = short.lower()
    return text if "-" in text else f"{text:0>8}{BASE_UUID}"


@dataclass(slots=True)
class Descriptor:
    uuid: str
    value: bytes = b""


@dataclass(slots=True, kw_only=True)
class Characteristic:
    """`read` goes before `value`; `wrote` is told what a client wrote."""

    uuid: str
    value: bytes = b""
    flags: tuple[str, ...] = ("read",)
    read: Callable[[], bytes] | None = None
    wrote: Callable[[bytes], None] | None = None
    needs_bond: bool = False
    descriptors: tuple[Descriptor, ...] = ()
    att_error: int = 0
    """Answer reads and writes with this error."""
    silent: bool = False
    """Answer neither."""


@dataclass(slots=True, kw_only=True)
class Peripheral:
    """Services by UUID. All of it may be changed while it runs; services only between two connections."""

    address: str
    services: dict[str, list[Characteristic]] = field(default_factory=dict)
    in_range: bool = True
    connect_s: float = 0.0
    resolve_s: float = 0.0
    refuse: str = ""
    """Every connection ends with this text of org.bluez.Error.Failed."""
    resolves: bool = True
    """False: it connects, and its services are never found."""
    drops_on_read: bool = False
    """It hangs up instead of answering a read."""
    pairing: Pairing = "none"
    passkey: int = 0
    bonded: bool = False
    """As bluetoothd's storage has it: outlives its restarts."""
    connections: int = 0
    """How often it was connected to."""
    connected: bool = False

    def characteristic(self, uuid: str) -> Characteristic:
        """The first of that UUID. Raises KeyError."""
        wanted = uuid_of(uuid)
        for characteristics in self.services.values():
            for one in characteristics:
                if one.uuid == wanted:
                    return one
        raise KeyError(uuid)
