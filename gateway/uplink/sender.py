"""One connection's sending side: which batch goes next, what is in flight, what the server has said.

Resend rule: nothing is remembered across connections but what the buffer knows to be acknowledged; a new connection
starts from the server's word in Welcome. So a batch may be sent twice, never zero times.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence

from gateway.buffer.buffer import Buffer, SealedBatch
from protos.comboio.v1 import batch_pb2 as pb
from protos.comboio.v1 import link_pb2 as wire
from protos.ranges import Ranges

ORDER = (pb.URGENT, pb.TELEMETRY)
IDLE_WAIT_S = 1.0
Write = Callable[[wire.Uplink], Awaitable[None]]


class Sender:
    """Sends what is leased, within the window. `progress` counts acknowledged batches."""

    def __init__(self, *, buffer: Buffer, write: Write, window: int, known_schema: int) -> None:
        self._buffer = buffer
        self._write = write
        self.window = window
        self._known_schema = known_schema
        self._declared: set[int] = set()
        self._position = dict.fromkeys(ORDER, 0)
        self._in_flight: dict[tuple[int, int], None] = {}
        self._room = asyncio.Event()
        self._asked = asyncio.Event()
        self._repeat_declares = False
        self._wanted: list[int] = []
        self.sent_batches = self.acked_batches = self.sent_bytes = 0

    @property
    def in_flight(self) -> int:
        return len(self._in_flight)

    async def run(self) -> None:
        """Send for ever; ends only by cancellation or a failing write."""
        while True:
            if self._asked.is_set():
                self._asked.clear()
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
        """Until there is more to send, or something to say again."""
        waits = [
            asyncio.ensure_future(self._buffer.wait_sealed(IDLE_WAIT_S)),
            asyncio.ensure_future(self._asked.wait()),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waits:
                one.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def _send_some(self) -> bool:
        """Fill the window; False when there is nothing to send."""
        for lane in ORDER:
            room = self.window - len(self._in_flight)
            if room <= 0:
                self._room.clear()
                await self._room.wait()
                return True
            batches = await self._buffer.lease(lane, self._position[lane], room)
            if batches:
                await self._declare(batches)
                for batch in batches:
                    await self._send(batch)
                return True
        return False

    async def _declare(self, batches: Sequence[SealedBatch]) -> None:
        unknown = {b.schema for b in batches if b.schema > self._known_schema} - self._declared
        if not unknown:
            return
        for declare in await self._buffer.schemas():
            if declare.schema in unknown:
                await self._write(wire.Uplink(declare=declare))
                self._declared.add(declare.schema)

    async def _send(self, batch: SealedBatch) -> None:
        self._in_flight[batch.lane, batch.seq] = None
        self._position[batch.lane] = batch.seq
        await self._write(wire.Uplink(batch=batch.envelope(self._buffer.opening.epoch)))
        self.sent_batches += 1
        self.sent_bytes += len(batch.body)

    async def acknowledged(self, lanes: Sequence[wire.LaneReceived]) -> None:
        """The server holds these durably."""
        for said in lanes:
            received = Ranges((r.first, r.last) for r in said.above)
            if said.acked:
                received.add(1, said.acked)
            await self._buffer.ack(said.lane, received)
            done = [key for key in self._in_flight if key[0] == said.lane and key[1] in received]
            for key in done:
                self._landed(key)
            self.acked_batches += len(done)

    async def rejected(self, reject: wire.Reject) -> None:
        """The server refused one batch for good."""
        await self._buffer.reject(reject.lane, reject.seq, reject.reason)
        self._landed((reject.lane, reject.seq))

    def repeat_declares(self) -> None:
        """The server misses a schema: say them all again, then what is not acknowledged."""
        self._repeat_declares = True
        self._asked.set()
        self._room.set()

    def supply(self, names: Iterable[int]) -> None:
        """The server misses dictionaries: send those, then what is not acknowledged."""
        self._wanted += [name for name in names if name not in self._wanted]
        self._asked.set()
        self._room.set()

    def restart(self) -> None:
        """Offer everything unacknowledged again."""
        self._in_flight.clear()
        self._position = dict.fromkeys(ORDER, 0)
        self._room.set()

    def _landed(self, key: tuple[int, int]) -> None:
        self._in_flight.pop(key, None)
        self._room.set()
