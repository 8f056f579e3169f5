"""One long-lived scanner on one adapter, on unmodified bleak, started anew whenever it may have fallen silent.

What ends a scan: bluetoothd went away or started anew, the adapter was switched off or unplugged (see `bluez_watch`),
or nothing at all was heard for `silent_s`. Then a fresh scanner follows, after a bounded, jittered backoff that starts
over once something was heard. While there is none, sensors are told that they are deaf.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, Literal

import structlog
from bleak import BleakScanner
from bleak.args.bluez import OrPattern
from bleak.assigned_numbers import AdvertisementDataType
from bleak.backends.device import BLEDevice
from bleak.backends.scanner import AdvertisementData
from bleak.exc import BleakError
from dbus_fast.errors import DBusError

from gateway.backoff import Backoff
from gateway.clock import Clock
from gateway.decoders.advertisements import Advert
from gateway.sensors.ble_adverts import Adverts
from gateway.sensors.bluez_watch import Adapter, BluezWatch
from gateway.sensors.gatt_peripherals import Peripherals

START_S = 20.0
STOP_S = 10.0
NO_RSSI = -127
Mode = Literal["active", "passive"]

# Passive scanning hears only what matches: anything with common flags, and the formats that may come without flags.
PATTERNS = [
    *(OrPattern(0, AdvertisementDataType.FLAGS, bytes([flags])) for flags in (0x02, 0x04, 0x05, 0x06, 0x18, 0x1A)),
    OrPattern(0, AdvertisementDataType.SERVICE_DATA_UUID16, bytes.fromhex("d2fc")),
    OrPattern(0, AdvertisementDataType.MANUFACTURER_SPECIFIC_DATA, bytes.fromhex("9904")),
]
FAILURES = (BleakError, DBusError, OSError, EOFError, TimeoutError, AssertionError)
"""What bleak's calls end with; it asserts that its bus is there."""

log = structlog.get_logger("gateway.ble")


class AdapterScanner:
    """A supervised task; `number` is its place among the gateway's adapters."""

    def __init__(
        self,
        *,
        adapter: str | None,
        number: int,
        scan: Literal["auto", "active", "passive"],
        silent_s: float,
        clock: Clock,
        adverts: Adverts,
        peripherals: Peripherals | None = None,
        backoff: Backoff | None = None,
    ) -> None:
        self.mode: Mode | None = None
        """How it scans now; None while it doesn't."""
        self.problem: str | None = "not started yet"
        self.counters: Counter[str] = Counter()
        """scans and adverts, and how often each reason ended a scan."""
        self._wanted = adapter
        self._number = number
        self._scan = scan
        self._silent_ms = round(silent_s * 1000)
        self._clock = clock
        self._adverts = adverts
        self._peripherals = peripherals
        self._backoff = backoff or Backoff(base_s=0.2, cap_s=30.0)
        self._passive_failed = False
        self._heard_ms = 0
        self._heard_any = False

    async def run(self) -> None:
        """Scan until cancelled. Raises Retryable without a message bus."""
        try:
            async with BluezWatch(wanted=self._wanted) as watch:
                while True:
                    adapter = await self._ready(watch)
                    why = await self._scan_once(watch, adapter)
                    self._say_ended(adapter.name, why)
                    await asyncio.sleep(self._backoff.next_s())
        finally:
            self.mode = None
            self._adverts.deaf(self._number, self._clock.mono_ms())
            self._lost("scanning was stopped")

    async def _ready(self, watch: BluezWatch) -> Adapter:
        waiting = asyncio.ensure_future(watch.ready())
        try:
            done, _ = await asyncio.wait([waiting], timeout=1.0)
            if not done:
                self.problem = watch.problem
                log.warning("ble.waiting", adapter=self._wanted or "any", why=watch.problem)
            return await waiting
        finally:
            waiting.cancel()
            await asyncio.wait([waiting])

    async def _scan_once(self, watch: BluezWatch, adapter: Adapter) -> str:
        """One scanner's life; returns why it ended."""
        generation = watch.generation
        mode = self._choose(adapter)
        scanner = self._scanner(adapter.name, mode)
        try:
            async with asyncio.timeout(START_S):
                await scanner.start()
        except FAILURES as error:
            await self._stop(scanner)
            if mode == "passive" and self._scan == "auto":
                self._passive_failed = True
                return f"passive scanning refused: {error}"
            return f"scanning refused: {error or type(error).__name__}"
        try:
            self.mode, self.problem = mode, None
            self.counters["scans"] += 1
            self._heard_ms, self._heard_any = self._clock.mono_ms(), False
            self._adverts.hears(self._number, self._heard_ms)
            if self._peripherals is not None:
                self._peripherals.listening(self._number)
            log.info("ble.listening", adapter=adapter.name, mode=mode, scans=self.counters["scans"])
            return await self._until_trouble(watch, generation)
        finally:
            self.mode = None
            await self._stop(scanner)

    def _choose(self, adapter: Adapter) -> Mode:
        if self._scan != "auto":
            return self._scan
        if self._peripherals is not None:
            return (
                "active"  # passively, an advertisement that never changes is told once: nobody would know who is near
            )
        return "passive" if adapter.monitors and not self._passive_failed else "active"

    def _scanner(self, adapter: str, mode: Mode) -> BleakScanner:
        # An unchanged advertisement is reported too, so that a sensor at rest can be told from one that left.
        bluez: dict[str, Any] = {"adapter": adapter, "filters": {"DuplicateData": True}}
        if mode == "passive":
            bluez["or_patterns"] = PATTERNS
        return BleakScanner(self._seen, scanning_mode=mode, bluez=bluez)  # type: ignore[arg-type]

    async def _until_trouble(self, watch: BluezWatch, generation: int) -> str:
        while True:
            if watch.generation != generation:
                self._adverts.deaf(self._number, self._clock.mono_ms())
                self._lost(watch.last)
                return watch.last
            if self._peripherals is not None:  # an answer over a connection is a sign of life too
                self._heard_ms = max(self._heard_ms, self._peripherals.answered_ms(self._number))
            left_ms = self._heard_ms + self._silent_ms - self._clock.mono_ms()
            if left_ms <= 0:
                self._adverts.deaf(self._number, self._heard_ms)
                # Some adapters accept monitors and never report; the next scan finds out.
                self._passive_failed |= self.mode == "passive" and not self._heard_any
                return "nothing was heard"
            watch.changed.clear()
            try:
                async with asyncio.timeout(left_ms / 1000.0):
                    await watch.changed.wait()
            except TimeoutError:
                continue

    async def _stop(self, scanner: BleakScanner) -> None:
        """A dead bluetoothd refuses or doesn't answer; either way bleak has let go of our callback before it asks."""
        try:
            async with asyncio.timeout(STOP_S):
                await scanner.stop()
        except FAILURES as error:
            log.debug("ble.stop", error=str(error))

    def _lost(self, why: str) -> None:
        if self._peripherals is not None:
            self._peripherals.lost(self._number, why)

    def _say_ended(self, adapter: str, why: str) -> None:
        self.problem = why
        self.counters[why.partition(":")[0]] += 1
        log.warning("ble.deaf", adapter=adapter, why=why, times=self.counters[why.partition(":")[0]])

    def _seen(self, device: BLEDevice, data: AdvertisementData) -> None:
        """Called by bleak; what it raises would vanish in bleak's log."""
        now_ms = self._heard_ms = self._clock.mono_ms()
        if not self._heard_any:
            self._heard_any = True
            self._backoff.reset()
        self.counters["adverts"] += 1
        rssi = None if data.rssi == NO_RSSI else data.rssi
        if self._peripherals is not None:
            self._peripherals.seen(self._number, device, rssi, now_ms)
        self._adverts.put(Advert(device.address, data.manufacturer_data, data.service_data, rssi, now_ms))
