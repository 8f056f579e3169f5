"""The power is failing: what was taken is brought to stable storage before the capacitor is empty.

Told by SIGPWR, which init systems and UPS daemons send, or by an input that reads "1": a FIFO, or a file such as the
`value` of a GPIO in sysfs, looked at forty times a second. From then on the buffer writes nothing and confirms
nothing to a source, so that no card is written to while its supply collapses. It goes on by itself when the input reads
"0", and after HOLD_S in any case: whoever is still alive by then runs on something.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Protocol

import structlog

from gateway.clock import Clock
from gateway.power_input import opened
from gateway.reading import Receipt
from protos.comboio.v1 import batch_pb2 as pb

HOLD_S = 30.0
SIGNAL = "SIGPWR"
"""Written in place of a path where the signal is all there is."""

log = structlog.get_logger("gateway.power")


class Buffer(Protocol):
    async def secure(self) -> None:
        """Bring everything to stable storage; then write and confirm nothing. Raises OSError."""

    def resume(self) -> None:
        """Go on."""

    def event(self, kind: pb.EventKind.ValueType, detail: bytes, *, group: int = 0, severity: int = 0) -> Receipt: ...


class PowerFail:
    """Within `listening()`, for the signal alone ends a process that does not heed it; `run()` supervised."""

    def __init__(self, *, buffer: Buffer, clock: Clock, fail_input: Callable[[], str]) -> None:
        self._buffer = buffer
        self._clock = clock
        self._fail_input = fail_input
        self._failing = asyncio.Event()
        self._back = asyncio.Event()
        self._low = False
        self.took_ms: int | None = None
        """How long the last one took to be safe."""

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGPWR, self._failing.set)
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGPWR)

    async def run(self) -> None:
        """Until cancelled. Raises OSError when the input can't be read."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch(), name="power.input")
            tasks.create_task(self._heed(), name="power.heed")

    # --- hearing -------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        while True:
            path = self._fail_input()
            if path in {"", SIGNAL}:
                await asyncio.sleep(HOLD_S)  # another configuration may name one
                continue
            with contextlib.closing(opened(path)) as line:
                while self._fail_input() == path:
                    self._hear(line.read())
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(HOLD_S):
                            await line.news()

    def _hear(self, level: str) -> None:
        """A level counts where it changes: one that stays is no second failure."""
        if level == "1" and not self._low:
            self._low = True
            self._failing.set()
        elif level == "0" and self._low:
            self._low = False
            self._back.set()

    def went_on(self) -> None:
        """The power is back, as somebody knows who needs no input for it."""
        self._back.set()

    # --- heeding -------------------------------------------------------------------------------------

    async def _heed(self) -> None:
        try:
            while True:
                await self._failing.wait()
                await self._fail()
                self._failing.clear()
        finally:
            self._buffer.resume()

    async def _fail(self) -> None:
        self._back.clear()
        began_ms = self._clock.mono_ms()
        at = datetime.fromtimestamp(self._clock.wall_ms() / 1000, UTC).isoformat(timespec="seconds")
        self._say(f"power failed at {at}")
        try:
            await self._buffer.secure()
        except OSError as error:
            log.error("power.failed", error=str(error), safe=False)
        else:
            self.took_ms = self._clock.mono_ms() - began_ms
            log.error("power.failed", took_ms=self.took_ms, safe=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(HOLD_S):
                await self._back.wait()
        self._buffer.resume()
        after_s = (self._clock.mono_ms() - began_ms) / 1000
        self._say(f"power failed at {at} and the box went on after {after_s:.1f} s")
        log.warning("power.went_on", after_s=round(after_s, 1), back=self._back.is_set())

    def _say(self, text: str) -> None:
        self._buffer.event(pb.EVENT_INTEGRITY, text.encode(), severity=pb.SEVERITY_ALARM)
