"""Anchors: immutable facts that tie a boot's monotonic clock to wall time.

The kernel's synchronised clock is best; otherwise the server's time at Welcome, whose error is half the round trip.
While neither has spoken, the battery clock does, where somebody vouched for it; any more exact word replaces that.
A new anchor is made when there is none in this boot, hourly, or when the last one has become wrong by more than both
errors.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from gateway import kernel_clock
from gateway.clock import Clock
from gateway.uplink.hardware_clock import HardwareClock
from protos.comboio.v1 import batch_pb2 as pb
from protos.comboio.v1 import link_pb2 as wire

AGAIN_AFTER_MS = 3_600_000
LOOK_EVERY_S = 10.0

log = structlog.get_logger("gateway.uplink")


def kernel_error_ms() -> int | None:
    """How wrong the system clock may be, by the kernel's own word; None while it is not synchronised."""
    told = kernel_clock.ask()
    return None if told is None or not told.synchronised else int(told.error_most_s * 1000) + 1


class Anchors:
    """Decides when a new anchor is due and hands it to `record`."""

    def __init__(
        self,
        *,
        clock: Clock,
        boot: int,
        record: Callable[[pb.Anchor], object],
        kernel: Callable[[], int | None] = kernel_error_ms,
        hardware: HardwareClock | None = None,
    ) -> None:
        self._clock = clock
        self._boot = boot
        self._record = record
        self._kernel = kernel
        self._hardware = hardware
        self._last: pb.Anchor | None = None

    @property
    def last(self) -> pb.Anchor | None:
        return self._last

    def state(self) -> wire.ClockState:
        """How far wall time can be trusted now."""
        last = self._last
        return wire.ClockState(source=last.source, err_ms=last.err_ms) if last else wire.ClockState()

    async def run(self) -> None:
        """Look at the kernel's clock again and again: a boot that never had a link is to be placed too."""
        while True:
            self.from_kernel()
            self.from_hardware()
            if self._hardware is not None:
                try:
                    await asyncio.to_thread(self._hardware.save)
                except OSError as error:
                    log.error("clock.memory_unwritable", error=str(error))
            await asyncio.sleep(LOOK_EVERY_S)

    def from_hardware(self) -> None:
        """Take the battery clock while nothing better has spoken in this boot."""
        told = self._hardware.now() if self._hardware is not None and self._last is None else None
        if told is not None:
            self._offer(self._clock.mono_ms(), *told, pb.CLOCK_RTC)

    def from_kernel(self) -> None:
        """Take the system clock if NTP vouches for it."""
        error = self._kernel()
        if error is not None:
            self._offer(self._clock.mono_ms(), self._clock.wall_ms(), error, pb.CLOCK_NTP)

    def from_server(self, *, asked_mono_ms: int, server_ms: int) -> None:
        """Take the server's time from an exchange that began at `asked_mono_ms` and ends now."""
        if self._kernel() is not None:
            self.from_kernel()
            return
        now = self._clock.mono_ms()
        half = (now - asked_mono_ms + 1) // 2
        self._offer(now, server_ms + half, half + 1, pb.CLOCK_SERVER)

    def from_gps(self, mono_ms: int, wall_ms: int, err_ms: int) -> None:
        """Take the satellites' time, unless NTP is surer."""
        kernel = self._kernel()
        if kernel is None or err_ms < kernel:
            self._offer(mono_ms, wall_ms, err_ms, pb.CLOCK_GPS)

    def _offer(self, mono_ms: int, wall_ms: int, err_ms: int, source: pb.ClockSource.ValueType) -> None:
        last = self._last
        guessed = last is not None and last.source == pb.CLOCK_RTC and err_ms < last.err_ms
        if last is not None and mono_ms - last.mono_ms < AGAIN_AFTER_MS and not guessed:
            off = abs(last.wall_ms + mono_ms - last.mono_ms - wall_ms)
            if off <= last.err_ms + err_ms:
                return
        anchor = pb.Anchor(boot=self._boot, mono_ms=mono_ms, wall_ms=wall_ms, err_ms=err_ms, source=source)
        self._record(anchor)
        self._last = anchor
        if self._hardware is not None and source != pb.CLOCK_RTC:
            self._hardware.compare(wall_ms, err_ms)
