"""A port of this box's own whose connections leave by one interface or from one address, every byte counted.

gRPC can be told neither, so it connects here. TLS passes through unopened: the far end is still proved to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from protos.config import Via

LOCAL = "127.0.0.1"
CONNECT_WITHIN_S = 15.0
_CHUNK = 65536

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def host_port(address: str) -> tuple[str, int]:
    """The parts of HOST:PORT; an IPv6 address stands in brackets. Raises ValueError."""
    host, _, port = address.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


async def reach(address: str, via: Via) -> Streams:
    """Connect to HOST:PORT by that way. Raises OSError, and TimeoutError, which is one."""
    host, port = host_port(address)
    async with asyncio.timeout(CONNECT_WITHIN_S):
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        error: OSError = OSError(f"{host} has no address")
        for family, kind, protocol, _, target in found:
            try:
                return await _connected(socket.socket(family, kind, protocol), target, via)
            except OSError as said:
                error = said
        raise error


async def _connected(sock: socket.socket, target: object, via: Via) -> Streams:
    try:
        sock.setblocking(False)
        if via.interface:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, via.interface.encode())
        if via.source:
            sock.bind((via.source, 0))
        await asyncio.get_running_loop().sock_connect(sock, target)  # type: ignore[arg-type]  # as getaddrinfo has it
        return await asyncio.open_connection(sock=sock)
    except BaseException:
        sock.close()
        raise


@asynccontextmanager
async def tunnel(
    address: str, via: Via, *, carried: Callable[[int], None], unreachable: Callable[[OSError], None]
) -> AsyncIterator[int]:
    """Listen on loopback while inside; yields the port. `carried` is told of bytes, either way."""
    running: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        try:
            await _joined((reader, writer), await reach(address, via), carried)
        except OSError as error:
            unreachable(error)
        except asyncio.CancelledError:
            pass  # the server would report a cancelled handler as an error
        finally:
            writer.transport.abort()
            running.discard(task)

    server = await asyncio.start_server(accept, LOCAL, 0)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()
        for task in list(running):
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await server.wait_closed()


async def _joined(near: Streams, far: Streams, carried: Callable[[int], None]) -> None:
    """Pass bytes both ways until either end breaks."""
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_pass(near[0], far[1], carried), name="tunnel.up")
            group.create_task(_pass(far[0], near[1], carried), name="tunnel.down")
    except* OSError:
        pass  # whoever waits for an answer sees a closed connection
    finally:
        far[1].transport.abort()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, carried: Callable[[int], None]) -> None:
    while data := await reader.read(_CHUNK):
        carried(len(data))
        writer.write(data)
        await writer.drain()
    with contextlib.suppress(OSError):
        writer.write_eof()
