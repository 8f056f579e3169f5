"""One long-lived scanner on one adapter, on unmodified bleak, started anew whenever it may have fallen silent.

What ends a scan: bluetoothd went away or started anew, the adapter was switched off or unplugged (see `bluez_watch`),
or nothing at all was heard for longer than a sensor of ours is ever silent. Then a fresh scanner follows, after a
bounded, jittered backoff that starts over once something was heard; after silence, by the steps of `ble_ladder`. While
there is no scanner, sensors are told that they are deaf.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import structlog
from bleak import BleakScanner
from bleak.args.bluez import OrPattern
from bleak.assigned_numbers import AdvertisementDataType
from bleak.backends.bluezdbus.manager import _global_instances
from bleak.backends.device import BLEDevice
from bleak.backends.scanner import AdvertisementData
from bleak.exc import BleakError
from dbus_fast.errors import DBusError

from gateway.backoff import Backoff
from gateway.clock import Clock
from gateway.decoders.advertisements import Advert, Pattern
from gateway.errors import Retryable
from gateway.sensors.ble_adverts import Adverts
from gateway.sensors.ble_ladder import Ladder, Step
from gateway.sensors.ble_phantoms import Phantoms
from gateway.sensors.bluez_watch import NO_ANSWER, Adapter, BluezWatch
from gateway.sensors.gatt_peripherals import Peripherals

START_S = 20.0
STOP_S = 10.0
LOOK_EVERY_S = 5.0
NO_RSSI = -127
MAX_PATTERNS = 16
"""What a kernel's filter holds."""
SILENT, REFUSED = "nothing was heard", "scanning refused"
REFUSALS = 3
"""In a row, until more is tried than asking again."""
Mode = Literal["active", "passive"]
Scan = Literal["auto", "active", "passive"]

# Passive scanning hears only what matches: anything with common flags, and the formats that may come without flags.
COMMON_FLAGS = (0x06, 0x04, 0x02, 0x05, 0x18, 0x1A)
AD_TYPES = {
    "service": AdvertisementDataType.SERVICE_DATA_UUID16,
    "manufacturer": AdvertisementDataType.MANUFACTURER_SPECIFIC_DATA,
}
FAILURES = (BleakError, DBusError, OSError, EOFError, TimeoutError, AssertionError)
"""What bleak's calls end with; it asserts that its bus is there."""

log = structlog.get_logger("gateway.ble")


class AdapterScanner:
    """A supervised task; `number` is its place among the gateway's adapters, `adapter` its name or address."""

    def __init__(
        self,
        *,
        adapter: str | None,
        number: int,
        scan: Scan,
        silent_s: float,
        clock: Clock,
        adverts: Adverts,
        patterns: Sequence[Pattern] = (),
        ask: bool = False,
        power_cycle: bool = True,
        peripherals: Peripherals | None = None,
        backoff: Backoff | None = None,
        look_every_s: float = LOOK_EVERY_S,
    ) -> None:
        """`ask`: some sensor is heard well only by an active scan."""
        self.mode: Mode | None = None
        """How it scans now; None while it doesn't."""
        self.problem: str | None = "not started yet"
        self.counters: Counter[str] = Counter()
        """scans, adverts and phantoms, how often each reason ended a scan, and each step after silence."""
        self._wanted = adapter
        self._number = number
        self._scan = scan
        self._ask = ask
        self._clock = clock
        self._adverts = adverts
        self._patterns = _or_patterns(patterns)
        self._power_cycle = power_cycle
        self._peripherals = peripherals
        self._backoff = backoff or Backoff(base_s=0.2, cap_s=30.0)
        self._look_every_s = look_every_s
        self._ladder = Ladder(silent_ms=round(silent_s * 1000))
        self._phantoms = Phantoms()
        self._passive_failed = False
        self._heard_ms = 0
        self._heard_any = False
        self._silent_since_ms: int | None = None
        self._refusals = 0
        self._reported_ms = 0

    @property
    def state(self) -> str:
        """For a person: how it listens, and since when nothing is heard."""
        if self.mode is None:
            return "not listening"
        return f"{self.mode} scan" + ("" if self._heard_any else ", nothing heard yet")

    def alive(self) -> None:
        """Something else proves that the adapter works: a connection that carries data."""
        self._heard_ms = self._clock.mono_ms()
        self._ladder.heard()

    async def run(self) -> None:
        """Scan until cancelled. Raises Retryable without a message bus."""
        try:
            while True:
                async with BluezWatch(wanted=self._wanted) as watch:
                    while await self._listen(watch) is not Step.BUS:
                        await asyncio.sleep(self._backoff.next_s())
                self._drop_bus()
        finally:
            self.mode = None
            self._adverts.deaf(self._number, self._clock.mono_ms())
            self._lost("scanning was stopped")

    async def _listen(self, watch: BluezWatch) -> Step | None:
        """One scanner's life, and what was done after it, if it ended in silence."""
        adapter = await self._ready(watch)
        why = await self._scan_once(watch, adapter)
        self._say_ended(adapter.name, why)
        return await self._climb(watch, adapter, why) if self._should_climb(why) else None

    def _should_climb(self, why: str) -> bool:
        """After silence, and when scanning was refused several times in a row."""
        if why == SILENT:
            return True
        self._refusals = self._refusals + 1 if why.startswith(REFUSED) else 0
        if self._ladder.exhausted:
            return self._refusals > 0 and self._clock.mono_ms() - self._reported_ms >= self._ladder.patience_ms
        return self._refusals >= REFUSALS

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
            said = str(error) or type(error).__name__
            return f"{REFUSED}: {NO_ANSWER if isinstance(error, TimeoutError) else said}"
        try:
            self.mode = mode
            if not self._ladder.exhausted:
                self.problem = None
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
            return "active"  # passively, what never changes is told once: nobody would know who is near
        return "passive" if adapter.monitors and not self._ask and not self._passive_failed else "active"

    def _scanner(self, adapter: str, mode: Mode) -> BleakScanner:
        # An unchanged advertisement is reported too, so that a sensor at rest can be told from one that left.
        bluez: dict[str, Any] = {"adapter": adapter, "filters": {"DuplicateData": True}}
        if mode == "passive":
            bluez["or_patterns"] = self._patterns
        return BleakScanner(self._seen, scanning_mode=mode, bluez=bluez)  # type: ignore[arg-type]

    async def _until_trouble(self, watch: BluezWatch, generation: int) -> str:
        while True:
            if watch.generation != generation:
                self._adverts.deaf(self._number, self._clock.mono_ms())
                self._lost(watch.last)
                return watch.last
            if self._peripherals is not None:  # an answer over a connection is a sign of life too
                self._heard_ms = max(self._heard_ms, self._peripherals.answered_ms(self._number))
            left_ms = self._heard_ms + self._ladder.patience_ms - self._clock.mono_ms()
            if left_ms <= 0:
                self._adverts.deaf(self._number, self._heard_ms)
                # Some adapters accept monitors and never report; the next scan finds out.
                self._passive_failed |= self.mode == "passive" and not self._heard_any
                return SILENT
            watch.changed.clear()
            try:
                async with asyncio.timeout(min(left_ms / 1000.0, self._look_every_s)):
                    await watch.changed.wait()
            except TimeoutError:
                continue

    async def _climb(self, watch: BluezWatch, adapter: Adapter, why: str) -> Step:
        """The next step after silence. Discovery starts anew by itself."""
        if self._silent_since_ms is None:
            self._silent_since_ms = self._heard_ms or self._clock.mono_ms()
        step = self._ladder.climb(power=self._power_cycle, bus=not self._adverts.others_hear(self._number))
        self.counters[step.value] += 1
        log.warning("ble.recovering", adapter=adapter.name, step=step.value, times=self.counters[step.value])
        if step is Step.POWER:
            try:
                await watch.power_cycle(adapter.name)
            except Retryable as error:
                log.warning("ble.recovering", adapter=adapter.name, failed=str(error))
        if step is Step.REPORT:
            self._report(adapter.name, why)
        return step

    def _report(self, adapter: str, why: str) -> None:
        """A person's turn."""
        self._reported_ms = now_ms = self._clock.mono_ms()
        silent_s = (now_ms - (self._silent_since_ms or now_ms)) // 1000
        tried = "scanning anew" + (", switching it off and on" if self._power_cycle else "")
        ends = "unplug it and plug it in again"
        if why == SILENT:
            ends += ", or see whether any sensor is near"
        else:
            ends = f"{why.partition(': ')[2]}; {ends}"
        self.problem = f"{adapter} has heard no device for {silent_s} s, and {tried} didn't help: {ends}"
        log.error("ble.hears_nothing", adapter=adapter, why=self.problem)

    def _drop_bus(self) -> None:
        """Bleak keeps one connection to the message bus for ever; it makes a new one when that is closed."""
        manager = _global_instances.get(asyncio.get_running_loop())
        if manager is not None and manager._bus is not None and manager._bus.connected:  # noqa: SLF001 - no other way
            manager._bus.disconnect()  # noqa: SLF001

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
        reason = why.partition(":")[0]
        self.counters[reason] += 1
        if not self._ladder.exhausted:
            self.problem = why
        log.warning("ble.deaf", adapter=adapter, why=why, times=self.counters[reason])

    def _seen(self, device: BLEDevice, data: AdvertisementData) -> None:
        """Called by bleak; what it raises would vanish in bleak's log."""
        path, properties = data.platform_data
        if self._phantoms.is_phantom(path, properties):
            self.counters["phantoms"] += 1
            self._near(device, data)  # one that says nothing but its name repeats itself to the letter
            return
        now_ms = self._heard_ms = self._clock.mono_ms()
        if not self._heard_any:
            self._heard_any, self._silent_since_ms, self.problem = True, None, None
            self._backoff.reset()
            self._ladder.heard()
        self.counters["adverts"] += 1
        self._near(device, data)
        self._adverts.put(Advert(device.address, data.manufacturer_data, data.service_data, _rssi(data), now_ms))

    def _near(self, device: BLEDevice, data: AdvertisementData) -> None:
        """Tell who connects. While it is connected it doesn't advertise, and the call is of something else."""
        _, properties = data.platform_data
        if self._peripherals is not None and _rssi(data) is not None and not properties.get("Connected"):
            self._peripherals.seen(self._number, device, _rssi(data), self._clock.mono_ms())


def _rssi(data: AdvertisementData) -> int | None:
    return None if data.rssi == NO_RSSI else data.rssi


def _or_patterns(patterns: Sequence[Pattern]) -> list[OrPattern]:
    """The formats' first: they are what is wanted."""
    wanted = [OrPattern(0, AD_TYPES[one.kind], one.data) for one in dict.fromkeys(patterns)]
    flags = [OrPattern(0, AdvertisementDataType.FLAGS, bytes([flags])) for flags in COMMON_FLAGS]
    return [*wanted[: MAX_PATTERNS - len(flags)], *flags]
