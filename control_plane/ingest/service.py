"""The Link service on grpc.aio: who is there, Hello and Welcome, then one reader and one acker per stream."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping

import grpc
import structlog
from google.protobuf.message import DecodeError

from control_plane.clock import Clock
from control_plane.ingest.session import Goodbye, Send, Session, welcome
from control_plane.ingest.turnstile import STAYS_S
from control_plane.ingest.writer import Writer
from control_plane.journal.epochs import SUSPECTED
from control_plane.journal.journal import MAX_SEQ, Journal, SessionStart
from protos.comboio.v1 import batch_pb2 as pb
from protos.comboio.v1 import link_pb2 as wire

METHOD_SERVICE = "comboio.v1.Link"
HELLO_TIMEOUT_S = 20.0
DRAIN_RETURN_MS = 1000
CLOSE_WITHIN_S = 5.0
GOODBYE_WITHIN_S = 1.0
MOST_OPENING = 100
"""A disk slower than the turnstile: whoever waits for longer than his patience comes again, and is opened twice."""
OPENING_RETURN_S = 3.0
CLONE_RETURN_MS = 60_000
RETURN_PER_S = 250
"""Gateways sent away together come back at this rate: a TLS handshake costs a millisecond or two of CPU."""
URN = "urn:comboio:gateway:"
MAX_INT64 = (1 << 63) - 1

log = structlog.get_logger("control_plane.ingest")
Context = grpc.aio.ServicerContext[bytes, bytes]


class LinkService:
    """All streams of this process.

    `admit(gateway, serial)` returns why a peer may not come in, or None; `released(gateway)` which suspicion of a clone
    an administrator has settled, by its time; it may block.
    """

    def __init__(
        self,
        *,
        journal: Journal,
        writer: Writer,
        clock: Clock,
        limits: wire.Limits,
        pace: wire.Pace,
        admit: Callable[[str, int], str | None],
        odd: Callable[[str, str], None] = lambda _gateway, _note: None,
        released: Callable[[str], int | None] = lambda _gateway: None,
        turn: Callable[[str], float] = lambda _gateway: 0.0,
        take: Callable[[str, int], tuple[float, str]] = lambda _gateway, _size: (0.0, ""),
    ) -> None:
        self.moved: Callable[[str], None] = lambda _: None
        """Told of each gateway that greets, or says that something else runs now."""
        self.greeted: Callable[[str], None] = lambda _: None
        """Told of each gateway that greets."""
        self.answered: Callable[[str, wire.CommandResult], None] = lambda _gateway, _result: None
        """Told what a gateway says of a command that it does not take."""
        self._journal = journal
        self._writer = writer
        self._clock = clock
        self._limits = limits
        self._pace = pace
        self._admit = admit
        self._odd = odd
        self._released = released
        self._turn = turn
        self._take = take
        self._sessions: dict[str, Session] = {}
        self._serials: dict[str, int] = {}
        self._opening = 0
        self._crc_seen: dict[tuple[str, int, int, int], int] = {}

    def handlers(self) -> grpc.GenericRpcHandler:
        method: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(
            self.connect
        )  # raw bytes: parsed in the session's own time
        return grpc.method_handlers_generic_handler(METHOD_SERVICE, {"Connect": method})

    @property
    def sessions(self) -> Mapping[str, Session]:
        """The newest stream of each gateway connected here."""
        return self._sessions

    @property
    def connected(self) -> int:
        return len(self._sessions)

    def revoke(self, gateways: set[str]) -> None:
        """End the streams of these gateways at once."""
        for gateway in gateways & self._sessions.keys():
            self._sessions[gateway].end(Goodbye(wire.GOODBYE_REVOKED, "this gateway's certificate was revoked"))

    def recheck(self) -> None:
        """Ask `admit` again for every stream, after revocations were read."""
        out = {gateway for gateway, serial in self._serials.items() if self._admit(gateway, serial)}
        self.revoke(out)

    def drain(self) -> None:
        """Send everyone away for a moment, each for another one: this process is about to end."""
        for number, session in enumerate(self._sessions.values()):
            after_ms = DRAIN_RETURN_MS + 1000 * number // RETURN_PER_S
            session.end(Goodbye(wire.GOODBYE_DRAINING, "this server is restarting", return_after_ms=after_ms))

    async def connect(self, _requests: AsyncIterator[bytes], context: Context) -> None:
        gateway, serial = peer(context)
        refusal = self._admit(gateway, serial)
        if refusal is not None:
            log.warning("stream.refused", gateway=gateway, why=refusal)
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, refusal)

        async def send(message: wire.Downlink) -> None:
            await context.write(message.SerializeToString())

        try:
            async with asyncio.timeout(HELLO_TIMEOUT_S):
                hello = _hello(_parse(await context.read()))
        except TimeoutError:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "no Hello came")
        except Goodbye as goodbye:
            await send(wire.Downlink(goodbye=goodbye.message))
            return
        wait_s = self._turn(gateway) if self._opening < MOST_OPENING else OPENING_RETURN_S
        if wait_s > STAYS_S:
            busy = Goodbye(wire.GOODBYE_DRAINING, "many gateways come at once", return_after_ms=round(wait_s * 1000))
            await send(wire.Downlink(goodbye=busy.message))
            return
        await asyncio.sleep(wait_s)
        self._opening += 1
        try:
            start = await self._open(gateway, hello)
        except Exception as error:
            log.error("session.unopened", gateway=gateway, error=str(error).splitlines()[0])
            sorry = Goodbye(wire.GOODBYE_STORAGE, "the journal can't be written", return_after_ms=2000)
            await send(wire.Downlink(goodbye=sorry.message))
            return
        finally:
            self._opening -= 1
        if start.paused_ms is not None:
            await send(wire.Downlink(goodbye=self._suspect(gateway, start).message))
            return
        if start.new_epoch:
            await self._order_epoch(gateway, start, context, send)
            return
        session = self._begin(gateway, serial, hello, start)
        log.info("stream.open", gateway=gateway, session=start.session)
        try:
            now_ms = self._clock.now_ms()
            greeting = welcome(start, limits=self._limits, pace=self._pace, now_ms=now_ms)
            await send(wire.Downlink(welcome=greeting))
            self.moved(gateway)
            self.greeted(gateway)
            await self._converse(session, context, send)
        finally:
            session.left()
            if self._sessions.get(gateway) is session:
                del self._sessions[gateway], self._serials[gateway]

    async def _open(self, gateway: str, hello: wire.Hello) -> SessionStart:
        now_ms = self._clock.now_ms()
        start = await self._writer.call(lambda: self._journal.open_session(gateway, hello, now_ms=now_ms))
        if start.paused_ms is not None:
            settled = await asyncio.to_thread(self._released, gateway)
            if settled == start.paused_ms:
                start = await self._writer.call(
                    lambda: self._journal.open_session(gateway, hello, now_ms=now_ms, released_ms=settled)
                )
        if start.note:
            log.error("integrity.store", gateway=gateway, note=start.note)
            self._odd(gateway, start.note)
        return start

    def _suspect(self, gateway: str, start: SessionStart) -> Goodbye:
        """Two boxes: whichever is connected goes too."""
        text = f"{SUSPECTED} ({start.note}): nothing is taken of either until an administrator releases it"
        goodbye = Goodbye(wire.GOODBYE_CLONE_SUSPECTED, text, return_after_ms=CLONE_RETURN_MS)
        if (older := self._sessions.get(gateway)) is not None:
            older.end(goodbye)
        return goodbye

    async def _order_epoch(self, gateway: str, start: SessionStart, context: Context, send: Send) -> None:
        """Say what is held, and leave the rest to the store; whatever else it says on this stream is not taken."""
        self._fence(gateway)
        greeting = welcome(start, limits=self._limits, pace=self._pace, now_ms=self._clock.now_ms())
        log.warning("epoch.ordered", gateway=gateway, why=start.note)
        await send(wire.Downlink(welcome=greeting))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_WITHIN_S):
                while isinstance(await context.read(), bytes):
                    pass

    def _begin(self, gateway: str, serial: int, hello: wire.Hello, start: SessionStart) -> Session:
        session = Session(
            gateway=gateway,
            hello=hello,
            start=start,
            limits=self._limits,
            writer=self._writer,
            clock=self._clock,
            crc_seen=self._crc_seen,
            take=self._take,
            moved=self._moved,
            answered=self.answered,
        )
        self._fence(gateway)
        self._sessions[gateway] = session
        self._serials[gateway] = serial
        return session

    def _fence(self, gateway: str) -> None:
        """The newest Hello wins."""
        if (older := self._sessions.get(gateway)) is not None:
            older.end(Goodbye(wire.GOODBYE_FENCED, "a newer connection of this gateway took over"))

    def _moved(self, gateway: str) -> None:
        self.moved(gateway)

    async def _converse(self, session: Session, context: Context, send: Send) -> None:
        acks = asyncio.ensure_future(session.acks(send))
        reads = asyncio.ensure_future(self._read(session, context))
        stuck = asyncio.ensure_future(self._stuck(session))
        try:
            await asyncio.wait((acks, reads, stuck), return_when=asyncio.FIRST_COMPLETED)
            for task in (reads, acks, stuck):
                if task.done():
                    task.result()
        except Goodbye as goodbye:
            session.why = str(goodbye)
            log.info("stream.goodbye", gateway=session.gateway, why=session.why)
            with contextlib.suppress(asyncio.CancelledError):
                acks.cancel()
                await asyncio.wait((acks,))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GOODBYE_WITHIN_S):
                    await send(wire.Downlink(goodbye=goodbye.message))
        else:
            session.why = "the gateway ended the connection"
        finally:
            for task in (reads, acks, stuck):
                task.cancel()
            await asyncio.gather(reads, acks, stuck, return_exceptions=True)

    async def _stuck(self, session: Session) -> None:
        """A gateway that reads nothing can't keep its stream open: acks would wait for it, and say no goodbye."""
        goodbye = await session.ended()
        await asyncio.sleep(GOODBYE_WITHIN_S)
        raise goodbye

    async def _read(self, session: Session, context: Context) -> None:
        while isinstance(raw := await context.read(), bytes):
            await session.receive(_parse(raw))


def peer(context: Context) -> tuple[str, int]:
    """(gateway id, certificate serial) of a verified peer; ("", 0) if its certificate names no gateway."""
    from cryptography import x509  # noqa: PLC0415 - once per stream

    facts = context.auth_context()
    names = [name.decode() for name in facts.get("x509_subject_alternative_name", ())]
    gateway = next((name.removeprefix(URN) for name in names if name.startswith(URN)), "")
    pem = next(iter(facts.get("x509_pem_cert", ())), b"")
    serial = x509.load_pem_x509_certificate(pem).serial_number if pem else 0
    return gateway, serial


def _parse(raw: object) -> wire.Uplink:
    if not isinstance(raw, bytes):
        raise Goodbye(wire.GOODBYE_PROTOCOL, "the stream ended before Hello")
    try:
        return wire.Uplink.FromString(raw)
    except DecodeError:
        raise Goodbye(wire.GOODBYE_PROTOCOL, "a message that is not an Uplink") from None


def _hello(message: wire.Uplink) -> wire.Hello:
    if message.WhichOneof("msg") != "hello":
        raise Goodbye(wire.GOODBYE_PROTOCOL, "the first message must be Hello")
    hello = message.hello
    if hello.protocol != 1:
        raise Goodbye(wire.GOODBYE_PROTOCOL, f"protocol {hello.protocol} is not spoken here; 1 is")
    if len(hello.run_id) != 16 or len(hello.boot_id) != 16:
        raise Goodbye(wire.GOODBYE_PROTOCOL, "run_id and boot_id are 16 bytes each")
    if any(lane.lane not in pb.Lane.values() for lane in hello.lanes):
        raise Goodbye(wire.GOODBYE_PROTOCOL, "Hello names a lane that does not exist")
    if hello.opens > MAX_INT64 or any(lane.next_seq > MAX_SEQ for lane in hello.lanes):
        raise Goodbye(wire.GOODBYE_PROTOCOL, "Hello counts further than any store can have come")
    if hello.last_session > MAX_INT64 or not _sound(hello):
        raise Goodbye(wire.GOODBYE_PROTOCOL, "what Hello says of the epoch before can't be")
    return hello


def _sound(hello: wire.Hello) -> bool:
    """Seqs that moved come from another epoch, each once, in their order."""
    if hello.moved and hello.predecessor_epoch in {0, hello.epoch}:
        return False
    for said in hello.moved:
        if said.lane not in pb.Lane.values() or said.agreed > MAX_SEQ:
            return False
        if not _ascending(said.seqs) or not _ascending(said.replaced):
            return False
    return True


def _ascending(ranges: Iterable[pb.Range]) -> bool:
    last = 0
    for one in ranges:
        if not last < one.first <= one.last <= MAX_SEQ:
            return False
        last = one.last
    return True
