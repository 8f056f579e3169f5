"""One connection's sending side: which batch goes next, what is in flight, what the server has said.

Order: URGENT before everything; then fresh telemetry; the backlog fills what is left of the window, as far as
`Progress` finds the link free. A part of the window is kept for what is more pressing: the backlog leaves two slots,
all telemetry one.

Resend rule: nothing is remembered across connections but what the buffer knows to be acknowledged; a new connection
starts from the server's word in Welcome. So a batch may be sent twice, never zero times.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

from gateway.buffer.buffer import Buffer, SealedBatch
from gateway.clock import Clock
from gateway.uplink.order import FRESH_IN_A_ROW, Order, Span
from gateway.uplink.progress import Progress
from protos.comboio.v1 import batch_pb2 as pb
from protos.comboio.v1 import link_pb2 as wire
from protos.ranges import Ranges

IDLE_WAIT_S = 1.0
SPARED_FROM = 4
"""Windows smaller than this keep no slot for anybody."""
Write = Callable[[wire.Uplink], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class _Flight:
    sent_ms: int
    backlog: bool


class Sender:
    """Sends what is leased, within the window. `may_send` says whether telemetry may go by this link now."""

    def __init__(
        self,
        *,
        buffer: Buffer,
        write: Write,
        window: int,
        known_schema: int,
        clock: Clock,
        progress: Progress,
        may_send: Callable[[], bool] = lambda: True,
    ) -> None:
        self._buffer = buffer
        self._write = write
        self.window = window
        self._known_schema = known_schema
        self._clock = clock
        self._progress = progress
        self._may_send = may_send
        self._declared: set[int] = set()
        self._urgent_at = 0
        self._order = Order(fresh_from=max(1, self._newest()))
        self._backlog_from_ms = 0
        self._in_flight: dict[tuple[int, int], _Flight] = {}
        self._moved_ms = clock.mono_ms()
        self._wake = asyncio.Event()
        self._repeat_declares = False
        self._wanted: list[int] = []
        self.sent_batches = self.acked_batches = self.sent_bytes = 0

    @property
    def in_flight(self) -> int:
        return len(self._in_flight)

    def stalled_ms(self) -> int:
        """For how long something has been under way without any acknowledgement; 0: nothing is."""
        if not self._in_flight:
            return 0
        oldest_ms = next(iter(self._in_flight.values())).sent_ms
        return self._clock.mono_ms() - max(oldest_ms, self._moved_ms)

    def pace(self, pace: wire.Pace, *, most: int) -> None:
        """The server's word: how much at once, in which order, and from when on the backlog."""
        if pace.window:
            self.window = min(pace.window, most)
        self._order.oldest_first = pace.oldest_first
        self._backlog_from_ms = self._clock.mono_ms() + pace.pause_ms
        self._wake.set()

    async def run(self) -> None:
        """Send for ever; ends only by cancellation or a failing write."""
        while True:
            self._wake.clear()
            if self._repeat_declares or self._wanted:
                await self._answer()
            if not await self._send_some():
                await self._idle()

    async def _answer(self) -> None:
        """Say again what the server misses, then what is not acknowledged."""
        if self._repeat_declares:
            self._repeat_declares = False
            self._declared.clear()
            self._known_schema = 0
        wanted, self._wanted = self._wanted, []
        for name in wanted:
            await self._supply(name)
        self.restart()

    async def _supply(self, name: int) -> None:
        found = await self._buffer.dictionary(name)
        if found is None:
            await self._buffer.give_up_dictionary(name)
            return
        held, schema = found
        said = wire.Dictionary(sha256=held.sha256, data=held.data, schema=schema)
        await self._write(wire.Uplink(dictionary=said))

    async def _idle(self) -> None:
        """Until there is more to send, room for it, or something to say again."""
        waits = [
            asyncio.ensure_future(self._buffer.wait_sealed(IDLE_WAIT_S)),
            asyncio.ensure_future(self._wake.wait()),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waits:
                one.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def _send_some(self) -> bool:
        """The most pressing there is room for; False when there is nothing, or no room."""
        if room := self._room(spared=0):
            urgent = await self._buffer.lease(pb.URGENT, self._urgent_at, room)
            if urgent:
                self._urgent_at = urgent[-1].seq
                await self._send_all(urgent, backlog=False)
                return True
        if not self._may_send():
            return False
        if self._order.backlogs_turn:
            return await self._send_backlog() or await self._send_fresh()
        return await self._send_fresh() or await self._send_backlog()

    def _room(self, *, spared: int) -> int:
        spared = spared if self.window >= SPARED_FROM else 0
        return max(0, self.window - spared - len(self._in_flight))

    async def _send_fresh(self) -> bool:
        while (room := self._room(spared=1)) and (span := self._order.fresh(self._newest())):
            if await self._take(span, min(room, FRESH_IN_A_ROW), backlog=False):
                return True
        return False

    async def _send_backlog(self) -> bool:
        if self._clock.mono_ms() < self._backlog_from_ms:
            return False
        while (room := self._room_for_backlog()) and (span := self._order.backlog(self._newest())):
            if await self._take(span, room, backlog=True):
                return True
        return False

    def _room_for_backlog(self) -> int:
        """A quarter of what is allowed at a time: whatever is more pressing is looked for in between."""
        allowed = self._progress.backlog(self.window)
        under_way = sum(flight.backlog for flight in self._in_flight.values())
        return max(0, min(self._room(spared=2), allowed - under_way, max(1, allowed // 4)))

    async def _take(self, span: Span, limit: int, *, backlog: bool) -> bool:
        batches = await self._buffer.lease(pb.TELEMETRY, span[0] - 1, limit, span[1])
        self._order.took(span, [batch.seq for batch in batches], backlog=backlog)
        await self._send_all(batches, backlog=backlog)
        return bool(batches)

    def _newest(self) -> int:
        return next(said.seq for said in self._buffer.completeness() if said.lane == pb.TELEMETRY)

    async def _send_all(self, batches: Sequence[SealedBatch], *, backlog: bool) -> None:
        await self._declare(batches)
        for batch in batches:
            await self._send(batch, backlog=backlog)

    async def _declare(self, batches: Sequence[SealedBatch]) -> None:
        unknown = {b.schema for b in batches if b.schema > self._known_schema} - self._declared
        if not unknown:
            return
        for declare in await self._buffer.schemas():
            if declare.schema in unknown:
                await self._write(wire.Uplink(declare=declare))
                self._declared.add(declare.schema)

    async def _send(self, batch: SealedBatch, *, backlog: bool) -> None:
        self._in_flight[batch.lane, batch.seq] = _Flight(self._clock.mono_ms(), backlog)
        await self._write(wire.Uplink(batch=batch.envelope(self._buffer.opening.epoch)))
        self.sent_batches += 1
        self.sent_bytes += len(batch.body)

    async def acknowledged(self, lanes: Sequence[wire.LaneReceived]) -> None:
        """The server holds these durably."""
        now_ms = self._clock.mono_ms()
        for said in lanes:
            received = Ranges((r.first, r.last) for r in said.above)
            if said.acked:
                received.add(1, said.acked)
            await self._buffer.ack(said.lane, received)
            done = [key for key in self._in_flight if key[0] == said.lane and key[1] in received]
            for key in done:
                self._progress.acknowledged(now_ms - self._in_flight[key].sent_ms, now_ms)
                self._landed(key)
            self.acked_batches += len(done)

    async def rejected(self, reject: wire.Reject) -> None:
        """The server refused one batch for good."""
        await self._buffer.reject(reject.lane, reject.seq, reject.reason)
        self._landed((reject.lane, reject.seq))

    def repeat_declares(self) -> None:
        """The server misses a schema: say them all again, then what is not acknowledged."""
        self._repeat_declares = True
        self._wake.set()

    def supply(self, names: Iterable[int]) -> None:
        """The server misses dictionaries: send those, then what is not acknowledged."""
        self._wanted += [name for name in names if name not in self._wanted]
        self._wake.set()

    def restart(self) -> None:
        """Offer everything unacknowledged again."""
        self._in_flight.clear()
        self._urgent_at = 0
        self._order.again()
        self._wake.set()

    def _landed(self, key: tuple[int, int]) -> None:
        self._in_flight.pop(key, None)
        self._moved_ms = self._clock.mono_ms()
        self._wake.set()
