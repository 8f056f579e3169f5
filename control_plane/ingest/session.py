"""One gateway's stream: checks envelopes, hands them to the writer, acknowledges what commits held.

Nothing is decoded here. Rules of an envelope: its epoch is the Hello's, its schema and its dictionary are known (else
asked for), its sizes are within the limits and its crc is that of the body as carried. No number passes that a column
can't hold: it would fail the commit of everyone in the same group.
"""

from __future__ import annotations

import asyncio
import zlib
from collections import deque
from collections.abc import Awaitable, Callable, Collection

import structlog

from control_plane.clock import Clock
from control_plane.ingest.accept import Lane
from control_plane.ingest.writer import Writer
from control_plane.journal.journal import (
    MAX_SEQ,
    BatchEntry,
    DeclareEntry,
    DictionaryEntry,
    DuplicateEntry,
    EffectiveEntry,
    Entry,
    HeartbeatEntry,
    LaneMark,
    OfferEntry,
    PresenceEntry,
    RejectEntry,
    SessionStart,
    StatusEntry,
)
from protos.columns import MAX_COUNT, MAX_TIME_MS, BodyError, Dictionary, dictionary_id
from protos.comboio.v1 import batch_pb2 as pb
from protos.comboio.v1 import link_pb2 as wire

MAX_INT64 = (1 << 63) - 1
MAX_REASON = (1 << 31) - 1
MAX_DOCUMENT_BYTES = 1 << 20
MAX_DICTIONARIES = 4096
HASH_BYTES = (0, 32)
MOST_TO_SAY = 16
HELD_MOST_S = 5.0
"""Its alarms come by the same stream, and without an ack for long it would think the link broken."""
HEARD_EVERY_MS = 5_000
"""The journal learns at most this often that a gateway still speaks."""

log = structlog.get_logger("control_plane.ingest")
Send = Callable[[wire.Downlink], Awaitable[None]]


class Goodbye(Exception):  # noqa: N818 - it is what is said
    """End this stream, saying why."""

    def __init__(self, reason: wire.GoodbyeReason.ValueType, text: str, *, return_after_ms: int = 0) -> None:
        super().__init__(text)
        self.message = wire.Goodbye(reason=reason, text=text, return_after_ms=return_after_ms)


class Session:
    """One stream after its Welcome. `receive` for each message, `acks()` as a task beside it."""

    def __init__(
        self,
        *,
        gateway: str,
        hello: wire.Hello,
        start: SessionStart,
        limits: wire.Limits,
        writer: Writer,
        clock: Clock,
        crc_seen: dict[tuple[str, int, int, int], int],
        take: Callable[[str, int], tuple[float, str]] = lambda _gateway, _size: (0.0, ""),
        moved: Callable[[str], None] = lambda _: None,
        answered: Callable[[str, wire.CommandResult], None] = lambda _gateway, _result: None,
    ) -> None:
        self.gateway = gateway
        self.number = start.session
        self.why = "the connection broke"
        """Why it ended, once it has."""
        self._epoch = hello.epoch
        self._limits = limits
        self._own_pace = wire.Pace(window=limits.max_inflight)
        self._writer = writer
        self._clock = clock
        self._crc_seen = crc_seen
        self._schemas = set(start.schemas)
        self._lanes = {n: Lane(gateway, hello.epoch, n, mark) for n, mark in start.lanes.items()}
        self._durable: dict[int, LaneMark] = {}
        self._rejects: list[wire.Reject] = []
        self._need_schema = False
        self._dictionaries = set(start.dictionaries)
        self._named = set(hello.dictionaries)
        self._need_dictionaries: list[int] = []
        self._asked: set[int] = set()
        self.takes_dictionaries = pb.CODEC_ZSTD_DICT in hello.codecs
        self._wake = asyncio.Event()
        self._ended: Goodbye | None = None
        self._over = asyncio.Event()
        self._heard_ms = clock.now_ms()
        self._noted_ms = 0
        self._beat: bytes | None = None
        self._news: bytes | None = None
        self._moved = moved
        self._quota = take
        self._paced = ""
        self._pace_news: str | None = None
        self._answered = answered
        self._to_say: deque[wire.Downlink] = deque(maxlen=MOST_TO_SAY)
        self.running = hello.running
        """What the gateway runs by its newest word."""
        self.offered = 0
        """The generation offered on this stream, and when."""
        self.offered_ms = 0

    # --- news from the writer, in the event loop -------------------------------------------------------

    def committed(self, entries: list[Entry], *, fenced: bool) -> None:
        if fenced:
            self.end(Goodbye(wire.GOODBYE_FENCED, "a newer connection of this gateway took over"))
            return
        for entry in entries:
            if isinstance(entry, BatchEntry | DuplicateEntry | RejectEntry):
                self._durable[entry.mark.lane] = entry.mark
            if isinstance(entry, RejectEntry):
                self._rejects.append(entry.reject)
            if isinstance(entry, StatusEntry):
                self._moved(self.gateway)  # only now can be read what it said
        self._wake.set()

    def failed(self, why: str) -> None:
        self.end(Goodbye(wire.GOODBYE_STORAGE, f"the journal can't be written: {why}", return_after_ms=2000))

    def end(self, goodbye: Goodbye) -> None:
        """Have `acks` say goodbye and stop; the first reason stays."""
        self._ended = self._ended or goodbye
        self._over.set()
        self._wake.set()

    async def ended(self) -> Goodbye:
        """Why, once it is known."""
        await self._over.wait()
        assert self._ended is not None
        return self._ended

    def left(self) -> None:
        """The stream is over; the last thing to be said of it."""
        self._writer.put_last(self, self._heard(left_ms=self._clock.now_ms(), why=self.why))

    def tell(self, message: wire.Downlink) -> None:
        """Have `acks` send this too."""
        self._to_say.append(message)
        self._wake.set()

    async def offer_made(self, generation: int, name: bytes, now_ms: int) -> None:
        self.offered, self.offered_ms = generation, now_ms
        await self._put(OfferEntry(self.gateway, self.number, generation, name, now_ms))

    async def acks(self, send: Send) -> None:
        """Say what commits held, cumulatively, until the stream ends; then raise its Goodbye."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            durable, self._durable = self._durable, {}
            rejects, self._rejects = self._rejects, []
            need, self._need_schema = self._need_schema, False
            names, self._need_dictionaries = self._need_dictionaries, []
            if durable or need or names:
                lanes = [received(mark) for mark in durable.values()]
                ack = wire.Ack(epoch=self._epoch, lanes=lanes, need_schema=need, need_dictionaries=names)
                await send(wire.Downlink(ack=ack))
            for reject in rejects:
                await send(wire.Downlink(reject=reject))
            while self._to_say and not self._ended:
                await send(self._to_say.popleft())
            if self._ended:
                raise self._ended

    # --- what the gateway says -------------------------------------------------------------------------

    async def receive(self, message: wire.Uplink) -> None:
        """Take one message; raises `Goodbye` for what breaks the protocol, and once the stream was ended."""
        if self._ended:
            raise self._ended
        self._heard_ms = self._clock.now_ms()
        await self._take(message)
        if self._heard_ms - self._noted_ms >= HEARD_EVERY_MS:
            self._noted_ms = self._heard_ms
            await self._put(self._heard())

    async def _take(self, message: wire.Uplink) -> None:
        kind = message.WhichOneof("msg")
        if kind == "batch":
            await self._batch(message.batch)
        elif kind == "declare":
            await self._declare(message.declare)
        elif kind == "dictionary":
            await self._dictionary(message.dictionary)
        elif kind == "heartbeat":
            await self._heartbeat(message.heartbeat)
        elif kind == "config_status":
            await self._status(message.config_status)
        elif kind == "effective_config":
            await self._effective(message.effective_config)
        elif kind == "command_result":
            self._answered(self.gateway, message.command_result)
        elif kind == "hello":
            raise Goodbye(wire.GOODBYE_PROTOCOL, "Hello comes once, as the first message")
        elif kind is None:
            raise Goodbye(wire.GOODBYE_PROTOCOL, "a message without content")
        else:
            log.debug("uplink.ignored", gateway=self.gateway, kind=kind)

    async def _declare(self, declare: pb.Declare) -> None:
        self._same_epoch(declare.epoch)
        self._schemas.add(declare.schema)
        await self._put(DeclareEntry(self.gateway, self.number, declare, self._clock.now_ms()))

    async def _dictionary(self, said: wire.Dictionary) -> None:
        """One that was asked for; what a batch names is durable with it at the latest."""
        try:
            held = Dictionary(said.data, said.sha256)
        except BodyError as error:
            raise Goodbye(wire.GOODBYE_PROTOCOL, str(error)) from None
        if held.id not in self._asked:
            raise Goodbye(wire.GOODBYE_PROTOCOL, f"dictionary {held.id:08x} was not asked for")
        self._asked.discard(held.id)
        self._dictionaries.add(held.id)
        log.warning("dictionary.recovered", gateway=self.gateway, dictionary=f"{held.id:08x}")
        await self._put(DictionaryEntry(self.gateway, self.number, said, self._clock.now_ms()))

    def has(self, name: int) -> bool:
        """The gateway names this dictionary, or was sent it on this stream."""
        return name in self._named

    def issue(self, said: wire.Dictionary) -> None:
        """Have `acks` send a dictionary that is stored."""
        name = dictionary_id(said.sha256)
        self._dictionaries.add(name)
        self._named.add(name)
        self.tell(wire.Downlink(dictionary=said))

    async def _heartbeat(self, heartbeat: wire.Heartbeat) -> None:
        for said in heartbeat.lanes:
            if said.seq > MAX_SEQ or said.complete_to.mono_ms >= MAX_TIME_MS or said.lane not in pb.Lane.values():
                raise Goodbye(wire.GOODBYE_PROTOCOL, "a heartbeat is out of range")
        if heartbeat.lanes:
            entry = HeartbeatEntry(self.gateway, self.number, self._epoch, list(heartbeat.lanes), self._clock.now_ms())
            await self._put(entry)
        self._beat = heartbeat.SerializeToString()
        if heartbeat.HasField("running"):
            self._runs(heartbeat.running)

    def _runs(self, running: wire.RunningConfig) -> None:
        if running != self.running:
            self._noted_ms = 0  # worth noting at once
            self.running = running
            self._moved(self.gateway)
        self._news = running.SerializeToString()

    async def _status(self, status: wire.ConfigStatus) -> None:
        if status.generation > MAX_INT64 or status.retry_at_ms >= MAX_TIME_MS or len(status.hash) not in HASH_BYTES:
            raise Goodbye(wire.GOODBYE_PROTOCOL, "a configuration status is out of range")
        if status.reason > MAX_REASON:
            raise Goodbye(wire.GOODBYE_PROTOCOL, "a configuration status is out of range")
        await self._put(StatusEntry(self.gateway, self.number, status, self._clock.now_ms()))
        if status.HasField("running"):
            self._runs(status.running)

    async def _effective(self, effective: wire.EffectiveConfig) -> None:
        hashes = (effective.pushed_hash, effective.local_hash)
        if len(effective.body) > MAX_DOCUMENT_BYTES or any(len(name) not in HASH_BYTES for name in hashes):
            raise Goodbye(wire.GOODBYE_PROTOCOL, "the effective configuration is out of range")
        await self._put(EffectiveEntry(self.gateway, self.number, effective, self._clock.now_ms()))

    def _heard(self, *, left_ms: int | None = None, why: str | None = None) -> PresenceEntry:
        beat, self._beat = self._beat, None
        running, self._news = self._news, None
        paced, self._pace_news = self._pace_news, None
        return PresenceEntry(self.gateway, self.number, self._heard_ms, beat, running, left_ms, why, paced)

    async def _batch(self, batch: pb.Batch) -> None:
        self._same_epoch(batch.epoch)
        if not 0 < batch.seq <= MAX_SEQ:
            raise Goodbye(wire.GOODBYE_PROTOCOL, f"seq {batch.seq} is out of range")
        if batch.complete_mono_ms >= MAX_TIME_MS:
            raise Goodbye(wire.GOODBYE_PROTOCOL, f"complete_mono_ms {batch.complete_mono_ms} is out of range")
        if batch.schema not in self._schemas:
            self._need_schema = True
            self._wake.set()
            return
        if batch.codec == pb.CODEC_ZSTD_DICT and batch.dictionary not in self._dictionaries:
            self._ask(batch.dictionary)
            return
        refusal = self._refusal(batch)
        if refusal is not None:
            await self._refuse(batch, *refusal)
            return
        lane = self._lane(batch.lane)
        new = lane.accept(batch.seq)
        make = BatchEntry if new else DuplicateEntry
        await self._put(make(self.gateway, self.number, batch, self._clock.now_ms(), lane.mark()))
        await self._hold(*self._quota(self.gateway, len(batch.body)))

    async def _hold(self, over_s: float, why: str) -> None:
        """Tell a gateway that sends too much to send one at a time, and read no faster than it may send."""
        if why != self._paced:
            self._paced = self._pace_news = why
            self._noted_ms = 0  # worth noting at once
            pace = wire.Pace(window=1, pause_ms=round(HELD_MOST_S * 1000)) if why else self._own_pace
            self.tell(wire.Downlink(pace=pace))
            log.warning("stream.paced" if why else "stream.unpaced", gateway=self.gateway, why=why)
        if over_s:
            await asyncio.sleep(min(over_s, HELD_MOST_S))

    def _ask(self, name: int) -> None:
        """Once per stream: the gateway then sends the dictionary, or records as lost what nobody can read."""
        if name in self._asked:
            return
        if len(self._dictionaries) + len(self._asked) >= MAX_DICTIONARIES:
            raise Goodbye(wire.GOODBYE_PROTOCOL, f"{MAX_DICTIONARIES} dictionaries are held for this gateway")
        self._asked.add(name)
        self._need_dictionaries.append(name)
        self._wake.set()

    def _refusal(self, batch: pb.Batch) -> tuple[wire.RejectCode.ValueType, str] | None:
        if batch.body_len > self._limits.max_body_bytes or len(batch.body) > self._limits.max_body_bytes:
            text = f"body of {batch.body_len} bytes ({len(batch.body)} carried) is over {self._limits.max_body_bytes}"
            return wire.REJECT_OVER_LIMIT, text
        if batch.count > MAX_COUNT:
            return wire.REJECT_OVER_LIMIT, f"{batch.count} readings are over {MAX_COUNT}"
        if zlib.crc32(batch.body) == batch.crc32:
            return None
        key = (self.gateway, batch.epoch, int(batch.lane), batch.seq)
        times = self._crc_seen.pop(key, 0) + 1
        if times < 2:
            if len(self._crc_seen) > 10_000:
                self._crc_seen.clear()
            self._crc_seen[key] = times
            raise Goodbye(wire.GOODBYE_PROTOCOL, f"crc of lane {batch.lane} seq {batch.seq} is wrong; send it again")
        return wire.REJECT_CRC, "crc wrong twice"

    async def _refuse(self, batch: pb.Batch, code: wire.RejectCode.ValueType, reason: str) -> None:
        lane = self._lane(batch.lane)
        lane.accept(batch.seq)
        reject = wire.Reject(epoch=batch.epoch, lane=batch.lane, seq=batch.seq, code=code, reason=reason)
        log.warning("batch.rejected", gateway=self.gateway, lane=batch.lane, seq=batch.seq, reason=reason)
        await self._put(RejectEntry(self.gateway, self.number, reject, self._clock.now_ms(), lane.mark()))

    async def _put(self, entry: Entry) -> None:
        await self._writer.put(self, entry)

    def _lane(self, number: int) -> Lane:
        lane = self._lanes.get(number)
        if lane is None:
            if number not in pb.Lane.values():
                raise Goodbye(wire.GOODBYE_PROTOCOL, f"there is no lane {number}")
            lane = self._lanes[number] = Lane(self.gateway, self._epoch, number)
        return lane

    def _same_epoch(self, epoch: int) -> None:
        if epoch != self._epoch:
            raise Goodbye(wire.GOODBYE_PROTOCOL, f"epoch {epoch:08x} is not that of Hello ({self._epoch:08x})")


def received(mark: LaneMark) -> wire.LaneReceived:
    above = [pb.Range(first=first, last=last) for first, last in mark.above]
    return wire.LaneReceived(lane=pb.Lane.ValueType(mark.lane), acked=mark.cum, above=above, max_seen=mark.max_seen)


def welcome(start: SessionStart, *, limits: wire.Limits, pace: wire.Pace, now_ms: int) -> wire.Welcome:
    return wire.Welcome(
        session=start.session,
        lanes=[received(mark) for mark in start.lanes.values()],
        new_epoch=start.new_epoch,
        schema=_contiguous(start.schemas),
        server_ms=now_ms,
        limits=limits,
        pace=pace,
    )


def _contiguous(schemas: Collection[int]) -> int:
    """The newest schema such that none below it is missing; the gateway declares everything above."""
    newest = 0
    while newest + 1 in schemas:
        newest += 1
    return newest
