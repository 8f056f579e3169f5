"""A network that can be broken: a TCP proxy between two programs.

States: passing; cut (connections closed with RST, new ones refused); black hole (everything stays open, nothing
passes, and what was written meanwhile passes later, as TCP's own retransmission would have it), both ways or one way
only. Slowness, pieces of a few bytes and a reset after N bytes apply while passing. Acknowledgements lost by a hole in
one direction and then a reset make the sender repeat what had arrived: that is how duplicates come about.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct

_CHUNK = 65536
UP, DOWN = "up", "down"
"""From who connects to who is connected to, and back."""


class LinkProxy:
    """Life cycle: `start`, then faults in any order, then `close`."""

    def __init__(self, *, to: tuple[str, int]) -> None:
        self.port = 0
        """Chosen by `start`, kept over `cut` and `restore`."""
        self.passed_bytes = 0
        self._to = to
        self._host = "127.0.0.1"
        self._server: asyncio.Server | None = None
        self._pairs: dict[asyncio.Task[None], tuple[asyncio.StreamWriter, ...]] = {}
        self._open = {way: asyncio.Event() for way in (UP, DOWN)}
        for passing in self._open.values():
            passing.set()
        self._piece_bytes = _CHUNK
        self._bytes_per_s: float | None = None
        self._delay_s = 0.0
        self._reset_in: int | None = None

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> int:
        """Listen; returns the port chosen."""
        self._host = host
        self._server = await asyncio.start_server(self._accept, host, port)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self.port

    async def close(self) -> None:
        await self.cut()

    async def cut(self) -> None:
        """Reset every connection and refuse new ones."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        await self._end_all()
        if server is not None:
            await server.wait_closed()

    def black_hole(self, *ways: str) -> None:
        """Keep everything open and pass nothing, of UP and DOWN in these directions; of none: in both."""
        for way in ways or self._open:
            self._open[way].clear()

    def slow(self, *, bytes_per_s: float | None = None, delay_s: float = 0.0) -> None:
        """Pace each direction of each connection; `delay_s` is added to every piece read. None and 0: full speed."""
        if (bytes_per_s is not None and bytes_per_s <= 0) or delay_s < 0:
            raise ValueError("bytes_per_s is above 0, delay_s not below")
        self._bytes_per_s, self._delay_s = bytes_per_s, delay_s

    def trickle(self, piece_bytes: int) -> None:
        """Pass what comes in pieces of so many bytes, each in a segment of its own."""
        if piece_bytes <= 0:
            raise ValueError("a piece has at least one byte")
        self._piece_bytes = piece_bytes

    def reset_after(self, size: int) -> None:
        """Pass `size` more bytes in all, either way, then reset the connection that carried the last."""
        if size < 0:
            raise ValueError("bytes are not below 0")
        self._reset_in = size

    async def restore(self) -> None:
        """Pass everything at full speed again, on the same port."""
        for passing in self._open.values():
            passing.set()
        self.slow()
        self._piece_bytes = _CHUNK
        self._reset_in = None
        if self._server is None:
            await self.start(self._host, self.port)

    def status(self) -> str:
        closed = [way for way, passing in self._open.items() if not passing.is_set()]
        hole = "blackhole" if len(closed) == 2 else f"blackhole-{''.join(closed)}"
        state = "cut" if self._server is None else hole if closed else "passing"
        return f"{state} connections={len(self._pairs)} passed={self.passed_bytes}"

    # --- pumping ------------------------------------------------------------------------------------

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._pairs[task] = (writer,)
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._to)
            self._pairs[task] = (writer, far_writer)
            for side in (writer, far_writer):
                side.transport.set_write_buffer_limits(0)  # drained means handed to the kernel: resets are exact
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, far_writer, UP), name="link up")
                group.create_task(self._pump(far_reader, writer, DOWN), name="link down")
        except* (OSError, _Reset):
            pass
        except* asyncio.CancelledError:
            pass  # `cut`: the server would report a cancelled handler as an error
        finally:
            for side in self._pairs.pop(task):
                _reset(side)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: str) -> None:
        passing = self._open[way]
        while data := await reader.read(_CHUNK):
            pause_s = self._delay_s + (len(data) / self._bytes_per_s if self._bytes_per_s else 0.0)
            if pause_s:
                await asyncio.sleep(pause_s)
            await passing.wait()
            if (lost := reader.exception()) is not None:
                raise lost  # reset while nothing passed: nobody would have sent this again
            for start in range(0, len(data), self._piece_bytes):
                await self._pass(data[start : start + self._piece_bytes], writer)
        await passing.wait()
        with contextlib.suppress(OSError):
            writer.write_eof()

    async def _pass(self, data: bytes, writer: asyncio.StreamWriter) -> None:
        allowed = data if self._reset_in is None else data[: self._reset_in]
        writer.write(allowed)
        self.passed_bytes += len(allowed)
        await writer.drain()
        if self._reset_in is not None:
            self._reset_in -= len(allowed)
            if self._reset_in == 0 or len(allowed) < len(data):
                self._reset_in = None
                raise _Reset

    async def _end_all(self) -> None:
        tasks = list(self._pairs)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Reset(Exception):  # noqa: N818 - a signal from a pump to its connection
    pass


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def obey(link: LinkProxy, line: str) -> str:
    """The control port's words.

    cut, restore, blackhole [up|down], slow BYTES_PER_S [DELAY_MS], trickle BYTES, reset-after BYTES, status.
    """
    word, *arguments = line.split() or [""]
    if word == "blackhole":
        if not {UP, DOWN}.issuperset(arguments):
            raise ValueError("a black hole is up, down or, without either, both")
        link.black_hole(*arguments)
        return "ok"
    numbers = [float(argument) for argument in arguments] or [0.0]
    match word:
        case "cut":
            await link.cut()
        case "restore":
            await link.restore()
        case "trickle":
            link.trickle(int(numbers[0]))
        case "slow":
            link.slow(bytes_per_s=numbers[0] or None, delay_s=sum(numbers[1:2]) / 1000.0)
        case "reset-after":
            link.reset_after(int(numbers[0]))
        case "status":
            return link.status()
        case _:
            raise ValueError(f"{word!r} is not one of cut, restore, blackhole, slow, trickle, reset-after, status")
    return "ok"
