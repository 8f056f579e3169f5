"""Which of our peripherals are on the air now, and which connections end with their adapter.

BlueZ forgets what it has not heard for long, and a path of a daemon that restarted leads nowhere: a connection is made
from a live scan result only. bleak reports a device again when it connects and disconnects; that is not being heard, so
reports of a peripheral that we are connected to, or have just left, don't count.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

from gateway.clock import Clock
from gateway.sensors.gatt_failures import GattFailed
from gateway.sensors.gatt_turns import Turns

if TYPE_CHECKING:
    from bleak.backends.device import BLEDevice

LIVE_MS = 10_000
"""Heard within this time, it can be connected to."""
PHANTOM_MS = 1_000


class Seen(NamedTuple):
    """One advertisement of ours; `adapter` is the number of the one that heard it."""

    adapter: int
    device: BLEDevice
    rssi: int | None
    at_ms: int


class Ending(Protocol):
    """A connection as its adapter sees it."""

    def lost(self, why: str) -> None: ...


@dataclass(slots=True)
class _Known:
    """One address while somebody wants it."""

    wanted: int = 0
    seen: dict[int, Seen] = field(default_factory=dict)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    alone: asyncio.Lock = field(default_factory=asyncio.Lock)
    linked: bool = False
    left_ms: int | None = None
    last_ms: int | None = None


class Peripherals:
    """One per gateway. `turns` are the connections of each adapter, by its number."""

    def __init__(self, *, adapters: int, connections: int, clock: Clock) -> None:
        self.turns = [Turns(connections=connections) for _ in range(adapters)]
        self.abandoned: set[asyncio.Task[object]] = set()
        """Calls that bluetoothd never answered: nobody waits for them any more."""
        self._clock = clock
        self._known: dict[str, _Known] = {}
        self._links: dict[int, set[Ending]] = {number: set() for number in range(adapters)}
        self._deaf: dict[int, str] = dict.fromkeys(range(adapters), "no adapter listens yet")
        self._answered_ms = dict.fromkeys(range(adapters), 0)

    @contextmanager
    def wanted(self, address: str) -> Iterator[None]:
        """While it runs, what is heard of that address is kept."""
        known = self._known.setdefault(address, _Known())
        known.wanted += 1
        try:
            yield
        finally:
            known.wanted -= 1
            if not known.wanted:
                del self._known[address]

    def alone(self, address: str) -> asyncio.Lock:
        """A peripheral has one connection at a time, whoever wants to read it."""
        return self._known[address].alone

    # --- said by the scanners -----------------------------------------------------------------------

    def seen(self, adapter: int, device: BLEDevice, rssi: int | None, now_ms: int) -> None:
        known = self._known.get(device.address)
        if known is None or known.linked:
            return
        if known.left_ms is not None and now_ms - known.left_ms < PHANTOM_MS:
            return
        known.seen[adapter] = Seen(adapter, device, rssi, now_ms)
        known.last_ms = now_ms
        known.news.set()

    def listening(self, adapter: int) -> None:
        self._deaf.pop(adapter, None)

    def lost(self, adapter: int, why: str) -> None:
        """It went away, or bluetoothd did: nothing that was heard or connected with it is worth anything."""
        self._deaf[adapter] = why
        for known in self._known.values():
            known.seen.pop(adapter, None)
        for link in tuple(self._links[adapter]):
            link.lost(why)

    def answered_ms(self, adapter: int) -> int:
        """When a peripheral last answered: an adapter whose peripherals are all connected hears nobody else."""
        return self._answered_ms[adapter]

    # --- asked by the sensors -----------------------------------------------------------------------

    async def live(self, address: str, *, within_s: float) -> Seen:
        """The strongest of what was heard just now, waiting for it. Raises GattFailed absent or adapter."""
        known = self._known[address]
        try:
            async with asyncio.timeout(within_s):
                while (found := self._strongest(known)) is None:
                    known.news.clear()
                    await known.news.wait()
        except TimeoutError:
            raise self._absent(known) from None
        return found

    @contextmanager
    def linked(self, address: str, adapter: int, link: Ending) -> Iterator[None]:
        """While it runs, the connection is told when its adapter goes away."""
        known = self._known[address]
        known.linked = True
        self._links[adapter].add(link)
        try:
            yield
        finally:
            self._links[adapter].discard(link)
            known.linked, known.left_ms = False, self._clock.mono_ms()

    def answered(self, adapter: int) -> None:
        self._answered_ms[adapter] = self._clock.mono_ms()

    def doubted(self, address: str) -> None:
        """It could not be connected to: it has to be heard anew."""
        self._known[address].seen.clear()

    def abandon(self, task: asyncio.Task[object]) -> None:
        self.abandoned.add(task)
        task.add_done_callback(self._forgotten)

    def _forgotten(self, task: asyncio.Task[object]) -> None:
        self.abandoned.discard(task)
        if not task.cancelled():
            task.exception()

    def _strongest(self, known: _Known) -> Seen | None:
        now_ms = self._clock.mono_ms()
        live = [one for one in known.seen.values() if now_ms - one.at_ms <= LIVE_MS]
        return max(live, key=lambda one: one.rssi if one.rssi is not None else -127, default=None)

    def _absent(self, known: _Known) -> GattFailed:
        if len(self._deaf) == len(self._links):
            return GattFailed("adapter", f"it can't be heard: {next(iter(self._deaf.values()))}")
        if known.last_ms is None:
            ago = "has not been heard yet"
        else:
            ago = f"was last heard {(self._clock.mono_ms() - known.last_ms) / 1000:.0f} s ago"
        return GattFailed(
            "absent", f"{ago}: out of range, switched off, its battery empty, or connected to somebody else"
        )
